//! Where things stand in the words of a pin table.
//!
//! | word | |
//! |---|---|
//! | 0 | magic, `PINFOLDT`; in a table of the other byte order it reads reversed |
//! | 1 | version |
//! | 2 | bits 0..8: state; bits 8..64: how often it was filled, so that a reader notices that it reads another filling |
//! | 3 | first page of the range: its virtual address divided by the page size |
//! | 4 | pages in the range |
//! | 5 | bits 0..8: base page shift; bits 8..16: order of the root's blocks |
//! | 6 | words in use |
//! | 7 | bits 32..64: holder; bits 0..32: account |
//! | 8 | bit 0: revocable; bit 1: the host counts the pins, not the engine's frame table; bit 2: pinned for writing |
//! | 9 | bytes that devices reach through IOMMU tables; each mapping counts |
//! | 10 | bytes that were taken out of IOMMU tables and not flushed |
//! | 11.. | the root, then nodes as they were needed |
//!
//! The root has one entry for each naturally aligned block that the range touches. An entry that
//! cannot stand for its block as a whole links to a node with one entry for each finer block of it
//! that the range touches. Root blocks have order 18, 9 or 0, by the length of the range; those of
//! order 18 split into order 9, those of order 9 into any order below, chosen as the runs come.

use pinfold_arch::addr::index;
use pinfold_arch::{AddrRange, Order, PageCount, PageShift, VirtAddr};

use super::Form;

/// Version of this layout.
pub const VERSION: u64 = 3;

/// Words in front of the root.
pub const HEADER_WORDS: usize = 11;

pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"PINFOLDT");

/// The smallest base page, as a power of two: below that, addresses have no room for a tag.
pub(crate) const SMALLEST_PAGE: u8 = 12;

/// Order of a block whose node is chosen by the runs in it (2 MiB with 4 KiB pages).
pub(super) const FINE: u8 = 9;
/// Order of the blocks of a large range's root (1 GiB with 4 KiB pages).
pub(super) const COARSE: u8 = 18;

/// Indices of the header's words.
pub(super) struct Header;

impl Header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const STATE: usize = 2;
    pub(super) const START: usize = 3;
    pub(super) const PAGES: usize = 4;
    pub(super) const SHAPE: usize = 5;
    pub(super) const USED: usize = 6;
    pub(super) const OWNER: usize = 7;
    pub(super) const FLAGS: usize = 8;
    pub(super) const MAPPED: usize = 9;
    pub(super) const STALE: usize = 10;
    pub(super) const WORDS: usize = HEADER_WORDS;
}

/// The state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum State {
    Empty = 0,
    Filling = 1,
    Live = 2,
    Draining = 3,
}

impl State {
    #[inline]
    pub(super) fn from_word(raw: u64) -> Self {
        match raw & 0xff {
            1 => Self::Filling,
            2 => Self::Live,
            3 => Self::Draining,
            _ => Self::Empty,
        }
    }

    /// The word of this state where the word was `raw` before: each filling has its number.
    pub(super) fn after(self, raw: u64) -> u64 {
        let number = if self == Self::Filling { (raw >> 8).wrapping_add(1) } else { raw >> 8 };
        number << 8 | self as u64
    }
}

/// The range of a table and the size of its root's blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// First page.
    pub(super) start: u64,
    /// One past the last page. Page numbers have at most 52 bits, so this does not wrap.
    pub(super) end: u64,
    pub(super) base: PageShift,
    pub(super) root_order: u8,
}

impl Geometry {
    pub(crate) fn of(range: &AddrRange) -> Self {
        let pages = range.pages().raw();
        let start = range.start().raw() >> range.base().raw();
        let root_order = match pages {
            0..512 => 0,
            512..0x4_0000 => FINE,
            _ => COARSE,
        };
        Self { start, end: start + pages, base: range.base(), root_order }
    }

    /// What it takes to find an entry.
    pub(crate) const fn form(&self) -> Form {
        Form { start: self.start, base: self.base, root_order: self.root_order }
    }

    pub(super) fn read(get: impl Fn(usize) -> u64) -> Option<Self> {
        let shape = get(Header::SHAPE);
        let start = get(Header::START);
        let end = start.checked_add(get(Header::PAGES))?;
        let base =
            PageShift::new((shape & 0xff) as u8).filter(|base| base.raw() >= SMALLEST_PAGE)?;
        let root_order = (shape >> 8 & 0xff) as u8;
        // Pages have addresses, so that no sum or shift with them wraps.
        let addressed = end <= 1 << (64 - base.raw());
        (root_order <= COARSE && addressed).then_some(Self { start, end, base, root_order })
    }

