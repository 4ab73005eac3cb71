//! Caught: the model itself, tested. Each test breaks the code in one way and expects the model to say so; the
//! same run without the break must pass.
//!
//! The code is broken where its surroundings allow it: the instructions that it issues are changed on their way,
//! or its descriptors are edited as a mistaken implementation would have written them. The hardware is *sticky*
//! in these tests: whatever may stay cached does, so that nothing depends on chance.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use stage2::{
    Attributes, BbmLevel, Clear, Existing, G4K, HardwareUpdate, Instruction, Level, Marker, Merge, Protection,
};

use crate::geometry::Geometry;
use crate::hardware::{Access, Tamper, Temper};
use crate::rig::{Cpu, Effect, Rig};
use crate::violation::Violation;
use crate::word::{AF, CONTIGUOUS, DBM, SOFT_DIRTY, WRITE};

const PAGE: u64 = 1 << 12;
const GROUP: Range<u64> = 0..16 * PAGE;
const BLOCK: Range<u64> = 0..512 * PAGE;
/// An output address that suits groups and blocks.
const OA: u64 = 1 << 32;

type Scenario = fn(&mut Rig<G4K, Cpu>, bool) -> Result<(), Violation>;

/// Runs `scenario` whole, which must pass, and broken, which must be found out as `name`.
fn caught(name: &str, geometry: Geometry, scenario: Scenario) {
    let rig = || Rig::<G4K>::new(&geometry, 16, Temper::Sticky, 1).expect("a rig");
    let mut whole = rig();
    scenario(&mut whole, false).and_then(|()| whole.finish()).expect("nothing is broken");

    let mut broken = rig();
    let found = scenario(&mut broken, true).and_then(|()| broken.flush()).expect_err("it is broken");
    assert_eq!(found.name(), name, "{found:x?}");
    // Broken tables can't be torn down.
    std::mem::forget(broken);
}

fn singles() -> Geometry {
    Geometry { contiguous: false, range: false, ..Geometry::plain(32) }
}

fn map(rig: &mut Rig<G4K>, range: Range<u64>) -> Result<(), Violation> {
    rig.heat((range.start..range.end).step_by(PAGE as usize).take(18));
    rig.map(range, OA, &Attributes::RAM, Existing::Refuse).map(|done| assert!(done))
}

/// Changes every sequence that is issued from now on.
fn tamper(rig: &Rig<G4K>, broken: bool, with: impl FnMut(Vec<Instruction>) -> Vec<Instruction> + 'static) {
    if broken {
        *rig.hardware.tamper.borrow_mut() = Some(Box::new(with) as Tamper);
    }
}

/// Maps three pages, uses them, and unmaps them while every sequence is changed.
fn unmap_three(
    rig: &mut Rig<G4K>,
    broken: bool,
    with: impl FnMut(Vec<Instruction>) -> Vec<Instruction> + 'static,
) -> Result<(), Violation> {
    map(rig, 4 * PAGE..7 * PAGE)?;
    map(rig, 0..PAGE)?;
    rig.guest(5 * PAGE, Access::Write)?;
    tamper(rig, broken, with);
    rig.get_and_clear(4 * PAGE..7 * PAGE, None, false)?;
    rig.flush()
}

#[test]
fn caught_one_instruction_skipped() {
    caught("Stale", singles(), |rig, broken| {
        unmap_three(rig, broken, |mut sequence| {
            if sequence.len() > 4 {
                sequence.remove(2);
            }
            sequence
        })
    });
}

#[test]
fn caught_combined_entries_left() {
    caught("Sequence", singles(), |rig, broken| {
        unmap_three(rig, broken, |mut sequence| {
            sequence.retain(|instruction| *instruction != Instruction::Vmalle1is);
            sequence
        })
    });
}

#[test]
fn caught_stage_1_invalidated_before_stage_2() {
    caught("Sequence", singles(), |rig, broken| {
        unmap_three(rig, broken, |mut sequence| {
            if let Some(at) = sequence.iter().position(|i| *i == Instruction::Vmalle1is) {
                sequence.remove(at);
                sequence.insert(1, Instruction::Vmalle1is);
            }
            sequence
        })
    });
}

#[test]
fn caught_an_empty_flush() {
    caught("Sequence", singles(), |rig, broken| unmap_three(rig, broken, |_| Vec::new()));
}

