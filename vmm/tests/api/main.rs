//! Pause, resume, stop and the HTTP API, on any Linux machine: real sockets and real threads, and a machine
//! whose vCPUs count instead of entering a guest.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod balloon;
mod client;
mod control;
mod ctl;
mod guest;
mod hostile;
mod machine;
mod openapi;
mod routes;
