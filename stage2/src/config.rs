//! Configuration: one consistent choice among what the processor offers, and the two registers that tell
//! the hardware of it.
//!
//! Source: DDI 0487, D24.2.209 (VTCR_EL2), D24.2.210 (VTTBR_EL2), D8.2 (start levels, concatenation).

use core::fmt;
use core::marker::PhantomData;

use crate::attributes::Encoding;
use crate::descriptor::Format;
use crate::features::{BbmLevel, Features, GranuleSupport, HardwareUpdate};
use crate::geometry::{Granule, Level, input_bits, start_level, start_levels};

/// What the user of the tables asks for. Everything that the processor must offer for it is checked by
/// [`Config::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Input address size in bits, 32 to 52. Ask for the smallest that fits.
    pub ipa_bits: u32,
    /// Output address size in bits; the processor's (and the format's) where absent.
    pub oa_bits: Option<u32>,
    /// Start level; the deepest that concatenation reaches where absent.
    pub start: Option<Level>,
    /// Set the Contiguous bit where a group qualifies.
    pub contiguous: bool,
    /// The shallowest level at which a leaf may stand (level 3 for pages only); no limit where absent.
    pub largest_leaf: Option<Level>,
    /// Let stage 2 force the memory type (`HCR_EL2.FWB`).
    pub fwb: bool,
    /// Use `VTCR_EL2.DS` = 1 even where 48 bits would do; it is used by itself where they don't.
    pub ds: bool,
    /// What hardware shall do about access and dirty state; what the processor offers where absent.
    pub update: Option<HardwareUpdate>,
    /// How far to go without break-before-make; what the processor offers, but no further than level 1,
    /// where absent (level 2 obliges the monitor to answer conflict aborts).
    pub bbm: Option<BbmLevel>,
    /// Invalidations by address, at most, before the whole VMID is invalidated instead.
    pub tlbi_limit: u32,
}

impl Options {
    /// The defaults for an input address size.
    pub const fn new(ipa_bits: u32) -> Self {
        Self {
            ipa_bits,
            oa_bits: None,
            start: None,
            contiguous: true,
            largest_leaf: None,
            fwb: false,
            ds: false,
            update: None,
            bbm: None,
            tlbi_limit: 512,
        }
    }
}

