//! Stage 1: what an operating system builds for itself and its processes.

use super::{
    ACCESS_FLAG, CONTIGUOUS, DIRTY_BIT_MODIFIER, Granule, Kind, Layout, PLAIN_BITS, output_bits,
};
use crate::addr::{AddrRange, PageShift, PhysAddr};
use crate::format::{
    EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table,
};
use crate::rights::Rights;

/// AttrIndx, which names a byte of MAIR, starts here.
const MEMORY: u32 = 2;
const MEMORY_TYPES: u8 = 8;
/// AP\[1\]: unprivileged code may load and store.
const UNPRIVILEGED: u64 = 1 << 6;
/// AP\[2\].
const READ_ONLY: u64 = 1 << 7;
const NOT_GLOBAL: u64 = 1 << 11;
const PRIVILEGED_NO_EXECUTE: u64 = 1 << 53;
const NO_EXECUTE: u64 = 1 << 54;
/// The same of an entry that points to a table: PXNTable, UXNTable and APTable.
const TABLE_PRIVILEGED_NO_EXECUTE: u64 = 1 << 59;
const TABLE_NO_EXECUTE: u64 = 1 << 60;
const TABLE_NO_UNPRIVILEGED: u64 = 1 << 61;
const TABLE_READ_ONLY: u64 = 1 << 62;
/// TCR: both halves have their fields in the same order, the upper one this much higher.
const UPPER_FIELDS: u32 = 16;
const TCR_HARDWARE_ACCESS: u64 = 1 << 39;
const TCR_HARDWARE_DIRTY: u64 = 1 << 40;
const TCR_WIDE: u64 = 1 << 59;

/// The aarch64 stage-1 format: page size, widths, half, and who keeps the marks.
///
/// Made by [`new`](Self::new) or from TCR by [`from_tcr`](Self::from_tcr); the setters return a
/// changed value. Indirect permissions (FEAT_S1PIE) give AP and the XN bits another meaning and are
/// not known here; systems that use them keep encodings with which the bits are right as they stand.
///
/// [`Rights`] have one EXECUTE where hardware has two: it is unprivileged code's in an entry with
/// USER, privileged code's otherwise. So a page that unprivileged code may only execute is one
/// without USER, and what a table takes from unprivileged code alone is not granted to privileged
/// code below it either.
///
/// ```
/// use pinfold_arch::{Aarch64, Granule};
///
/// // A kernel with 16 KiB pages and 52-bit addresses: its top table has 32 entries.
/// let format = Aarch64::new(Granule::Size16K, 52, 52)?;
/// assert_eq!(format.root(0x4123_4c01)?.entries(), 32);
/// # Ok::<(), pinfold_arch::FormatError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aarch64 {
    layout: Layout,
    upper: bool,
    tags: bool,
    hardware_access: bool,
    hardware_dirty: bool,
    table_rights: bool,
}

impl Aarch64 {
    /// The format with pages of `granule`, for the lower half of `va_bits` (64 - TCR.T0SZ: 16, with
    /// 64K pages 17, to 52) and physical addresses of `pa_bits` (32 to 52), both widths in bits.
    /// More than 48 of either bring the descriptors with 52-bit addresses. Hardware sets the access
    /// flag and keeps no dirty state, tables take rights away, and there are no tags.
    ///
    /// # Errors
    /// [`FormatError::AddressBits`], [`FormatError::PhysBits`].
    pub const fn new(granule: Granule, va_bits: u8, pa_bits: u8) -> Result<Self, FormatError> {
        let ds = va_bits > PLAIN_BITS || pa_bits > PLAIN_BITS;
        match Layout::new(granule, va_bits, pa_bits, ds, 0) {
            Ok(layout) => Ok(Self {
                layout,
                upper: false,
                tags: false,
                hardware_access: true,
                hardware_dirty: false,
                table_rights: true,
            }),
            Err(error) => Err(error),
        }
    }

