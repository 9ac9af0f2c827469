//! What a real kernel had in its page tables: a file that can be committed.
//!
//! A [`Snapshot`] holds one process of a stopped machine: the page-table pages of its user half,
//! and what the kernel itself said about every page of it (`/proc/self/pagemap`,
//! `/proc/kpageflags`, `/proc/kpagecount`, `/proc/self/smaps`, `/proc/zoneinfo`). Tests put the
//! tables into simulated memory and compare what they find there with what the kernel said.
//! `cargo xtask capture` writes such files, [`Snapshot::parse`] reads them, and
//! `snapshot/FORMAT.md` beside this file describes every byte.
//!
//! All numbers are the kernel's own: addresses in bytes, frames as page frame numbers in units of
//! `1 << base_shift` bytes.

mod bytes;
mod error;
mod mmu;
mod read;
mod write;

pub use error::{SectionTag, SnapshotError};
pub use mmu::{Mmu, MmuError, SnapshotArch};

/// The format version that this module writes, and the newest one it reads.
pub const VERSION: u32 = 1;

/// First bytes of every snapshot.
pub const MAGIC: [u8; 8] = *b"PINFSNAP";

/// Present bit of a `/proc/self/pagemap` word.
pub const PAGEMAP_PRESENT: u64 = 1 << 63;

/// Frame number in a `/proc/self/pagemap` word whose [`PAGEMAP_PRESENT`] bit is set.
pub const PAGEMAP_FRAME: u64 = (1 << 55) - 1;

/// One process of a stopped machine.
///
/// Lists are sorted by address. [`Snapshot::to_bytes`] of lists that are not gives a file that
/// [`Snapshot::parse`] refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Kernel command line.
    pub command_line: String,
    /// Whose tables these are, where they begin and how they are read.
    pub mmu: Mmu,
    /// log2 of the base page size.
    pub base_shift: u8,
    /// The tables that the user half reaches. The kernel's half of a root that has one is cleared.
    pub tables: Vec<TablePage>,
    /// The process's mappings.
    pub mappings: Vec<Mapping>,
    /// What the process laid out on purpose; each lies in one or more mappings.
    pub regions: Vec<Region>,
    /// What the kernel says about each page of each mapping.
    pub pages: Vec<PageRun>,
    /// Memory zones, in the kernel's order.
    pub zones: Vec<Zone>,
    /// Areas of the contiguous memory allocator; empty when the kernel has none, as Debian's for
    /// x86_64.
    pub cma: Vec<FrameRange>,
    /// Ranges of `System RAM`, as in `/proc/iomem`.
    pub ram: Vec<FrameRange>,
    /// What each frame of the machine is used for.
    pub memory: Vec<FrameRun>,
    /// What the kernel answered when it was asked for real long-term pins, after everything above
    /// was read; in the order of asking. Empty when nobody asked.
    pub verdicts: Vec<Verdict>,
}

/// One table in page-table memory: smaller than a page, or larger, where the architecture has such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePage {
    /// Physical address of entry 0.
    pub addr: u64,
    /// Its entries by value, as the processor reads them, whatever their order of bytes in memory.
    pub entries: Vec<u64>,
}

/// One mapping of the process, from `/proc/self/smaps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// Path or `[name]`; empty for anonymous memory.
    pub name: String,
    /// Whether the process may read.
    pub readable: bool,
    /// Whether the process may write.
    pub writable: bool,
    /// Whether the process may execute.
    pub executable: bool,
    /// Whether writes are shared with other users of the file.
    pub shared: bool,
    /// The kernel's `VmFlags`, two letters each: `rd`, `wr`, `pf`, `io`, `ht`, `lo` and so on; and
    /// `dax` for a file whose pages are its disk's own memory.
    pub flags: Vec<String>,
    /// File-system type of the mapped file as in `statfs`, 0 when there is no file.
    pub fs_type: u64,
    /// Kernel page size of the mapping in KiB; above the base page size only for hugetlb.
    pub page_size_kib: u32,
    /// Offset of `start` in the file, in bytes.
    pub offset: u64,
}

/// Memory that the process laid out to show one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which case; the names are explained in `xtask/capture`.
    pub name: String,
    /// First address.
    pub start: u64,
    /// Length in base pages.
    pub pages: u64,
    /// Whether it is a part of the guest's memory, see [`Snapshot::guest`].
    pub in_guest: bool,
}

/// Pages of consecutive addresses that the kernel says the same about.
///
/// When [`PAGEMAP_PRESENT`] is set in `pagemap`, page `i` of the run has frame number
/// `(pagemap & PAGEMAP_FRAME) + i`. Otherwise `pagemap` is the same for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first page.
    pub va: u64,
    /// Word of `/proc/self/pagemap` for the first page.
    pub pagemap: u64,
    /// Word of `/proc/kpageflags` for each frame; 0 when not present.
    pub kpageflags: u64,
    /// Word of `/proc/kpagecount` for each frame: how often it is mapped; 0 when not present.
    pub kpagecount: u64,
    /// Number of pages.
    pub count: u64,
}

