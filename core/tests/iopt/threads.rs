//! Threads that map and unmap ranges of their own in tables that they share.

use std::sync::Barrier;

use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{IoFlags, Iova, Vtd};
use pinfold_sim::TableMemory;

const THREADS: u64 = 4;
const ROUNDS: u64 = 100;
/// Pages of a thread, one in each of as many tables.
const TABLES: u64 = 16;

/// All want the same tables at the same moment: one makes each, and no other table is left over.
#[test]
fn tables_are_made_once() {
    let memory = TableMemory::new(64 << 20);
    let mut table = IoPageTable::new(Vtd::new(4, 46).unwrap(), &memory).unwrap();
    for round in 0..ROUNDS {
        let barrier = Barrier::new(THREADS as usize);
        let work = |thread: u64| {
            let page = |at: u64| (at << 21) + (thread << 12);
            let mut runs = heapless::Vec::<UnmappedRun, 4>::new();
            barrier.wait();
            for at in 0..TABLES {
                let run = IoRun { addr: PhysAddr::new(page(at + round)), bytes: 0x1000 };
                let iova = Iova::new(page(at));
                table.map(&memory, iova, [run], Access::all(), IoFlags::empty()).unwrap();
            }
            barrier.wait();
            for at in 0..TABLES {
                let found = table.translate(&memory, Iova::new(page(at))).unwrap().unwrap();
                assert_eq!(found.addr.raw(), page(at + round));
                let range = IovaRange::new(Iova::new(page(at)), 0x1000).unwrap();
                let mut unmap = table.unmap(&memory, range).unwrap();
                let step = unmap.step(&memory, &mut runs).unwrap().unwrap();
                step.flushed(&memory);
                let addr = PhysAddr::new(page(at + round));
                let at = Iova::new(page(at));
                assert_eq!(
                    runs,
                    [UnmappedRun { at, addr, bytes: 0x1000, writable: true, dirty: true }]
                );
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let work = &work;
                scope.spawn(move || work(thread));
            }
        });
        table.trim(&memory).flushed(&memory);
        assert_eq!((memory.used(), table.tables()), (1, 1), "round {round}");
    }
}
