//! What must hold for every format, whatever its tables hold.
//!
//! A new format adds its configurations to [`formats`], those that differ in what decides about
//! entries; what its bits say is for a golden test of its own.

use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::format::power_radix::Scope;
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{
    Aarch64, Aarch64Stage2, AnyFormat, EncodeError, Entry, Geometry, Granule, Leaf, LeafFlags,
    PageFormat, PageShift, PhysAddr, PowerRadix, Rights, S390x, Table, X86_64,
};
use proptest::prelude::*;

fn formats() -> Vec<AnyFormat> {
    let x86 = |levels, width| X86_64::new(levels, width).unwrap();
    let arm = |granule, va, pa| Aarch64::new(granule, va, pa).unwrap();
    let guest = |granule, ipa, pa| Aarch64Stage2::new(granule, ipa, pa).unwrap();
    let power = |shift| PowerRadix::new(PageShift::new(shift).unwrap()).unwrap();
    let s390x = |levels, facilities| S390x::new(levels, facilities).unwrap();
    vec![
        x86(4, 46).into(),
        x86(5, 52).with_gib_pages(false).with_protection_keys(true).into(),
        x86(4, 40).with_no_execute(false).into(),
        x86(4, 48).with_shadow_stacks(true).with_encryption(1 << 47).unwrap().into(),
        arm(Granule::Size4K, 48, 48).into(),
        arm(Granule::Size4K, 39, 40).with_hardware_dirty(true).into(),
        arm(Granule::Size4K, 52, 52).with_upper(true).with_tags(true).into(),
        arm(Granule::Size16K, 47, 44).with_hardware_access(false).into(),
        arm(Granule::Size16K, 52, 52).with_hardware_dirty(true).into(),
        arm(Granule::Size16K, 36, 50).into(),
        arm(Granule::Size64K, 48, 48).with_table_rights(false).into(),
        arm(Granule::Size64K, 52, 52).into(),
        guest(Granule::Size4K, 40, 44).into(),
        guest(Granule::Size4K, 52, 52).with_hardware_dirty(true).into(),
        guest(Granule::Size16K, 48, 48).with_hardware_access(false).into(),
        guest(Granule::Size64K, 45, 52).into(),
        s390x(3, Facilities::empty()).into(),
        s390x(5, Facilities::all()).into(),
        s390x(2, Facilities::EDAT1).into(),
        power(12).into(),
        power(16).into(),
        power(16).with_scope(Scope::Partition).into(),
    ]
}

/// Every table that a builder makes, from the top down.
fn tables(format: &AnyFormat) -> Vec<Table> {
    let mut all = vec![format.top(PhysAddr::new(0x2000_0000))];
    while let Some(next) = format.below(&all[all.len() - 1], PhysAddr::new(0x3000_0000)) {
        assert!(next.shift < all[all.len() - 1].shift, "{format:?}: {next:?}");
        all.push(next);
    }
    all
}

fn format_and_table() -> impl Strategy<Value = (AnyFormat, Table)> {
    let format = prop::sample::select(formats());
    (format, any::<prop::sample::Index>()).prop_map(|(format, level)| {
        let tables = tables(&format);
        (format, tables[level.index(tables.len())])
    })
}

/// A table whose fields are anything at all.
fn any_table() -> impl Strategy<Value = Table> {
    (any::<u64>(), 0..64_u8, any::<u8>(), any::<u16>(), any::<u16>()).prop_map(
        |(base, shift, bits, first, last)| {
            let shift = PageShift::new(shift).unwrap();
            Table { base: PhysAddr::new(base), shift, bits, first, last }
        },
    )
}

fn rights() -> impl Strategy<Value = Rights> {
    prop_oneof![
        9 => (0..16_u8).prop_map(Rights::from_bits_retain),
        1 => any::<u8>().prop_map(Rights::from_bits_retain),
    ]
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let flags = prop_oneof![3 => Just(0), 9 => 0..32_u8, 1 => any::<u8>()];
    let keys = (prop_oneof![9 => Just(0), 1 => 0..17_u8], prop_oneof![9 => Just(0), 1 => 0..3_u16]);
    let place = (any::<u64>(), 32..=56_u32, 10..=44_u32, 10..=44_u8);
    (place, rights(), flags, prop_oneof![3 => Just(0), 1 => 0..17_u8], keys).prop_map(
        |((addr, width, align, shift), rights, flags, memory, (key, encryption))| {
            let addr = addr & ((1 << width) - 1) & !((1 << align) - 1);
            let flags = LeafFlags::from_bits_retain(flags);
            let shift = PageShift::new(shift).unwrap();
            Leaf { flags, memory, key, encryption, ..Leaf::new(PhysAddr::new(addr), shift, rights) }
        },
    )
}

/// An entry of `at` as a builder would have it, if the format can say it: with these choices, and
/// at this level.
fn fitting(format: &AnyFormat, at: &Table, leaf: &Leaf, descend: bool) -> Entry {
    let addr =
        |align: u8| PhysAddr::new(leaf.addr.raw() & 0xf_ffff_ffff_ffff & !((1 << align) - 1));
    match format.below(at, PhysAddr::new(0)) {
        Some(below) if descend || !format.leaf_at(at) => {
            // Aligned to its size, which is what the strictest of them want, or to 4 KiB.
            let base = addr(PageShift::SIZE_4K.raw().max(below.bits + 3));
            Entry::Table(Table { base, ..below }, leaf.rights)
        }
        _ => Entry::Leaf(Leaf { addr: addr(at.shift.raw()), shift: at.shift, ..*leaf }),
    }
}

/// A value of which a good part are entries: any one, or one that was built and has bits flipped.
fn raw(format: &AnyFormat, at: &Table, noise: &Noise) -> u64 {
    let entry = fitting(format, at, &noise.leaf, noise.descend);
    let start = if noise.build { format.encode(at, entry).unwrap_or(noise.any) } else { noise.any };
    noise.flips.iter().fold(start, |raw, bit| raw ^ 1 << bit)
}

#[derive(Clone, Debug)]
struct Noise {
    any: u64,
    build: bool,
    descend: bool,
    leaf: Leaf,
    flips: Vec<u32>,
}

fn noise() -> impl Strategy<Value = Noise> {
    let flips = prop::collection::vec(0..64_u32, 0..4);
    (any::<u64>(), prop::bool::weighted(0.8), any::<bool>(), leaf(), flips)
        .prop_map(|(any, build, descend, leaf, flips)| Noise { any, build, descend, leaf, flips })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Every value says something of every table, also of one that the format does not have; and
    /// tables only get smaller.
    #[test]
    fn decoding_is_total((format, at) in format_and_table(), wild in any_table(), noise in noise()) {
        for (at, raw) in [(at, raw(&format, &at, &noise)), (wild, noise.any)] {
            match format.decode(&at, raw) {
                Entry::Absent | Entry::Malformed => {}
                Entry::Table(next, _) => prop_assert!(next.shift < at.shift, "{:?}", next),
                Entry::Leaf(leaf) => {
                    prop_assert!(leaf.shift <= at.shift);
                    prop_assert!(leaf.shift >= format.base());
                    prop_assert!(leaf.addr.is_aligned(leaf.shift), "{:?}", leaf);
                    prop_assert!(format.flags().contains(leaf.flags), "{:?}", leaf);
                }
            }
            prop_assert!(format.address_bits(&at) & format.volatile_bits() == 0);
        }
    }

    /// What was decoded can be said again, and means the same.
    #[test]
    fn what_was_read_can_be_written((format, at) in format_and_table(), noise in noise()) {
        let raw = raw(&format, &at, &noise);
        let entry = format.decode(&at, raw);
        match format.encode(&at, entry) {
            Ok(again) => prop_assert_eq!(format.decode(&at, again), entry, "{:#x} as {:#x}", raw, again),
            Err(error) => prop_assert_eq!((entry, error), (Entry::Malformed, EncodeError::Malformed)),
        }
    }

    /// What can be written is read as it was meant.
    #[test]
    fn what_was_written_can_be_read(
        (format, at) in format_and_table(),
        noise in noise(),
        wild in any_table(),
    ) {
        let fits = fitting(&format, &at, &noise.leaf, noise.descend);
        for entry in [fits, Entry::Leaf(noise.leaf), Entry::Table(wild, noise.leaf.rights), Entry::Absent] {
            if let Ok(raw) = format.encode(&at, entry) {
                prop_assert_eq!(format.decode(&at, raw), entry, "{:#x}", raw);
            }
        }
    }

    /// Address bits are what they are said to be: others in their place give another address and
    /// nothing else.
    #[test]
    fn address_bits_are_only_that(
        (format, at) in format_and_table(),
        noise in noise(),
        other in any::<u64>(),
    ) {
        let bits = format.address_bits(&at);
        let raw = raw(&format, &at, &noise);
        if let Entry::Leaf(leaf) = format.decode(&at, raw) {
            let addr = PhysAddr::new(leaf.addr.raw() & !bits | other & bits);
            prop_assert_eq!(leaf.addr.raw() & bits, raw & bits);
            let entry = format.decode(&at, raw & !bits | other & bits);
            prop_assert_eq!(entry, Entry::Leaf(Leaf { addr, ..leaf }));
        }
    }

    /// The bits that hardware sets by itself change nothing but marks.
    #[test]
    fn volatile_bits_are_only_marks(
        (format, at) in format_and_table(),
        noise in noise(),
        other in any::<u64>(),
    ) {
        let volatile = format.volatile_bits();
        let raw = raw(&format, &at, &noise);
        let changed = raw & !volatile | other & volatile;
        if let Entry::Leaf(leaf) = format.decode(&at, raw) {
            // x86 tells a shadow stack by the dirty mark of a page that is read-only.
            let marks = LeafFlags::ACCESSED | LeafFlags::DIRTY | LeafFlags::SHADOW_STACK;
            let Entry::Leaf(found) = format.decode(&at, changed) else {
                return Err(TestCaseError::fail(format!("{changed:#x} is no leaf")));
            };
            prop_assert_eq!((leaf.flags ^ found.flags) - marks, LeafFlags::empty());
            prop_assert_eq!(Leaf { flags: leaf.flags, ..found }, leaf);
        }
    }
}

/// What unprivileged code may use, as every format can say it.
const USUAL: Rights = Rights::READ.union(Rights::WRITE).union(Rights::USER);

#[test]
fn a_builder_finds_its_tables() {
    for format in formats() {
        let tables = tables(&format);
        assert!(tables.len() <= MAX_LEVELS, "{format:?}");
        assert_eq!(tables.last().map(|table| table.shift), Some(format.base()), "{format:?}");
        for (at, next) in tables.iter().zip(tables.iter().skip(1)) {
            let entry = Entry::Table(*next, Rights::all());
            let raw =
                format.encode(at, entry).unwrap_or_else(|e| panic!("{format:?}: {e}, {next:?}"));
            assert_eq!(format.decode(at, raw), entry, "{format:?}");
        }
        for at in &tables {
            assert_eq!(
                format.encode(at, Entry::Absent).map(|raw| format.decode(at, raw)),
                Ok(Entry::Absent)
            );
        }
    }
}

#[test]
fn a_leaf_can_be_built_where_there_is_one_and_has_the_marks_there_are() {
    for format in formats() {
        for at in tables(&format) {
            let plain = Leaf::new(PhysAddr::new(0), at.shift, USUAL | Rights::EXECUTE);
            // A page without the mark may grant nothing.
            let used = Leaf { flags: LeafFlags::ACCESSED & format.flags(), ..plain };
            let raw = format.encode(&at, Entry::Leaf(used));
            assert_eq!(raw.is_ok(), format.leaf_at(&at), "{format:?}, {at:?}");
            for mark in LeafFlags::all().iter().filter(|_| raw.is_ok()) {
                let marked = Entry::Leaf(Leaf { flags: used.flags | mark, ..used });
                if mark == LeafFlags::SHADOW_STACK {
                    continue;
                }
                let raw = format.encode(&at, marked);
                assert_eq!(raw.is_ok(), format.flags().contains(mark), "{format:?}, {mark:?}");
            }
        }
    }
}
