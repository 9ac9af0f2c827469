//! Arm SMMUv3: the tables of either stage, which are a CPU's tables.
//!
//! Source: Arm "System Memory Management Unit Architecture Specification, SMMU architecture version 3" (IHI
//! 0070): section 3.4 (the tables are those of VMSAv8-64), 5.2 (stream table entry), 5.4 (context
//! descriptor), 3.13 (hardware access flag and dirty state). Entries are read and written by [`Aarch64`]
//! and [`Aarch64Stage2`]; what they ignore is ignored here.
//!
//! Devices are unprivileged. A group of entries with the contiguous hint is one leaf that takes as many
//! entries as the group has: all must change together (DDI 0487, D8.7.1). Memory is ordinary
//! write-back memory or, with [`IoFlags::DEVICE`], a device's registers; other types are read as
//! ordinary.

use super::{IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, LeafSizes};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::aarch64::{Aarch64, Aarch64Stage2, Granule};
use crate::format::any::AnyStage;
use crate::format::{
    EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table,
};
use crate::rights::{Access, Rights};

/// Which of the attributes in [`Smmu::MEMORY_ATTRIBUTES`] a leaf of stage 1 has.
const ORDINARY_INDEX: u8 = 1;
const DEVICE_INDEX: u8 = 2;
/// Memory attributes of a leaf of stage 2: write-back, and device memory with early answers.
const ORDINARY: u8 = 0xf;
const DEVICE: u8 = 1;
/// Stream table entry: valid, and what is translated.
const STREAM_VALID: u64 = 1;
const STREAM_STAGE_1: u64 = 5 << 1;
const STREAM_STAGE_2: u64 = 6 << 1;
/// Where it says how context descriptors are fetched: S1CIR, S1COR, S1CSH.
const CONTEXT_FETCH: u32 = 2;
/// EATS: the device may ask for translations and keep them itself.
const ATS: u64 = 1 << 28;
/// SHCFG: shareability as the device says.
const AS_IT_COMES: u64 = 1 << 44;
/// Memory is read through the caches, write-back and inner shareable: IR, OR, SH. Or past them, and
/// outer shareable, as such memory always is.
const CACHED: u64 = 1 | 1 << 2 | 3 << 4;
const UNCACHED: u64 = 2 << 4;
/// Where it is said of tables.
const WALK_1: u32 = 8;
const WALK_2: u32 = 40;
/// Context descriptor: no second root, valid, 64-bit tables, hardware marks, faults are recorded and end
/// the access.
const NO_UPPER_ROOT: u64 = 1 << 30;
const CONTEXT_VALID: u64 = 1 << 31;
const CONTEXT_TABLES_64: u64 = 1 << 41;
const CONTEXT_DIRTY: u64 = 1 << 42;
const CONTEXT_ACCESSED: u64 = 1 << 43;
const CONTEXT_RECORD: u64 = 1 << 45;
const CONTEXT_ABORT: u64 = 1 << 46;
/// Tables of 4K or 16K pages whose entries hold addresses of 52 bits: DS, in the third doubleword.
const CONTEXT_WIDE: u64 = 1 << 58;
/// The same in a stream table entry: in the third doubleword, and S2DS in the fourth.
const STREAM_TABLES_64: u64 = 1 << 51;
const STREAM_DIRTY: u64 = 1 << 55;
const STREAM_ACCESSED: u64 = 1 << 56;
const STREAM_RECORD: u64 = 1 << 58;
const STREAM_WIDE: u64 = 1 << 3;
/// Wider addresses than this bring entries of another form.
const PLAIN_BITS: u8 = 48;

/// The SMMUv3 format: the stage, the granule, the widths, and whether hardware keeps marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Smmu {
    tables: AnyStage,
    granule: Granule,
    bits: u8,
    host_bits: u8,
    coherent: bool,
    marks: bool,
    ats: bool,
    splits: bool,
}

/// What a device is given to use tables, in the doublewords of memory: little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SmmuRoot {
    /// Stage 1: a context descriptor, which a stream table entry points to; see
    /// [`Smmu::stream_of_context`].
    Context([u64; 8]),
    /// Stage 2: a stream table entry.
    Stream([u64; 8]),
}

impl Smmu {
    /// MAIR: the memory attributes that leaves of stage 1 name by their number. 0 is memory without
    /// caches, 1 write-back memory, 2 device memory with early answers.
    pub const MEMORY_ATTRIBUTES: u64 = 0x0004_ff44;

    /// A stream table entry that ends every access with an error and records nothing.
    pub const BLOCKED: [u64; 8] = [STREAM_VALID, 0, 0, 0, 0, 0, 0, 0];

