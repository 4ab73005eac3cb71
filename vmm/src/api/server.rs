//! The thread that answers, its connections and their limits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use nix::sys::signal::SigSet;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::answer::{Answer, Fault, response};
use super::route;
use super::socket::{self, Socket};
use crate::machine::control::Control;

/// Bytes of a request's head: its line and headers.
const MAX_HEAD: usize = 16 << 10;
/// Headers of a request.
const MAX_HEADERS: usize = 32;
/// Bytes of a request's body: much more than any shape needs.
const MAX_BODY: usize = 50 << 10;
/// How long a head may take, and how long a connection may be silent before it.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once. One more, and the oldest makes room.
const MAX_CONNECTIONS: usize = 32;
/// How long answers may take to be written when the server ends.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long accepting rests after it failed, as it does where descriptors have run out.
const REST: Duration = Duration::from_millis(100);

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket can't be had.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// The thread can't be started.
    #[error("can't start the API's thread")]
    Thread(#[source] io::Error),
}

/// The API of one machine; it ends, and its socket goes, when the value is dropped.
#[derive(Debug)]
pub struct Server {
    quit: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Behind the thread: the path is free when nobody listens any more.
    _socket: Socket,
}

impl Server {
    /// Listens at `path` and answers for the machine behind `control`.
    ///
    /// # Errors
    /// [`Error`] says who has the path, or what the host refused.
    pub fn start(path: &Path, control: Control) -> Result<Self, Error> {
        let (socket, listener) = Socket::listen(path)?;
        let (quit, quitting) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let serve = move || {
            // The signals that stop the guest are the main thread's.
            let runtime = SigSet::all().thread_block().map_err(io::Error::from).and_then(|()| runtime());
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(serve(listener, control, quitting));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        };
        let thread = Builder::new().name("api".into()).spawn(serve).map_err(Error::Thread)?;
        // A thread that ends without a word has panicked, which has been reported.
        is_ready
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("it ended at once")))
            .map_err(Error::Thread)?;
        Ok(Self { quit: Some(quit), thread: Some(thread), _socket: socket })
    }
}

impl Drop for Server {
    /// Ends after the answers that are on their way.
    fn drop(&mut self) {
        drop(self.quit.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported where it happened.
            let _ = thread.join();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

/// Answers until `quitting` is told, or its other end is gone.
async fn serve(listener: UnixListener, control: Control, quitting: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => {
            let accepting = accept(&listener, &control, &graceful);
            // Whichever ends first; accepting never does.
            let mut accepting = std::pin::pin!(accepting);
            let mut quitting = std::pin::pin!(quitting);
            std::future::poll_fn(|context| {
                let quit = quitting.as_mut().poll(context).map(|_| ());
                if quit.is_pending() {
                    return accepting.as_mut().poll(context);
                }
                quit
            })
            .await;
        }
        Err(error) => {
            tracing::error!(%error, "the API's socket can't be watched: it answers nobody");
            let _ = quitting.await;
        }
    }
    // Who has asked is answered; who only sits there, or does not read, is not waited for.
    let _ = tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await;
}

async fn accept(listener: &tokio::net::UnixListener, control: &Control, graceful: &GracefulShutdown) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let mut connections = VecDeque::<AbortHandle>::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the API can't accept a connection");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            tracing::debug!("more than {MAX_CONNECTIONS} connections to the API: the oldest is closed");
            oldest.abort();
        }
        let control = control.clone();
        let service = service_fn(move |request| answer(control.clone(), request));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the API ended");
            }
        });
        connections.push_back(task.abort_handle());
    }
}

async fn answer(control: Control, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let outcome = handle(&control, request).await;
    if let Err(fault) = &outcome {
        tracing::debug!(?fault, "refused a request");
    }
    Ok(response(outcome))
}

async fn handle(control: &Control, request: Request<Incoming>) -> Result<Answer, Fault> {
    let (head, body) = request.into_parts();
    // Whatever is wrong before the body has been read leaves it in the way of the next request.
    let route = route::find(&head.method, head.uri.path()).map_err(Fault::into_last)?;
    if head.uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(Fault::last(format!("{} takes no query: leave out what follows the \"?\"", route.path)));
    }
    let body = read(body).await?;
    if !route.takes_body && !body.is_empty() {
        return Err(Fault::new(format!("{} {} takes no body: leave it out", route.method, route.path)));
    }
    tracing::debug!("{} {}", route.method, route.path);
    (route.handle)(control, &body)
}

async fn read(body: Incoming) -> Result<Bytes, Fault> {
    let too_large =
        || Fault::last(format!("the body is larger than {MAX_BODY} bytes: no request here needs as much"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Fault::last(format!("the body can't be read: {error}"))),
        Err(_) => Err(Fault::last(format!(
            "the body did not come within {} seconds: send as many bytes as Content-Length says",
            BODY_PATIENCE.as_secs()
        ))),
    }
}
