//! Between two pauses no more is done than the host allows, and nothing is asked for under a lock.

use std::cell::Cell;

use pinfold::host::{Flow, Progress, Saved, Wait};
use pinfold::region::Pinner;
use pinfold::sync::{Ordering, Word};
use pinfold::*;

use super::{PinHost, Stage, range, request};

/// Looks at every pause how many words of the registry have changed since the last.
struct Watch<'a> {
    host: &'a PinHost,
    step: u64,
    own: &'a [Word],
    seen: std::cell::RefCell<Vec<u64>>,
    most: Cell<u64>,
    pauses: Cell<u64>,
    /// How often the lock was taken since the last pause, and whether it is held.
    taken: Cell<u64>,
    most_taken: Cell<u64>,
    held: Cell<bool>,
}

impl<'a> Watch<'a> {
    fn new(host: &'a PinHost, step: u64, own: &'a [Word]) -> Self {
        let (zero, none) = (Cell::default, Cell::default);
        let watch = Self {
            host,
            step,
            own,
            seen: std::cell::RefCell::default(),
            most: zero(),
            pauses: zero(),
            taken: zero(),
            most_taken: zero(),
            held: none(),
        };
        watch.look();
        watch.most.set(0);
        watch
    }

    fn look(&self) {
        let now: Vec<u64> = self.own.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let old = self.seen.replace(now.clone());
        let changed = old.iter().zip(&now).filter(|(old, new)| old != new).count() as u64;
        self.most.set(self.most.get().max(changed));
    }

    fn check(&self, what: &str, pauses: u64) {
        self.look();
        // Beside the step: a record, and the nodes that one block is split into.
        let most = self.step + 3 * 520 + 16;
        assert!(
            self.most.get() <= most,
            "{what}: {} words with step {}",
            self.most.get(),
            self.step
        );
        assert!(self.pauses.get() >= pauses, "{what}: only {} pauses", self.pauses.get());
        assert!(self.most_taken.get() <= self.step + 4, "{what}: {}", self.most_taken.get());
        self.most.set(0);
        self.pauses.set(0);
        self.most_taken.set(0);
    }
}

impl Wait for Watch<'_> {
    fn step(&self) -> u64 {
        self.step
    }
    fn enter(&self) -> Saved {
        assert!(!self.held.replace(true), "a lock within a lock");
        self.taken.set(self.taken.get() + 1);
        Saved(7)
    }
    fn leave(&self, saved: Saved) {
        assert_eq!(saved, Saved(7));
        assert!(self.held.replace(false));
    }
    fn pause(&self, progress: Progress) -> Flow {
        assert!(!self.held.get(), "paused under the lock");
        assert!(progress.done <= progress.total);
        self.look();
        self.pauses.set(self.pauses.get() + 1);
        self.most_taken.set(self.most_taken.get().max(self.taken.take()));
        Flow::Continue
    }
}

impl Pinner for Watch<'_> {
    type Wait = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        assert!(!self.held.get(), "pinned under the lock");
        self.host.pin(table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        assert!(!self.held.get(), "unpinned under the lock");
        self.host.unpin(table, dirtied)
    }
}

/// A region over thousands of blocks of the directory, between two that share its first and last one.
#[test]
fn a_region_over_thousands_of_blocks_comes_and_goes_in_steps() {
    const BLOCKS: u64 = 4000;
    for step in [1, 7, 64, 600] {
        let stage = Stage::new(range(0, 1 << 22), 8);
        let pages = BLOCKS * 512;
        stage.register(0, 1).unwrap();
        stage.register(pages + 100, 1).unwrap();
        let watch = Watch::new(&stage.host, step, &stage.memory[..stage.own]);
        let table = stage.table(3000);
        let region = stage.registry.register(&watch, &request(3, pages), table).unwrap().region;
        watch.check("register", BLOCKS / (step + 1));
        assert_eq!(stage.lookup(3, pages), Some(region));
        stage.registry.unregister(&watch, region, Dirtied::No).unwrap();
        watch.check("unregister", BLOCKS / (step + 1));
        // And when it is another that is in the way, or the pins fail.
        let middle = stage.register(pages / 2, 1).unwrap().region;
        let refused = stage.registry.register(&watch, &request(3, pages), stage.table(9));
        assert_eq!(refused.unwrap_err(), region::RegionError::Overlap { with: middle });
        watch.check("refused", BLOCKS / 2 / (step + 1));
    }
}

#[test]
fn much_that_is_retired_is_reclaimed_in_steps() {
    const REGIONS: u64 = 300;
    let stage = Stage::of(range(0, 1 << 22), 2 * REGIONS as u32, 0x20_0000);
    // Each in a block of its own, but for a neighbour: a node and a record for each.
    let pairs = (0..REGIONS).flat_map(|at| [(at * 512, 1), (at * 512 + 9, 1)]);
    let regions: Vec<RegionId> =
        pairs.map(|(first, pages)| stage.register(first, pages).unwrap().region).collect();
    for region in regions {
        stage.unregister(region).unwrap();
    }
    for step in [7, 64] {
        let watch = Watch::new(&stage.host, step, &stage.memory[..8]);
        let grace = stage.registry.retired(&watch);
        let mut tables = 0;
        stage.registry.reclaim(&watch, grace, |_| {
            assert!(!watch.held.get(), "given back under the lock");
            tables += 1;
        });
        let work = if step == 7 { 3 * REGIONS } else { 0 };
        assert_eq!(tables, if step == 7 { 2 * REGIONS } else { 0 });
        watch.check("reclaim", work / step);
    }
    stage.assert_empty();
}
