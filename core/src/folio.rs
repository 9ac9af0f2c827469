//! Folios: naturally aligned power-of-two runs of frames that are managed as one object.

use pinfold_arch::{Order, Pfn};

const ORDER: u64 = 0x3f;
const KIND: u64 = 0xf;
const KIND_SHIFT: u32 = 8;
const FLAGS_SHIFT: u32 = 16;

/// A folio as it was looked up: which frames, and what they were then.
///
/// A plain value without a count. Calls that take a count on it fail if it has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folio {
    pub(crate) head: Pfn,
    /// The state word as it was read.
    pub(crate) raw: u64,
}

impl Folio {
    /// Its first frame.
    #[inline]
    #[must_use]
    pub fn head(self) -> Pfn {
        self.head
    }

    /// Its size.
    #[inline]
    #[must_use]
    pub fn order(self) -> Order {
        self.info().order
    }

    /// What it is. Where no memory is known it says [`FolioKind::NoMemory`].
    #[inline]
    #[must_use]
    pub fn info(self) -> FolioInfo {
        FolioInfo::decode(self.raw)
    }

    /// Whether this is a shared zero page: one frame, never counted, never moved. The huge zero
    /// folio is not: it is counted like any other.
    #[inline]
    #[must_use]
    pub fn is_zero_frame(self) -> bool {
        self.info().is_zero_frame()
    }

    /// Whether it is one frame that is counted.
    #[inline]
    pub(crate) fn is_single(self) -> bool {
        self.order() == Order::ZERO && !self.is_zero_frame()
    }
}

/// What a folio is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolioInfo {
    /// Its size.
    pub order: Order,
    /// What it is used for.
    pub kind: FolioKind,
    /// Where it lies and what state it is in.
    pub flags: FolioFlags,
}

impl FolioInfo {
    /// What a state word says. Total: see the layout in [`frames`](crate::frames).
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked to the width of each field")]
    pub(crate) const fn decode(raw: u64) -> Self {
        let order = match Order::new((raw & ORDER) as u8) {
            Some(order) => order,
            None => Order::ZERO,
        };
        let kind = FolioKind::from_bits((raw >> KIND_SHIFT & KIND) as u8);
        let flags = FolioFlags::from_bits_truncate((raw >> FLAGS_SHIFT) as u8);
        Self { order, kind, flags }
    }

    /// The state word that says this.
    pub(crate) const fn encode(self) -> u64 {
        self.order.raw() as u64 | (self.kind as u64) << KIND_SHIFT | self.flags.encode()
    }

    /// See [`Folio::is_zero_frame`].
    #[inline]
    #[must_use]
    pub const fn is_zero_frame(self) -> bool {
        self.flags.contains(FolioFlags::ZERO) && self.order.raw() == 0
    }
}

/// What a folio is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum FolioKind {
    /// Not memory, or not known.
    NoMemory = 0,
    /// Nobody's: in an allocator.
    Free = 1,
    /// Anonymous memory.
    Anonymous = 2,
    /// Page cache of a file system that writes back.
    File = 3,
    /// Page cache without a disk behind it (tmpfs, memfd).
    Shmem = 4,
    /// From a reserved pool of huge pages; never split.
    Hugetlb = 5,
    /// Persistent memory that a file system maps directly.
    FsDax = 6,
    /// Device memory that the CPU reaches coherently and its driver must be able to evict.
    DeviceCoherent = 7,
    /// Peer-to-peer memory of a PCI device.
    PeerToPeer = 8,
    /// Memory hidden from the kernel itself.
    Secret = 9,
    /// The kernel's own: page tables, slabs, text.
    Kernel = 10,
}

impl FolioKind {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Free,
            2 => Self::Anonymous,
            3 => Self::File,
            4 => Self::Shmem,
            5 => Self::Hugetlb,
            6 => Self::FsDax,
            7 => Self::DeviceCoherent,
            8 => Self::PeerToPeer,
            9 => Self::Secret,
            10 => Self::Kernel,
            _ => Self::NoMemory,
        }
    }
}

bitflags::bitflags! {
    /// Where a folio lies and what state it is in.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct FolioFlags: u8 {
        /// In a CMA area: its owner must be able to take it back.
        const CMA = 1;
        /// In a block that somebody is emptying.
        const ISOLATED = 2;
        /// In a movable zone: it must be possible to unplug.
        const MOVABLE = 4;
        /// Shared zeroes.
        const ZERO = 8;
        /// Private memory that one process alone maps: a write needs no copy.
        const EXCLUSIVE = 16;
        /// Written to since it was last cleaned.
        const DIRTY = 32;
    }
}

impl FolioFlags {
    /// Where the flags stand in a state word.
    pub(crate) const fn encode(self) -> u64 {
        (self.bits() as u64) << FLAGS_SHIFT
    }
}

/// Why a folio may not be pinned for long where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// It lies in a CMA area.
    #[error("in a CMA area")]
    Cma,
    /// It lies in a block that somebody is emptying.
    #[error("in an isolated block")]
    Isolated,
    /// Its driver must be able to evict it.
    #[error("device-coherent memory")]
    Coherent,
    /// Its file system must be able to take it back on truncate.
    #[error("file-system DAX")]
    FsDax,
    /// It lies in a movable zone.
    #[error("in a movable zone")]
    Movable,
}
