//! The walker: one pass over tables built by hand, each entry decoded once, and tables that lie.

use std::cell::Cell;
use std::collections::BTreeMap;

use pinfold::host::{PhysMem, SpaceId, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk, WalkError, translate};
use pinfold::{
    AddrRange, AddressSpace, PageCount, PageFormat, PageShift, PhysAddr, S390x, Table, VirtAddr,
    X86_64,
};
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{EncodeError, Entry, Leaf, LeafFlags, Rights};
use pinfold_sim::TableFormat;
use proptest::prelude::*;

const BASE: PageShift = PageShift::SIZE_4K;
const LEAF: u64 = 0x8000_0000_0000_0067;
const LARGE: u64 = 0x8000_0000_0000_00e7;
const TABLE: u64 = 0x67;
/// Entries of the largest table that a format has.
const LARGEST: usize = 1 << 13;

/// Tables by frame; everything else is outside memory.
#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<Word>>);

impl Memory {
    /// An entry of x86_64: little endian, whatever the CPU that runs the tests.
    fn set(&mut self, table: u64, index: usize, raw: u64) {
        self.set_word(table, index, raw.to_le());
    }

    fn set_word(&mut self, table: u64, index: usize, raw: u64) {
        let words =
            self.0.entry(table).or_insert_with(|| (0..LARGEST).map(|_| Word::new(0)).collect());
        words[index] = Word::new(raw);
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let words = self.0.get(&base.raw())?.get(..entries)?;
        Some(TableView::from_words(words))
    }
}

/// The format, counting how often an entry is decoded.
#[derive(Clone, Copy)]
struct Counting<'a>(X86_64, &'a Cell<u64>);

impl PageFormat for Counting<'_> {
    fn name(&self) -> &'static str {
        "counting"
    }
    fn big_endian(&self) -> bool {
        false
    }
    fn base(&self) -> PageShift {
        self.0.base()
    }
    fn valid(&self, range: &AddrRange) -> bool {
        self.0.valid(range)
    }
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        self.1.set(self.1.get() + 1);
        self.0.decode(at, raw)
    }
    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        self.0.encode(at, entry)
    }
    fn volatile_bits(&self) -> u64 {
        self.0.volatile_bits()
    }
}

fn format() -> X86_64 {
    X86_64::new(4, 46).unwrap()
}

fn range(start: u64, pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(start), PageCount::new(pages), BASE).unwrap()
}

/// (first address, first frame or none, pages) of every extent.
type Extents = Vec<(u64, Option<u64>, u64)>;

fn walk<F: PageFormat>(
    format: F,
    memory: &Memory,
    root: Table,
    range: AddrRange,
) -> Result<Extents, WalkError> {
    let mut walk = RangeWalk::new(format, root, memory, range)?;
    let mut extents = Vec::new();
    while let Some(extent) = walk.next_extent()? {
        extents.push(outline(&extent));
    }
    Ok(extents)
}

fn outline(extent: &Extent<'_>) -> (u64, Option<u64>, u64) {
    match extent {
        Extent::Hole { va, pages } => (va.raw(), None, pages.raw()),
        Extent::Leaf(run) => {
            assert!(run.unchanged(PageCount::ZERO, run.pages, BASE));
            (run.va.raw(), Some(run.pfn.raw()), run.pages.raw())
        }
    }
}

/// A root at 0x1000 with one path down to a page table at 0x4000.
fn one_table() -> Memory {
    let mut memory = Memory::default();
    memory.set(0x1000, 0, 0x2000 | TABLE);
    memory.set(0x2000, 0, 0x3000 | TABLE);
    memory.set(0x3000, 0, 0x4000 | TABLE);
    memory.set(0x4000, 0, 0);
    memory
}

