//! Joining: fold, collapse, optimise. Whether leaves qualify is decided here anew, from what they say.

use std::ops::Range;

use stage2::{Error, Executor, Granule, Leaf, Level, Merge, Refusal};

use super::replay::{Replay, sum};

/// Whether leaves of one level say so much the same that they can be one.
fn qualify<G: Granule, E: Executor>(
    replay: &Replay<G, E>,
    leaves: &[Leaf],
    range: &Range<u64>,
    merge: Merge,
) -> bool {
    let config = replay.tables.config();
    let Some(first) = leaves.first() else { return false };
    let mut ipa = range.start;
    for leaf in leaves {
        let (mut one, mut other) = (first.attributes(config), leaf.attributes(config));
        if merge != Merge::Uniform {
            for attributes in [&mut one, &mut other] {
                (attributes.young, attributes.dirty) = (false, false);
            }
        }
        if leaf.ipa != ipa || leaf.oa != first.oa + (ipa - range.start) || one != other {
            return false;
        }
        ipa += leaf.bytes;
    }
    ipa == range.end && first.oa % (range.end - range.start) == 0
}

/// What joining did to dirty and young.
fn joined<G: Granule, E: Executor>(
    replay: &mut Replay<G, E>,
    range: &Range<u64>,
    parts: &[Leaf],
    merge: Merge,
) {
    let (dirty, young) = (parts.iter().any(Leaf::dirty), parts.iter().any(Leaf::young));
    replay.oracle.change_mapped(range, |attributes| match merge {
        Merge::Uniform => {}
        Merge::Union => (attributes.dirty, attributes.young) = (dirty, young),
        Merge::Harvest => (attributes.dirty, attributes.young) = (false, young),
    });
}

/// Cuts groups into their members.
fn members<G: Granule>(leaves: &[Leaf]) -> Vec<(u64, u64, bool, bool)> {
    let mut members = Vec::new();
    for leaf in leaves {
        let size = G::size(leaf.level);
        let each = (0..leaf.bytes / size).map(|member| member * size);
        members.extend(each.map(|at| (leaf.ipa + at, leaf.oa + at, leaf.dirty(), leaf.young())));
    }
    members
}

/// The stretches that leaves in ascending order cover; one for each time where they overlap.
fn stretches(leaves: &[Leaf]) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for leaf in leaves {
        match stretches.last_mut() {
            Some(last) if last.end == leaf.ipa => last.end += leaf.bytes,
            _ => stretches.push(leaf.range()),
        }
    }
    stretches
}

/// Two leaves may say the same in different bits (dirty in hardware's bit or in software's); `Uniform` may
/// refuse those, nothing else may refuse what qualifies.
fn check_refusal(refusal: Refusal, qualifies: bool, merge: Merge) {
    let excused = merge == Merge::Uniform && matches!(refusal, Refusal::Uneven(_));
    assert!(!qualifies || excused, "{refusal} where the leaves qualify");
}

pub(crate) fn fold<G: Granule, E: Executor>(replay: &mut Replay<G, E>, ipa: u64, level: Level, merge: Merge) {
    let config = *replay.tables.config();
    let members_of_group = config.group(level);
    let bytes = G::size(level) * members_of_group as u64;
    let start = ipa - ipa % bytes;
    let range = start..start.saturating_add(bytes);
    let parts = replay.leaves(&range, |_| true);
    let qualifies = members_of_group > 1
        && level >= config.largest_leaf()
        && parts.iter().all(|leaf| leaf.level == level && !leaf.is_group())
        && qualify(replay, &parts, &range, merge);
    let mut visits = Vec::new();
    match replay.tables.fold(ipa, level, merge, |leaf| visits.push(leaf)) {
        Ok(harvest) => {
            assert!(qualifies, "folded what does not qualify");
            assert_eq!(visits, parts);
            assert_eq!(harvest, sum::<G>(&parts));
            assert!(replay.leaves(&range, |_| true).iter().all(Leaf::is_group));
            joined(replay, &range, &parts, merge);
        }
        Err(refusal) => {
            check_refusal(refusal, qualifies, merge);
            assert_eq!(visits, []);
        }
    }
}

pub(crate) fn collapse<G: Granule, E: Executor>(
    replay: &mut Replay<G, E>,
    ipa: u64,
    level: Level,
    merge: Merge,
) {
    let config = *replay.tables.config();
    let bytes = G::size(level);
    let start = ipa - ipa % bytes;
    let range = start..start.saturating_add(bytes);
    let parts = replay.leaves(&range, |_| true);
    let qualifies = !level.is_last()
        && level >= config.largest_leaf()
        && parts.iter().all(|leaf| leaf.level == level.next())
        && qualify(replay, &parts, &range, merge);
    let mut visits = Vec::new();
    match replay.tables.collapse(ipa, level, merge, |leaf| visits.push(leaf)) {
        Ok(harvest) => {
            assert!(qualifies, "collapsed what does not qualify");
            assert_eq!(members::<G>(&visits), members::<G>(&parts));
            assert_eq!(harvest, sum::<G>(&parts));
            let [block] = replay.leaves(&range, |_| true)[..] else { panic!("not one block") };
            assert_eq!((block.range(), block.level, block.is_group()), (range.clone(), level, false));
            joined(replay, &range, &parts, merge);
        }
        Err(refusal) => {
            check_refusal(refusal, qualifies, merge);
            assert_eq!(visits, []);
        }
    }
}

pub(crate) fn optimise<G: Granule, E: Executor>(
    replay: &mut Replay<G, E>,
    range: Range<u64>,
    merge: Merge,
    expected: Option<Error>,
) -> Option<Error> {
    let before = replay.leaves(&range, |_| true);
    let mut visits = Vec::new();
    let result = replay.tables.optimise(range.clone(), merge, |leaf| visits.push(leaf));
    replay.judge(result, expected, |replay, done| {
        let mut parts = before.iter().peekable();
        let mut harvested = Vec::new();
        for leaf in replay.leaves(&range, |_| true) {
            let mut within = Vec::new();
            while let Some(&part) = parts.next_if(|part| part.range().end <= leaf.range().end) {
                within.push(part);
            }
            assert_eq!(within.first().map(|part| part.ipa), Some(leaf.ipa), "a leaf was cut");
            if within.len() > 1 {
                assert!(qualify(replay, &within, &leaf.range(), merge), "joined what does not qualify");
                assert!(range.start <= leaf.ipa && leaf.range().end <= range.end, "joined beyond the range");
                joined(replay, &leaf.range(), &within, merge);
                harvested.extend(within.into_iter().filter(Leaf::dirty));
            }
        }
        if merge == Merge::Harvest {
            visits.retain(Leaf::dirty);
            // What is joined in several steps is handed out in the order of the steps.
            visits.sort_by_key(|leaf| leaf.ipa);
            assert_eq!(
                stretches(&visits),
                stretches(&harvested),
                "dirty parts were not handed out once each"
            );
        }
        assert_eq!(done.harvest.dirty, visits.iter().any(Leaf::dirty));
        let again = replay.tables.optimise(range.clone(), merge, |_| {}).expect("as before");
        assert_eq!((again.folded, again.collapsed, again.emptied), (0, 0, 0), "something was left to join");
    })
}
