//! POWER radix trees.
//!
//! Source: Power ISA version 3.0B, Book III: section 5.7.10 "Radix Tree Translation" (5.7.10.1 page
//! directory entry, 5.7.10.2 page table entry) and section 5.7.6 for the in-memory tables that
//! roots stand in, which have a file of their own. The manual counts bits from the left; here they
//! are counted from the right, so its bit 0 is bit 63.
//!
//! Each directory entry says how large the next table is, so one decoder reads every tree that the
//! manual allows. It does not fix the number of levels; the CPUs that exist have four, and a walker
//! stops at [`MAX_LEVELS`](super::MAX_LEVELS).
//!
//! Ignored on purpose: the four bits of a leaf that software owns (61 and 11:9), and in a tree that
//! a hypervisor translates a guest's real addresses with also the privilege bit, which has no
//! meaning there. Reserved bits make an entry malformed. Directory entries grant everything: rights
//! stand in leaves only. A clear reference or change bit takes no right away, because POWER9 and
//! its successors set both by themselves.

use super::{EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table};
use crate::addr::{AddrRange, PageShift, PhysAddr};
use crate::rights::Rights;

mod roots;

pub use roots::RootTable;

const VALID: u64 = 1 << 63;
const LEAF: u64 = 1 << 62;
/// Real page number: bits 56:12.
const PAGE: u64 = (1 << 57) - 0x1000;
const REFERENCE: u64 = 0x100;
const CHANGE: u64 = 0x80;
/// The two attribute bits: 0 ordinary memory, 1 strong access order, 2 non-idempotent and 3
/// tolerant input and output.
const ATTRIBUTES: u64 = 0x30;
const ATTRIBUTES_AT: u32 = 4;
const PRIVILEGED: u64 = 8;
const READ: u64 = 4;
/// Loads and stores: where this is set, the bit for loads alone says nothing more.
const READ_WRITE: u64 = 2;
const EXECUTE: u64 = 1;
/// Bits 60:57 and 6 of a leaf.
const LEAF_RESERVED: u64 = 0xf << 57 | 0x40;
/// Address of the next table, or of the root: bits 59:8.
const NEXT: u64 = (1 << 60) - 0x100;
/// How many address bits index it: the low five bits.
const NEXT_BITS: u64 = 0x1f;
/// Bits 61:60 and 7:5 of a directory entry.
const DIRECTORY_RESERVED: u64 = 3 << 60 | 0xe0;
/// The smallest and the largest table, in address bits that index it.
const MIN_BITS: u8 = 5;
const MAX_BITS: u8 = 16;
/// The address space of every Linux, and the size of its top table.
const USUAL_SPACE: u8 = 52;
const USUAL_TOP: u8 = 13;
/// What entries of a Linux tree's inner tables map.
const STOPS: [u8; 3] = [39, 30, 21];

/// Whose addresses a tree translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// A process: effective addresses of quadrant 0, which start with two zero bits.
    Process,
    /// The kernel: effective addresses of quadrant 3, which start with two one bits.
    Kernel,
    /// A guest: its real addresses. All of its pages are for unprivileged code, too.
    Partition,
}

/// The radix format: the base page size, the size of the address space, and whose it is.
///
/// The base page size is what the kernel counts in, 4 KiB or 64 KiB. No register says it, and it
/// matters only where a page can be smaller than that: with 64 KiB, a 4 KiB leaf is malformed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PowerRadix {
    base: PageShift,
    /// Address bits that the tree translates, 31 to 62.
    space: u8,
    /// Address bits that index its top table.
    top: u8,
    scope: Scope,
}

impl PowerRadix {
    /// What Linux builds for its processes: 52 bits of address space in tables of 13, 9, 9 and 9
    /// bits with 4 KiB pages (shift 12), or 13, 9, 9 and 5 bits with 64 KiB pages (shift 16).
    ///
    /// # Errors
    /// [`FormatError::BasePage`] for other page sizes.
    pub const fn new(base: PageShift) -> Result<Self, FormatError> {
        match base.raw() {
            12 | 16 => Ok(Self { base, space: USUAL_SPACE, top: USUAL_TOP, scope: Scope::Process }),
            _ => Err(FormatError::BasePage { shift: base }),
        }
    }

