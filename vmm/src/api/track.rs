//! What the guest does with its memory: `/quire/track`, `/quire/collect`, `/quire/age`.

use serde::Deserialize;

use super::answer::{Answer, Fault};
use super::request::{self, Shape};
use crate::config::Watch;
use crate::machine::control::Control;

/// GET /quire/track: what is tracked.
pub(super) fn state(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&control.parts()?.tracking.state())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    dirty: Option<bool>,
    young: Option<Watch>,
}

impl Shape for Change {
    const KEYS: &'static [&'static str] = &["dirty", "young"];
}

/// PATCH /quire/track: tracks something else from now on. What is not named stays.
pub(super) fn change(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    let Change { dirty, young } = request::read(body)?;
    if dirty.is_none() && young.is_none() {
        let keys = request::list(Change::KEYS);
        return Err(Fault::new(format!(
            "nothing is to be changed: send an object with {keys}, or one of them"
        )));
    }
    control.parts()?.tracking.change(dirty, young)?;
    Ok(Answer::Done)
}

/// PUT /quire/collect: takes what was written since the last time.
pub(super) fn collect(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&control.parts()?.tracking.collect()?)
}

/// PUT /quire/age: takes what was used since the last time.
pub(super) fn age(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&control.parts()?.tracking.age()?)
}
