//! Several callers, and others, want to move the same folios.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use pinfold::folio::FolioFlags;
use pinfold::host::Event;
use pinfold::{Dirtied, Engine, ErrorKind, Pfn, PinCause, PinFlags, PinTable, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{HostCall, Layout, Machine, MapSpec, Ram, mib};

use super::{AT, BOTH, Race, filled, longterm, pin_while, request, words};

/// D24: "nothing to move" was read as "all may stay", so that of two callers of the same movable
/// folio one got it where it was. Here all of them get it, moved once, whoever comes first:
/// ranges overlap, some callers come from above, some take it piece by piece, memory is in a
/// movable zone or a CMA area, and one attempt to move fails.
#[test]
fn callers_of_the_same_movable_memory_all_get_it() {
    const CALLERS: u64 = 4;
    const PAGES: u64 = 256;
    let layouts = [Layout::small(), Layout::new(Pfn::new(0x1000)).normal(mib(8)).cma(mib(4))];
    for (layout, failing) in layouts.iter().flat_map(|layout| [(layout, false), (layout, true)]) {
        let ram = Ram::new(layout);
        let machine = Machine::new(&ram);
        let space = filled(&machine, PAGES);
        let kept = FolioFlags::CMA | FolioFlags::MOVABLE;
        assert!(machine.folio_at(space.id(), AT).unwrap().info().flags.intersects(kept));
        if failing {
            machine.fail(HostCall::Migrate, 1);
        }
        let engine = Engine::new(&machine, machine.frames());
        let together = Barrier::new(CALLERS as usize);
        let caller = |nth: u64| {
            let (first, last) = (nth * 32, nth * 32 + 160);
            let mut starts: Vec<u64> = (first..last).step_by(16).collect();
            // In one call, or in many: upwards, or from the end down.
            let mut step = 16;
            match nth % 3 {
                0 => (starts, step) = (vec![first], last - first),
                1 => starts.reverse(),
                _ => {}
            }
            let memory: Vec<_> = starts.iter().map(|_| words(512)).collect();
            let tables = memory.iter().map(|memory| PinTable::new(memory).unwrap());
            let tables: Vec<_> = tables.collect();
            together.wait();
            let pin = |(start, table): (&u64, &PinTable<'_>)| {
                engine.pin(&space, table, &longterm(AT + (*start << 12), step))
            };
            let pinned: Vec<_> = starts.iter().zip(&tables).map(pin).collect();
            // All hold everything now, and all hold the same. Whoever failed says so later, or the
            // others would wait for ever.
            together.wait();
            let seen = |page: u64| {
                let va = AT + (page << 12);
                let folio = machine.folio_at(space.id(), va).unwrap();
                (machine.translate(space.id(), va, BOTH), folio.info().flags)
            };
            let seen: Vec<_> = (first..last).map(seen).collect();
            together.wait();
            let moved: u64 = pinned.into_iter().map(|pinned| pinned.unwrap().migrated).sum();
            for (start, table) in starts.iter().zip(&tables) {
                for page in *start..*start + step {
                    let (mapped, flags) = seen[(page - first) as usize];
                    let said = table.lookup(VirtAddr::new(AT + (page << 12))).ok();
                    assert_eq!(said, mapped, "page {page}");
                    assert!(!flags.intersects(kept), "page {page} is pinned where it was");
                }
                engine.unpin(table, Dirtied::No).unwrap();
            }
            moved
        };
        let moved: u64 = std::thread::scope(|scope| {
            let caller = &caller;
            let others: Vec<_> = (0..CALLERS).map(|nth| scope.spawn(move || caller(nth))).collect();
            others.into_iter().map(|other| other.join().unwrap()).sum()
        });
        assert_eq!(moved, PAGES, "a folio was moved twice, or not at all");
        assert!(!machine.scheduled(), "no attempt failed");
        Model::new().check(&machine).unwrap();
    }
}

/// D24, one step at a time: while one caller is moving the only folio there is, another comes by. It
/// waits until the first is done, and both have it.
#[test]
fn a_caller_who_meets_a_folio_on_the_move_waits_for_it() {
    let (met, done) = (Barrier::new(2), AtomicBool::new(false));
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = filled(&machine, 1);
    let (met, done) = (&met, &done);
    machine.during(HostCall::Migrate, 1, move |machine| {
        met.wait();
        let before = machine.calls(HostCall::Pause);
        while machine.calls(HostCall::Pause) < before + 20 && !done.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    });
    let engine = Engine::new(&machine, machine.frames());
    let (one, other) = (words(64), words(64));
    let request = request(1, PinFlags::LONGTERM);
    let first = PinTable::new(&one).unwrap();
    let second = PinTable::new(&other).unwrap();
    let (moved, met_it) = std::thread::scope(|scope| {
        let first = scope.spawn(|| engine.pin(&space, &first, &request));
        met.wait();
        let second = engine.pin(&space, &second, &request);
        done.store(true, Ordering::SeqCst);
        (first.join().unwrap(), second)
    });
    assert_eq!((moved.unwrap().migrated, met_it.unwrap().migrated), (1, 0));
    let waited = |event: &Event| matches!(event, Event::Waiting { .. });
    assert!(machine.take_events().iter().any(waited));
    assert_eq!(machine.frames().counts_of(machine.folio_at(space.id(), AT).unwrap()).pins(), 2);
    engine.unpin(&first, Dirtied::No).unwrap();
    engine.unpin(&second, Dirtied::No).unwrap();
    Model::new().check(&machine).unwrap();
}

/// D23: a folio that could not be isolated was taken for one that need not move. Here another one
/// is moving it and does not get done: it is waited for, and then nothing is pinned.
#[test]
fn a_folio_that_another_is_moving_is_not_pinned_where_it_is() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = filled(&machine, 8);
    let folio = machine.folio_at(space.id(), AT + 0x5000).unwrap();
    let claim = machine.frames().claim(folio).unwrap();
    let engine = Engine::new(&machine, machine.frames());
    let memory = words(64);
    let table = PinTable::new(&memory).unwrap();
    let request = request(8, PinFlags::LONGTERM);
    let error = engine.pin(&space, &table, &request).unwrap_err();
    assert_eq!((error.at, error.kind()), (VirtAddr::new(AT + 0x5000), ErrorKind::Busy));
    assert_eq!(error.cause, PinCause::Busy { pfn: Some(folio.head()) });
    assert!(claim.release().is_none());
    Model::new().check(&machine).unwrap();
    // The five before it were moved already and stay moved.
    assert_eq!(engine.pin(&space, &table, &request).unwrap().migrated, 3);
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// D25: a new page waits in a list of its CPU's, which holds a reference, so it could not be moved
/// although nobody used it. The lists are drained once, before anybody gives up.
#[test]
fn new_pages_that_wait_in_per_cpu_lists_are_moved_at_the_first_pin() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    machine.batch_new_pages(15);
    machine.map(space.id(), MapSpec::anonymous(AT, 8)).unwrap();
    machine.touch(space.id(), AT, 8, BOTH).unwrap();
    pin_while(&machine, &space, &request(8, PinFlags::LONGTERM), Race::new(&|| ()), |result| {
        assert_eq!(result.as_ref().unwrap().migrated, 8);
    });
    assert_eq!(machine.calls(HostCall::Drain), 1);
}
