//! The pins of a table in a domain: who maps them and who gives them back.

use std::sync::Arc;

use loom::thread;
use pinfold::domain::PinsError;
use pinfold::host::{PlainHost, SpaceId};
use pinfold::iopt::{IoPageTable, UnmappedRun};
use pinfold::source::HostPins;
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{Access, Dirtied, Domain, DomainError, PinTable};
use pinfold_arch::{IoFlags, Iova};

use super::iopt::memory::{Memory, Tiny};
use super::model;
use super::source::{Source, frame, request};

struct Shared {
    words: Vec<Word>,
    source: Source,
    memory: Memory,
    domain: Domain<'static, Tiny, 1>,
}

impl Shared {
    /// A table with one page pinned.
    fn new() -> Arc<Self> {
        let memory = Memory::new(true);
        let domain = Domain::new(IoPageTable::new(Tiny { levels: 1 }, &memory).unwrap());
        let words = (0..13).map(|_| Word::new(0)).collect();
        let shared = Self { words, source: Source::default(), memory, domain };
        let table = PinTable::new(&shared.words).unwrap();
        HostPins::new(PlainHost, &shared.source).pin(SpaceId(0), &table, &request(0, 1)).unwrap();
        Arc::new(shared)
    }

    fn table(&self) -> PinTable<'_> {
        PinTable::open(&self.words).unwrap()
    }

    fn map(&self, page: u64) -> bool {
        let at = Iova::new(page << 12);
        let mapped =
            self.domain.map_pins(&self.memory, at, &self.table(), Access::all(), IoFlags::empty());
        match mapped {
            Ok(()) => {
                // Whatever others try: it is pinned, and it is this page.
                assert_eq!(self.source.pinned(), [frame(1, 0)], "mapped and not pinned");
                let found = self.domain.table().translate(&self.memory, at).unwrap();
                assert_eq!(found.map(|found| found.addr), Some(frame(1, 0)), "it maps nothing");
                true
            }
            Err(PinsError::Domain(DomainError::Pins(TableError::InUse | TableError::Empty))) => {
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn unmap(&self, page: u64) {
        let mut runs = heapless::Vec::<UnmappedRun, 1>::new();
        let at = Iova::new(page << 12);
        self.domain.unmap_pins(&self.memory, at, &self.table(), &mut runs).unwrap();
    }

    fn unpin(&self) -> bool {
        HostPins::new(PlainHost, &self.source).unpin(&self.table(), Dirtied::No).is_ok()
    }
}

/// Pins are mapped or given back, never both.
#[test]
fn what_is_mapped_stays_pinned() {
    model(3, || {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.unpin())
        };
        let mapped = shared.map(0);
        let unpinned = other.join().unwrap();
        assert!(!(mapped && unpinned), "pins went under a mapping");
        if mapped {
            assert_eq!(shared.table().mapped(), 0x1000);
            shared.unmap(0);
        }
        assert_eq!(shared.table().mapped(), 0);
        assert_eq!(shared.unpin(), !unpinned);
    });
}

/// Who tries to give back what somebody has mapped is in nobody's way: another mapping is whole or refused, and what is
/// mapped can be taken out.
#[test]
fn an_unpin_that_is_refused_is_in_nobodys_way() {
    model(3, || {
        let shared = Shared::new();
        assert!(shared.map(0));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.unpin())
        };
        if shared.map(1) {
            shared.unmap(1);
        }
        assert!(!other.join().unwrap(), "pins went under a mapping");
        shared.unmap(0);
        assert_eq!((shared.table().mapped(), shared.table().stale()), (0, 0));
        assert!(shared.unpin());
    });
}

/// Who maps while another gives the pins back and pins more: what is mapped is what was counted, of one filling or of the
/// other.
#[test]
fn what_is_mapped_is_what_is_counted() {
    model(3, || {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let host = HostPins::new(PlainHost, &shared.source);
                let refilled = shared.unpin();
                refilled && host.pin(SpaceId(0), &shared.table(), &request(0, 2)).is_ok()
            })
        };
        let mapped = shared.domain.map_pins(
            &shared.memory,
            Iova::new(0),
            &shared.table(),
            Access::all(),
            IoFlags::empty(),
        );
        match mapped {
            Ok(()) => {
                let found = |page: u64| {
                    let at = Iova::new(page << 12);
                    let found = shared.domain.table().translate(&shared.memory, at).unwrap();
                    found.map(|found| found.addr)
                };
                let leaves: Vec<_> = (0..2).filter_map(found).collect();
                assert_eq!(leaves, shared.source.pinned());
                assert_eq!((leaves.len() as u64) << 12, shared.table().mapped());
                shared.unmap(0);
            }
            Err(PinsError::Domain(DomainError::Pins(TableError::InUse | TableError::Empty))) => {}
            Err(error) => panic!("{error}"),
        }
        let refilled = other.join().unwrap();
        assert_eq!(shared.table().mapped(), 0);
        assert_eq!(shared.source.pinned().len(), if refilled { 2 } else { 1 });
        assert!(shared.unpin());
    });
}
