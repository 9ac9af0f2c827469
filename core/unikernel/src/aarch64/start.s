// From where QEMU enters a kernel: EL1, MMU off. It stays off, so all memory is device memory: nothing
// unaligned, which the target without vector registers knows.

.section .text.start, "ax"
.global start
start:
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    isb
    adrp x0, stack_end
    add x0, x0, :lo12:stack_end
    mov sp, x0
    bl main
0:  wfe
    b 0b

// Whatever happens, the program says where and ends.
.balign 2048
vectors:
    .rept 16
    .balign 128
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    b exception
    .endr

.section .bss.start, "aw", @nobits
.balign 16
    .skip 256 << 10
stack_end:
