//! What can be mapped, and why not.

use pinfold::host::MappingKind;
use pinfold::{Access, Order, PageCount, Pfn, VirtAddr};

use crate::objects::FileId;
use crate::state::NoMemory;

/// Whether anonymous memory comes in huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Thp {
    /// Base pages only.
    #[default]
    Never,
    /// Where a huge page fits, a write gets one, mapped by one entry.
    Whole,
    /// Where a huge page fits, a write gets one, mapped by an entry for each base page.
    Split,
}

/// What to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// First address.
    pub at: VirtAddr,
    /// Length.
    pub pages: PageCount,
    /// What backs it.
    pub kind: MappingKind,
    /// Whether stores reach the file.
    pub shared: bool,
    /// What the process may do.
    pub access: Access,
    /// Whether it could be made writable.
    pub may_write: bool,
    /// Whether a file system must be told before a page is dirtied.
    pub dirty_tracked: bool,
    /// Whether anonymous memory comes in huge pages.
    pub thp: Thp,
    /// Whether reading untouched memory maps the huge zero folio where it fits.
    pub huge_zero: bool,
    /// Size of hugetlb pages.
    pub hugetlb: Order,
    /// The file, for whatever has one.
    pub file: Option<FileId>,
    /// First page of the file, or first frame of a device.
    pub offset: u64,
}

impl MapSpec {
    /// Private anonymous memory, readable and writable, in base pages.
    #[must_use]
    pub fn anonymous(at: u64, pages: u64) -> Self {
        Self {
            at: VirtAddr::new(at),
            pages: PageCount::new(pages),
            kind: MappingKind::Anonymous,
            shared: false,
            access: Access::READ | Access::WRITE,
            may_write: true,
            dirty_tracked: false,
            thp: Thp::Never,
            huge_zero: false,
            hugetlb: Order::ZERO,
            file: None,
            offset: 0,
        }
    }

    /// A file from its start, shared. The kind of mapping and whether dirtying is tracked follow
    /// from the file.
    #[must_use]
    pub fn shared(at: u64, pages: u64, file: FileId) -> Self {
        Self { shared: true, file: Some(file), ..Self::anonymous(at, pages) }
    }

    /// A file from its start, private.
    #[must_use]
    pub fn private(at: u64, pages: u64, file: FileId) -> Self {
        Self { shared: false, ..Self::shared(at, pages, file) }
    }

    /// Private huge pages of this order from the pool.
    #[must_use]
    pub fn hugetlb(at: u64, pages: u64, order: Order) -> Self {
        Self { kind: MappingKind::Hugetlb, hugetlb: order, ..Self::anonymous(at, pages) }
    }

    /// Device registers from that frame on, which is outside memory.
    #[must_use]
    pub fn device(at: u64, pages: u64, frame: Pfn) -> Self {
        let kind = MappingKind::Device;
        Self { kind, shared: true, offset: frame.raw(), ..Self::anonymous(at, pages) }
    }

    /// With huge pages.
    #[must_use]
    pub fn with_thp(self, thp: Thp) -> Self {
        Self { thp, ..self }
    }

    /// With the huge zero folio.
    #[must_use]
    pub fn with_huge_zero(self) -> Self {
        Self { huge_zero: true, ..self }
    }

    /// Read-only, now and for ever or only now.
    #[must_use]
    pub fn read_only(self, may_write: bool) -> Self {
        Self { access: Access::READ, may_write, ..self }
    }
}

/// Why a mapping was not made or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapError {
    /// There is no such space.
    #[error("no such address space")]
    NoSpace,
    /// There is no such file, or this kind of mapping needs one.
    #[error("no such file")]
    NoFile,
    /// The range is none, or not one of this space.
    #[error("not a range of the address space")]
    Range,
    /// Something is mapped there.
    #[error("something is mapped there")]
    Overlap,
    /// Hugetlb mappings begin and end at multiples of their page size.
    #[error("not a multiple of the hugetlb page size")]
    Unaligned,
    /// This kind of memory cannot be mapped like this.
    #[error("this kind of memory cannot be mapped like this")]
    Kind,
    /// There is no memory.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}
