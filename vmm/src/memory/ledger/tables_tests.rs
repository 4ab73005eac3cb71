//! The tables of the ledger against the same ones that are neither packed nor worked on in pieces.

use proptest::prelude::*;
use stage2::{Content, HeapFrames};

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RAM: Range<u64> = GIB..4 * GIB;

/// The same tables, not packed and not in pieces.
type Plain<G> = stage2::Tables<G, HeapFrames<G>, NoMmu>;

#[derive(Clone, Copy, Debug)]
enum Step {
    Populate,
    Take(Marker),
    Hold,
    LetGo,
    Dirty,
    Collect,
    Age,
    Join,
    Read,
    TearDown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Populate),
        2 => Just(Step::Take(Marker::Vacant)),
        2 => Just(Step::Take(Marker::Released)),
        2 => Just(Step::Hold),
        2 => Just(Step::LetGo),
        2 => Just(Step::Dirty),
        2 => Just(Step::Collect),
        1 => Just(Step::Age),
        1 => Just(Step::Join),
        1 => Just(Step::Read),
        1 => prop::bool::weighted(0.1).prop_map(|all| if all { Step::TearDown } else { Step::Read }),
    ]
}

/// A range that begins and ends at a page, a group, a block or a GiB, and not seldom a little beside it.
fn range() -> impl Strategy<Value = Range<u64>> {
    let size = prop::sample::select(&[64 << 10, 2 * MIB, 32 * MIB, 64 * MIB, 512 * MIB, GIB][..]);
    let bytes = RAM.end - RAM.start;
    (size, 0..bytes, 1..5u64, 0..3u64, 0..3u64).prop_map(move |(size, at, times, before, behind)| {
        let start = (RAM.start + at / size * size + before * (64 << 10)).min(RAM.end - size);
        start..(start + times * size + behind * (64 << 10)).min(RAM.end)
    })
}

/// Every other page of the granule, in a part of RAM: a table for each block.
fn every_other(page: u64, start: u64) -> impl Iterator<Item = Range<u64>> {
    (start..start + 160 * MIB).step_by(2 * page as usize).map(move |at| at..at + page)
}

fn swap(from: Marker, to: Marker) -> impl Fn(Option<Marker>) -> Option<Marker> {
    move |marker| if marker == Some(from) { Some(to) } else { marker }
}

/// A harvest, the bytes that changed, and the leaves that were handed out.
type Answer = (Harvest, u64, Vec<Leaf>);

fn on_ledger(tables: &mut Tables, step: Step, range: Range<u64>) -> Result<Answer, Error> {
    let (mut harvest, mut bytes, mut leaves) = (Harvest::default(), 0, Vec::new());
    let visit = |leaf| leaves.push(leaf);
    match step {
        Step::Populate => {
            tables.map(range.clone(), range.start - RAM.start, &Attributes::RAM.dirty())?;
            tables.join(range)?;
        }
        Step::Take(leave) => harvest = tables.take(range, leave, visit)?,
        Step::Hold => bytes = tables.remark(range, swap(Marker::Vacant, Marker::Released))?,
        Step::LetGo => bytes = tables.remark(range, swap(Marker::Released, Marker::Vacant))?,
        Step::Dirty => bytes = tables.mark_dirty(range)?,
        Step::Collect => harvest = tables.collect_dirty(range, visit)?,
        Step::Age => harvest = tables.age(range, visit)?,
        Step::Join => tables.join(range)?,
        Step::Read => tables.leaves(range, visit)?,
        Step::TearDown => harvest = tables.tear_down(visit),
    }
    Ok((harvest, bytes, leaves))
}

fn on_plain<G: Granule>(of: &mut Plain<G>, step: Step, range: Range<u64>) -> Result<Answer, Error> {
    let (mut harvest, mut bytes, mut leaves) = (Harvest::default(), 0, Vec::new());
    let visit = |leaf| leaves.push(leaf);
    match step {
        Step::Populate => {
            let oa = range.start - RAM.start;
            of.map(range.clone(), oa, &Attributes::RAM.dirty(), Existing::Keep)?;
            of.optimise(range, Merge::Uniform, |_| {})?;
        }
        Step::Take(leave) => harvest = of.get_and_clear(range, Clear::leaving(leave), visit)?,
        Step::Hold => bytes = of.remark(range, swap(Marker::Vacant, Marker::Released))?,
        Step::LetGo => bytes = of.remark(range, swap(Marker::Released, Marker::Vacant))?,
        Step::Dirty => bytes = of.mark(range, Marks { dirty: true, young: true })?,
        Step::Collect => harvest = of.collect_dirty(range, &mut of.gather(), visit)?,
        Step::Age => harvest = of.age(range, &mut of.gather(), visit)?,
        Step::Join => drop(of.optimise(range, Merge::Uniform, |_| {}).map(|_| ())),
        Step::Read => of.leaves(range, visit)?,
        Step::TearDown => harvest = of.tear_down(visit),
    }
    Ok((harvest, bytes, leaves))
}

