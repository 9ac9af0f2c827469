//! Tables of s390x: they begin and end where the entry above says, an entry of zeroes is a page,
//! and what lies outside a table is absent whatever stands there in memory.

use std::collections::BTreeMap;

use pinfold::host::{PhysMem, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk, WalkError};
use pinfold::{
    AddrRange, PageCount, PageFormat, PageShift, PhysAddr, Rights, S390x, Table, VirtAddr,
};
use pinfold_arch::Entry;
use pinfold_arch::format::s390x::Facilities;
use proptest::prelude::*;

const BASE: PageShift = PageShift::SIZE_4K;
const GIB_2: u64 = 1 << (31 - 12);
const MIB: u64 = 1 << (20 - 12);

/// Tables by address, each with as many entries as it was given.
#[derive(Debug, Default)]
struct Memory(BTreeMap<u64, Vec<Word>>);

impl Memory {
    fn with(mut self, table: u64, entries: impl IntoIterator<Item = u64>) -> Self {
        let words = entries.into_iter().map(|raw| Word::new(raw.to_be())).collect();
        self.0.insert(table, words);
        self
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        // All of what is there: a host may show more than it was asked for.
        let words = self.0.get(&base.raw()).filter(|words| words.len() >= entries)?;
        Some(TableView::from_words(words))
    }
}

fn s390x(asce: u64) -> (S390x, Table) {
    S390x::from_asce(asce, Facilities::all()).unwrap()
}

fn range(start: u64, pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(start << 12), PageCount::new(pages), BASE).unwrap()
}

/// (first page, first frame or none, pages, whether they can be written) of every extent.
type Extents = Vec<(u64, Option<u64>, u64, bool)>;

fn walk(asce: u64, memory: &Memory, range: AddrRange) -> Result<Extents, WalkError> {
    let (format, root) = s390x(asce);
    let mut walk = RangeWalk::new(format, root, memory, range)?;
    let mut extents = Vec::new();
    while let Some(extent) = walk.next_extent()? {
        extents.push(match extent {
            Extent::Hole { va, pages } => (va.raw() >> 12, None, pages.raw(), false),
            Extent::Leaf(run) => {
                assert!(run.unchanged(PageCount::ZERO, run.pages, BASE));
                let write = run.rights.contains(Rights::WRITE);
                (run.va.raw() >> 12, Some(run.pfn.raw()), run.pages.raw(), write)
            }
        });
    }
    Ok(extents)
}

/// A segment table in which every entry is a frame of 1 MiB, from 4 GiB on.
fn segments(entries: u64) -> impl Iterator<Item = u64> {
    (0..entries).map(|index| 0x1_0000_0400 + (index << 20))
}

#[test]
fn entries_outside_a_table_are_absent_whatever_stands_there() {
    // The third region table's entry says TF 1, TL 2: entries 512 to 1535.
    let memory = Memory::default().with(0x4000, [0x8000 | 0x46; 2048]).with(0x8000, segments(2048));
    let frame = 0x10_0000 + 512 * MIB;
    assert_eq!(
        walk(0x4007, &memory, range(0, GIB_2)).unwrap(),
        [
            (0, None, 512 * MIB, false),
            (512 * MIB, Some(frame), 1024 * MIB, true),
            (1536 * MIB, None, 512 * MIB, false),
        ]
    );
    // The same from inside each part, and over the end of the table into the next one.
    assert_eq!(walk(0x4007, &memory, range(3, 7)).unwrap(), [(3, None, 7, false)]);
    assert_eq!(
        walk(0x4007, &memory, range(512 * MIB - 1, 3)).unwrap(),
        [(512 * MIB - 1, None, 1, false), (512 * MIB, Some(frame), 2, true)]
    );
    let last = 1536 * MIB - 1;
    assert_eq!(
        walk(0x4007, &memory, range(last, 513 * MIB + 1)).unwrap(),
        [
            (last, Some(frame + 1024 * MIB - 1), 1, true),
            (last + 1, None, 512 * MIB, false),
            (GIB_2, None, MIB, false),
        ]
    );
}