#[test]
fn neighbours_come_as_one_run_and_every_entry_is_decoded_once() {
    let mut memory = one_table();
    for i in 0..512u64 {
        memory.set(0x4000, i as usize, (0x10_0000 + i * 0x1000) | LEAF);
    }
    memory.set(0x4000, 100, 0x90_0000 | LEAF);
    memory.set(0x4000, 200, 0);
    memory.set(0x4000, 201, 0);
    // Behind the page table: a 2 MiB leaf, then one from the middle of which the range ends.
    memory.set(0x3000, 1, 0x40_0000 | LARGE);
    memory.set(0x3000, 2, 0x60_0000 | LARGE);
    let decoded = Cell::new(0);
    let format = Counting(format(), &decoded);
    let root = format.0.root(0x1000).unwrap();
    let extents = walk(format, &memory, root, range(0x1000, 511 + 512 + 100)).unwrap();
    assert_eq!(
        extents,
        [
            (0x1000, Some(0x101), 99),
            (100 << 12, Some(0x900), 1),
            (101 << 12, Some(0x100 + 101), 99),
            (200 << 12, None, 2),
            (202 << 12, Some(0x100 + 202), 310),
            (0x20_0000, Some(0x400), 512 + 100),
        ]
    );
    // 511 of the page table, 3 above it, and 2 large leaves.
    assert_eq!(decoded.get(), 511 + 3 + 2);
}