    /// The format of the lower half (TTBR0) or the `upper` one (TTBR1) by the value of TCR_EL1, or
    /// of TCR_EL2 where it has the same layout (HCR_EL2.E2H). `pa_bits` is what the CPU has
    /// (ID_AA64MMFR0_EL1.PARange); TCR.IPS may say less.
    ///
    /// # Errors
    /// [`FormatError::Control`] if there are no walks in that half (EPDn) or the granule is reserved,
    /// [`FormatError::AddressBits`] for a TnSZ that the granule does not have,
    /// [`FormatError::PhysBits`].
    pub const fn from_tcr(tcr: u64, upper: bool, pa_bits: u8) -> Result<Self, FormatError> {
        let half = if upper { tcr >> UPPER_FIELDS } else { tcr };
        let granule =
            if upper { Granule::from_tg1(half >> 14) } else { Granule::from_tg0(half >> 14) };
        let (Some(granule), true) = (granule, half & 1 << 7 == 0) else {
            return Err(FormatError::Control { raw: tcr });
        };
        let limit = output_bits(tcr >> 32);
        let pa_bits = if pa_bits < limit { pa_bits } else { limit };
        let size = 64 - (half & 0x3f) as u8;
        let layout = match Layout::new(granule, size, pa_bits, tcr & TCR_WIDE != 0, 0) {
            Ok(layout) => layout,
            Err(error) => return Err(error),
        };
        // TBI0 and HPD0; those of the upper half are one bit higher.
        let second = tcr >> upper as u32;
        Ok(Self {
            layout,
            upper,
            tags: second & 1 << 37 != 0,
            hardware_access: tcr & TCR_HARDWARE_ACCESS != 0,
            hardware_dirty: tcr & TCR_HARDWARE_DIRTY != 0 && tcr & TCR_HARDWARE_ACCESS != 0,
            table_rights: second & 1 << 41 == 0,
        })
    }

    /// Whether it translates the upper half of the address space: what TTBR1 is for.
    #[must_use]
    pub const fn with_upper(mut self, on: bool) -> Self {
        self.upper = on;
        self
    }

    /// Whether the top byte of an address is not translated (TCR.TBIn).
    #[must_use]
    pub const fn with_tags(mut self, on: bool) -> Self {
        self.tags = on;
        self
    }

    /// Whether hardware sets the access flag (TCR.HA). Where it does not, an access to a page without
    /// it faults, so such a page grants nothing; and there is no dirty state either.
    #[must_use]
    pub const fn with_hardware_access(mut self, on: bool) -> Self {
        self.hardware_access = on;
        self.hardware_dirty &= on;
        self
    }

    /// Whether hardware keeps the dirty state (TCR.HD, and TCR.HA with it): a store to a page that is
    /// read-only, but has DBM, makes it writable. So such a page is writable and clean.
    #[must_use]
    pub const fn with_hardware_dirty(mut self, on: bool) -> Self {
        self.hardware_dirty = on;
        self.hardware_access |= on;
        self
    }

    /// Whether entries that point to a table can take rights away (not TCR.HPDn).
    #[must_use]
    pub const fn with_table_rights(mut self, on: bool) -> Self {
        self.table_rights = on;
        self
    }

    /// The top table from the value of TTBR0 or TTBR1. ASID and CnP are dropped. It may be smaller
    /// than a page, and stand anywhere in one.
    ///
    /// # Errors
    /// [`FormatError::Root`] if the table is not aligned to its size or above the physical width.
    pub const fn root(&self, ttbr: u64) -> Result<Table, FormatError> {
        self.layout.root_of(ttbr)
    }

    fn rights_of_table(&self, raw: u64) -> Rights {
        if !self.table_rights {
            return Rights::all();
        }
        let user = raw & TABLE_NO_UNPRIVILEGED == 0;
        let no_execute = if user { TABLE_NO_EXECUTE } else { TABLE_PRIVILEGED_NO_EXECUTE };
        let mut rights = Rights::READ;
        rights.set(Rights::USER, user);
        rights.set(Rights::WRITE, raw & TABLE_READ_ONLY == 0);
        rights.set(Rights::EXECUTE, raw & no_execute == 0);
        rights
    }

    fn table_rights(&self, rights: Rights) -> Result<u64, EncodeError> {
        let known = Rights::from_bits(rights.bits()).is_some();
        let all = known && rights == Rights::all();
        if !known || !rights.contains(Rights::READ) || (!self.table_rights && !all) {
            return Err(EncodeError::Rights { rights });
        }
        let user = rights.contains(Rights::USER);
        let execute = rights.contains(Rights::EXECUTE);
        let mut raw = 0;
        for (set, bit) in [
            (!user, TABLE_NO_UNPRIVILEGED),
            (!rights.contains(Rights::WRITE), TABLE_READ_ONLY),
            (!(execute && user), TABLE_NO_EXECUTE),
            (!execute, TABLE_PRIVILEGED_NO_EXECUTE),
        ] {
            raw |= if set { bit } else { 0 };
        }
        Ok(raw)
    }

