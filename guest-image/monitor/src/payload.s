// The payload: what runs at EL1. It is copied to a page of its own, so it may not refer to anything outside.
//
// One routine each: arguments in x1 and up, `hvc #0` when it is done, the answer in x0. Only general
// registers are used. The first 2 KiB are the routines, in the order of `payload::Routine`, 64 bytes apart;
// behind them stand the vectors of EL1. Endless routines yield, for emulators that run one CPU at a time.

    .section .rodata.payload, "a"
    .balign 4096
    .globl monitor_payload
monitor_payload:

// read: x1 address
    ldr x0, [x1]
    hvc #0

    .balign 64              // write: x1 address, x2 value
    str x2, [x1]
    hvc #0

    .balign 64              // add: x1 address, x2 what; the old value
1:  ldaxr x0, [x1]
    add x3, x0, x2
    stlxr w4, x3, [x1]
    cbnz w4, 1b
    hvc #0

    .balign 64              // call: x1 address
    blr x1
    hvc #0

    .balign 64              // sweep reads: x1 first address, x2 stride, x3 how many
1:  ldr x0, [x1]
    add x1, x1, x2
    subs x3, x3, #1
    b.ne 1b
    hvc #0

    .balign 64              // sweep writes: the same, x4 value
1:  str x4, [x1]
    add x1, x1, x2
    subs x3, x3, #1
    b.ne 1b
    hvc #0

    // scatter: writes the generation x4 to page (x4 * x6) >> x7 of those at x1, x2 bytes apart, then the next
    // generation, until the word at x5 is not 0. The generation that comes next.
    .balign 64
1:  mul x8, x4, x6
    lsr x8, x8, x7
    madd x8, x8, x2, x1
    str x4, [x8]
    add x4, x4, #1
    yield
    ldr w9, [x5]
    cbz w9, 1b
    mov x0, x4
    hvc #0

    // add up: the same, but adds 1 to the word, atomically
    .balign 64
1:  mul x8, x4, x6
    lsr x8, x8, x7
    madd x8, x8, x2, x1
2:  ldaxr x9, [x8]
    add x9, x9, #1
    stlxr w10, x9, [x8]
    cbnz w10, 2b
    add x4, x4, #1
    yield
    ldr w9, [x5]
    cbz w9, 1b
    mov x0, x4
    hvc #0

    // calibrate: x1 rounds of two instructions
    .balign 64
1:  subs x1, x1, #1
    b.ne 1b
    hvc #0

    .balign 0x800           // EL1's vectors: none is expected
    .rept 16
    .balign 0x80
    hvc #1
    .endr
    .balign 0x800
    .globl monitor_payload_end
monitor_payload_end:
    .text
