//! aarch64 (VMSAv8-64) paging: what both stages of translation share.
//!
//! [`Aarch64`] is stage 1, what an operating system builds for itself and its processes;
//! [`Aarch64Stage2`] is stage 2, what a hypervisor builds for a guest. Their tables have the same
//! shape and keep addresses in the same places; rights and marks stand elsewhere, so those are read
//! by the two files beside this one.
//!
//! Source: Arm Architecture Reference Manual for A-profile (DDI 0487), chapter D8 "The AArch64
//! Virtual Memory System Architecture": D8.2 "Translation process" for levels, sizes and roots,
//! D8.3 "Translation table descriptor formats" for the bits, D8.4 for rights and D8.5 for the
//! access flag and the dirty state. 128-bit descriptors (FEAT_D128) are another format.
//!
//! A descriptor has its address in bits 47:12, as many of them as the size leaves. An output address
//! of 52 bits has the rest elsewhere: with 64K pages, bits 51:48 of it stand in 15:12; with 4K and
//! 16K pages (FEAT_LPA2, TCR.DS) bits 49:48 stand in their place and 51:50 stand in 9:8, where
//! shareability is otherwise.
//!
//! Reserved, so that an entry is malformed with them: address bits beyond the physical width, and
//! bits 49:12 where there is neither an address nor nT. The manual lets hardware ignore some of them;
//! no system sets them. Ignored in every entry: bits 63 and 58:55, which are software's or ignored by
//! hardware, bit 50 (a guarded page changes what a branch may do), and shareability, which is
//! about caches of other observers. In leaves also NS (5, Secure state only), nT (16, about
//! replacing a table by a block) and 62:59, which are software's, a hint to the memory system
//! (FEAT_HPDS2) or the index of an overlay (FEAT_S1POE). In entries that point to a table also
//! 58:51 and 11:2, but for the two address bits.

use super::{EncodeError, FormatError, Table};
use crate::addr::{AddrRange, PageShift, PhysAddr};

mod stage1;
mod stage2;

pub use stage1::Aarch64;
pub use stage2::Aarch64Stage2;

const VALID: u64 = 1 << 0;
/// With bit 0: a page at the last level, a table above it. Alone, bit 0 is a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// Bits 9:8: shareability, or two bits of an address.
const FIELD_9_8: u64 = 3 << 8;
/// Inner shareable, as every system with more than one CPU has its memory.
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// Bits 15:12, four bits of an address with 64K pages.
const FIELD_15_12: u64 = 0xf << 12;
/// nT, in a block: its translation may be cached only as a hint. An address bit of smaller things.
const BLOCK_NT: u64 = 1 << 16;
/// Hardware may lift the write protection, to mark a page as dirty.
const DIRTY_BIT_MODIFIER: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
/// Where an address can stand, in its own place or in another.
const ADDRESS: u64 = ((1 << 50) - 1) & !0xfff;
/// What is in a descriptor at its own place without 52-bit addresses.
const LOW_ADDRESS: u64 = (1 << 48) - 1;
/// The widths of physical addresses, in bits: TCR.IPS and ID_AA64MMFR0_EL1.PARange.
const MIN_PHYS_BITS: u8 = 32;
const MAX_PHYS_BITS: u8 = 52;
/// Wider addresses, virtual or physical, take a form of their own.
const PLAIN_BITS: u8 = 48;
/// The index of an entry has 16 bits.
const MAX_ROOT_BITS: u8 = 16;
/// A root register's ASID or VMID.
const ROOT_SPACE: u64 = 0xffff << 48;
/// A root register's bit 0, CnP: other CPUs have the same tables.
const ROOT_COMMON: u64 = 1;

/// The size of the smallest page, and of a full table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB: 9 bits of an address a level.
    Size4K,
    /// 16 KiB: 11 bits a level.
    Size16K,
    /// 64 KiB: 13 bits a level.
    Size64K,
}

impl Granule {
    /// The size of a page.
    #[must_use]
    pub const fn shift(self) -> PageShift {
        shift(self.page())
    }

    const fn page(self) -> u8 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }

    /// Address bits that index one full table.
    const fn stride(self) -> u8 {
        self.page() - 3
    }

    /// What TCR.TG0 and VTCR.TG0 say; `None` for the value that is reserved.
    const fn from_tg0(field: u64) -> Option<Self> {
        match field & 3 {
            0 => Some(Self::Size4K),
            1 => Some(Self::Size64K),
            2 => Some(Self::Size16K),
            _ => None,
        }
    }

    /// The same of TCR.TG1, which counts differently.
    const fn from_tg1(field: u64) -> Option<Self> {
        match field & 3 {
            1 => Some(Self::Size16K),
            2 => Some(Self::Size4K),
            3 => Some(Self::Size64K),
            _ => None,
        }
    }
}

