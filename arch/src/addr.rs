//! Typed addresses, page sizes and counts.
//!
//! Each address space has its own opaque type around a `u64`; arithmetic is checked and by name,
//! so that an overflow is a value the caller sees and never a wrap. `usize` is for indices only.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value. Any value is accepted: what is valid depends on the
            /// format, see [`PageFormat::valid`](crate::PageFormat::valid).
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The plain value, in bytes.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`, or `None` where that wraps.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The start of the page of this size that holds the address.
            #[must_use]
            pub const fn align_down(self, shift: PageShift) -> Self {
                Self(self.0 & !shift.mask())
            }

            /// Whether the address is a multiple of this page size.
            #[must_use]
            pub const fn is_aligned(self, shift: PageShift) -> bool {
                self.0 & shift.mask() == 0
            }

            /// The offset inside a page of this size, in bytes.
            #[must_use]
            pub const fn offset(self, shift: PageShift) -> u64 {
                self.0 & shift.mask()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A host physical address (HPA): what a page-table leaf and an IOMMU entry hold.
    PhysAddr
}

address! {
    /// A virtual address of the space whose memory is pinned.
    VirtAddr
}

address! {
    /// An address that a device uses, which an IOMMU translates.
    Iova
}

impl PhysAddr {
    /// The frame that holds this address, for base pages of size `base`.
    #[must_use]
    pub const fn pfn(self, base: PageShift) -> Pfn {
        Pfn(self.0 >> base.0)
    }
}

/// A physical frame number: a physical address divided by the base page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// The frame with this number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The plain number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The frame `pages` further, or `None` where that wraps.
    #[must_use]
    pub const fn checked_add(self, pages: PageCount) -> Option<Self> {
        match self.0.checked_add(pages.0) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The first frame of the naturally aligned block of `order` that holds this frame.
    #[must_use]
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.pages().0 - 1))
    }

    /// The physical address of the frame's first byte, or `None` where it exceeds 64 bits.
    #[must_use]
    pub const fn addr(self, base: PageShift) -> Option<PhysAddr> {
        let raw = self.0 << base.0;
        if raw >> base.0 == self.0 { Some(PhysAddr(raw)) } else { None }
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({:#x})", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A page size as a power of two: 12 is 4 KiB. Always below 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PageShift(u8);

impl PageShift {
    /// 4 KiB.
    pub const SIZE_4K: Self = Self(12);
    /// 2 MiB.
    pub const SIZE_2M: Self = Self(21);
    /// 1 GiB.
    pub const SIZE_1G: Self = Self(30);

    /// A page of `1 << shift` bytes; `None` from 64 on.
    #[must_use]
    pub const fn new(shift: u8) -> Option<Self> {
        if shift < 64 { Some(Self(shift)) } else { None }
    }

    /// The exponent.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The bits of an address below this page size.
    #[must_use]
    pub const fn mask(self) -> u64 {
        (1 << self.0) - 1
    }

    /// How many base pages one page of this size has; one where it is not larger.
    #[must_use]
    pub const fn pages(self, base: PageShift) -> PageCount {
        self.order(base).pages()
    }

    /// This size as an order above `base`; zero where it is not larger.
    #[must_use]
    pub const fn order(self, base: PageShift) -> Order {
        Order(self.0.saturating_sub(base.0))
    }
}

/// The size of a folio: it has `1 << order` base pages. Always below 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Order(u8);

impl Order {
    /// One base page.
    pub const ZERO: Self = Self(0);
    /// The largest there is.
    pub const LARGEST: Self = Self(63);

    /// The folio size of `1 << order` base pages; `None` from 64 on.
    #[must_use]
    pub const fn new(order: u8) -> Option<Self> {
        if order < 64 { Some(Self(order)) } else { None }
    }

    /// The exponent.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Base pages in a folio of this order.
    #[must_use]
    pub const fn pages(self) -> PageCount {
        PageCount(1 << self.0)
    }
}

/// A number of base pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PageCount(u64);

impl PageCount {
    /// None.
    pub const ZERO: Self = Self(0);
    /// One.
    pub const ONE: Self = Self(1);

    /// That many base pages.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The plain number.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The size in bytes, or `None` above 64 bits.
    #[must_use]
    pub const fn bytes(self, base: PageShift) -> Option<u64> {
        let bytes = self.0 << base.0;
        if bytes >> base.0 == self.0 { Some(bytes) } else { None }
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of virtual addresses in whole pages: `start` and `pages` base pages from it.
///
/// It never wraps: the last byte has an address. The end, one byte further, may not have one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddrRange {
    start: VirtAddr,
    pages: PageCount,
    base: PageShift,
}

impl AddrRange {
    /// The range of `pages` base pages of size `base` from `start`.
    ///
    /// # Errors
    /// [`RangeError::Empty`] for no pages, [`RangeError::Unaligned`] if `start` is not a multiple of
    /// the page size, [`RangeError::Wraps`] if the last byte lies beyond 64 bits.
    pub const fn new(
        start: VirtAddr,
        pages: PageCount,
        base: PageShift,
    ) -> Result<Self, RangeError> {
        if pages.0 == 0 {
            return Err(RangeError::Empty);
        }
        if !start.is_aligned(base) {
            return Err(RangeError::Unaligned { start });
        }
        let last = (pages.0 - 1) << base.0;
        if last >> base.0 != pages.0 - 1 || (last | base.mask()).checked_add(start.0).is_none() {
            return Err(RangeError::Wraps { start, pages });
        }
        Ok(Self { start, pages, base })
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> VirtAddr {
        self.start
    }

    /// Length.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        self.pages
    }

    /// The base page size that the range counts in.
    #[must_use]
    pub const fn base(&self) -> PageShift {
        self.base
    }

    /// Address of the last byte.
    #[must_use]
    pub const fn last(&self) -> VirtAddr {
        VirtAddr(self.start.0 + (((self.pages.0 - 1) << self.base.0) | self.base.mask()))
    }

    /// Whether the address lies inside.
    #[must_use]
    pub const fn contains(&self, va: VirtAddr) -> bool {
        self.start.0 <= va.0 && va.0 <= self.last().0
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 <= other.last().0 && other.start.0 <= self.last().0
    }

    /// Pages between the start and the page that holds `va`; `None` outside the range.
    #[must_use]
    pub const fn index_of(&self, va: VirtAddr) -> Option<PageCount> {
        if self.contains(va) { Some(PageCount((va.0 - self.start.0) >> self.base.0)) } else { None }
    }

    /// What is left from page `done` on; `None` when that is nothing.
    #[must_use]
    pub const fn skip(&self, done: PageCount) -> Option<Self> {
        if done.0 >= self.pages.0 {
            return None;
        }
        let start = VirtAddr(self.start.0 + (done.0 << self.base.0));
        Some(Self { start, pages: PageCount(self.pages.0 - done.0), base: self.base })
    }

    /// At most the first `limit` pages; `None` for a limit of zero.
    #[must_use]
    pub const fn take(&self, limit: PageCount) -> Option<Self> {
        if limit.0 == 0 {
            return None;
        }
        let pages = if limit.0 < self.pages.0 { limit } else { self.pages };
        Some(Self { start: self.start, pages, base: self.base })
    }
}

/// Why a start and a length are no [`AddrRange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// No pages.
    #[error("the range is empty")]
    Empty,
    /// The start is not a multiple of the base page size.
    #[error("start {start} is not page aligned")]
    Unaligned {
        /// The start as given.
        start: VirtAddr,
    },
    /// The range runs past the last 64-bit address.
    #[error("{pages} pages from {start} wrap around the address space")]
    Wraps {
        /// The start as given.
        start: VirtAddr,
        /// The length as given.
        pages: PageCount,
    },
}

