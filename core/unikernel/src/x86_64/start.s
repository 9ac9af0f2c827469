# From the state that the PVH protocol promises (32-bit protected mode, no paging) to 64-bit code, with
# the first 4 GiB mapped one to one.

.section .note.pvh, "a", @note
    .long 4             # bytes of the owner's name
    .long 4             # bytes of the address
    .long 18            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

.section .text.start, "ax"
.code32
.global start
start:
    cli
    mov esp, offset stack_end
    mov eax, offset tables
    mov cr3, eax
    mov eax, cr4
    or eax, 1 << 5          # PAE
    mov cr4, eax
    mov ecx, 0xc0000080     # EFER
    rdmsr
    or eax, 1 << 8          # LME
    wrmsr
    mov eax, cr0
    or eax, 1 << 31         # PG
    mov cr0, eax
    lgdt [segments_pointer]
    ljmp 8, offset start64

.code64
start64:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor ebp, ebp
    call main
    ud2

.section .rodata.start, "a"
.balign 8
segments:
    .quad 0
    .quad 0x00209a0000000000    # code, 64 bits
    .quad 0x0000920000000000    # data
segments_pointer:
    .word segments_pointer - segments - 1
    .long segments

.section .data.start, "aw"
.balign 4096
tables:
    .quad middle + 3
    .fill 511, 8, 0
middle:
    .quad pages + 3
    .quad pages + 0x1003
    .quad pages + 0x2003
    .quad pages + 0x3003
    .fill 508, 8, 0
pages:                      # 2 MiB each
    .set page, 0
    .rept 2048
    .quad page + 0x83
    .set page, page + 0x200000
    .endr

.section .bss.start, "aw", @nobits
.balign 16
    .skip 256 << 10
stack_end:
