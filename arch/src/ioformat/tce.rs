//! POWER translation control entries (TCEs).
//!
//! Source: the I/O device architecture that POWER8's and POWER9's host bridges implement (IODA2: one
//! to five levels, a page size for each window), as their firmware and Linux program it; and the
//! Power Architecture Platform Reference for what a guest writes.
//!
//! An entry has two bits, for reading and for writing, and the real address from the page size
//! upwards. Without either bit it maps nothing, whatever else stands in it: others may leave any value there.
//! An entry of an upper level is the address of the next table with both bits set. In memory it
//! is big-endian, always.
//!
//! Ignored on purpose: address bits below the page size, which hardware does not look at.

use super::{IoEntry, IoFormat, IoLeaf, IoTable, LeafSizes, granted, granting};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::{EncodeError, FormatError};
use crate::rights::Access;

const READ: u64 = 1;
const WRITE: u64 = 2;
/// Page sizes that a window can have.
const PAGES: core::ops::RangeInclusive<u8> = 12..=34;
const MAX_LEVELS: u8 = 5;
/// An entry has eight bytes.
const ENTRY: u8 = 3;
/// A table has at least 4 KiB, and a single one at most 4 GiB.
const MIN_TABLE: u8 = 12;
const MAX_TABLE: u8 = 32;
/// The sum of the level's sizes and the page size stays below this.
const MAX_REACH: u32 = 55;

/// Bits of the top table's address that a window's entry has room for.
const WINDOW_ADDRESS: u8 = 60;
/// It has sizes as multiples of 2 KiB.
const WINDOW_SIZES_FROM: u8 = 11;

/// The TCE format of one DMA window: its page size, its size, and its levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tce {
    page: PageShift,
    window: PageShift,
    levels: u8,
    /// Index bits of a table.
    bits: u8,
    write_implies_read: bool,
}

impl Tce {
    /// The format of a window of `1 << window` bytes in pages of `page`, 4 KiB to 16 GiB, with
    /// tables of 1 to 5 levels, all of the same size.
    ///
    /// # Errors
    /// [`FormatError::BasePage`], [`FormatError::Levels`]; [`FormatError::RootSize`] if the window is
    /// no larger than a page, or tables would be larger than 4 GiB or than hardware can index.
    pub fn new(page: PageShift, window: PageShift, levels: u8) -> Result<Self, FormatError> {
        if !PAGES.contains(&page.raw()) {
            return Err(FormatError::BasePage { shift: page });
        }
        if levels == 0 || levels > MAX_LEVELS {
            return Err(FormatError::Levels { levels });
        }
        let entries = window.raw().saturating_sub(page.raw());
        let bits = entries.div_ceil(levels).max(MIN_TABLE - ENTRY);
        let reach = u32::from(bits) * u32::from(levels) + u32::from(page.raw());
        if entries == 0 || bits + ENTRY > MAX_TABLE || reach >= MAX_REACH {
            return Err(FormatError::RootSize { bits, space: window.raw() });
        }
        Ok(Self { page, window, levels, bits, write_implies_read: false })
    }

    /// Whether hardware lets a device read what it may write, as host bridges on real machines do.
    /// Then a request to write only is refused by [`encode`](IoFormat::encode), and such an
    /// entry decodes to one for both.
    #[must_use]
    pub const fn with_write_implies_read(mut self, on: bool) -> Self {
        self.write_implies_read = on;
        self
    }