/// The width of a physical address in bits that TCR_EL1.IPS, VTCR_EL2.PS or ID_AA64MMFR0_EL1.PARange
/// says: they count alike. `field` is in the low three bits, the others do not matter. 56, which takes
/// other descriptors, counts as the 52 that these have.
#[must_use]
pub const fn output_bits(field: u64) -> u8 {
    match field & 7 {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => MAX_PHYS_BITS,
    }
}

const fn shift(raw: u8) -> PageShift {
    match PageShift::new(raw) {
        Some(shift) => shift,
        None => PageShift::SIZE_4K,
    }
}

/// The mask of bits `from` up to, but not including, `to`.
const fn bits(from: u8, to: u8) -> u64 {
    (u64::MAX >> (64 - to)) & !((1 << from) - 1)
}

/// The sizes of leaves, a bit each. Entries with 52-bit addresses bring one more.
const fn leaves(granule: Granule, wide: bool) -> u64 {
    let (page, stride) = (granule.page(), granule.stride());
    let blocks = match granule {
        Granule::Size4K => 1 << (page + stride) | 1 << (page + 2 * stride),
        Granule::Size16K | Granule::Size64K => 1 << (page + stride),
    };
    let largest = if wide { blocks << stride } else { 0 };
    1 << page | blocks | largest
}

/// What a descriptor is, before anybody looks at its attributes.
enum Kind {
    Absent,
    Malformed,
    Table(Table),
    Leaf(PhysAddr),
}

/// Shape of the tables and place of the addresses: the same in both stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    granule: Granule,
    /// Of an input address.
    va_bits: u8,
    pa_bits: u8,
    /// 52-bit addresses: TCR.DS with 4K and 16K, FEAT_LPA with 64K.
    wide: bool,
    /// Of the table that a walk starts with: what an entry maps, and how many bits index it.
    top: (u8, u8),
    /// What follows from all that about a descriptor. Bits of an address that stand in their own place.
    plain: u64,
    /// Those that hold the upper bits of an address, and how far they are moved up.
    moved: u64,
    up: u32,
    /// Those that are neither, where an address could stand.
    reserved: u64,
    /// Sizes of leaves, a bit each: of pages, and of blocks (D8.3, "Block descriptor ... formats").
    leaves: u64,
}

impl Layout {
    /// The layout with as few levels as there can be, if up to `concatenated` bits more than those
    /// of a full table may index the top one. `ds` is TCR.DS.
    const fn new(
        granule: Granule,
        va_bits: u8,
        pa_bits: u8,
        ds: bool,
        concatenated: u8,
    ) -> Result<Self, FormatError> {
        let (page, stride) = (granule.page(), granule.stride());
        let mut top = page;
        while top + stride + concatenated < va_bits {
            top += stride;
        }
        Self::with_top(granule, va_bits, pa_bits, ds, top)
    }

    /// The layout with a top table whose entries map `1 << top` bytes.
    const fn with_top(
        granule: Granule,
        va_bits: u8,
        pa_bits: u8,
        ds: bool,
        top: u8,
    ) -> Result<Self, FormatError> {
        let (least, most) = match granule {
            // With TCR.TnSZ up to 48 or 47 (FEAT_TTST), and from 16 or 12 on.
            Granule::Size64K => (17, MAX_PHYS_BITS),
            _ if ds => (16, MAX_PHYS_BITS),
            _ => (16, PLAIN_BITS),
        };
        if va_bits < least || va_bits > most {
            return Err(FormatError::AddressBits { bits: va_bits });
        }
        if va_bits <= top || va_bits - top > MAX_ROOT_BITS {
            return Err(FormatError::RootSize {
                bits: va_bits.saturating_sub(top),
                space: va_bits,
            });
        }
        if pa_bits < MIN_PHYS_BITS || pa_bits > MAX_PHYS_BITS {
            return Err(FormatError::PhysBits { bits: pa_bits });
        }
        let (pa_bits, wide) = match granule {
            Granule::Size64K => (pa_bits, pa_bits > PLAIN_BITS),
            // Without TCR.DS no descriptor holds more.
            _ if !ds && pa_bits > PLAIN_BITS => (PLAIN_BITS, false),
            _ => (pa_bits, ds),
        };
        let (field, (moved, up)) = match granule {
            Granule::Size64K => (LOW_ADDRESS, (FIELD_15_12, 36)),
            _ if wide => (ADDRESS, (FIELD_9_8, 42)),
            _ => (LOW_ADDRESS, (0, 0)),
        };
        let within = bits(0, pa_bits);
        let (plain, high) = (field & ADDRESS & within & !granule.shift().mask(), within >> up);
        Ok(Self {
            granule,
            va_bits,
            pa_bits,
            wide,
            top: (top, va_bits - top),
            plain,
            moved: moved & high,
            up,
            reserved: (ADDRESS | moved) & !plain & !(moved & high) & !BLOCK_NT,
            leaves: leaves(granule, wide),
        })
    }

