//! Every address that there is, in one call: its size is no number of 64 bits.

use std::cell::Cell;

use pinfold::domain::Domain;
use pinfold::host::{Flow, Kept};
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun, Visited};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AmdVi, IoEntry, IoFlags, IoFormat, Iova};
use pinfold_sim::TableMemory;
use pinfold_sim::tlb::{Asked, Iommu, Journal};

use super::formats;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();
const FIRST: Iova = Iova::new(0);
const LAST: Iova = Iova::new(u64::MAX);

/// 2^64 bytes, the same 2^51 bytes of memory again and again.
fn whole() -> impl Iterator<Item = IoRun> + Clone {
    std::iter::repeat_n(IoRun { addr: PhysAddr::new(0), bytes: 1 << 51 }, 1 << 13)
}

fn made(memory: &TableMemory) -> IoPageTable<AmdVi> {
    IoPageTable::new(AmdVi::new(6).unwrap(), memory).unwrap()
}

/// Who may do what at the first and at the last address.
fn ends(table: &IoPageTable<AmdVi>, memory: &TableMemory) -> [Option<Access>; 2] {
    [FIRST, LAST].map(|at| table.translate(memory, at).unwrap().map(|found| found.access))
}

#[test]
fn all_is_replaced_and_unmapped() {
    let memory = TableMemory::new(64 << 20);
    let table = made(&memory);
    table.map(&memory, FIRST, whole(), RW, NONE).unwrap();
    assert_eq!(ends(&table, &memory), [Some(RW); 2]);
    let mut runs = heapless::Vec::<UnmappedRun, 64>::new();
    let mut replace = table.replace(&memory, FIRST, whole(), Access::READ, NONE).unwrap();
    let mut taken = 0_u128;
    while let Some(old) = replace.step(&memory, &mut runs).unwrap() {
        let old = old.flushed(&memory);
        taken += old.runs().iter().map(|run| u128::from(run.bytes)).sum::<u128>();
    }
    assert_eq!((taken, ends(&table, &memory)), (1 << 64, [Some(Access::READ); 2]));
    let mut unmap = table.unmap(&memory, IovaRange::ALL).unwrap();
    while let Some(old) = unmap.step(&memory, &mut runs).unwrap() {
        let old = old.flushed(&memory);
        taken -= old.runs().iter().map(|run| u128::from(run.bytes)).sum::<u128>();
    }
    assert_eq!((taken, ends(&table, &memory), memory.used()), (0, [None; 2], 1));
}

/// Stopped at the very last pause, behind the last leaf, all is undone.
#[test]
fn all_is_undone() {
    let memory = TableMemory::new(64 << 20);
    memory.set_step(1);
    let table = made(&memory);
    table.map(&memory, FIRST, whole(), RW, NONE).unwrap();
    let pauses = memory.pauses();
    let memory = TableMemory::new(64 << 20);
    memory.set_step(1);
    let table = made(&memory);
    memory.stop_after(pauses - memory.pauses() - 1);
    let stopped = table.map(&memory, FIRST, whole(), RW, NONE);
    memory.stop_after(u64::MAX);
    assert_eq!(stopped, Err(IoptError::Interrupted));
    let leaf = |visited: &Visited| match visited.entry {
        IoEntry::Leaf(_) => panic!("{:?} is mapped", visited.range),
        _ => Flow::Continue,
    };
    table.visit(&memory, IovaRange::ALL, leaf).unwrap();
    assert_eq!(ends(&table, &memory), [None; 2]);
    table.map(&memory, FIRST, whole(), RW, NONE).unwrap();
}

/// Stopped there, a replacement says that all was put.
#[test]
fn all_that_was_put_is_said() {
    let memory = TableMemory::new(64 << 20);
    memory.set_step(1);
    made(&memory).map(&memory, FIRST, whole(), RW, NONE).unwrap();
    let pauses = memory.pauses();
    let memory = TableMemory::new(64 << 20);
    memory.set_step(1);
    let table = made(&memory);
    memory.stop_after(pauses - memory.pauses() - 1);
    let mut runs = heapless::Vec::<UnmappedRun, 1>::new();
    let mut replace = table.replace(&memory, FIRST, whole(), RW, NONE).unwrap();
    let put = replace.step(&memory, &mut runs).unwrap().unwrap();
    assert_eq!((put.range(), put.bytes()), (IovaRange::ALL, 0));
    put.flushed(&memory);
    while let Some(rest) = replace.step(&memory, &mut runs).unwrap() {
        rest.flushed(&memory);
    }
    assert_eq!(ends(&table, &memory), [Some(RW); 2]);
}

/// Who keeps that nothing was there is told of all, once.
#[test]
fn all_is_announced() {
    let (memory, journal) = (TableMemory::new(64 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal).keeping_absent();
    let mut domain: Domain<'_, AmdVi> = Domain::new(made(&memory));
    domain.attach_iommu(&iommu).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    assert!(iommu.access(LAST, true).is_err());
    domain.map(&memory, FIRST, whole(), RW, NONE).unwrap();
    let all = Asked::Invalidate(IovaRange::ALL, Kept::Tables);
    assert_eq!(journal.take(), [("iommu", all), ("iommu", Asked::Complete)]);
    assert!(iommu.access(LAST, true).is_ok());
}

/// Runs that are other ones the second time lead nowhere outside the range that was looked at.
#[test]
fn runs_that_change_stay_inside() {
    for format in formats() {
        let page = format.base().bytes();
        let end = format.last().raw() & !format.base().mask();
        for (at, bytes) in [2 * page, end - page].into_iter().flat_map(|at| {
            [0, 1, page + page / 2, 5 * page, 1 << 40, u64::MAX, u64::MAX - page + 1]
                .map(|bytes| (at, bytes))
        }) {
            let memory = TableMemory::new(4 << 20);
            let table = IoPageTable::new(format, &memory).unwrap();
            let range = IovaRange::new(Iova::new(at), 2 * page).unwrap();
            let asked = Cell::new(0);
            let changing = [(); 2].map(|()| PhysAddr::new(page)).into_iter().map(|addr| {
                asked.set(asked.get() + 1);
                IoRun { addr, bytes: if asked.get() <= 2 { page } else { bytes } }
            });
            let inside = |visited: &Visited| {
                let leaf = matches!(visited.entry, IoEntry::Leaf(_));
                let (start, last) = (visited.range.start(), visited.range.last());
                assert!(!leaf || range.covers(start, last), "{} {bytes:#x}", format.name());
                Flow::Continue
            };
            let _ = table.map(&memory, range.start(), changing.clone(), Access::READ, NONE);
            table.visit(&memory, IovaRange::ALL, inside).unwrap();
            asked.set(0);
            let mut runs = heapless::Vec::<UnmappedRun, 4>::new();
            let mut replace =
                table.replace(&memory, range.start(), changing, Access::READ, NONE).unwrap();
            for _ in 0..8 {
                let Ok(Some(old)) = replace.step(&memory, &mut runs) else { break };
                old.flushed(&memory);
            }
            drop(replace);
            table.visit(&memory, IovaRange::ALL, inside).unwrap();
        }
    }
}
