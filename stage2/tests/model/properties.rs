//! Properties: random operations, over all geometries, against the flat map and the TLB.
//!
//! `PROPTEST_CASES` raises the number of cases. Seeds that once failed are kept and run first.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use stage2::{G4K, G16K, G64K, Granule};

use crate::geometry::{Geometry, geometries};
use crate::hardware::Temper;
use crate::rig::{Cpu, Nobody, Processor, Rig};
use crate::sequence::{Step, run, steps};

fn hold<G: Granule, E: Processor>(
    geometry: &Geometry,
    steps: &[Step],
    seed: u64,
    sticky: bool,
) -> Result<(), TestCaseError> {
    let temper = if sticky { Temper::Sticky } else { Temper::Random };
    let frames = if G::SHIFT == 16 { 12 } else { 32 };
    let fail = |at: usize, violation| TestCaseError::fail(format!("step {at}: {violation:x?}"));
    let mut rig = Rig::<G, E>::new(geometry, frames, temper, seed).map_err(|v| fail(0, v))?;
    for (at, step) in steps.iter().enumerate() {
        run(&mut rig, step).map_err(|violation| fail(at, violation))?;
    }
    rig.read().map_err(|violation| fail(steps.len(), violation))?;
    rig.finish().map_err(|violation| fail(steps.len(), violation))
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4096, ..ProptestConfig::default() })]

    #[test]
    fn live_tables_of_4k_hold(
        geometry in geometries::<G4K>(), steps in steps(40), seed: u64, sticky: bool,
    ) {
        hold::<G4K, Cpu>(&geometry, &steps, seed, sticky)?;
    }

    #[test]
    fn live_tables_of_16k_hold(
        geometry in geometries::<G16K>(), steps in steps(40), seed: u64, sticky: bool,
    ) {
        hold::<G16K, Cpu>(&geometry, &steps, seed, sticky)?;
    }

    #[test]
    fn live_tables_of_64k_hold(
        geometry in geometries::<G64K>(), steps in steps(40), seed: u64, sticky: bool,
    ) {
        hold::<G64K, Cpu>(&geometry, &steps, seed, sticky)?;
    }

    #[test]
    fn passive_tables_of_4k_hold(geometry in geometries::<G4K>(), steps in steps(40)) {
        hold::<G4K, Nobody>(&geometry, &steps, 0, false)?;
    }

    #[test]
    fn passive_tables_of_16k_hold(geometry in geometries::<G16K>(), steps in steps(40)) {
        hold::<G16K, Nobody>(&geometry, &steps, 0, false)?;
    }

    #[test]
    fn passive_tables_of_64k_hold(geometry in geometries::<G64K>(), steps in steps(40)) {
        hold::<G64K, Nobody>(&geometry, &steps, 0, false)?;
    }
}