    /// The tree of a process from the first doubleword of its process-table entry, in host byte
    /// order.
    ///
    /// # Errors
    /// [`FormatError::BasePage`]; [`FormatError::RootSize`] if the top table does not fit the
    /// address space, as in an entry that is zero; [`FormatError::Root`] if reserved bits are set or
    /// the table is not aligned to its size.
    pub const fn from_process_entry(
        base: PageShift,
        raw: u64,
    ) -> Result<(Self, Table), FormatError> {
        Self::from_root(base, raw, raw, Scope::Process)
    }

    /// The tree that translates a guest's real addresses, from the first doubleword of its
    /// partition-table entry, in host byte order.
    ///
    /// # Errors
    /// Those of [`from_process_entry`](Self::from_process_entry), and [`FormatError::NotRadix`] for a
    /// partition that uses a hash table.
    pub const fn from_partition_entry(
        base: PageShift,
        raw: u64,
    ) -> Result<(Self, Table), FormatError> {
        if raw & roots::RADIX == 0 {
            return Err(FormatError::NotRadix { raw });
        }
        Self::from_root(base, raw, raw & !roots::RADIX, Scope::Partition)
    }

    /// The same format for the addresses of another scope.
    #[must_use]
    pub const fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    const fn from_root(
        base: PageShift,
        raw: u64,
        root: u64,
        scope: Scope,
    ) -> Result<(Self, Table), FormatError> {
        let format = match Self::new(base) {
            Ok(format) => format.with_scope(scope),
            Err(error) => return Err(error),
        };
        if root & roots::ROOT_RESERVED != 0 {
            return Err(FormatError::Root { raw });
        }
        let (space, top) = (roots::space(root), bits(root));
        let format = Self { space, top, ..format };
        let Some(table) = format.next(space, root) else {
            return Err(FormatError::RootSize { bits: top, space });
        };
        if !is_aligned(&table) {
            return Err(FormatError::Root { raw });
        }
        Ok((format, table))
    }

    /// The table that a word points to, with its address and size in their common places, if all of
    /// it maps `1 << span` bytes and one entry at least a page.
    const fn next(&self, span: u8, raw: u64) -> Option<Table> {
        let bits = bits(raw);
        if bits < MIN_BITS || bits > MAX_BITS || span < self.base.raw() + bits {
            return None;
        }
        table(PhysAddr::new(raw & NEXT), span - bits, bits)
    }

    const fn may_be_leaf(&self, shift: PageShift) -> bool {
        match shift.raw() {
            12 | 16 => shift.raw() >= self.base.raw(),
            21 | 30 => true,
            _ => false,
        }
    }

    fn rights_of(&self, raw: u64) -> Rights {
        let mut rights = Rights::empty();
        rights.set(Rights::READ, raw & (READ | READ_WRITE) != 0);
        rights.set(Rights::WRITE, raw & READ_WRITE != 0);
        rights.set(Rights::EXECUTE, raw & EXECUTE != 0);
        rights.set(Rights::USER, raw & PRIVILEGED == 0 || self.scope == Scope::Partition);
        rights
    }
}

const fn bits(raw: u64) -> u8 {
    (raw & NEXT_BITS) as u8
}

/// A full table.
const fn table(base: PhysAddr, shift: u8, bits: u8) -> Option<Table> {
    match PageShift::new(shift) {
        Some(shift) => Some(Table { base, shift, bits, first: 0, last: u16::MAX >> (16 - bits) }),
        None => None,
    }
}

/// Whether a table stands at a multiple of its size.
const fn is_aligned(table: &Table) -> bool {
    table.base.raw() & ((8 << table.bits) - 1) == 0
}

