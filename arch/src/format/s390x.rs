//! s390x dynamic address translation: region, segment and page tables.
//!
//! Source: z/Architecture Principles of Operation (SA22-7832), chapter 3, "Dynamic Address
//! Translation": "Translation Control" for control registers and the address-space-control element
//! (ASCE), "Translation Tables" for the entries, "Translation Process" for what is checked. It
//! counts bits from the most significant one; the constants below are values.
//!
//! A table can be shorter than its index: the entry above it, or the ASCE, says where it begins
//! (offset) and ends (length), in quarters. What lies outside is absent, as with hardware, and an
//! offset beyond the length leaves nothing. The address that goes with an offset is still that of
//! entry 0.
//!
//! What hardware refuses with a translation-specification exception is malformed: a table of
//! another type than its level's, bit 52 of a page entry, a common segment in a private space. So
//! is, beyond that, a bit that means something only with a facility that is off, and the format
//! control of a region that can be no frame: whoever set it meant a mapping that is not there.
//!
//! Ignored on purpose: the common-segment bit otherwise, which says only who may share what the TLB
//! holds. ACC and F of a large entry, and that they are valid: they are a storage key, and storage
//! keys are checked by the PSW's key on every access, with or without tables; no other leaf has
//! one. Bits that are unassigned and that hardware does not look at, where kernels keep marks.
//!
//! Addresses in entries are real, those of large frames absolute; the two differ only for the
//! prefix area, the CPU's own two pages, which are mapped for nobody.

use super::{EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table};
use crate::addr::{AddrRange, PageShift, PhysAddr};
use crate::rights::Rights;

/// The addresses in the ASCE and in entries, by what they point to.
const REGION_OR_SEGMENT_TABLE: u64 = !0xfff;
const PAGE_TABLE: u64 = !0x7ff;
/// The type of a region or segment table, in its entries and in the ASCE; and its length.
const TYPE: u64 = 0xc;
const TYPE_PLACE: u32 = 2;
const LENGTH: u64 = 0x3;
/// Where an entry has the offset of the table it points to.
const OFFSET_PLACE: u32 = 6;
/// ASCE: the space is private, so no segment of it is common; it is not translated by tables.
const ASCE_PRIVATE: u64 = 0x100;
const ASCE_REAL_SPACE: u64 = 0x20;
/// Entries of region and segment tables.
const COMMON: u64 = 0x10;
const INVALID: u64 = 0x20;
const FORMAT_CONTROL: u64 = 0x400;
/// Entries of all tables. The second one counts in leaves only.
const PROTECTED: u64 = 0x200;
const NO_EXECUTE: u64 = 0x100;
/// Entries of page tables.
const PAGE_INVALID: u64 = 0x400;
const PAGE_ZERO: u64 = 0x800;

/// What one entry maps: of a page table, of a segment table, and so on by [`INDEX_BITS`].
const PAGE: u8 = 12;
const SEGMENT: u8 = 20;
const REGION_THIRD: u8 = 31;
/// Index bits of region and segment tables, and of page tables.
const INDEX_BITS: u8 = 11;
const PAGE_INDEX_BITS: u8 = 8;
/// Entries in a quarter of a region or segment table.
const QUARTER: u16 = 1 << (INDEX_BITS - 2);
/// Control register 0.
const CR0_EDAT: u64 = 1 << (63 - 40);
const CR0_NO_EXECUTE: u64 = 1 << (63 - 43);

bitflags::bitflags! {
    /// What the CPU adds to the format, where control register 0 has it enabled.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Facilities: u8 {
        /// Enhanced DAT 1: segment frames of 1 MiB, and protection in region tables.
        const EDAT1 = 1;
        /// Enhanced DAT 2, which has all of 1: region frames of 2 GiB.
        const EDAT2 = 2 | 1;
        /// Instruction-execution protection: leaves that can be read and not run.
        const NO_EXECUTE = 4;
    }
}

impl Facilities {
    /// What is in use on a CPU with these facility bits, as `STFLE` stores them (bit 0 is the most
    /// significant one of the first word; words that are missing count as 0), and this control
    /// register 0.
    #[must_use]
    pub fn in_use(stored: &[u64], cr0: u64) -> Self {
        let has =
            |bit: usize| stored.get(bit / 64).is_some_and(|word| word << (bit % 64) >> 63 == 1);
        let edat = match cr0 & CR0_EDAT != 0 && has(8) {
            true if has(78) => Self::EDAT2,
            true => Self::EDAT1,
            false => Self::empty(),
        };
        let protection = cr0 & CR0_NO_EXECUTE != 0 && has(130);
        edat | if protection { Self::NO_EXECUTE } else { Self::empty() }
    }
}

/// The s390x format: how many tables are on the way to a page, and which facilities are in use.
/// Made from the ASCE by [`from_asce`](Self::from_asce), or by [`new`](Self::new).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct S390x {
    /// What an entry of the top table maps.
    top: u8,
    facilities: Facilities,
    private: bool,
}

