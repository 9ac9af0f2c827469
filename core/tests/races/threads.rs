//! Real threads, and every count looked at when they are done.

use pinfold::{Dirtied, Engine, Pfn, PinFlags, PinRequest, PinTable, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::{Layout, Machine, MapSpec, Ram, Thp, mib};

use super::{AT, BOTH, HUGE, filled, longterm, number, words};

/// Numbers that look like chance and are the same each time.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Pins and unpins of ranges that overlap, in memory of every shape. Nothing else happens, so
/// nothing may fail.
#[test]
fn pins_and_unpins_of_overlapping_ranges_lose_no_count() {
    const PAGES: u64 = 4 * HUGE;
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(16)));
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    for (part, thp) in [(0, Thp::Never), (1, Thp::Whole), (2, Thp::Split), (3, Thp::Never)] {
        let at = AT + ((part * HUGE) << 12);
        machine.map(id, MapSpec::anonymous(at, HUGE).with_thp(thp)).unwrap();
    }
    number(&machine, id, PAGES);
    let engine = Engine::new(&machine, machine.frames());
    let worker = |mut seed: u64| {
        let memory = words(PAGES as usize * 2);
        let table = PinTable::new(&memory).unwrap();
        for _ in 0..150 {
            let first = next(&mut seed) % PAGES;
            let pages = 1 + next(&mut seed) % (PAGES - first);
            let long = longterm(AT + (first << 12), pages);
            let short = PinRequest { flags: PinFlags::empty(), ..long };
            let request = if next(&mut seed).is_multiple_of(2) { long } else { short };
            assert_eq!(engine.pin(&space, &table, &request).unwrap().faults, 0);
            for page in (first..first + pages).step_by(61) {
                let va = AT + (page << 12);
                let folio = machine.folio_at(id, va).unwrap();
                assert!(machine.frames().counts_of(folio).pins() > 0, "page {page} has no pin");
                let mapped = machine.translate(id, va, BOTH);
                assert_eq!(table.lookup(VirtAddr::new(va)).ok(), mapped);
            }
            engine.unpin(&table, Dirtied::No).unwrap();
        }
    };
    std::thread::scope(|scope| {
        let worker = &worker;
        (1..=4).for_each(|seed| drop(scope.spawn(move || worker(seed))));
    });
    Model::new().check(&machine).unwrap();
}

/// D16: a page was moved under a pin. D31: locks were taken in two orders. Here pages are put
/// together, taken apart, swapped, moved and shared while others pin them: what is pinned stays the
/// process's page with what the process put there, and everybody comes to an end.
#[test]
fn nothing_that_is_pinned_is_moved_swapped_or_put_together() {
    const ROUNDS: u64 = 150;
    let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(32)));
    let machine = Machine::new(&ram);
    let space = filled(&machine, HUGE);
    let id = space.id();
    let engine = Engine::new(&machine, machine.frames());
    let device = machine.device();
    let pinner = |first: u64, pages: u64| {
        let memory = words(2048);
        let table = PinTable::new(&memory).unwrap();
        let mut pinned = 0;
        for _ in 0..ROUNDS {
            // Somebody may be quicker sixteen times; that is an error, and no more than that.
            if engine.pin(&space, &table, &longterm(AT + (first << 12), pages)).is_err() {
                continue;
            }
            pinned += 1;
            for page in first..first + pages {
                let va = AT + (page << 12);
                let addr = table.lookup(VirtAddr::new(va)).unwrap();
                let mut byte = [0];
                device.read(addr, &mut byte).unwrap();
                assert_eq!(byte, [page as u8], "page {page} is another");
                machine.read(id, va, &mut byte).unwrap();
                let mapped = machine.translate(id, va, pinfold::Access::READ);
                assert_eq!(Some(addr), mapped, "page {page} is not the process's");
            }
            engine.unpin(&table, Dirtied::No).unwrap();
        }
        pinned
    };
    let changer = |mut seed: u64| {
        for _ in 0..4 * ROUNDS {
            let at = AT + ((next(&mut seed) % HUGE) << 12);
            match next(&mut seed) % 6 {
                0 => drop(machine.fork(id).map(|child| machine.drop_space(child.id()))),
                1 => drop(machine.move_page(id, at, pinfold_sim::Want::Movable)),
                2 => drop(machine.collapse(id, at)),
                3 => drop(machine.split_folio(id, at)),
                4 => drop(machine.split_mapping(id, at)),
                _ => drop(machine.swap_out(id, at)),
            }
            machine.read(id, at, &mut [0]).unwrap();
        }
    };
    let pinned: u64 = std::thread::scope(|scope| {
        let (pinner, changer) = (&pinner, &changer);
        let pins = [(0, HUGE), (17, 100), (400, 3)];
        let pins = pins.map(|(first, pages)| scope.spawn(move || pinner(first, pages)));
        scope.spawn(move || changer(1));
        pins.into_iter().map(|pin| pin.join().unwrap()).sum()
    });
    assert!(pinned > 0);
    Model::new().check(&machine).unwrap();
}
