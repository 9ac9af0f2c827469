//! Intel VT-d second-stage tables.
//!
//! Source: Intel "Virtualization Technology for Directed I/O" specification, revision 4.1: section 3.7
//! (second-stage translation), 9.8 (its entries, tables 40 to 46), 9.1 and 9.3 (root and context
//! entries).
//!
//! An entry without a right maps nothing. A device may do what all entries on the way allow
//! together.
//!
//! Ignored on purpose: bit 2 (execute), which counts for requests with a PASID only; bits 5:3 and 6
//! (memory type), which count where the table is shared with a processor's nested tables; bits 61:52,
//! 63 and 10, which hardware does not look at; in entries that point to tables also bits 8, 9 and 11.
//! Bit 62 was a hint once and is reserved on units that do not know it.

use super::{IoEntry, IoFormat, IoLeaf, IoTable, LeafSizes, Marks, granted, granting};
use crate::addr::{Iova, PageShift, PhysAddr};
use crate::format::{EncodeError, FormatError};
use crate::rights::Access;

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// Page size, in entries that map 2 MiB or 1 GiB.
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const SNOOP: u64 = 1 << 11;
const TRANSIENT: u64 = 1 << 62;
/// Bits 51:12, before the host's address width is applied.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
const INDEX_BITS: u8 = 9;
/// Levels that exist.
const LEVELS: core::ops::RangeInclusive<u8> = 3..=5;
/// Host address widths that exist.
const HOST_BITS: core::ops::RangeInclusive<u8> = 32..=52;
/// In root and context entries.
const PRESENT: u64 = 1;
/// Where a context entry has the width of addresses, and the domain.
const DOMAIN_PLACE: u32 = 8;

/// The VT-d second-stage format: how many levels, how wide the host's addresses are, and which leaf
/// sizes and marks the unit has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtd {
    levels: u8,
    host_bits: u8,
    large: bool,
    huge: bool,
    coherent: bool,
    marks: bool,
    snoop: bool,
}

impl Vtd {
    /// The format with 3, 4 or 5 levels (39, 48 or 57 bits of device addresses; CAP_REG.SAGAW says
    /// which a unit has) and host addresses of `host_bits`, with 2 MiB and 1 GiB leaves (CAP_REG.SSLPS)
    /// and coherent walks, without accessed and dirty marks and without snoop control.
    ///
    /// # Errors
    /// [`FormatError::Levels`], [`FormatError::PhysBits`].
    pub const fn new(levels: u8, host_bits: u8) -> Result<Self, FormatError> {
        if levels < *LEVELS.start() || levels > *LEVELS.end() {
            return Err(FormatError::Levels { levels });
        }
        if host_bits < *HOST_BITS.start() || host_bits > *HOST_BITS.end() {
            return Err(FormatError::PhysBits { bits: host_bits });
        }
        Ok(Self {
            levels,
            host_bits,
            large: true,
            huge: true,
            coherent: true,
            marks: false,
            snoop: false,
        })
    }

    /// Whether leaves can have 2 MiB, and whether they can have 1 GiB.
    #[must_use]
    pub const fn with_leaves(mut self, large: bool, huge: bool) -> Self {
        (self.large, self.huge) = (large, huge);
        self
    }

    /// Whether the unit's walks look into the CPUs' caches: ECAP_REG.C, in scalable mode ECAP_REG.SMPWCS.
    /// Where they do not, whoever writes entries writes the caches back, and there are no marks.
    #[must_use]
    pub const fn with_coherent_walks(mut self, on: bool) -> Self {
        self.coherent = on;
        self.marks &= on;
        self
    }

    /// Whether the unit sets accessed and dirty marks (scalable mode with SSADE set): bits 8 and 9.
    ///
    /// # Errors
    /// [`FormatError::IncoherentMarks`].
    pub const fn with_marks(mut self, on: bool) -> Result<Self, FormatError> {
        if on && !self.coherent {
            return Err(FormatError::IncoherentMarks);
        }
        self.marks = on;
        Ok(self)
    }

    /// Whether the unit has snoop control (ECAP_REG.SC); without it bit 11 is reserved.
    #[must_use]
    pub const fn with_snoop_control(mut self, on: bool) -> Self {
        self.snoop = on;
        self
    }

    /// The root entry of a bus, whose context table is at `contexts`; [`[0, 0]`](Self::NO_ENTRY) for a
    /// bus without devices.
    ///
    /// # Errors
    /// [`EncodeError::Address`].
    pub fn root_entry(&self, contexts: PhysAddr) -> Result<[u64; 2], EncodeError> {
        Ok([self.encode_addr(contexts, PageShift::SIZE_4K)? | PRESENT, 0])
    }

