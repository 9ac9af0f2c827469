//! Single calls: sizes of leaves, ends, errors.

use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, ErrorKind, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AmdVi, EncodeError, IoFlags, IoFormat, Iova, Tce, Vtd, Zpci};
use pinfold_sim::TableMemory;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();

fn run(addr: u64, bytes: u64) -> IoRun {
    IoRun { addr: PhysAddr::new(addr), bytes }
}

/// What comes out of a mapping that could be written.
fn out(at: u64, addr: u64, bytes: u64) -> UnmappedRun {
    UnmappedRun { at: Iova::new(at), addr: PhysAddr::new(addr), bytes, writable: true, dirty: true }
}

fn made<F: IoFormat>(format: F) -> (IoPageTable<F>, TableMemory) {
    let memory = TableMemory::new(16 << 20);
    (IoPageTable::new(format, &memory).unwrap(), memory)
}

/// The size of the leaf at each of these addresses.
fn sizes<F: IoFormat>(table: &IoPageTable<F>, memory: &TableMemory, at: &[u64]) -> Vec<u8> {
    let size = |at: &u64| {
        let found = table.translate(memory, Iova::new(*at)).unwrap();
        found.map_or(0, |found| found.shift.raw())
    };
    at.iter().map(size).collect()
}

#[test]
fn the_largest_leaf_that_both_addresses_allow() {
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    // 4 KiB up to the first 2 MiB, 2 MiB up to the first 1 GiB, then 1 GiB, and down again.
    let start = 0x3fdf_f000;
    let bytes = 0x1000 + 0x20_0000 + 0x4000_0000 + 0x20_0000 + 0x1000;
    table.map(&memory, Iova::new(start), [run(0x1_3fdf_f000, bytes)], RW, NONE).unwrap();
    let at = [start, 0x3fe0_0000, 0x4000_0000, 0x8000_0000, 0x8020_0000, 0x8020_1000];
    assert_eq!(sizes(&table, &memory, &at), [12, 21, 30, 21, 12, 0]);
    let found = table.translate(&memory, Iova::new(0x7fff_ffff)).unwrap().unwrap();
    assert_eq!(found.addr, PhysAddr::new(0x1_7fff_ffff));
    // Off by a page, nothing is large.
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(0), [run(0x1000, 0x40_0000)], RW, NONE).unwrap();
    assert_eq!(sizes(&table, &memory, &[0, 0x1f_f000, 0x20_0000]), [12; 3]);
}

/// What is released alone is mapped alone: no leaf reaches over the end of a run.
#[test]
fn neighbours_that_are_released_apart_share_no_leaf() {
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    let halves = [run(0x20_0000, 0x10_0000), run(0x30_0000, 0x10_0000)];
    table.map(&memory, Iova::new(0x20_0000), halves, RW, NONE).unwrap();
    assert_eq!(sizes(&table, &memory, &[0x20_0000, 0x30_0000]), [12, 12]);
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(0x20_0000), [run(0x20_0000, 0x20_0000)], RW, NONE).unwrap();
    assert_eq!(sizes(&table, &memory, &[0x20_0000, 0x30_0000]), [21, 21]);
}

