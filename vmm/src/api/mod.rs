//! The HTTP API on a Unix socket: routes and shapes, no logic.
//!
//! Principles: request and response shapes are Firecracker's where it has them, and what is only ours
//! lives under `/quire/`; one table ([`route::ROUTES`]) says what there is, and the description in
//! `docs/openapi.json` is held against it; everything wrong with a request is a 400 whose body says what
//! it is and what to do (`{"fault_message": "..."}`).
//!
//! A client is hostile: it may send anything, slowly or never, and read nothing. What one may take is
//! bounded (the head, the body, the time for each), and so is how many there are at once: the one that
//! has been there longest makes room. All of it happens on one thread of its own, `api`; the guest never
//! waits for it. Without `--api-sock` there is no thread.
//!
//! | module | noun |
//! |---|---|
//! | `server` | [`Server`]: the thread, its connections and their limits |
//! | `socket` | the socket's file: who may have the path, and who removes it |
//! | [`route`] | every method and path, in one table |
//! | `request` | a body, read strictly |
//! | `answer` | what goes back: 200, 204 or 400 |
//! | `vm` | `/`, `/version`, `/vm`, `/vm/config`, `/actions` |
//! | `balloon` | `/balloon/...` |
//! | `track` | `/quire/track`, `/quire/collect`, `/quire/age` |
//! | `ours` | the rest of `/quire/...` |

mod answer;
mod balloon;
mod ours;
mod request;
pub mod route;
mod server;
mod socket;
mod track;
mod vm;

pub use server::{Error, Server};
