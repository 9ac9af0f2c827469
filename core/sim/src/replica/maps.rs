//! The process's mappings, and which of them are of the same file.

use pinfold::host::MappingKind;
use pinfold::{Access, AddrRange, AnyFormat, Order, PageCount, PageFormat, PageShift, VirtAddr};
use pinfold_arch::{Geometry, LeafFlags};

use super::ReplicaError;
use super::folios::LARGEST;
use crate::format::TableFormat;
use crate::objects::FileKind;
use crate::snapshot::{Mapping, Snapshot};
use crate::space::Vma;
use crate::{MapSpec, Thp};

/// File systems by the number that `statfs` says.
const TMPFS: u64 = 0x0102_1994;
const HUGETLBFS: u64 = 0x9584_58f6;
const SECRETMEM: u64 = 0x5345_434d;
/// Those that keep files in memory only, or have none: nobody writes their pages back.
const NOT_WRITTEN_BACK: [u64; 3] = [0x8584_58f6, 0x6265_6572, 0x9fa0];

/// Pages of consecutive addresses in one use.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) vma: Vma,
    /// Which file, if any, by what the kernel says of it.
    pub(super) file: Option<FileKey>,
    /// Whether huge pages are kept for what is not touched yet.
    pub(super) reserved: bool,
    /// Whether equal pages may have been merged. The KSM bit of kpageflags does not tell: several
    /// kernels, 6.12 among them, set it for all anonymous memory.
    pub(super) mergeable: bool,
}

/// Files with different keys are different. Those with equal ones may still be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileKey {
    pub(super) name: String,
    pub(super) fs_type: u64,
    pub(super) kind: FileKind,
}

impl Map {
    /// Whether the process can do nothing there.
    pub(super) fn no_access(&self) -> bool {
        self.vma.spec.access.is_empty() && !self.device()
    }

    /// Whether pages of the process's own may be there, which can be swapped out.
    pub(super) fn may_swap(&self) -> bool {
        let huge = self.vma.spec.kind == MappingKind::Hugetlb;
        !self.vma.spec.shared && !huge && !self.device()
    }

    /// Whether the pages of its file are persistent memory, outside all zones.
    pub(super) fn dax(&self) -> bool {
        self.vma.spec.kind == MappingKind::FsDax
    }

    /// Whether the kernel has no pages there that it would name.
    pub(super) fn device(&self) -> bool {
        self.vma.spec.kind == MappingKind::Device
    }
}

/// All mappings, by address.
pub(super) fn read(snapshot: &Snapshot, format: &AnyFormat) -> Result<Vec<Map>, ReplicaError> {
    let mut maps = Vec::<Map>::new();
    for mapping in &snapshot.mappings {
        let at = VirtAddr::new(mapping.start);
        let wrong = |what| ReplicaError::Mapping { at, what };
        if mapping.start >> (u64::BITS - 1) != 0 && mapping.end > mapping.start {
            continue; // the kernel's half: the snapshot has no tables of it
        }
        let pages =
            mapping.end.checked_sub(mapping.start).ok_or(wrong("it ends before it begins"))?;
        if pages & format.base().mask() != 0 {
            return Err(wrong("not in whole pages"));
        }
        let pages = PageCount::new(pages >> format.base().raw());
        let range = AddrRange::new(at, pages, format.base());
        let range = range.map_err(|_| wrong("not a range of pages"))?;
        if range.last() >= format.end() {
            return Err(wrong("it lies beyond the address space"));
        }
        if maps.last().is_some_and(|last| last.vma.range.last() >= at) {
            return Err(wrong("it overlaps the one before it, or is not in order"));
        }
        maps.push(read_one(mapping, range, format)?);
    }
    Ok(maps)
}

/// The one that holds an address.
pub(super) fn find(maps: &[Map], va: VirtAddr) -> Option<usize> {
    let at = maps.partition_point(|map| map.vma.range.start() <= va).checked_sub(1)?;
    maps[at].vma.range.contains(va).then_some(at)
}

