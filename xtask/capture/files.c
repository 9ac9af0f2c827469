/* Regions of files: on a disk, in shared memory, in persistent memory, and device registers. */

#include "init.h"

static void lay_out_file(const char *name, const char *path, int prot, int flags, int write)
{
	long fd = open_(path, O_RW | O_CREATE);
	u64 at;
	for (u64 i = 0; !ERR(fd) && i < 8; i++)
		call(SYS_write, fd, (long)text_buffer, PAGE, 0, 0, 0);
	at = map_region(name, place(), 8 * PAGE, prot, flags, fd);
	for (u64 i = 0; at && i < 6; i++)	/* the last two stay untouched */
		look(at + i * PAGE);
	for (u64 i = 0; at && write && i < 3; i++)
		dirty(at + i * PAGE);
	if (!ERR(fd))
		close_(fd);
}

/* The disk has the file system ext4. Without it these files are in the root, in memory. */
static void lay_out_disk(void)
{
	const char *disk = there_is("/dev/pmem0") ? "/dev/pmem0" : "/dev/vda";
	long r = mount_(disk, "/disk", "ext4", "");
	if (ERR(r))
		warn("ext4", r);
	/* What is written back is write-protected: not while we look. */
	write_file("/proc/sys/vm/dirty_writeback_centisecs", "0");
	lay_out_file("file_private", "/disk/private", RW, PRIVATE, 0);
	lay_out_file("file_private_written", "/disk/written", RW, PRIVATE, 1);
	lay_out_file("file_shared", "/disk/shared", RW, SHARED, 1);
	lay_out_file("file_shared_unwritten", "/disk/unwritten", RW, SHARED, 0);
	lay_out_file("file_read_only", "/disk/shared", RD, SHARED, 0);
}

static void lay_out_shared_memory(void)
{
	mount_("tmpfs", "/tmp", "tmpfs", "");
	lay_out_file("tmpfs_private", "/tmp/private", RW, PRIVATE, 0);
	lay_out_file("tmpfs_private_written", "/tmp/written", RW, PRIVATE, 1);
	lay_out_file("tmpfs_shared", "/tmp/shared", RW, SHARED, 1);
	lay_out_file("tmpfs_read_only", "/tmp/shared", RD, SHARED, 0);
}

/* Files whose pages are the disk's own memory. */
static void lay_out_dax(void)
{
	long r = there_is("/dev/pmem1") ? mount_("/dev/pmem1", "/dax", "ext4", "dax") : NO_DEVICE;
	if (ERR(r)) {
		warn("dax", r);
		return;
	}
	lay_out_file("dax_private", "/dax/private", RW, PRIVATE, 0);
	lay_out_file("dax_private_written", "/dax/written", RW, PRIVATE, 1);
	lay_out_file("dax_shared", "/dax/shared", RW, SHARED, 1);
}

static void lay_out_device(void)
{
	long fd = open_("/sys/bus/pci/devices/0000:00:05.0/resource0", O_RW);
	u64 at;
	write_file("/sys/bus/pci/devices/0000:00:05.0/enable", "1");
	at = map_region("device", place(), 4 * PAGE, RW, SHARED, fd);
	for (u64 i = 0; at && i < 4; i++)
		look(at + i * PAGE);
}

void lay_out_files(void)
{
	lay_out_disk();
	lay_out_shared_memory();
	lay_out_dax();
	lay_out_device();
}
