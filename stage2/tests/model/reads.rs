//! Reading: what the crate says about its own tables.

use stage2::Granule;

use crate::flat::Set;
use crate::operations::{code, wrong};
use crate::rig::{Processor, Rig};
use crate::violation::Violation;
use crate::walker::Content;

impl<G: Granule, E: Processor> Rig<G, E> {
    /// Compares what the crate reads out of its tables with the flat map.
    pub(crate) fn read(&self) -> Result<(), Violation> {
        let mut last = None;
        let mut at = 0;
        let runs = self.tables.runs(self.tables.whole());
        for run in runs.map_err(|error| Violation::Answer { why: error.to_string() })? {
            if run.range.start != at || last.is_some_and(|last| joins(&last, &run.content)) {
                return wrong(format!("runs: {run:x?} after {last:x?} at {at:#x}"));
            }
            at = run.range.end;
            let whole = |uniform: usize| uniform == 1;
            let (is, uniform) = match run.content {
                stage2::Content::Mapped { oa, attributes } => {
                    let (delta, fields) = (oa.wrapping_sub(run.range.start), self.fields(&attributes));
                    let mark = |set: &Set, is| set.within(run.range.clone()).all(|(_, inside)| inside == is);
                    let marks = mark(&self.survey.dirty, attributes.dirty)
                        && mark(&self.survey.young, attributes.young);
                    (Content::Mapped { delta, fields }, marks)
                }
                stage2::Content::Marked(marker) => (Content::Unmapped(code(Some(marker))), true),
                stage2::Content::Unmapped => (Content::Unmapped(0), true),
            };
            let same = self.contents.within(run.range.clone()).count();
            if !uniform || !whole(same) || self.contents.at(run.range.start) != is {
                return wrong(format!("runs: {run:x?} isn't what the map says"));
            }
            last = Some((run.content, run.range.end - run.range.start));
        }
        for &ipa in self.hardware.hot.borrow().iter() {
            let expected = match self.contents.at(ipa) {
                Content::Mapped { delta, .. } => Some(ipa.wrapping_add(delta)),
                Content::Unmapped(_) => None,
            };
            if self.tables.translate(ipa) != expected {
                return wrong(format!("translate({ipa:#x}) is {:x?}", self.tables.translate(ipa)));
            }
        }
        Ok(())
    }
}

/// Whether two neighbouring runs should have been one.
fn joins(last: &(stage2::Content, u64), next: &stage2::Content) -> bool {
    match (last.0, *next) {
        (
            stage2::Content::Mapped { oa, attributes },
            stage2::Content::Mapped { oa: next, attributes: other },
        ) => oa + last.1 == next && attributes == other,
        (last, next) => last == next,
    }
}
