//! s390 PCI translation tables (zPCI).
//!
//! Source: what Linux programs and machines and QEMU accept; IBM publishes no manual of it. The
//! tables are those of [dynamic address translation](crate::format::s390x) with fewer kinds of
//! entries: no offsets, no shortened tables, pages of 4 KiB only, and a protection bit on every level
//! that a device may not write past.
//!
//! Like there, an entry of zeroes is no empty one: each level has its own bit for that. A device that
//! may write may read.
//!
//! Ignored on purpose: the low nine bits of a page's entry, and in entries above it all but type,
//! length, offset, protection and address: hardware does not look at them.

use super::{IoEntry, IoFormat, IoLeaf, IoTable, LeafSizes};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::{EncodeError, FormatError};
use crate::rights::Access;

/// Entries of region and segment tables.
const INVALID: u64 = 0x20;
const TYPE: u64 = 0xc;
const TYPE_PLACE: u32 = 2;
const OFFSET: u64 = 0xc0;
/// Length of the next table: all of it.
const FULL: u64 = 0x3;
/// In a segment entry: a frame instead of a table, which is not in use.
const FRAME: u64 = 0x400;
/// In entries of all tables.
const PROTECTED: u64 = 0x200;
const PAGE_INVALID: u64 = 0x400;
const PAGE_ZERO: u64 = 0x800;
/// Addresses, by what an entry points to.
const REGION_OR_SEGMENT_TABLE: u64 = !0x3fff;
const PAGE_TABLE: u64 = !0x7ff;

const PAGE: u8 = 12;
const SEGMENT: u8 = 20;
const INDEX_BITS: u8 = 11;
const PAGE_INDEX_BITS: u8 = 8;
/// In the anchor: translation is on.
const TRANSLATED: u64 = 0x800;

/// The zPCI format: how many levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zpci {
    /// What an entry of the top table maps.
    top: u8,
}

impl Zpci {
    /// The format with 2 to 5 levels: the top one is a segment table, or a third, second or first
    /// region table, for 31, 42, 53 or 64 bits of device addresses. What a function can use
    /// its function group says.
    ///
    /// # Errors
    /// [`FormatError::Levels`].
    pub const fn new(levels: u8) -> Result<Self, FormatError> {
        if levels < 2 || levels > 5 {
            return Err(FormatError::Levels { levels });
        }
        Ok(Self { top: SEGMENT + INDEX_BITS * (levels - 2) })
    }

    /// The translation anchor (IOTA) to register for a function whose top table this is.
    ///
    /// # Errors
    /// [`EncodeError::Address`] if the table is not aligned to its 16 KiB.
    pub fn anchor(&self, top: PhysAddr) -> Result<u64, EncodeError> {
        if top.raw() & !REGION_OR_SEGMENT_TABLE != 0 {
            return Err(EncodeError::Address { addr: top });
        }
        Ok(top.raw() | TRANSLATED | type_of(self.top))
    }
}

/// The type of a region or segment table, in its entries and in the anchor.
const fn type_of(shift: u8) -> u64 {
    let number = match shift {
        ..31 => 0,
        31..42 => 1,
        42..53 => 2,
        _ => 3,
    };
    number << TYPE_PLACE
}

/// What an entry of the next table maps, after one that maps `shift`.
fn below(shift: PageShift) -> Option<u8> {
    match shift.raw() {
        SEGMENT => Some(PAGE),
        31 | 42 | 53 => Some(shift.raw() - INDEX_BITS),
        _ => None,
    }
}

/// Whatever is valid can be read.
fn access_of(raw: u64) -> Access {
    if raw & PROTECTED == 0 { Access::all() } else { Access::READ }
}

fn encode_access(access: Access) -> Result<u64, EncodeError> {
    match access {
        Access::READ => Ok(PROTECTED),
        access if access == Access::all() => Ok(0),
        _ => Err(EncodeError::Access { access }),
    }
}

