//! Host pins: what a source owes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::frames::Frozen;
use pinfold::host::{Fault, SourceError};
use pinfold::host::{FaultIn, Reclaim, SpaceId};
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::table::Run;
use pinfold::{
    AccountId, AddrRange, Dirtied, Order, PageCount, PageShift, Pfn, PinFlags, PinRequest,
    PinTable, VirtAddr,
};
use pinfold_sim::{ContigError, FileKind, HostCall, Layout, Machine, MapSpec, Want, mib};

use crate::{AT, PAGE, RW, Scene, both, longterm, shortterm, words};

/// A kernel that counts its own pins: the machine's frame table stands for its counts. It neglects
/// one duty.
struct Kernel<'a, 'm> {
    machine: &'a Machine<'m>,
    duty: &'static str,
    /// How long the runs were that it reported, by their first frame.
    reported: RefCell<BTreeMap<u64, u64>>,
}

impl<'a, 'm> Kernel<'a, 'm> {
    fn of(scene: &Scene<'a, 'm>, duty: &'static str) -> Self {
        Self { machine: scene.machine, duty, reported: RefCell::default() }
    }

    fn neglects(&self, duty: &str) -> bool {
        self.duty == duty
    }

    fn frame(&self, space: SpaceId, va: u64) -> Option<Pfn> {
        let at = self.machine.translate(space, va, RW)?;
        Some(at.pfn(self.base()))
    }

    /// Pins the page at `va` and says which frame that is.
    fn pin_page(&self, space: SpaceId, va: u64, long: bool) -> Result<Pfn, SourceError> {
        let fault = Fault { access: RW, unshare: false, longterm: false };
        let missing = |_| SourceError::NotMapped;
        self.machine.fault_in(space, VirtAddr::new(va), fault).map_err(missing)?;
        let found = self.frame(space, va).ok_or(SourceError::NotMapped)?;
        if long && !self.neglects("source-policy") {
            let moved = self.machine.move_page(space, va, Want::Pinnable);
            moved.map_err(|_| SourceError::Unmovable)?;
        }
        let pinned = self.frame(space, va).ok_or(SourceError::NotMapped)?;
        let folio = self.machine.frames().folio(pinned).ok_or(SourceError::NotMapped)?;
        self.machine.frames().pin(folio, PageCount::ONE).map_err(|_| SourceError::Overflow)?;
        Ok(if self.neglects("source-truth") { found } else { pinned })
    }

    fn unpin_page(&self, pfn: Pfn) {
        let folio = self.machine.frames().folio(pfn).expect("memory");
        let given = self.machine.frames().unpin(folio, PageCount::ONE);
        given.ok().flatten().into_iter().for_each(|last: Frozen<'_>| {
            Reclaim::reclaim(self.machine, last);
        });
    }
}

