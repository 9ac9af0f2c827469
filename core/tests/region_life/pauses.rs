//! What others do between two steps of a registration or a removal.

use std::cell::Cell;

use pinfold::host::{Flow, Progress, Wait};
use pinfold::region::{Pinner, RegionError};
use pinfold::*;

use super::{PinHost, Stage, range, request};

/// The stage's host, which does something at a pause, before a pin, or before an unpin.
struct Meanwhile<'a> {
    host: &'a PinHost,
    step: u64,
    paused: Cell<u64>,
    /// Called with the number of the pause.
    pause: &'a dyn Fn(u64),
    pin: &'a dyn Fn(),
    unpin: &'a dyn Fn(),
}

impl<'a> Meanwhile<'a> {
    fn new(host: &'a PinHost, pause: &'a dyn Fn(u64)) -> Self {
        Self { host, step: 40, paused: Cell::new(0), pause, pin: &|| (), unpin: &|| () }
    }
}

impl Wait for Meanwhile<'_> {
    fn step(&self) -> u64 {
        self.step
    }
    fn pause(&self, _: Progress) -> Flow {
        self.paused.set(self.paused.get() + 1);
        (self.pause)(self.paused.get());
        Flow::Continue
    }
}

impl Pinner for Meanwhile<'_> {
    type Wait = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        (self.pin)();
        self.host.pin(table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        (self.unpin)();
        self.host.unpin(table, dirtied)
    }
}

/// Pages of the region that is registered or removed slowly. It shares its first and last block.
const SLOW: (u64, u64) = (3, 1500);

/// At a pause the neighbour in the first block goes and another comes, and the other way round in
/// the last block.
fn neighbours_change(stage: &Stage) -> impl Fn() + '_ {
    let first = stage.register(0, 1).unwrap().region;
    move || {
        stage.unregister(first).unwrap();
        let last = stage.register(1510, 1).unwrap().region;
        stage.register(1, 1).unwrap();
        stage.register(1520, 2).unwrap();
        stage.unregister(last).unwrap();
    }
}

/// Each page can be registered by itself: nothing is left of regions that are gone.
fn every_page_is_free(stage: &Stage) {
    stage.reclaim();
    for page in 2..1510 {
        let region = stage.register_device(page, 1, page << 12);
        let region = region.unwrap_or_else(|error| panic!("page {page}: {error}")).region;
        assert_eq!(stage.lookup(page, 1), Some(region), "page {page}");
        stage.unregister(region).unwrap();
        stage.reclaim();
    }
}

/// Runs `act` with a pinner that lets the neighbours change at the n-th pause, for every n.
fn at_every_pause(act: impl Fn(&Stage, &mut Meanwhile<'_>)) {
    for nth in 1.. {
        let stage = Stage::new(range(0, 4096), 16);
        let change = neighbours_change(&stage);
        let pause = |n| {
            if n == nth {
                change();
            }
        };
        let mut pinner = Meanwhile::new(&stage.host, &pause);
        act(&stage, &mut pinner);
        if pinner.paused.get() < nth {
            assert!(nth > 8, "only {nth} pauses");
            break;
        }
        every_page_is_free(&stage);
        assert_eq!(stage.host.held(), 3, "those of the neighbours");
    }
}

/// What was taken out of a block stays out, though the block is put together and split again.
#[test]
fn neighbours_come_and_go_while_a_region_is_removed() {
    at_every_pause(|stage, pinner| {
        let slow = stage.register(SLOW.0, SLOW.1).unwrap().region;
        stage.registry.unregister(pinner, slow, Dirtied::No).unwrap();
    });
}

#[test]
fn neighbours_come_and_go_while_a_registration_fails() {
    at_every_pause(|stage, pinner| {
        let error = stage.registry.register(pinner, &request(SLOW.0, SLOW.1), stage.table(10));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NoSpace);
    });
}

#[test]
fn neighbours_come_and_go_while_a_region_is_registered() {
    at_every_pause(|stage, pinner| {
        let (first, pages) = SLOW;
        let slow = stage.registry.register(pinner, &request(first, pages), stage.table(1600));
        let slow = slow.unwrap().region;
        for page in first..first + pages {
            assert_eq!(stage.lookup(page, 1), Some(slow), "page {page}");
        }
        assert_eq!([2, first + pages].map(|page| stage.lookup(page, 1)), [None; 2]);
        stage.unregister(slow).unwrap();
    });
}

/// Two that overlap in the middle only: whoever comes later to where they meet gives up.
#[test]
fn a_region_that_comes_first_in_the_middle_wins() {
    let mut won = [0, 0];
    for nth in 1.. {
        let stage = Stage::new(range(0, 4096), 16);
        let middle = Cell::new(None);
        let pause = |n| {
            if n == nth {
                middle.set(Some(stage.register(700, 1)));
            }
        };
        // Both ends share their block with another region, so that it takes many steps to fill.
        stage.register(0, 1).unwrap();
        stage.register(1510, 1).unwrap();
        let pinner = Meanwhile::new(&stage.host, &pause);
        let slow = stage.registry.register(&pinner, &request(SLOW.0, SLOW.1), stage.table(1600));
        let Some(middle) = middle.take() else { break };
        match (slow, middle) {
            (Ok(slow), Err(RegionError::Busy)) => {
                won[0] += 1;
                stage.unregister(slow.region).unwrap();
            }
            (Err(RegionError::Overlap { with }), Ok(middle)) if with == middle.region => {
                won[1] += 1;
                assert_eq!(stage.lookup(700, 1), Some(middle.region));
                stage.unregister(middle.region).unwrap();
            }
            other => panic!("pause {nth}: {other:?}"),
        }
        every_page_is_free(&stage);
    }
    assert!(won[0] > 0 && won[1] > 0, "{won:?}");
}

/// D31: nothing is locked while memory is pinned, so whoever pins may use the registry.
#[test]
fn a_pin_that_uses_the_registry_itself_does_not_wait_for_its_own_lock() {
    let stage = Stage::new(range(0, 4096), 16);
    let other = stage.register(2000, 2).unwrap().region;
    let act = || {
        assert_eq!(stage.lookup(2000, 2), Some(other));
        assert_eq!(stage.register(2000, 2).unwrap().used, 2);
        let third = stage.register(2, 1).unwrap().region;
        assert_eq!(stage.lookup(2, 1), Some(third));
        stage.unregister(third).unwrap();
        assert_eq!(stage.reclaim().len(), 1);
        // The region itself is not there yet, but nobody else can have its range.
        assert_eq!(stage.lookup(3, 1), None);
        assert_eq!(stage.registry.find(&range(3, 1500)), None);
        for (first, pages) in [SLOW, (4, 1), (0, 4), (1400, 600)] {
            assert_eq!(stage.register(first, pages), Err(RegionError::Busy));
        }
    };
    let pinner = Meanwhile { pin: &act, ..Meanwhile::new(&stage.host, &|_| ()) };
    let slow = stage.registry.register(&pinner, &request(SLOW.0, SLOW.1), stage.table(1600));
    assert_eq!(stage.lookup(3, 1), Some(slow.unwrap().region));
}

#[test]
fn a_region_that_is_being_unpinned_is_gone_and_its_range_is_not_free() {
    let stage = Stage::new(range(0, 4096), 16);
    let region = stage.register(3, 600).unwrap().region;
    let act = || {
        assert_eq!((stage.lookup(3, 1), stage.registry.region(region)), (None, None));
        assert_eq!(stage.realmode().map_get(region), Err(table::TooHard));
        assert_eq!(stage.unregister(region), Err(RegionError::NotFound));
        assert_eq!(stage.register(3, 600), Err(RegionError::Busy));
        assert_eq!(stage.register(602, 1), Err(RegionError::Busy));
        assert!(stage.reclaim().is_empty());
    };
    let pinner = Meanwhile { unpin: &act, ..Meanwhile::new(&stage.host, &|_| ()) };
    stage.registry.unregister(&pinner, region, Dirtied::No).unwrap();
    assert_eq!(stage.reclaim().len(), 1);
    stage.register(602, 1).unwrap();
}
