//! What an IOMMU's table format is.
//!
//! Like [page tables](crate::format), but for devices: no user and no execution, tables that are always
//! full, leaves that may be larger than what one entry maps, and a POWER table that is one flat
//! array of millions of entries. So the two kinds of format are two traits.

use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::EncodeError;
use crate::rights::Access;

pub mod amdvi;
pub mod smmu;
pub mod tce;
pub mod vtd;
pub mod zpci;

pub mod any;

/// The most levels that any format has.
pub const MAX_IO_LEVELS: usize = 6;

/// One table in memory. All entries exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IoTable {
    /// Physical address of entry 0.
    pub base: PhysAddr,
    /// What one entry maps.
    pub shift: PageShift,
    /// Address bits that index it: it has `1 << bits` entries. No format has more than 31.
    pub bits: u8,
}

impl IoTable {
    /// How many entries it has.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        1 << if self.bits < 31 { self.bits } else { 31 }
    }

    /// The index of `iova` in this table.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 31 bits")]
    pub const fn index(&self, iova: Iova) -> u32 {
        (iova.raw() >> self.shift.raw()) as u32 & (self.entries() - 1)
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.entries() as u64 * 8
    }
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoEntry {
    /// Nothing is mapped.
    Absent,
    /// The next table, and the most that anything below may grant.
    Table(IoTable, Access),
    /// A page.
    Leaf(IoLeaf),
    /// A reserved bit is set, or a leaf stands where there can be none.
    Malformed,
}

/// A page that a device may use.
///
/// It may be larger than what one entry of its table maps. Then it takes as many entries as it needs,
/// the first of them at a multiple of that number, and each of them decodes to the whole page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoLeaf {
    /// First byte of the page.
    pub addr: PhysAddr,
    /// Size of the page.
    pub shift: PageShift,
    /// What the device may do.
    pub access: Access,
    /// Marks.
    pub flags: IoFlags,
}

impl IoLeaf {
    /// A page without marks.
    #[must_use]
    pub const fn new(addr: PhysAddr, shift: PageShift, access: Access) -> Self {
        Self { addr, shift, access, flags: IoFlags::empty() }
    }

    /// How many entries of a table it takes.
    #[must_use]
    pub const fn entries(&self, at: &IoTable) -> u64 {
        1 << self.shift.raw().saturating_sub(at.shift.raw())
    }
}

bitflags::bitflags! {
    /// Marks of a leaf beside what it grants.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct IoFlags: u8 {
        /// A device used the page.
        const ACCESSED = 1;
        /// A device wrote to the page.
        const DIRTY = 2;
        /// Accesses look into the CPU's caches whatever the device asks for.
        const SNOOP = 4;
        /// The page holds registers and no memory: nothing of it may be cached or merged.
        const DEVICE = 8;
    }
}

/// The sizes of leaves that entries of a table can be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeafSizes(u64);

impl LeafSizes {
    /// None: the entries of this table only point to others.
    pub const NONE: Self = Self(0);

    /// This size beside the others.
    #[must_use]
    pub const fn with(self, shift: PageShift) -> Self {
        Self(self.0 | 1 << shift.raw())
    }

    /// Every size from `least` to `most`; none where that is smaller.
    #[must_use]
    pub const fn between(least: PageShift, most: PageShift) -> Self {
        Self(u64::MAX << least.raw() & u64::MAX >> (63 - most.raw()))
    }

    /// Whether a leaf can have this size.
    #[must_use]
    pub const fn contains(self, shift: PageShift) -> bool {
        self.0 >> shift.raw() & 1 == 1
    }

    /// The smallest that is above `shift`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    pub const fn above(self, shift: PageShift) -> Option<PageShift> {
        let larger = self.0 & u64::MAX.wrapping_shl(1 + shift.raw() as u32);
        if larger == 0 || shift.raw() == 63 {
            None
        } else {
            PageShift::new(larger.trailing_zeros() as u8)
        }
    }

    /// The largest that is not above `most`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below 64")]
    pub const fn at_most(self, most: PageShift) -> Option<PageShift> {
        let fitting = self.0 & (u64::MAX >> (63 - most.raw()));
        if fitting == 0 { None } else { PageShift::new(63 - fitting.leading_zeros() as u8) }
    }
}

/// An IOMMU's table format: pure functions on entry values.
///
/// An entry is a `u64` in host order; whoever loads or stores it converts once, see
/// [`big_endian`](Self::big_endian).
pub trait IoFormat: Copy {
    /// Name for people, such as `VT-d`.
    fn name(&self) -> &'static str;

    /// Whether entries stand in memory most significant byte first.
    fn big_endian(&self) -> bool;

