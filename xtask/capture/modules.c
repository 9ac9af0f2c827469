/* Drivers that the host packed, in the order of its list. */

#include "init.h"

static char names[0x1000];

void load_modules(void)
{
	long fd = open_("/modules", 0), n;
	if (ERR(fd))
		return;		/* a kernel that has all it needs built in, or none to load */
	n = read_(fd, names, sizeof names - 1);
	close_(fd);
	for (char *name = names, *at = names; at < names + n; at++) {
		long file, r;
		if (*at != '\n')
			continue;
		*at = 0;
		file = open_(name, 0);
		r = ERR(file) ? file : call(SYS_finit_module, file, (long)"", 0, 0, 0, 0);
		if (ERR(r) && r != -17)	/* loaded before */
			warn(name, r);
		if (!ERR(file))
			close_(file);
		name = at + 1;
	}
}
