//! Hosts that lose tables, or show only a part of them: what is mapped is what the call says, and every call ends.

use pinfold::host::Flow;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AnyIoFormat, IoFlags, IoFormat, Iova, Vtd};
use pinfold_sim::TableMemory;

use super::formats;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();

fn run(addr: u64, bytes: u64) -> IoRun {
    IoRun { addr: PhysAddr::new(addr), bytes }
}

fn is_mapped<F: IoFormat>(table: &IoPageTable<F>, memory: &TableMemory, at: u64) -> bool {
    table.translate(memory, Iova::new(at)).unwrap().is_some()
}

/// A mapping over two tables meets something in the third, and whichever view is missing: nothing of it is mapped, or
/// the call says from where on something is.
#[test]
fn what_is_not_undone_is_said() {
    let (start, met, page) = (0x10_0000, 0x40_0000, 0x1000);
    let mut stuck = 0;
    for views in 0.. {
        let memory = TableMemory::new(1 << 20);
        let table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &memory).unwrap();
        table.map(&memory, Iova::new(met), [run(0x1000, page)], RW, NONE).unwrap();
        memory.lose_after(views);
        let long = run(0x80_1000, met - start + page);
        let error = table.map(&memory, Iova::new(start), [long], RW, NONE).unwrap_err();
        memory.lose_after(u64::MAX);
        let mut left = (start..met).step_by(0x1000).filter(|at| is_mapped(&table, &memory, *at));
        let first = left.next();
        match error {
            IoptError::NotUndone { at } => {
                assert_eq!(first, Some(at.raw()), "{views}");
                stuck += 1;
            }
            IoptError::Mapped { at } => {
                assert_eq!((first, at), (None, Iova::new(met)), "{views}");
                // No view was missing.
                break;
            }
            error => assert!(first.is_none() && matches!(error, IoptError::Corrupt { .. })),
        }
    }
    assert!(stuck > 0);
}

/// Where the trim itself finds a table missing, all goes back with the next one; what is lost when it has been taken
/// out is counted.
#[test]
fn a_trim_gives_back_what_is_not_lost() {
    let mut lost = 0;
    for views in 0.. {
        let memory = TableMemory::new(1 << 20);
        let mut table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &memory).unwrap();
        for at in [0, 1 << 21, 1 << 30].map(Iova::new) {
            table.map(&memory, at, [run(0, 0x1000)], RW, NONE).unwrap();
            unmap(&table, &memory, IovaRange::new(at, 0x1000).unwrap());
        }
        assert_eq!(memory.used(), 6);
        memory.lose_after(views);
        let trimmed = table.trim(&memory).flushed(&memory).tables();
        memory.lose_after(u64::MAX);
        table.trim(&memory).flushed(&memory).tables().unwrap();
        assert_eq!(memory.used() as u64, table.tables());
        match (trimmed, memory.used()) {
            (Ok(()), used) => assert_eq!(used, 1, "{views}"),
            (Err(error), 2..6) => {
                assert!(matches!(error, IoptError::Corrupt { .. }));
                lost += 1;
            }
            other => panic!("{other:?}"),
        }
        if lost > 0 && trimmed.is_ok() {
            // No view was missing.
            break;
        }
    }
}

fn unmap<F: IoFormat>(table: &IoPageTable<F>, memory: &TableMemory, range: IovaRange) -> u64 {
    let mut runs = heapless::Vec::<UnmappedRun, 3>::new();
    let Ok(mut unmap) = table.unmap(memory, range) else { return 0 };
    let mut out = 0;
    while let Ok(Some(unmapped)) = unmap.step(memory, &mut runs) {
        out += unmapped.bytes();
        unmapped.flushed(memory);
    }
    out
}

/// A view of a part of a table: what lies beyond it is corrupt, and every call comes to an end, stopped at each pause.
#[test]
fn a_part_of_a_table_is_no_table() {
    for format in formats() {
        let memory = TableMemory::new(1 << 20);
        memory.set_step(8);
        let table: IoPageTable<AnyIoFormat> = IoPageTable::new(format, &memory).unwrap();
        let base = format.base().bytes();
        let (at, pages) = (96 * base, 16);
        let range = IovaRange::new(Iova::new(at), 424 * base).unwrap();
        let there = [run((1 << 36) + at, pages * base)];
        table.map(&memory, range.start(), there, RW, NONE).unwrap();
        memory.shorten_views(100);
        for stop in [u64::MAX, 0] {
            memory.stop_after(stop);
            let more = [run(1 << 36, 32 * base)];
            let beyond = table.map(&memory, Iova::new(at + pages * base), more, RW, NONE);
            assert!(matches!(beyond, Err(IoptError::Corrupt { .. })), "{beyond:?}");
            let _ = table.visit(&memory, range, |_| Flow::Continue);
            let _ = table.split(&memory, range);
        }
        let out = unmap(&table, &memory, range);
        memory.stop_after(u64::MAX);
        memory.shorten_views(usize::MAX);
        let left = (0..pages).filter(|page| is_mapped(&table, &memory, at + page * base)).count();
        // What came out is out, and nothing else.
        assert_eq!(out + left as u64 * base, pages * base, "{}", format.name());
    }
}
