//! A host that says once that a table is not there, while pins are mapped: they never go while somebody reaches them.

use pinfold::domain::PinsError;
use pinfold::host::{PlainHost, SpaceId};
use pinfold::iopt::IoptError;
use pinfold::source::HostPins;
use pinfold::{Dirtied, DomainError, PinRequest, PinTable};

use super::pins::{Source, pages, words};
use super::*;

/// Where the second piece is in another table.
const START: u64 = HUGE - 0x8000;

/// What keeps the mapping from being one, besides a view that is missing.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fails {
    /// Its last page is mapped.
    Met,
    /// Somebody who must be told of it is late.
    Late,
    Nothing,
}

/// Maps pins of two pieces while the view behind so many is missing; whether one was, and whether what was mapped could
/// not be undone.
fn map(fails: Fails, views: u64) -> (bool, bool) {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal).keeping_absent();
    let mut domain = made(&memory);
    domain.attach_iommu(&iommu).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    let (words, source) = (words(200), Source::new(&[(0x8_0001, 8), (0xa_0000, 8)]));
    let pins = PinTable::new(&words).unwrap();
    let host = HostPins::new(PlainHost, &source);
    host.pin(SpaceId(0), &pins, &PinRequest::longterm(pages(16), RW)).unwrap();
    match fails {
        Fails::Met => {
            domain.map(&memory, iova(START + 0xf000), [run(0, 0x1000)], RW, NONE).unwrap()
        }
        Fails::Late => journal.fail(1),
        Fails::Nothing => {}
    }
    memory.lose_after(views);
    let mapped = domain.map_pins(&memory, iova(START), &pins, RW, NONE);
    memory.lose_after(u64::MAX);
    let places = [0, 0x1000, 0x8000, 0xe000].map(|at| iova(START + at));
    let reached = places.iter().any(|at| iommu.access(*at, true).is_ok());
    let unpinned = host.unpin(&pins, Dirtied::No);
    let error = match mapped {
        Ok(()) => {
            assert!(reached && unpinned.is_err());
            domain.unmap_pins(&memory, iova(START), &pins, &mut Runs::new()).unwrap();
            host.unpin(&pins, Dirtied::No).unwrap();
            return (false, false);
        }
        Err(PinsError::Domain(error)) => error,
        Err(PinsError::NotFlushed(stale)) => {
            // What was mapped for a while is out, and that is what was late.
            assert!(unpinned.is_err() && fails == Fails::Late);
            assert_eq!((pins.mapped(), pins.stale()), (0, 16 << 12));
            domain.settle(&memory, stale).unwrap();
            assert!(places.iter().all(|at| iommu.access(*at, true).is_err()));
            host.unpin(&pins, Dirtied::No).unwrap();
            return (true, false);
        }
        Err(other) => panic!("{other}"),
    };
    let stuck = matches!(error, DomainError::Table(IoptError::NotUndone { .. }));
    assert_eq!((reached, unpinned.is_err()), (stuck, stuck), "{fails:?}, {views}: {error}");
    let counted = if stuck { 16 << 12 } else { 0 };
    assert_eq!((pins.mapped(), pins.stale()), (counted, 0));
    (matches!(error, DomainError::Table(IoptError::Corrupt { .. })) || stuck, stuck)
}

#[test]
fn pins_stay_while_they_are_in_reach() {
    for fails in [Fails::Met, Fails::Late, Fails::Nothing] {
        let all: Vec<_> = (0..40).map(|views| map(fails, views)).collect();
        assert!(all.iter().any(|(missing, _)| *missing) && !all[39].0, "{all:?}");
        assert_eq!(all.iter().any(|(_, stuck)| *stuck), fails != Fails::Nothing);
    }
}
