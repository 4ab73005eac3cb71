//! What must hold of the tables themselves, read as a walker reads them: raw descriptors in frames.

use std::sync::atomic::Ordering::Relaxed;

use stage2::{Descriptor, Entry, Executor, Frames, Granule, Level, Tables};

use super::arena::Arena;

/// nT, which only stands in a block while it is being replaced.
const NT: u64 = 1 << 16;
const CONTIGUOUS: u64 = 1 << 52;

/// Checks every table that is linked and, right after a flush, that the frames are all accounted for.
pub(crate) fn check<G: Granule, E: Executor>(tables: &Tables<G, Arena, E>, flushed: bool) {
    let config = tables.config();
    let root = tables.frames().table(tables.root(), config.root_entries());
    let linked = 1 + check_table(tables, root, config.start(), 0);
    let bytes = config.root_size() + (linked - 1) * G::SIZE;
    if flushed {
        assert_eq!(tables.frame_bytes(), bytes, "frames linked and frames held differ");
    } else {
        // The rest has been unlinked, and waits for the flush.
        assert!(tables.frame_bytes() >= bytes, "more frames are linked than held");
    }
}

/// Returns the tables below.
fn check_table<G: Granule, E: Executor>(
    tables: &Tables<G, Arena, E>,
    table: &[Entry],
    level: Level,
    base: u64,
) -> u64 {
    let config = tables.config();
    let (size, members, format) = (G::size(level), config.group(level), config.format());
    let word = |index: usize| Descriptor::new(table[index].load(Relaxed));
    let mut below = 0;
    let mut index = 0;
    while index < table.len() {
        let ipa = base + index as u64 * size;
        let descriptor = word(index);
        if descriptor.is_table(level) {
            let child = tables.frames().table(format.table(descriptor.bits()), G::ENTRIES);
            assert!(!says_one_invalid_thing(child), "the table at {ipa:#x} below {level} is superfluous");
            below += 1 + check_table(tables, child, level.next(), ipa);
        } else if descriptor.is_leaf(level) {
            assert!(level >= config.largest_leaf(), "a leaf at {level} {ipa:#x}");
            assert!(level.is_last() || descriptor.bits() & NT == 0, "nT is left at {ipa:#x}");
            let oa = format.leaf::<G>(descriptor.bits(), level);
            if descriptor.contiguous() {
                assert!(members > 1, "a group where there are none: {level} {ipa:#x}");
                assert_eq!(index % members, 0, "a group begins at {level} {ipa:#x}");
                assert_eq!(oa % (size * members as u64), 0, "the group at {ipa:#x} is misaligned in output");
                let attributes = descriptor.bits() & !format.encode(oa);
                for member in 0..members {
                    let expected = attributes | format.encode(oa + member as u64 * size);
                    assert_eq!(
                        word(index + member),
                        Descriptor::new(expected),
                        "member {member} of the group at {level} {ipa:#x}"
                    );
                }
                index += members;
                continue;
            }
        } else {
            let bits = descriptor.bits();
            assert_eq!(bits & (1 | CONTIGUOUS), 0, "invalid at {ipa:#x}: {descriptor:?}");
            assert!(bits == 0 || descriptor.marker().is_some(), "neither marker nor nothing: {descriptor:?}");
        }
        index += 1;
    }
    below
}

fn says_one_invalid_thing(table: &[Entry]) -> bool {
    let first = table[0].load(Relaxed);
    first & 1 == 0 && table.iter().all(|entry| entry.load(Relaxed) == first)
}