impl S390x {
    /// The format with `levels` tables on the way to a page: 2 begins with a segment table and
    /// translates 31 bits, 3, 4 and 5 with a third, second and first region table and 42, 53 and 64
    /// bits. The space is not private.
    ///
    /// # Errors
    /// [`FormatError::Levels`].
    pub const fn new(levels: u8, facilities: Facilities) -> Result<Self, FormatError> {
        if levels < 2 || levels > 5 {
            return Err(FormatError::Levels { levels });
        }
        Ok(Self { top: SEGMENT + INDEX_BITS * (levels - 2), facilities, private: false })
    }

    /// The format and the top table of the address space that an ASCE designates.
    ///
    /// Its other bits (subspace group, storage-alteration and space-switch events) report accesses
    /// and change none of them.
    ///
    /// # Errors
    /// [`FormatError::RealSpace`] if no tables translate the space.
    pub const fn from_asce(
        asce: u64,
        facilities: Facilities,
    ) -> Result<(Self, Table), FormatError> {
        if asce & ASCE_REAL_SPACE != 0 {
            return Err(FormatError::RealSpace { asce });
        }
        let top = match asce & TYPE {
            0 => SEGMENT,
            0x4 => REGION_THIRD,
            0x8 => REGION_THIRD + INDEX_BITS,
            _ => REGION_THIRD + 2 * INDEX_BITS,
        };
        let format = Self { top, facilities, private: asce & ASCE_PRIVATE != 0 };
        Ok((format, table(asce & REGION_OR_SEGMENT_TABLE, top, 0, quarter(asce & LENGTH))))
    }

    const fn has(&self, facility: Facilities) -> bool {
        self.facilities.contains(facility)
    }

    const fn may_be_leaf(&self, shift: PageShift) -> bool {
        match shift.raw() {
            PAGE => true,
            SEGMENT => self.has(Facilities::EDAT1),
            REGION_THIRD => self.has(Facilities::EDAT2),
            _ => false,
        }
    }

    /// Bits that must be zero in a valid entry of a region or segment table.
    const fn reserved(&self, shift: PageShift, large: bool) -> u64 {
        let segment = shift.raw() == SEGMENT;
        let mut bits = if self.may_be_leaf(shift) { 0 } else { FORMAT_CONTROL };
        if !segment && !self.has(Facilities::EDAT1) {
            bits |= PROTECTED;
        }
        if large && !self.has(Facilities::NO_EXECUTE) {
            bits |= NO_EXECUTE;
        }
        if self.private && (segment || large) {
            bits |= COMMON;
        }
        bits
    }
}

const fn table(base: u64, shift: u8, first: u16, last: u16) -> Table {
    let bits = if shift == PAGE { PAGE_INDEX_BITS } else { INDEX_BITS };
    let shift = match PageShift::new(shift) {
        Some(shift) => shift,
        None => PageShift::SIZE_4K,
    };
    Table { base: PhysAddr::new(base), shift, bits, first, last }
}

/// The last entry of a table of so many quarters and one.
const fn quarter(length: u64) -> u16 {
    (length & LENGTH) as u16 * QUARTER + (QUARTER - 1)
}

/// What an entry of the next table maps, after one that maps `shift`.
const fn below(shift: PageShift) -> Option<u8> {
    match shift.raw() {
        SEGMENT => Some(PAGE),
        31 | 42 | 53 => Some(shift.raw() - INDEX_BITS),
        _ => None,
    }
}

/// The type field in entries of a region or segment table, in its place.
fn type_of(shift: PageShift) -> u64 {
    u64::from(shift.raw().saturating_sub(SEGMENT) / INDEX_BITS) << TYPE_PLACE
}

/// The next table, behind an entry that maps more than a page.
fn next(raw: u64, shift: u8) -> Table {
    if shift == PAGE {
        return table(raw & PAGE_TABLE, PAGE, 0, (1 << PAGE_INDEX_BITS) - 1);
    }
    let first = quarter(raw >> OFFSET_PLACE) - (QUARTER - 1);
    table(raw & REGION_OR_SEGMENT_TABLE, shift, first, quarter(raw))
}

/// Whatever is valid can be read, by everybody.
fn rights_of(raw: u64) -> Rights {
    let mut rights = Rights::READ | Rights::EXECUTE | Rights::USER;
    rights.set(Rights::WRITE, raw & PROTECTED == 0);
    rights
}

fn leaf_of(raw: u64, shift: PageShift) -> Leaf {
    let mut rights = rights_of(raw);
    rights.set(Rights::EXECUTE, raw & NO_EXECUTE == 0);
    Leaf::new(PhysAddr::new(raw & !shift.mask()), shift, rights)
}

