//! AMD-Vi host page tables, version 1.
//!
//! Source: AMD "I/O Virtualization Technology (IOMMU) Specification" (48882), section 2.2.3 (I/O page
//! tables: page directory and page translation entries, page-size encoding) and 2.2.2.1 (device table
//! entry).
//!
//! Each entry names the level of the table it points to. 0 makes it a page of the size that one entry maps, and
//! 7 a page that says its size itself: the lowest clear bit of its address from bit 12 on is the top
//! one of what lies inside the page. Such a page takes as many equal entries as it needs.
//!
//! Not read: an entry that skips a level. Hardware follows it where the address is zero in the bits that are
//! skipped; nobody here writes one, and it is malformed.
//!
//! Ignored on purpose: bits 4:1 and 8:7, which software owns, and 58:52 and bit 63; bit 59 (untranslated
//! requests); in entries that point to tables also bits 5, 6 and 60.

use super::{IoEntry, IoFormat, IoLeaf, IoTable, LeafSizes, Marks, granted, granting};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::{EncodeError, FormatError};

const PRESENT: u64 = 1 << 0;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const NEXT_PLACE: u32 = 9;
const NEXT: u64 = 7 << NEXT_PLACE;
/// A page of the size that one entry maps, and one that says its size.
const PAGE: u64 = 0;
const SIZED_PAGE: u64 = 7;
/// Bits 51:12.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
/// Force coherent: accesses snoop.
const COHERENT: u64 = 1 << 60;
const READ: u64 = 1 << 61;
const WRITE: u64 = 1 << 62;
const PAGE_SHIFT: u8 = 12;
const INDEX_BITS: u8 = 9;
/// The largest page: 2 PiB, half of what addresses reach.
const LARGEST: u8 = 51;
/// Levels that exist.
const LEVELS: core::ops::RangeInclusive<u8> = 1..=6;
/// In a device table entry.
const VALID: u64 = 1 << 0;
const TRANSLATION_VALID: u64 = 1 << 1;
const MARKS_PLACE: u32 = 7;
const MODE_PLACE: u32 = 9;
const ATS: u64 = 1 << 32;
/// In its third doubleword.
const INTERRUPTS_VALID: u64 = 1;

/// The AMD-Vi format: how many levels, and whether the unit keeps marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AmdVi {
    levels: u8,
    marks: bool,
}

impl AmdVi {
    /// The format with 1 to 6 levels: 21, 30, 39, 48, 57 or 64 bits of device addresses. Without
    /// accessed and dirty marks.
    ///
    /// # Errors
    /// [`FormatError::Levels`].
    pub const fn new(levels: u8) -> Result<Self, FormatError> {
        if levels < *LEVELS.start() || levels > *LEVELS.end() {
            return Err(FormatError::Levels { levels });
        }
        Ok(Self { levels, marks: false })
    }

    /// Whether the unit sets accessed and dirty marks (HASup and HDSup, and on for the device). Its walks
    /// look into the CPUs' caches, as marks need: entries for devices never forbid that (SD).
    #[must_use]
    pub const fn with_marks(mut self, on: bool) -> Self {
        self.marks = on;
        self
    }

    /// The device table entry of a device that uses the tables under `top`, in a domain, and may read
    /// and write what they allow. `ats` says whether the device may ask for translations and keep
    /// them itself. Interrupts are left as they come.
    ///
    /// # Errors
    /// [`EncodeError::Address`].
    pub fn device_table_entry(
        &self,
        top: PhysAddr,
        domain: u16,
        ats: bool,
    ) -> Result<[u64; 4], EncodeError> {
        let marks = if self.marks { 3 << MARKS_PLACE } else { 0 };
        let mode = u64::from(self.levels) << MODE_PLACE;
        let table = encode_addr(top, PageShift::SIZE_4K)?;
        let low = VALID | TRANSLATION_VALID | marks | mode | table | READ | WRITE;
        Ok([low, u64::from(domain) | if ats { ATS } else { 0 }, 0, 0])
    }

    /// A device table entry that blocks every access and every interrupt: valid, without
    /// translation, and with an interrupt table (IV) that is not used (IntCtl 0). All zeroes would let
    /// a device through.
    pub const BLOCKED: [u64; 4] = [VALID, 0, INTERRUPTS_VALID, 0];

    /// Where leaves have their marks.
    const fn marks(&self) -> Marks {
        let (accessed, dirty) = if self.marks { (ACCESSED, DIRTY) } else { (0, 0) };
        Marks { accessed, dirty, snoop: COHERENT }
    }
}

/// Whether entries of any table map so much.
const fn maps(shift: PageShift) -> bool {
    shift.raw() >= PAGE_SHIFT
        && shift.raw() < PAGE_SHIFT + INDEX_BITS * *LEVELS.end()
        && (shift.raw() - PAGE_SHIFT).is_multiple_of(INDEX_BITS)
}

/// The level of a table that an entry can point to, 1 for the last.
fn level(table: &IoTable) -> u64 {
    u64::from((table.shift.raw() - PAGE_SHIFT) / INDEX_BITS + 1)
}

