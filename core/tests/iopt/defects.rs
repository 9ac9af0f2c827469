//! What went wrong elsewhere, see `DEFECTS.md`.

use std::sync::Barrier;

use pinfold::host::PhysMem;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AmdVi, EncodeError, FormatError, Granule, IoFlags, IoFormat, Iova, Smmu, Vtd};
use pinfold_sim::TableMemory;

use super::formats;

const NONE: IoFlags = IoFlags::empty();

fn page(addr: u64) -> [IoRun; 1] {
    [IoRun { addr: PhysAddr::new(addr), bytes: 0x1000 }]
}

/// D61: marks are a promise of hardware that writes what the CPUs see.
#[test]
fn no_marks_where_walks_are_not_coherent() {
    let vtd = Vtd::new(4, 46).unwrap().with_coherent_walks(false);
    assert_eq!(vtd.with_marks(true), Err(FormatError::IncoherentMarks));
    let smmu = Smmu::stage1(Granule::Size4K, 39, 44).unwrap().with_coherent_walks(false);
    assert_eq!(smmu.with_marks(true), Err(FormatError::IncoherentMarks));
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(vtd, &memory).unwrap();
    assert_eq!(table.start_tracking(&memory), Err(IoptError::NoMarks));
    assert!(!table.is_tracking());
}

/// D62: what a device may do is what was asked for, or the mapping is refused before anything is written.
#[test]
fn writing_alone_is_said_or_refused() {
    for format in formats() {
        let memory = TableMemory::new(1 << 20);
        let table = IoPageTable::new(format, &memory).unwrap();
        let run = IoRun { addr: PhysAddr::new(0), bytes: format.base().bytes() };
        let at = Iova::new(0);
        let mapped = table.map(&memory, at, [run], Access::WRITE, NONE);
        let found = table.translate(&memory, at).unwrap().map(|found| found.access);
        if mapped.is_ok() {
            assert_eq!(found, Some(Access::WRITE), "{}", format.name());
            continue;
        }
        let refused = IoptError::Encode { at, why: EncodeError::Access { access: Access::WRITE } };
        assert_eq!((mapped, found), (Err(refused), None), "{}", format.name());
        assert_eq!(memory.used(), 1);
        let replaced = table.replace(&memory, at, [run], Access::WRITE, NONE);
        assert_eq!(replaced.map(drop), Err(refused), "{}", format.name());
    }
}

/// D63: whoever maps and translates while another adds levels finds its pages, always.
#[test]
fn root_and_levels_are_read_together_while_the_tree_grows() {
    for round in 0..200_u64 {
        let memory = TableMemory::new(1 << 20);
        let table = IoPageTable::new(AmdVi::new(2).unwrap(), &memory).unwrap();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                for levels in 3..=6 {
                    let last = AmdVi::new(levels).unwrap().last();
                    table.grow(&memory, last).unwrap();
                }
            });
            barrier.wait();
            for at in (0..32).map(|page| page << 12) {
                let addr = at + (round << 20);
                table.map(&memory, Iova::new(at), page(addr), Access::all(), NONE).unwrap();
                let found = table.translate(&memory, Iova::new(at)).unwrap().unwrap();
                assert_eq!(found.addr.raw(), addr);
            }
        });
        table.destroy(&memory).unwrap();
        assert_eq!(memory.used(), 0);
    }
}

/// D64: with more levels than at the beginning, all tables go back.
#[test]
fn a_tree_that_grew_gives_back_every_table() {
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(AmdVi::new(2).unwrap(), &memory).unwrap();
    table.map(&memory, Iova::new(0x5000), page(0x7000), Access::all(), NONE).unwrap();
    table.grow(&memory, Iova::new(u64::MAX)).unwrap();
    let top = Iova::new(u64::MAX - 0xfff);
    table.map(&memory, top, page(0x9000), Access::all(), NONE).unwrap();
    for (at, addr) in [(Iova::new(0x5000), 0x7000), (top, 0x9000)] {
        let found = table.translate(&memory, at).unwrap().unwrap();
        assert_eq!(found.addr, PhysAddr::new(addr));
    }
    // Two, four above them, and five down to the last address.
    assert_eq!((memory.used(), table.tables()), (11, 11));
    table.destroy(&memory).unwrap();
    assert_eq!(memory.used(), 0);
}

/// D67: slot 511 is bytes 4088 to 4095, and nothing else is touched.
#[test]
fn the_last_slot_of_a_table_is_its_last_eight_bytes() {
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &memory).unwrap();
    let words = |base: PhysAddr| -> Vec<u64> {
        let view = memory.table(base, 512).unwrap();
        (0..512).map(|word| view.load(word).unwrap()).collect()
    };
    table.map(&memory, Iova::new(0x7f_ffff_f000), page(0x3000), Access::all(), NONE).unwrap();
    let mut base = table.root().base;
    for level in 0..3 {
        let [others @ .., last] = &words(base)[..] else { panic!("words") };
        assert!(others.iter().all(|word| *word == 0), "level {level}");
        base = PhysAddr::new(u64::from_le(*last) & !0xfff);
    }
    assert_eq!(base, PhysAddr::new(0x3000));
}

/// What is dropped without its flush keeps its tables, and is counted.
#[test]
fn what_is_not_flushed_is_counted() {
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &memory).unwrap();
    for count in [1, 2] {
        table.map(&memory, Iova::new(0), page(0x1000), Access::all(), NONE).unwrap();
        let mut runs = heapless::Vec::<UnmappedRun, 4>::new();
        let range = IovaRange::new(Iova::new(0), 1 << 30).unwrap();
        let mut unmap = table.unmap(&memory, range).unwrap();
        let used = memory.used();
        let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
        let _ = unmapped.range();
        assert_eq!((table.unflushed(), memory.used()), (count, used));
    }
}
