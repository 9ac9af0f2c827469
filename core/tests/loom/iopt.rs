//! The tables of an IOMMU: callers with a range of their own each, who meet in the tables above.

use std::sync::Arc;

use loom::thread;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::sync::{Ordering, Word};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{IoFlags, IoFormat, Iova};

use super::model;
use memory::{Memory, Tiny};

pub(crate) mod memory;

/// A domain and the memory for its tables.
struct Domain {
    memory: Memory,
    table: IoPageTable<Tiny>,
}

impl Domain {
    fn new(levels: u8) -> Self {
        Self::with(levels, Memory::new(true))
    }

    fn with(levels: u8, memory: Memory) -> Self {
        let table = IoPageTable::new(Tiny { levels }, &memory).unwrap();
        Self { memory, table }
    }

    /// Maps pages where they are in a place of memory of their own.
    fn map(&self, first: u64, pages: u64) -> Result<(), IoptError> {
        let run = IoRun { addr: frame(first), bytes: pages << 12 };
        self.table.map(&self.memory, iova(first), [run], Access::all(), IoFlags::empty())
    }

    /// Unmaps pages, whose memory lies in one piece.
    fn unmap(&self, first: u64, pages: u64) -> UnmappedRun {
        let range = IovaRange::new(iova(first), pages << 12).unwrap();
        let mut runs = heapless::Vec::<UnmappedRun, 2>::new();
        let mut unmap = self.table.unmap(&self.memory, range).unwrap();
        let unmapped = unmap.step(&self.memory, &mut runs).unwrap().unwrap();
        unmapped.flushed(&self.memory).tables().unwrap();
        assert!(unmap.rest().is_none());
        let [run] = *runs else { panic!("{runs:?}") };
        run
    }

    fn find(&self, page: u64) -> Option<PhysAddr> {
        self.table.translate(&self.memory, iova(page)).unwrap().map(|found| found.addr)
    }

    /// These pages are mapped and so many tables there, which are all that the host has given.
    fn holds(&self, pages: &[u64], tables: u64) {
        let all = 0..=self.table.format().last().raw() >> 12;
        for page in all {
            assert_eq!(self.find(page), pages.contains(&page).then_some(frame(page)), "{page}");
        }
        assert_eq!((self.table.tables(), self.memory.used()), (tables, tables));
    }
}

fn iova(page: u64) -> Iova {
    Iova::new(page << 12)
}

fn frame(page: u64) -> PhysAddr {
    PhysAddr::new(0x10_0000 + (page << 12))
}

/// Runs both at the same time. The first that loom tries is that `first` comes first, and which others there
/// are it learns from who loads what somebody stored before: so a caller who stores goes first.
fn race<R: Send + 'static>(
    domain: &Arc<Domain>,
    first: impl FnOnce(&Domain),
    second: impl FnOnce(&Domain) -> R + Send + 'static,
) -> R {
    let thread = {
        let domain = Arc::clone(domain);
        thread::spawn(move || second(&domain))
    };
    first(domain);
    thread.join().unwrap()
}

/// Two who want the same two tables: one makes each, and both go on with that one.
#[test]
fn tables_that_two_want_are_made_once() {
    model(4, || {
        let domain = Arc::new(Domain::new(3));
        race(&domain, |domain| domain.map(0, 1).unwrap(), |domain| domain.map(1, 1).unwrap());
        domain.holds(&[0, 1], 3);
    });
}

/// The same, with one who brings a table that is full already.
#[test]
fn a_full_table_and_a_table_beside_it_go_under_the_same_one() {
    model(4, || {
        let domain = Arc::new(Domain::new(3));
        race(&domain, |domain| domain.map(0, 4).unwrap(), |domain| domain.map(5, 1).unwrap());
        domain.holds(&[0, 1, 2, 3, 5], 4);
    });
}

