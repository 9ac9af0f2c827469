/*
 * The first process of the captured machine: lays its memory out, prints what the kernel says of
 * every page of it, then spins in user mode until the machine was captured. When the host says
 * so, it asks the kernel to pin what it laid out.
 *
 * Output goes to the console, after the kernel was told to be silent there:
 *
 *   BEGIN
 *   I page_size address                    of this kernel; and of the word that the host writes
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

u64 page_size, leaf_size;
static volatile u64 go;	/* written by the host */

enum { AT_PAGESZ = 6 };

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
	/* Makes pages look unused, to see whether they are. */
	if (there_is("/sys/module/damon_stat/parameters/enabled"))
		write_file("/sys/module/damon_stat/parameters/enabled", "N");
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
	print_kernel_log("kmsg");
	print_text("smaps", "/proc/self/smaps");
	print_pages_and_frames();
}

/* All of the time in user mode: the registers are then this process's own. */
static void spin_until_told(void)
{
	while (!go)
		;
}

/* On the stack lie the arguments, the environment, and pairs of which the kernel says one each. */
static u64 auxiliary(const u64 *stack, u64 what)
{
	const u64 *at = stack + 1 + *stack + 1;
	while (*at++)
		;
	while (*at && *at != what)
		at += 2;
	return at[1];
}

static void tell_sizes(void)
{
	leaf_size = read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
	if (leaf_size == 0 || leaf_size > 32 * MIB)
		leaf_size = 2 * MIB;	/* none, or none that this machine has memory for */
	put("I");
	put_hex(page_size);
	put_hex((u64)&go);
	put("\n");
}

void start(const u64 *stack)
{
	page_size = auxiliary(stack, AT_PAGESZ);
	mount_all();
	open_output();
	tell_sizes();
	load_modules();
	lay_out();
	touch_buffers();
	flush();
	print_all();
	put("READY\n");
	flush();
	spin_until_told();
	ask_all();
	print_kernel_log("kmsg_after");
	put("DONE\n");
	flush();
	for (;;)
		sleep_ms(1000000);
}
