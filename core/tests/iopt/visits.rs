//! What is shown of the tables, and what is said of trees that somebody else has made.

use pinfold::host::{Flow, PhysMem};
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun, Visited};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AmdVi, IoEntry, IoFlags, IoFormat, Iova, Vtd};
use pinfold_sim::TableMemory;

const RW: Access = Access::all();
const HUGE: u64 = 2 << 20;

fn made<F: IoFormat>(format: F, pages: &[u64]) -> (IoPageTable<F>, TableMemory) {
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(format, &memory).unwrap();
    for at in pages {
        let run = IoRun { addr: PhysAddr::new(at & 0xffff_f000), bytes: 0x1000 };
        table.map(&memory, Iova::new(*at), [run], RW, IoFlags::empty()).unwrap();
    }
    (table, memory)
}

fn vtd(pages: &[u64]) -> (IoPageTable<Vtd>, TableMemory) {
    made(Vtd::new(3, 46).unwrap(), pages)
}

fn range(start: u64, bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), bytes).unwrap()
}

/// What is shown until so many were: how deep it is, and the addresses.
fn shown<F: IoFormat>(
    table: &IoPageTable<F>,
    memory: &TableMemory,
    range: IovaRange,
    most: usize,
) -> Vec<(u8, u64, u64)> {
    let mut seen = Vec::new();
    let each = |visited: &Visited| {
        let (start, last) = (visited.range.start().raw(), visited.range.last().raw());
        seen.push((visited.depth, start, last));
        if seen.len() < most { Flow::Continue } else { Flow::Stop }
    };
    table.visit(memory, range, each).unwrap();
    seen
}

#[test]
fn entries_are_shown_in_order_until_it_is_enough() {
    let (table, memory) = vtd(&[0x1000, 0x3000, HUGE, 1 << 30]);
    let gib = (1 << 30) - 1;
    let all = [
        (0, 0, gib),
        (1, 0, HUGE - 1),
        (2, 0x1000, 0x1fff),
        (2, 0x3000, 0x3fff),
        (1, HUGE, 2 * HUGE - 1),
        (2, HUGE, HUGE + 0xfff),
        (0, 1 << 30, (2 << 30) - 1),
        (1, 1 << 30, (1 << 30) + HUGE - 1),
        (2, 1 << 30, (1 << 30) + 0xfff),
    ];
    for most in 1..=all.len() {
        assert_eq!(shown(&table, &memory, IovaRange::ALL, most), all[..most]);
    }
    // Whatever leads to the range, and no neighbour.
    let part = shown(&table, &memory, range(0x3000, 1), usize::MAX);
    assert_eq!(part, [all[0], all[1], all[3]]);
    assert_eq!(shown(&table, &memory, range(0x3fff, HUGE), usize::MAX).len(), 5);
    let beyond = Iova::new(1 << 39);
    let visited = table.visit(&memory, range(1 << 39, 1), |_| panic!("nothing is there"));
    assert_eq!(visited, Err(IoptError::OutsideAperture { at: beyond }));
}

/// A top table that has entries for more than there are addresses.
#[test]
fn the_last_address_is_shown_once() {
    let (table, memory) = made(AmdVi::new(6).unwrap(), &[0, u64::MAX - 0xfff]);
    let seen = shown(&table, &memory, IovaRange::ALL, usize::MAX);
    assert_eq!(seen.len(), 12);
    let leaves: Vec<_> = seen.iter().filter(|(depth, ..)| *depth == 5).collect();
    assert_eq!(leaves, [&(5, 0, 0xfff), &(5, u64::MAX - 0xfff, u64::MAX)]);
}

#[test]
fn what_is_malformed_is_shown_and_a_lost_table_is_an_error() {
    let (table, memory) = vtd(&[0x1000]);
    let top = memory.table(table.root().base, 512).unwrap();
    let raw = 1_u64 << 62 | 3;
    top.store(1, raw.to_le()).unwrap();
    let mut entries = Vec::new();
    let each = |visited: &Visited| {
        entries.push((visited.raw, visited.entry));
        Flow::Continue
    };
    table.visit(&memory, IovaRange::ALL, each).unwrap();
    assert_eq!((entries.len(), entries[3]), (4, (raw, IoEntry::Malformed)));
    top.store(2, 0x1234_5003_u64.to_le()).unwrap();
    let lost = table.visit(&memory, IovaRange::ALL, |_| Flow::Continue);
    assert_eq!(lost, Err(IoptError::Corrupt { at: Iova::new(2 << 30), raw: 0x1234_5000 }));
}

