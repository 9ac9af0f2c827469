/* s390x: system call numbers, how to call, where a process begins. */

enum {
	SYS_read = 3, SYS_write = 4, SYS_close = 6, SYS_mount = 21, SYS_ioctl = 54, SYS_swapon = 87,
	SYS_mmap = 90, SYS_munmap = 91, SYS_ftruncate = 93, SYS_statfs = 99, SYS_syslog = 103,
	SYS_clone = 120, SYS_mprotect = 125, SYS_mlock = 150, SYS_nanosleep = 162,
	SYS_pread = 180, SYS_madvise = 219, SYS_openat = 288, SYS_mkdirat = 289,
	SYS_readlinkat = 298, SYS_finit_module = 344, SYS_memfd_create = 350, SYS_statx = 379,
	SYS_io_uring_setup = 425, SYS_io_uring_register = 427, SYS_memfd_secret = 447,
};
enum { LATER = 0x4000 };	/* MAP_NORESERVE */

#define SPAN 0x80000000UL	/* reach of one entry of a third region table */
#define HIGH (1UL << 50)	/* user addresses that need a second one above it */

typedef u32 fs_type;		/* the first word of struct statfs */

static inline long call(long n, long a, long b, long c, long d, long e, long f)
{
	/* One call takes its words in memory, one has the first two the other way round. */
	long words[6] = { a, b, c, d, e, f };
	register long r1 __asm__("1") = n;
	register long r2 __asm__("2") = n == SYS_mmap ? (long)words : n == SYS_clone ? b : a;
	register long r3 __asm__("3") = n == SYS_clone ? a : b;
	register long r4 __asm__("4") = c;
	register long r5 __asm__("5") = d;
	register long r6 __asm__("6") = e;
	register long r7 __asm__("7") = f;
	__asm__ volatile("svc 0"
			 : "+d"(r2)
			 : "d"(r1), "d"(r3), "d"(r4), "d"(r5), "d"(r6), "d"(r7)
			 : "cc", "memory");
	return r2;
}

/* Entered with arguments on the stack; C wants 160 bytes more of it, to save registers in. */
#define ENTRY \
	__asm__(".globl _start\n_start:\n\tlgr %r2,%r15\n\taghi %r15,-160\n\tlghi %r14,0\n\tjg start\n");
