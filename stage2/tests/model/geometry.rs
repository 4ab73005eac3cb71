//! Geometries: which processors and configurations the tests run through.

use proptest::prelude::*;
use stage2::{BbmLevel, Config, Features, Granule, HardwareUpdate, Level, Options, start_levels};

use crate::regime::Processor;

/// One processor and one configuration on it; the granule is a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) ipa_bits: u32,
    /// Number of the start level; the crate's choice where absent.
    pub(crate) start: Option<i32>,
    pub(crate) oa_bits: u32,
    pub(crate) ds: bool,
    pub(crate) fwb: bool,
    pub(crate) xnx: bool,
    pub(crate) contiguous: bool,
    pub(crate) bbm: BbmLevel,
    pub(crate) update: HardwareUpdate,
    pub(crate) range: bool,
    pub(crate) ttl: bool,
    /// TLBIs by address before the whole VMID goes.
    pub(crate) limit: u32,
}

impl Geometry {
    /// The plainest one: everything of FEAT_HAFDBS, nothing of FEAT_BBM.
    pub(crate) const fn plain(ipa_bits: u32) -> Self {
        Self {
            ipa_bits,
            start: None,
            oa_bits: 48,
            ds: false,
            fwb: false,
            xnx: false,
            contiguous: true,
            bbm: BbmLevel::Level0,
            update: HardwareUpdate::Dirty,
            range: true,
            ttl: true,
            limit: 512,
        }
    }

    /// The crate's configuration, if the crate accepts it.
    pub(crate) fn config<G: Granule>(&self) -> Option<Config<G>> {
        let features = Features {
            xnx: self.xnx,
            ttl: self.ttl,
            tlbi_range: self.range,
            bbm: self.bbm,
            update: self.update,
            ..Features::ALL
        };
        let mut options = Options::new(self.ipa_bits);
        options.start = self.start.and_then(Level::new);
        options.oa_bits = Some(self.oa_bits);
        options.ds = self.ds;
        options.fwb = self.fwb;
        options.contiguous = self.contiguous;
        options.bbm = Some(self.bbm);
        options.tlbi_limit = self.limit;
        Config::new(&features, options).ok()
    }

    pub(crate) fn processor(&self) -> Processor {
        Processor { bbm: self.bbm as u32, fwb: self.fwb, xnx: self.xnx }
    }

    /// Where the tables stand: high up where output addresses have 52 bits.
    pub(crate) fn base(&self) -> u64 {
        match self.oa_bits {
            52 => 0x000d_4000_0000_0000,
            48 => 0x0000_5000_0000_0000,
            bits => 1 << (bits - 1),
        }
    }
}

/// Any geometry of granule `G` that the crate accepts.
pub(crate) fn geometries<G: Granule>() -> impl Strategy<Value = Geometry> {
    let starts: Vec<Option<i32>> =
        start_levels::<G>().map(|level| Some(level.number())).chain([None, None]).collect();
    let ipa_bits = prop_oneof![3 => 32u32..=40, 3 => 41u32..=48, 1 => 49u32..=52];
    let oa_bits = prop_oneof![Just(36u32), Just(44), Just(48), Just(48), Just(52)];
    let bbm = prop_oneof![
        2 => Just(BbmLevel::Level0),
        1 => Just(BbmLevel::Level1),
        1 => Just(BbmLevel::Level2),
        1 => Just(BbmLevel::Level3),
    ];
    let update = prop_oneof![
        1 => Just(HardwareUpdate::None),
        1 => Just(HardwareUpdate::AccessFlag),
        3 => Just(HardwareUpdate::Dirty),
    ];
    let sizes = (ipa_bits, proptest::sample::select(starts), oa_bits, any::<bool>());
    let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.85), any::<bool>(), any::<bool>());
    let limits = prop_oneof![Just(512u32), Just(8)];
    (sizes, flags, bbm, update, limits)
        .prop_map(|((ipa_bits, start, oa_bits, ds), flags, bbm, update, limit)| {
            let (fwb, xnx, contiguous, range, ttl) = flags;
            // Long addresses need the long formats; and 64K has no DS.
            let oa_bits = if ipa_bits > 48 { 52 } else { oa_bits };
            let ds = G::SHIFT < 16 && ds;
            let mut geometry = Geometry {
                ipa_bits,
                start,
                oa_bits,
                ds,
                fwb,
                xnx,
                contiguous,
                bbm,
                update,
                range,
                ttl,
                limit,
            };
            // A start level that doesn't suit the input size: the crate's own choice instead.
            if geometry.config::<G>().is_none() {
                geometry.start = None;
            }
            if geometry.config::<G>().is_none() {
                // An input size that only the other start level reaches.
                geometry.ds = G::SHIFT < 16;
            }
            geometry
        })
        .prop_filter("the crate refuses it", |geometry| geometry.config::<G>().is_some())
}
