/* System calls with fewer words. */

#include "init.h"

#define HERE -100L	/* AT_FDCWD */

void *memset(void *to, int byte, u64 n)
{
	volatile u8 *p = to;
	while (n--)
		*p++ = byte;
	return to;
}

long open_(const char *path, int flags)
{
	return call(SYS_openat, HERE, (long)path, flags, 0644, 0, 0);
}

void close_(long fd)
{
	call(SYS_close, fd, 0, 0, 0, 0, 0);
}

long read_(long fd, void *to, u64 bytes)
{
	return call(SYS_read, fd, (long)to, bytes, 0, 0, 0);
}

long control(long fd, u64 request, const void *argument)
{
	return call(SYS_ioctl, fd, request, (long)argument, 0, 0, 0);
}

long map(u64 at, u64 bytes, int prot, int flags, long fd, u64 offset)
{
	return call(SYS_mmap, at, bytes, prot, flags | FIXED, fd, offset);
}

void advise(u64 at, u64 bytes, int what)
{
	call(SYS_madvise, at, bytes, what, 0, 0, 0);
}

void make_dir(const char *path)
{
	call(SYS_mkdirat, HERE, (long)path, 0755, 0, 0, 0);
}

long mount_(const char *what, const char *where, const char *type, const char *options)
{
	make_dir(where);
	return call(SYS_mount, (long)what, (long)where, (long)type, 0, (long)options, 0);
}

void sleep_ms(long ms)
{
	long t[2] = { ms / 1000, ms % 1000 * 1000000 };
	call(SYS_nanosleep, (long)t, 0, 0, 0, 0, 0);
}

void dirty(u64 at)
{
	*(volatile u64 *)at = at;	/* never zero, never equal */
}

void look(u64 at)
{
	(void)*(volatile u64 *)at;
}

void write_file(const char *path, const char *text)
{
	long fd = open_(path, O_RW);
	long n = fd;
	if (ERR(fd))
		fd = open_(path, 1);	/* some cannot be read */
	if (!ERR(fd)) {
		n = call(SYS_write, fd, (long)text, length(text), 0, 0, 0);
		close_(fd);
	}
	if (ERR(n))
		warn(path, n);
}

void write_number(const char *path, u64 value)
{
	char text[24], *at = text + sizeof text;
	*--at = 0;
	do
		*--at = '0' + value % 10;
	while (value /= 10);
	write_file(path, at);
}

int there_is(const char *path)
{
	long fd = open_(path, 0);
	if (ERR(fd))
		return 0;
	close_(fd);
	return 1;
}

u64 read_number(const char *path)
{
	char text[32];
	u64 v = 0;
	long fd = open_(path, 0), n;
	if (ERR(fd))
		return 0;
	n = read_(fd, text, sizeof text);
	for (long i = 0; i < n && text[i] >= '0' && text[i] <= '9'; i++)
		v = v * 10 + text[i] - '0';
	close_(fd);
	return v;
}