/// A `u64` as an index. The one place of this conversion: the target has 64-bit pointers.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "only 64-bit targets are supported, see lib.rs"
)]
pub const fn index(raw: u64) -> usize {
    raw as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PageShift = PageShift::SIZE_4K;

    fn range(start: u64, pages: u64) -> Result<AddrRange, RangeError> {
        AddrRange::new(VirtAddr::new(start), PageCount::new(pages), BASE)
    }

    #[test]
    fn a_range_ends_at_the_last_byte_of_the_space_but_not_beyond() {
        let top = u64::MAX - 0xfff;
        assert_eq!(range(top, 1).map(|r| r.last().raw()), Ok(u64::MAX));
        assert!(matches!(range(top, 2), Err(RangeError::Wraps { .. })));
        assert_eq!(range(0, 1 << 52).map(|r| r.last().raw()), Ok(u64::MAX));
        assert!(matches!(range(0, (1 << 52) + 1), Err(RangeError::Wraps { .. })));
        assert!(matches!(range(0x1000, 1 << 52), Err(RangeError::Wraps { .. })));
        assert!(matches!(range(0, u64::MAX), Err(RangeError::Wraps { .. })));
    }

    #[test]
    fn empty_and_unaligned_ranges_are_refused() {
        assert_eq!(range(0x1000, 0), Err(RangeError::Empty));
        assert!(matches!(range(0x1001, 1), Err(RangeError::Unaligned { .. })));
    }

    #[test]
    fn skip_and_take_stay_inside() {
        let r = range(0x1000, 4).unwrap();
        assert_eq!(r.skip(PageCount::new(1)), range(0x2000, 3).ok());
        assert_eq!(r.skip(PageCount::new(4)), None);
        assert_eq!(r.take(PageCount::new(9)), Some(r));
        assert_eq!(r.take(PageCount::ZERO), None);
        assert_eq!(r.index_of(VirtAddr::new(0x4fff)), Some(PageCount::new(3)));
        assert_eq!(r.index_of(VirtAddr::new(0x5000)), None);
    }

    #[test]
    fn overlap_is_exact_at_both_ends() {
        let r = range(0x2000, 2).unwrap();
        assert!(!r.overlaps(&range(0x1000, 1).unwrap()));
        assert!(r.overlaps(&range(0x1000, 2).unwrap()));
        assert!(r.overlaps(&range(0x3000, 1).unwrap()));
        assert!(!r.overlaps(&range(0x4000, 1).unwrap()));
    }

    #[test]
    fn a_frame_number_too_large_for_an_address_is_none() {
        assert_eq!(Pfn::new((1 << 52) - 1).addr(BASE), Some(PhysAddr::new(u64::MAX - 0xfff)));
        assert_eq!(Pfn::new(1 << 52).addr(BASE), None);
    }
}
