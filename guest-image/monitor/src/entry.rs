//! What only an image has: the first instructions, the symbols of its linker script, the end of a panic.

#![expect(unsafe_code, reason = "entered by a boot loader, and by CPUs that have no stack yet")]

use core::arch::global_asm;
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::slice;

use board::console;
use monitor::bare::{self, Image, RawFrame};

global_asm!(
    include_str!("../../board/asm/boot.s"),
    include_str!("entry.s"),
    include_str!("../../board/asm/memory.s"),
    include_str!("payload.s"),
    primary = sym primary,
    secondary = sym secondary,
    trap = sym trap,
);

// The linker script and the assembly define them; only their addresses mean something.
unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
    static secondary_entry: u8;
    static monitor_payload: u8;
    static monitor_payload_end: u8;
    static mut frames: MaybeUninit<RawFrame>;
    static frames_end: u8;
    fn monitor_enter(context: *mut bare::vcpu::Context);
    fn monitor_switch_tables(root: u64);
}

/// The boot CPU, on the boot stack, the MMU on with the boot tables. `level`: the exception level
/// at which the image was entered.
extern "C" fn primary(device_tree: *const u8, level: u64) -> ! {
    let first = &raw mut frames;
    let count = (&raw const frames_end as usize - first as usize) / size_of::<RawFrame>();
    let payload = &raw const monitor_payload;
    let payload_size = &raw const monitor_payload_end as usize - payload as usize;
    let image = Image {
        start: &raw const image_start as u64,
        text_end: &raw const text_end as u64,
        rodata_end: &raw const rodata_end as u64,
        end: &raw const image_end as u64,
        secondary_entry: &raw const secondary_entry as u64,
        // SAFETY: the payload lies between its two symbols and is only read.
        payload: unsafe { slice::from_raw_parts(payload, payload_size) },
        enter: monitor_enter,
        switch_tables: monitor_switch_tables,
        // SAFETY: the linker script sets these pages apart, and the boot CPU gets here once.
        frames: unsafe { slice::from_raw_parts_mut(first, count) },
    };
    // SAFETY: the entry code has mapped the image and the device tree, and hands on what the boot
    // loader gave it.
    unsafe { bare::run(image, device_tree, level) }
}

/// Any other CPU, on its own stack, with the final tables.
extern "C" fn secondary(index: u64) -> ! {
    bare::team::secondary(index)
}

/// The first exception that the monitor itself takes, on any CPU.
extern "C" fn trap(kind: u64, esr: u64, elr: u64, far: u64) -> ! {
    bare::report(kind, esr, elr, far)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::fail(format_args!("{info}"))
}
