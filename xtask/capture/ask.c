/*
 * Asks the kernel to pin for long, and prints what it answers. All of it comes after the machine
 * was captured: a pin brings pages in, unshares them and moves them.
 *
 * Each region is asked whole and page by page; a large one page by page at both ends only, so that
 * a question costs little on any kernel. Reads come before writes, because a write leaves nothing
 * to unshare.
 */

#include "init.h"

#define SAMPLE 32

static void print_verdict(const struct asker *asker, int write, int whole, u64 at, u64 pages,
			  long answer)
{
	put("V ");
	put(asker->name);
	put(write ? " w" : " r");
	put_hex(whole);
	put_hex(at);
	put_hex(pages);
	put_hex(-answer);
	put("\n");
}

static void ask_pages(const struct asker *asker, int write, u64 at, u64 end)
{
	u64 start = at;
	long last = 0;
	for (; at < end; at += PAGE) {
		long answer = asker->pin(write, at, 1);
		if (at > start && answer != last) {
			print_verdict(asker, write, 0, start, (at - start) / PAGE, last);
			start = at;
		}
		last = answer;
	}
	print_verdict(asker, write, 0, start, (end - start) / PAGE, last);
}

static void ask(const struct asker *asker, int write, const struct region *r)
{
	u64 end = r->at + r->pages * PAGE;
	if (asker->can_whole)
		print_verdict(asker, write, 1, r->at, r->pages, asker->pin(write, r->at, r->pages));
	if (r->pages <= 2 * SAMPLE) {
		ask_pages(asker, write, r->at, end);
	} else {
		ask_pages(asker, write, r->at, r->at + SAMPLE * PAGE);
		ask_pages(asker, write, end - SAMPLE * PAGE, end);
	}
}

void ask_all(void)
{
	const struct asker *all[] = { &gup_test, &vfio, &uring };
	int there[3];
	for (u64 k = 0; k < 3; k++) {
		long r = all[k]->begin();
		there[k] = !ERR(r);
		if (ERR(r))
			warn(all[k]->name, r);
	}
	for (u64 i = 0; i < region_count; i++)
		for (int write = 0; write < 2; write++)
			for (u64 k = 0; k < 3; k++)
				if (there[k] && (write || all[k]->can_read)) {
					ask(all[k], write, &regions[i]);
					flush();
				}
}