    /// Stage 1 with device addresses of `bits` and host addresses of `host_bits`. Walks are coherent, and
    /// hardware keeps no marks.
    ///
    /// # Errors
    /// Those of [`Aarch64::new`].
    pub fn stage1(granule: Granule, bits: u8, host_bits: u8) -> Result<Self, FormatError> {
        let tables = Aarch64::new(granule, bits, host_bits)?.with_hardware_access(false);
        Ok(Self::of(AnyStage::Aarch64(tables), granule, bits, host_bits))
    }

    /// Stage 2, likewise.
    ///
    /// # Errors
    /// Those of [`Aarch64Stage2::new`].
    pub fn stage2(granule: Granule, bits: u8, host_bits: u8) -> Result<Self, FormatError> {
        let tables = Aarch64Stage2::new(granule, bits, host_bits)?.with_hardware_access(false);
        Ok(Self::of(AnyStage::Aarch64Stage2(tables), granule, bits, host_bits))
    }

    fn of(tables: AnyStage, granule: Granule, bits: u8, host_bits: u8) -> Self {
        Self {
            tables,
            granule,
            bits,
            host_bits,
            coherent: true,
            marks: false,
            ats: false,
            splits: false,
        }
    }

    /// Whether walks look into the CPUs' caches (SMMU_IDR0.COHACC). Where they do not, whoever writes
    /// entries and context descriptors writes the caches back, and there are no marks.
    #[must_use]
    pub const fn with_coherent_walks(mut self, on: bool) -> Self {
        self.coherent = on;
        if on { self } else { self.marking(false) }
    }

    /// Whether hardware keeps accessed and dirty marks (SMMU_IDR0.HTTU is 2).
    ///
    /// # Errors
    /// [`FormatError::IncoherentMarks`].
    pub const fn with_marks(self, on: bool) -> Result<Self, FormatError> {
        if on && !self.coherent {
            return Err(FormatError::IncoherentMarks);
        }
        Ok(self.marking(on))
    }

    const fn marking(mut self, on: bool) -> Self {
        self.tables = match self.tables {
            AnyStage::Aarch64(tables) => {
                AnyStage::Aarch64(tables.with_hardware_access(on).with_hardware_dirty(on))
            }
            AnyStage::Aarch64Stage2(tables) => {
                AnyStage::Aarch64Stage2(tables.with_hardware_access(on).with_hardware_dirty(on))
            }
        };
        self.marks = on;
        self
    }

    /// Whether devices may ask for translations and keep them themselves.
    #[must_use]
    pub const fn with_ats(mut self, on: bool) -> Self {
        self.ats = on;
        self
    }

    /// Whether a block may become a table of smaller ones while it is in use: SMMU_IDR3.BBML is 2
    /// (DDI 0487, FEAT_BBM; IHI 0070, break-before-make). Without that its entry has to be cleared and
    /// the TLB flushed in between.
    #[must_use]
    pub const fn with_bbml2(mut self, on: bool) -> Self {
        self.splits = on;
        self
    }

    /// The descriptor of the tables under `top`. `id` tags what the TLB keeps of them: an ASID in stage 1,
    /// a VMID in stage 2.
    ///
    /// # Errors
    /// [`EncodeError::Address`] if the table is not aligned to its size, or too wide.
    pub fn root(&self, top: PhysAddr, id: u16) -> Result<SmmuRoot, EncodeError> {
        let table = self.top(top);
        let size = table.bytes().max(64);
        if top.raw() & (size - 1) != 0 || top.raw() >> self.host_bits.min(52) != 0 {
            return Err(EncodeError::Address { addr: top });
        }
        let input = u64::from(64 - self.bits);
        let granule = match self.granule {
            Granule::Size4K => 0,
            Granule::Size64K => 1,
            Granule::Size16K => 2,
        };
        let output = match self.host_bits {
            ..=32 => 0_u64,
            33..=36 => 1,
            37..=40 => 2,
            41..=42 => 3,
            43..=44 => 4,
            45..=48 => 5,
            _ => 6,
        };
        let marks = |bits| if self.marks { bits } else { 0 };
        let wide = |bit| if self.is_wide() { bit } else { 0 };
        if self.is_stage1() {
            let word = input
                | granule << 6
                | self.reads() << WALK_1
                | NO_UPPER_ROOT
                | CONTEXT_VALID
                | output << 32
                | CONTEXT_TABLES_64
                | marks(CONTEXT_DIRTY | CONTEXT_ACCESSED)
                | CONTEXT_RECORD
                | CONTEXT_ABORT
                | u64::from(id) << 48;
            let attributes = Self::MEMORY_ATTRIBUTES;
            let third = wide(CONTEXT_WIDE);
            return Ok(SmmuRoot::Context([word, top.raw(), third, attributes, 0, 0, 0, 0]));
        }
        let levels = u64::from(self.levels() - 1);
        // SL0 counts levels down to the pages, with 4K from the one before the last.
        let start = match self.granule {
            Granule::Size4K => levels.checked_sub(1).unwrap_or(3),
            Granule::Size16K | Granule::Size64K => levels,
        };
        let word = u64::from(id)
            | input << 32
            | start << 38
            | self.reads() << WALK_2
            | granule << 46
            | output << 48
            | STREAM_TABLES_64
            | marks(STREAM_DIRTY | STREAM_ACCESSED)
            | STREAM_RECORD;
        let second = AS_IT_COMES | if self.ats { ATS } else { 0 };
        let (first, fourth) = (STREAM_VALID | STREAM_STAGE_2, top.raw() | wide(STREAM_WIDE));
        Ok(SmmuRoot::Stream([first, second, word, fourth, 0, 0, 0, 0]))
    }

