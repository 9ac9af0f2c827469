/* aarch64: system call numbers, how to call, where a process begins. */

enum {
	SYS_ioctl = 29, SYS_mkdirat = 34, SYS_mount = 40, SYS_statfs = 43, SYS_ftruncate = 46,
	SYS_openat = 56, SYS_close = 57, SYS_read = 63, SYS_write = 64, SYS_pread = 67,
	SYS_readlinkat = 78, SYS_nanosleep = 101, SYS_syslog = 116, SYS_munmap = 215,
	SYS_clone = 220, SYS_mmap = 222, SYS_swapon = 224, SYS_mprotect = 226, SYS_mlock = 228,
	SYS_madvise = 233, SYS_finit_module = 273, SYS_memfd_create = 279, SYS_statx = 291,
	SYS_io_uring_setup = 425, SYS_io_uring_register = 427, SYS_memfd_secret = 447,
};
enum { LATER = 0x4000 };	/* MAP_NORESERVE */

#define SPAN 0x8000000000UL	/* reach of one entry of the root, with 4 KiB pages */
#define HIGH (1UL << 50)	/* user addresses that only kernels with 52 bits have */

typedef u64 fs_type;		/* the first word of struct statfs */

static inline long call(long n, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

/* Entered without a return address, and with arguments on the stack. */
#define ENTRY \
	__asm__(".globl _start\n_start:\n\tmov x29,#0\n\tmov x30,#0\n\tmov x0,sp\n\tbl start\n");