/// A device may do what all entries on the way allow together.
#[test]
fn tables_of_others_may_grant_less() {
    let (table, memory) = vtd(&[0x1000]);
    let top = memory.table(table.root().base, 512).unwrap();
    let link = u64::from_le(top.load(0).unwrap());
    top.store(0, (link & !2).to_le()).unwrap();
    let found = table.translate(&memory, Iova::new(0x1000)).unwrap().unwrap();
    assert_eq!(found.access, Access::READ);
}

/// A tree is opened as it is: the tables are counted, and it can be taken apart.
#[test]
fn what_was_opened_is_given_back() {
    let (made, memory) = vtd(&[0x1000, HUGE, 1 << 30]);
    let root = made.root().base;
    let format = made.format();
    memory.stop_after(0);
    memory.set_step(64);
    let stopped = IoPageTable::open(format, &memory, root);
    assert_eq!(stopped.map(drop), Err(IoptError::Interrupted));
    memory.stop_after(u64::MAX);
    let odd = IoPageTable::open(format, &memory, PhysAddr::new(root.raw() + 64));
    assert!(matches!(odd, Err(IoptError::Corrupt { .. })));
    let mut opened = IoPageTable::open(format, &memory, root).unwrap();
    assert_eq!((opened.tables(), memory.used()), (6, 6));
    let mut buffer = heapless::Vec::<UnmappedRun, 4>::new();
    let mut unmap = opened.unmap(&memory, range(0, 2 * HUGE)).unwrap();
    while let Some(unmapped) = unmap.step(&memory, &mut buffer).unwrap() {
        unmapped.flushed(&memory);
    }
    assert_eq!((opened.tables(), memory.used()), (4, 4));
    opened.trim(&memory).flushed(&memory);
    assert_eq!((opened.tables(), memory.used()), (3, 3));
    // Nothing stops this: whoever is told that it ended has nothing left of it.
    memory.stop_after(0);
    opened.destroy(&memory).unwrap();
    assert_eq!(memory.used(), 0);
}

#[test]
fn ranges_are_made_of_pages_that_there_are() {
    let (table, memory) = vtd(&[0x1000]);
    let last = Iova::new((1 << 39) + 0xfff);
    let outside = range((1 << 39) - 0x1000, 0x2000);
    let error = Err(IoptError::OutsideAperture { at: last });
    assert_eq!(table.unmap(&memory, outside).map(drop), error);
    assert_eq!(table.split(&memory, outside), error);
    for (start, bytes) in [(0x1800, 0x1000), (0x1000, 0x1800), (0x800, 0x1800)] {
        let error = Err(IoptError::Unaligned { at: Iova::new(start) });
        assert_eq!(table.unmap(&memory, range(start, bytes)).map(drop), error);
        assert_eq!(table.split(&memory, range(start, bytes)), error);
    }
}

/// Entries that say nothing may still hold something, as hardware and other programs leave it there.
#[test]
fn what_says_nothing_in_other_words_is_mapped_over() {
    const PAGES: u64 = 64;
    for format in crate::formats() {
        for askew in [0, 1] {
            let memory = TableMemory::new(1 << 20);
            let table = IoPageTable::new(format, &memory).unwrap();
            let page = format.base().bytes();
            let start = Iova::new(PAGES * page);
            let map = |pages: u64| {
                let run =
                    IoRun { addr: PhysAddr::new((PAGES + askew) * page), bytes: pages * page };
                table.map(&memory, start, [run], RW, IoFlags::empty()).unwrap();
            };
            let unmap = |pages: u64| {
                let mut runs = heapless::Vec::<UnmappedRun, 64>::new();
                let mut unmap = table.unmap(&memory, range(start.raw(), pages * page)).unwrap();
                let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
                let bytes = unmapped.bytes();
                unmapped.flushed(&memory);
                bytes
            };
            map(1);
            let mut lowest = table.root();
            let down = |visited: &Visited| {
                lowest = visited.table;
                Flow::Continue
            };
            table.visit(&memory, range(start.raw(), page), down).unwrap();
            unmap(1);
            let view = memory.table(lowest.base, lowest.entries() as usize).unwrap();
            let first = lowest.index(start) as usize;
            for entry in [0, 3, 20, 63] {
                let note =
                    if format.big_endian() { 0x10_0000_u64.to_be() } else { 0x10_0000_u64.to_le() };
                view.store(first + entry, view.load(first + entry).unwrap() | note);
            }
            map(PAGES);
            for number in 0..PAGES {
                let at = Iova::new(start.raw() + number * page);
                let found = table.translate(&memory, at).unwrap().map(|found| found.addr);
                let addr = PhysAddr::new((PAGES + askew + number) * page);
                assert_eq!(found, Some(addr), "{format:?} {number}");
            }
            assert_eq!(unmap(PAGES), PAGES * page);
        }
    }
}
