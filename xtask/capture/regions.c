/* What was laid out, and where the next region goes. */

#include "init.h"

#define OTHERS (96 * SPAN)
#define STEP (16 * PAGE)

struct region regions[MAX_REGIONS];
u64 region_count;

static u64 next_at = OTHERS;
static u64 next_huge;

u64 place(void)
{
	next_at += STEP;
	return next_at - STEP;
}

/* With one huge page free behind it. The first ones lie across 1 GiB, the end of many a table. */
u64 place_huge(u64 bytes, u64 align)
{
	u64 at = next_huge ? next_huge : (OTHERS | 0x3fffffff) + 1 - 8 * LEAF;
	at = (at + align - 1) & -align;
	next_huge = at + bytes + LEAF;
	return at;
}

void region(const char *name, u64 at, u64 bytes, int in_guest)
{
	put("R ");
	put(name);
	put_hex(at);
	put_hex(bytes / PAGE);
	put_hex(in_guest);
	put("\n");
	flush();	/* if what comes next kills init, that is in the log */
	if (region_count < MAX_REGIONS)
		regions[region_count++] = (struct region){ name, at, bytes / PAGE };
}

/* 0 and a warning when it cannot be had. */
u64 map_region(const char *name, u64 at, u64 bytes, int prot, int flags, long fd)
{
	long r = ERR(fd) && !(flags & ANON) ? fd : map(at, bytes, prot, flags, fd, 0);
	if (ERR(r)) {
		warn(name, r);
		return 0;
	}
	region(name, at, bytes, 0);
	return at;
}

u64 anon(const char *name, u64 pages)
{
	u64 at = map_region(name, place(), pages * PAGE, RW, PRIVATE | ANON, -1);
	advise(at, pages * PAGE, ADV_NOHUGE);
	for (u64 i = 0; at && i < pages; i++)
		dirty(at + i * PAGE);
	return at;
}
