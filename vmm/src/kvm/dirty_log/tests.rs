use kvm_bindings::kvm_vcpu_init;
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use vm_memory::{Address, Bytes, GuestAddress};

use super::*;
use crate::config::{self, MemoryConfig};
use crate::kvm::register::Register;
use crate::memory::dirty::{Answer, Dirty};
use crate::memory::{GuestRam, Host};

const BASE: u64 = 1 << 30;
/// Pages that are not a multiple of 64, whatever their size.
const SIZE: u64 = (16 << 20) + 3 * (64 << 10);
/// Where nothing is: a write there ends the run.
const DOORBELL: u64 = 0x1000;

/// Writes x3 to x0, x0 + x1, ... x2 times, and then to x4.
const CODE: [u32; 7] = [
    // A run may begin at the second: KVM steps over the write that ended the last one.
    0xd503_201f, // nop
    0xd503_201f, // nop
    0xf900_0003, // str x3, [x0]
    0x8b01_0000, // add x0, x0, x1
    0xf100_0442, // subs x2, x2, #1
    0x54ff_ffa1, // b.ne str
    0xf900_0083, // str x3, [x4]
];

struct Guest {
    ram: GuestRam,
    vcpu: VcpuFd,
    vm: Arc<MappedVm>,
    page: u64,
}

impl Guest {
    /// `None` where there is no KVM.
    fn new() -> Option<Self> {
        let kvm = Kvm::new().ok()?;
        // The smallest that holds it: a larger one takes long to destroy.
        let vm = match kvm.check_extension_int(Cap::ArmVmIPASize) {
            bits if bits > 0 => kvm.create_vm_with_ipa_size(36).unwrap(),
            _ => kvm.create_vm().unwrap(),
        };
        let config = MemoryConfig { size: SIZE, block: config::BlockSize::Auto, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
        let code: Vec<u8> = CODE.iter().flat_map(|word| word.to_le_bytes()).collect();
        ram.memory().write_slice(&code, GuestAddress(BASE)).unwrap();
        let vm = Arc::new(MappedVm::new(vm, &ram).unwrap());
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).unwrap();
        vcpu.vcpu_init(&init).unwrap();
        Some(Self { ram, vcpu, vm, page: Host::live().page_size() })
    }

    /// The address of page `n`.
    fn at(&self, n: u64) -> u64 {
        BASE + n * self.page
    }

    /// The guest writes to `count` pages from page `first` on, `stride` apart.
    fn writes(&mut self, first: u64, stride: u64, count: u64) {
        let start = self.at(first) + 8;
        for (n, value) in [(0, start), (1, stride * self.page), (2, count), (3, first + 1), (4, DOORBELL)] {
            Register::x(n).set(&self.vcpu, value).unwrap();
        }
        Register::PC.set(&self.vcpu, BASE).unwrap();
        let exit = self.vcpu.run().unwrap();
        assert!(matches!(exit, VcpuExit::MmioWrite(DOORBELL, _)), "{exit:?}");
        let last = self.at(first + (count - 1) * stride) + 8;
        assert_eq!(self.ram.memory().read_obj::<u64>(GuestAddress(last)).unwrap(), first + 1);
    }

    fn taken(&self, dirty: &Dirty, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        assert_eq!(dirty.take(ranges, &mut |run| found.push(run)).unwrap(), Answer::Known);
        found
    }

    /// Pages `n`, as ranges of bytes.
    fn pages(&self, pages: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        pages.into_iter().map(|n| self.at(n)..self.at(n + 1)).collect()
    }
}

#[test]
fn what_the_guest_writes_is_in_the_log_exactly_and_what_a_device_writes_in_the_bitmap() {
    let Some(mut guest) = Guest::new() else { return };
    let all = [BASE..BASE + SIZE];
    let dirty = Dirty::new(&guest.ram);
    guest.writes(1, 1, 10);
    assert_eq!(dirty.take(&all, &mut |run| panic!("{run:?}")).unwrap(), Answer::Unknown);

    dirty.start(|| KvmDirtyLog::start(&guest.vm).map(|log| Arc::new(log) as Arc<dyn DirtyLog>)).unwrap();
    // What was there when it came on: all of it, where KVM starts with every bit set.
    let first = guest.taken(&dirty, &all);
    assert!(first.is_empty() || first == all, "{first:?}");
    assert_eq!(guest.taken(&dirty, &all), []);

    let last = SIZE / guest.page - 1;
    for round in 0..3 {
        guest.writes(3 + round, 7, 20);
        assert_eq!(guest.taken(&dirty, &all), guest.pages((0..20).map(|n| 3 + round + 7 * n)));
        guest.writes(last, 1, 1);
        // Nothing writes this but a device.
        guest.ram.memory().write_slice(&[1; 2], GuestAddress(guest.at(200) - 1)).unwrap();
        let expected = [guest.at(last)..guest.at(last + 1), guest.at(199)..guest.at(201)];
        assert_eq!(guest.taken(&dirty, &all), expected);
        assert_eq!(guest.taken(&dirty, &all), []);
    }
}

#[test]
fn taking_a_part_leaves_the_rest_dirty() {
    let Some(mut guest) = Guest::new() else { return };
    let all = [BASE..BASE + SIZE];
    let dirty = Dirty::new(&guest.ram);
    dirty.start(|| KvmDirtyLog::start(&guest.vm).map(|log| Arc::new(log) as Arc<dyn DirtyLog>)).unwrap();
    guest.taken(&dirty, &all);
    guest.writes(60, 1, 80);
    // Inside words of the bitmap, on both sides of a boundary, and with a gap.
    let part = [guest.at(62)..guest.at(66), guest.at(70)..guest.at(71), guest.at(130)..guest.at(135)];
    assert_eq!(guest.taken(&dirty, &part), part);
    assert_eq!(guest.taken(&dirty, &part), []);
    // A page that was taken is in the log again once it is written again.
    guest.writes(64, 1, 1);
    let rest = [
        guest.at(60)..guest.at(62),
        guest.at(64)..guest.at(65),
        guest.at(66)..guest.at(70),
        guest.at(71)..guest.at(130),
        guest.at(135)..guest.at(140),
    ];
    assert_eq!(guest.taken(&dirty, &all), rest);
}

#[test]
fn a_log_does_not_outlive_its_vm_nor_keep_it() {
    let Some(guest) = Guest::new() else { return };
    let log = KvmDirtyLog::start(&guest.vm).unwrap();
    let Guest { ram, vcpu, vm, .. } = guest;
    drop(vcpu);
    assert_eq!(Arc::strong_count(&vm), 1);
    drop(vm);
    let base = ram.regions().next().unwrap().guest().raw_value();
    let error = log.take(&[base..base + SIZE], &mut |run| panic!("{run:?}")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}