impl IoFormat for Zpci {
    fn name(&self) -> &'static str {
        "zPCI"
    }

    fn big_endian(&self) -> bool {
        true
    }

    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn last(&self) -> Iova {
        let bits = u32::from(self.top + INDEX_BITS);
        Iova::new(1_u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1))
    }

    fn top(&self, base: PhysAddr) -> IoTable {
        let shift = PageShift::new(self.top).unwrap_or(PageShift::SIZE_4K);
        IoTable { base, shift, bits: INDEX_BITS }
    }

    fn levels(&self) -> u8 {
        (self.top - SEGMENT) / INDEX_BITS + 2
    }

    fn with_levels(&self, levels: u8) -> Option<Self> {
        Self::new(levels).ok()
    }

    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        let shift = below(at.shift)?;
        let bits = if shift == PAGE { PAGE_INDEX_BITS } else { INDEX_BITS };
        Some(IoTable { base, shift: PageShift::new(shift)?, bits })
    }

    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        if at.shift.raw() == PAGE { LeafSizes::NONE.with(at.shift) } else { LeafSizes::NONE }
    }

    #[inline(always)]
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        if at.shift.raw() == PAGE {
            if raw & PAGE_INVALID != 0 {
                return IoEntry::Absent;
            }
            if raw & PAGE_ZERO != 0 {
                return IoEntry::Malformed;
            }
            let addr = PhysAddr::new(raw & !at.shift.mask());
            return IoEntry::Leaf(IoLeaf::new(addr, at.shift, access_of(raw)));
        }
        let Some(shift) = below(at.shift) else { return IoEntry::Malformed };
        if raw & INVALID != 0 {
            return IoEntry::Absent;
        }
        let (length, address, frame) = match shift {
            PAGE => (0, PAGE_TABLE, FRAME),
            _ => (FULL, REGION_OR_SEGMENT_TABLE, 0),
        };
        let offset = if shift == PAGE { 0 } else { OFFSET };
        let wrong = raw & TYPE != type_of(at.shift.raw()) || raw & length != length;
        if wrong || raw & (offset | frame) != 0 {
            return IoEntry::Malformed;
        }
        match self.below(at, PhysAddr::new(raw & address)) {
            Some(next) => IoEntry::Table(next, access_of(raw)),
            None => IoEntry::Malformed,
        }
    }

    #[inline]
    fn encode(&self, at: &IoTable, _: u32, entry: IoEntry) -> Result<u64, EncodeError> {
        let page = at.shift.raw() == PAGE;
        match entry {
            IoEntry::Absent if page => Ok(PAGE_INVALID),
            IoEntry::Absent if below(at.shift).is_none() => {
                Err(EncodeError::Size { shift: at.shift })
            }
            IoEntry::Absent => Ok(INVALID | type_of(at.shift.raw())),
            IoEntry::Malformed => Err(EncodeError::Malformed),
            IoEntry::Table(next, access) => {
                if self.below(at, next.base) != Some(next) {
                    return Err(EncodeError::Size { shift: next.shift });
                }
                let (length, address) = match next.shift.raw() {
                    PAGE => (0, PAGE_TABLE),
                    _ => (FULL, REGION_OR_SEGMENT_TABLE),
                };
                if next.base.raw() & !address != 0 {
                    return Err(EncodeError::Address { addr: next.base });
                }
                let raw = next.base.raw() | type_of(at.shift.raw()) | length;
                Ok(raw | encode_access(access)?)
            }
            IoEntry::Leaf(leaf) => {
                if leaf.shift != at.shift || !page {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                if !leaf.addr.is_aligned(leaf.shift) {
                    return Err(EncodeError::Address { addr: leaf.addr });
                }
                if !leaf.flags.is_empty() {
                    return Err(EncodeError::Attributes);
                }
                Ok(leaf.addr.raw() | encode_access(leaf.access)?)
            }
        }
    }

    fn address_bits(&self, at: &IoTable) -> u64 {
        if at.shift.raw() == PAGE { !at.shift.mask() } else { 0 }
    }

    /// None: adapters leave their marks in storage keys, if anywhere.
    fn volatile_bits(&self) -> u64 {
        0
    }
}