    /// The stream table entry that points a device to a context descriptor.
    ///
    /// # Errors
    /// [`EncodeError::Address`] if that is not aligned to its 64 bytes, or too wide.
    pub fn stream_of_context(&self, context: PhysAddr) -> Result<[u64; 8], EncodeError> {
        if context.raw() & 0x3f != 0 || context.raw() >> self.host_bits.min(52) != 0 {
            return Err(EncodeError::Address { addr: context });
        }
        let first = context.raw() | STREAM_VALID | STREAM_STAGE_1;
        let second = self.reads() << CONTEXT_FETCH | AS_IT_COMES | if self.ats { ATS } else { 0 };
        Ok([first, second, 0, 0, 0, 0, 0, 0])
    }

    /// Whether entries hold addresses of 52 bits in the form that has to be switched on.
    fn is_wide(&self) -> bool {
        self.granule != Granule::Size64K && (self.bits > PLAIN_BITS || self.host_bits > PLAIN_BITS)
    }

    /// How hardware reads tables and context descriptors.
    const fn reads(&self) -> u64 {
        if self.coherent { CACHED } else { UNCACHED }
    }

    fn is_stage1(&self) -> bool {
        matches!(self.tables, AnyStage::Aarch64(_))
    }

    /// Address bits that index one full table.
    fn stride(&self) -> u8 {
        self.granule.shift().raw() - 3
    }

    fn table(&self, at: &IoTable) -> Option<Table> {
        // No CPU's table has an index of more than 16 bits.
        let last = u16::MAX.checked_shr(16_u32.checked_sub(u32::from(at.bits))?)?;
        Some(Table { base: at.base, shift: at.shift, bits: at.bits, first: 0, last })
    }

    /// The memory types of ordinary memory and of registers.
    fn memory(&self) -> [u8; 2] {
        if self.is_stage1() { [ORDINARY_INDEX, DEVICE_INDEX] } else { [ORDINARY, DEVICE] }
    }

    /// The size of a group of entries of `at` with the contiguous hint (DDI 0487, D8.7.1).
    fn group(&self, at: &IoTable) -> Option<PageShift> {
        let more = match (self.granule, at.shift.raw()) {
            (Granule::Size4K, 12 | 21 | 30) => 4,
            (Granule::Size16K, 14) => 7,
            (Granule::Size16K, 25) | (Granule::Size64K, 16 | 29) => 5,
            _ => return None,
        };
        // A small top table may have fewer entries than a group.
        if more > at.bits { None } else { PageShift::new(at.shift.raw() + more) }
    }
}

fn io(table: Table) -> IoTable {
    IoTable { base: table.base, shift: table.shift, bits: table.bits }
}

/// The same error in the words of who asked.
fn about_access(error: EncodeError, access: Access) -> EncodeError {
    match error {
        EncodeError::Rights { .. } => EncodeError::Access { access },
        other => other,
    }
}

fn access_of(rights: Rights) -> Access {
    let mut access = Access::empty();
    if rights.contains(Rights::USER) {
        access.set(Access::READ, rights.contains(Rights::READ));
        access.set(Access::WRITE, rights.contains(Rights::WRITE));
    }
    access
}

