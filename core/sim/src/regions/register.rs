//! Registering and removing, and what must come of it.

use pinfold::region::{RegionError, Registered, Unregistered};
use pinfold::{
    Access, Dirtied, ErrorKind, PageCount, Pfn, PhysAddr, PinRequest, RegionId, VirtAddr,
};

use super::model::{BASE, Known, NODE, Pages, range};
use super::play::{Play, TABLE};

/// The most pages that are pinned at once: tables stay small.
const MOST_PINNED: u64 = 1 << 19;

impl Play<'_> {
    /// What must come of a registration, or `None` if a new region does.
    fn expected(&mut self, pages: Pages, fits: impl Fn(&Known) -> bool) -> Option<Expected> {
        if pages.0 < self.window.0 || pages.1 > self.window.1 {
            return Some(Expected::Error(RegionError::OutsideWindow));
        }
        if let Some(known) = self.model.exactly(pages) {
            if !fits(known) {
                return Some(Expected::Error(RegionError::Overlap { with: known.id }));
            }
            known.used += 1;
            let (region, used) = (known.id, known.used);
            return Some(Expected::Shared(Registered { region, pinned: None, used }));
        }
        let others = self.model.overlapping(pages);
        if !others.is_empty() {
            return Some(Expected::Overlap(others));
        }
        let nodes = self.model.nodes(Some(pages)) + self.model.retired_nodes();
        let need = self.fixed + (nodes * NODE) as usize;
        if need > self.have {
            return Some(Expected::Error(RegionError::NoSpace { need }));
        }
        let used = self.model.regions.len() + self.model.retired.len();
        (used == self.records).then_some(Expected::Error(RegionError::Full))
    }

    /// Compares; whether a new region came of it.
    fn compare(
        &mut self,
        expected: Option<Expected>,
        found: Result<Registered, RegionError>,
    ) -> Option<Registered> {
        match expected {
            None => return Some(found.unwrap_or_else(|error| panic!("{error}"))),
            Some(Expected::Shared(shared)) => {
                assert_eq!(found, Ok(shared));
                self.outcome.shared += 1;
            }
            Some(Expected::Error(error)) => {
                assert_eq!(found, Err(error));
                self.outcome.no_space += u64::from(error.kind() == ErrorKind::NoSpace);
            }
            Some(Expected::Overlap(others)) => {
                self.outcome.overlapped += 1;
                match found {
                    Err(RegionError::Overlap { with }) => assert!(others.contains(&with)),
                    // Between the ends it is looked for only when there is room for them.
                    Err(RegionError::NoSpace { .. } | RegionError::Full) => {}
                    other => panic!("{other:?} of an overlap"),
                }
                self.reclaim_all();
            }
        }
        None
    }

    pub(super) fn register(&mut self, pages: Pages, read_only: bool, fail: u64) {
        let pages = (pages.0, pages.1.min(pages.0 + MOST_PINNED));
        let access = if read_only { Access::READ } else { Access::all() };
        let Some(range) = range(pages) else { return };
        let expected =
            self.expected(pages, |known| known.device.is_none() && known.access.contains(access));
        let table = *self.free_tables.last().expect("one more than records");
        let words = &self.tables[table * TABLE..(table + 1) * TABLE];
        let request = PinRequest::longterm(range, access);
        let pins = self.host.pins();
        // Pins fail where all else is well.
        self.host.fail(if expected.is_none() { fail } else { 0 });
        let found = self.registry.register(&self.host, &request, words);
        self.host.fail(0);
        if expected.is_some() {
            assert_eq!(self.host.pins(), pins, "nothing is pinned for what is refused");
        }
        if let Err(RegionError::Interrupted | RegionError::Pin(_)) = found {
            assert!(fail != 0 && expected.is_none(), "{found:?}");
            self.outcome.failed += 1;
            return self.reclaim_all();
        }
        if let Some(new) = self.compare(expected, found) {
            assert_eq!(new.pinned.map(|pinned| pinned.pages.raw()), Some(pages.1 - pages.0));
            self.free_tables.pop();
            self.add(new, Known { table: Some(table), ..known(new, pages, access) });
        }
    }

    pub(super) fn register_device(&mut self, pages: Pages, at: PhysAddr) {
        let Some(range) = range(pages) else { return };
        let expected = self.expected(pages, |known| known.device == Some(at));
        let found = self.registry.register_device(&self.host, &range, at);
        if let Some(new) = self.compare(expected, found) {
            assert_eq!(new.pinned, None);
            self.add(new, Known { device: Some(at), ..known(new, pages, Access::all()) });
        }
    }

    fn add(&mut self, new: Registered, region: Known) {
        assert_eq!(new.used, 1);
        assert!(!self.dead.contains(&new.region), "a name came again");
        self.model.regions.insert(region.pages.0, region);
        self.outcome.registered += 1;
        self.outcome.nodes = self.outcome.nodes.max(self.model.nodes(None));
    }

    pub(super) fn unregister(&mut self, which: u8, all: bool) {
        let Some(known) = self.known(which) else { return };
        let (id, first) = (known.id, known.pages.0);
        let expected = match (known.used, known.mapped) {
            (1, 0) => None,
            (1, mapped) => Some(Err(RegionError::Mapped { mapped })),
            _ => {
                known.used -= 1;
                Some(Ok(Unregistered::StillUsed(known.used)))
            }
        };
        let dirtied = if all { Dirtied::All } else { Dirtied::No };
        let found = self.registry.unregister(&self.host, id, dirtied);
        if let Some(expected) = expected {
            assert_eq!(found, expected);
            self.outcome.busy += u64::from(found.is_err());
            return;
        }
        let Ok(Unregistered::Gone(unpinned)) = found else { panic!("{found:?}") };
        let region = self.model.remove(first).expect("it was there");
        let pinned = region.device.is_none().then_some(region.pages.1 - region.pages.0);
        assert_eq!(unpinned.map(|unpinned| unpinned.pages.raw()), pinned);
        let dirty = self.host.take_dirty();
        let pages: u64 = dirty.iter().map(|(_, pages)| pages.raw()).sum();
        if all {
            assert_eq!(pages, pinned.unwrap_or(0));
        } else {
            let frame = |page: &u64| self.host.behind(VirtAddr::new(page << 12)).pfn(BASE).raw();
            let marked: Vec<u64> = region.marked.iter().map(frame).collect();
            let holds = |at: &(Pfn, PageCount), pfn: &u64| {
                pfn.checked_sub(at.0.raw()).is_some_and(|inside| inside < at.1.raw())
            };
            assert!(
                marked.iter().all(|pfn| dirty.iter().any(|run| holds(run, pfn))),
                "lost a mark"
            );
            assert!(dirty.iter().all(|run| marked.iter().any(|pfn| holds(run, pfn))), "too dirty");
        }
        self.dead.push(id);
        self.outcome.removed += 1;
    }
}

fn known(new: Registered, pages: Pages, access: Access) -> Known {
    Known {
        id: new.region,
        pages,
        access,
        used: 1,
        mapped: 0,
        device: None,
        table: None,
        marked: Vec::new(),
    }
}

/// What must come of a registration that makes no new region.
enum Expected {
    Shared(Registered),
    Error(RegionError),
    /// One of these is in the way.
    Overlap(Vec<RegionId>),
}
