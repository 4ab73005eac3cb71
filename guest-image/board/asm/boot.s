// The first instructions: Documentation/arch/arm64/booting.rst of Linux says how they are entered
// (MMU off, data cache off, x0 is the device tree, EL1 or EL2, any 2 MiB aligned address).
//
// The image itself says at which exception level it runs. It brings the vectors, and these subroutines:
// `to_level` (goes there), `block_attributes` (x22: what a block of write-back memory, attribute index 1,
// says at that level), `mmu_on` and `set_vectors`.
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
    bl to_level
    address x9, boot_tables
    mov x1, x9
    address x2, boot_tables_end
    each_line ivac          // no dirty line may be written back over what follows
    mov x3, x1
1:  stp xzr, xzr, [x3], #16
    cmp x3, x2
    b.lo 1b
    add x10, x9, #4096      // next free table
    bl block_attributes
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
    bl to_level
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
    orr x3, x3, x22
    str x3, [x2]
    ret
