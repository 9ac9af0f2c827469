//! Where things stand in the words of a registry.
//!
//! | word | |
//! |---|---|
//! | 0 | magic, `PINFOLDR`; in a registry of the other byte order it reads reversed |
//! | 1 | version |
//! | 2 | first page of the window: its address divided by the page size |
//! | 3 | pages in the window |
//! | 4 | bits 0..8: base page shift; bits 8..16: order of the root's blocks |
//! | 5 | number of records |
//! | 6, 7 | 0 |
//! | 8.. | records, eight words each |
//! | then | the root of the directory, one entry for each naturally aligned block that the window touches |
//! | then | nodes of the directory, as they were needed |
//!
//! A record:
//!
//! | word | |
//! |---|---|
//! | 0 | bits 32..64: generation; bits 0..32: mapped: 0 while the region is not there, 1 while nothing of it is mapped, else one more than there are mapped references |
//! | 1 | first address |
//! | 2 | last address, less the first |
//! | 3 | bits 0..8: order of the blocks of the table's root; bits 8..16: the largest IOMMU page as a shift; bit 16: device memory; bits 24..32: what devices may do |
//! | 4 | where the pin table stands, in words through all areas; for device memory its physical address |
//! | 5 | words of the pin table |
//! | 6 | bits 0..8: what the registry is doing with it; bits 8..16: access; bits 16..64: how often it was registered, or when it was retired |
//! | 7 | the next record of the list that it is in |
//!
//! An entry of the directory is zero, or bits 0..2 say what bits 8..64 are: 1: the number of the only
//! record whose region touches the block; 2: the offset, in words, of the 512 entries of a node for
//! the blocks of the next smaller size. In front of a node's entries stand eight words: the first
//! is the next node of the list that it is in, the second when it was retired.

use pinfold_arch::addr::index;
use pinfold_arch::{Access, AddrRange, PageShift};

use crate::sync::{Ordering, Word};
use crate::table::layout::SMALLEST_PAGE;

/// Version of this layout.
pub const VERSION: u64 = 1;

const MAGIC: u64 = u64::from_be_bytes(*b"PINFOLDR");

/// How much smaller the blocks of a node are than those of the node above, as an order.
pub(crate) const NODE_ORDER: u8 = 9;
/// Entries of a node.
pub(crate) const NODE_ENTRIES: u64 = 1 << NODE_ORDER;
/// Words in front of a node's entries.
pub(crate) const NODE_HEAD: u64 = 8;
/// Words of a node.
pub(crate) const NODE_WORDS: u64 = NODE_HEAD + NODE_ENTRIES;
/// Nodes on the way from the root to an entry, at most.
pub(crate) const DIRECTORY_LEVELS: usize = 3;
/// The largest order that blocks of the root have.
const LARGEST_BLOCK: u8 = 3 * NODE_ORDER;

/// Words of a record.
pub(crate) const RECORD_WORDS: usize = 8;

/// Indices of the words in front of the records.
struct Header;

impl Header {
    const MAGIC: usize = 0;
    const VERSION: usize = 1;
    const START: usize = 2;
    const PAGES: usize = 3;
    const SHAPE: usize = 4;
    const RECORDS: usize = 5;
    const WORDS: usize = 8;
}

/// The addresses that a registry is for, and how its directory cuts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// First page.
    start: u64,
    /// Pages.
    pages: u64,
    pub(crate) base: PageShift,
    /// Order of the root's blocks.
    pub(crate) order: u8,
    /// Records.
    pub(crate) records: u64,
}

impl Window {
    /// The window over these addresses. The blocks of the root are the smallest that give it no more
    /// entries than a window of their kind is worth.
    pub(crate) fn of(range: &AddrRange, records: u32) -> Self {
        let pages = range.pages().raw();
        let order = match pages {
            0..=0x200 => 0,
            0x201..=0x100_0000 => NODE_ORDER,
            0x100_0001..=0x8_0000_0000 => 2 * NODE_ORDER,
            _ => LARGEST_BLOCK,
        };
        let start = range.start().raw() >> range.base().raw();
        Self { start, pages, base: range.base(), order, records: u64::from(records) }
    }

    pub(crate) fn read(words: &[Word]) -> Option<Self> {
        let get = |at: usize| words.get(at).map(|word| word.load(Ordering::Acquire));
        if get(Header::MAGIC)? != MAGIC || get(Header::VERSION)? != VERSION {
            return None;
        }
        let shape = get(Header::SHAPE)?;
        let base = PageShift::new((shape & 0xff) as u8)?;
        let order = (shape >> 8 & 0xff) as u8;
        let window = Self {
            start: get(Header::START)?,
            pages: get(Header::PAGES)?,
            base,
            order,
            records: get(Header::RECORDS)?,
        };
        // A page has an address, and so has each word of the directory.
        let last = window.start.checked_add(window.pages)?.checked_sub(1)?;
        let whole = base.raw() >= SMALLEST_PAGE
            && order <= LARGEST_BLOCK
            && window.root_shift() < 64
            && window.records <= u64::from(u32::MAX)
            && last <= u64::MAX >> base.raw()
            && window.fixed_words()? <= words.len() as u64;
        whole.then_some(window)
    }

    /// Writes the header; the magic number last.
    pub(crate) fn write(&self, words: &[Word]) {
        let set = |at: usize, value: u64| {
            if let Some(word) = words.get(at) {
                word.store(value, Ordering::Release);
            }
        };
        set(Header::VERSION, VERSION);
        set(Header::START, self.start);
        set(Header::PAGES, self.pages);
        set(Header::SHAPE, u64::from(self.base.raw()) | u64::from(self.order) << 8);
        set(Header::RECORDS, self.records);
        set(Header::MAGIC, MAGIC);
    }