#[test]
fn caught_a_barrier_instead_of_an_invalidation() {
    caught("Stale", singles(), |rig, broken| {
        unmap_three(rig, broken, |mut sequence| {
            sequence.truncate(1);
            sequence
        })
    });
}

#[test]
fn caught_a_wrong_level_hint() {
    caught("Stale", singles(), |rig, broken| {
        unmap_three(rig, broken, |sequence| {
            let wrong = |instruction| match instruction {
                Instruction::Ipas2le1is(x) => Instruction::Ipas2le1is(x ^ 1 << 44),
                other => other,
            };
            sequence.into_iter().map(wrong).collect()
        })
    });
}

#[test]
fn caught_a_range_cut_short() {
    caught("Stale", Geometry { contiguous: false, ..Geometry::plain(32) }, |rig, broken| {
        map(rig, 4 * PAGE..12 * PAGE)?;
        map(rig, 0..PAGE)?;
        tamper(rig, broken, |sequence| {
            let shorter = |instruction| match instruction {
                Instruction::Ripas2le1is(x) => Instruction::Ripas2le1is(x - (1 << 39)),
                other => other,
            };
            sequence.into_iter().map(shorter).collect()
        });
        rig.get_and_clear(4 * PAGE..12 * PAGE, None, false)?;
        rig.flush()
    });
}

#[test]
fn caught_leaves_invalidated_where_a_table_was_unlinked() {
    caught("EarlyFree", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        tamper(rig, broken, |sequence| {
            let leaves = |instruction| match instruction {
                Instruction::Ripas2e1is(x) => Instruction::Ripas2le1is(x),
                Instruction::Ipas2e1is(x) => Instruction::Ipas2le1is(x),
                other => other,
            };
            sequence.into_iter().map(leaves).collect()
        });
        rig.get_and_clear(BLOCK, None, false)?;
        rig.flush()
    });
}

#[test]
fn caught_a_table_freed_before_its_invalidation() {
    caught("EarlyFree", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        // The invalidation is put off: a barrier comes in its place.
        tamper(rig, broken, |mut sequence| {
            sequence.truncate(1);
            sequence
        });
        rig.get_and_clear(BLOCK, Some(Marker::Released), false)?;
        rig.flush()
    });
}

#[test]
fn caught_a_freed_table_still_linked() {
    caught("FreedTable", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        if broken {
            rig.meddle(|hardware| {
                let frames = hardware.arena.allocated();
                let table = frames.into_iter().find(|&frame| frame != hardware.regime().root);
                hardware.note(hardware.arena.free(table.expect("a table"), PAGE));
            })?;
        }
        rig.get_and_clear(BLOCK, None, false).map(drop)
    });
}

#[test]
fn caught_a_frame_that_is_not_returned() {
    caught("Answer", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        if broken {
            assert!(rig.hardware.arena.allocate(PAGE).is_some());
        }
        rig.flush()
    });
}

#[test]
fn caught_a_member_forgotten_by_write_protect() {
    caught("Group", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        let word = rig.hardware.word(9 * PAGE)?;
        rig.write_protect(GROUP)?;
        rig.flush()?;
        if broken {
            rig.meddle(|hardware| hardware.edit(9 * PAGE, |_| word))?;
        }
        Ok(())
    });
}

#[test]
fn caught_a_member_forgotten_by_unfold() {
    // With FEAT_BBM level 3 the hardware doesn't mind; the next operation on the group would.
    let geometry = Geometry { bbm: BbmLevel::Level3, ..Geometry::plain(32) };
    caught("Group", geometry, |rig, broken| {
        map(rig, GROUP)?;
        rig.unfold(GROUP)?;
        if broken {
            rig.meddle(|hardware| hardware.edit(9 * PAGE, |word| word | CONTIGUOUS))?;
        }
        Ok(())
    });
}

#[test]
fn caught_a_group_with_a_misaligned_output() {
    caught("Group", Geometry::plain(32), |rig, broken| {
        rig.map(GROUP, OA + PAGE, &Attributes::RAM, Existing::Refuse)?;
        if broken {
            rig.meddle(|hardware| {
                for ipa in GROUP.step_by(PAGE as usize) {
                    hardware.edit(ipa, |word| word | CONTIGUOUS);
                }
            })?;
        }
        Ok(())
    });
}

