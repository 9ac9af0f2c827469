/*
 * Memory mapped for a device that user space drives: pinned for long, to be read or to be read and
 * written. The device (QEMU's `edu`) must sit behind an IOMMU; it is never used.
 */

#include "init.h"

#define DEVICE "0000:00:06.0"
#define IOVA 0x10000000UL

enum {
	SET_IOMMU = 0x3b66, SET_CONTAINER = 0x3b68, MAP_DMA = 0x3b71, UNMAP_DMA = 0x3b72,
	TYPE1V2 = 3, MAY_READ = 1, MAY_WRITE = 2,
};

static long container;

/* The last word of a link like ../../kernel/iommu_groups/6, behind /dev/vfio/. */
static long open_group(void)
{
	char link[128], path[32] = "/dev/vfio/";
	u64 to = length(path);
	long n = call(SYS_readlinkat, 0, (long)"/sys/bus/pci/devices/" DEVICE "/iommu_group",
		      (long)link, sizeof link - 1, 0, 0), from = n;
	if (ERR(n))
		return n;
	while (from > 0 && link[from - 1] != '/')
		from--;
	while (from < n && to < sizeof path - 1)
		path[to++] = link[from++];
	path[to] = 0;
	return open_(path, O_RW);
}

static long begin(void)
{
	long group, r;
	if (!there_is("/sys/bus/pci/devices/" DEVICE "/driver_override"))
		return NO_DEVICE;
	/* Without interrupt remapping; here no device can harm anyone. */
	write_file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "1");
	write_file("/sys/bus/pci/devices/" DEVICE "/driver_override", "vfio-pci");
	write_file("/sys/bus/pci/drivers_probe", DEVICE);
	container = open_("/dev/vfio/vfio", O_RW);
	if (ERR(container))
		return container;
	group = open_group();
	if (ERR(group))
		return group;
	r = control(group, SET_CONTAINER, &(int){ container });
	return ERR(r) ? r : call(SYS_ioctl, container, SET_IOMMU, TYPE1V2, 0, 0, 0);
}

static long pin(int write, u64 at, u64 pages)
{
	struct { u32 size, flags; u64 at, iova, bytes; } mapping = {
		sizeof mapping, write ? MAY_READ | MAY_WRITE : MAY_READ, at, IOVA, pages * PAGE,
	};
	struct { u32 size, flags; u64 iova, bytes; } again = {
		sizeof again, 0, IOVA, pages * PAGE,
	};
	long r = control(container, MAP_DMA, &mapping);
	if (!ERR(r))
		control(container, UNMAP_DMA, &again);
	return r;
}

const struct asker vfio = { "vfio", begin, pin, 1, 1 };