#[test]
fn a_table_ends_in_memory_where_it_ends() {
    // TF 0, TL 0: 512 entries, and no memory behind them.
    let memory = Memory::default().with(0x4000, [0x8004]).with(0x8000, segments(512));
    let whole = [(0, Some(0x10_0000), 512 * MIB, true), (512 * MIB, None, 1536 * MIB, false)];
    assert_eq!(walk(0x4007, &memory, range(0, GIB_2)), outside(0x4000, 0));
    let root = Memory(memory.0).with(0x4000, [0x8004; 512]);
    assert_eq!(walk(0x4004, &root, range(0, GIB_2)).unwrap(), whole);
    // One quarter more than there is.
    let longer = Memory(root.0).with(0x4000, [0x8005; 512]);
    assert_eq!(walk(0x4004, &longer, range(0, GIB_2)), outside(0x8000, 0));
    // An offset beyond the length leaves nothing, and nothing is read.
    let empty = Memory(longer.0).with(0x4000, [0x80c4; 512]);
    assert_eq!(walk(0x4004, &empty, range(0, GIB_2)).unwrap(), [(0, None, GIB_2, false)]);
}

fn outside(table: u64, at: u64) -> Result<Extents, WalkError> {
    let (at, table) = (VirtAddr::new(at), PhysAddr::new(table));
    Err(WalkError::OutsideMemory { at, table })
}

#[test]
fn the_top_table_ends_where_the_asce_says() {
    let memory = Memory::default().with(0x4000, (0..2048).map(|index| index << 31 | 0x404));
    // TL 0 is 1 TiB; the index goes on to 4 TiB, and beyond that is no translation at all.
    let extents = walk(0x4004, &memory, range(511 * GIB_2, 1537 * GIB_2)).unwrap();
    let present = (511 * GIB_2, Some(511 * GIB_2), GIB_2, true);
    assert_eq!(extents, [present, (512 * GIB_2, None, 1536 * GIB_2, false)]);
    let extents = walk(0x4007, &memory, range(0, 2048 * GIB_2)).unwrap();
    assert_eq!(extents, [(0, Some(0), 2048 * GIB_2, true)]);
    for (start, pages) in [(0, 2048 * GIB_2 + 1), (2048 * GIB_2, 1), ((1 << 52) - 1, 1)] {
        let at = VirtAddr::new(start << 12);
        let refused = walk(0x4007, &memory, range(start, pages)).unwrap_err();
        assert_eq!(refused, WalkError::NotTranslatable { at });
    }
}

#[test]
fn a_page_table_of_zeroes_maps_frame_0_at_every_address() {
    let memory = Memory::default().with(0x4000, [0x8800; 512]).with(0x8800, [0; 256]);
    let extents = walk(0x4000, &memory, range(250, 10)).unwrap();
    assert_eq!(extents, (250..260).map(|page| (page, Some(0), 1, true)).collect::<Vec<_>>());
    // What is absent says so.
    let memory = Memory(memory.0).with(0x8800, [0x400; 256]);
    let absent = [(250, None, 6, false), (256, None, 4, false)];
    assert_eq!(walk(0x4000, &memory, range(250, 10)).unwrap(), absent);
}

#[test]
fn protection_at_any_level_protects_what_is_below() {
    // First, second and third region table, segment and page table; P is 0x200 everywhere.
    let plain = [0x8_400f, 0xc_400b, 0x10_4007, 0x14_4800, 0x1_2345_6000];
    let tables = [0x4_4000, 0x8_4000, 0xc_4000, 0x10_4000, 0x14_4800];
    for protected in 0..=5 {
        let memory = (0..5).fold(Memory::default(), |memory, level| {
            let raw = plain[level] | if level == protected { 0x200 } else { 0 };
            memory.with(tables[level], [raw; 2048])
        });
        let extents = walk(0x4_400f, &memory, range(0, 1)).unwrap();
        assert_eq!(extents, [(0, Some(0x12_3456), 1, protected == 5)], "level {protected}");
    }
}

/// What each page of the range has, found by following the tables for it alone.
fn slowly(asce: u64, memory: &Memory, range: AddrRange) -> Option<Vec<(Option<u64>, bool)>> {
    let (format, root) = s390x(asce);
    let page = |va: VirtAddr| {
        let (mut at, mut rights) = (root, Rights::all());
        loop {
            let index = at.index(va);
            // A table outside memory ends a walk, whatever is looked for in it.
            let entries = memory.table(at.base, at.entries())?;
            if !at.has(index) {
                return Some((None, false));
            }
            match format.decode(&at, u64::from_be(entries.load(usize::from(index))?)) {
                Entry::Table(next, allowed) => (at, rights) = (next, rights & allowed),
                Entry::Leaf(leaf) => {
                    let frame = (leaf.addr.raw() + va.offset(leaf.shift)) >> 12;
                    return Some((Some(frame), (rights & leaf.rights).contains(Rights::WRITE)));
                }
                Entry::Absent => return Some((None, false)),
                Entry::Malformed => return None,
            }
        }
    };
    (0..range.pages().raw()).map(|n| page(VirtAddr::new(range.start().raw() + (n << 12)))).collect()
}

