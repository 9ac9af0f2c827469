/* Lines for the host. They go to the console, where the kernel says nothing any more. */

#include "init.h"

enum { READ_ALL = 3, CONSOLE_OFF = 6 };	/* of syslog */

static long out = 1;
static char line[0x4000];
static u64 used;

char text_buffer[0x40000];

void open_output(void)
{
	long fd = open_("/dev/console", O_RW);
	if (!ERR(fd))
		out = fd;
	call(SYS_syslog, CONSOLE_OFF, 0, 0, 0, 0, 0);
	put("\nBEGIN\n");
}

void flush(void)
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

u64 length(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

void put(const char *s) { bytes_out(s, length(s)); }

char *hex(char *end, u64 v)
{
	*--end = 0;
	do
		*--end = "0123456789abcdef"[v & 15];
	while (v >>= 4);
	return end;
}

void put_hex(u64 v)
{
	char text[20];
	put(" ");
	put(hex(text + sizeof text, v));
}

void warn(const char *what, long error)
{
	put("W ");
	put(what);
	put_hex(-error);
	put("\n");
}

void print_text(const char *name, const char *path)
{
	long fd = open_(path, 0), n;
	if (ERR(fd)) {
		warn(path, fd);
		return;
	}
	put("F ");
	put(name);
	put("\n");
	while ((n = read_(fd, text_buffer, sizeof text_buffer)) > 0)
		bytes_out(text_buffer, n);
	put("\nE ");
	put(name);
	put("\n");
	close_(fd);
}

void print_kernel_log(const char *name)
{
	long n = call(SYS_syslog, READ_ALL, (long)text_buffer, sizeof text_buffer, 0, 0, 0);
	put("F ");
	put(name);
	put("\n");
	if (n > 0)
		bytes_out(text_buffer, n);
	put("\nE ");
	put(name);
	put("\n");
}
