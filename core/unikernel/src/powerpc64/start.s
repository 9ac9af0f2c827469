# From where the firmware (OPAL) enters a kernel: hypervisor real mode, 64 bits, big endian. It stays so.

.section .text.start, "ax"
.global start
start:
    lis 2, .TOC.@h
    ori 2, 2, .TOC.@l
    lis 1, stack_end@h
    ori 1, 1, stack_end@l
    li 0, 0
    stdu 0, -64(1)
    mr 3, 8                 # where OPAL's data is
    mr 4, 9                 # and where it is entered
    bl main
    nop
    b .

# A call of OPAL. r3 points to: the number of the call, seven arguments, OPAL's data, its entry.
# Of the condition register and the table of contents nothing comes back.
.section .text.opal, "ax"
.global opal
opal:
    mflr 0
    std 0, 16(1)
    stdu 1, -64(1)
    std 2, 40(1)
    mfcr 0
    std 0, 48(1)
    mr 11, 3
    ld 0, 0(11)
    ld 3, 8(11)
    ld 4, 16(11)
    ld 5, 24(11)
    ld 6, 32(11)
    ld 7, 40(11)
    ld 8, 48(11)
    ld 9, 56(11)
    ld 2, 64(11)
    ld 12, 72(11)
    mtctr 12
    bctrl
    ld 0, 48(1)
    mtcr 0
    ld 2, 40(1)
    addi 1, 1, 64
    ld 0, 16(1)
    mtlr 0
    blr

.section .data.stack, "aw"
.balign 16
    .skip 256 << 10
stack_end:
