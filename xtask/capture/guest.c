/* The guest's memory: one range of addresses with every kind of page. */

#include "init.h"

/* Across the border of two entries of the root table. */
#define GUEST (160 * SPAN - 20 * LEAF)
#define ROUNDS 3

enum kind { FORWARD, BACKWARD, SCATTERED, HOLED, WHOLE, PART, READ, NEVER, SPLIT };

static struct part {
	const char *name;
	u64 leaves;		/* its size in huge pages; 0: see below */
	enum kind touch;
	enum { SMALL, HUGE, MEMFD, MEMFD_HUGE, POOL } memory;
	u64 at, bytes;
} guest[] = {
	{ "small", 0, FORWARD, SMALL, 0, 0 },		/* anonymous base pages */
	{ "scattered", 0, SCATTERED, SMALL, 0, 0 },	/* short runs of frames */
	{ "backward", 0, BACKWARD, SMALL, 0, 0 },	/* frames run against addresses */
	{ "thp", 12, WHOLE, HUGE, 0, 0 },		/* anonymous huge pages */
	{ "thp_split", 3, SPLIT, HUGE, 0, 0 },		/* mapped by entries of base pages */
	{ "memfd", 1, HOLED, MEMFD, 0, 0 },		/* shared memory with holes */
	{ "hugetlb", 6, WHOLE, POOL, 0, 0 },
	{ "untouched", 2, NEVER, SMALL, 0, 0 },
	{ "zero", 1, PART, SMALL, 0, 0 },		/* the first pages were read */
	{ "zero_thp", 2, READ, HUGE, 0, 0 },		/* the huge zero page */
	{ "memfd_thp", 3, WHOLE, MEMFD_HUGE, 0, 0 },	/* shared huge pages */
	{ "thp_more", 12, WHOLE, HUGE, 0, 0 },
};
#define PARTS (sizeof guest / sizeof *guest)

u64 guest_pool;

/* The small parts end where a huge page begins. Of large huge pages there are fewer. */
static u64 bytes_of(const struct part *p)
{
	u64 piece = 128 * PAGE;
	if (p->leaves && LEAF > 2 * MIB)
		return (p->leaves >= ROUNDS ? ROUNDS : 1) * LEAF;
	if (p->leaves)
		return p->leaves * LEAF;
	if (p->touch != FORWARD)
		return piece;
	return ((11 * MIB + 2 * piece + LEAF - 1) & -LEAF) - 2 * piece;
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
	case HOLED:	/* every fourth sixteenth of a huge page stays a hole */
		for (u64 a = from; a < to; a += PAGE)
			if ((a / (LEAF / 16) & 3) != 3)
				dirty(a);
		break;
	case WHOLE:
	case SPLIT:
		for (u64 a = from; a < to; a += LEAF)
			dirty(a);
		break;
	case PART:
		for (u64 i = 0; round == 0 && i < 96 && i < p->bytes / PAGE / 2; i++)
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

void lay_out_guest(void)
{
	u64 at = GUEST;
	for (u64 i = 0; i < PARTS; i++) {
		guest[i].bytes = bytes_of(&guest[i]);
		if (guest[i].memory == POOL)
			guest_pool += guest[i].bytes / LEAF;
	}
	for (u64 i = 0; i < PARTS; at += guest[i++].bytes) {
		struct part *p = &guest[i];
		int shared = p->memory == MEMFD || p->memory == MEMFD_HUGE;
		long fd = shared ? new_memfd(p->name, p->bytes) : -1;
		int flags = shared ? SHARED : p->memory == POOL ? PRIVATE | ANON | HUGETLB | LATER : PRIVATE | ANON;
		long r;
		p->at = at;
		r = map(at, p->bytes, RW, flags, fd, 0);
		if (ERR(r)) {
			warn(p->name, r);
			/* A machine without huge pages has a whole guest too. */
			map(at, p->bytes, RW, PRIVATE | ANON, -1, 0);
		}
		if (p->memory != POOL)
			advise(at, p->bytes,
			       p->memory == HUGE || p->memory == MEMFD_HUGE ? ADV_HUGE : ADV_NOHUGE);
		region(p->name, at, p->bytes, 1);
	}
	for (u64 round = 0; round < ROUNDS; round++) {
		write_number("/proc/sys/vm/nr_hugepages", guest_pool / ROUNDS * (round + 1));
		for (u64 i = 0; i < PARTS; i++)
			touch(&guest[i], round);
	}
	for (u64 i = 0; i < PARTS; i++)
		for (u64 a = guest[i].at; guest[i].touch == SPLIT && a < guest[i].at + guest[i].bytes; a += LEAF) {
			call(SYS_mprotect, a + 21 * PAGE, PAGE, RD, 0, 0, 0);
			call(SYS_mprotect, a + 21 * PAGE, PAGE, RW, 0, 0, 0);
		}
}