/// Runs of one content, across pieces.
fn merged(run: Run, runs: &mut Vec<Run>) {
    let follows = |last: &Run| match (last.content, run.content) {
        (Content::Mapped { oa: a, attributes: x }, Content::Mapped { oa: b, attributes: y }) => {
            a + last.bytes() == b && x == y
        }
        (a, b) => a == b,
    };
    match runs.last_mut().filter(|last| follows(last)) {
        Some(last) => last.range.end = run.range.end,
        None => runs.push(run),
    }
}

fn differ<G: Granule>(steps: &[(Step, Range<u64>)], torn: u64) -> Result<(), TestCaseError> {
    let mut tables = Tables::new(G::SIZE, RAM.end).unwrap();
    let config = Config::<G>::passive(bits(RAM.end)).unwrap();
    let mut plain = Plain::<G>::new(config, HeapFrames::new(), NoMmu).unwrap();
    tables.remark(RAM, |_| Some(Marker::Vacant)).unwrap();
    plain.remark(RAM, |_| Some(Marker::Vacant)).unwrap();
    for page in every_other(G::SIZE, RAM.start + torn) {
        on_ledger(&mut tables, Step::Populate, page.clone()).unwrap();
        on_plain(&mut plain, Step::Populate, page).unwrap();
    }
    for (step, range) in steps {
        let answer = on_ledger(&mut tables, *step, range.clone()).unwrap();
        prop_assert_eq!(answer, on_plain(&mut plain, *step, range.clone()).unwrap());
    }
    let all = plain.whole();
    let (mut runs, mut leaves) = (Vec::new(), Vec::new());
    tables.runs(all.clone(), |run| merged(run, &mut runs)).unwrap();
    tables.leaves(all.clone(), |leaf| leaves.push(leaf)).unwrap();
    prop_assert_eq!(runs, plain.runs(all.clone()).unwrap().collect::<Vec<_>>());
    let mut expected = Vec::new();
    plain.leaves(all, |leaf| expected.push(leaf)).unwrap();
    prop_assert_eq!(leaves, expected);
    prop_assert_eq!(tables.frame_bytes(), plain.frame_bytes(), "as many tables, packed or not");
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<(Step, Range<u64>)>> {
    prop::collection::vec((step(), range()), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nobody_can_tell_that_tables_of_4k_are_packed_and_worked_on_in_pieces(
        steps in steps(), torn in 0..1024 * MIB / (64 << 10),
    ) {
        differ::<G4K>(&steps, torn * (64 << 10))?;
    }

    #[test]
    fn nobody_can_tell_that_tables_of_16k_are_packed_and_worked_on_in_pieces(steps in steps()) {
        differ::<G16K>(&steps, 480 * MIB)?;
    }

    #[test]
    fn nobody_can_tell_that_tables_of_64k_are_packed_and_worked_on_in_pieces(steps in steps()) {
        differ::<G64K>(&steps, 480 * MIB)?;
    }
}

#[test]
fn a_range_that_is_refused_changes_nothing() {
    let mut tables = Tables::new(0x1000, RAM.end).unwrap();
    tables.map(RAM.start..RAM.start + 4096, 0, &Attributes::RAM).unwrap();
    for wrong in [RAM.start..RAM.start + 512 * MIB + 1, RAM.start..1 << 40, RAM.end..RAM.end] {
        assert!(tables.take(wrong.clone(), Marker::Vacant, |_| {}).is_err(), "{wrong:x?}");
        let mut leaves = 0;
        tables.leaves(RAM, |_| leaves += 1).unwrap();
        assert_eq!(leaves, 1, "{wrong:x?}");
    }
}
