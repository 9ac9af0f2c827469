//! Readers of a registry, as they are where nothing is within reach, while regions come and go.
//!
//! One thread writes in each model: writers exclude each other by a lock, and what a lock does needs no
//! model. Frames tell which call pinned them, see [`source`](super::source): so an address is
//! right if it is of the region that was asked for.

use std::sync::Arc;

use loom::thread::{self, JoinHandle};
use pinfold::host::{PlainHost, SpaceId, SpinWait};
use pinfold::realmode::RealMode;
use pinfold::region::{InSpace, Pinner, RegionError, Unregistered};
use pinfold::source::HostPins;
use pinfold::sync::{Ordering, Word};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{TableError, TooHard};
use pinfold::{
    Areas, Dirtied, PinError, PinRequest, PinTable, Pinned, RegionId, Registry, UnpinError,
    Unpinned,
};

use super::source::{BASE, Source, frame, range, request, va};

/// Words of a table for two pages.
const TABLE: usize = HEADER_WORDS + 2;

/// All that is within a reader's reach, and the host.
struct Memory {
    own: Vec<Word>,
    tables: Vec<Word>,
    source: Source,
}

impl Memory {
    fn areas(&self) -> Areas<'_> {
        Areas::new(&[&self.own, &self.tables]).unwrap()
    }

    fn table(&self, number: usize) -> &[Word] {
        &self.tables[number * TABLE..][..TABLE]
    }

    fn reader(&self) -> RealMode<'_> {
        RealMode::open(self.areas(), &self.own).unwrap()
    }
}

type Pins<'m> = HostPins<PlainHost, &'m Source>;

/// The registry and what its writer needs.
struct Writer<'m> {
    memory: &'m Memory,
    registry: Registry<'m>,
    pins: Pins<'m>,
}

impl<'m> Writer<'m> {
    fn pinner(&self) -> InSpace<&Pins<'m>, SpaceId> {
        InSpace { pins: &self.pins, space: SpaceId(0) }
    }

    /// Pages from `first` on, with the table of this number.
    fn register(&self, first: u64, pages: u64, table: usize) -> RegionId {
        let request = request(first, pages);
        let table = self.memory.table(table);
        self.registry.register(&self.pinner(), &request, table).unwrap().region
    }

    fn unregister(&self, region: RegionId) -> Result<Unregistered, RegionError> {
        self.registry.unregister(&self.pinner(), region, Dirtied::No)
    }

    /// Takes everything back that was retired, whoever may be reading.
    fn reclaim(&self, free: impl FnMut(&'m [Word])) {
        self.registry.reclaim(&SpinWait, self.registry.retired(&SpinWait), free);
    }
}

