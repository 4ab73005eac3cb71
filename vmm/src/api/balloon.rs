//! The balloon, in the shapes of Firecracker: `/balloon`, `/balloon/statistics`, `/balloon/hinting/...`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Fault};
use super::request::{self, Shape};
use crate::machine::control::Control;
use crate::virtio::balloon::{self, Error, Statistics};

/// Bytes of a page, as statistics count them.
const PAGE: u64 = 4 << 10;

/// The machine's balloon.
///
/// # Errors
/// A [`Fault`] where it has none.
pub(super) fn device(control: &Control) -> Result<Arc<balloon::Control>, Fault> {
    control.parts()?.balloon.ok_or_else(|| Fault::new("this VM has no balloon: start it with --balloon"))
}

/// The same, for what only a guest that drives it can do.
///
/// # Errors
/// A [`Fault`] where no driver is ready.
pub(super) fn driven(control: &Control) -> Result<Arc<balloon::Control>, Fault> {
    let balloon = device(control)?;
    if balloon.is_active() { Ok(balloon) } else { Err(Error::NoDriver.into()) }
}

/// How GET /balloon and GET /vm/config show it.
#[derive(Serialize)]
pub(super) struct Balloon {
    amount_mib: u64,
    deflate_on_oom: bool,
    stats_polling_interval_s: u64,
    free_page_hinting: bool,
    free_page_reporting: bool,
}

impl Balloon {
    pub(super) fn of(config: &crate::config::BalloonConfig) -> Self {
        Self {
            amount_mib: config.size >> 20,
            deflate_on_oom: config.deflate_on_oom,
            stats_polling_interval_s: config.stats,
            free_page_hinting: config.hint,
            free_page_reporting: config.report,
        }
    }
}

/// GET /balloon: how it is configured, with its present target and interval.
pub(super) fn config(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&Balloon::of(&device(control)?.config()))
}

/// PUT /balloon: there is one already, or it is too late for one.
pub(super) fn replace(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    device(control)?;
    Err(Fault::new(
        "the balloon is there from the start (--balloon) and can't be put in again: PATCH /balloon changes it",
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    amount_mib: u64,
}

impl Shape for Amount {
    const KEYS: &'static [&'static str] = &["amount_mib"];
}

/// PATCH /balloon: a new target.
pub(super) fn resize(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    let Amount { amount_mib } = request::read(body)?;
    let bytes = amount_mib.checked_mul(1 << 20).ok_or_else(|| {
        Fault::new(format!("a balloon of {amount_mib} MiB does not fit into 64 bits: amount_mib is in MiB"))
    })?;
    driven(control)?.set_target(bytes)?;
    Ok(Answer::Done)
}

#[derive(Serialize)]
struct Figures {
    target_pages: u64,
    actual_pages: u64,
    target_mib: u64,
    actual_mib: u64,
    #[serde(flatten)]
    said: Statistics,
}

impl Figures {
    fn of(target: u64, actual: u64, said: Statistics) -> Self {
        Self {
            target_pages: target / PAGE,
            actual_pages: actual / PAGE,
            target_mib: target >> 20,
            actual_mib: actual >> 20,
            said,
        }
    }
}

/// GET /balloon/statistics: what the guest says about its memory.
pub(super) fn statistics(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    let balloon = device(control)?;
    let said = balloon.statistics()?;
    driven(control)?;
    Answer::document(&Figures::of(balloon.target(), balloon.actual(), said))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Interval {
    stats_polling_interval_s: u64,
}

impl Shape for Interval {
    const KEYS: &'static [&'static str] = &["stats_polling_interval_s"];
}

/// PATCH /balloon/statistics: how often it is asked.
pub(super) fn poll(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    let Interval { stats_polling_interval_s } = request::read(body)?;
    device(control)?.set_statistics_interval(stats_polling_interval_s)?;
    Ok(Answer::Done)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    #[serde(default = "yes")]
    acknowledge_on_stop: bool,
}

const fn yes() -> bool {
    true
}

impl Shape for Start {
    const KEYS: &'static [&'static str] = &["acknowledge_on_stop"];
}

/// PATCH /balloon/hinting/start: the guest names its free pages once. The body may be left out.
pub(super) fn start_hinting(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    let Start { acknowledge_on_stop } =
        if body.is_empty() { Start { acknowledge_on_stop: yes() } } else { request::read(body)? };
    device(control)?.hinting_start(acknowledge_on_stop)?;
    Ok(Answer::Done)
}

/// PATCH /balloon/hinting/stop: the guest gets back what it has named.
pub(super) fn stop_hinting(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    device(control)?.hinting_stop()?;
    Ok(Answer::Done)
}

/// GET /balloon/hinting/status.
pub(super) fn hinting(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&device(control)?.hinting_status()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_have_firecrackers_names_and_leave_out_what_the_guest_did_not_say() {
        let said = Statistics { swap_in: Some(1), free_memory: Some(2), ..Statistics::default() };
        let figures = Figures::of(3 << 20, 5 << 12, said);
        assert_eq!(
            serde_json::to_value(&figures).unwrap(),
            serde_json::json!({
                "target_pages": 768, "actual_pages": 5, "target_mib": 3, "actual_mib": 0,
                "swap_in": 1, "free_memory": 2
            })
        );
    }
}
