//! Which tables a CPU can walk: every granule with every start level, at the ends of what each resolves.

use arrayvec::ArrayVec;
use stage2::{Config, Features, Granule, Level, Options, input_bits, start_levels};

/// The smallest input size that [`Options`] takes.
const LEAST_BITS: u32 = 32;

/// One kind of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Where walks start.
    pub start: Level,
    /// Input bits.
    pub ipa_bits: u32,
}

/// All shapes of a granule that a CPU with these features can walk: for each start level the fewest input
/// bits and the most, concatenated tables with the latter.
pub fn shapes<G: Granule>(features: &Features) -> ArrayVec<Shape, 10> {
    let mut shapes = ArrayVec::new();
    for start in start_levels::<G>() {
        let bits = input_bits::<G>(start);
        let (least, most) = (LEAST_BITS.max(*bits.start()), features.pa_bits.min(*bits.end()));
        for ipa_bits in [least, most] {
            let shape = Shape { start, ipa_bits };
            let possible = least <= most && Config::<G>::new(features, options(shape)).is_ok();
            if possible && !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }
    shapes
}

/// The shape with the start level that `stage2` itself chooses for `ipa_bits`.
pub const fn options(shape: Shape) -> Options {
    Options { start: Some(shape.start), ..Options::new(shape.ipa_bits) }
}

/// KiB of a granule, as its name has it.
pub const fn kib<G: Granule>() -> u64 {
    G::SIZE >> 10
}

#[cfg(test)]
mod tests {
    use stage2::{G4K, G16K, G64K, GranuleSupport};

    use super::*;

    #[test]
    fn a_full_cpu_has_every_start_level_that_32_bits_reach() {
        let levels = |shapes: ArrayVec<Shape, 10>| {
            shapes.iter().map(|shape| (shape.start.number(), shape.ipa_bits)).collect::<Vec<_>>()
        };
        let all = &Features::ALL;
        assert_eq!(
            levels(shapes::<G4K>(all)),
            [(2, 32), (2, 34), (1, 32), (1, 43), (0, 40), (0, 52), (-1, 49), (-1, 52)]
        );
        assert_eq!(levels(shapes::<G16K>(all)), [(2, 32), (2, 40), (1, 37), (1, 51), (0, 48), (0, 52)]);
        assert_eq!(levels(shapes::<G64K>(all)), [(3, 32), (3, 33), (2, 32), (2, 46), (1, 43), (1, 52)]);
    }

    #[test]
    fn a_small_cpu_has_what_its_physical_size_allows() {
        let features = Features { pa_bits: 40, g16k: GranuleSupport::None, ..Features::ALL };
        assert!(shapes::<G16K>(&features).is_empty());
        assert!(
            shapes::<G4K>(&features).iter().all(|shape| shape.ipa_bits <= 40 && shape.start >= Level::L1)
        );
    }
}
