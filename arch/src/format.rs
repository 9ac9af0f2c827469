//! What a page-table format is.
//!
//! Geometry travels with the table, not with the format: s390 has tables of 11 and of 8 index
//! bits, POWER radix writes the next table's width into each directory entry, and a 16 KiB granule
//! with 48-bit addresses starts with a one-bit level. So [`Table`] says how wide it is, `decode`
//! gets the table an entry was found in, and a walker assumes nothing about levels.

use crate::addr::{AddrRange, PageShift, PhysAddr, VirtAddr};
use crate::rights::{Access, Rights};

pub mod aarch64;
pub mod power_radix;
pub mod s390x;
pub mod x86_64;

pub mod any;

/// The most levels that any format has; a walker's stack is this deep.
pub const MAX_LEVELS: usize = 6;

/// One table in memory and its geometry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Table {
    /// Physical address of entry 0.
    pub base: PhysAddr,
    /// What one entry maps.
    pub shift: PageShift,
    /// Address bits that index it: the table would be full with `1 << bits` entries. No format has
    /// more than 16; a larger value counts as 16.
    pub bits: u8,
    /// First entry that exists.
    pub first: u16,
    /// Last entry that exists.
    pub last: u16,
}

impl Table {
    /// The index of `va` in this table, whether or not such an entry exists.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 16 bits")]
    pub const fn index(&self, va: VirtAddr) -> u16 {
        let bits = if self.bits < 16 { self.bits } else { 16 };
        ((va.raw() >> self.shift.raw()) & ((1 << bits) - 1)) as u16
    }

    /// Whether an entry with this index exists.
    #[must_use]
    pub const fn has(&self, index: u16) -> bool {
        self.first <= index && index <= self.last
    }

    /// Entries that a view of the table needs, from entry 0 to the last one.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.last as usize + 1
    }
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing is mapped; the other bits are the owner's (a swap slot, an inverted frame number).
    Absent,
    /// The next table, and the most that anything below may grant.
    Table(Table, Rights),
    /// A page.
    Leaf(Leaf),
    /// A reserved bit is set, or a leaf stands where there can be none.
    Malformed,
}

/// A mapped page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First byte of the page.
    pub addr: PhysAddr,
    /// Size of the page.
    pub shift: PageShift,
    /// What this entry grants.
    pub rights: Rights,
    /// Marks that hardware keeps.
    pub flags: LeafFlags,
    /// The memory-type index, in the format's own numbering (x86: the PAT index, 0 to 7).
    pub memory: u8,
    /// The protection key, which names a register that narrows the rights further (x86: bits 62:59
    /// where CR4.PKE is set); 0 where the format has none.
    pub key: u8,
    /// The key that memory is encrypted with: the value of the address bits that are configured for
    /// it. On AMD CPUs 1 is encrypted, on Intel's it is the KeyID; 0 where the format has none.
    pub encryption: u16,
}

impl Leaf {
    /// A page without marks and keys, of memory type 0.
    #[must_use]
    pub const fn new(addr: PhysAddr, shift: PageShift, rights: Rights) -> Self {
        Self { addr, shift, rights, flags: LeafFlags::empty(), memory: 0, key: 0, encryption: 0 }
    }
}

bitflags::bitflags! {
    /// Marks of a leaf beside rights.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct LeafFlags: u8 {
        /// The CPU used the page.
        const ACCESSED = 1;
        /// The CPU wrote to the page.
        const DIRTY = 2;
        /// The translation is not tied to an address space.
        const GLOBAL = 4;
        /// One of a group of entries that hardware may cache as one larger page. Each stays a page
        /// of its own.
        const CONTIGUOUS = 8;
        /// A shadow stack: only the CPU's call and return instructions write it.
        const SHADOW_STACK = 16;
    }
}

/// A page-table format: pure functions on entry values.
///
/// An entry is a `u64` in host order; whoever loads it converts once, see
/// [`big_endian`](Self::big_endian). A format of your own works like the built-in ones.
pub trait PageFormat: Copy {
    /// Name for people, such as `x86_64`.
    fn name(&self) -> &'static str;

    /// Whether entries stand in memory most significant byte first.
    fn big_endian(&self) -> bool;

    /// The base page size.
    fn base(&self) -> PageShift;

    /// Whether every address of the range can be translated at all (on x86: is canonical, and on
    /// one side of the hole).
    fn valid(&self, range: &AddrRange) -> bool;

    /// What the entry `raw`, found in table `at`, says.
    ///
    /// Total: every `raw` and every table give an answer. A [`Entry::Table`] always has a smaller
    /// `shift` than `at`, so a walk ends whatever the tables hold.
    fn decode(&self, at: &Table, raw: u64) -> Entry;

