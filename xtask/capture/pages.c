/* What the kernel says of every page of the process, and of every frame. */

#include "init.h"

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

static void print_pages(u64 start, u64 end, int readable)
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
			u64 m = pagemap[i], step = m & PRESENT ? 1 : 0, flags, count;
			/* s390 has no accessed bit: a page that was not used lately is absent. */
			if (step && readable)
				look(at);
			flags = step ? word_at(flags_fd, m & FRAME) : 0;
			count = step ? word_at(count_fd, m & FRAME) : 0;
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

/* File-system type behind the mapping, and what statx says of the file; the magic link also reaches
   files without a name. */
static void print_type(u64 start, u64 end)
{
	char path[64], number[20];
	u64 n = 0, stat[32], more[32];
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
	more[1] = 0;
	call(SYS_statx, -1, (long)path, 0, 0, (long)more, 0);
	put("T");
	put_hex(start);
	put_hex(*(fs_type *)stat);
	put_hex(more[1]);
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
	       (n = read_(fd, maps + got, sizeof maps - 1 - got)) > 0)
		got += n;
	maps[got] = 0;
	for (char *s = maps; *s;) {
		u64 start = parse_hex(&s), end;
		s++;
		end = parse_hex(&s);
		if (start >> 63 == 0) {
			print_type(start, end);
			print_pages(start, end, s[1] == 'r');
		}
		while (*s && *s++ != '\n')
			;
	}
}

/* Pages of our own, not those that the child has too: printing is to change nothing. */
void touch_buffers(void)
{
	for (u64 i = 0; i < sizeof text_buffer; i += PAGE)
		text_buffer[i] = 1;
	for (u64 i = 0; i < sizeof maps; i += PAGE)
		maps[i] = 1;
	for (u64 i = 0; i < BATCH; i++)
		pagemap[i] = words[i] = 1;
}

void print_pages_and_frames(void)
{
	pagemap_fd = open_("/proc/self/pagemap", 0);
	flags_fd = open_("/proc/kpageflags", 0);
	count_fd = open_("/proc/kpagecount", 0);
	print_all_pages();
	print_text("zoneinfo", "/proc/zoneinfo");
	print_frames();
}
