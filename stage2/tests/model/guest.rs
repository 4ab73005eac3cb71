//! The guest: accesses, and the monitor that resolves their faults.

use stage2::{Granule, Unresolved};

use crate::hardware::{Access, Outcome};
use crate::operations::{code, wrong};
use crate::rig::{Effect, Processor, Rig};
use crate::violation::Violation;
use crate::walker::Content;

impl<G: Granule, E: Processor> Rig<G, E> {
    /// One access of the guest, with the monitor that resolves its faults, until it is done or denied.
    pub(crate) fn guest(&mut self, ipa: u64, access: Access) -> Result<bool, Violation> {
        for attempt in 0..12 {
            let hardware = std::rc::Rc::clone(&self.hardware);
            let trial = self.perform(|_, _, _| hardware.access(ipa, access))?;
            let contents = self.contents.clone();
            match self.judge(trial, contents, &Effect::default())?? {
                Outcome::Done { .. } => return Ok(true),
                Outcome::ConflictAbort => continue,
                Outcome::Translation | Outcome::AccessFlag | Outcome::Permission => {}
            }
            if let Some(resolved) = self.fault(ipa, access)? {
                return Ok(resolved);
            }
            if attempt > 0 {
                self.flush()?;
            }
        }
        Err(Violation::Unresolved { ipa })
    }

    /// The monitor's answer to a fault: `None` where the access is to be repeated.
    pub(crate) fn fault(&mut self, ipa: u64, access: Access) -> Result<Option<bool>, Violation> {
        let kind = match access {
            Access::Read => stage2::Access::Read,
            Access::Write => stage2::Access::Write,
            Access::Execute => stage2::Access::Execute,
        };
        let (hardware, undo) = (std::rc::Rc::clone(&self.hardware), self.after_fault);
        let trial = self.perform(|tables, gather, _| {
            let result = tables.set_access_flags(ipa, kind, gather);
            tables.invalidate(gather);
            undo.into_iter().for_each(|undo| undo(&hardware));
            result
        })?;
        let mut effect = Effect::default();
        if trial.result.is_ok() {
            effect.ages = vec![self.page(ipa)];
            if access == Access::Write {
                effect.dirties = vec![self.page(ipa)];
            }
        }
        let contents = self.contents.clone();
        let result = self.judge(trial, contents, &effect)?;
        let allowed = match self.contents.at(ipa) {
            Content::Unmapped(marker) => Err(marker),
            Content::Mapped { fields, .. } => Ok(match access {
                Access::Read => fields.read,
                Access::Write => fields.write,
                Access::Execute => fields.execute_never != 0b10,
            }),
        };
        match (result, allowed) {
            (Ok(_), Ok(true)) => Ok(None),
            (Err(Unresolved::Unmapped { marker, .. }), Err(is)) if code(marker) == is => Ok(Some(false)),
            (Err(Unresolved::Denied { .. }), Ok(false)) => Ok(Some(false)),
            (result, allowed) => {
                wrong(format!("{access:?} of {ipa:#x}: {result:?}, the map says {allowed:?}"))
            }
        }
    }
}
