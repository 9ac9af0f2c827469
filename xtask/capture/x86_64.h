/* x86_64: system call numbers, how to call, where a process begins. */

enum {
	SYS_read = 0, SYS_write = 1, SYS_close = 3, SYS_mmap = 9, SYS_mprotect = 10,
	SYS_munmap = 11, SYS_ioctl = 16, SYS_pread = 17, SYS_madvise = 28, SYS_nanosleep = 35,
	SYS_clone = 56, SYS_ftruncate = 77, SYS_syslog = 103, SYS_statfs = 137, SYS_mlock = 149,
	SYS_mount = 165, SYS_swapon = 167, SYS_openat = 257, SYS_mkdirat = 258,
	SYS_readlinkat = 267, SYS_finit_module = 313, SYS_memfd_create = 319, SYS_statx = 332,
	SYS_io_uring_setup = 425, SYS_io_uring_register = 427, SYS_memfd_secret = 447,
};
enum { LATER = 0x4000 };	/* MAP_NORESERVE */

#define SPAN 0x8000000000UL	/* reach of one entry of the 4-level root */
#define HIGH (1UL << 50)	/* user addresses that need five levels */

typedef u64 fs_type;		/* the first word of struct statfs */

static inline long call(long n, long a, long b, long c, long d, long e, long f)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* Entered without a return address, and with arguments on the stack; make it what C expects. */
#define ENTRY \
	__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tmov %rsp,%rdi\n\tand $-16,%rsp\n\tcall start\n");