#[test]
fn amd_pages_have_every_size() {
    let (table, memory) = made(AmdVi::new(3).unwrap());
    table.map(&memory, Iova::new(0x4000), [run(0x1_0000_4000, 0x7f_c000)], RW, NONE).unwrap();
    let at =
        [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
    assert_eq!(sizes(&table, &memory, &at), [14, 15, 16, 17, 18, 19, 20, 21, 22]);
}

#[test]
fn the_very_last_address() {
    let (table, memory) = made(AmdVi::new(6).unwrap());
    let start = Iova::new(u64::MAX - 0x1fff);
    table.map(&memory, start, [run(0x2000, 0x2000)], RW, NONE).unwrap();
    let last = table.translate(&memory, Iova::new(u64::MAX)).unwrap().unwrap();
    assert_eq!(last.addr, PhysAddr::new(0x3fff));
    let beyond = table.map(&memory, start, [run(0x2000, 0x2000), run(0x8000, 0x1000)], RW, NONE);
    assert_eq!(beyond, Err(IoptError::OutsideAperture { at: Iova::new(0) }));
    let range = IovaRange::new(start, 0x2000).unwrap();
    let mut runs = heapless::Vec::<UnmappedRun, 4>::new();
    let mut unmap = table.unmap(&memory, range).unwrap();
    let step = unmap.step(&memory, &mut runs).unwrap().unwrap();
    assert_eq!(step.range(), range);
    step.flushed(&memory);
    assert_eq!(runs, [out(start.raw(), 0x2000, 0x2000)]);
    assert!(unmap.step(&memory, &mut runs).unwrap().is_none());
}

/// A table goes back only when the range covers all that it can map, and after the flush.
#[test]
fn tables_go_back_behind_the_flush() {
    let (table, memory) = made(Vtd::new(3, 46).unwrap());
    table.map(&memory, Iova::new(0x20_0000), [run(0x1000, 0x1000)], RW, NONE).unwrap();
    assert_eq!(memory.used(), 3);
    let out = |start, bytes| {
        let range = IovaRange::new(Iova::new(start), bytes).unwrap();
        let mut runs = heapless::Vec::<UnmappedRun, 4>::new();
        let mut unmap = table.unmap(&memory, range).unwrap();
        let step = unmap.step(&memory, &mut runs).unwrap().unwrap();
        let used = memory.used();
        step.flushed(&memory);
        (used, memory.used())
    };
    // One page of the table's 2 MiB: it stays.
    assert_eq!(out(0x20_0000, 0x1000), (3, 3));
    // All of its 2 MiB: it goes, but not before the flush.
    assert_eq!(out(0x20_0000, 0x20_0000), (3, 2));
    assert_eq!(out(0, 0x4000_0000), (2, 1));
    assert_eq!(table.tables(), 1);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (table, memory) = made(Zpci::new(3).unwrap());
    let map = |at, runs: &[IoRun], access| table.map(&memory, Iova::new(at), runs, access, NONE);
    let at = Iova::new(0x1000);
    assert_eq!(
        map(0x1800, &[run(0, 0x1000)], RW),
        Err(IoptError::Unaligned { at: Iova::new(0x1800) })
    );
    assert_eq!(map(0x1000, &[run(0x800, 0x1000)], RW), Err(IoptError::Unaligned { at }));
    assert_eq!(map(0x1000, &[run(0, 0x800)], RW), Err(IoptError::Unaligned { at }));
    // zPCI has no entry for writing only: refused like everywhere else where it is so.
    let why = EncodeError::Access { access: Access::WRITE };
    assert_eq!(map(0x1000, &[run(0, 0x1000)], Access::WRITE), Err(IoptError::Encode { at, why }));
    let beyond = map(1 << 42, &[run(0, 0x1000)], RW);
    assert_eq!(beyond, Err(IoptError::OutsideAperture { at: Iova::new(1 << 42) }));
    assert_eq!(beyond.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let wraps = map(0x1000, &[run(u64::MAX - 0xfff, 0x2000)], RW);
    assert!(matches!(wraps, Err(IoptError::Encode { .. })));
    assert_eq!(memory.used(), 1, "no table was made for any of them");
    // The second run meets something: the first is taken out again.
    map(0x3000, &[run(0x5000, 0x1000)], RW).unwrap();
    let met = map(0x1000, &[run(0, 0x2000), run(0x8000, 0x2000)], RW);
    assert_eq!(met, Err(IoptError::Mapped { at: Iova::new(0x3000) }));
    assert_eq!(sizes(&table, &memory, &[0x1000, 0x2000, 0x3000, 0x4000]), [0, 0, 12, 0]);
}

#[test]
fn a_range_that_ends_inside_a_leaf_is_refused() {
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(0x40_0000), [run(0x40_0000, 0x40_0000)], RW, NONE).unwrap();
    let cut =
        |start, bytes| table.unmap(&memory, IovaRange::new(Iova::new(start), bytes).unwrap()).err();
    let shift = PageShift::SIZE_2M;
    let inside = |at| Some(IoptError::InsideLeaf { at: Iova::new(at), shift });
    assert_eq!(cut(0x41_0000, 0x40_0000), inside(0x40_0000));
    assert_eq!(cut(0x30_0000, 0x20_0000), inside(0x40_0000));
    assert_eq!(cut(0x40_0000, 0x30_0000), inside(0x60_0000));
    assert_eq!(sizes(&table, &memory, &[0x40_0000, 0x60_0000]), [21, 21]);
    assert!(cut(0x40_0000, 0x20_0000).is_none());
}

#[test]
fn a_buffer_without_room_unmaps_nothing() {
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(0x1000), [run(0x1000, 0x1000)], RW, NONE).unwrap();
    let mut unmap =
        table.unmap(&memory, IovaRange::new(Iova::new(0x1000), 0x1000).unwrap()).unwrap();
    let mut none = heapless::Vec::<UnmappedRun, 0>::new();
    assert_eq!(unmap.step(&memory, &mut none).err(), Some(IoptError::NoBuffer));
    assert_eq!(sizes(&table, &memory, &[0x1000]), [12]);
}

