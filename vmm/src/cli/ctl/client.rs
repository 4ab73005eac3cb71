//! The client of an API socket: one request, one answer, or a reason that a person can act on.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

/// How long an answer may take: the server itself waits for a pause for ten seconds at most, and a look at all
/// of a large guest's memory takes less.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of an answer; whatever is larger is none of Quire's.
const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is at the path.
    #[error("there is no API socket {}: is `quire run --api-sock {}` running?", path.display(), path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// Something else is at the path.
    #[error("{} is no socket: give --api-sock the path that `quire run --api-sock` was given", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Nobody listens.
    #[error("nobody answers at {}: the VM that made it has ended without removing it", path.display())]
    Nobody {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("no permission for {}: it belongs to user {owner}, so run this as that user, or as root", path.display())]
    Permission {
        /// The path.
        path: PathBuf,
        /// The user's id.
        owner: u32,
    },
    /// The system refused something else.
    #[error("can't reach {}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
    /// The connection ended before there was an answer.
    #[error("the VM ended before it answered")]
    Gone(#[source] hyper::Error),
    /// There was no answer in time.
    #[error("there was no answer from {} within {} seconds", path.display(), PATIENCE.as_secs())]
    Silent {
        /// The path.
        path: PathBuf,
    },
    /// The answer is none that Quire gives.
    #[error("what answers at {} is not quire, or of another version: {why}", path.display())]
    Strange {
        /// The path.
        path: PathBuf,
        /// What is strange about it.
        why: String,
    },
    /// What the server had to say against the request.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Whether it says that a VM which has answered before has ended.
    pub(in crate::cli) fn is_end(&self) -> bool {
        matches!(self, Self::NoSocket { .. } | Self::Nobody { .. } | Self::Gone(_))
    }
}

/// A client of one API socket.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the API at `path`. Nothing has been asked yet.
    ///
    /// # Errors
    /// [`Error::System`] where the host has no file descriptors left.
    pub(in crate::cli) fn new(path: &Path) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| Error::System { path: path.into(), source })?;
        Ok(Self { path: path.into(), runtime })
    }

    /// GET: a document.
    ///
    /// # Errors
    /// [`Error`].
    pub(in crate::cli) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.document(&self.ask(Method::GET, path, None)?)
    }

    /// PUT, without a body, that is answered with a document.
    ///
    /// # Errors
    /// [`Error`].
    pub(in crate::cli) fn take<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.document(&self.ask(Method::PUT, path, None)?)
    }

    fn document<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| self.strange(error.to_string()))
    }

    /// PUT, without a body.
    ///
    /// # Errors
    /// [`Error`].
    pub(in crate::cli) fn put(&self, path: &str) -> Result<(), Error> {
        self.ask(Method::PUT, path, None).map(drop)
    }

    /// PATCH.
    ///
    /// # Errors
    /// [`Error`].
    pub(in crate::cli) fn patch(&self, path: &str, body: &Value) -> Result<(), Error> {
        self.ask(Method::PATCH, path, Some(body)).map(drop)
    }

    fn strange(&self, why: String) -> Error {
        Error::Strange { path: self.path.clone(), why }
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes, Error> {
        let stream = self.connect()?;
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.exchange(stream, method, path, body))
                .await
                .unwrap_or_else(|_| Err(Error::Silent { path: self.path.clone() }))
        })
    }

    fn connect(&self) -> Result<UnixStream, Error> {
        let path = || self.path.clone();
        let system = |source| Error::System { path: path(), source };
        let owner = match fs::metadata(&self.path) {
            Ok(file) if file.file_type().is_socket() => file.uid(),
            Ok(_) => return Err(Error::NotASocket { path: path() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSocket { path: path() });
            }
            Err(error) => return Err(system(error)),
        };
        let stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Error::Nobody { path: path() },
            io::ErrorKind::PermissionDenied => Error::Permission { path: path(), owner },
            // It went between the two looks.
            io::ErrorKind::NotFound => Error::NoSocket { path: path() },
            _ => system(error),
        })?;
        stream.set_nonblocking(true).map_err(system)?;
        Ok(stream)
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, Error> {
        let stream = tokio::net::UnixStream::from_std(stream)
            .map_err(|source| Error::System { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(Error::Gone)?;
        // It ends with the answer, and its errors are the answer's.
        let connection = tokio::spawn(connection);
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| self.strange(format!("no path {path}")))?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        if body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let answer = sender.send_request(request).await.map_err(|error| {
            if error.is_parse() { self.strange(error.to_string()) } else { Error::Gone(error) }
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| self.strange(format!("its answer can't be read: {error}")))?
            .to_bytes();
        connection.abort();
        match status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(body),
            StatusCode::BAD_REQUEST => Err(self.refusal(&body)),
            status => Err(self.strange(format!("its answer is {status}"))),
        }
    }

    fn refusal(&self, body: &[u8]) -> Error {
        let fault: Option<Value> = serde_json::from_slice(body).ok();
        match fault.as_ref().and_then(|fault| fault["fault_message"].as_str()) {
            Some(message) => Error::Refused(message.to_owned()),
            None => self.strange("it refused the request without a reason".into()),
        }
    }
}
