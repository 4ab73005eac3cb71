//! Teardown: everything is returned, every dirty page reported, all frames come back, with one invalidation at most.

use core::ops::Range;

use arrayvec::ArrayVec;
use stage2::{Attributes, Clear, Granule, HardwareUpdate, Harvest, Leaf};

use super::Suite;
use super::dirty::{how, with_update};
use super::layout::{Kind, Place};
use crate::bare::bed;
use crate::bare::guest::Guest;
use crate::bare::payload::{self, Routine};
use crate::bare::team::Team;
use crate::bare::vcpu::{Answer, Vcpu};
use crate::fault;
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, fail};

/// By `tear_down`, and by `get_and_clear` of everything.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for update in [HardwareUpdate::Dirty, HardwareUpdate::None] {
        let (kib, how) = (kib::<G>(), how(update));
        suite.test(format_args!("teardown: {kib}K: tear_down, writes {how}"), |team| {
            gone::<G>(team, update, true)
        });
        suite.test(format_args!("teardown: {kib}K: get_and_clear of all, writes {how}"), |team| {
            gone::<G>(team, update, false)
        });
    }
}

fn gone<G: Granule>(team: &Team, update: HardwareUpdate, by_name: bool) -> Outcome {
    let guest = Guest::<G>::new(team, with_update(update)?)?;
    // Pages, groups and a block, apart from each other.
    let mut places = ArrayVec::<Place, 3>::new();
    for (kind, count, ipa) in
        [(Kind::PAGE, 5, 3 << 30), (Kind::GROUP, 3, (3 << 30) + (64 << 20)), (Kind::BLOCK, 1, 1 << 30)]
    {
        if let Some(place) = Place::find(guest.config(), kind, count) {
            places.push(Place { ipa, ..place });
        }
    }
    ensure!(places.len() == 3, "only {} places", places.len());
    for place in &places {
        guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM)?;
    }
    // Some of them are written to: in each place the first address, and one in the middle.
    let mut written = ArrayVec::<u64, 8>::new();
    let mut vcpu = Vcpu::new();
    for place in &places {
        for address in [place.ipa_at(0x20), place.ipa_at((place.touchable() / 2) & !0xfff)] {
            let result = vcpu.run(Routine::Write, &[address, address], |fault| {
                let expected = fault.kind() == fault::Kind::Permission;
                if expected && guest.resolve(fault).is_ok() { Answer::Retry } else { Answer::Stop }
            });
            if let Err(fault) = result {
                fail!("write at {address:#x}: {fault:?}");
            }
            written.push(address);
        }
    }
    let home = payload::HOME..payload::HOME + bed::HOME;
    let total: u64 = places.iter().map(|place| place.bytes).sum::<u64>() + bed::HOME;
    let before = guest.issued();
    let mut seen = Seen { written: &written, home, found: 0, wrong: None, bytes: 0 };
    let harvest = take_all(&guest, by_name, |leaf| seen.leaf(&leaf));
    let Seen { found, wrong, bytes, .. } = seen;
    ensure!(wrong.is_none(), "{wrong:x?} was reported dirty or clean, and is the other");
    ensure!(found == written.len(), "{found} of {} writes were reported", written.len());
    ensure!(
        harvest.bytes == total && bytes == total && harvest.dirty,
        "{harvest:?} for {total:#x} bytes, {bytes:#x} seen"
    );
    guest.flush();
    let issued = guest.issued().since(before);
    ensure!((issued.sequences, issued.tlbis(), issued.whole) == (1, 1, 1), "{issued:?}, not one of the VMID");
    let (held, root) = (guest.read().frame_bytes(), guest.config().root_size());
    ensure!(held == root, "{held:#x} bytes of frames are held after the flush, the root has {root:#x}");
    // Nothing is owed a second time, and nothing is there.
    let again = take_all(&guest, by_name, |_| {});
    guest.flush();
    ensure!(again == Harvest::default(), "{again:?} was found afterwards");
    ensure!(guest.issued().since(before).sequences == 1, "an invalidation for nothing");
    faults_everywhere(&guest, &written)
}

fn take_all<G: Granule>(guest: &Guest<'_, G>, by_name: bool, visit: impl FnMut(Leaf)) -> Harvest {
    let mut tables = guest.write();
    let whole = tables.whole();
    if by_name {
        tables.tear_down(visit)
    } else {
        tables.get_and_clear(whole, Clear::FULL, visit).unwrap_or_default()
    }
}

/// What the teardown hands out.
struct Seen<'a> {
    written: &'a [u64],
    home: Range<u64>,
    found: usize,
    wrong: Option<Range<u64>>,
    bytes: u64,
}

impl Seen<'_> {
    fn leaf(&mut self, leaf: &Leaf) {
        let writes = self.written.iter().filter(|address| leaf.range().contains(address)).count();
        self.bytes += leaf.bytes;
        self.found += writes;
        let expected = writes > 0 || self.home.contains(&leaf.ipa);
        if leaf.dirty() != expected {
            self.wrong = Some(leaf.range());
        }
    }
}

/// No CPU reaches anything: not even the payload's own first instruction.
fn faults_everywhere<G: Granule>(guest: &Guest<'_, G>, written: &[u64]) -> Outcome {
    let wrong = core::sync::atomic::AtomicU64::new(0);
    guest.team().all(&|_| {
        let mut vcpu = Vcpu::new();
        for &address in written {
            let entry = Routine::Read.entry();
            let right = match vcpu.read(address) {
                Err(fault) => fault.kind() == fault::Kind::Translation && fault.ipa() == entry,
                Ok(_) => false,
            };
            wrong.fetch_add(u64::from(!right), core::sync::atomic::Ordering::Relaxed);
        }
    });
    let wrong = wrong.into_inner();
    ensure!(wrong == 0, "{wrong} accesses went on without any translation");
    Ok(())
}