    const fn root(&self, base: PhysAddr) -> Table {
        let (top, index) = self.top;
        Table { base, shift: shift(top), bits: index, first: 0, last: u16::MAX >> (16 - index) }
    }

    /// The root table that a TTBR names. The ASID or VMID and CnP are dropped.
    const fn root_of(&self, ttbr: u64) -> Result<Table, FormatError> {
        let field = ttbr & !ROOT_SPACE & !ROOT_COMMON;
        // Bits 51:48 of the base stand in 5:2, so the table is aligned to 64 bytes at least.
        let (base, least) =
            if self.wide { (field & !0x3c | (field & 0x3c) << 46, 6) } else { (field, 0) };
        let size = self.top.1 + 3;
        let aligned = bits(0, if size > least { size } else { least });
        if base & aligned != 0 || base >> self.pa_bits != 0 {
            return Err(FormatError::Root { raw: ttbr });
        }
        Ok(self.root(PhysAddr::new(base)))
    }

    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        let stride = self.granule.stride();
        let next =
            at.shift.raw().checked_sub(stride).filter(|next| *next >= self.granule.page())?;
        let last = u16::MAX >> (16 - stride);
        Some(Table { base, shift: shift(next), bits: stride, first: 0, last })
    }

    /// Whether a leaf of this size exists.
    const fn leaf(&self, size: PageShift) -> bool {
        self.leaves >> size.raw() & 1 != 0
    }

    /// Bits of an address that stand in their own place in a descriptor, for what is aligned to
    /// `size`.
    const fn in_place(&self, size: PageShift) -> u64 {
        self.plain & !size.mask()
    }

    /// The address in a descriptor, `None` if it is too wide or has a reserved bit.
    const fn address(&self, raw: u64, size: PageShift) -> Option<PhysAddr> {
        let inside = self.plain & size.mask() & !BLOCK_NT;
        if raw & (self.reserved | inside) != 0 {
            return None;
        }
        Some(PhysAddr::new(raw & self.in_place(size) | (raw & self.moved) << self.up))
    }

    /// The bits of a descriptor that say this address.
    fn place(&self, addr: PhysAddr, size: PageShift) -> Result<u64, EncodeError> {
        if !addr.is_aligned(size) || addr.raw() >> self.pa_bits != 0 {
            return Err(EncodeError::Address { addr });
        }
        Ok(addr.raw() & self.in_place(size) | addr.raw() >> self.up & self.moved)
    }

    /// What the descriptor `raw` of table `at` is.
    #[inline]
    fn read(&self, at: &Table, raw: u64) -> Kind {
        if raw & VALID == 0 {
            return Kind::Absent;
        }
        let page = self.granule.shift();
        let found = if raw & TABLE_OR_PAGE != 0 && at.shift != page {
            let base = self.address(raw, page);
            base.and_then(|base| self.below(at, base)).map(Kind::Table)
        } else if (raw & TABLE_OR_PAGE != 0) == (at.shift == page) && self.leaf(at.shift) {
            self.address(raw, at.shift).map(Kind::Leaf)
        } else {
            None
        };
        found.unwrap_or(Kind::Malformed)
    }

    /// The type and the address of an entry that points to `next`.
    fn write_table(&self, at: &Table, next: &Table) -> Result<u64, EncodeError> {
        if self.below(at, next.base) != Some(*next) {
            return Err(EncodeError::Size { shift: next.shift });
        }
        Ok(VALID | TABLE_OR_PAGE | self.place(next.base, self.granule.shift())?)
    }

    /// The type, the address and the shareability of a leaf.
    fn write_leaf(&self, at: &Table, addr: PhysAddr, size: PageShift) -> Result<u64, EncodeError> {
        if size != at.shift || !self.leaf(size) {
            return Err(EncodeError::Size { shift: size });
        }
        let kind = if size == self.granule.shift() { VALID | TABLE_OR_PAGE } else { VALID };
        let share = match self.granule {
            Granule::Size4K | Granule::Size16K if self.wide => 0,
            _ => INNER_SHAREABLE,
        };
        Ok(kind | share | self.place(addr, size)?)
    }

    /// Whether all of the range has the same bits above the input width, and those of them that
    /// count are all clear, or all set. `counted` is where they end.
    fn inside(&self, range: &AddrRange, counted: u8, set: bool) -> bool {
        let (start, last) = (range.start().raw(), range.last().raw());
        let above = bits(self.va_bits, counted);
        let want = if set { above } else { 0 };
        start & above == want && (start ^ last) >> self.va_bits == 0
    }
}
