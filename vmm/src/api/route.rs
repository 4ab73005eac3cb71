//! Every method and path, in one table.

use hyper::Method;

use super::answer::{Answer, Fault};
use super::request::list;
use super::{balloon, ours, track, vm};
use crate::config::words::nearest;
use crate::machine::control::Control;

/// What answers a request: the machine, and the request's body.
type Handle = fn(&Control, &[u8]) -> Result<Answer, Fault>;

/// One thing that can be asked.
#[derive(Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, complete.
    pub path: &'static str,
    /// Whether a body may come with it.
    pub takes_body: bool,
    pub(super) handle: Handle,
}

const fn get(path: &'static str, handle: Handle) -> Route {
    Route { method: Method::GET, path, takes_body: false, handle }
}

const fn put(path: &'static str, takes_body: bool, handle: Handle) -> Route {
    Route { method: Method::PUT, path, takes_body, handle }
}

const fn patch(path: &'static str, takes_body: bool, handle: Handle) -> Route {
    Route { method: Method::PATCH, path, takes_body, handle }
}

/// Everything that can be asked.
pub static ROUTES: &[Route] = &[
    get("/", vm::describe),
    get("/version", vm::version),
    patch("/vm", true, vm::change),
    get("/vm/config", vm::config),
    put("/actions", true, vm::act),
    get("/balloon", balloon::config),
    put("/balloon", true, balloon::replace),
    patch("/balloon", true, balloon::resize),
    get("/balloon/statistics", balloon::statistics),
    patch("/balloon/statistics", true, balloon::poll),
    patch("/balloon/hinting/start", true, balloon::start_hinting),
    patch("/balloon/hinting/stop", false, balloon::stop_hinting),
    get("/balloon/hinting/status", balloon::hinting),
    get("/quire/balloon", ours::balloon),
    patch("/quire/balloon", true, ours::resize),
    get("/quire/map", ours::map),
    get("/quire/release", ours::release),
    put("/quire/settle", false, ours::settle),
    get("/quire/check", ours::check),
    get("/quire/track", track::state),
    patch("/quire/track", true, track::change),
    put("/quire/collect", false, track::collect),
    put("/quire/age", false, track::age),
    put("/quire/stop", false, ours::stop),
];

/// The route of a request.
///
/// # Errors
/// A [`Fault`] that names the methods that the path has, or the nearest path.
pub(super) fn find(method: &Method, path: &str) -> Result<&'static Route, Fault> {
    let here = || ROUTES.iter().filter(|route| route.path == path);
    if let Some(route) = here().find(|route| route.method == *method) {
        return Ok(route);
    }
    let methods: Vec<&str> = here().map(|route| route.method.as_str()).collect();
    if methods.is_empty() {
        let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
        // A path may be as long as a request's head: the message need not repeat all of it.
        let shown: String = path.chars().take(100).collect();
        return Err(Fault::new(format!(
            "there is no path {shown:?}: did you mean {:?}?",
            nearest(&shown, &paths)
        )));
    }
    Err(Fault::new(format!("{path} has no {method}: use {}", list(&methods))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_is_there_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            let again = |other: &&Route| other.method == route.method && other.path == route.path;
            assert!(ROUTES[..index].iter().find(again).is_none(), "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn a_wrong_method_or_path_is_answered_with_the_right_one() {
        let message = |method: Method, path: &str| format!("{:?}", find(&method, path).unwrap_err());
        assert!(message(Method::DELETE, "/vm").contains("use \\\"PATCH\\\""));
        assert!(message(Method::GET, "/vm/conifg").contains("/vm/config"));
        assert!(message(Method::GET, "/quire/stpo").contains("/quire/stop"));
        assert!(message(Method::GET, &"/x".repeat(10_000)).len() < 400);
    }
}
