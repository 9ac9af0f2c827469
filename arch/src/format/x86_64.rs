//! x86-64 paging with 4 and 5 levels.
//!
//! Source: Intel SDM volume 3, section 5.5 "4-Level Paging and 5-Level Paging" (tables 5-12 to
//! 5-20), section 5.6.2 for protection keys, 5.9.2 for the PAT, and volume 1, section 17.2.2 for
//! shadow stacks; Intel's "Memory Encryption Technologies Specification", section 3.2; AMD APM volume 2,
//! section 5.3, and section 7.10 for the encryption bit. "Reserved" below is what both call reserved.
//!
//! Ignored on purpose: bits 11:9 and 58:52, which software owns, in every entry; bits 62:59 where
//! protection keys are not in use, because they are software's then. In entries that point to a
//! table also bits 62:59 always, bits 6 and 8, which mean nothing there; bits 5:3 (accessed, and the
//! memory type of the table itself) and the encryption bits, for which [`Table`] has no place. Bit 12
//! is an address bit there.

use super::{EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table};
use crate::addr::{AddrRange, PageShift, PhysAddr};
use crate::rights::Rights;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Page size, in entries of the two levels above the last that can be leaves.
const LARGE: u64 = 1 << 7;
/// The PAT bit of a 4 KiB leaf stands where larger entries have their size bit.
const PAT_SMALL: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const PAT_LARGE: u64 = 1 << 12;
/// Protection key, bits 62:59.
const KEY_SHIFT: u8 = 59;
const MAX_KEY: u8 = 15;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12, before the physical width is applied.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
/// The narrowest and the widest physical address, in bits.
const MIN_PHYS_BITS: u8 = 32;
const MAX_PHYS_BITS: u8 = 52;
/// Intel's KeyID has at most so many bits.
const MAX_KEY_ID_BITS: u32 = 15;
/// CR3 below the table address: PCID, or PWT and PCD.
const CR3_LOW: u64 = 0xfff;
/// CR3 bit 63 asks for no TLB flush on a write; bits 62:61 are linear-address-masking modes.
const CR3_HIGH: u64 = 7 << 61;
const INDEX_BITS: u8 = 9;
const LAST_INDEX: u16 = (1 << INDEX_BITS) - 1;

/// The x86-64 format: how many levels, how wide physical addresses are, and which of the optional
/// bits are in use. Made by [`new`](Self::new); the setters return a changed value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct X86_64 {
    levels: u8,
    phys_bits: u8,
    no_execute: bool,
    gib_pages: bool,
    protection_keys: bool,
    shadow_stacks: bool,
    encryption: u64,
}

impl X86_64 {
    /// The format with `levels` (4, or 5 where CR4.LA57 is set) and physical addresses of
    /// `phys_bits` (CPUID 8000_0008h, 32 to 52), with no-execute and 1 GiB pages in use, without
    /// protection keys, shadow stacks and encryption bits.
    ///
    /// # Errors
    /// [`FormatError::Levels`], [`FormatError::PhysBits`].
    pub const fn new(levels: u8, phys_bits: u8) -> Result<Self, FormatError> {
        if levels != 4 && levels != 5 {
            return Err(FormatError::Levels { levels });
        }
        if phys_bits < MIN_PHYS_BITS || phys_bits > MAX_PHYS_BITS {
            return Err(FormatError::PhysBits { bits: phys_bits });
        }
        Ok(Self {
            levels,
            phys_bits,
            no_execute: true,
            gib_pages: true,
            protection_keys: false,
            shadow_stacks: false,
            encryption: 0,
        })
    }

    /// Whether EFER.NXE is set; without it bit 63 is reserved.
    #[must_use]
    pub const fn with_no_execute(mut self, on: bool) -> Self {
        self.no_execute = on;
        self
    }

    /// Whether the CPU has 1 GiB pages; without them the size bit is reserved at that level.
    #[must_use]
    pub const fn with_gib_pages(mut self, on: bool) -> Self {
        self.gib_pages = on;
        self
    }

    /// Whether CR4.PKE (or CR4.PKS for privileged pages) is set: a leaf's bits 62:59 are its
    /// [`Leaf::key`] then. What the key allows stands in a register of each thread, not here.
    #[must_use]
    pub const fn with_protection_keys(mut self, on: bool) -> Self {
        self.protection_keys = on;
        self
    }

    /// Whether CR4.CET is set: a leaf that is dirty and cannot be written belongs to a shadow stack
    /// then, [`LeafFlags::SHADOW_STACK`].
    #[must_use]
    pub const fn with_shadow_stacks(mut self, on: bool) -> Self {
        self.shadow_stacks = on;
        self
    }

    /// The address bits that name an encryption key, or 0 for none: AMD's C-bit (CPUID 8000_001Fh
    /// EBX), or Intel's KeyID bits at the top of the physical width (MSR 982h). They are no part of
    /// the address but [`Leaf::encryption`]. Entries that point to tables may have them or not, and
    /// are encoded without them.
    ///
    /// # Errors
    /// [`FormatError::EncryptionMask`] if `mask` is not 0 and not one field of at most 15
    /// neighbouring bits within 51:32: lower ones would fall on the PAT bit or inside the page offset
    /// of a large leaf, and more are no KeyID.
    pub const fn with_encryption(mut self, mask: u64) -> Result<Self, FormatError> {
        let high = ADDRESS >> MIN_PHYS_BITS << MIN_PHYS_BITS;
        let ones = mask.count_ones();
        // A field as long as its first run of ones.
        let one_field = mask == 0 || (mask >> mask.trailing_zeros()).trailing_ones() == ones;
        if mask & !high != 0 || !one_field || ones > MAX_KEY_ID_BITS {
            return Err(FormatError::EncryptionMask { mask });
        }
        self.encryption = mask;
        Ok(self)
    }

    /// The top table from the value of CR3. PCID, cache and LAM bits are dropped.
    ///
    /// # Errors
    /// [`FormatError::Root`] if bits above the physical width are set.
    pub const fn root(&self, cr3: u64) -> Result<Table, FormatError> {
        let base = cr3 & !CR3_LOW & !CR3_HIGH & !self.encryption;
        if base & !self.address_mask() != 0 {
            return Err(FormatError::Root { raw: cr3 });
        }
        Ok(table(base, 12 + INDEX_BITS * (self.levels - 1)))
    }

    /// Address bits that may be set in an entry.
    const fn address_mask(&self) -> u64 {
        ADDRESS & ((1 << self.phys_bits) - 1) & !self.encryption
    }

    /// Bits that must be zero in every present entry.
    const fn reserved(&self) -> u64 {
        let high = ADDRESS & !self.address_mask() & !self.encryption;
        if self.no_execute { high } else { high | NO_EXECUTE }
    }

    /// The encryption key that an entry names.
    #[expect(clippy::cast_possible_truncation, reason = "the field has at most 15 bits")]
    const fn encryption_in(&self, raw: u64) -> u16 {
        match (raw & self.encryption).checked_shr(self.encryption.trailing_zeros()) {
            Some(key) => key as u16,
            None => 0,
        }
    }

    const fn may_be_leaf(&self, shift: PageShift) -> bool {
        match shift.raw() {
            12 | 21 => true,
            30 => self.gib_pages,
            _ => false,
        }
    }
}

const fn table(base: u64, shift: u8) -> Table {
    let shift = match PageShift::new(shift) {
        Some(shift) => shift,
        None => PageShift::SIZE_4K,
    };
    Table { base: PhysAddr::new(base), shift, bits: INDEX_BITS, first: 0, last: LAST_INDEX }
}

fn rights_of(raw: u64) -> Rights {
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, raw & WRITE != 0);
    rights.set(Rights::USER, raw & USER != 0);
    rights.set(Rights::EXECUTE, raw & NO_EXECUTE == 0);
    rights
}

impl PageFormat for X86_64 {
    fn name(&self) -> &'static str {
        "x86_64"
    }

    fn big_endian(&self) -> bool {
        false
    }

    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn valid(&self, range: &AddrRange) -> bool {
        // Canonical: all bits from the top translated one upwards are equal.
        let top = 12 + u32::from(INDEX_BITS) * u32::from(self.levels) - 1;
        let (start, last) = (range.start().raw() >> top, range.last().raw() >> top);
        start == last && (start == 0 || start == u64::MAX >> top)
    }

    #[inline]
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        if raw & PRESENT == 0 {
            return Entry::Absent;
        }
        if raw & self.reserved() != 0 {
            return Entry::Malformed;
        }
        let small = at.shift.raw() == 12;
        if !small && raw & LARGE == 0 {
            let Some(below) = at.shift.raw().checked_sub(INDEX_BITS).filter(|s| *s >= 12) else {
                return Entry::Malformed;
            };
            return Entry::Table(table(raw & self.address_mask(), below), rights_of(raw));
        }
        if !self.may_be_leaf(at.shift) {
            return Entry::Malformed;
        }
        let pat = if small { PAT_SMALL } else { PAT_LARGE };
        // Between the PAT bit and the page's own alignment nothing may be set.
        let low = at.shift.mask() & ADDRESS;
        if raw & low & !pat != 0 {
            return Entry::Malformed;
        }
        let mut flags = LeafFlags::empty();
        flags.set(LeafFlags::ACCESSED, raw & ACCESSED != 0);
        flags.set(LeafFlags::DIRTY, raw & DIRTY != 0);
        flags.set(LeafFlags::GLOBAL, raw & GLOBAL != 0);
        let shadow_stack = self.shadow_stacks && raw & (WRITE | DIRTY) == DIRTY;
        flags.set(LeafFlags::SHADOW_STACK, shadow_stack);
        let memory = u8::from(raw & WRITE_THROUGH != 0)
            | u8::from(raw & CACHE_DISABLE != 0) << 1
            | u8::from(raw & pat != 0) << 2;
        Entry::Leaf(Leaf {
            addr: PhysAddr::new(raw & self.address_mask() & !at.shift.mask()),
            shift: at.shift,
            rights: rights_of(raw),
            flags,
            memory,
            key: if self.protection_keys { (raw >> KEY_SHIFT) as u8 & MAX_KEY } else { 0 },
            encryption: self.encryption_in(raw),
        })
    }

    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        match entry {
            Entry::Absent => Ok(0),
            Entry::Malformed => Err(EncodeError::Malformed),
            Entry::Table(next, rights) => {
                let below = at.shift.raw().checked_sub(INDEX_BITS).filter(|s| *s >= 12);
                if below.is_none_or(|below| next != table(next.base.raw(), below)) {
                    return Err(EncodeError::Size { shift: next.shift });
                }
                Ok(self.encode_rights(rights)? | self.encode_addr(next.base, PageShift::SIZE_4K)?)
            }
            Entry::Leaf(leaf) => {
                if leaf.shift != at.shift || !self.may_be_leaf(leaf.shift) {
                    return Err(EncodeError::Size { shift: leaf.shift });
                }
                let raw = self.encode_rights(leaf.rights)?
                    | self.encode_addr(leaf.addr, leaf.shift)?
                    | self.encode_attributes(&leaf)?;
                // A shadow stack is told by what its other bits say.
                let stack = self.shadow_stacks && raw & (WRITE | DIRTY) == DIRTY;
                if stack != leaf.flags.contains(LeafFlags::SHADOW_STACK) {
                    return Err(EncodeError::Attributes);
                }
                Ok(raw)
            }
        }
    }

    fn address_bits(&self, at: &Table) -> u64 {
        self.address_mask() & !at.shift.mask()
    }

    fn volatile_bits(&self) -> u64 {
        ACCESSED | DIRTY
    }
}