#[test]
fn caught_contiguous_on_a_marker() {
    caught("InvalidEntry", Geometry::plain(32), |rig, broken| {
        map(rig, 0..32 * PAGE)?;
        rig.get_and_clear(GROUP, Some(Marker::Released), false)?;
        rig.flush()?;
        if broken {
            rig.meddle(|hardware| hardware.edit(3 * PAGE, |word| word | CONTIGUOUS))?;
        }
        Ok(())
    });
}

#[test]
fn caught_a_plain_store_where_a_swap_was_needed() {
    caught("Lost", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        let hardware = std::rc::Rc::clone(&rig.hardware);
        let trial = rig.perform(|tables, _, _| {
            // Load; hardware writes; store.
            let words: Vec<_> = GROUP.step_by(PAGE as usize).map(|ipa| hardware.word(ipa)).collect();
            hardware.note(hardware.access(5 * PAGE, Access::Write).map(drop));
            let result = tables.protect(GROUP, Protection { write: Some(false), ..Protection::default() });
            if broken {
                for (ipa, word) in GROUP.step_by(PAGE as usize).zip(words) {
                    let word = word.expect("mapped");
                    hardware.edit(ipa, |_| word & !(DBM | WRITE));
                }
            }
            result
        })?;
        let mut expected = rig.contents.clone();
        let fields = rig.fields(&Attributes::RAM.read_only());
        expected.set(GROUP, crate::walker::Content::Mapped { delta: OA, fields });
        rig.judge(trial, expected, &Effect::default()).map(|result| assert_eq!(result, Ok(())))
    });
}

#[test]
fn caught_a_clear_that_reports_the_first_member_only() {
    caught("Lost", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        rig.guest(5 * PAGE, Access::Write)?;
        let dirty = (0..16).filter(|page| rig.hardware.word(page * PAGE).is_ok_and(|word| word & WRITE != 0));
        assert_eq!(dirty.count(), 1, "hardware marks one member");
        let first = rig.hardware.word(0)? | WRITE;
        let trial = rig.perform(|tables, _, visited| {
            let mut harvest = tables.get_and_clear(GROUP, Clear::default(), |mut leaf| {
                if broken {
                    leaf.descriptor = stage2::Descriptor::new(first & !WRITE);
                }
                visited.push(leaf);
            })?;
            harvest.dirty &= !broken;
            Ok(harvest)
        })?;
        rig.judge_clear(trial, GROUP, None).map(drop)
    });
}

#[test]
fn caught_a_collection_that_forgets_to_rearm() {
    caught("Kept", Geometry::plain(32), |rig, broken| {
        map(rig, 0..PAGE)?;
        rig.guest(0, Access::Write)?;
        let hardware = std::rc::Rc::clone(&rig.hardware);
        let trial = rig.perform(|tables, gather, visited| {
            let result = tables.collect_dirty(GROUP, gather, |leaf| visited.push(leaf));
            if broken {
                hardware.edit(0, |word| word | WRITE);
            }
            result
        })?;
        let expected = rig.contents.clone();
        let effect = Effect { takes_dirty: true, taken: vec![GROUP], ..Effect::default() };
        rig.judge(trial, expected, &effect).map(|result| assert!(result.is_ok_and(|harvest| harvest.dirty)))
    });
}

#[test]
fn caught_a_collection_without_its_invalidation() {
    caught("Stale", Geometry::plain(32), |rig, broken| {
        map(rig, 0..PAGE)?;
        rig.guest(0, Access::Write)?;
        rig.collect_dirty(GROUP)?;
        if broken {
            rig.gather.clear();
        }
        rig.flush()?;
        rig.guest(0, Access::Write).map(drop)
    });
}

#[test]
fn caught_an_ageing_without_its_invalidation() {
    caught("Stale", Geometry::plain(32), |rig, broken| {
        map(rig, 0..PAGE)?;
        rig.guest(0, Access::Read)?;
        rig.age(GROUP)?;
        if broken {
            rig.gather.clear();
        }
        rig.flush()
    });
}

#[test]
fn caught_a_resolved_fault_without_its_invalidation() {
    let geometry = Geometry { update: HardwareUpdate::AccessFlag, ..Geometry::plain(32) };
    caught("Unresolved", geometry, |rig, broken| {
        map(rig, 0..PAGE)?;
        rig.guest(0, Access::Read)?;
        tamper(rig, broken, |mut sequence| {
            sequence.truncate(1);
            sequence
        });
        rig.guest(0, Access::Write).map(|done| assert!(done))
    });
}

