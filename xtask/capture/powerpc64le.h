/* POWER, little endian: system call numbers, how to call, where a process begins. */

enum {
	SYS_read = 3, SYS_write = 4, SYS_close = 6, SYS_mount = 21, SYS_ioctl = 54,
	SYS_swapon = 87, SYS_mmap = 90, SYS_munmap = 91, SYS_ftruncate = 93, SYS_statfs = 99,
	SYS_syslog = 103, SYS_clone = 120, SYS_mprotect = 125, SYS_mlock = 150,
	SYS_nanosleep = 162, SYS_pread = 179, SYS_madvise = 205, SYS_openat = 286,
	SYS_mkdirat = 287, SYS_readlinkat = 296, SYS_finit_module = 353,
	SYS_memfd_create = 360, SYS_statx = 383, SYS_io_uring_setup = 425,
	SYS_io_uring_register = 427, SYS_memfd_secret = 447,
};
enum { LATER = 0x40 };		/* MAP_NORESERVE */

#define SPAN 0x4000000000UL	/* half the reach of one entry of the root: 4 KiB kernels have few */
#define HIGH (1UL << 50)	/* user addresses that only kernels with 64 KiB pages have */

typedef u64 fs_type;		/* the first word of struct statfs */

/* An error is told by the summary overflow bit of condition register 0, as a positive number. */
static inline long call(long n, long a, long b, long c, long d, long e, long f)
{
	register long r0 __asm__("r0") = n;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;
	register long r7 __asm__("r7") = e;
	register long r8 __asm__("r8") = f;
	__asm__ volatile("sc\n\tbns+ 1f\n\tneg %1,%1\n1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7), "+r"(r8)
			 :
			 : "r9", "r10", "r11", "r12", "cr0", "ctr", "xer", "memory");
	return r3;
}

/* Entered with its own address in r12, from which the ABI finds the table of contents (r2), without
   a return address, and with arguments on the stack. */
#define ENTRY \
	__asm__(".globl _start\n_start:\n" \
		"\taddis 2,12,.TOC.-_start@ha\n\taddi 2,2,.TOC.-_start@l\n" \
		"\tmr 3,1\n\tclrrdi 1,1,4\n\tli 0,0\n\tstdu 0,-32(1)\n\tmtlr 0\n\tbl start\n\tnop\n");