fn read_one(mapping: &Mapping, range: AddrRange, format: &AnyFormat) -> Result<Map, ReplicaError> {
    let wrong = |what| ReplicaError::Mapping { at: range.start(), what };
    let flag = |name: &str| mapping.flags.iter().any(|flag| flag == name);
    let mut access = Access::empty();
    access.set(Access::READ, mapping.readable);
    access.set(Access::WRITE, mapping.writable);
    let (kind, file) = kind(mapping, format)?;
    let mut hugetlb = Order::ZERO;
    if kind == MappingKind::Hugetlb {
        hugetlb = hugetlb_order(mapping, format).ok_or(wrong("no size of hugetlb pages"))?;
        let offset = mapping.offset >> range.base().raw();
        let first = range.start().raw() >> range.base().raw();
        let numbers = [first, range.pages().raw(), offset];
        if numbers.iter().any(|number| !number.is_multiple_of(hugetlb.pages().raw())) {
            return Err(wrong("not a multiple of its hugetlb pages"));
        }
    }
    let offset = mapping.offset >> range.base().raw();
    if offset.checked_add(range.pages().raw()).is_none() {
        return Err(wrong("its file is too long"));
    }
    let huge = flag("hg");
    let file =
        file.map(|kind| FileKey { name: mapping.name.clone(), fs_type: mapping.fs_type, kind });
    let written_back = !NOT_WRITTEN_BACK.contains(&mapping.fs_type);
    let spec = MapSpec {
        kind,
        shared: mapping.shared,
        access,
        may_write: flag("mw"),
        dirty_tracked: kind == MappingKind::File && written_back,
        thp: if huge { Thp::Whole } else { Thp::Never },
        huge_zero: huge,
        hugetlb,
        offset,
        ..MapSpec::anonymous(range.start().raw(), range.pages().raw())
    };
    let reserved = kind == MappingKind::Hugetlb && !flag("nr");
    Ok(Map { vma: Vma { spec, range }, file, reserved, mergeable: flag("mg") })
}

/// What backs a mapping, and what kind of file if it is one.
fn kind(
    mapping: &Mapping,
    format: &AnyFormat,
) -> Result<(MappingKind, Option<FileKind>), ReplicaError> {
    let at = VirtAddr::new(mapping.start);
    let flag = |name: &str| mapping.flags.iter().any(|flag| flag == name);
    if flag("io") || flag("pf") {
        return Ok((MappingKind::Device, None));
    }
    if flag("dax") {
        return Ok((MappingKind::FsDax, Some(FileKind::FsDax)));
    }
    if mapping.fs_type == HUGETLBFS || flag("ht") {
        let order = hugetlb_order(mapping, format);
        let order = order.ok_or(ReplicaError::Mapping { at, what: "no size of hugetlb pages" })?;
        // A private one has pages of its own, whatever it is called.
        let file = mapping.shared.then_some(FileKind::Hugetlb(order));
        return Ok((MappingKind::Hugetlb, file));
    }
    let (kind, file) = match mapping.fs_type {
        TMPFS => (MappingKind::Shmem, FileKind::Shmem),
        SECRETMEM => (MappingKind::Secret, FileKind::Secret),
        _ if mapping.name.contains("secretmem") => (MappingKind::Secret, FileKind::Secret),
        0 if !mapping.shared && anonymous(&mapping.name) => {
            return Ok((MappingKind::Anonymous, None));
        }
        _ => (MappingKind::File, FileKind::Disk),
    };
    Ok((kind, Some(file)))
}

/// Whether a mapping without a file system is ordinary memory. The kernel's own pages are not.
fn anonymous(name: &str) -> bool {
    let special = ["[vdso]", "[vvar", "[vsyscall]", "[uprobes]"];
    !name.starts_with('/') && !special.iter().any(|prefix| name.starts_with(prefix))
}

/// The order of a mapping's hugetlb pages, if the CPU has such: as a leaf, or as several that are
/// marked to be one.
fn hugetlb_order(mapping: &Mapping, format: &AnyFormat) -> Option<Order> {
    let bytes = u64::from(mapping.page_size_kib) << 10;
    let shift = u8::try_from(bytes.trailing_zeros()).ok().and_then(PageShift::new)?;
    let several = format.flags().contains(LeafFlags::CONTIGUOUS);
    let exists = bytes.is_power_of_two() && (format.unit(shift) == shift || several);
    let order = shift.order(format.base());
    (exists && shift > format.base() && order <= LARGEST).then_some(order)
}