#[test]
fn caught_dirty_smeared_over_a_neighbour() {
    caught("Invented", Geometry::plain(32), |rig, broken| {
        map(rig, 0..32 * PAGE)?;
        rig.guest(5 * PAGE, Access::Write)?;
        rig.unfold(0..32 * PAGE)?;
        rig.fold(0, Level::L3, Merge::Union)?;
        if broken {
            rig.meddle(|hardware| hardware.edit(16 * PAGE, |word| word | WRITE))?;
        }
        Ok(())
    });
}

#[test]
fn caught_dirty_dropped_by_a_conversion() {
    caught("Lost", Geometry::plain(32), |rig, broken| {
        map(rig, GROUP)?;
        rig.guest(5 * PAGE, Access::Write)?;
        rig.unfold(GROUP)?;
        if broken {
            // Only the member that hardware marked is dirty: the page that was written isn't.
            rig.meddle(|hardware| hardware.edit(5 * PAGE, |word| word & !(WRITE | SOFT_DIRTY)))?;
        }
        Ok(())
    });
}

#[test]
fn caught_a_no_op_check_that_looks_at_a_sibling() {
    let geometry = Geometry { update: HardwareUpdate::None, ..Geometry::plain(32) };
    caught("Unresolved", geometry, |rig, broken| {
        rig.heat([5 * PAGE]);
        rig.map(GROUP, OA, &Attributes::RAM.old(), Existing::Refuse)?;
        if broken {
            // "A member is young, so nothing needs doing": the one that faults stays as it is.
            rig.after_fault = Some(|hardware| hardware.edit(5 * PAGE, |word| word & !AF));
        }
        rig.guest(5 * PAGE, Access::Read).map(|done| assert!(done))
    });
}

#[test]
fn caught_write_permission_gained_by_a_roll_back() {
    caught("Changed", Geometry::plain(32), |rig, broken| {
        rig.map(BLOCK, OA, &Attributes::RAM.read_only(), Existing::Refuse)?;
        rig.hardware.arena.set_budget(0);
        let hardware = std::rc::Rc::clone(&rig.hardware);
        let trial = rig.perform(|tables, _, _| {
            let grant = Protection { write: Some(true), ..Protection::default() };
            let result = tables.protect(0..PAGE, grant);
            if broken {
                hardware.edit(0, |word| word | DBM);
            }
            result
        })?;
        rig.hardware.arena.set_budget(u64::MAX);
        rig.judge_refused(trial).map(|result| assert!(result.is_err()))
    });
}

#[test]
fn caught_write_protection_that_leaves_dbm() {
    caught("Content", Geometry::plain(32), |rig, broken| {
        map(rig, 0..PAGE)?;
        rig.write_protect(GROUP)?;
        if broken {
            rig.meddle(|hardware| hardware.edit(0, |word| word | DBM))?;
        }
        Ok(())
    });
}

#[test]
fn caught_a_block_split_in_place() {
    caught("Conflict", Geometry::plain(32), |rig, broken| {
        map(rig, BLOCK)?;
        if !broken {
            return rig.split(BLOCK, Level::L3).map(|done| assert!(done));
        }
        rig.meddle(|hardware| {
            hardware.seam();
            let frame = hardware.arena.allocate(PAGE).expect("a frame");
            let word = hardware.word(0).expect("mapped");
            for (page, entry) in (0u64..).zip(hardware.arena.table(frame, 512)) {
                entry.store(word | 0b10 | (page * PAGE), Relaxed);
            }
            hardware.edit(0, |_| frame | 0b11);
        })
    });
}

#[test]
fn caught_a_group_unfolded_in_place() {
    let geometry = Geometry { bbm: BbmLevel::Level1, ..Geometry::plain(32) };
    caught("Conflict", geometry, |rig, broken| {
        map(rig, GROUP)?;
        if !broken {
            return rig.unfold(GROUP).map(|done| assert!(done));
        }
        rig.meddle(|hardware| {
            hardware.seam();
            for ipa in GROUP.step_by(PAGE as usize) {
                hardware.edit(ipa, |word| word & !CONTIGUOUS);
            }
        })
    });
}

#[test]
fn caught_an_output_changed_in_place() {
    caught("BreakBeforeMake", Geometry::plain(32), |rig, broken| {
        map(rig, 0..PAGE)?;
        if broken {
            rig.meddle(|hardware| {
                hardware.seam();
                hardware.edit(0, |word| word ^ PAGE);
            })?;
        }
        Ok(())
    });
}