    /// What a host bridge of POWER9 (PHB4) keeps for the window: where its top table is, the levels, the
    /// size of a table and of a page. 0 there closes the window.
    ///
    /// # Errors
    /// [`EncodeError::Address`] if the table is not aligned to 4 KiB or lies above 60 bits;
    /// [`EncodeError::Size`] for pages other than of 4 KiB, 64 KiB, 2 MiB and 1 GiB, which it does not have.
    pub fn window_entry(&self, table: PhysAddr) -> Result<u64, EncodeError> {
        if !matches!(self.page.raw(), 12 | 16 | 21 | 30) {
            return Err(EncodeError::Size { shift: self.page });
        }
        if !table.is_aligned(PageShift::SIZE_4K) || table.raw() >> WINDOW_ADDRESS != 0 {
            return Err(EncodeError::Address { addr: table });
        }
        let table_size = u64::from(self.bits + ENTRY - WINDOW_SIZES_FROM);
        let page_size = u64::from(self.page.raw() - WINDOW_SIZES_FROM);
        let levels = u64::from(self.levels - 1);
        Ok(table.raw() >> 12 << 16 | levels << 13 | table_size << 8 | page_size)
    }

    fn access_of(&self, raw: u64) -> Access {
        granted(raw, READ | if self.write_implies_read { WRITE } else { 0 }, WRITE)
    }

    fn encode_access(&self, access: Access) -> Result<u64, EncodeError> {
        let only_write = access == Access::WRITE && self.write_implies_read;
        if access.is_empty() || only_write {
            return Err(EncodeError::Access { access });
        }
        granting(access, READ, WRITE)
    }
}

impl IoFormat for Tce {
    fn name(&self) -> &'static str {
        "TCE"
    }

    fn big_endian(&self) -> bool {
        true
    }

    fn base(&self) -> PageShift {
        self.page
    }

    fn last(&self) -> Iova {
        Iova::new(self.window.mask())
    }

    fn top(&self, base: PhysAddr) -> IoTable {
        let shift = PageShift::new(self.page.raw() + self.bits * (self.levels - 1));
        IoTable { base, shift: shift.unwrap_or(self.page), bits: self.bits }
    }

    fn levels(&self) -> u8 {
        self.levels
    }

    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        let shift = at.shift.raw().checked_sub(self.bits).filter(|shift| *shift >= self.page.raw());
        Some(IoTable { base, shift: PageShift::new(shift?)?, bits: self.bits })
    }

    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        if at.shift == self.page { LeafSizes::NONE.with(self.page) } else { LeafSizes::NONE }
    }

    #[inline]
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        if raw & (READ | WRITE) == 0 {
            return IoEntry::Absent;
        }
        if at.shift == self.page {
            let addr = PhysAddr::new(raw & !self.page.mask());
            return IoEntry::Leaf(IoLeaf::new(addr, self.page, self.access_of(raw)));
        }
        let base = PhysAddr::new(raw & !PageShift::SIZE_4K.mask());
        match self.below(at, base) {
            Some(next) if raw & (READ | WRITE) == READ | WRITE => {
                IoEntry::Table(next, Access::all())
            }
            _ => IoEntry::Malformed,
        }
    }

    #[inline]
    fn encode(&self, at: &IoTable, _: u32, entry: IoEntry) -> Result<u64, EncodeError> {
        match entry {
            IoEntry::Absent => Ok(0),
            IoEntry::Malformed => Err(EncodeError::Malformed),
            IoEntry::Table(next, access) => {
                if self.below(at, next.base) != Some(next) {
                    return Err(EncodeError::Size { shift: next.shift });
                }
                if !next.base.is_aligned(PageShift::SIZE_4K) {
                    return Err(EncodeError::Address { addr: next.base });
                }
                if access != Access::all() {
                    return Err(EncodeError::Access { access });
                }
                Ok(next.base.raw() | READ | WRITE)
            }
            IoEntry::Leaf(leaf) => {
                if leaf.shift != at.shift || leaf.shift != self.page {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                if !leaf.addr.is_aligned(leaf.shift) {
                    return Err(EncodeError::Address { addr: leaf.addr });
                }
                if !leaf.flags.is_empty() {
                    return Err(EncodeError::Attributes);
                }
                Ok(leaf.addr.raw() | self.encode_access(leaf.access)?)
            }
        }
    }

    fn address_bits(&self, at: &IoTable) -> u64 {
        if at.shift == self.page { !self.page.mask() } else { 0 }
    }

    /// None: a host bridge keeps no marks.
    fn volatile_bits(&self) -> u64 {
        0
    }
}
