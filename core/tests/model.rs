//! Random scripts against the model: whatever happens, in whatever order, all counts and charges
//! are what they must be after every step, and nothing is left at the end.

use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, Engine, Order, PageCount, PageShift, Pfn, PinCause, PinRequest, PinTable,
    VirtAddr,
};
use pinfold_sim::model::Model;
use pinfold_sim::script::{Deed, How, Op, Outcome, Part, Script, What, reduced, run, run_checking};
use pinfold_sim::{FileKind, FreePolicy, HostCall, Layout, Machine, MapSpec, Ram, Thp, Want, mib};

const AT: u64 = 0x4000_0000;

/// A short run; `cargo xtask test model` does 400000 calls.
#[test]
fn whatever_happens_the_books_are_right() {
    let mut sum = Outcome::default();
    for seed in 0..60 {
        let script = Script::random(seed, 150);
        let run = |script: &Script| run_checking(script, 4);
        match run(&script) {
            Ok(outcome) => sum += outcome,
            Err(_) => {
                let few = reduced(&script, |script| run(script).is_err());
                panic!("seed {seed}: {}, in {:#?}", run(&few).unwrap_err(), few.0);
            }
        }
    }
    // The scripts are worth something: each kind of thing happens often.
    for count in [sum.pinned, sum.pinned_late, sum.injected, sum.disturbed, sum.unpinned] {
        assert!(count > 60, "{sum}");
    }
    assert!(sum.marked > 30 && sum.migrated > 300 && sum.hooked > 300, "{sum}");
}

fn request(pages: u64, access: Access) -> PinRequest {
    let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(pages), PageShift::SIZE_4K);
    PinRequest::longterm(range.unwrap(), access)
}

fn words(request: &PinRequest) -> Vec<Word> {
    let need = PinTable::words_for(&request.range, request.range.base()).unwrap();
    (0..need).map(|_| Word::new(0)).collect()
}

const PART: Part = Part { space: 0, window: 0, page: 0, pages: 0 };

const fn read_pin(how: How) -> Op {
    Op::Pin { table: 0, part: PART, write: false, how, account: 0, tight: false }
}

/// A page that is the process's own already needs no unshare, whatever it is made of.
#[test]
fn a_private_hugetlb_page_can_be_pinned_for_long_reads() {
    let map = Op::Do(Deed::Map(PART, What::Hugetlb));
    let outcome = run(&Script(vec![map, read_pin(How::Longterm)])).unwrap();
    assert_eq!(outcome.pinned, 1);
}

/// D3 for device-coherent memory: it is anonymous memory too.
#[test]
fn a_shared_device_coherent_page_is_made_private_before_a_read_pin() {
    let part = Part { pages: 3, ..PART };
    let steps =
        [Deed::Map(part, What::Small), Deed::Write(part), Deed::Move(part, 3), Deed::Fork(0)];
    let mut ops: Vec<Op> = steps.into_iter().map(Op::Do).collect();
    ops.push(read_pin(How::Short));
    assert_eq!(run(&Script(ops)).unwrap().pinned, 1);
}

/// D76: without the walk guard a table page that is freed and used again leads a walk astray, and
/// comparing the entries again does not notice.
#[test]
fn a_missing_walk_guard_pins_what_was_never_asked_for() {
    for policy in [FreePolicy::Deferred, FreePolicy::PoisonAtOnce] {
        let ram = Ram::new(&Layout::new(Pfn::new(0x1000)).normal(mib(4)));
        let machine = Machine::new(&ram);
        machine.set_free_policy(policy);
        let space = machine.add_space();
        let id = space.id();
        machine.map(id, MapSpec::anonymous(AT, 1)).unwrap();
        machine.write(id, AT, &[1]).unwrap();
        // The walker has just been shown the last table: it is freed, and used for another address.
        machine.during(HostCall::Table, 4, move |machine| {
            machine.unmap(id, AT, 1).unwrap();
            machine.map(id, MapSpec::anonymous(2 * AT, 1)).unwrap();
            machine.write(id, 2 * AT, &[2]).unwrap();
        });
        let engine = Engine::new(&machine, machine.frames());
        let request = request(1, Access::all());
        let words = words(&request);
        let table = PinTable::new(&words).unwrap();
        let pinned = engine.pin(&space, &table, &request);
        match policy {
            FreePolicy::Deferred => assert_eq!(pinned.unwrap_err().cause, PinCause::NotMapped),
            FreePolicy::PoisonAtOnce => {
                let astray = machine.translate(id, 2 * AT, Access::READ);
                assert_eq!(table.lookup(VirtAddr::new(AT)).ok(), astray);
                Model::new().pinned(&machine, 0, id, &request, None).unwrap_err();
                engine.unpin(&table, pinfold::pin::Dirtied::No).unwrap();
            }
        }
        Model::new().check(&machine).unwrap();
    }
}

