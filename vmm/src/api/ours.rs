//! What only Quire has: `/quire/...`. Sizes are in bytes.

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Fault};
use super::balloon::{device, driven};
use super::request::{self, Shape};
use crate::config::Size;
use crate::machine::control::Control;
use crate::memory::ledger::Check;
use crate::memory::release::Counters;
use crate::report::Map;

/// PUT /quire/stop: stops the guest in order, as SIGTERM does.
pub(super) fn stop(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    control.stop()?;
    Ok(Answer::Done)
}

#[derive(Serialize)]
struct Balloon {
    memory: u64,
    target: u64,
    actual: u64,
    active: bool,
}

/// GET /quire/balloon: where the balloon stands.
pub(super) fn balloon(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    let balloon = device(control)?;
    Answer::document(&Balloon {
        memory: control.config().memory.size,
        target: balloon.target(),
        actual: balloon.actual(),
        active: balloon.is_active(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    size: Size,
}

impl Shape for Resize {
    const KEYS: &'static [&'static str] = &["size"];
}

/// PATCH /quire/balloon: a new target, in bytes or as it is written on the command line.
pub(super) fn resize(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    let Resize { size } = request::read(body)?;
    driven(control)?.set_target(size.0)?;
    Ok(Answer::Done)
}

#[derive(Serialize)]
struct Release {
    unit: u64,
    block: u64,
    #[serde(flatten)]
    counters: Counters,
}

/// GET /quire/release: what has been given back to the host, and how long it took.
pub(super) fn release(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    let release = control.parts()?.release;
    Answer::document(&Release { unit: release.unit(), block: release.block(), counters: release.counters() })
}

/// GET /quire/map: how the guest's memory is made up, after a look at the host.
pub(super) fn map(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&Map::draw_up(&mut control.parts()?.ledger.open())?)
}

/// PUT /quire/settle: gives back parts of blocks, too.
pub(super) fn settle(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    control.parts()?.release.settle()?;
    Ok(Answer::Done)
}

#[derive(Serialize)]
struct Verdict {
    holds: bool,
    #[serde(flatten)]
    check: Check,
}

/// GET /quire/check: the ledger, held against the host.
pub(super) fn check(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    let check = control.parts()?.ledger.open().check()?;
    Answer::document(&Verdict { holds: check.holds(), check })
}
