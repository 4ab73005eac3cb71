// What belongs to EL2: the way there, its MMU, its vectors, and the way into EL1 and back. `boot.s` of the
// board goes before this.
//
// With FEAT_VHE the monitor runs with HCR_EL2.E2H = 1, as KVM does; without it, with 0. KVM's nested
// virtualisation offers one or the other. Entered at EL1 it comes up there, so that it can say what it needs.

.equ E2H, 34

// Goes on at x30, MMU off, FP and SIMD on, interrupts masked. x21: the level of entry.
to_level:
    msr daifset, #0xf
    constant x2, 0x30d00800 // SCTLR_EL1's layout: RES1 bits only
    mov x3, #0x300000       // FPEN: FP and SIMD are not trapped
    mrs x1, CurrentEL
    ubfx x21, x1, #2, #2
    cmp x21, #2
    b.eq 1f
    msr sctlr_el1, x2
    msr cpacr_el1, x3
    isb
    ret
1:  mov x1, #0x80000000     // HCR_EL2.RW: EL1 is AArch64
    mrs x4, id_aa64mmfr1_el1
    ubfx x4, x4, #8, #4     // VH
    cbz x4, 2f
    orr x1, x1, #(1 << E2H)
2:  msr hcr_el2, x1
    isb
    mrs x1, hcr_el2
    tbnz x1, #E2H, 3f
    constant x2, 0x30c50830 // SCTLR_EL2: RES1 bits only
    mov x3, #0x33ff         // CPTR_EL2: RES1 bits, nothing trapped
    mov x4, #3              // CNTHCTL_EL2: EL1PCTEN, EL1PCEN
    b 4f
3:  mov x4, #0xc00          // CNTHCTL_EL2: EL1PCTEN, EL1PTEN
4:  msr sctlr_el2, x2
    msr cptr_el2, x3
    msr cnthctl_el2, x4
    msr cntvoff_el2, xzr
    msr hstr_el2, xzr
    mrs x1, midr_el1
    msr vpidr_el2, x1
    mrs x1, mpidr_el1
    msr vmpidr_el2, x1
    isb
    ret

// x22: what a block of write-back memory says. Clobbers x1.
block_attributes:
    mov x22, #0x705         // valid block, attribute 1, inner shareable, AF
    mrs x1, CurrentEL
    cmp x1, #8
    b.ne 1f
    mrs x1, hcr_el2
    tbnz x1, #E2H, 1f
    orr x22, x22, #0x40     // AP[1] is RES1 where there is no EL0
1:  ret

// Turns the MMU and the caches on, with the tables at x1. Clobbers x2 to x4.
mmu_on:
    constant x2, 0xff04     // attribute 0: Device-nGnRE, 1: normal write-back
    constant x4, 0x80803510 // T0SZ 16, inner shareable, write-back, 4 KiB; EPD1, or RES1 bits
    mrs x3, CurrentEL
    cmp x3, #8
    mrs x3, id_aa64mmfr0_el1
    and x3, x3, #0xf        // PARange; more than 48 bits need other tables
    b.eq 2f
    cmp x3, #5
    b.ls 1f
    mov x3, #5
1:  orr x4, x4, x3, lsl #32
    msr mair_el1, x2
    msr tcr_el1, x4
    msr ttbr0_el1, x1
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    constant x2, 0x30d0180d // RES1 bits, I, SA, C, M
    msr sctlr_el1, x2
    isb
    ret
2:  cmp x3, #5
    b.ls 3f
    mov x3, #5
3:  msr mair_el2, x2
    mrs x2, hcr_el2
    tbnz x2, #E2H, 4f
    orr x4, x4, x3, lsl #16
    constant x2, 0x30c5183d // RES1 bits, I, SA, C, M
    b 5f
4:  orr x4, x4, x3, lsl #32
    constant x2, 0x30d0180d
5:  msr tcr_el2, x4
    msr ttbr0_el2, x1
    tlbi alle2
    ic iallu
    dsb nsh
    isb
    msr sctlr_el2, x2
    isb
    ret

set_vectors:
    address x0, vectors
    mrs x1, CurrentEL
    cmp x1, #8
    b.eq 1f
    msr vbar_el1, x0
    isb
    ret
1:  msr vbar_el2, x0
    isb
    ret

// Switches from the boot tables to those at x0. Without VHE there is no ASID that could keep the two apart in
// a TLB, and they map the same memory in blocks of different size: so the MMU is off in between, and nothing
// touches memory.
    .section .text.switch, "ax"
    .globl monitor_switch_tables