    /// Where the directory's root begins.
    fn root(&self) -> u64 {
        self.records.wrapping_mul(RECORD_WORDS as u64).wrapping_add(Header::WORDS as u64)
    }

    /// The number of the block that the root's first entry stands for.
    pub(crate) fn first_block(&self) -> u64 {
        self.start.wrapping_shr(u32::from(self.order))
    }

    /// The size of the root's blocks in bytes, as a power of two.
    pub(crate) fn root_shift(&self) -> u8 {
        self.base.raw().saturating_add(self.order)
    }

    /// Words in front of the nodes. `None` if that overflows.
    pub(crate) fn fixed_words(&self) -> Option<u64> {
        let last = self.start.checked_add(self.pages)?.checked_sub(1)?;
        let entries = last.wrapping_shr(u32::from(self.order)).checked_sub(self.first_block())?;
        self.root().checked_add(entries)?.checked_add(1)
    }

    /// The records, and the directory's root.
    pub(crate) fn parts<'m>(
        &self,
        words: &'m [Word],
    ) -> Option<(&'m [[Word; RECORD_WORDS]], &'m [Word])> {
        let fixed = words.get(..index(self.fixed_words()?))?;
        let (front, root) = fixed.split_at_checked(index(self.root()))?;
        Some((front.get(Header::WORDS..)?.as_chunks().0, root))
    }

    /// Whether all of these pages lie inside.
    pub(crate) fn holds(&self, first: u64, end: u64) -> bool {
        first >= self.start && end <= self.start.saturating_add(self.pages)
    }
}

const RECORD: u64 = 1;
const NODE: u64 = 2;

/// What an entry of the directory says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// No region touches the block.
    Empty,
    /// One region does: the one of this record.
    Record(u64),
    /// Several do: at this offset begin the entries of the node that tells them apart.
    Node(u64),
}

impl Entry {
    /// Reads a word. Total: a word that says nothing known is empty.
    #[inline(always)]
    pub(crate) fn decode(raw: u64) -> Self {
        match raw {
            _ if raw & NODE != 0 => Self::Node(raw >> 8),
            _ if raw & RECORD != 0 => Self::Record(raw >> 8),
            _ => Self::Empty,
        }
    }

    /// The word that says this. Offsets and numbers have at most 56 bits.
    pub(crate) fn encode(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Record(number) => number << 8 | RECORD,
            Self::Node(offset) => offset << 8 | NODE,
        }
    }
}

/// Indices of a record's words.
pub(crate) struct Field;

impl Field {
    pub(crate) const STATE: usize = 0;
    pub(crate) const START: usize = 1;
    pub(crate) const LAST: usize = 2;
    pub(crate) const SHAPE: usize = 3;
    pub(crate) const PLACE: usize = 4;
    pub(crate) const LENGTH: usize = 5;
    pub(crate) const WRITER: usize = 6;
    pub(crate) const NEXT: usize = 7;
}

/// The words of one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'m>(pub(crate) &'m [Word; RECORD_WORDS]);

impl<'m> Record<'m> {
    #[inline(always)]
    pub(crate) fn word(&self, field: usize) -> &'m Word {
        // All fields are constants below eight.
        self.0.get(field).unwrap_or(&self.0[0])
    }

    #[inline(always)]
    pub(crate) fn load(&self, field: usize, order: Ordering) -> u64 {
        self.word(field).load(order)
    }

    pub(crate) fn store(&self, field: usize, value: u64) {
        self.word(field).store(value, Ordering::Relaxed);
    }
}

/// The first word of a record: generation and mapped count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Life(pub(crate) u64);

impl Life {
    /// That of a record which was never used.
    pub(crate) const FIRST: Self = Self(1 << 32);
    /// The largest count.
    pub(crate) const MOST: u64 = 0xffff_ffff;

    /// The count of a record's next generation, while it is not there. `None` after the last one.
    pub(crate) const fn next(self) -> Option<Self> {
        match self.with_mapped(0).0.checked_add(1 << 32) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// Whether it is of the same generation, whatever the counts.
    #[inline(always)]
    pub(crate) const fn same(self, other: Self) -> bool {
        (self.0 ^ other.0) <= Self::MOST
    }

    #[inline(always)]
    pub(crate) const fn mapped(self) -> u64 {
        self.0 & Self::MOST
    }

    /// The same generation with another count.
    #[inline(always)]
    pub(crate) const fn with_mapped(self, mapped: u64) -> Self {
        Self(self.0 & !Self::MOST | mapped)
    }
}

/// The fourth word of a record: the form of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape(pub(crate) u64);

impl Shape {
    pub(crate) const fn new(
        root_order: u8,
        usable: PageShift,
        device: bool,
        access: Access,
    ) -> Self {
        let form = root_order as u64 | (usable.raw() as u64) << 8 | (device as u64) << 16;
        Self(form | (access.bits() as u64) << 24)
    }

    /// What devices may do.
    #[inline(always)]
    pub(crate) const fn access(self) -> Access {
        Access::from_bits_truncate((self.0 >> 24 & 0xff) as u8)
    }

    /// Order of the blocks of the table's root.
    #[inline(always)]
    pub(crate) const fn root_order(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The largest IOMMU page.
    #[inline(always)]
    pub(crate) fn usable(self) -> PageShift {
        PageShift::new((self.0 >> 8 & 0x3f) as u8).unwrap_or(PageShift::SIZE_4K)
    }

    #[inline(always)]
    pub(crate) const fn is_device(self) -> bool {
        self.0 >> 16 & 1 != 0
    }
}
