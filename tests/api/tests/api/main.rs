//! Pause, resume, stop and the HTTP API, against its own description.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod balloon;
mod control;
mod hostile;
mod openapi;
mod routes;