    fn leaf_of(&self, raw: u64, addr: PhysAddr, shift: PageShift) -> Leaf {
        let user = raw & UNPRIVILEGED != 0;
        let stored = raw & READ_ONLY == 0;
        let no_execute = if user { NO_EXECUTE } else { PRIVILEGED_NO_EXECUTE };
        let accessed = raw & ACCESS_FLAG != 0;
        let mut rights = Rights::READ;
        rights.set(Rights::USER, user);
        let lifted = self.hardware_dirty && raw & DIRTY_BIT_MODIFIER != 0;
        rights.set(Rights::WRITE, stored || lifted);
        rights.set(Rights::EXECUTE, raw & no_execute == 0);
        if !accessed && !self.hardware_access {
            rights = Rights::empty();
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::ACCESSED, accessed);
        // A page that was always writable has no clean state.
        flags.set(LeafFlags::DIRTY, stored && self.hardware_dirty);
        flags.set(LeafFlags::GLOBAL, raw & NOT_GLOBAL == 0);
        flags.set(LeafFlags::CONTIGUOUS, raw & CONTIGUOUS != 0);
        let memory = (raw >> MEMORY & 7) as u8;
        Leaf { addr, shift, rights, flags, memory, key: 0, encryption: 0 }
    }

    fn leaf_bits(&self, leaf: &Leaf) -> Result<u64, EncodeError> {
        let Leaf { rights, flags, .. } = *leaf;
        let accessed = flags.contains(LeafFlags::ACCESSED);
        let known = Rights::from_bits(rights.bits()).is_some();
        let granted = if accessed || self.hardware_access {
            rights.contains(Rights::READ)
        } else {
            rights.is_empty()
        };
        if !known || !granted {
            return Err(EncodeError::Rights { rights });
        }
        let write = rights.contains(Rights::WRITE);
        let dirty = flags.contains(LeafFlags::DIRTY);
        let marks = self.flags().contains(flags) && (write || !dirty);
        if !marks || leaf.memory >= MEMORY_TYPES || leaf.key != 0 || leaf.encryption != 0 {
            return Err(EncodeError::Attributes);
        }
        let user = rights.contains(Rights::USER);
        let execute = rights.contains(Rights::EXECUTE);
        let tracked = write && self.hardware_dirty;
        let mut raw = u64::from(leaf.memory) << MEMORY;
        for (set, bit) in [
            (user, UNPRIVILEGED),
            (!write || (tracked && !dirty), READ_ONLY),
            (tracked, DIRTY_BIT_MODIFIER),
            (!(execute && user), NO_EXECUTE),
            (!execute || user, PRIVILEGED_NO_EXECUTE),
            (accessed, ACCESS_FLAG),
            (!flags.contains(LeafFlags::GLOBAL), NOT_GLOBAL),
            (flags.contains(LeafFlags::CONTIGUOUS), CONTIGUOUS),
        ] {
            raw |= if set { bit } else { 0 };
        }
        Ok(raw)
    }
}

impl PageFormat for Aarch64 {
    fn name(&self) -> &'static str {
        "aarch64"
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        self.layout.granule.shift()
    }

    fn valid(&self, range: &AddrRange) -> bool {
        self.layout.inside(range, if self.tags { 56 } else { 64 }, self.upper)
    }

    #[inline]
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        match self.layout.read(at, raw) {
            Kind::Absent => Entry::Absent,
            Kind::Malformed => Entry::Malformed,
            Kind::Table(next) => Entry::Table(next, self.rights_of_table(raw)),
            Kind::Leaf(addr) => Entry::Leaf(self.leaf_of(raw, addr, at.shift)),
        }
    }

    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        match entry {
            Entry::Absent => Ok(0),
            Entry::Malformed => Err(EncodeError::Malformed),
            Entry::Table(next, rights) => {
                Ok(self.layout.write_table(at, &next)? | self.table_rights(rights)?)
            }
            Entry::Leaf(leaf) => {
                Ok(self.layout.write_leaf(at, leaf.addr, leaf.shift)? | self.leaf_bits(&leaf)?)
            }
        }
    }

    fn address_bits(&self, at: &Table) -> u64 {
        self.layout.in_place(at.shift)
    }

    // Hardware clears AP[2] when it marks a page as dirty, but that bit means read-only in an entry
    // without DBM, so a change of it counts: it costs the first store to a clean page one more try.
    fn volatile_bits(&self) -> u64 {
        if self.hardware_access { ACCESS_FLAG } else { 0 }
    }
}

impl Geometry for Aarch64 {
    fn top(&self, base: PhysAddr) -> Table {
        self.layout.root(base)
    }

    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        self.layout.below(at, base)
    }

    fn leaf_at(&self, at: &Table) -> bool {
        self.layout.leaf(at.shift)
    }

    fn flags(&self) -> LeafFlags {
        let marks = LeafFlags::ACCESSED | LeafFlags::GLOBAL | LeafFlags::CONTIGUOUS;
        if self.hardware_dirty { marks | LeafFlags::DIRTY } else { marks }
    }
}