/// Why there is no such configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The processor doesn't have this granule (in KiB) at stage 2.
    Granule(u32),
    /// Input size outside 32 to 52 bits.
    IpaBits(u32),
    /// Input size beyond the physical address size.
    IpaBeyondPa {
        /// What was asked for.
        ipa_bits: u32,
        /// What the processor has.
        pa_bits: u32,
    },
    /// Output size, or physical size where none was asked for, that isn't one of 32, 36, 40, 42, 44, 48, 52.
    OaBits(u32),
    /// Output size beyond the physical address size.
    OaBeyondPa {
        /// What was asked for.
        oa_bits: u32,
        /// What the processor has.
        pa_bits: u32,
    },
    /// Addresses beyond 48 bits with a small granule, or a start level for them, need FEAT_LPA2.
    NeedsLpa2,
    /// `ds` was asked for with the 64K granule, which has no use for it.
    DsWith64K,
    /// The start level can't resolve this input size.
    Start {
        /// What was asked for.
        start: Level,
        /// The input size.
        ipa_bits: u32,
    },
    /// A start level that needs a larger physical address size.
    StartNeedsPa {
        /// What was asked for.
        start: Level,
        /// The physical address size that it needs.
        needs: u32,
    },
    /// Start level 3 with the 4K granule needs FEAT_TTST.
    NeedsTtst,
    /// No start level of the granule resolves this input size.
    NoStart(u32),
    /// FEAT_S2FWB is missing.
    NeedsFwb,
    /// FEAT_HAFDBS doesn't go that far.
    NeedsHafdbs(HardwareUpdate),
    /// FEAT_BBM doesn't go that far.
    NeedsBbm(BbmLevel),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granule(kib) => {
                write!(f, "the {kib}K granule is not available at stage 2: see ID_AA64MMFR0_EL1.TGran{kib}_2")
            }
            Self::IpaBits(bits) => write!(f, "an input size of {bits} bits is not in 32 to 52"),
            Self::IpaBeyondPa { ipa_bits, pa_bits } => {
                write!(f, "an input size of {ipa_bits} bits exceeds the physical size of {pa_bits} bits")
            }
            Self::OaBits(bits) => {
                write!(f, "an output size of {bits} bits does not exist: use 32, 36, 40, 42, 44, 48 or 52")
            }
            Self::OaBeyondPa { oa_bits, pa_bits } => {
                write!(f, "an output size of {oa_bits} bits exceeds the physical size of {pa_bits} bits")
            }
            Self::NeedsLpa2 => f.write_str(
                "addresses beyond 48 bits, and this start level, need FEAT_LPA2 with this granule",
            ),
            Self::DsWith64K => f.write_str("DS does not apply to the 64K granule: leave it out"),
            Self::Start { start, ipa_bits } => {
                write!(f, "start level {start} cannot resolve an input size of {ipa_bits} bits")
            }
            Self::StartNeedsPa { start, needs } => {
                write!(f, "start level {start} needs a physical size of at least {needs} bits")
            }
            Self::NeedsTtst => f.write_str("start level L3 needs FEAT_TTST (ID_AA64MMFR2_EL1.ST)"),
            Self::NoStart(bits) => write!(f, "no start level resolves an input size of {bits} bits"),
            Self::NeedsFwb => f.write_str("forcing memory types needs FEAT_S2FWB (ID_AA64MMFR2_EL1.FWB)"),
            Self::NeedsHafdbs(update) => {
                write!(f, "hardware update {update:?} needs FEAT_HAFDBS (ID_AA64MMFR1_EL1.HAFDBS)")
            }
            Self::NeedsBbm(level) => write!(f, "{level:?} needs FEAT_BBM (ID_AA64MMFR2_EL1.BBM)"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// A consistent configuration for granule `G`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config<G: Granule> {
    pub(crate) ipa_bits: u32,
    pub(crate) oa_bits: u32,
    pub(crate) pa_bits: u32,
    pub(crate) start: Level,
    pub(crate) largest_leaf: Level,
    pub(crate) format: Format,
    pub(crate) encoding: Encoding,
    pub(crate) contiguous: bool,
    pub(crate) update: HardwareUpdate,
    pub(crate) bbm: BbmLevel,
    pub(crate) vmid_bits: u32,
    pub(crate) ttl: bool,
    pub(crate) tlbi_range: bool,
    pub(crate) tlbi_limit: u32,
    granule: PhantomData<G>,
}

