//! What POWER radix entries and roots say, against the manual's words for every value.
//!
//! The fields are stated once more, in the manual's own numbers of bits, so that a wrong mask in the
//! format does not hide behind itself.

use pinfold_arch::format::power_radix::Scope;
use pinfold_arch::{
    AddrRange, EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageCount, PageFormat,
    PageShift, PhysAddr, PowerRadix, Rights, Table, VirtAddr,
};
use proptest::prelude::*;

/// Bits `first` to `last`, counted from the left.
fn field(raw: u64, first: u32, last: u32) -> u64 {
    raw << first >> (63 - (last - first))
}

fn bit(raw: u64, at: u32) -> bool {
    field(raw, at, at) == 1
}

/// Power ISA 3.0B, Book III, 5.7.10.1 and 5.7.10.2.
fn says(base: u8, scope: Scope, shift: u8, raw: u64) -> Entry {
    if !bit(raw, 0) {
        return Entry::Absent;
    }
    if !bit(raw, 1) {
        let (addr, size) = (field(raw, 4, 55) << 8, field(raw, 59, 63) as u8);
        let fits = (5..=16).contains(&size) && shift >= base + size;
        if field(raw, 2, 3) != 0
            || field(raw, 56, 58) != 0
            || !fits
            || !addr.is_multiple_of(8 << size)
        {
            return Entry::Malformed;
        }
        let last = ((1_u32 << size) - 1) as u16;
        let (base, shift) = (PhysAddr::new(addr), PageShift::new(shift - size).unwrap());
        return Entry::Table(Table { base, shift, bits: size, first: 0, last }, Rights::all());
    }
    let addr = field(raw, 7, 51) << 12;
    let page = [12, 16, 21, 30].contains(&shift) && shift >= base;
    if field(raw, 3, 6) != 0 || bit(raw, 57) || !page || !addr.is_multiple_of(1 << shift) {
        return Entry::Malformed;
    }
    let mut leaf = Leaf {
        memory: field(raw, 58, 59) as u8,
        ..Leaf::new(PhysAddr::new(addr), PageShift::new(shift).unwrap(), Rights::empty())
    };
    leaf.flags.set(LeafFlags::ACCESSED, bit(raw, 55));
    leaf.flags.set(LeafFlags::DIRTY, bit(raw, 56));
    leaf.rights.set(Rights::USER, !bit(raw, 60) || scope == Scope::Partition);
    leaf.rights.set(Rights::READ, bit(raw, 61) || bit(raw, 62));
    leaf.rights.set(Rights::WRITE, bit(raw, 62));
    leaf.rights.set(Rights::EXECUTE, bit(raw, 63));
    Entry::Leaf(leaf)
}

fn scope() -> impl Strategy<Value = Scope> {
    prop::sample::select(&[Scope::Process, Scope::Kernel, Scope::Partition])
}

/// Any value, and entries of which few bits are wrong: an address of some alignment between flags.
fn raw() -> impl Strategy<Value = u64> {
    let shaped = (any::<u64>(), 8..=32_u32, 0..0x800_u64, any::<bool>(), 0..64_u32).prop_map(
        |(addr, align, low, leaf, flip)| {
            let kind = if leaf { 3 << 62 } else { 1 << 63 };
            let low = if leaf { low } else { low & 0x1f };
            let addr = addr & ((1 << 57) - 1) >> align << align;
            // Half of the time the bit that is flipped is one of the address.
            kind | addr | low ^ if flip < 32 { 0 } else { 1 << flip }
        },
    );
    prop_oneof![1 => any::<u64>(), 6 => shaped]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]

    /// An entry says what its bits do, whatever its own table looks like; and what it says is written
    /// with the same bits, but for those that are ignored.
    #[test]
    fn entries_say_what_their_bits_do(
        base in prop::sample::select(&[12, 16_u8]),
        scope in scope(),
        shift in prop_oneof![2 => prop::sample::select(&[12, 16, 21, 30, 39_u8]), 1 => 0..64_u8],
        (first, last, bits) in any::<(u16, u16, u8)>(),
        raw in raw(),
    ) {
        let format = PowerRadix::new(PageShift::new(base).unwrap()).unwrap().with_scope(scope);
        let shift = PageShift::new(shift).unwrap();
        let at = Table { base: PhysAddr::new(0), shift, bits, first, last };
        let entry = format.decode(&at, raw);
        prop_assert_eq!(entry, says(base, scope, shift.raw(), raw));
        let mut expected = raw;
        match entry {
            Entry::Absent => expected = 0,
            Entry::Malformed => {
                prop_assert_eq!(format.encode(&at, entry), Err(EncodeError::Malformed));
                return Ok(());
            }
            Entry::Table(..) => {}
            Entry::Leaf(leaf) => {
                // Software's bits; the privilege of a guest's page; reading what can be written.
                expected &= !(0xe00 | 1 << 61);
                expected &= !(u64::from(scope == Scope::Partition) << 3);
                expected |= u64::from(leaf.rights.contains(Rights::WRITE)) << 2;
            }
        }
        prop_assert_eq!(format.encode(&at, entry), Ok(expected));
    }

    /// 5.7.6.2: every root decodes that fits its address space, and no other.
    #[test]
    fn roots_say_what_their_bits_do(
        base in prop::sample::select(&[12, 16_u8]),
        addr in any::<u64>(),
        align in 8..24_u32,
        (upper, lower, size) in (0..4_u64, 0..8_u64, 0..32_u8),
        wrong in prop::option::weighted(0.1, prop::sample::select(&[0, 3_u32])),
    ) {
        let addr = addr & ((1 << 60) - 1) >> align << align;
        let raw = upper << 61 | addr | lower << 5 | u64::from(size);
        let raw = wrong.map_or(raw, |bit| raw | 1 << (63 - bit));
        let space = 31 + (upper * 8 + lower) as u8;
        let read = PowerRadix::from_process_entry(PageShift::new(base).unwrap(), raw);
        if wrong.is_some() {
            prop_assert_eq!(read, Err(FormatError::Root { raw }));
        } else if !(5..=16).contains(&size) || space < base + size {
            prop_assert_eq!(read, Err(FormatError::RootSize { bits: size, space }));
        } else if !addr.is_multiple_of(8 << size) {
            prop_assert_eq!(read, Err(FormatError::Root { raw }));
        } else {
            let (format, root) = read.unwrap();
            prop_assert_eq!((root.base.raw(), root.bits), (addr, size));
            prop_assert_eq!(root.shift.raw(), space - size);
            prop_assert_eq!((root.first, u32::from(root.last)), (0, (1 << size) - 1));
            prop_assert_eq!(format.top(root.base), root);
            // Whatever the root, a builder gets down to pages or to where no table fits.
            let mut at = root;
            while let Some(below) = format.below(&at, PhysAddr::new(0)) {
                let entry = Entry::Table(below, Rights::all());
                let raw = format.encode(&at, entry).unwrap();
                prop_assert_eq!(format.decode(&at, raw), entry);
                at = below;
            }
            prop_assert!(at.shift.raw() < base + 5);
        }
    }

    /// 5.7.7: bits 0 and 1 of an effective address are its quadrant, and those above the address
    /// space are zero.
    #[test]
    fn a_range_stays_in_its_quadrant(
        scope in scope(),
        field in 0..32_u64,
        quadrant in 0..4_u64,
        (near, pages) in (-3..4_i64, 1..5_u64),
    ) {
        let root = (field >> 3) << 61 | 0x8_0000 | (field & 7) << 5 | 5;
        let (format, _) = PowerRadix::from_process_entry(PageShift::SIZE_4K, root).unwrap();
        let format = format.with_scope(scope);
        let space = 31 + field as u32;
        // Around the beginning and the end of what the tree translates.
        for edge in [0, 1 << space] {
            let start = (quadrant << 62).wrapping_add(edge).wrapping_add_signed(near << 12);
            let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), PageShift::SIZE_4K);
            let Ok(range) = range else { continue };
            let mine = if scope == Scope::Kernel { 3 << 62 } else { 0 };
            let inside = |va: u64| va >= mine && va - mine < 1 << space;
            let valid = inside(range.start().raw()) && inside(range.last().raw());
            prop_assert_eq!(format.valid(&range), valid, "{:?}", range);
        }
    }
}