impl PinSource for Kernel<'_, '_> {
    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }

    fn charges(&self) -> bool {
        // It charges as well, and does not say so.
        false
    }

    fn pin(
        &self,
        space: SpaceId,
        part: AddrRange,
        request: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        use pinfold::host::Account;
        if self.neglects("source-charges") {
            self.machine.charge(request.account, part.pages()).expect("there is no limit");
        }
        let mut pinned = Vec::new();
        for page in 0..part.pages().raw() {
            let va = part.start().raw() + page * PAGE;
            let long = request.flags.contains(PinFlags::LONGTERM);
            match self.pin_page(space, va, long) {
                Ok(pfn) => {
                    runs.push(pfn, PageCount::ONE)?;
                    self.reported.borrow_mut().insert(pfn.raw(), 1);
                    pinned.push(pfn);
                }
                Err(error) => {
                    if self.neglects("source-refused") {
                        // It undoes all of its call. But what was accepted is the engine's.
                        pinned.into_iter().for_each(|pfn| self.unpin_page(pfn));
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn unpin(&self, run: Run) {
        let known = self.reported.borrow().get(&run.pfn.raw()) == Some(&run.pages.raw());
        if self.neglects("source-parts") && !known {
            return; // not one of the runs that it reported
        }
        for page in 0..run.pages.raw() {
            let pfn = Pfn::new(run.pfn.raw() + page);
            if run.dirty && !self.neglects("source-dirty") {
                let folio = self.machine.frames().folio(pfn).expect("memory");
                self.machine.frames().set_flags(folio, FolioFlags::DIRTY, true);
            }
            self.unpin_page(pfn);
        }
    }
}

/// Plays a scene with a source that keeps every duty, and with one that neglects this one.
fn with_source(
    duty: &'static str,
    layout: &Layout,
    scene: impl Fn(&Scene<'_, '_>, &HostPins<&Machine<'_>, Kernel<'_, '_>>, bool),
) {
    both(duty, layout, |at, kept| {
        let kernel = Kernel::of(at, if kept { "none" } else { duty });
        scene(at, &HostPins::new(at.machine, kernel), kept);
    });
}

#[test]
fn a_frame_reported_before_it_was_moved_has_a_device_write_to_nobody_s_memory() {
    with_source("source-truth", &Layout::small(), |scene, pins, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        pins.pin(scene.space.id(), &table, &longterm(1)).expect("there is room");
        scene.device_write(&table, 2);
        assert_eq!(scene.read(&scene.space), if kept { 2 } else { 1 });
        let written = table.runs().next().expect("one run").pfn;
        let kind = scene.machine.frames().folio(written).expect("memory").info().kind;
        assert_eq!(kind == FolioKind::Free, !kept);
    });
}

#[test]
fn a_source_without_a_policy_keeps_a_cma_area_from_its_owner() {
    let layout = Layout::new(Pfn::new(0x1000)).normal(mib(4)).cma(mib(4));
    with_source("source-policy", &layout, |scene, pins, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        pins.pin(scene.space.id(), &table, &longterm(1)).expect("there is room");
        match scene.machine.alloc_contig(0, mib(4).raw()) {
            Ok(_) => assert!(kept),
            Err(error) => assert!(!kept && matches!(error, ContigError::Blocked { .. })),
        }
    });
}

/// How many pins the first pages of the process have.
fn pins(scene: &Scene<'_, '_>, pages: u64) -> u32 {
    let frames = scene.machine.frames();
    let folios = (0..pages).filter_map(|i| scene.machine.folio_at(scene.space.id(), AT + i * PAGE));
    folios.map(|folio| frames.counts_of(folio).pins()).sum()
}

#[test]
fn a_source_that_takes_back_only_whole_runs_leaves_pages_pinned() {
    with_source("source-parts", &Layout::small(), |scene, source, kept| {
        scene.map(4);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        source.pin(scene.space.id(), &table, &longterm(4)).expect("there is room");
        assert_eq!(pins(scene, 4), 4);
        source.unpin(&table, Dirtied::No).expect("it is pinned");
        assert_eq!(pins(scene, 4), if kept { 0 } else { 4 });
    });
}

#[test]
fn a_source_that_takes_back_what_was_accepted_unpins_another_device_s_page() {
    with_source("source-refused", &Layout::small(), |scene, source, kept| {
        scene.map(1);
        let (first, second) = (words(), words());
        let table = PinTable::new(&first).expect("enough words");
        source.pin(scene.space.id(), &table, &longterm(1)).expect("there is room");
        // The second page is not mapped, so this call fails and leaves nothing.
        let later = PinTable::new(&second).expect("enough words");
        source.pin(scene.space.id(), &later, &shortterm(2)).expect_err("one page is mapped");
        assert_eq!(pins(scene, 1), if kept { 1 } else { 0 }, "the first device's pin");
    });
}

#[test]
fn a_source_that_charges_and_does_not_say_so_charges_twice() {
    with_source("source-charges", &Layout::small(), |scene, source, kept| {
        scene.map(1);
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        source.pin(scene.space.id(), &table, &longterm(1)).expect("there is room");
        assert_eq!(scene.machine.charged(AccountId(0)), if kept { 1 } else { 2 });
        source.unpin(&table, Dirtied::No).expect("it is pinned");
        assert_eq!(scene.machine.charged(AccountId(0)), if kept { 0 } else { 1 });
        assert_eq!(scene.machine.calls(HostCall::Uncharge), 1);
    });
}

#[test]
fn a_source_that_forgets_what_is_dirty_drops_what_a_device_wrote() {
    with_source("source-dirty", &Layout::small(), |scene, source, kept| {
        let file = scene.machine.add_file(FileKind::Disk, 1, Order::ZERO);
        let id = scene.space.id();
        scene.machine.map(id, MapSpec::shared(AT, 1, file)).expect("free addresses");
        let words = words();
        let table = PinTable::new(&words).expect("enough words");
        source.pin(id, &table, &shortterm(1)).expect("it is mapped");
        // The page is written back, and clean. Then the device writes.
        let folio = scene.machine.folio_at(id, AT).expect("it is pinned");
        scene.machine.frames().set_flags(folio, FolioFlags::DIRTY, false);
        scene.device_write(&table, 2);
        source.unpin(&table, Dirtied::All).expect("it is pinned");
        assert_eq!(scene.machine.shrink(), if kept { 0 } else { 1 });
        assert_eq!(scene.read(&scene.space), if kept { 2 } else { 0 });
    });
}