impl<G: Granule> Config<G> {
    /// The configuration that `options` ask for, on a processor with `features`.
    ///
    /// # Errors
    /// Names what is inconsistent, or what the processor lacks.
    pub fn new(features: &Features, options: Options) -> Result<Self, ConfigError> {
        let support = match G::SHIFT {
            12 => features.g4k,
            14 => features.g16k,
            _ => features.g64k,
        };
        let kib = 1 << (G::SHIFT - 10);
        if support == GranuleSupport::None {
            return Err(ConfigError::Granule(kib));
        }
        let (ipa_bits, pa_bits) = (options.ipa_bits, features.pa_bits);
        if !(32..=52).contains(&ipa_bits) {
            return Err(ConfigError::IpaBits(ipa_bits));
        }
        if ipa_bits > pa_bits {
            return Err(ConfigError::IpaBeyondPa { ipa_bits, pa_bits });
        }
        // Which format: 64K holds 52 bits by itself, the small granules only with DS = 1.
        let small = G::SHIFT < 16;
        if options.ds && !small {
            return Err(ConfigError::DsWith64K);
        }
        let wanted = options.oa_bits;
        let oa_bits = wanted.unwrap_or(pa_bits);
        if !matches!(oa_bits, 32 | 36 | 40 | 42 | 44 | 48 | 52) {
            return Err(ConfigError::OaBits(oa_bits));
        }
        if oa_bits > pa_bits {
            return Err(ConfigError::OaBeyondPa { oa_bits, pa_bits });
        }
        let lpa2 = support == GranuleSupport::Lpa2;
        let beyond_48 = ipa_bits > 48 || wanted.is_some_and(|bits| bits > 48);
        let ds = small && (options.ds || beyond_48 || options.start.is_some_and(start_needs_ds::<G>));
        if ds && !lpa2 {
            return Err(ConfigError::NeedsLpa2);
        }
        let most = if ds || !small { 52 } else { 48 };
        let oa_bits = oa_bits.min(most);
        let format = match () {
            () if ds => Format::ds::<G>(),
            () if oa_bits > 48 => Format::lpa::<G>(),
            () => Format::bits_48::<G>(),
        };

        let start = match options.start {
            Some(start) => start,
            None => start_level::<G>(ipa_bits).ok_or(ConfigError::NoStart(ipa_bits))?,
        };
        check_start::<G>(start, ipa_bits, features)?;

        if options.fwb && !features.fwb {
            return Err(ConfigError::NeedsFwb);
        }
        let update = options.update.unwrap_or(features.update);
        if update > features.update {
            return Err(ConfigError::NeedsHafdbs(update));
        }
        let bbm = options.bbm.unwrap_or(features.bbm.min(BbmLevel::Level1));
        if bbm > features.bbm {
            return Err(ConfigError::NeedsBbm(bbm));
        }
        // Level 1 and 2 hold blocks; the level above only in the 52-bit formats, and never the level
        // above that (4K level -1).
        let extended = if small { ds } else { oa_bits == 52 };
        let top = match (G::SHIFT, extended) {
            (12, true) => Level::L0,
            (12, false) | (14, true) | (16, true) => Level::L1,
            _ => Level::L2,
        };
        let largest_leaf = options.largest_leaf.map_or(top, |level| level.max(top)).max(start);
        Ok(Self {
            ipa_bits,
            oa_bits,
            pa_bits,
            start,
            largest_leaf,
            format,
            encoding: Encoding { fwb: options.fwb, xnx: features.xnx, ds },
            contiguous: options.contiguous,
            update,
            bbm,
            vmid_bits: features.vmid_bits,
            ttl: features.ttl,
            tlbi_range: features.tlbi_range,
            tlbi_limit: options.tlbi_limit,
            granule: PhantomData,
        })
    }

    /// Tables that only software reads: no processor sets limits, output addresses have 48 bits (52 with
    /// 64K, and with 16K where inputs have 48), and an output address may mean whatever the owner wants, an offset into a file say. The start level
    /// is the deepest that one table resolves: nobody waits for a walk, so small tables and large blocks
    /// count for more than few levels.
    ///
    /// # Errors
    /// [`ConfigError::IpaBits`] outside 32 to 48 bits (52 with 64K).
    pub fn passive(ipa_bits: u32) -> Result<Self, ConfigError> {
        if G::SHIFT < 16 && ipa_bits > 48 {
            return Err(ConfigError::IpaBits(ipa_bits));
        }
        let start = start_levels::<G>().find(|&level| ipa_bits <= G::shift(level) + G::STRIDE);
        Self::new(&Features::ALL, Options { start, ..Options::new(ipa_bits) })
    }

    /// Input address size in bits.
    pub const fn ipa_bits(&self) -> u32 {
        self.ipa_bits
    }

    /// Bytes of input address space.
    pub const fn ipa_size(&self) -> u64 {
        1 << self.ipa_bits
    }

    /// Output address size in bits.
    pub const fn oa_bits(&self) -> u32 {
        self.oa_bits
    }

    /// The level at which every walk starts.
    pub const fn start(&self) -> Level {
        self.start
    }

    /// The shallowest level at which a leaf may stand.
    pub const fn largest_leaf(&self) -> Level {
        self.largest_leaf
    }

    /// Where descriptors hold their output address.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// How attributes are encoded.
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whether the Contiguous bit is used.
    pub const fn contiguous(&self) -> bool {
        self.contiguous
    }

    /// What hardware does about access and dirty state.
    pub const fn update(&self) -> HardwareUpdate {
        self.update
    }

    /// How far changes go without break-before-make.
    pub const fn bbm(&self) -> BbmLevel {
        self.bbm
    }

