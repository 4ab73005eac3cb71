//! What only Quire has: `/quire/...`.

use super::answer::{Answer, Fault};
use crate::machine::control::Control;

/// PUT /quire/stop: stops the guest in order, as SIGTERM does.
pub(super) fn stop(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    control.stop()?;
    Ok(Answer::Done)
}