impl PageFormat for S390x {
    fn name(&self) -> &'static str {
        "s390x"
    }

    fn big_endian(&self) -> bool {
        true
    }

    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn valid(&self, range: &AddrRange) -> bool {
        // Beyond the top table's index is an ASCE-type exception.
        let reach = u32::from(self.top + INDEX_BITS);
        range.last().raw().checked_shr(reach).unwrap_or(0) == 0
    }

    #[inline]
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        if at.shift.raw() == PAGE {
            if raw & PAGE_INVALID != 0 {
                return Entry::Absent;
            }
            let reserved = if self.has(Facilities::NO_EXECUTE) { 0 } else { NO_EXECUTE };
            if raw & (PAGE_ZERO | reserved) != 0 {
                return Entry::Malformed;
            }
            return Entry::Leaf(leaf_of(raw, at.shift));
        }
        let Some(below) = below(at.shift) else { return Entry::Malformed };
        if raw & INVALID != 0 {
            return Entry::Absent;
        }
        let large = raw & FORMAT_CONTROL != 0;
        if raw & TYPE != type_of(at.shift) || raw & self.reserved(at.shift, large) != 0 {
            return Entry::Malformed;
        }
        if large {
            return Entry::Leaf(leaf_of(raw, at.shift));
        }
        Entry::Table(next(raw, below), rights_of(raw))
    }

    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        let (page, below) = (at.shift.raw() == PAGE, below(at.shift));
        match entry {
            Entry::Absent if page => Ok(PAGE_INVALID),
            Entry::Absent if below.is_none() => Err(EncodeError::Size { shift: at.shift }),
            Entry::Absent => Ok(INVALID | type_of(at.shift)),
            Entry::Malformed => Err(EncodeError::Malformed),
            Entry::Table(table, _) if below != Some(table.shift.raw()) => {
                Err(EncodeError::Size { shift: table.shift })
            }
            Entry::Table(table, rights) => {
                // Only leaves can take execution away.
                if !rights.contains(Rights::EXECUTE) {
                    return Err(EncodeError::Rights { rights });
                }
                Ok(place_of(&table)? | type_of(at.shift) | self.encode_rights(at.shift, rights)?)
            }
            Entry::Leaf(leaf) => {
                if leaf.shift != at.shift || !self.may_be_leaf(leaf.shift) {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                if !leaf.addr.is_aligned(leaf.shift) {
                    return Err(EncodeError::Address { addr: leaf.addr });
                }
                if !leaf.flags.is_empty()
                    || leaf.memory != 0
                    || leaf.key != 0
                    || leaf.encryption != 0
                {
                    return Err(EncodeError::Attributes);
                }
                let large = if page { 0 } else { FORMAT_CONTROL | type_of(leaf.shift) };
                Ok(leaf.addr.raw() | large | self.encode_rights(leaf.shift, leaf.rights)?)
            }
        }
    }

    fn address_bits(&self, at: &Table) -> u64 {
        if self.may_be_leaf(at.shift) { !at.shift.mask() } else { 0 }
    }

    /// None: that a page was used or changed stands in its storage key.
    fn volatile_bits(&self) -> u64 {
        0
    }
}

impl Geometry for S390x {
    fn top(&self, base: PhysAddr) -> Table {
        table(base.raw(), self.top, 0, quarter(LENGTH))
    }

    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        let shift = below(at.shift)?;
        let last = (1 << if shift == PAGE { PAGE_INDEX_BITS } else { INDEX_BITS }) - 1;
        Some(table(base.raw(), shift, 0, last))
    }

    fn leaf_at(&self, at: &Table) -> bool {
        self.may_be_leaf(at.shift)
    }

    fn flags(&self) -> LeafFlags {
        LeafFlags::empty()
    }
}

impl S390x {
    fn encode_rights(&self, shift: PageShift, rights: Rights) -> Result<u64, EncodeError> {
        let write = rights.contains(Rights::WRITE);
        let execute = rights.contains(Rights::EXECUTE);
        let region = below(shift).is_some_and(|below| below != PAGE);
        let known = Rights::from_bits(rights.bits()).is_some();
        if !known
            || !rights.contains(Rights::READ | Rights::USER)
            || (!write && region && !self.has(Facilities::EDAT1))
            || (!execute && !self.has(Facilities::NO_EXECUTE))
        {
            return Err(EncodeError::Rights { rights });
        }
        Ok(if write { 0 } else { PROTECTED } | if execute { 0 } else { NO_EXECUTE })
    }
}

/// The bits of an entry that say where a table is and how much of it there is.
fn place_of(table: &Table) -> Result<u64, EncodeError> {
    let (base, shift) = (table.base, table.shift);
    let quarters = |entries: u16| u64::from(entries / QUARTER);
    let (raw, address) = match shift.raw() {
        PAGE => (0, PAGE_TABLE),
        _ => {
            (quarters(table.first) << OFFSET_PLACE | quarters(table.last), REGION_OR_SEGMENT_TABLE)
        }
    };
    if base.raw() & !address != 0 {
        return Err(EncodeError::Address { addr: base });
    }
    let raw = base.raw() | raw;
    if next(raw, shift.raw()) == *table { Ok(raw) } else { Err(EncodeError::Size { shift }) }
}