/// More runs than are read together, holes among them, and an end that is an error.
#[test]
fn all_shown_at_once_is_what_comes_one_by_one() {
    let mut memory = one_table();
    for i in (0..512u64).filter(|i| i % 50 > 3) {
        // Runs of one, two and three pages.
        memory.set(0x4000, i as usize, (0x10_0000 + (i + i / 3 + i / 5) * 0x1000) | LEAF);
    }
    memory.set(0x3000, 1, 0x40_0000 | LARGE);
    memory.set(0x3000, 3, 0x60_1000 | LARGE | 1 << 13);
    let root = format().root(0x1000).unwrap();
    for (start, pages, ends) in [(0x1000, 511 + 512 + 7, true), (0, 4 * 512, false)] {
        let mut shown = Vec::new();
        let all = RangeWalk::new(format(), root, &memory, range(start, pages)).unwrap();
        let end = all.for_each(|extent| shown.push(outline(&extent)));
        assert_eq!(end.is_ok(), ends);
        let mut one_by_one = RangeWalk::new(format(), root, &memory, range(start, pages)).unwrap();
        let mut came = Vec::new();
        let last = loop {
            match one_by_one.next_extent() {
                Ok(Some(extent)) => came.push(outline(&extent)),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert_eq!((&shown, end), (&came, last));
        assert!(shown.len() > 200);
    }
}

#[test]
fn large_pages_that_continue_each_other_are_one_run() {
    let mut memory = one_table();
    memory.set(0x2000, 1, 0x4000_0000 | LARGE);
    memory.set(0x2000, 2, 0x8000_0000 | LARGE);
    let root = format().root(0x1000).unwrap();
    let pages = 2 << 18;
    let extents = walk(format(), &memory, root, range(0x4000_0000, pages)).unwrap();
    assert_eq!(extents, [(0x4000_0000, Some(0x4_0000), pages)]);
    // From the middle of the first to the middle of the second.
    let extents = walk(format(), &memory, root, range(0x4000_5000, 1 << 18)).unwrap();
    assert_eq!(extents, [(0x4000_5000, Some(0x4_0005), 1 << 18)]);
}

/// D8: where an unrelated feature was off, a 1 GiB leaf was taken for a table. Whatever size a
/// format can map by one entry, the walk takes for a page of that size, on every level.
fn every_leaf_is_a_leaf<F: TableFormat>(format: F, sizes: &[u8]) {
    let base = format.base();
    let mut levels = vec![format.top(PhysAddr::new(0x10_0000))];
    while let Some(next) = {
        let at = levels.last().unwrap();
        format.below(at, PhysAddr::new(at.base.raw() + 0x1_0000))
    } {
        levels.push(next);
    }
    let rights = Rights::READ | Rights::WRITE | Rights::USER;
    let mut found = Vec::new();
    for (depth, table) in levels.iter().enumerate() {
        let addr = PhysAddr::new(3 << table.shift.raw());
        let flags = LeafFlags::empty();
        let leaf = Leaf { flags, ..Leaf::new(addr, table.shift, rights) };
        let Ok(raw) = format.encode(table, Entry::Leaf(leaf)) else { continue };
        let mut memory = Memory::default();
        let in_memory = |raw: u64| if format.big_endian() { raw.to_be() } else { raw.to_le() };
        for pair in levels[..=depth].windows(2) {
            let way = format.encode(&pair[0], Entry::Table(pair[1], Rights::all())).unwrap();
            memory.set_word(pair[0].base.raw(), 0, in_memory(way));
        }
        memory.set_word(table.base.raw(), 0, in_memory(raw));
        let space = AddressSpace::new(SpaceId(0), format, levels[0]);
        let va = VirtAddr::new(table.shift.bytes() - base.bytes() + 5);
        let page = translate(&space, &memory, va).unwrap().unwrap();
        assert_eq!((page.shift, page.rights), (table.shift, rights), "{}", format.name());
        assert_eq!(page.addr.raw(), addr.raw() + va.raw());
        let pages = table.shift.pages(base).raw();
        let extents = walk(format, &memory, levels[0], range(0, pages)).unwrap();
        assert_eq!(extents, [(0, Some(addr.raw() >> base.raw()), pages)]);
        found.push(table.shift.raw());
    }
    assert_eq!(found, sizes, "{}", format.name());
}

#[test]
fn a_leaf_is_a_leaf_on_every_level() {
    for levels in [4, 5] {
        every_leaf_is_a_leaf(X86_64::new(levels, 46).unwrap(), &[30, 21, 12]);
    }
    for (levels, sizes) in [(5, &[31, 20, 12][..]), (2, &[20, 12])] {
        every_leaf_is_a_leaf(S390x::new(levels, Facilities::all()).unwrap(), sizes);
    }
}

#[test]
fn rights_narrow_on_the_way_down() {
    let mut memory = one_table();
    memory.set(0x4000, 0, 0x10_0000 | LEAF);
    memory.set(0x3000, 0, 0x4000 | (TABLE & !2));
    let space = AddressSpace::new(SpaceId(0), format(), format().root(0x1000).unwrap());
    let found = translate(&space, &memory, VirtAddr::new(0x123)).unwrap().unwrap();
    assert_eq!(found.addr, PhysAddr::new(0x10_0123));
    assert_eq!(found.rights, Rights::READ | Rights::USER);
}

#[test]
fn a_change_of_the_leaf_or_of_its_parent_is_noticed_and_marks_are_not() {
    let mut memory = one_table();
    for i in 0..4u64 {
        memory.set(0x4000, i as usize, (0x10_0000 + i * 0x1000) | LEAF);
    }
    let root = format().root(0x1000).unwrap();
    let run = |memory: &Memory, check: &dyn Fn(&Memory, pinfold::walk::LeafRun<'_>)| {
        let mut walk = RangeWalk::new(format(), root, memory, range(0, 4)).unwrap();
        let Ok(Some(Extent::Leaf(run))) = walk.next_extent() else { panic!() };
        check(memory, run);
    };
    let all = (PageCount::ZERO, PageCount::new(4));
    let last = (PageCount::new(3), PageCount::ONE);
    run(&memory, &|memory, run| {
        let table = memory.table(PhysAddr::new(0x4000), 512).unwrap();
        let old = table.load(2).unwrap();
        table.store(2, old & !0x60_u64.to_le()).unwrap();
        assert!(run.unchanged(all.0, all.1, BASE), "accessed and dirty are hardware's");
        table.store(2, old & !2_u64.to_le()).unwrap();
        assert!(!run.unchanged(all.0, all.1, BASE), "the write bit went");
        assert!(run.unchanged(last.0, last.1, BASE), "page 3 is as it was");
        table.store(2, old).unwrap();
        let parent = memory.table(PhysAddr::new(0x3000), 512).unwrap();
        let old = parent.swap(0, (0x5000 | TABLE).to_le()).unwrap();
        assert!(!run.unchanged(all.0, all.1, BASE), "the table was replaced (D6)");
        parent.store(0, old).unwrap();
        assert!(run.unchanged(all.0, all.1, BASE));
        let most = PageCount::new(u64::MAX);
        assert!(!run.unchanged(most, most, BASE) && !run.unchanged(last.0, most, BASE));
        assert!(!run.unchanged(PageCount::new(u64::MAX - 1), PageCount::ONE, BASE));
    });
}

#[test]
fn tables_outside_memory_end_the_walk() {
    let mut memory = one_table();
    memory.set(0x3000, 0, 0xdead_0000 | TABLE);
    let root = format().root(0x1000).unwrap();
    let error = walk(format(), &memory, root, range(0x7000, 1)).unwrap_err();
    let at = VirtAddr::new(0x7000);
    assert_eq!(error, WalkError::OutsideMemory { at, table: PhysAddr::new(0xdead_0000) });
    let root = format().root(0x9000).unwrap();
    assert!(walk(format(), &memory, root, range(0, 1)).is_err());
}

#[test]
fn malformed_entries_end_the_walk_and_name_the_level() {
    let mut memory = one_table();
    memory.set(0x1000, 0, 0x2000 | TABLE | 0x80);
    let root = format().root(0x1000).unwrap();
    let error = walk(format(), &memory, root, range(0x5000, 1)).unwrap_err();
    assert!(
        matches!(error, WalkError::Malformed { at, level, .. }
            if at == VirtAddr::new(0x5000) && level.raw() == 39),
        "{error:?}"
    );
}

#[test]
fn a_table_that_contains_itself_is_walked_like_any_other() {
    // Every entry of the root leads back to it: at the last level its words are leaves.
    let mut memory = Memory::default();
    for i in 0..512 {
        memory.set(0x1000, i, 0x1000 | TABLE);
    }
    let root = format().root(0x1000).unwrap();
    let extents = walk(format(), &memory, root, range(0, 1000)).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.2).sum::<u64>(), 1000);
    assert!(extents.iter().all(|extent| extent.1 == Some(1)));
}

