//! Stage 2: what a hypervisor builds for a guest.

use super::{
    ACCESS_FLAG, CONTIGUOUS, DIRTY_BIT_MODIFIER, Granule, Kind, Layout, PLAIN_BITS, output_bits,
};
use crate::addr::{AddrRange, PageShift, PhysAddr};
use crate::format::{
    EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table,
};
use crate::rights::Rights;

/// MemAttr starts here.
const MEMORY: u32 = 2;
const MEMORY_TYPES: u8 = 16;
/// S2AP.
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
/// XN\[1\]: no execution by unprivileged code, unless XN\[0\] turns it around for privileged code.
const NO_EXECUTE: u64 = 1 << 54;
/// How many bits more than a full table has may index the top: 16 tables in a row.
const CONCATENATED: u8 = 4;
const VTCR_HARDWARE_ACCESS: u64 = 1 << 21;
const VTCR_HARDWARE_DIRTY: u64 = 1 << 22;
const VTCR_WIDE: u64 = 1 << 32;
const VTCR_SL2: u64 = 1 << 33;

/// The aarch64 stage-2 format: page size, widths, where a walk starts, and who keeps the marks.
///
/// Addresses in it are the guest's physical ones. Its entries grant rights to the guest as a whole,
/// so whatever grants any right grants USER; tables take none away. EXECUTE is unprivileged code's,
/// and nothing is executed that cannot be read (D8.4, "Stage 2 permissions"). Also ignored here: bits
/// 53 (execution by privileged code) and 11 (whether barriers wait for it).
///
/// ```
/// use pinfold_arch::{Aarch64Stage2, Granule};
///
/// // 40 bits: two concatenated tables of 1 GiB entries, no level above them.
/// let format = Aarch64Stage2::new(Granule::Size4K, 40, 44)?;
/// assert_eq!(format.root(0x8000_2000)?.entries(), 1024);
/// # Ok::<(), pinfold_arch::FormatError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aarch64Stage2 {
    layout: Layout,
    hardware_access: bool,
    hardware_dirty: bool,
}

impl Aarch64Stage2 {
    /// The format with pages of `granule`, for guest addresses of `ipa_bits` (64 - VTCR.T0SZ: 16,
    /// with 64K pages 17, to 52) and physical addresses of `pa_bits` (32 to 52), both widths in
    /// bits. The top is as many as 16 concatenated tables, which saves a level where that is
    /// enough. More than 48 bits of either bring the descriptors with 52-bit addresses. Hardware sets
    /// the access flag and keeps no dirty state.
    ///
    /// # Errors
    /// [`FormatError::AddressBits`], [`FormatError::PhysBits`]; [`FormatError::RootSize`] with 64K pages
    /// and 33 or 46 bits, for which the top would have more entries than an index of 16 bits names.
    pub const fn new(granule: Granule, ipa_bits: u8, pa_bits: u8) -> Result<Self, FormatError> {
        let ds = ipa_bits > PLAIN_BITS || pa_bits > PLAIN_BITS;
        match Layout::new(granule, ipa_bits, pa_bits, ds, CONCATENATED) {
            Ok(layout) => Ok(Self { layout, hardware_access: true, hardware_dirty: false }),
            Err(error) => Err(error),
        }
    }

    /// The format by the value of VTCR_EL2. `pa_bits` is what the CPU has
    /// (ID_AA64MMFR0_EL1.PARange); VTCR.PS may say less.
    ///
    /// # Errors
    /// [`FormatError::Control`] if the granule or the starting level (SL0, SL2) is reserved,
    /// [`FormatError::AddressBits`] for a T0SZ that the granule does not have,
    /// [`FormatError::RootSize`] for one that does not fit the starting level,
    /// [`FormatError::PhysBits`].
    pub const fn from_vtcr(vtcr: u64, pa_bits: u8) -> Result<Self, FormatError> {
        let ds = vtcr & VTCR_WIDE != 0;
        let Some(granule) = Granule::from_tg0(vtcr >> 14) else {
            return Err(FormatError::Control { raw: vtcr });
        };
        // D8.2, tables of SL0 and SL2: levels between the top and the pages.
        let sl0 = (vtcr >> 6 & 3) as u8;
        let above = match (granule, sl0, ds && vtcr & VTCR_SL2 != 0) {
            (Granule::Size4K, 0, true) => 4,
            (Granule::Size4K, 3, false) => 0,
            (Granule::Size4K, _, false) => sl0 + 1,
            (Granule::Size16K, 3, false) if ds => 3,
            (Granule::Size16K | Granule::Size64K, 0..=2, false) => sl0,
            _ => return Err(FormatError::Control { raw: vtcr }),
        };
        let limit = output_bits(vtcr >> 16);
        let pa_bits = if pa_bits < limit { pa_bits } else { limit };
        let ipa_bits = 64 - (vtcr & 0x3f) as u8;
        let top = granule.page() + granule.stride() * above;
        if ipa_bits > top + granule.stride() + CONCATENATED {
            return Err(FormatError::RootSize { bits: ipa_bits - top, space: ipa_bits });
        }
        match Layout::with_top(granule, ipa_bits, pa_bits, ds, top) {
            Ok(layout) => Ok(Self {
                layout,
                hardware_access: vtcr & VTCR_HARDWARE_ACCESS != 0,
                hardware_dirty: vtcr & VTCR_HARDWARE_DIRTY != 0 && vtcr & VTCR_HARDWARE_ACCESS != 0,
            }),
            Err(error) => Err(error),
        }
    }