    /// The smallest page.
    fn base(&self) -> PageShift;

    /// The last address that the tables translate; the first is 0.
    fn last(&self) -> Iova;

    /// The top table with entry 0 at `base`, which is not checked.
    fn top(&self, base: PhysAddr) -> IoTable;

    /// How many levels of tables there are.
    fn levels(&self) -> u8;

    /// The same format with so many levels, where it can have them; with as many as it has, always.
    ///
    /// The lower tables stay what they are, in shape and in meaning: behind entry 0 of a taller one's top
    /// table, through as many tables as it has more, stands the top table of this one. The default is
    /// for formats whose windows have one size.
    fn with_levels(&self, levels: u8) -> Option<Self> {
        (levels == self.levels()).then_some(*self)
    }

    /// The table with entry 0 at `base` that an entry of `at` can point to; `None` where entries of
    /// `at` point to none.
    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable>;

    /// The sizes of leaves that entries of `at` can be.
    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes;

    /// What the entry `raw`, found in table `at`, says.
    ///
    /// Total: every `raw` and every table give an answer. A [`IoEntry::Table`] always has a smaller
    /// `shift` than `at`. An absent entry has room: the value of one, with the address of any table of
    /// this shape put into it, is still absent, and the two share no bit.
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry;

    /// The value of entry `index` of table `at` that decodes to `entry`. The index counts only for
    /// a leaf that takes several entries.
    ///
    /// # Errors
    /// [`EncodeError`] where the format cannot say it. So a request that a format has no entry for,
    /// such as one to write and not to read, is refused and never widened.
    fn encode(&self, at: &IoTable, index: u32, entry: IoEntry) -> Result<u64, EncodeError>;

    /// Bits of a leaf of table `at` that are bits of its address, each at its own place, so that the
    /// leaf behind it is this one plus its size. 0 where that is not so.
    fn address_bits(&self, at: &IoTable) -> u64;

    /// The bits that a device's accesses set in a leaf by themselves and that say nothing else. Where
    /// dirty pages are marked by a bit that is also a right, it is not among them.
    fn volatile_bits(&self) -> u64;

    /// Whether a leaf in use may become another one of the same size, in one store to each of its entries:
    /// devices find the one or the other. Arm's rule is otherwise: break before make (DDI 0487, D8.16).
    fn replaces(&self) -> bool {
        true
    }

    /// Whether a leaf in use that takes one entry may give way, in one store, to a table of smaller
    /// leaves that say the same: devices go on using it, and find the one or the other. False, the
    /// default, is always right.
    fn splits(&self) -> bool {
        false
    }
}

/// What two bits of an entry grant.
#[inline]
fn granted(raw: u64, read: u64, write: u64) -> Access {
    let mut access = Access::empty();
    access.set(Access::READ, raw & read != 0);
    access.set(Access::WRITE, raw & write != 0);
    access
}

/// The two bits that grant this.
#[inline]
fn granting(access: Access, read: u64, write: u64) -> Result<u64, EncodeError> {
    if Access::from_bits(access.bits()).is_none() {
        return Err(EncodeError::Access { access });
    }
    let read = if access.contains(Access::READ) { read } else { 0 };
    Ok(read | if access.contains(Access::WRITE) { write } else { 0 })
}

/// Where a leaf has its marks: one bit each, 0 for a mark that it cannot have.
#[derive(Clone, Copy)]
struct Marks {
    accessed: u64,
    dirty: u64,
    snoop: u64,
}

impl Marks {
    /// Those that a device's accesses set.
    const fn volatile(self) -> u64 {
        self.accessed | self.dirty
    }

    /// The marks in a leaf.
    #[inline]
    fn of(self, raw: u64) -> IoFlags {
        let mut flags = IoFlags::empty();
        flags.set(IoFlags::ACCESSED, raw & self.accessed != 0);
        flags.set(IoFlags::DIRTY, raw & self.dirty != 0);
        flags.set(IoFlags::SNOOP, raw & self.snoop != 0);
        flags
    }

    /// The bits of these marks, if the leaf can have them all.
    #[inline(always)]
    fn place(self, flags: IoFlags) -> Result<u64, EncodeError> {
        if flags.is_empty() {
            return Ok(0);
        }
        let bit = |flag, bit| if flags.contains(flag) { bit } else { 0 };
        let raw = bit(IoFlags::ACCESSED, self.accessed)
            | bit(IoFlags::DIRTY, self.dirty)
            | bit(IoFlags::SNOOP, self.snoop);
        if self.of(raw) == flags { Ok(raw) } else { Err(EncodeError::Attributes) }
    }
}