    /// Descriptors in the start level: as many as the input size has, over all concatenated tables.
    pub fn root_entries(&self) -> usize {
        1 << (self.ipa_bits - G::shift(self.start))
    }

    /// Bytes of the start level: a whole granule at least, and aligned to itself. (Concatenated tables must
    /// be aligned to their joint size; a table smaller than a granule has the granule's alignment, which
    /// includes the 64 bytes that 52-bit addresses need.)
    pub fn root_size(&self) -> u64 {
        (self.root_entries() as u64 * 8).max(G::SIZE)
    }

    /// Members of a contiguous group at `level`; 1 where there is none, or where none would fit into the
    /// input address space.
    #[inline]
    pub fn group(&self, level: Level) -> usize {
        let members = G::group(level);
        if members > 1 && self.contiguous && G::group_size(level) <= self.ipa_size() { members } else { 1 }
    }

    /// `VTCR_EL2` for this configuration, with Write-Back, Inner Shareable table walks.
    pub fn vtcr(&self) -> u64 {
        let sl0 = match G::SHIFT {
            12 => match self.start.number() {
                3 => 0b11,
                level @ 0..=2 => (2 - level) as u64,
                // Level -1 is SL2:SL0 = 0b100.
                _ => 0b00,
            },
            _ => (3 - self.start.number()) as u64,
        };
        let sl2 = u64::from(self.start == Level::MINUS_1);
        let ps = match self.oa_bits {
            32 => 0,
            36 => 1,
            40 => 2,
            42 => 3,
            44 => 4,
            48 => 5,
            _ => 6,
        };
        u64::from(64 - self.ipa_bits) // T0SZ
            | sl0 << 6
            | 0b01 << 8 // IRGN0: Write-Back, Read- and Write-Allocate
            | 0b01 << 10 // ORGN0: the same
            | 0b11 << 12 // SH0: Inner Shareable
            | G::TG0 << 14
            | ps << 16
            | u64::from(self.vmid_bits == 16) << 19 // VS
            | u64::from(self.update >= HardwareUpdate::AccessFlag) << 21 // HA
            | u64::from(self.update >= HardwareUpdate::Dirty) << 22 // HD
            | 1 << 31 // RES1
            | u64::from(self.encoding.ds) << 32
            | sl2 << 33
    }

    /// `VTTBR_EL2` for a start-level table at physical address `root`; `None` where the VMID doesn't fit
    /// or the address can't be held.
    pub fn vttbr(&self, root: u64, vmid: u16) -> Option<u64> {
        if self.vmid_bits == 8 && vmid > 0xff || root >> 52 != 0 || root & (self.root_size() - 1) != 0 {
            return None;
        }
        // With 52-bit addresses BADDR[51:48] stands in bits 5:2, which the alignment leaves free.
        if root >> 48 != 0 && self.oa_bits != 52 {
            return None;
        }
        let low = root & ((1 << 48) - 1);
        Some(u64::from(vmid) << 48 | low | (root >> 48) << 2)
    }
}

/// Start levels that `VTCR_EL2` can only name with DS = 1.
fn start_needs_ds<G: Granule>(start: Level) -> bool {
    G::SHIFT == 14 && start == Level::L0 || start == Level::MINUS_1
}

/// DDI 0487, AArch64.S2InvalidSL and AArch64.S2InconsistentSL.
fn check_start<G: Granule>(start: Level, ipa_bits: u32, features: &Features) -> Result<(), ConfigError> {
    if !start_levels::<G>().any(|level| level == start) || !input_bits::<G>(start).contains(&ipa_bits) {
        return Err(ConfigError::Start { start, ipa_bits });
    }
    let needs = match (G::SHIFT, start.number()) {
        (12, 0) | (16, 1) => 44,
        (14, 1) => 42,
        (12, -1) | (14, 0) => 52,
        _ => 0,
    };
    if features.pa_bits < needs {
        return Err(ConfigError::StartNeedsPa { start, needs });
    }
    if G::SHIFT == 12 && start.is_last() && !features.ttst {
        return Err(ConfigError::NeedsTtst);
    }
    Ok(())
}