/// An IOMMU that does not look into caches finds what was mapped as soon as the call returns, whoever made
/// the tables on the way and has not come to say so.
#[test]
fn what_was_mapped_is_seen_when_the_call_returns() {
    model(4, || {
        let domain = Arc::new(Domain::with(2, Memory::new(false)));
        let map = |page: u64| {
            move |domain: &Domain| {
                domain.map(page, 1).unwrap();
                let seen = domain.memory.seen(domain.table.root(), iova(page));
                assert_eq!(seen, Some(frame(page)), "the IOMMU does not find it");
            }
        };
        race(&domain, map(0), map(1));
    });
}

/// Who unmaps gives back the tables of that range and touches no other, also where somebody puts one
/// beside them.
#[test]
fn a_table_goes_while_another_comes_beside_it() {
    model(4, || {
        let domain = Arc::new(Domain::new(2));
        domain.map(4, 4).unwrap();
        let run = race(&domain, |domain| domain.map(1, 1).unwrap(), |domain| domain.unmap(4, 4));
        assert_eq!((run.addr, run.bytes), (frame(4), 4 << 12));
        domain.holds(&[1], 2);
    });
}

/// In one table, neighbours come and go.
#[test]
fn neighbours_in_one_table_are_left_alone() {
    model(4, || {
        let domain = Arc::new(Domain::new(2));
        domain.map(1, 2).unwrap();
        let run = race(&domain, |domain| domain.map(3, 1).unwrap(), |domain| domain.unmap(1, 2));
        assert_eq!((run.addr, run.bytes), (frame(1), 2 << 12));
        domain.holds(&[3], 2);
    });
}

/// A device finds nothing, or memory that holds what was written to it before it was mapped: behind a leaf
/// in a table that it knows, and behind one that comes with its table.
#[test]
fn a_device_finds_memory_as_it_was_when_it_was_mapped() {
    for (before, pages) in [(Some(1), 1), (None, 4)] {
        model(4, move || {
            let domain = Arc::new(Domain::new(2));
            before.into_iter().for_each(|page| domain.map(page, 1).unwrap());
            let memory = Arc::new(Word::new(0));
            let map = |domain: &Domain| {
                memory.store(1, Ordering::Relaxed);
                domain.map(0, pages).unwrap();
            };
            let read = Arc::clone(&memory);
            race(&domain, map, move |domain| {
                if let Some(found) = domain.find(0) {
                    assert_eq!(found, frame(0));
                    assert_eq!(read.load(Ordering::Relaxed), 1, "the device reads what was there");
                }
            });
        });
    }
}

/// Whoever maps or looks meanwhile does so below the old top table or the new one.
#[test]
fn the_tree_grows_above_those_who_use_it() {
    model(4, || {
        let domain = Arc::new(Domain::new(2));
        domain.map(0, 1).unwrap();
        let grow = |domain: &Domain| domain.table.grow(&domain.memory, iova(16)).unwrap();
        let beyond = race(&domain, grow, |domain| {
            assert_eq!(domain.find(0), Some(frame(0)));
            domain.map(1, 1).unwrap();
            let beyond = domain.map(16, 1);
            assert!([Ok(()), Err(IoptError::OutsideAperture { at: iova(16) })].contains(&beyond));
            beyond.is_ok()
        });
        match beyond {
            true => domain.holds(&[0, 1, 16], 5),
            false => domain.holds(&[0, 1], 3),
        }
    });
}

/// Of two who let it grow each gets what was asked for, and no table is left over.
#[test]
fn two_let_the_tree_grow_as_far_as_both_need() {
    model(4, || {
        let domain = Arc::new(Domain::new(1));
        domain.map(0, 1).unwrap();
        let grow = |page: u64| {
            move |domain: &Domain| {
                domain.table.grow(&domain.memory, iova(page)).unwrap();
                assert!(domain.table.format().last() >= iova(page));
            }
        };
        race(&domain, grow(15), grow(16));
        assert_eq!(domain.table.format().levels(), 3);
        domain.holds(&[0], 3);
    });
}
