// The first instructions: Documentation/arch/arm64/booting.rst of Linux says how they are entered
// (MMU off, data cache off, x0 is the device tree, EL1 or EL2, any 2 MiB aligned address).
//
// Until the MMU is on, memory is Device memory and uncached: only the boot tables are written.
// They map this image and the device tree, one 2 MiB block each, at their own addresses; relocations
// and zeroing run after that, cached.

// dst = address of a symbol within 4 GiB, wherever this runs.
.macro address dst, symbol
    adrp \dst, \symbol
    add \dst, \dst, :lo12:\symbol
.endm

.macro constant dst, value
    movz \dst, #((\value) & 0xffff)
    movk \dst, #(((\value) >> 16) & 0xffff), lsl #16
.endm

// For each cache line from x1 to x2: the data cache operation. Clobbers x3, x4.
.macro each_line operation
    mrs x3, ctr_el0
    ubfx x3, x3, #16, #4
    mov x4, #4
    lsl x3, x4, x3
    sub x4, x3, #1
    bic x4, x1, x4
8:  dc \operation, x4
    add x4, x4, x3
    cmp x4, x2
    b.lo 8b
    dsb sy
.endm

    .section .head, "ax"
    .globl image_start
image_start:
    b boot                  // code0
    nop                     // code1
    .quad 0                 // text_offset: any 2 MiB aligned address will do
    .quad 0                 // image_size, filled in by the build
    .quad 0xa               // flags: little endian, 4 KiB pages, anywhere in memory
    .quad 0
    .quad 0
    .quad 0
    .ascii "ARMd"             // magic
    .long 0

boot:
    mov x20, x0             // device tree
    bl to_el1
    address x9, boot_tables
    mov x1, x9
    address x2, boot_tables_end
    each_line ivac          // no dirty line may be written back over what follows
    mov x3, x1
1:  stp xzr, xzr, [x3], #16
    cmp x3, x2
    b.lo 1b
    add x10, x9, #4096      // next free table
    adrp x0, image_start
    bl map_block
    mov x0, x20
    bl map_block
    ldr w0, [x20, #4]       // its size, big endian
    rev w0, w0
    add x0, x0, x20
    sub x0, x0, #1
    bl map_block
    address x1, boot_tables
    address x2, boot_tables_end
    dsb sy
    each_line ivac          // no clean line may hide what was written
    bl mmu_on

    adrp x1, image_start    // linked at 0, so this is what relocations add
    address x2, rela_start
    address x3, rela_end
1:  cmp x2, x3
    b.hs 2f
    ldp x4, x5, [x2], #16   // offset, type: the build has checked that it is RELATIVE or NONE
    ldr x6, [x2], #8
    cbz x5, 1b
    add x6, x6, x1
    str x6, [x1, x4]
    b 1b
2:  address x2, bss_start
    address x3, bss_end
3:  cmp x2, x3
    b.hs 4f
    stp xzr, xzr, [x2], #16
    b 3b
4:  bl set_vectors
    address x0, boot_stack_top
    mov sp, x0
    mov x0, x20
    mov x1, x21
    mov x29, xzr
    mov x30, xzr
    b {primary}

// Where PSCI starts the other CPUs, MMU off. x0: TTBR0_EL1, stack, index; cleaned to memory.
    .globl secondary_entry
secondary_entry:
    mov x20, x0
    bl to_el1
    ldr x1, [x20]
    bl mmu_on
    bl set_vectors
    ldr x0, [x20, #8]
    mov sp, x0
    ldr x0, [x20, #16]
    mov x29, xzr
    mov x30, xzr
    b {secondary}

// Enters the tables at x9 the 2 MiB block that holds the address in x0. Tables come from x10.
map_block:
    ubfx x1, x0, #39, #9
    add x2, x9, x1, lsl #3
    ldr x3, [x2]
    cbnz x3, 1f
    orr x3, x10, #3
    str x3, [x2]
    add x10, x10, #4096
1:  and x3, x3, #~0xfff
    ubfx x1, x0, #30, #9
    add x2, x3, x1, lsl #3
    ldr x3, [x2]
    cbnz x3, 2f
    orr x3, x10, #3
    str x3, [x2]
    add x10, x10, #4096
2:  and x3, x3, #~0xfff
    ubfx x1, x0, #21, #9
    add x2, x3, x1, lsl #3
    ubfx x3, x0, #21, #27
    lsl x3, x3, #21
    mov x1, #0xf05          // valid block, attribute 1, inner shareable, AF, nG
    orr x3, x3, x1
    str x3, [x2]
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
to_el1:
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

// What the compiler calls for copies, and nobody else provides here.

    .section .text.memory, "ax"
    .globl memcpy
memcpy:
    mov x3, x0
1:  subs x2, x2, #16
    b.lo 2f
    ldp x4, x5, [x1], #16
    stp x4, x5, [x3], #16
    b 1b
2:  adds x2, x2, #16
    b.eq 4f
3:  ldrb w4, [x1], #1
    strb w4, [x3], #1
    subs x2, x2, #1
    b.ne 3b
4:  ret

    .globl memmove
memmove:
    sub x3, x0, x1
    cmp x3, x2
    b.hs memcpy             // the target does not start within the source
1:  cbz x2, 2f
    sub x2, x2, #1
    ldrb w4, [x1, x2]
    strb w4, [x0, x2]
    b 1b
2:  ret

    .globl memset
memset:
    mov x3, x0
    and x1, x1, #0xff
    mov x4, #0x0101010101010101
    mul x1, x1, x4
1:  subs x2, x2, #16
    b.lo 2f
    stp x1, x1, [x3], #16
    b 1b
2:  adds x2, x2, #16
    b.eq 4f
3:  strb w1, [x3], #1
    subs x2, x2, #1
    b.ne 3b
4:  ret

    .globl memcmp
    .globl bcmp
memcmp:
bcmp:
0:  subs x2, x2, #8
    b.lo 3f
    ldr x3, [x0], #8
    ldr x4, [x1], #8
    cmp x3, x4
    b.eq 0b
    rev x3, x3              // the first byte decides
    rev x4, x4
    cmp x3, x4
    mov w0, #1
    csneg w0, w0, w0, hi
    ret
3:  add x2, x2, #8
1:  cbz x2, 2f
    ldrb w3, [x0], #1
    ldrb w4, [x1], #1
    sub x2, x2, #1
    cmp w3, w4
    b.eq 1b
    sub w0, w3, w4
    ret
2:  mov w0, wzr
    ret
