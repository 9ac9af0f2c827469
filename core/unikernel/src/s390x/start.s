# From where QEMU enters a kernel: 64 bits, no translation, no interrupts.

.section .text.start, "ax"
.globl start
start:
    larl %r15, stack_end
    aghi %r15, -160
    larl %r1, program_check
    stg %r1, 0x1d8(%r0)         # where a program check goes, with what state
    llihl %r1, 0
    iilf %r1, 0x80000000
    oihl %r1, 1
    stg %r1, 0x1d0(%r0)
    brasl %r14, main
0:  j 0b

# The program says what happened, and where, and ends.
program_check:
    larl %r15, stack_end
    aghi %r15, -160
    llgf %r2, 0x8c(%r0)
    lg %r3, 0x158(%r0)
    brasl %r14, exception
1:  j 1b

.section .bss.start, "aw", @nobits
.balign 16
    .skip 256 << 10
stack_end:
