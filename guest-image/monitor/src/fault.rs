//! Stage-2 faults: what `ESR_EL2`, `FAR_EL2` and `HPFAR_EL2` say of them.
//!
//! Source: DDI 0487, D24.2.40 (ESR_EL2, ISS of instruction and data aborts), D24.2.61 (HPFAR_EL2).

use core::fmt;

use stage2::Access;

/// Exception classes from a lower level: instruction abort, data abort, HVC.
const EC_FETCH: u64 = 0x20;
const EC_DATA: u64 = 0x24;
const EC_HVC: u64 = 0x16;
/// In the ISS: the access was a store; it was a walk of stage 1.
const WNR: u64 = 1 << 6;
const S1PTW: u64 = 1 << 7;

/// What kind of fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An output address that is too large.
    AddressSize,
    /// No translation.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// Not allowed.
    Permission,
    /// Two translations of one address in a TLB.
    Conflict,
    /// Another fault status code.
    Other(u8),
}

/// One stage-2 fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// `ESR_EL2`.
    pub esr: u64,
    /// `FAR_EL2`: the virtual address.
    pub far: u64,
    /// `HPFAR_EL2`: the page of the IPA, where the architecture defines it.
    pub hpfar: u64,
}

/// The exception class of a syndrome.
const fn class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// The immediate of an HVC, if the syndrome is one's.
pub const fn hypercall(esr: u64) -> Option<u16> {
    if class(esr) == EC_HVC { Some(esr as u16) } else { None }
}

impl Fault {
    /// The fault, if the syndrome is that of an abort.
    pub const fn new(esr: u64, far: u64, hpfar: u64) -> Option<Self> {
        match class(esr) {
            EC_FETCH | EC_DATA => Some(Self { esr, far, hpfar }),
            _ => None,
        }
    }

    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match (self.esr & 0x3f) as u8 {
            0b00_0000..=0b00_0011 | 0b10_1001 => Kind::AddressSize,
            0b00_0100..=0b00_0111 | 0b10_1011 => Kind::Translation,
            0b00_1000..=0b00_1011 => Kind::AccessFlag,
            0b00_1100..=0b00_1111 => Kind::Permission,
            0b11_0000 => Kind::Conflict,
            other => Kind::Other(other),
        }
    }

    /// The level at which the walk ended; meaningless for conflicts and others.
    pub const fn level(&self) -> i32 {
        match self.esr & 0x3f {
            0b10_1001 | 0b10_1011 => -1,
            code => (code & 0b11) as i32,
        }
    }

    /// Whether the access was stage 1's own, to one of its tables.
    pub const fn stage1_walk(&self) -> bool {
        self.esr & S1PTW != 0
    }

    /// The access.
    pub const fn access(&self) -> Access {
        match () {
            () if self.stage1_walk() => Access::Read,
            () if class(self.esr) == EC_FETCH => Access::Execute,
            () if self.esr & WNR != 0 => Access::Write,
            () => Access::Read,
        }
    }

    /// The page of 4 KiB that `HPFAR_EL2` names.
    pub const fn page(&self) -> u64 {
        (self.hpfar & 0x0fff_ffff_fff0) << 8
    }

    /// The intermediate physical address. Where `HPFAR_EL2` says nothing (DDI 0487: on a permission fault that
    /// is not stage 1's), the virtual address is it, for stage 1 is off wherever such a fault is taken.
    pub const fn ipa(&self) -> u64 {
        match self.kind() {
            Kind::Permission | Kind::Conflict if !self.stage1_walk() => self.far,
            // A walk of stage 1 faults on a table, not on the address that was to be translated.
            _ if self.stage1_walk() => self.page(),
            _ => self.page() | self.far & 0xfff,
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, level, access) = (self.kind(), self.level(), self.access());
        write!(f, "{kind:?} L{level} {access:?} far={:#x} page={:#x}", self.far, self.page())?;
        if self.stage1_walk() { f.write_str(" of a stage-1 walk") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(class: u64, iss: u64, far: u64, page: u64) -> Fault {
        Fault::new(class << 26 | 1 << 25 | iss, far, page >> 8).unwrap()
    }

    #[test]
    fn a_store_without_a_translation() {
        let fault = fault(EC_DATA, WNR | 0b00_0110, 0x8000_1238, 0x8000_1000);
        assert_eq!((fault.kind(), fault.level()), (Kind::Translation, 2));
        assert_eq!((fault.access(), fault.ipa()), (Access::Write, 0x8000_1238));
    }

    #[test]
    fn a_permission_fault_has_its_address_in_far() {
        let fault = fault(EC_FETCH, 0b00_1111, 0x4000_0010, 0);
        assert_eq!((fault.kind(), fault.level(), fault.access()), (Kind::Permission, 3, Access::Execute));
        assert_eq!(fault.ipa(), 0x4000_0010);
    }

    #[test]
    fn a_walk_of_stage_1_faults_on_its_table() {
        let fault = fault(EC_DATA, S1PTW | WNR | 0b00_1011, 0x12_3456_7890, 0x8_0000_5000);
        assert_eq!((fault.kind(), fault.access()), (Kind::AccessFlag, Access::Read));
        assert_eq!((fault.ipa(), fault.stage1_walk()), (0x8_0000_5000, true));
    }

    #[test]
    fn level_minus_1_has_codes_of_its_own() {
        assert_eq!(fault(EC_DATA, 0b10_1011, 0, 0).level(), -1);
        assert_eq!(fault(EC_DATA, 0b10_1001, 0, 0).kind(), Kind::AddressSize);
        assert_eq!(fault(EC_DATA, 0b11_0000, 0, 0).kind(), Kind::Conflict);
    }

    #[test]
    fn a_hypercall_is_no_fault() {
        assert_eq!(hypercall(EC_HVC << 26 | 1 << 25 | 1), Some(1));
        assert_eq!(Fault::new(EC_HVC << 26, 0, 0), None);
    }
}
