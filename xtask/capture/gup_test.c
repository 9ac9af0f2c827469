/*
 * The kernel's own test module (CONFIG_GUP_TEST): a long-term pin and nothing around it. It tells
 * how far it came and not why it stopped, and a range that was pinned in part looks like one that
 * was pinned, so it is asked for single pages only.
 *
 * It has a check of its own that a pin is counted, and complains to the console about zero pages,
 * whose pins are not. That is no answer to us.
 */

#include "init.h"

#define BENCH_LONGTERM 0xc0506703UL
#define NOT_TOLD -4095L

static long test;

static long begin(void)
{
	mount_("debug", "/sys/kernel/debug", "debugfs", "");
	test = open_("/sys/kernel/debug/gup_test", O_RW);
	return test;
}

static long pin(int write, u64 at, u64 pages)
{
	struct {
		u64 get_time, put_time, at, bytes;
		u32 pages, write, flags, dump[8];
	} t = { 0, 0, at, pages * PAGE, pages, write, 0, { 0 } };
	long r = control(test, BENCH_LONGTERM, &t);
	return ERR(r) || t.bytes == pages * PAGE ? r : NOT_TOLD;
}

const struct asker gup_test = { "gup_test", begin, pin, 1, 0 };