impl PageFormat for PowerRadix {
    fn name(&self) -> &'static str {
        "POWER radix"
    }

    fn big_endian(&self) -> bool {
        // Whatever byte order the software has.
        true
    }

    fn base(&self) -> PageShift {
        self.base
    }

    fn valid(&self, range: &AddrRange) -> bool {
        let quadrant = if self.scope == Scope::Kernel { 3 << 62 >> self.space } else { 0 };
        let high = |raw: u64| raw >> self.space == quadrant;
        high(range.start().raw()) && high(range.last().raw())
    }

    #[inline]
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        if raw & VALID == 0 {
            return Entry::Absent;
        }
        if raw & LEAF == 0 {
            if raw & DIRECTORY_RESERVED != 0 {
                return Entry::Malformed;
            }
            return match self.next(at.shift.raw(), raw) {
                Some(next) if is_aligned(&next) => Entry::Table(next, Rights::all()),
                _ => Entry::Malformed,
            };
        }
        // Address bits inside a large page must be zero.
        if raw & (LEAF_RESERVED | PAGE & at.shift.mask()) != 0 || !self.may_be_leaf(at.shift) {
            return Entry::Malformed;
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::ACCESSED, raw & REFERENCE != 0);
        flags.set(LeafFlags::DIRTY, raw & CHANGE != 0);
        Entry::Leaf(Leaf {
            flags,
            memory: ((raw & ATTRIBUTES) >> ATTRIBUTES_AT) as u8,
            ..Leaf::new(PhysAddr::new(raw & PAGE), at.shift, self.rights_of(raw))
        })
    }

    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        match entry {
            Entry::Absent => Ok(0),
            Entry::Malformed => Err(EncodeError::Malformed),
            Entry::Table(next, rights) => {
                let size = u64::from(next.bits);
                let fits = self.next(at.shift.raw(), size);
                if fits.is_none_or(|fits| next != Table { base: next.base, ..fits }) {
                    return Err(EncodeError::Size { shift: next.shift });
                }
                if next.base.raw() & !NEXT != 0 || !is_aligned(&next) {
                    return Err(EncodeError::Address { addr: next.base });
                }
                if rights != Rights::all() {
                    return Err(EncodeError::Rights { rights });
                }
                Ok(VALID | next.base.raw() | size)
            }
            Entry::Leaf(leaf) => {
                if leaf.shift != at.shift || !self.may_be_leaf(leaf.shift) {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                if leaf.addr.raw() & !PAGE != 0 || !leaf.addr.is_aligned(leaf.shift) {
                    return Err(EncodeError::Address { addr: leaf.addr });
                }
                let known = self.flags().contains(leaf.flags);
                if leaf.memory > 3 || leaf.key != 0 || leaf.encryption != 0 || !known {
                    return Err(EncodeError::Attributes);
                }
                let reference = leaf.flags.contains(LeafFlags::ACCESSED);
                let change = leaf.flags.contains(LeafFlags::DIRTY);
                Ok(VALID
                    | LEAF
                    | leaf.addr.raw()
                    | if reference { REFERENCE } else { 0 }
                    | if change { CHANGE } else { 0 }
                    | u64::from(leaf.memory) << ATTRIBUTES_AT
                    | self.encode_rights(leaf.rights)?)
            }
        }
    }

    fn address_bits(&self, at: &Table) -> u64 {
        PAGE & !at.shift.mask()
    }

    fn volatile_bits(&self) -> u64 {
        REFERENCE | CHANGE
    }
}

impl Geometry for PowerRadix {
    fn top(&self, base: PhysAddr) -> Table {
        // The top table was checked to fit when the format was made.
        let fits = table(base, self.space - self.top, self.top);
        fits.unwrap_or(Table { base, shift: PageShift::SIZE_4K, bits: 0, first: 0, last: 0 })
    }

    /// Inner tables as Linux has them, whose entries map 512 GiB, 1 GiB and 2 MiB, as soon as the
    /// widths allow.
    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        let span = at.shift.raw();
        let stops = STOPS.into_iter().chain([self.base.raw()]);
        let shift = stops.into_iter().find(|stop| stop + MIN_BITS <= span)?;
        let shift = shift.max(span.saturating_sub(MAX_BITS));
        table(base, shift, span - shift)
    }

    fn leaf_at(&self, at: &Table) -> bool {
        self.may_be_leaf(at.shift)
    }

    fn flags(&self) -> LeafFlags {
        LeafFlags::ACCESSED | LeafFlags::DIRTY
    }
}

impl PowerRadix {
    fn encode_rights(&self, rights: Rights) -> Result<u64, EncodeError> {
        let user = rights.contains(Rights::USER);
        let write = rights.contains(Rights::WRITE);
        let known = Rights::from_bits(rights.bits()).is_some();
        // What can be written can be read; and a guest's page is never privileged.
        if !known
            || (write && !rights.contains(Rights::READ))
            || (!user && self.scope == Scope::Partition)
        {
            return Err(EncodeError::Rights { rights });
        }
        let mut raw = if user { 0 } else { PRIVILEGED };
        raw |= if rights.contains(Rights::READ) { READ } else { 0 };
        raw |= if write { READ_WRITE } else { 0 };
        raw |= if rights.contains(Rights::EXECUTE) { EXECUTE } else { 0 };
        Ok(raw)
    }
}