    /// Whether hardware sets the access flag (VTCR.HA); see [`Aarch64::with_hardware_access`].
    ///
    /// [`Aarch64::with_hardware_access`]: super::Aarch64::with_hardware_access
    #[must_use]
    pub const fn with_hardware_access(mut self, on: bool) -> Self {
        self.hardware_access = on;
        self.hardware_dirty &= on;
        self
    }

    /// Whether hardware keeps the dirty state (VTCR.HD, and VTCR.HA with it): a store to a page that
    /// has DBM makes it writable. So a page that has only DBM is writable and clean.
    #[must_use]
    pub const fn with_hardware_dirty(mut self, on: bool) -> Self {
        self.hardware_dirty = on;
        self.hardware_access |= on;
        self
    }

    /// The top table from the value of VTTBR_EL2: all of the concatenated ones. VMID and CnP are
    /// dropped.
    ///
    /// # Errors
    /// [`FormatError::Root`] if the table is not aligned to its size or above the physical width.
    pub const fn root(&self, vttbr: u64) -> Result<Table, FormatError> {
        self.layout.root_of(vttbr)
    }

    fn leaf_of(&self, raw: u64, addr: PhysAddr, shift: PageShift) -> Leaf {
        let accessed = raw & ACCESS_FLAG != 0;
        let stored = raw & WRITE != 0;
        let lifted = self.hardware_dirty && raw & DIRTY_BIT_MODIFIER != 0;
        let mut rights = Rights::empty();
        if accessed || self.hardware_access {
            let read = raw & READ != 0;
            rights.set(Rights::READ, read);
            rights.set(Rights::WRITE, stored || lifted);
            rights.set(Rights::EXECUTE, read && raw & NO_EXECUTE == 0);
            rights.set(Rights::USER, !rights.is_empty());
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::ACCESSED, accessed);
        flags.set(LeafFlags::DIRTY, stored && self.hardware_dirty);
        flags.set(LeafFlags::CONTIGUOUS, raw & CONTIGUOUS != 0);
        let memory = (raw >> MEMORY & 0xf) as u8;
        Leaf { addr, shift, rights, flags, memory, key: 0, encryption: 0 }
    }

    fn leaf_bits(&self, leaf: &Leaf) -> Result<u64, EncodeError> {
        let Leaf { rights, flags, .. } = *leaf;
        let accessed = flags.contains(LeafFlags::ACCESSED);
        let (read, write) = (rights.contains(Rights::READ), rights.contains(Rights::WRITE));
        let execute = rights.contains(Rights::EXECUTE);
        let known = Rights::from_bits(rights.bits()).is_some();
        let granted = rights.is_empty()
            || (rights.contains(Rights::USER)
                && (read || (write && !execute))
                && (accessed || self.hardware_access));
        if !known || !granted {
            return Err(EncodeError::Rights { rights });
        }
        let dirty = flags.contains(LeafFlags::DIRTY);
        let marks = self.flags().contains(flags) && (write || !dirty);
        if !marks || leaf.memory >= MEMORY_TYPES || leaf.key != 0 || leaf.encryption != 0 {
            return Err(EncodeError::Attributes);
        }
        let tracked = write && self.hardware_dirty;
        let mut raw = u64::from(leaf.memory) << MEMORY;
        for (set, bit) in [
            (read, READ),
            (write && (dirty || !tracked), WRITE),
            (tracked, DIRTY_BIT_MODIFIER),
            (!execute, NO_EXECUTE),
            (accessed, ACCESS_FLAG),
            (flags.contains(LeafFlags::CONTIGUOUS), CONTIGUOUS),
        ] {
            raw |= if set { bit } else { 0 };
        }
        Ok(raw)
    }
}

impl PageFormat for Aarch64Stage2 {
    fn name(&self) -> &'static str {
        "aarch64-stage2"
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        self.layout.granule.shift()
    }

    fn valid(&self, range: &AddrRange) -> bool {
        self.layout.inside(range, 64, false)
    }

    #[inline]
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        match self.layout.read(at, raw) {
            Kind::Absent => Entry::Absent,
            Kind::Malformed => Entry::Malformed,
            Kind::Table(next) => Entry::Table(next, Rights::all()),
            Kind::Leaf(addr) => Entry::Leaf(self.leaf_of(raw, addr, at.shift)),
        }
    }

    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        match entry {
            Entry::Absent => Ok(0),
            Entry::Malformed => Err(EncodeError::Malformed),
            Entry::Table(next, rights) => {
                if rights != Rights::all() {
                    return Err(EncodeError::Rights { rights });
                }
                self.layout.write_table(at, &next)
            }
            Entry::Leaf(leaf) => {
                Ok(self.layout.write_leaf(at, leaf.addr, leaf.shift)? | self.leaf_bits(&leaf)?)
            }
        }
    }

    fn address_bits(&self, at: &Table) -> u64 {
        self.layout.in_place(at.shift)
    }

    // Not S2AP[1], which hardware sets to mark a page as dirty: without DBM it is the owner's.
    fn volatile_bits(&self) -> u64 {
        if self.hardware_access { ACCESS_FLAG } else { 0 }
    }
}

impl Geometry for Aarch64Stage2 {
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
        let marks = LeafFlags::ACCESSED | LeafFlags::CONTIGUOUS;
        if self.hardware_dirty { marks | LeafFlags::DIRTY } else { marks }
    }
}