fn encode_addr(addr: PhysAddr, shift: PageShift) -> Result<u64, EncodeError> {
    if addr.raw() & !ADDRESS != 0 || !addr.is_aligned(shift) {
        return Err(EncodeError::Address { addr });
    }
    Ok(addr.raw())
}

/// A page that says its size: address and size.
#[expect(clippy::cast_possible_truncation, reason = "no more ones than an address has bits")]
const fn sized(raw: u64) -> (PhysAddr, PageShift) {
    let ones = ((raw & ADDRESS) >> PAGE_SHIFT).trailing_ones() as u8;
    let shift = match PageShift::new(PAGE_SHIFT + 1 + ones) {
        Some(shift) => shift,
        None => PageShift::SIZE_4K,
    };
    (PhysAddr::new(raw & ADDRESS).align_down(shift), shift)
}

impl IoFormat for AmdVi {
    fn name(&self) -> &'static str {
        "AMD-Vi"
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn last(&self) -> Iova {
        let bits = u32::from(PAGE_SHIFT + INDEX_BITS * self.levels);
        Iova::new(1_u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1))
    }

    fn top(&self, base: PhysAddr) -> IoTable {
        let shift = PageShift::new(PAGE_SHIFT + INDEX_BITS * (self.levels - 1));
        IoTable { base, shift: shift.unwrap_or(PageShift::SIZE_4K), bits: INDEX_BITS }
    }

    fn levels(&self) -> u8 {
        self.levels
    }

    fn with_levels(&self, levels: u8) -> Option<Self> {
        LEVELS.contains(&levels).then_some(Self { levels, ..*self })
    }

    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        let shift = at.shift.raw().checked_sub(INDEX_BITS).filter(|shift| *shift >= PAGE_SHIFT)?;
        Some(IoTable { base, shift: PageShift::new(shift)?, bits: INDEX_BITS })
    }

    /// Every power of two from what one entry maps to less than what the table maps.
    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        let most = PageShift::new(LARGEST.min(at.shift.raw() + INDEX_BITS - 1));
        match most {
            Some(most) if maps(at.shift) => LeafSizes::between(at.shift, most),
            _ => LeafSizes::NONE,
        }
    }

    #[inline]
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        if raw & PRESENT == 0 {
            return IoEntry::Absent;
        }
        if !maps(at.shift) {
            return IoEntry::Malformed;
        }
        let (next, access) = ((raw & NEXT) >> NEXT_PLACE, granted(raw, READ, WRITE));
        let (addr, shift) = match next {
            PAGE => (PhysAddr::new(raw & ADDRESS), at.shift),
            SIZED_PAGE => sized(raw),
            _ => {
                let base = PhysAddr::new(raw & ADDRESS);
                let table = self.below(at, base).filter(|table| level(table) == next);
                return table.map_or(IoEntry::Malformed, |table| IoEntry::Table(table, access));
            }
        };
        if access.is_empty() {
            return IoEntry::Absent;
        }
        if !self.leaf_sizes(at).contains(shift) || !addr.is_aligned(shift) {
            return IoEntry::Malformed;
        }
        IoEntry::Leaf(IoLeaf { flags: self.marks().of(raw), ..IoLeaf::new(addr, shift, access) })
    }

    #[inline]
    fn encode(&self, at: &IoTable, _: u32, entry: IoEntry) -> Result<u64, EncodeError> {
        match entry {
            IoEntry::Absent => Ok(0),
            IoEntry::Malformed => Err(EncodeError::Malformed),
            IoEntry::Table(next, access) => {
                if !maps(at.shift) || self.below(at, next.base) != Some(next) {
                    return Err(EncodeError::Size { shift: next.shift });
                }
                let raw =
                    encode_addr(next.base, PageShift::SIZE_4K)? | granting(access, READ, WRITE)?;
                Ok(raw | level(&next) << NEXT_PLACE | PRESENT)
            }
            IoEntry::Leaf(leaf) => {
                if !self.leaf_sizes(at).contains(leaf.shift) {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                // A table may grant nothing; a page that grants nothing is none.
                if leaf.access.is_empty() {
                    return Err(EncodeError::Access { access: leaf.access });
                }
                // Ones from bit 12 to below the top bit of what lies inside.
                let sized = SIZED_PAGE << NEXT_PLACE | leaf.shift.mask() >> 1 & ADDRESS;
                Ok(encode_addr(leaf.addr, leaf.shift)?
                    | granting(leaf.access, READ, WRITE)?
                    | self.marks().place(leaf.flags)?
                    | if leaf.shift == at.shift { 0 } else { sized }
                    | PRESENT)
            }
        }
    }

    fn address_bits(&self, at: &IoTable) -> u64 {
        ADDRESS & !at.shift.mask()
    }

    fn volatile_bits(&self) -> u64 {
        self.marks().volatile()
    }

    fn splits(&self) -> bool {
        true
    }
}