/// Runs the writer with a registry of `records` records for so many pages.
fn model(
    preemptions: usize,
    pages: u64,
    records: u32,
    race: impl Fn(&Writer<'_>, &Arc<Memory>) + Sync + Send + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    // A node of the directory is written and read as a whole.
    builder.max_branches = 20_000;
    builder.check(move || {
        let window = range(0, pages);
        // One node, where there are any.
        let need = 8 + 8 * records as usize + if pages > 512 { 2 + 520 } else { pages as usize };
        let words = |n: usize| (0..n).map(|_| Word::new(0)).collect();
        let (own, tables) = (words(need), words(2 * TABLE));
        let memory = Arc::new(Memory { own, tables, source: Source::default() });
        let registry = Registry::new(memory.areas(), &memory.own, &window, records).unwrap();
        let pins = HostPins::new(PlainHost, &memory.source);
        race(&Writer { memory: &memory, registry, pins }, &memory);
    });
}

fn reader<T: 'static>(
    memory: &Arc<Memory>,
    read: impl FnOnce(RealMode<'_>, &Memory) -> T + 'static,
) -> JoinHandle<T> {
    let memory = Arc::clone(memory);
    thread::spawn(move || read(memory.reader(), &memory))
}

/// Of one who maps a region and one who removes it exactly one succeeds, and what is translated under
/// the reference is pinned.
#[test]
fn a_region_is_never_mapped_and_removed() {
    model(3, 4, 1, |writer, memory| {
        let region = writer.register(0, 2, 0);
        let mapper = reader(memory, move |view, memory| {
            view.map_get(region)?;
            let addr = view.translate(region, va(1), BASE).unwrap();
            assert!(memory.source.pinned().contains(&addr), "{addr} is not pinned");
            Ok::<_, TooHard>(())
        });
        let removed = writer.unregister(region);
        let mapped = mapper.join().unwrap();
        match removed {
            Ok(_) => assert_eq!(mapped, Err(TooHard)),
            Err(error) => assert_eq!((mapped, error), (Ok(()), RegionError::Mapped { mapped: 1 })),
        }
    });
}

/// A region that is just being registered is found as a whole or not at all, even in the record and
/// the table of one that was there before.
#[test]
fn a_region_comes_as_a_whole() {
    model(3, 4, 1, |writer, memory| {
        let before = writer.register(0, 2, 0);
        writer.unregister(before).unwrap();
        writer.reclaim(|_| {});
        let mapper = reader(memory, |view, memory| {
            let region = view.lookup(va(1), 1)?;
            view.map_get(region)?;
            let addr = view.translate(region, va(1), BASE).unwrap();
            assert_eq!(addr, frame(2, 1));
            assert!(memory.source.pinned().contains(&addr), "{addr} is not pinned");
            Ok::<_, TooHard>(region)
        });
        let region = writer.register(1, 2, 0);
        let mapped = mapper.join().unwrap();
        assert!(mapped.is_err() || mapped == Ok(region), "{mapped:?} was not registered");
    });
}

/// A mark that was made under a reference is seen by the unpin of that region. A count or a mark that
/// comes too late changes nothing of the region that has the record and the table by then.
#[test]
fn a_mark_reaches_the_unpin_of_its_own_region() {
    model(4, 4, 1, |writer, memory| {
        let first = writer.register(0, 2, 0);
        let marker = reader(memory, move |view, _| {
            (view.map_get(first), view.mark_dirty(first, va(1)), view.map_put(first))
        });
        let early = writer.unregister(first).is_ok();
        let next = || {
            writer.reclaim(|_| {});
            writer.register(0, 2, 0)
        };
        let second = early.then(next);
        let marked = marker.join().unwrap();
        let second = second.unwrap_or_else(|| {
            writer.unregister(first).unwrap();
            next()
        });
        assert_eq!(writer.registry.region(second).unwrap().mapped, 0);
        writer.unregister(second).unwrap();
        let all = |result| (result, result, result);
        assert!([all(Ok(())), all(Err(TooHard))].contains(&marked), "{marked:?}");
        let expected = if marked.1.is_ok() { vec![frame(1, 1)] } else { vec![] };
        assert_eq!(memory.source.dirty(), expected);
        assert_eq!(memory.source.pinned(), []);
    });
}

/// Of two marks at one region none is lost, whoever lets go last.
#[test]
fn two_marks_both_arrive() {
    model(3, 4, 1, |writer, memory| {
        let region = writer.register(0, 2, 0);
        let view = writer.registry.realmode();
        view.map_get(region).unwrap();
        view.map_get(region).unwrap();
        let marker = reader(memory, move |view, _| {
            view.mark_dirty(region, va(0)).unwrap();
            view.map_put(region).unwrap();
        });
        view.mark_dirty(region, va(1)).unwrap();
        view.map_put(region).unwrap();
        let early = writer.unregister(region).is_ok();
        marker.join().unwrap();
        if !early {
            writer.unregister(region).unwrap();
        }
        assert_eq!(memory.source.dirty(), [frame(1, 0), frame(1, 1)]);
    });
}

/// The only record and the only table are used again at once, for a range that overlaps: the name of
/// the region before does not come to mean the new one.
#[test]
fn a_name_never_means_another_region() {
    model(3, 4, 1, |writer, memory| {
        let first = writer.register(0, 2, 0);
        let stale = reader(memory, move |view, _| view.translate(first, va(1), BASE));
        writer.unregister(first).unwrap();
        writer.reclaim(|_| {});
        writer.register(1, 2, 0);
        let found = stale.join().unwrap();
        assert!([Err(TooHard), Ok(frame(1, 1))].contains(&found), "{found:x?}");
    });
}

/// As above: neither region is found by the addresses that only the other one has.
#[test]
fn an_address_never_finds_another_region() {
    model(3, 4, 1, |writer, memory| {
        let first = writer.register(0, 2, 0);
        let finder = reader(memory, |view, _| (view.lookup(va(0), 1), view.lookup(va(2), 1)));
        writer.unregister(first).unwrap();
        writer.reclaim(|_| {});
        let second = writer.register(1, 2, 0);
        let (begin, end) = finder.join().unwrap();
        assert!([Err(TooHard), Ok(first)].contains(&begin), "{begin:?}");
        assert!([Err(TooHard), Ok(second)].contains(&end), "{end:?}");
    });
}

/// The words of a table are put to another use while somebody still reads them: taken back too early,
/// and still no wrong address.
#[test]
fn what_is_reclaimed_too_early_is_not_read_as_an_address() {
    model(3, 4, 1, |writer, memory| {
        let region = writer.register(0, 2, 0);
        let late = reader(memory, move |view, _| view.translate(region, va(1), BASE));
        let address = memory.table(0)[TABLE - 1].load(Ordering::Relaxed);
        writer.unregister(region).unwrap();
        writer.reclaim(|table| {
            table.iter().for_each(|word| word.store(address ^ 1 << 40, Ordering::Relaxed));
        });
        let found = late.join().unwrap();
        assert!([Err(TooHard), Ok(frame(1, 1))].contains(&found), "{found:x?}");
    });
}

/// Gives nothing back: somebody else is at the table.
struct Stuck<'a, 'm>(&'a Writer<'m>);

impl Pinner for Stuck<'_, '_> {
    type Wait = SpinWait;

    fn wait(&self) -> &SpinWait {
        &SpinWait
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.0.pinner().pin(table, request)
    }
    fn unpin(&self, _: &PinTable<'_>, _: Dirtied) -> Result<Unpinned, UnpinError> {
        Err(UnpinError::Table(TableError::InUse))
    }
}

/// A region that could not be unpinned is there again, and it is the same.
#[test]
fn a_region_that_is_opened_again_is_as_it_was() {
    model(3, 4, 1, |writer, memory| {
        let before = writer.register(0, 2, 0);
        writer.unregister(before).unwrap();
        writer.reclaim(|_| {});
        let mapper = reader(memory, |view, _| {
            let region = view.lookup(va(1), 1)?;
            view.translate(region, va(1), BASE)
        });
        let region = writer.register(1, 2, 1);
        let stuck = writer.registry.unregister(&Stuck(writer), region, Dirtied::No);
        assert_eq!(stuck, Err(RegionError::Unpin(UnpinError::Table(TableError::InUse))));
        let found = mapper.join().unwrap();
        assert!([Err(TooHard), Ok(frame(2, 1))].contains(&found), "{found:x?}");
        assert_eq!(writer.registry.realmode().lookup(va(1), 1), Ok(region));
    });
}

/// A registered region is found at every instant while another comes into its block of the directory
/// and leaves it: the block is split into a node and put together again.
#[test]
fn a_neighbour_never_hides_a_region() {
    model(2, 1024, 2, |writer, memory| {
        let stable = writer.register(600, 1, 0);
        let finder = reader(memory, |view, _| (view.lookup(va(600), 1), view.lookup(va(900), 1)));
        let neighbour = writer.register(900, 1, 1);
        writer.unregister(neighbour).unwrap();
        let (found, other) = finder.join().unwrap();
        assert_eq!(found, Ok(stable));
        assert!([Err(TooHard), Ok(neighbour)].contains(&other), "{other:?}");
    });
}