/// The same by a walk in one pass; `None` if it ends with an error.
fn quickly(asce: u64, memory: &Memory, range: AddrRange) -> Option<Vec<(Option<u64>, bool)>> {
    let mut each = Vec::new();
    for (page, frame, pages, write) in walk(asce, memory, range).ok()? {
        assert_eq!(page, (range.start().raw() >> 12) + each.len() as u64);
        each.extend((0..pages).map(|n| (frame.map(|frame| frame + n), write)));
    }
    Some(each)
}

/// An entry for the edges of quarters: absent, a frame, or one of three tables with any offset,
/// length and protection.
fn entry(kind: u64, next: u64) -> impl Strategy<Value = u64> {
    let low = (0..16_u64, any::<bool>());
    let table = (0..3_u64, low).prop_map(move |(table, (parts, protected))| {
        let parts = (parts >> 2) << 6 | parts & 3;
        let parts = if kind == 0 { 0 } else { parts };
        (next + table * 0x4000) | kind | parts | if protected { 0x200 } else { 0 }
    });
    let size = if kind == 0 { 20 } else { 31 };
    let frame = (0..4_u64, any::<bool>())
        .prop_map(move |(n, protected)| (n << size) | 0x400 | kind | u64::from(protected) << 9);
    prop_oneof![2 => Just(0x20 | kind), 2 => frame, 5 => table]
}

/// Points to one of four tables or outside memory, from a table of any type, and may have bits that
/// do not go together.
fn any_entry() -> impl Strategy<Value = u64> {
    let noise = prop_oneof![2 => Just(0), 1 => 0..0x1000_u64];
    let parts = prop::sample::select(&[0, 3, 0x41, 0xc0_u64]);
    (1..7_u64, 0..4_u64, parts, noise)
        .prop_map(|(target, kind, parts, noise)| (target * 0x4000) | kind << 2 | parts ^ noise)
}

fn page() -> impl Strategy<Value = u64> {
    let run = 0x1_0000..0x1_0003_u64;
    prop_oneof![1 => Just(0x400), 1 => Just(0_u64), 6 => run.prop_map(|frame| frame << 12)]
}

/// Tables with few different entries, so that there are runs: `shape` picks one for each 128.
fn table(entries: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(entries, 16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A walk in one pass finds what looking at each page alone finds, whatever part of a table
    /// exists, and merges it into ever the same bytes.
    #[test]
    fn a_walk_finds_what_single_look_ups_find(
        root in table(entry(4, 0x10_0000)),
        segments in prop::collection::vec(table(entry(0, 0x20_0000)), 3),
        pages in prop::collection::vec(prop::collection::vec(page(), 256), 3),
        edge in 0..17_u64,
        inner in 0..17_u64,
        before in 0..600_u64,
        length in 1..1500_u64,
        last in 0..4_u64,
    ) {
        let spread = |table: &[u64]| (0..2048).map(|at| table[at / 128]).collect::<Vec<_>>();
        let mut memory = Memory::default().with(0x4000, spread(&root));
        for (at, table) in (0..).zip(&segments) {
            memory = memory.with(0x10_0000 + at * 0x4000, spread(table));
        }
        for (at, table) in (0..).zip(pages) {
            memory = memory.with(0x20_0000 + at * 0x4000, table);
        }
        let start = (edge * 128 * GIB_2 + inner * 128 * MIB).saturating_sub(before);
        let end = (start + length).min(2048 * GIB_2);
        prop_assume!(start < end);
        let asce = 0x4004 | last;
        let range = range(start, end - start);
        prop_assert_eq!(quickly(asce, &memory, range), slowly(asce, &memory, range));
    }

    /// Whatever stands in tables that may point to each other, to themselves and outside memory, and
    /// whichever of them a walk begins with: it ends as looking at each page alone does.
    #[test]
    fn hostile_tables(
        tables in prop::collection::vec(table(any_entry()), 4),
        asce in 0..16_u64,
        start in any::<u64>(),
        pages in 1..1500_u64,
    ) {
        let mut memory = Memory::default();
        for (at, table) in (1..).zip(&tables) {
            memory = memory.with(at * 0x4000, (0..2048).map(|index| table[index / 128]));
        }
        let asce = 0x4000 | asce;
        let reach = 31 + 11 * (asce >> 2 & 3);
        let start = start >> (64 - reach) >> 12 << 12;
        let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), BASE);
        prop_assume!(range.is_ok_and(|range| s390x(asce).0.valid(&range)));
        let range = range.unwrap();
        prop_assert_eq!(quickly(asce, &memory, range), slowly(asce, &memory, range));
    }
}
