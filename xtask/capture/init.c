/*
 * The first process of the captured machine: lays its memory out, prints what the kernel says of
 * every page of it, then spins in user mode until the machine was captured. When the host says
 * so, it asks the kernel to pin what it laid out.
 *
 * Output goes to a serial port of its own (the kernel's console is another):
 *
 *   R name start pages in_guest        one test region
 *   P va pagemap kpageflags count n    n pages with consecutive frames
 *   T start magic attributes           file-system type and file attributes of a mapping
 *   K pfn n flags                      n frames with equal (masked) kpageflags
 *   F name / <text> / E name           a file of /proc, verbatim
 *   W text                             something did not work
 *   READY
 *   V asker access whole start pages errno    what the kernel answered to `asker`;
 *                                             access is r or w, errno 0 is a pin
 *   DONE
 *
 * Numbers are hexadecimal.
 */

#include "init.h"

ENTRY

static void mount_all(void)
{
	make_dir("/dev");
	make_dir("/proc");
	make_dir("/sys");
	mount_("dev", "/dev", "devtmpfs", "");
	mount_("proc", "/proc", "proc", "");
	mount_("sys", "/sys", "sysfs", "");
}

static void lay_out(void)
{
	lay_out_shared_with_child();
	write_file("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
	/* Under 512 MiB of memory these are off by default. */
	write_file("/sys/kernel/mm/transparent_hugepage/defrag", "madvise");
	write_file("/sys/kernel/mm/transparent_hugepage/use_zero_page", "1");
	write_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise");
	write_file("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan", "1");
	lay_out_guest();
	lay_out_files();
	lay_out_anonymous();
	region("text", (u64)lay_out & -PAGE, PAGE, 0);
}

static void print_all(void)
{
	print_text("release", "/proc/sys/kernel/osrelease");
	print_text("cmdline", "/proc/cmdline");
	print_text("cpuinfo", "/proc/cpuinfo");
	print_text("iomem", "/proc/iomem");
	print_kernel_log();
	print_text("smaps", "/proc/self/smaps");
	print_pages_and_frames();
}

/* Nearly all of the time in user mode: the registers are then this process's own. */
static void spin_until_told(long go)
{
	char byte;
	while (read_(go, &byte, 1) != 1)
		for (volatile u32 i = 0; i < 20000000; i++)
			;
}

void start(void)
{
	long go;
	mount_all();
	open_output();
	touch_page_buffers();
	load_modules();
	go = open_(GO, O_RW | O_NONBLOCK);
	if (ERR(go))
		warn(GO, go);
	lay_out();
	flush();
	print_all();
	put("READY\n");
	flush();
	spin_until_told(go);
	ask_all();
	put("DONE\n");
	flush();
	for (;;)
		sleep_ms(1000000);
}
