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
