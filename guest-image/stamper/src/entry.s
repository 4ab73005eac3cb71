// What belongs to EL1: the way there, its MMU, its vectors. `boot.s` of the board goes before this.

// x22: what a block of write-back memory says.
block_attributes:
    mov x22, #0xf05         // valid block, attribute 1, inner shareable, AF, nG
    ret

// Turns the MMU and the caches on, with the tables at x1. Clobbers x2 to x4.
mmu_on:
    constant x2, 0xff04     // attribute 0: Device-nGnRE, 1: normal write-back
    msr mair_el1, x2
    constant x2, 0x80803510 // T0SZ 16, inner shareable, write-back, 4 KiB; TTBR1 off
    mrs x3, id_aa64mmfr0_el1
    and x3, x3, #0xf        // PARange; more than 48 bits need other tables
    mov x4, #5
    cmp x3, x4
    csel x3, x3, x4, lo
    orr x2, x2, x3, lsl #32
    msr tcr_el1, x2
    msr ttbr0_el1, x1
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    constant x2, 0x30d0180d // RES1 bits, I, SA, C, M
    msr sctlr_el1, x2
    isb
    ret

set_vectors:
    address x0, vectors
    msr vbar_el1, x0
    isb
    ret

// Goes on at x30 in EL1, MMU off, FP and SIMD on, interrupts masked. x21: the level of entry.
to_level:
    msr daifset, #0xf
    constant x2, 0x30d00800 // SCTLR_EL1: RES1 bits only
    mov x3, #0x300000       // CPACR_EL1.FPEN: FP and SIMD are not trapped
    mrs x1, CurrentEL
    ubfx x21, x1, #2, #2
    cmp x21, #2
    b.eq 1f
    msr sctlr_el1, x2
    msr cpacr_el1, x3
    isb
    ret
1:  mov x1, #0x80000000     // HCR_EL2.RW: EL1 is AArch64; E2H off where that is possible
    msr hcr_el2, x1
    isb
    mrs x1, hcr_el2
    tbnz x1, #34, 2f
    msr sctlr_el1, x2
    msr cpacr_el1, x3
    mov x1, #0x33ff         // CPTR_EL2: RES1 bits, nothing trapped
    msr cptr_el2, x1
    mov x1, #3              // CNTHCTL_EL2: EL1PCTEN, EL1PCEN
    msr cnthctl_el2, x1
    b 3f
2:  msr s3_5_c1_c0_0, x2    // E2H stays on: SCTLR_EL12, CPACR_EL12
    msr s3_5_c1_c0_2, x3
    msr cptr_el2, x3        // has the layout of CPACR_EL1
    mov x1, #0xc00          // CNTHCTL_EL2: EL1PCTEN, EL1PTEN
    msr cnthctl_el2, x1
3:  msr cntvoff_el2, xzr
    msr hstr_el2, xzr
    mrs x1, midr_el1
    msr vpidr_el2, x1
    mrs x1, mpidr_el1
    msr vmpidr_el2, x1
    mov x1, #0x3c5          // EL1h, all masked
    msr spsr_el2, x1
    msr elr_el2, x30
    isb
    eret

// Every exception ends the run. The first CPU that takes one reports it, on a stack of its own
// because the reason may be that it had none left; others that come after it stop.
.macro vector kind
    .balign 0x80
    mov x0, #\kind
    b trap
.endm

    .section .text.vectors, "ax"
    .balign 0x800
vectors:
    .irp kind, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3
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
    mrs x1, esr_el1
    mrs x2, elr_el1
    mrs x3, far_el1
    mov x29, xzr
    mov x30, xzr
    b {trap}

    .section .bss.trap_taken, "aw", %nobits
    .balign 8
trap_taken:
    .skip 8