/// A format whose tables never get smaller.
#[derive(Clone, Copy)]
struct Endless;

impl PageFormat for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }
    fn big_endian(&self) -> bool {
        true
    }
    fn base(&self) -> PageShift {
        BASE
    }
    fn valid(&self, _: &AddrRange) -> bool {
        true
    }
    fn decode(&self, at: &Table, _: u64) -> Entry {
        Entry::Table(*at, Rights::all())
    }
    fn encode(&self, _: &Table, _: Entry) -> Result<u64, EncodeError> {
        Err(EncodeError::Malformed)
    }
    fn volatile_bits(&self) -> u64 {
        0
    }
}

#[test]
fn a_format_that_never_arrives_is_stopped() {
    let memory = one_table();
    let root = format().root(0x1000).unwrap();
    let error = walk(Endless, &memory, root, range(0, 1)).unwrap_err();
    assert!(matches!(error, WalkError::Malformed { .. }));
}

#[test]
fn ranges_that_cannot_be_translated_are_refused() {
    let memory = one_table();
    let root = format().root(0x1000).unwrap();
    for (start, pages) in [
        (0x8000_0000_0000, 1),       // not canonical
        (0x7fff_ffff_f000, 2),       // runs into the hole
        (0x7fff_ffff_f000, 1 << 51), // lower half, hole and upper half
        (0xffff_7fff_ffff_f000, 2),  // from the hole into the upper half
    ] {
        let error = walk(format(), &memory, root, range(start, pages)).unwrap_err();
        assert_eq!(error, WalkError::NotTranslatable { at: VirtAddr::new(start) });
    }
    // The last page of the address space, and the hole in front of it.
    let top = walk(format(), &memory, root, range(0xffff_ffff_ffff_e000, 2)).unwrap();
    assert_eq!(top, [(0xffff_ffff_ffff_e000, None, 2)]);
    // The range counts in pages of another size than the format.
    let big = AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_2M).unwrap();
    assert!(walk(format(), &memory, root, big).is_err());
}

proptest! {
    /// Whatever the tables hold, the walk covers the range in order, or ends with an error, in
    /// bounded time; and what it finds is what a page-by-page walk finds.
    #[test]
    fn hostile_tables(
        entries in prop::collection::vec((0usize..5, 0usize..512, 0u64..8, any::<u16>()), 0..60),
        dense in prop::collection::vec(0usize..5, 0..3),
        start in 0u64..3000, pages in 1u64..2000,
    ) {
        let mut memory = one_table();
        for table in dense {
            for i in 0..512 {
                memory.set((table as u64 + 1) << 12, i, ((i as u64 % 6) << 12) | LEAF);
            }
        }
        for (table, index, target, low) in entries {
            memory.set((table as u64 + 1) << 12, index, (target << 12) | u64::from(low & 0xfff));
        }
        let root = format().root(0x1000).unwrap();
        let whole = walk(format(), &memory, root, range(start << 12, pages));
        let mut next = start << 12;
        if let Ok(extents) = &whole {
            for (va, frame, pages) in extents {
                prop_assert_eq!(*va, next);
                next += pages << 12;
                for i in (0..*pages).step_by(97) {
                    let one = walk(format(), &memory, root, range(va + (i << 12), 1)).unwrap();
                    prop_assert_eq!(one[0].1, frame.map(|frame| frame + i));
                }
            }
            prop_assert_eq!(next, (start + pages) << 12);
        }
    }
}
