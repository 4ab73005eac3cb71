//! Sequences of operations, decoded from bytes and replayed on tables and on an oracle.
//!
//! What the fuzzer runs and what the tests replay is this one module:
//!
//! - `operation`: bytes become operations;
//! - `arena`: frames that notice use after free, and run out on demand;
//! - `oracle`: what every page says, without any notion of tables;
//! - `structure`: what must hold of raw descriptors, whatever has happened;
//! - `replay`: one operation on both, and the comparison; `join`: the same for what joins leaves.

mod arena;
mod join;
mod operation;
mod oracle;
mod replay;
mod structure;

use arbitrary::Unstructured;
use stage2::{BbmLevel, Config, Executor, Features, G4K, G16K, G64K, Granule, Level, NoMmu, Options};

use arena::Arena;
use operation::Decoder;
use replay::{Replay, Strict};

/// Operations of one sequence, at most.
const OPERATIONS: usize = 48;

/// Decodes `data` and replays it. Panics where tables and oracle disagree.
pub(crate) fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let geometry: u8 = u.arbitrary().unwrap_or(0);
    let options = |ipa_bits, bbm| Options { bbm: Some(bbm), ..Options::new(ipa_bits) };
    let no_range = Features { tlbi_range: false, ..Features::ALL };
    match geometry % 12 {
        0 => replay::<G4K, _>(&Features::ALL, Options::new(32), NoMmu, u),
        1 => replay::<G4K, _>(&Features::ALL, options(39, BbmLevel::Level0), Strict::default(), u),
        2 => replay::<G4K, _>(&no_range, options(48, BbmLevel::Level1), Strict::default(), u),
        3 => replay::<G4K, _>(&Features::ALL, options(52, BbmLevel::Level2), Strict::default(), u),
        4 => replay::<G16K, _>(&Features::ALL, options(40, BbmLevel::Level3), Strict::default(), u),
        5 => replay::<G16K, _>(&Features::ALL, Options { ds: true, ..Options::new(47) }, NoMmu, u),
        6 => replay::<G64K, _>(&Features::ALL, options(42, BbmLevel::Level0), Strict::default(), u),
        7 => replay::<G64K, _>(&Features::ALL, Options::new(52), NoMmu, u),
        8 => replay::<G4K, _>(&Features::ALL, Options { contiguous: false, ..Options::new(36) }, NoMmu, u),
        9 => {
            let largest_leaf = Some(Level::L3);
            let options = Options { largest_leaf, ..options(36, BbmLevel::Level1) };
            replay::<G4K, _>(&Features::ALL, options, Strict::default(), u);
        }
        10 => {
            let start = Some(Level::L1);
            let options = Options { start, fwb: true, tlbi_limit: 3, ..options(33, BbmLevel::Level1) };
            replay::<G4K, _>(&no_range, options, Strict::default(), u);
        }
        _ => replay::<G64K, _>(&Features::ALL, options(36, BbmLevel::Level1), Strict::default(), u),
    }
}

fn replay<G: Granule, E: Executor>(
    features: &Features,
    options: Options,
    executor: E,
    mut u: Unstructured<'_>,
) {
    let config = Config::<G>::new(features, options).expect("the processor of the tests has everything");
    // The highest address bits that descriptors can hold are in use, so that their places are tested.
    let base = 3 << (config.oa_bits() - 2);
    let (arena, allowance, in_use) = Arena::new(base, G::SIZE);
    let mut replay = Replay::new(config, arena, allowance, executor);
    let decoder = Decoder::new(&config);
    for _ in 0..OPERATIONS {
        if u.is_empty() {
            break;
        }
        let Ok(operation) = decoder.operation(&mut u) else { break };
        if std::env::var_os("SEQUENCE").is_some() {
            eprintln!("{operation:x?}");
        }
        replay.apply(&operation);
    }
    drop(replay);
    assert_eq!(in_use.get(), 0, "frames are lost when the tables are dropped");
}
