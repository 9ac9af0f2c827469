//! What must hold for every IOMMU format, whatever stands in its tables.

use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{
    Access, AmdVi, AnyIoFormat, Granule, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova,
    LeafSizes, PageShift, PhysAddr, Smmu, Tce, Vtd, Zpci,
};
use proptest::prelude::*;

/// Every format, in configurations that differ in what decides about entries.
fn formats() -> Vec<AnyIoFormat> {
    let shift = |raw| PageShift::new(raw).unwrap();
    let tce = |page, window, levels| Tce::new(shift(page), shift(window), levels).unwrap();
    vec![
        tce(12, 31, 1).into(),
        tce(16, 40, 2).with_write_implies_read(true).into(),
        tce(21, 48, 3).into(),
        Vtd::new(3, 39).unwrap().into(),
        Vtd::new(4, 46).unwrap().with_marks(true).unwrap().with_snoop_control(true).into(),
        Vtd::new(5, 52).unwrap().with_leaves(true, false).into(),
        AmdVi::new(1).unwrap().into(),
        AmdVi::new(3).unwrap().with_marks(true).into(),
        AmdVi::new(6).unwrap().into(),
        Smmu::stage1(Granule::Size4K, 48, 44).unwrap().into(),
        Smmu::stage1(Granule::Size4K, 32, 40).unwrap().into(),
        Smmu::stage1(Granule::Size16K, 47, 48).unwrap().with_marks(true).unwrap().into(),
        Smmu::stage1(Granule::Size64K, 52, 52).unwrap().into(),
        Smmu::stage2(Granule::Size4K, 40, 44)
            .unwrap()
            .with_marks(true)
            .unwrap()
            .with_bbml2(true)
            .into(),
        Smmu::stage2(Granule::Size64K, 48, 48).unwrap().into(),
        Zpci::new(2).unwrap().into(),
        Zpci::new(3).unwrap().into(),
        Zpci::new(5).unwrap().into(),
    ]
}

/// Every table that the format has, from the top down.
fn tables(format: &AnyIoFormat) -> Vec<IoTable> {
    let mut all = vec![format.top(PhysAddr::new(0x10_0000_0000))];
    while let Some(next) = format.below(&all[all.len() - 1], PhysAddr::new(0x20_0000_0000)) {
        all.push(next);
    }
    all
}

fn format_and_table() -> impl Strategy<Value = (AnyIoFormat, IoTable)> {
    let all: Vec<_> = formats()
        .into_iter()
        .flat_map(|format| tables(&format).into_iter().map(move |table| (format, table)))
        .collect();
    prop::sample::select(all)
}

/// Any value, and values in which an address stands between a few flags.
fn raw() -> impl Strategy<Value = u64> {
    let shaped = (any::<u64>(), 32..=57_u32, 11..=31_u32, 0..0x1000_u64, any::<u16>());
    let shaped = shaped.prop_map(|(addr, width, align, low, high)| {
        let addr = addr & ((1 << width) - 1) & !((1 << align) - 1);
        addr | low | u64::from(high & 0xff) << 56
    });
    prop_oneof![1 => any::<u64>(), 4 => shaped]
}

fn access() -> impl Strategy<Value = Access> {
    (0..4_u8).prop_map(Access::from_bits_retain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Every value has a meaning, and what is said of it can be said in the format again.
    #[test]
    fn decoding_is_total((format, at) in format_and_table(), raw in raw()) {
        let entry = format.decode(&at, raw);
        match entry {
            IoEntry::Malformed => {}
            IoEntry::Absent => {
                let absent = format.encode(&at, 0, entry).unwrap();
                prop_assert_eq!(format.decode(&at, absent), IoEntry::Absent);
            }
            IoEntry::Table(next, _) => {
                prop_assert!(next.shift < at.shift);
                let again = format.encode(&at, 0, entry);
                prop_assert_eq!(again.map(|raw| format.decode(&at, raw)), Ok(entry));
            }
            IoEntry::Leaf(leaf) => {
                prop_assert!(format.leaf_sizes(&at).contains(leaf.shift), "{:?}", leaf);
                prop_assert!(leaf.addr.is_aligned(leaf.shift));
                prop_assert!(!leaf.access.is_empty());
            }
        }
    }

    /// A leaf comes back as it was, from each of the entries that it takes.
    #[test]
    fn leaves_come_back(
        (format, at) in format_and_table(),
        size in 0..64_u8,
        addr in any::<u64>(),
        width in 36..=57_u32,
        access in access(),
        flags in prop_oneof![3 => Just(0), 1 => 0..16_u8],
        index in any::<u32>(),
    ) {
        let Some(shift) = format.leaf_sizes(&at).at_most(PageShift::new(size).unwrap()) else {
            return Ok(());
        };
        let addr = PhysAddr::new(addr & ((1 << width) - 1)).align_down(shift);
        let flags = IoFlags::from_bits_retain(flags);
        let leaf = IoLeaf { flags, ..IoLeaf::new(addr, shift, access) };
        let index = index % at.entries();
        if let Ok(raw) = format.encode(&at, index, IoEntry::Leaf(leaf)) {
            prop_assert_eq!(format.decode(&at, raw), IoEntry::Leaf(leaf), "{:#x}", raw);
            prop_assert!(leaf.entries(&at) <= u64::from(at.entries()));
        } else {
            // What is ordinary can always be said.
            prop_assert!(width > 39 || !flags.is_empty() || access != Access::all());
        }
    }

    /// A leaf and the one behind it differ by their size, where the format says so.
    #[test]
    fn address_bits_are_only_that(
        (format, at) in format_and_table(),
        raw in raw(),
        other in any::<u64>(),
    ) {
        let bits = format.address_bits(&at);
        prop_assert_eq!(bits & format.volatile_bits(), 0);
        if let IoEntry::Leaf(leaf) = format.decode(&at, raw) {
            let bits = bits & !leaf.shift.mask();
            let addr = PhysAddr::new(leaf.addr.raw() & !bits | other & bits);
            let entry = format.decode(&at, raw & !bits | other & bits);
            if leaf.shift == at.shift {
                prop_assert_eq!(entry, IoEntry::Leaf(IoLeaf { addr, ..leaf }));
            }
        }
    }

    /// Tables under a taller top are read and written as they were before.
    #[test]
    fn entries_do_not_depend_on_the_levels_above(
        (format, at) in format_and_table(),
        levels in 0..8_u8,
        raw in raw(),
        index in any::<u32>(),
    ) {
        let Some(other) = format.with_levels(levels) else { return Ok(()) };
        let entry = format.decode(&at, raw);
        prop_assert_eq!(other.decode(&at, raw), entry);
        prop_assert_eq!(other.encode(&at, index, entry), format.encode(&at, index, entry));
        prop_assert_eq!(other.below(&at, at.base), format.below(&at, at.base));
        prop_assert_eq!(other.leaf_sizes(&at), format.leaf_sizes(&at));
        prop_assert_eq!(other.address_bits(&at), format.address_bits(&at));
        prop_assert_eq!(other.with_levels(format.levels()), Some(format));
    }

    /// Who has noted that a page was written takes the mark away, and nothing else with it.
    #[test]
    fn a_page_that_was_written_can_be_made_clean((format, at) in format_and_table(), raw in raw()) {
        let IoEntry::Leaf(leaf) = format.decode(&at, raw) else { return Ok(()) };
        if leaf.flags.contains(IoFlags::DIRTY) {
            let clean = IoLeaf { flags: leaf.flags.difference(IoFlags::DIRTY), ..leaf };
            let again = format.encode(&at, 0, IoEntry::Leaf(clean));
            prop_assert_eq!(again.map(|raw| format.decode(&at, raw)), Ok(IoEntry::Leaf(clean)));
        }
    }

    /// What devices set by themselves changes marks and nothing else.
    #[test]
    fn volatile_bits_are_only_marks((format, at) in format_and_table(), raw in raw()) {
        let volatile = format.volatile_bits();
        match (format.decode(&at, raw & !volatile), format.decode(&at, raw | volatile)) {
            (IoEntry::Leaf(clean), IoEntry::Leaf(marked)) => {
                prop_assert_eq!(IoLeaf { flags: marked.flags, ..clean }, marked);
            }
            (clean, marked) => prop_assert_eq!(clean, marked),
        }
    }
}

/// Who takes tables out of a tree keeps them in a list, through entries that stay absent.
#[test]
fn an_absent_entry_has_room_for_the_address_of_its_table() {
    for format in formats() {
        for at in &tables(&format)[1..] {
            let absent = format.encode(at, 0, IoEntry::Absent).unwrap();
            for addr in [at.bytes(), 0x12_3456 * at.bytes(), (1 << 52) - at.bytes()] {
                assert_eq!(absent & addr, 0, "{format:?}");
                assert_eq!(format.decode(at, absent | addr), IoEntry::Absent, "{format:?}");
            }
        }
    }
}

#[test]
fn sizes_above_and_at_most() {
    let shift = |raw| PageShift::new(raw).unwrap();
    let sizes = LeafSizes::NONE.with(shift(12)).with(shift(21)).with(shift(63));
    for (above, want) in [(0, Some(12)), (12, Some(21)), (20, Some(21)), (21, Some(63)), (63, None)]
    {
        assert_eq!(sizes.above(shift(above)).map(PageShift::raw), want);
    }
    for (most, want) in [(11, None), (12, Some(12)), (20, Some(12)), (62, Some(21)), (63, Some(63))]
    {
        assert_eq!(sizes.at_most(shift(most)).map(PageShift::raw), want);
    }
    assert_eq!(LeafSizes::NONE.above(shift(0)), None);
    for (least, most) in [(0, 0), (12, 20), (12, 63), (63, 63), (0, 63), (13, 12), (63, 0)] {
        let all = (least..=most).map(shift).fold(LeafSizes::NONE, LeafSizes::with);
        assert_eq!(LeafSizes::between(shift(least), shift(most)), all, "{least} {most}");
    }
}

#[test]
fn a_taller_tree_has_the_shorter_one_behind_its_first_entries() {
    for format in formats() {
        assert_eq!(format.with_levels(format.levels()), Some(format));
        let all: Vec<_> = (0..=u8::MAX).filter_map(|levels| format.with_levels(levels)).collect();
        let levels: Vec<_> = all.iter().map(AnyIoFormat::levels).collect();
        let want = match format {
            AnyIoFormat::AmdVi(_) => vec![1, 2, 3, 4, 5, 6],
            AnyIoFormat::Vtd(_) => vec![3, 4, 5],
            AnyIoFormat::Zpci(_) => vec![2, 3, 4, 5],
            _ => vec![format.levels()],
        };
        assert_eq!(levels, want, "{format:?}");
        for pair in all.windows(2) {
            let base = PhysAddr::new(0x10_0000_0000);
            let (short, tall) = (pair[0].top(base), pair[1].top(base));
            assert_eq!(pair[1].below(&tall, base), Some(short), "{format:?}");
            assert!(pair[0].last() < pair[1].last(), "{format:?}");
            assert_eq!(tall.index(pair[0].last()), 0, "{format:?}");
        }
    }
}

#[test]
fn only_what_has_leaves_of_several_sizes_splits_them() {
    for format in formats() {
        let sizes =
            tables(&format).iter().filter(|at| format.leaf_sizes(at) != LeafSizes::NONE).count();
        assert!(!format.splits() || sizes > 1 || format.levels() == 1, "{format:?}");
    }
    let smmu = Smmu::stage1(Granule::Size4K, 48, 44).unwrap();
    assert!(!smmu.splits() && smmu.with_bbml2(true).splits());
    assert!(Vtd::new(4, 46).unwrap().splits() && AmdVi::new(4).unwrap().splits());
}

#[test]
fn every_format_reaches_its_base_page_in_few_levels() {
    for format in formats() {
        let tables = tables(&format);
        assert!(tables.len() <= MAX_IO_LEVELS, "{format:?}");
        assert_eq!(tables.len(), usize::from(format.levels()), "{format:?}");
        assert_eq!(tables[tables.len() - 1].shift, format.base(), "{format:?}");
        for pair in tables.windows(2) {
            assert_eq!(pair[0].shift.raw(), pair[1].shift.raw() + pair[1].bits, "{format:?}");
        }
        let top = tables[0];
        let reach = u32::from(top.shift.raw()) + u32::from(top.bits);
        assert!(format.last().raw().checked_shr(reach).unwrap_or(0) == 0, "{format:?}");
        let sizes = format.leaf_sizes(&tables[tables.len() - 1]);
        assert!(sizes.contains(format.base()), "{format:?}");
    }
}

/// No number of bits makes a table that is smaller than one of fewer.
#[test]
fn a_table_that_no_format_has_is_as_large_as_one_can_be() {
    for bits in 0..=u8::MAX {
        let table = IoTable { base: PhysAddr::new(0), shift: PageShift::SIZE_4K, bits };
        assert_eq!(table.entries(), 1 << bits.min(31));
        assert_eq!(table.bytes(), u64::from(table.entries()) * 8);
        assert_eq!(table.index(Iova::new(u64::MAX)), table.entries() - 1);
    }
}