#[test]
fn corrupt_tables_are_an_error() {
    use pinfold::host::PhysMem;
    let (table, memory) = made(Tce::new(PageShift::SIZE_4K, PageShift::SIZE_1G, 2).unwrap());
    let top = memory.table(table.root().base, 512).unwrap();
    // A table outside memory, and an entry that is neither a table nor nothing.
    top.store(0, 0xdead_0000_0000_0003_u64.to_be()).unwrap();
    top.store(1, 1_u64.to_be()).unwrap();
    let first = Iova::new(0);
    let second = Iova::new(table.root().shift.bytes());
    for at in [first, second] {
        assert!(matches!(table.translate(&memory, at), Err(IoptError::Corrupt { .. })));
        let mapped = table.map(&memory, at, [run(0x1000, 0x1000)], RW, NONE);
        assert!(matches!(mapped, Err(IoptError::Corrupt { .. })));
        let range = IovaRange::new(at, 0x1000).unwrap();
        assert!(matches!(table.unmap(&memory, range).err(), Some(IoptError::Corrupt { .. })));
    }
    assert!(matches!(table.destroy(&memory), Err(IoptError::Corrupt { .. })));
}

/// What comes before a corrupt entry is handed out, with the tables that held it; then comes the error.
#[test]
fn what_stands_before_a_corrupt_entry_comes_out() {
    use pinfold::host::PhysMem;
    let (table, memory) = made(Vtd::new(3, 46).unwrap());
    for at in [0x1000, 0x20_0000, 0x40_0000] {
        table.map(&memory, Iova::new(at), [run(at, 0x1000)], RW, NONE).unwrap();
    }
    assert_eq!(memory.used(), 5);
    // The table of the second 2 MiB: a reserved bit.
    let top = memory.table(table.root().base, 512).unwrap();
    let below = u64::from_le(top.load(0).unwrap()) & !0xfff;
    let middle = memory.table(PhysAddr::new(below), 512).unwrap();
    let good = middle.swap(1, (1_u64 << 62 | 3).to_le()).unwrap();
    let range = IovaRange::new(Iova::new(0), 0x4000_0000).unwrap();
    let mut unmap = table.unmap(&memory, range).unwrap();
    let mut runs = heapless::Vec::<UnmappedRun, 8>::new();
    let step = unmap.step(&memory, &mut runs).unwrap().unwrap();
    assert_eq!((step.range().start(), step.range().last()), (Iova::new(0), Iova::new(0x1f_ffff)));
    step.flushed(&memory);
    assert_eq!(runs, [out(0x1000, 0x1000, 0x1000)]);
    assert_eq!(memory.used(), 4);
    let again = unmap.step(&memory, &mut runs).err();
    assert!(matches!(again, Some(IoptError::Corrupt { .. })), "{again:?}");
    // Mended, it goes on from there.
    middle.store(1, good).unwrap();
    unmap.step(&memory, &mut runs).unwrap().unwrap().flushed(&memory);
    assert_eq!(runs, [out(0x20_0000, 0x20_0000, 0x1000), out(0x40_0000, 0x40_0000, 0x1000)]);
    assert_eq!(memory.used(), 1);
}

/// Whatever is behind one corrupt entry is lost; nothing else is.
#[test]
fn one_corrupt_entry_does_not_keep_the_others() {
    use pinfold::host::PhysMem;
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    for at in 0..4_u64 {
        table.map(&memory, Iova::new(at << 39), [run(0x1000, 0x1000)], RW, NONE).unwrap();
    }
    assert_eq!(memory.used(), 13);
    let top = memory.table(table.root().base, 512).unwrap();
    top.store(1, (1_u64 << 62 | 3).to_le()).unwrap();
    assert!(matches!(table.destroy(&memory), Err(IoptError::Corrupt { .. })));
    assert_eq!(memory.used(), 3, "those behind the entry");
}

/// The IOMMU may hold on to a table that was trimmed until it is flushed; and each word that changed
/// was said to be written.
#[test]
fn trimmed_tables_go_back_behind_the_flush() {
    let (mut table, memory) = made(Vtd::new(3, 46).unwrap());
    table.map(&memory, Iova::new(0x1000), [run(0x1000, 0x1000)], RW, NONE).unwrap();
    let range = IovaRange::new(Iova::new(0x1000), 0x1000).unwrap();
    let mut runs = heapless::Vec::<UnmappedRun, 8>::new();
    let mut unmap = table.unmap(&memory, range).unwrap();
    unmap.step(&memory, &mut runs).unwrap().unwrap().flushed(&memory);
    let (writes, bytes) = memory.written();
    let trimmed = table.trim(&memory);
    assert_eq!(memory.used(), 3);
    assert_eq!(memory.written(), (writes + 2, bytes + 16), "two links");
    trimmed.flushed(&memory);
    assert_eq!(memory.used(), 1);
}
