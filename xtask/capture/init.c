/*
 * The first process of the captured machine: lays its memory out, prints what
 * the kernel says about every page of it, then spins in user mode until the
 * machine is stopped. No C library: raw system calls only.
 *
 * Output goes to a serial port of its own (the kernel's console is another):
 *
 *   R name start pages in_guest        one test region
 *   P va pagemap kpageflags count n    n pages with consecutive frames
 *   T start magic                      file-system type of a mapping
 *   K pfn n flags                      n frames with equal (masked) kpageflags
 *   F name / <text> / E name           a file of /proc, verbatim
 *   W text                             something did not work
 *   READY
 *
 * Numbers are hexadecimal. The names of regions are explained in the table of
 * `lay_out_guest` and `lay_out_others`.
 */

typedef unsigned long u64;
typedef unsigned char u8;

/* ---- Architecture ------------------------------------------------------ */

#if defined(__x86_64__)

enum {
	SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_mmap = 9,
	SYS_mprotect = 10, SYS_munmap = 11, SYS_pread = 17, SYS_madvise = 28,
	SYS_nanosleep = 35, SYS_clone = 56, SYS_uname = 63, SYS_ftruncate = 77,
	SYS_mkdir = 83, SYS_syslog = 103, SYS_statfs = 137, SYS_mlock = 149,
	SYS_mount = 165, SYS_memfd_create = 319, SYS_memfd_secret = 447,
};

#define OUTPUT "/dev/ttyS1"
#define LEAF 0x200000UL		/* the second page size */
#define SPAN 0x8000000000UL	/* reach of one entry of the root table */

static long call(long n, long a, long b, long c, long d, long e, long f)
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

/* Entered without a return address; make the stack what C expects. */
__asm__(".globl _start\n_start:\n\txor %ebp,%ebp\n\tand $-16,%rsp\n\tcall start\n");

#else
#error "no system call layer for this architecture yet"
#endif

/* ---- System calls ------------------------------------------------------ */

#define PAGE 0x1000UL
#define ERR(r) ((u64)(r) > -4096UL)

enum { RD = 1, WR = 2, EX = 4, RW = 3 };
enum { SHARED = 1, PRIVATE = 2, FIXED = 0x10, ANON = 0x20, LATER = 0x4000, HUGETLB = 0x40000 };
enum { ADV_MERGEABLE = 12, ADV_HUGE = 14, ADV_NOHUGE = 15 };
enum { O_RW = 2, O_CREATE = 0x40 };

static void *memset_(void *to, int byte, u64 n)
{
	volatile u8 *p = to;
	while (n--)
		*p++ = byte;
	return to;
}

void *memset(void *to, int byte, u64 n) { return memset_(to, byte, n); }

static long open_(const char *path, int flags)
{
	return call(SYS_open, (long)path, flags, 0644, 0, 0, 0);
}

static long map(u64 at, u64 bytes, int prot, int flags, long fd, u64 offset)
{
	return call(SYS_mmap, at, bytes, prot, flags | FIXED, fd, offset);
}

static void advise(u64 at, u64 bytes, int what)
{
	call(SYS_madvise, at, bytes, what, 0, 0, 0);
}

static void sleep_ms(long ms)
{
	long t[2] = { ms / 1000, ms % 1000 * 1000000 };
	call(SYS_nanosleep, (long)t, 0, 0, 0, 0, 0);
}

/* ---- Output ------------------------------------------------------------ */

static long out = 1;
static char line[0x4000];
static u64 used;

static void flush(void)
{
	u64 done = 0;
	while (done < used) {
		long n = call(SYS_write, out, (long)line + done, used - done, 0, 0, 0);
		if (n <= 0)
			break;
		done += n;
	}
	used = 0;
}

static void bytes_out(const char *s, u64 n)
{
	while (n--) {
		if (used == sizeof line)
			flush();
		line[used++] = *s++;
	}
}