/// What is known of a mapping is good only while the space's sequence stands, also when the pages
/// behind it have been looked at: between the look-up and the pin it may be another mapping.
#[test]
fn a_mapping_that_is_replaced_during_the_walk_is_looked_up_again() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    let memory = machine.add_file(FileKind::Shmem, 1, Order::ZERO);
    let disk = machine.add_file(FileKind::Disk, 1, Order::ZERO);
    machine.map(id, MapSpec::shared(AT, 1, memory)).unwrap();
    machine.touch(id, AT, 1, Access::READ).unwrap();
    machine.move_page(id, AT, Want::Pinnable).unwrap();
    // The first walk finds out that the answer depends on the mapping; before the second one it
    // becomes a private one, where a long read needs a copy first.
    machine.during(HostCall::GuardEnter, 2, move |machine| {
        machine.unmap(id, AT, 1).unwrap();
        machine.map(id, MapSpec::private(AT, 1, disk)).unwrap();
        machine.touch(id, AT, 1, Access::READ).unwrap();
        machine.move_page(id, AT, Want::Pinnable).unwrap();
    });
    let engine = Engine::new(&machine, machine.frames());
    let request = request(1, Access::READ);
    let words = words(&request);
    let table = PinTable::new(&words).unwrap();
    engine.pin(&space, &table, &request).unwrap();
    assert!(!machine.scheduled(), "it happened");
    machine.write(id, AT, &[7]).unwrap();
    let mut seen = [0];
    machine.device().read(table.lookup(VirtAddr::new(AT)).unwrap(), &mut seen).unwrap();
    assert_eq!(seen, [7], "the device sees what the process writes");
    engine.unpin(&table, pinfold::pin::Dirtied::No).unwrap();
    Model::new().check(&machine).unwrap();
}

/// Pins race with everything that changes mappings. Nobody may be left behind.
#[test]
fn threads_that_pin_and_threads_that_change_leave_nothing_behind() {
    const ROUNDS: u64 = 300;
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let id = space.id();
    let huge = Order::new(9).unwrap();
    let file = machine.add_file(FileKind::Shmem, 512, huge);
    let pages = 1536;
    machine.map(id, MapSpec::anonymous(AT, 512).with_thp(Thp::Whole)).unwrap();
    machine.map(id, MapSpec::shared(AT + (512 << 12), 512, file)).unwrap();
    machine.map(id, MapSpec::anonymous(AT + (1024 << 12), 512)).unwrap();
    let engine = Engine::new(&machine, machine.frames());
    let (engine, machine, space) = (&engine, &machine, &space);
    std::thread::scope(|scope| {
        for access in [Access::READ, Access::all()] {
            scope.spawn(move || {
                let request = request(pages, access);
                let words = words(&request);
                let table = PinTable::new(&words).unwrap();
                for _ in 0..ROUNDS {
                    if engine.pin(space, &table, &request).is_ok() {
                        engine.unpin(&table, pinfold::pin::Dirtied::All).unwrap();
                    }
                }
            });
        }
        scope.spawn(move || {
            for round in 0..ROUNDS {
                let at = AT + ((round * 37 % pages) << 12);
                match round % 6 {
                    0 => drop(machine.fork(id).map(|child| machine.drop_space(child.id()))),
                    1 => drop(machine.move_page(id, at, Want::Movable)),
                    2 => drop(machine.alloc_contig(0, 64).map(|piece| machine.free_contig(&piece))),
                    3 => drop(machine.protect(id, at, 1, Access::READ)),
                    4 => drop(machine.protect(id, AT, pages, Access::all())),
                    _ => drop(machine.split_folio(id, at)),
                }
                let _ = machine.write(id, at, &[1]);
            }
        });
        scope.spawn(move || {
            for round in 0..ROUNDS {
                let page = 1024 + round % 16 * 32;
                let at = AT + (page << 12);
                machine.unmap(id, at, 32).unwrap();
                machine.map(id, MapSpec::anonymous(at, 32)).unwrap();
                machine.truncate(file, round % 512).unwrap();
                machine.truncate(file, 512).unwrap();
            }
        });
    });
    Model::new().check(machine).unwrap();
    machine.drop_space(id).unwrap();
    machine.close_file(file).unwrap();
    Model::new().check(machine).unwrap();
    let free = machine.free_frames().raw() + machine.kept_frames();
    assert_eq!(free, ram.frames().pages.raw());
}