    /// The entry value for table `at` that decodes to `entry`.
    ///
    /// # Errors
    /// [`EncodeError`] where the format cannot say it.
    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError>;

    /// Bits of a leaf of table `at` that are bits of its address, each at its own place: entries that
    /// differ in nothing else decode to pages that differ in nothing but these address bits. So a
    /// walker need not decode the second. 0, the default, is always right and saves nothing.
    fn address_bits(&self, at: &Table) -> u64 {
        let _ = at;
        0
    }

    /// Bits of a leaf that hardware may set by itself while the mapping stays the same (accessed,
    /// dirty). A re-check of leaves ignores them.
    fn volatile_bits(&self) -> u64;
}

/// What a *builder* of tables must know beside their entries: which tables there are.
///
/// Walkers need none of it: they learn the geometry from the entries.
pub trait Geometry: PageFormat {
    /// The top table with entry 0 at `base`. Its address is not checked; for a live root register use
    /// the format's own constructor.
    fn top(&self, base: PhysAddr) -> Table;

    /// The table with entry 0 at `base` that an entry of `at` can point to; `None` where entries of
    /// `at` point to none.
    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table>;

    /// Whether an entry of `at` can be a leaf.
    fn leaf_at(&self, at: &Table) -> bool;

    /// The marks that a leaf of this format can carry.
    fn flags(&self) -> LeafFlags;
}

/// Why a format's configuration or root register was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The number of levels is not one the format has.
    #[error("{levels} levels are not supported")]
    Levels {
        /// As given.
        levels: u8,
    },
    /// The physical address width is outside what the format can hold.
    #[error("a physical address width of {bits} bits is not supported")]
    PhysBits {
        /// As given.
        bits: u8,
    },
    /// The encryption mask is not one field of address bits.
    #[error("{mask:#x} is not a usable field of encryption bits")]
    EncryptionMask {
        /// As given.
        mask: u64,
    },
    /// The base page size is not one that the format has.
    #[error("base pages of size {shift:?} are not supported")]
    BasePage {
        /// As given.
        shift: PageShift,
    },
    /// The top table has a size that does not exist, or that does not fit its address space.
    #[error("a top table of {bits} bits does not fit an address space of {space} bits")]
    RootSize {
        /// Address bits that index it, as given.
        bits: u8,
        /// Address bits that are translated, as given.
        space: u8,
    },
    /// The root names a hash table, or none: there is no tree.
    #[error("root {raw:#x} names no radix tree")]
    NotRadix {
        /// As given.
        raw: u64,
    },
    /// The address space is not translated by tables: addresses in it are real.
    #[error("the address space designated by {asce:#x} is real, not translated")]
    RealSpace {
        /// As given.
        asce: u64,
    },
    /// The addresses that are translated have a width outside what the format can hold.
    #[error("translating addresses of {bits} bits is not supported")]
    AddressBits {
        /// As given.
        bits: u8,
    },
    /// Marks cannot be kept by an IOMMU that walks its tables past the CPUs' caches: what it sets there is
    /// lost where a CPU writes a line of its own back.
    #[error("there are no marks where tables are walked past the caches")]
    IncoherentMarks,
    /// The control register has a reserved value, or says that there are no tables.
    #[error("control register {raw:#x} names no tables")]
    Control {
        /// As given.
        raw: u64,
    },
    /// The root register has reserved bits set.
    #[error("root register {raw:#x} has reserved bits set")]
    Root {
        /// As given.
        raw: u64,
    },
}

/// Why an entry cannot be written in a format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The address does not fit the physical width or is not aligned to the page or table.
    #[error("{addr} is misaligned or too wide")]
    Address {
        /// The address as given.
        addr: PhysAddr,
    },
    /// No leaf of this size exists at this level, or the next table's geometry is not the format's.
    #[error("no entry of size {shift:?} at this level")]
    Size {
        /// The size as given.
        shift: PageShift,
    },
    /// The format cannot express these rights.
    #[error("{rights:?} cannot be expressed")]
    Rights {
        /// The rights as given.
        rights: Rights,
    },
    /// The format cannot express what a device may do.
    #[error("{access:?} cannot be expressed")]
    Access {
        /// As given.
        access: Access,
    },
    /// The format cannot express the flags or the memory type.
    #[error("the flags or the memory type cannot be expressed")]
    Attributes,
    /// [`Entry::Malformed`] has no value.
    #[error("a malformed entry has no encoding")]
    Malformed,
}