impl IoFormat for Smmu {
    fn name(&self) -> &'static str {
        if self.is_stage1() { "SMMU stage 1" } else { "SMMU stage 2" }
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        self.granule.shift()
    }

    fn last(&self) -> Iova {
        Iova::new((1 << self.bits) - 1)
    }

    fn top(&self, base: PhysAddr) -> IoTable {
        io(self.tables.top(base))
    }

    fn levels(&self) -> u8 {
        (self.top(PhysAddr::new(0)).shift.raw() - self.base().raw()) / self.stride() + 1
    }

    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        self.tables.below(&self.table(at)?, base).map(io)
    }

    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        match self.table(at) {
            Some(table) if self.tables.leaf_at(&table) => {
                let all = LeafSizes::NONE.with(at.shift);
                self.group(at).map_or(all, |group| all.with(group))
            }
            _ => LeafSizes::NONE,
        }
    }

    #[inline]
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        let Some(table) = self.table(at) else { return IoEntry::Malformed };
        match self.tables.decode(&table, raw) {
            Entry::Absent => IoEntry::Absent,
            Entry::Malformed => IoEntry::Malformed,
            Entry::Table(next, rights) => IoEntry::Table(io(next), access_of(rights)),
            Entry::Leaf(leaf) => {
                let access = access_of(leaf.rights);
                if access.is_empty() {
                    return IoEntry::Absent;
                }
                let hint = leaf.flags.contains(LeafFlags::CONTIGUOUS);
                let group = if hint { self.group(at) } else { None };
                let shift = group.unwrap_or(at.shift);
                let mut flags = IoFlags::empty();
                let accessed = self.marks && leaf.flags.contains(LeafFlags::ACCESSED);
                flags.set(IoFlags::ACCESSED, accessed);
                flags.set(IoFlags::DIRTY, leaf.flags.contains(LeafFlags::DIRTY));
                flags.set(IoFlags::DEVICE, leaf.memory == self.memory()[1]);
                IoEntry::Leaf(IoLeaf {
                    flags,
                    ..IoLeaf::new(leaf.addr.align_down(shift), shift, access)
                })
            }
        }
    }

    #[inline]
    fn encode(&self, at: &IoTable, index: u32, entry: IoEntry) -> Result<u64, EncodeError> {
        let table = self.table(at).ok_or(EncodeError::Size { shift: at.shift })?;
        let leaf = match entry {
            IoEntry::Absent => return Ok(0),
            IoEntry::Malformed => return Err(EncodeError::Malformed),
            IoEntry::Table(next, access) => {
                let next = self.table(&next).ok_or(EncodeError::Size { shift: next.shift })?;
                let rights = match access {
                    Access::READ => Rights::all().difference(Rights::WRITE),
                    none if none.is_empty() => Rights::all().difference(Rights::USER),
                    all if all == Access::all() => Rights::all(),
                    _ => return Err(EncodeError::Access { access }),
                };
                let raw = self.tables.encode(&table, Entry::Table(next, rights));
                return raw.map_err(|error| about_access(error, access));
            }
            IoEntry::Leaf(leaf) => leaf,
        };
        if !self.leaf_sizes(at).contains(leaf.shift) {
            return Err(EncodeError::Size { shift: leaf.shift });
        }
        if !leaf.addr.is_aligned(leaf.shift) {
            return Err(EncodeError::Address { addr: leaf.addr });
        }
        let marks = IoFlags::ACCESSED | IoFlags::DIRTY;
        let known = if self.marks { marks | IoFlags::DEVICE } else { IoFlags::DEVICE };
        if !known.contains(leaf.flags) {
            return Err(EncodeError::Attributes);
        }
        if leaf.access.is_empty() || Access::from_bits(leaf.access.bits()).is_none() {
            return Err(EncodeError::Access { access: leaf.access });
        }
        let mut flags = LeafFlags::empty();
        // Without hardware that sets it, a page that is not marked as used would fault.
        flags.set(LeafFlags::ACCESSED, !self.marks || leaf.flags.contains(IoFlags::ACCESSED));
        flags.set(LeafFlags::DIRTY, leaf.flags.contains(IoFlags::DIRTY));
        flags.set(LeafFlags::CONTIGUOUS, leaf.shift != at.shift);
        let [ordinary, device] = self.memory();
        let memory = if leaf.flags.contains(IoFlags::DEVICE) { device } else { ordinary };
        let number = u64::from(index) & (leaf.entries(at) - 1);
        let addr = PhysAddr::new(leaf.addr.raw() | number << at.shift.raw());
        let page = Leaf { flags, memory, ..Leaf::new(addr, at.shift, Rights::needed(leaf.access)) };
        let raw = self.tables.encode(&table, Entry::Leaf(page));
        raw.map_err(|error| about_access(error, leaf.access))
    }

    fn address_bits(&self, at: &IoTable) -> u64 {
        self.table(at).map_or(0, |table| self.tables.address_bits(&table))
    }

    fn volatile_bits(&self) -> u64 {
        self.tables.volatile_bits()
    }

    fn replaces(&self) -> bool {
        false
    }

    fn splits(&self) -> bool {
        self.splits
    }
}
