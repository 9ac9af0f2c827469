/* One region for each other case of memory without a file, or with one that has no name. */

#include "init.h"

/* Before anything else exists: a fork makes every private page shared. */
void lay_out_shared_with_child(void)
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

static void lay_out_same(void)
{
	u64 at = map_region("ksm", place(), 8 * PAGE, RW, PRIVATE | ANON, -1);
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

static void lay_out_secret(void)
{
	long fd = call(SYS_memfd_secret, 0, 0, 0, 0, 0, 0);
	u64 at;
	if (!ERR(fd))
		call(SYS_ftruncate, fd, 4 * PAGE, 0, 0, 0, 0);
	at = map_region("secret", place(), 4 * PAGE, RW, SHARED, fd);
	for (u64 i = 0; at && i < 4; i++)
		dirty(at + i * PAGE);
}

static void lay_out_huge(void)
{
	u64 at = map_region("no_access_thp", place_huge(2 * LEAF, LEAF), 2 * LEAF, RW, PRIVATE | ANON, -1);
	advise(at, 2 * LEAF, ADV_HUGE);
	dirty(at);
	dirty(at + LEAF);
	call(SYS_mprotect, at, 2 * LEAF, 0, 0, 0, 0);
	at = map_region("read_only_thp", place_huge(LEAF, LEAF), LEAF, RW, PRIVATE | ANON, -1);
	advise(at, LEAF, ADV_HUGE);
	dirty(at);
	call(SYS_mprotect, at, LEAF, RD, 0, 0, 0);
	write_number("/proc/sys/vm/nr_hugepages", guest_pool + 2);
	at = map_region("hugetlb_shared", place_huge(2 * LEAF, LEAF), 2 * LEAF, RW, SHARED | ANON | HUGETLB, -1);
	if (at)
		dirty(at);	/* the second stays untouched */
}

/* Sizes of huge pages beside the one by default: groups of entries with a mark, on aarch64. */
static void lay_out_other_huge(void)
{
	static const struct { const char *name, *pool; int shift; } all[] = {
		{ "hugetlb_64k", "/sys/kernel/mm/hugepages/hugepages-64kB/nr_hugepages", 16 },
		{ "hugetlb_2m", "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 21 },
		{ "hugetlb_32m", "/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages", 25 },
	};
	for (u64 i = 0; i < sizeof all / sizeof *all; i++) {
		u64 bytes = 1UL << all[i].shift, at;
		if (bytes == LEAF || !there_is(all[i].pool))
			continue;
		write_number(all[i].pool, 1);
		at = map_region(all[i].name, place_huge(bytes, bytes), bytes, RW,
				PRIVATE | ANON | HUGETLB | all[i].shift << 26, -1);
		if (at)
			dirty(at);
	}
}

/* A swap area of 1 MiB in a RAM disk, and pages that the kernel was told to put there. */
static void lay_out_swapped(void)
{
	static const char disk[] = "/dev/ram0";
	u32 *header = (u32 *)(text_buffer + 1024);
	long fd = open_(disk, O_RW), r = fd;
	u64 at;
	if (!ERR(fd)) {
		for (u64 i = 0; i < PAGE; i++)
			text_buffer[i] = 0;
		header[0] = 1;		/* version */
		header[1] = MIB / PAGE - 1;	/* last page */
		for (u64 i = 0; i < 10; i++)
			text_buffer[PAGE - 10 + i] = "SWAPSPACE2"[i];
		call(SYS_write, fd, (long)text_buffer, PAGE, 0, 0, 0);
		close_(fd);
		r = call(SYS_swapon, (long)disk, 0, 0, 0, 0, 0);
	}
	if (ERR(r)) {
		warn("swapped", r);
		return;
	}
	at = anon("swapped", 8);
	advise(at, 6 * PAGE, ADV_PAGEOUT);	/* the last two stay */
}

/* Only where addresses are wide enough: without a word where they are not. */
static void lay_out_high(void)
{
	u64 bytes = 8 * PAGE;
	if (ERR(map(HIGH, bytes, RW, PRIVATE | ANON, -1, 0)))
		return;
	region("high", HIGH, bytes, 0);
	for (u64 i = 0; i < 6; i++)
		dirty(HIGH + i * PAGE);
}

/* Ranges that can be pinned in part only: pages without access, and none at all, in the middle. */
static void lay_out_interrupted(void)
{
	u64 at = anon("part_no_access", 8);
	call(SYS_mprotect, at + 3 * PAGE, 2 * PAGE, 0, 0, 0, 0);
	at = anon("part_unmapped", 8);
	call(SYS_munmap, at + 3 * PAGE, 2 * PAGE, 0, 0, 0, 0);
}

void lay_out_anonymous(void)
{
	u64 at = anon("read_only", 8);
	call(SYS_mprotect, at, 8 * PAGE, RD, 0, 0, 0);
	at = anon("no_access", 8);
	call(SYS_mprotect, at, 8 * PAGE, 0, 0, 0, 0);
	at = anon("executable", 4);
	call(SYS_mprotect, at, 4 * PAGE, RD | EX, 0, 0, 0);
	at = anon("locked", 4);
	call(SYS_mlock, at, 4 * PAGE, 0, 0, 0, 0);
	lay_out_interrupted();
	lay_out_same();
	lay_out_secret();
	lay_out_huge();
	lay_out_other_huge();
	lay_out_swapped();
	lay_out_high();
	region("stack", (u64)&at & -PAGE, PAGE, 0);
}
