//! What goes back to a client: 200 with JSON, 204, or 400 with what was wrong.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What a request is answered with where nothing was wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 204: it has been done.
    Done,
    /// 200, and a JSON document.
    Document(Vec<u8>),
}

impl Answer {
    /// 200 with `document` as JSON.
    ///
    /// # Errors
    /// A [`Fault`] where it can't be written as JSON, such as a path that is not UTF-8.
    pub(super) fn document(document: &impl Serialize) -> Result<Self, Fault> {
        serde_json::to_vec(document)
            .map(Self::Document)
            .map_err(|error| Fault::new(format!("the answer can't be written as JSON: {error}")))
    }
}

/// What was wrong with a request: 400, and the body `{"fault_message": "..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    #[serde(rename = "fault_message")]
    message: String,
    /// Whether the connection is of no use any more.
    #[serde(skip)]
    last: bool,
}

impl Fault {
    /// A fault that says `message`: what was wrong, and what to do.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), last: false }
    }

    /// The same as the last answer on its connection.
    pub(super) fn last(message: impl Into<String>) -> Self {
        Self::new(message).into_last()
    }

    /// This one as the last answer on its connection.
    pub(super) fn into_last(self) -> Self {
        Self { last: true, ..self }
    }
}

/// Everything that goes wrong below says in one line what to do about it.
impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let cause_message = cause.to_string();
            if !message.contains(&cause_message) {
                message = format!("{message}: {cause_message}");
            }
            next = cause.source();
        }
        Self::new(message)
    }
}

/// As HTTP has it.
pub(super) fn response(outcome: Result<Answer, Fault>) -> Response<Full<Bytes>> {
    let (status, body, last) = match outcome {
        Ok(Answer::Done) => (StatusCode::NO_CONTENT, Vec::new(), false),
        Ok(Answer::Document(json)) => (StatusCode::OK, json, false),
        Err(fault) => {
            // Two strings and no map: it can't fail.
            (StatusCode::BAD_REQUEST, serde_json::to_vec(&fault).unwrap_or_default(), fault.last)
        }
    };
    let json = !body.is_empty();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    if json {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