    pub(super) fn write(&self, set: impl Fn(usize, u64)) {
        set(Header::START, self.start);
        set(Header::PAGES, self.end - self.start);
        set(Header::SHAPE, u64::from(self.base.raw()) | u64::from(self.root_order) << 8);
    }

    /// Pages in the range.
    pub(crate) fn pages(&self) -> PageCount {
        PageCount::new(self.end - self.start)
    }

    pub(super) fn range(&self) -> Option<AddrRange> {
        let start = VirtAddr::new(self.start << self.base.raw());
        AddrRange::new(start, self.pages(), self.base).ok()
    }

    #[inline]
    pub(super) fn root(&self) -> Node {
        Node {
            first: self.start,
            end: self.end,
            order: self.root_order,
            offset: Header::WORDS as u64,
        }
    }
}

/// The number of the block of `order` that holds a page. Real-mode reads come through here: it cannot
/// panic, not even where shifts are checked.
#[inline(always)]
pub(super) const fn block(page: u64, order: u8) -> u64 {
    page.wrapping_shr(order as u32)
}

/// A node: the pages of the range that it stands for, cut into naturally aligned blocks. The first
/// and the last block may be cut by the range's ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Node {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) order: u8,
    /// Where its first entry stands, in words.
    pub(super) offset: u64,
}

impl Node {
    /// Entries.
    #[inline]
    pub(super) fn len(&self) -> u64 {
        if self.end <= self.first {
            return 0;
        }
        block(self.end - 1, self.order) - block(self.first, self.order) + 1
    }

    /// The entry that holds a page.
    #[inline]
    pub(super) fn index_of(&self, page: u64) -> Option<u64> {
        if page < self.first || page >= self.end {
            return None;
        }
        Some(block(page, self.order) - block(self.first, self.order))
    }

    /// The first page that an entry stands for.
    #[inline]
    pub(super) fn first_page(&self, at: u64) -> u64 {
        self.border(at).max(self.first)
    }

    /// One past the last page that an entry stands for.
    #[inline]
    pub(super) fn end_page(&self, at: u64) -> u64 {
        self.border(at + 1).min(self.end)
    }

    /// Where an entry's block begins.
    #[inline]
    fn border(&self, at: u64) -> u64 {
        (block(self.first, self.order) + at) << self.order
    }

    /// The word of an entry.
    #[inline]
    pub(super) fn word(&self, at: u64) -> Option<usize> {
        Some(index(self.offset.checked_add(at)?))
    }

    /// Where the entry for block 0 would stand; wrapping, as the table may lie far behind it.
    pub(super) fn origin(&self) -> u64 {
        self.offset.wrapping_sub(block(self.first, self.order))
    }

    /// The node below an entry. `None` if there is no such level: the table is being changed.
    pub(super) fn child(&self, at: u64, origin: u64, order: Order) -> Option<Self> {
        if !is_below(order.raw(), self.order) {
            return None;
        }
        let (first, end) = (self.first_page(at), self.end_page(at));
        let offset = origin.wrapping_add(block(first, order.raw()));
        Some(Self { first, end, order: order.raw(), offset })
    }
}

/// Whether nodes with blocks of order `finer` come below those of `order`: so there are three on the
/// way to an entry, at most.
#[inline(always)]
pub(super) const fn is_below(finer: u8, order: u8) -> bool {
    finer < order && (order == FINE || finer == FINE)
}

/// See [`PinTable::words_for`](super::PinTable::words_for).
pub(super) fn words_for(range: &AddrRange, granule: PageShift) -> Option<usize> {
    if range.base().raw() < SMALLEST_PAGE {
        return None;
    }
    let geometry = Geometry::of(range);
    let granule = granule.order(range.base()).raw();
    let mut words = Header::WORDS as u64 + geometry.root().len();
    // The nodes of one level lie side by side: together they have as many entries as the range has
    // blocks of that order.
    let level = |order| Node { order, ..geometry.root() }.len();
    if geometry.root_order == COARSE && granule < COARSE {
        words = words.checked_add(level(FINE))?;
    }
    if geometry.root_order >= FINE && granule < FINE {
        words = words.checked_add(level(granule))?;
    }
    usize::try_from(words).ok()
}