monitor_switch_tables:
    mrs x1, CurrentEL
    cmp x1, #8
    b.eq 1f
    mrs x1, sctlr_el1
    bic x2, x1, #1
    dsb sy
    msr sctlr_el1, x2
    isb
    msr ttbr0_el1, x0
    tlbi vmalle1
    dsb nsh
    isb
    msr sctlr_el1, x1
    isb
    ret
1:  mrs x1, sctlr_el2
    bic x2, x1, #1
    dsb sy
    msr sctlr_el2, x2
    isb
    msr ttbr0_el2, x0
    tlbi alle2
    dsb nsh
    isb
    msr sctlr_el2, x1
    isb
    ret

// Enters EL1 with the registers in the context at x0, and returns when it has come back, with the registers
// and the syndrome in the context. See `vcpu::Context`.
    .section .text.enter, "ax"
    .globl monitor_enter
monitor_enter:
    stp x19, x20, [sp, #-96]!
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp x0, xzr, [sp, #-16]!
    ldp x2, x3, [x0, #248]
    msr elr_el2, x2
    msr spsr_el2, x3
    ldp x2, x3, [x0, #16]
    ldp x4, x5, [x0, #32]
    ldp x6, x7, [x0, #48]
    ldp x8, x9, [x0, #64]
    ldp x10, x11, [x0, #80]
    ldp x12, x13, [x0, #96]
    ldp x14, x15, [x0, #112]
    ldp x16, x17, [x0, #128]
    ldp x18, x19, [x0, #144]
    ldp x20, x21, [x0, #160]
    ldp x22, x23, [x0, #176]
    ldp x24, x25, [x0, #192]
    ldp x26, x27, [x0, #208]
    ldp x28, x29, [x0, #224]
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret

monitor_exit:               // x0 and x1 are on the stack, x1 is the kind
    ldr x0, [sp, #16]
    stp x2, x3, [x0, #16]
    stp x4, x5, [x0, #32]
    stp x6, x7, [x0, #48]
    stp x8, x9, [x0, #64]
    stp x10, x11, [x0, #80]
    stp x12, x13, [x0, #96]
    stp x14, x15, [x0, #112]
    stp x16, x17, [x0, #128]
    stp x18, x19, [x0, #144]
    stp x20, x21, [x0, #160]
    stp x22, x23, [x0, #176]
    stp x24, x25, [x0, #192]
    stp x26, x27, [x0, #208]
    stp x28, x29, [x0, #224]
    str x30, [x0, #240]
    ldp x2, x3, [sp], #32
    stp x2, x3, [x0]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [x0, #248]
    mrs x2, esr_el2
    mrs x3, far_el2
    stp x2, x3, [x0, #264]
    mrs x2, hpfar_el2
    stp x2, x1, [x0, #280]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp x19, x20, [sp], #96
    ret

// An exception of the monitor's own ends the run. The first CPU that takes one reports it, on a stack of
// its own because the reason may be that it had none left; others that come after it stop.
.macro vector kind
    .balign 0x80
    mov x0, #\kind
    b trap
.endm

.macro exit kind
    .balign 0x80
    stp x0, x1, [sp, #-16]!
    mov x1, #\kind
    b monitor_exit
.endm

    .section .text.vectors, "ax"
    .balign 0x800
vectors:
    .irp kind, 0, 1, 2, 3, 0, 1, 2, 3
    vector \kind
    .endr
    .irp kind, 0, 1, 2, 3
    exit \kind
    .endr
    .irp kind, 0, 1, 2, 3
    vector \kind
    .endr

trap:
    address x1, trap_taken
1:  ldaxr w2, [x1]
    mov w3, #1
    stxr w4, w3, [x1]
    cbnz w4, 1b
    cbz w2, 3f
2:  wfi
    b 2b
3:  address x1, trap_stack_top
    mov sp, x1
    mrs x1, CurrentEL
    cmp x1, #8
    b.eq 4f
    mrs x1, esr_el1
    mrs x2, elr_el1
    mrs x3, far_el1
    b 5f
4:  mrs x1, esr_el2
    mrs x2, elr_el2
    mrs x3, far_el2
5:  mov x29, xzr
    mov x30, xzr
    b {trap}

    .section .bss.trap_taken, "aw", %nobits
    .balign 8
trap_taken:
    .skip 8