    /// The context entry (legacy mode) of a device that uses the tables under `top`, in a domain.
    /// `ats` says whether the device may ask for translations and keep them itself.
    ///
    /// # Errors
    /// [`EncodeError::Address`].
    pub fn context_entry(
        &self,
        top: PhysAddr,
        domain: u16,
        ats: bool,
    ) -> Result<[u64; 2], EncodeError> {
        let kind = u64::from(ats) << 2;
        let width = u64::from(self.levels - 2);
        let low = self.encode_addr(top, PageShift::SIZE_4K)? | kind | PRESENT;
        Ok([low, u64::from(domain) << DOMAIN_PLACE | width])
    }

    /// A root or context entry that blocks.
    pub const NO_ENTRY: [u64; 2] = [0, 0];

    const fn address_mask(&self) -> u64 {
        ADDRESS & ((1 << self.host_bits) - 1)
    }

    const fn may_be_leaf(&self, shift: PageShift) -> bool {
        match shift.raw() {
            12 => true,
            21 => self.large,
            30 => self.huge,
            _ => false,
        }
    }

    /// Where leaves have their marks.
    const fn marks(&self) -> Marks {
        let (accessed, dirty) = if self.marks { (ACCESSED, DIRTY) } else { (0, 0) };
        Marks { accessed, dirty, snoop: if self.snoop { SNOOP } else { 0 } }
    }

    fn encode_addr(&self, addr: PhysAddr, shift: PageShift) -> Result<u64, EncodeError> {
        if addr.raw() & !self.address_mask() != 0 || !addr.is_aligned(shift) {
            return Err(EncodeError::Address { addr });
        }
        Ok(addr.raw())
    }
}

fn encode_access(access: Access) -> Result<u64, EncodeError> {
    if access.is_empty() {
        return Err(EncodeError::Access { access });
    }
    granting(access, READ, WRITE)
}

impl IoFormat for Vtd {
    fn name(&self) -> &'static str {
        "VT-d"
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn last(&self) -> Iova {
        Iova::new((1 << (12 + INDEX_BITS * self.levels)) - 1)
    }

    fn top(&self, base: PhysAddr) -> IoTable {
        let shift = PageShift::new(12 + INDEX_BITS * (self.levels - 1));
        IoTable { base, shift: shift.unwrap_or(PageShift::SIZE_4K), bits: INDEX_BITS }
    }

    fn levels(&self) -> u8 {
        self.levels
    }

    fn with_levels(&self, levels: u8) -> Option<Self> {
        LEVELS.contains(&levels).then_some(Self { levels, ..*self })
    }

    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        let shift = at.shift.raw().checked_sub(INDEX_BITS).filter(|shift| *shift >= 12)?;
        Some(IoTable { base, shift: PageShift::new(shift)?, bits: INDEX_BITS })
    }

    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        if self.may_be_leaf(at.shift) { LeafSizes::NONE.with(at.shift) } else { LeafSizes::NONE }
    }

    #[inline]
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        let access = granted(raw, READ, WRITE);
        if access.is_empty() {
            return IoEntry::Absent;
        }
        if raw & (TRANSIENT | ADDRESS & !self.address_mask()) != 0 {
            return IoEntry::Malformed;
        }
        let addr = PhysAddr::new(raw & self.address_mask());
        if at.shift.raw() != 12 && raw & LARGE == 0 {
            let next = self.below(at, addr);
            return next.map_or(IoEntry::Malformed, |next| IoEntry::Table(next, access));
        }
        if !self.may_be_leaf(at.shift)
            || !addr.is_aligned(at.shift)
            || raw & SNOOP & !self.marks().snoop != 0
        {
            return IoEntry::Malformed;
        }
        IoEntry::Leaf(IoLeaf { flags: self.marks().of(raw), ..IoLeaf::new(addr, at.shift, access) })
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
                Ok(self.encode_addr(next.base, PageShift::SIZE_4K)? | encode_access(access)?)
            }
            IoEntry::Leaf(leaf) => {
                if leaf.shift != at.shift || !self.may_be_leaf(leaf.shift) {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                let size = if leaf.shift.raw() == 12 { 0 } else { LARGE };
                Ok(self.encode_addr(leaf.addr, leaf.shift)?
                    | encode_access(leaf.access)?
                    | self.marks().place(leaf.flags)?
                    | size)
            }
        }
    }

    fn address_bits(&self, at: &IoTable) -> u64 {
        self.address_mask() & !at.shift.mask()
    }

    fn volatile_bits(&self) -> u64 {
        self.marks().volatile()
    }

    fn splits(&self) -> bool {
        true
    }
}