impl PageRun {
    /// Frame number of the first page, or `None` when the kernel says there is no frame.
    pub const fn frame(&self) -> Option<u64> {
        if self.pagemap & PAGEMAP_PRESENT == 0 { None } else { Some(self.pagemap & PAGEMAP_FRAME) }
    }
}

/// A memory zone, from `/proc/zoneinfo`. All numbers are in frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// `DMA`, `DMA32`, `Normal`, `Movable` and so on.
    pub name: String,
    /// First frame.
    pub start_pfn: u64,
    /// Frames from the first to behind the last one, holes included; 0 for an empty zone.
    pub spanned: u64,
    /// Frames that exist.
    pub present: u64,
    /// Frames that the page allocator was given.
    pub managed: u64,
    /// Free frames at the time.
    pub free: u64,
    /// Those of them that lie in an area of the contiguous memory allocator.
    pub free_cma: u64,
}

/// A named range of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameRange {
    /// First frame.
    pub start_pfn: u64,
    /// Number of frames.
    pub frames: u64,
    /// What the kernel calls it.
    pub name: String,
}

/// Consecutive frames in the same use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRun {
    /// First frame.
    pub start_pfn: u64,
    /// Number of frames.
    pub frames: u64,
    /// Their use.
    pub class: FrameClass,
}

/// The kernel's answer to somebody who asked for a long-term pin of some pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The part of the kernel through which it was asked: `io_uring` (a registered buffer), `vfio`
    /// (a DMA mapping) or `gup_test`.
    pub asker: String,
    /// Whether the pin was for writing.
    pub write: bool,
    /// Whether the pages were asked for in one request. Otherwise each was asked for alone, and
    /// each got this answer.
    pub whole: bool,
    /// Address of the first page.
    pub start: u64,
    /// Number of base pages.
    pub pages: u64,
    /// The kernel's error number, positive; 0 when it pinned the pages. They were given back
    /// before the next question. [`UNTOLD`](Self::UNTOLD) where the asker told no number.
    pub errno: u16,
}

impl Verdict {
    /// The largest error number, which nobody uses: the pages were not pinned, and the asker did not
    /// tell why.
    pub const UNTOLD: u16 = 4095;
}

/// What a frame is used for; `snapshot/FORMAT.md` says how it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameClass {
    /// There is no such frame, or the kernel does not track it.
    Absent,
    /// Marked reserved: firmware, the kernel's image, its frame metadata.
    Reserved,
    /// Free in the page allocator.
    Free,
    /// Mapped by the process of the snapshot.
    Process,
    /// User memory of others: page cache, and pages of other processes. It can be moved.
    Movable,
    /// In some other use of the kernel: slab, page tables, the zero pages, frames in per-CPU free
    /// lists, unused hugetlb pages.
    Kernel,
}

impl FrameClass {
    const ALL: [Self; 6] =
        [Self::Absent, Self::Reserved, Self::Free, Self::Process, Self::Movable, Self::Kernel];

    const fn id(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Reserved => 1,
            Self::Free => 2,
            Self::Process => 3,
            Self::Movable => 4,
            Self::Kernel => 5,
        }
    }

    fn from_id(id: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.id() == id)
    }
}

impl Snapshot {
    /// Reads a snapshot from the bytes of its file.
    ///
    /// Any bytes are safe to pass: counts are checked before memory is taken for them, and what
    /// is taken is bounded by the limits that `snapshot/FORMAT.md` names.
    ///
    /// # Errors
    ///
    /// The bytes are no snapshot, a damaged one, or one of a later version: see
    /// [`SnapshotError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use pinfold_sim::snapshot::{Snapshot, SnapshotError};
    ///
    /// assert_eq!(Snapshot::parse(b"not a snapshot"), Err(SnapshotError::BadMagic));
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        read::snapshot(bytes)
    }

    /// The bytes of this snapshot's file. Equal snapshots give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        write::snapshot(self)
    }

    /// The guest's memory: first address and number of base pages.
    ///
    /// It is one range of addresses made of all regions that are [`Region::in_guest`]. `None`
    /// when there is no such region, or when they leave gaps between them.
    pub fn guest(&self) -> Option<(u64, u64)> {
        let mut parts: Vec<&Region> = self.regions.iter().filter(|part| part.in_guest).collect();
        parts.sort_by_key(|part| part.start);
        let start = parts.first()?.start;
        let page = 1u64.checked_shl(u32::from(self.base_shift))?;
        let mut pages = 0u64;
        for part in parts {
            if pages.checked_mul(page)?.checked_add(start)? != part.start {
                return None;
            }
            pages = pages.checked_add(part.pages)?;
        }
        Some((start, pages))
    }
}