impl Geometry for X86_64 {
    fn top(&self, base: PhysAddr) -> Table {
        table(base.raw(), 12 + INDEX_BITS * (self.levels - 1))
    }

    fn below(&self, at: &Table, base: PhysAddr) -> Option<Table> {
        let shift = at.shift.raw().checked_sub(INDEX_BITS).filter(|shift| *shift >= 12)?;
        Some(table(base.raw(), shift))
    }

    fn leaf_at(&self, at: &Table) -> bool {
        self.may_be_leaf(at.shift)
    }

    fn flags(&self) -> LeafFlags {
        let marks = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::GLOBAL;
        if self.shadow_stacks { marks | LeafFlags::SHADOW_STACK } else { marks }
    }
}

impl X86_64 {
    fn encode_rights(&self, rights: Rights) -> Result<u64, EncodeError> {
        let execute = rights.contains(Rights::EXECUTE);
        // Whatever is present can be read, and without NX it can be run.
        let known = Rights::from_bits(rights.bits()).is_some();
        if !known || !rights.contains(Rights::READ) || (!execute && !self.no_execute) {
            return Err(EncodeError::Rights { rights });
        }
        let mut raw = PRESENT;
        raw |= if rights.contains(Rights::WRITE) { WRITE } else { 0 };
        raw |= if rights.contains(Rights::USER) { USER } else { 0 };
        raw |= if execute { 0 } else { NO_EXECUTE };
        Ok(raw)
    }

    /// What is neither rights nor address.
    fn encode_attributes(&self, leaf: &Leaf) -> Result<u64, EncodeError> {
        let most_key = if self.protection_keys { MAX_KEY } else { 0 };
        let most_encryption = self.encryption_in(u64::MAX);
        let known = self.flags().contains(leaf.flags);
        if !known || leaf.memory > 7 || leaf.key > most_key || leaf.encryption > most_encryption {
            return Err(EncodeError::Attributes);
        }
        let small = leaf.shift.raw() == 12;
        let mut raw = if small { 0 } else { LARGE };
        for (set, bit) in [
            (leaf.flags.contains(LeafFlags::ACCESSED), ACCESSED),
            (leaf.flags.contains(LeafFlags::DIRTY), DIRTY),
            (leaf.flags.contains(LeafFlags::GLOBAL), GLOBAL),
            (leaf.memory & 1 != 0, WRITE_THROUGH),
            (leaf.memory & 2 != 0, CACHE_DISABLE),
            (leaf.memory & 4 != 0, if small { PAT_SMALL } else { PAT_LARGE }),
        ] {
            raw |= if set { bit } else { 0 };
        }
        let encryption = u64::from(leaf.encryption).checked_shl(self.encryption.trailing_zeros());
        Ok(raw | u64::from(leaf.key) << KEY_SHIFT | encryption.unwrap_or(0))
    }

    fn encode_addr(&self, addr: PhysAddr, shift: PageShift) -> Result<u64, EncodeError> {
        if addr.raw() & !self.address_mask() != 0 || !addr.is_aligned(shift) {
            return Err(EncodeError::Address { addr });
        }
        Ok(addr.raw())
    }
}