static u64 length(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

static void put(const char *s) { bytes_out(s, length(s)); }

static char *hex(char *end, u64 v)
{
	*--end = 0;
	do
		*--end = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	return end;
}

static void put_hex(u64 v)
{
	char text[20];
	put(" ");
	put(hex(text + sizeof text, v));
}

static void warn(const char *what, long error)
{
	put("W ");
	put(what);
	put_hex(-error);
	put("\n");
}

static void write_file(const char *path, const char *text)
{
	long fd = open_(path, O_RW);
	long n = ERR(fd) ? fd : call(SYS_write, fd, (long)text, length(text), 0, 0, 0);
	if (ERR(n))
		warn(path, n);
	if (!ERR(fd))
		call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static u64 read_number(const char *path)
{
	char text[32];
	u64 v = 0;
	long fd = open_(path, 0), n;
	if (ERR(fd))
		return 0;
	n = call(SYS_read, fd, (long)text, sizeof text, 0, 0, 0);
	for (long i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		v = v * 10 + text[i] - '0';
	call(SYS_close, fd, 0, 0, 0, 0, 0);
	return v;
}

static char text_buffer[0x40000];

static void print_text(const char *name, const char *path)
{
	long fd = open_(path, 0), n;
	if (ERR(fd)) {
		warn(path, fd);
		return;
	}
	put("F ");
	put(name);
	put("\n");
	while ((n = call(SYS_read, fd, (long)text_buffer, sizeof text_buffer, 0, 0, 0)) > 0)
		bytes_out(text_buffer, n);
	put("\nE ");
	put(name);
	put("\n");
	call(SYS_close, fd, 0, 0, 0, 0, 0);
}

static void print_kernel_log(void)
{
	long n = call(SYS_syslog, 3, (long)text_buffer, sizeof text_buffer, 0, 0, 0);
	put("F kmsg\n");
	if (n > 0)
		bytes_out(text_buffer, n);
	put("\nE kmsg\n");
}

static void region(const char *name, u64 at, u64 bytes, int in_guest)
{
	put("R ");
	put(name);
	put_hex(at);
	put_hex(bytes / PAGE);
	put_hex(in_guest);
	put("\n");
}

/* ---- The guest's memory ------------------------------------------------ */

#define MIB 0x100000UL
/* Across the border of two entries of the root table. */
#define GUEST (160 * SPAN - 40 * MIB)
#define ROUNDS 3

enum kind { FORWARD, BACKWARD, SCATTERED, HOLED, WHOLE, PART, READ, NEVER, SPLIT };

static struct part {
	const char *name;
	u64 bytes;
	enum kind touch;
	enum { SMALL, HUGE, MEMFD, MEMFD_HUGE, POOL } memory;
	u64 at;
} guest[] = {
	{ "small", 11 * MIB, FORWARD, SMALL, 0 },	/* anonymous 4 KiB pages */
	{ "scattered", MIB / 2, SCATTERED, SMALL, 0 },	/* short runs of frames */
	{ "backward", MIB / 2, BACKWARD, SMALL, 0 },	/* frames run against addresses */
	{ "thp", 24 * MIB, WHOLE, HUGE, 0 },		/* anonymous 2 MiB pages */
	{ "thp_split", 6 * MIB, SPLIT, HUGE, 0 },	/* mapped by 4 KiB entries */
	{ "memfd", 2 * MIB, HOLED, MEMFD, 0 },		/* shared memory with holes */
	{ "hugetlb", 12 * MIB, WHOLE, POOL, 0 },
	{ "untouched", 4 * MIB, NEVER, SMALL, 0 },
	{ "zero", 2 * MIB, PART, SMALL, 0 },		/* the first pages were read */
	{ "zero_thp", 4 * MIB, READ, HUGE, 0 },		/* the huge zero page */
	{ "memfd_thp", 6 * MIB, WHOLE, MEMFD_HUGE, 0 },	/* shared 2 MiB pages */
	{ "thp_more", 24 * MIB, WHOLE, HUGE, 0 },
};
#define PARTS (sizeof guest / sizeof *guest)

static void dirty(u64 at)
{
	*(volatile u64 *)at = at;	/* never zero, never equal */
}

static void look(u64 at)
{
	(void)*(volatile u64 *)at;
}

/* Touches the part's share of round `round`, so that every part gets frames
   from all zones: the first round finds the movable zone empty, the last one
   finds it full. */
static void touch(struct part *p, u64 round)
{
	u64 from = p->at + p->bytes / ROUNDS / LEAF * LEAF * round;
	u64 to = round + 1 == ROUNDS ? p->at + p->bytes : from + p->bytes / ROUNDS / LEAF * LEAF;
	if (p->bytes < ROUNDS * LEAF) {
		from = p->at + p->bytes / ROUNDS / PAGE * PAGE * round;
		to = round + 1 == ROUNDS ? p->at + p->bytes : from + p->bytes / ROUNDS / PAGE * PAGE;
	}
	switch (p->touch) {
	case FORWARD:
		for (u64 a = from; a < to; a += PAGE)
			dirty(a);
		break;
	case BACKWARD:
		for (u64 a = to; a > from; a -= PAGE)
			dirty(a - PAGE);
		break;
	case SCATTERED:	/* groups of 8 pages, in the order 0 3 6 1 4 7 2 5 */
		for (u64 i = 0, n = (to - from) / (8 * PAGE); i < n; i++) {
			u64 g = (i & ~7UL) | (i * 3 & 7);
			for (u64 k = 0; g < n && k < 8; k++)
				dirty(from + (g * 8 + k) * PAGE);
		}
		break;
	case HOLED:	/* every fourth group of 32 pages stays a hole */
		for (u64 a = from; a < to; a += PAGE)
			if ((a / PAGE & 127) < 96)
				dirty(a);
		break;
	case WHOLE:
	case SPLIT:
		for (u64 a = from; a < to; a += LEAF)
			dirty(a);
		break;
	case PART:
		for (u64 i = 0; round == 0 && i < 96; i++)
			look(p->at + i * PAGE);
		break;
	case READ:
		for (u64 a = p->at; round == 0 && a < p->at + p->bytes; a += LEAF)
			look(a);
		break;
	case NEVER:
		break;
	}
}

static long new_memfd(const char *name, u64 bytes)
{
	long fd = call(SYS_memfd_create, (long)name, 0, 0, 0, 0, 0);
	if (!ERR(fd))
		call(SYS_ftruncate, fd, bytes, 0, 0, 0, 0);
	return fd;
}

static void lay_out_guest(void)
{
	u64 at = GUEST;
	for (u64 i = 0; i < PARTS; at += guest[i++].bytes) {
		struct part *p = &guest[i];
		int shared = p->memory == MEMFD || p->memory == MEMFD_HUGE;
		long fd = shared ? new_memfd(p->name, p->bytes) : -1;
		int flags = shared ? SHARED : p->memory == POOL ? PRIVATE | ANON | HUGETLB | LATER : PRIVATE | ANON;
		long r;
		p->at = at;
		r = map(at, p->bytes, RW, flags, fd, 0);
		if (ERR(r))
			warn(p->name, r);
		if (p->memory != POOL)
			advise(at, p->bytes,
			       p->memory == HUGE || p->memory == MEMFD_HUGE ? ADV_HUGE : ADV_NOHUGE);
		region(p->name, at, p->bytes, 1);
	}
	for (u64 round = 0; round < ROUNDS; round++) {
		write_file("/proc/sys/vm/nr_hugepages", (const char *[]){ "2", "4", "6" }[round]);
		for (u64 i = 0; i < PARTS; i++)
			touch(&guest[i], round);
	}
	for (u64 i = 0; i < PARTS; i++)
		for (u64 a = guest[i].at; guest[i].touch == SPLIT && a < guest[i].at + guest[i].bytes; a += LEAF) {
			call(SYS_mprotect, a + 37 * PAGE, PAGE, RD, 0, 0, 0);
			call(SYS_mprotect, a + 37 * PAGE, PAGE, RW, 0, 0, 0);
		}
}

/* ---- One region for each other case ------------------------------------ */

#define OTHERS (96 * SPAN)
#define STEP (16 * PAGE)

static u64 next_at = OTHERS;

static u64 place(void)
{
	next_at += STEP;
	return next_at - STEP;
}

static u64 map_or_warn(const char *name, u64 at, u64 bytes, int prot, int flags, long fd)
{
	long r = map(at, bytes, prot, flags, fd, 0);
	if (ERR(r)) {
		warn(name, r);
		return 0;
	}
	region(name, at, bytes, 0);
	return at;
}

static u64 anon(const char *name, u64 pages)
{
	u64 at = map_or_warn(name, place(), pages * PAGE, RW, PRIVATE | ANON, -1);
	advise(at, pages * PAGE, ADV_NOHUGE);
	for (u64 i = 0; i < pages; i++)
		dirty(at + i * PAGE);
	return at;
}

/* Before anything else exists: a fork makes every private page shared. */
static void lay_out_shared_with_child(void)
{
	u64 at = anon("cow_child", 8);
	long child = call(SYS_clone, 17, 0, 0, 0, 0, 0);
	if (child == 0)
		for (;;)
			sleep_ms(1000000);
	if (ERR(child))
		warn("clone", child);
	dirty(at + 3 * PAGE);	/* one page is private again */
}

static void lay_out_file(const char *name, const char *path, int prot, int flags, int write)
{
	long fd = open_(path, O_RW | O_CREATE);
	u64 at;
	if (ERR(fd)) {
		warn(path, fd);
		return;
	}
	call(SYS_write, fd, (long)text_buffer, 8 * PAGE, 0, 0, 0);
	at = map_or_warn(name, place(), 8 * PAGE, prot, flags, fd);
	for (u64 i = 0; at && i < 6; i++)	/* the last two stay untouched */
		look(at + i * PAGE);
	for (u64 i = 0; at && write && i < 3; i++)
		dirty(at + i * PAGE);
}

static void lay_out_same(void)
{
	u64 at = map_or_warn("ksm", place(), 8 * PAGE, RW, PRIVATE | ANON, -1);
	advise(at, 8 * PAGE, ADV_NOHUGE);
	for (u64 i = 0; i < 8 * PAGE; i += 8)
		*(volatile u64 *)(at + i) = 0x5a5a5a5a;
	advise(at, 8 * PAGE, ADV_MERGEABLE);
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	write_file("/sys/kernel/mm/ksm/run", "1");
	for (int i = 0; i < 100 && read_number("/sys/kernel/mm/ksm/pages_sharing") < 7; i++)
		sleep_ms(50);
	write_file("/sys/kernel/mm/ksm/run", "0");
}

static void lay_out_others(void)
{
	u64 at, huge = (OTHERS | 0x3fffffff) + 1 - 8 * LEAF;	/* ends a table */
	long fd;

	at = anon("read_only", 8);
	call(SYS_mprotect, at, 8 * PAGE, RD, 0, 0, 0);
	at = anon("no_access", 8);
	call(SYS_mprotect, at, 8 * PAGE, 0, 0, 0, 0);
	at = anon("executable", 4);
	call(SYS_mprotect, at, 4 * PAGE, RD | EX, 0, 0, 0);
	at = anon("locked", 4);
	call(SYS_mlock, at, 4 * PAGE, 0, 0, 0, 0);
	lay_out_same();
	lay_out_file("file_private", "/private", RW, PRIVATE, 0);
	lay_out_file("file_private_written", "/written", RW, PRIVATE, 1);
	lay_out_file("file_shared", "/shared", RW, SHARED, 1);
	call(SYS_mkdir, (long)"/tmp", 0755, 0, 0, 0, 0);
	call(SYS_mount, (long)"tmpfs", (long)"/tmp", (long)"tmpfs", 0, 0, 0);
	lay_out_file("tmpfs_private", "/tmp/private", RW, PRIVATE, 0);
	lay_out_file("tmpfs_shared", "/tmp/shared", RW, SHARED, 1);
	lay_out_file("tmpfs_read_only", "/tmp/shared", RD, SHARED, 0);

	fd = open_("/sys/bus/pci/devices/0000:00:05.0/resource0", O_RW);
	write_file("/sys/bus/pci/devices/0000:00:05.0/enable", "1");
	at = map_or_warn("device", place(), 4 * PAGE, RW, SHARED, fd);
	for (u64 i = 0; at && i < 4; i++)
		look(at + i * PAGE);

	fd = call(SYS_memfd_secret, 0, 0, 0, 0, 0, 0);
	call(SYS_ftruncate, fd, 4 * PAGE, 0, 0, 0, 0);
	at = map_or_warn("secret", place(), 4 * PAGE, RW, SHARED, fd);
	for (u64 i = 0; at && i < 4; i++)
		dirty(at + i * PAGE);

	at = map_or_warn("no_access_thp", huge, 2 * LEAF, RW, PRIVATE | ANON, -1);
	advise(at, 2 * LEAF, ADV_HUGE);
	dirty(at);
	dirty(at + LEAF);
	call(SYS_mprotect, at, 2 * LEAF, 0, 0, 0, 0);
	at = map_or_warn("read_only_thp", huge + 3 * LEAF, LEAF, RW, PRIVATE | ANON, -1);
	advise(at, LEAF, ADV_HUGE);
	dirty(at);
	call(SYS_mprotect, at, LEAF, RD, 0, 0, 0);
	write_file("/proc/sys/vm/nr_hugepages", "8");
	at = map_or_warn("hugetlb_shared", huge + 5 * LEAF, 2 * LEAF, RW, SHARED | ANON | HUGETLB, -1);
	if (at)
		dirty(at);	/* the second stays untouched */
	region("text", (u64)call & -PAGE, PAGE, 0);
	region("stack", (u64)&at & -PAGE, PAGE, 0);
}

/* ---- What the kernel says ---------------------------------------------- */

#define BATCH 512
static u64 pagemap[BATCH], words[BATCH];
static long pagemap_fd, flags_fd, count_fd;

static u64 word_at(long fd, u64 index)
{
	u64 v = 0;
	call(SYS_pread, fd, (long)&v, 8, index * 8, 0, 0);
	return v;
}

#define PRESENT (1UL << 63)
#define FRAME ((1UL << 55) - 1)

struct run { u64 va, map, flags, count, pages; };

static void print_run(struct run *r)
{
	if (r->pages) {
		put("P");
		put_hex(r->va);
		put_hex(r->map);
		put_hex(r->flags);
		put_hex(r->count);
		put_hex(r->pages);
		put("\n");
	}
}

static void print_pages(u64 start, u64 end)
{
	struct run run = { 0, 0, 0, 0, 0 };
	for (u64 at = start; at < end;) {
		u64 want = (end - at) / PAGE < BATCH ? (end - at) / PAGE : BATCH;
		long got = call(SYS_pread, pagemap_fd, (long)pagemap, want * 8, at / PAGE * 8, 0, 0);
		if (got <= 0) {
			warn("pagemap", got);
			break;
		}
		for (long i = 0; i < got / 8; i++, at += PAGE) {
			u64 m = pagemap[i], step = m & PRESENT ? 1 : 0;
			u64 flags = step ? word_at(flags_fd, m & FRAME) : 0;
			u64 count = step ? word_at(count_fd, m & FRAME) : 0;
			if (run.pages && m == run.map + run.pages * step && flags == run.flags &&
			    count == run.count) {
				run.pages++;
				continue;
			}
			print_run(&run);
			run = (struct run){ at, m, flags, count, 1 };
		}
	}
	print_run(&run);
}

/* Bits of kpageflags that tell a frame's use apart: LRU, slab, buddy, mapped,
   anonymous, swap-backed, huge, unevictable, poisoned, no page, KSM, THP,
   offline, zero page, page table, reserved. */
#define USE 0x105fe5ca0UL

static void print_frames(void)
{
	u64 first = 0, pages = 0, use = 0, pfn = 0;
	for (;;) {
		long got = call(SYS_pread, flags_fd, (long)words, sizeof words, pfn * 8, 0, 0);
		for (long i = 0; i < got / 8; i++, pfn++) {
			if (pages && (words[i] & USE) == use) {
				pages++;
				continue;
			}
			if (pages) {
				put("K");
				put_hex(first);
				put_hex(pages);
				put_hex(use);
				put("\n");
			}
			first = pfn;
			pages = 1;
			use = words[i] & USE;
		}
		if (got < 8)
			break;
	}
	put("K");
	put_hex(first);
	put_hex(pages);
	put_hex(use);
	put("\n");
}

/* File-system type behind the mapping; the magic link also reaches files
   without a name. */
static void print_type(u64 start, u64 end)
{
	char path[64], number[20];
	u64 n = 0, stat[32];
	const char *parts[] = { "/proc/self/map_files/", 0, "-", 0 };
	for (u64 i = 0; i < 4; i++) {
		const char *s = i == 1 ? hex(number + sizeof number, start)
			      : i == 3 ? hex(number + sizeof number, end) : parts[i];
		while (*s)
			path[n++] = *s++;
	}
	path[n] = 0;
	if (ERR(call(SYS_statfs, (long)path, (long)stat, 0, 0, 0, 0)))
		return;
	put("T");
	put_hex(start);
	put_hex(stat[0]);
	put("\n");
}

static char maps[0x8000];

static u64 parse_hex(char **s)
{
	u64 v = 0;
	for (;; (*s)++) {
		u8 c = **s;
		if (c >= '0' && c <= '9')
			v = v * 16 + c - '0';
		else if (c >= 'a' && c <= 'f')
			v = v * 16 + c - 'a' + 10;
		else
			return v;
	}
}

static void print_all_pages(void)
{
	long fd = open_("/proc/self/maps", 0), n;
	u64 got = 0;
	while (got < sizeof maps - 1 &&
	       (n = call(SYS_read, fd, (long)maps + got, sizeof maps - 1 - got, 0, 0, 0)) > 0)
		got += n;
	maps[got] = 0;
	for (char *s = maps; *s;) {
		u64 start = parse_hex(&s), end;
		s++;
		end = parse_hex(&s);
		if (start >> 63 == 0) {
			print_type(start, end);
			print_pages(start, end);
		}
		while (*s && *s++ != '\n')
			;
	}
}

void start(void)
{
	long fd;
	call(SYS_mkdir, (long)"/dev", 0755, 0, 0, 0, 0);
	call(SYS_mkdir, (long)"/proc", 0755, 0, 0, 0, 0);
	call(SYS_mkdir, (long)"/sys", 0755, 0, 0, 0, 0);
	call(SYS_mount, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0, 0);
	call(SYS_mount, (long)"proc", (long)"/proc", (long)"proc", 0, 0, 0);
	call(SYS_mount, (long)"sys", (long)"/sys", (long)"sysfs", 0, 0, 0);
	fd = open_(OUTPUT, O_RW);
	if (!ERR(fd))
		out = fd;

	/* Own pages first, so that printing changes nothing. */
	for (u64 i = 0; i < sizeof text_buffer; i += PAGE)
		text_buffer[i] = 1;
	for (u64 i = 0; i < sizeof maps; i += PAGE)
		maps[i] = 1;
	for (u64 i = 0; i < BATCH; i++)
		pagemap[i] = words[i] = 1;

	lay_out_shared_with_child();
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	/* Under 512 MiB of memory these are off by default. */
	write_file("/sys/kernel/mm/transparent_hugepage/defrag", "madvise");
	write_file("/sys/kernel/mm/transparent_hugepage/use_zero_page", "1");
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "1");
	lay_out_guest();
	lay_out_others();
	flush();

	pagemap_fd = open_("/proc/self/pagemap", 0);
	flags_fd = open_("/proc/kpageflags", 0);
	count_fd = open_("/proc/kpagecount", 0);
	print_text("release", "/proc/sys/kernel/osrelease");
	print_text("cmdline", "/proc/cmdline");
	print_text("cpuinfo", "/proc/cpuinfo");
	print_text("iomem", "/proc/iomem");
	print_kernel_log();
	print_text("smaps", "/proc/self/smaps");
	print_all_pages();
	print_text("zoneinfo", "/proc/zoneinfo");
	print_frames();
	put("READY\n");
	flush();
	for (;;)
		__asm__ volatile("");
}
