//! Registrations that fail at every place where they can: afterwards everything is as it was.

use pinfold::region::{InSpace, RegionError};
use pinfold::sync::Word;
use pinfold::*;
use pinfold_sim::model::Model;
use pinfold_sim::{FileKind, HostCall, Layout, Machine, MapSpec, Ram};

use super::{BASE, BOTH, Stage, gone, range, request};

/// More than a block of the directory, and more than one call of the source.
const PART: (u64, u64) = ((1 << 18) - 1500, 3000);

/// With neighbours in the first and in the last block.
fn scene(step: u64) -> (Stage, [RegionId; 2]) {
    let stage = Stage::new(range(1 << 17, 1 << 18), 4);
    stage.host.set_step(step);
    let neighbours =
        [(PART.0 - 3, 3), (PART.0 + PART.1, 1)].map(|(first, pages)| stage.register(first, pages));
    (stage, neighbours.map(|registered| registered.unwrap().region))
}

/// The neighbours are there and nothing else, and what the range takes is free.
fn is_as_it_was(stage: &Stage, neighbours: [RegionId; 2]) {
    let [before, behind] = neighbours.map(Some);
    let found = [-1, 0, 500, 1499, 1500, 2999, 3000]
        .map(|at| stage.lookup(PART.0.wrapping_add_signed(at), 1));
    assert_eq!(found, [before, None, None, None, None, None, behind]);
    assert_eq!((stage.host.held(), stage.host.charged()), (4, 4));
    assert_eq!(stage.registry.len(&stage.host), 2);
    assert_eq!(stage.reclaim(), [], "the table is the caller's");
    assert_eq!(stage.registry.find(&range(PART.0, PART.1)), None);
}

/// D32, D33, D36: a call that pinned too little and says success is a failure like any other. Nothing stays
/// pinned behind it.
#[test]
fn every_call_of_a_registration_fails_in_turn() {
    for (step, short) in [(4096, false), (4096, true), (40, false), (40, true), (1, false)] {
        let (stage, neighbours) = scene(step);
        let table = stage.table(4000);
        for nth in 1.. {
            let calls = stage.host.calls();
            stage.host.fail(nth);
            stage.host.lie(short);
            let answer = stage.register_in(&request(PART.0, PART.1), table);
            stage.host.fail(0);
            let Err(error) = answer else {
                assert!(stage.host.calls() < calls + nth, "a failure was taken for success");
                assert!(nth > 3, "a charge, and two calls of the source");
                assert_eq!(gone(stage.unregister(answer.unwrap().region)), PART.1);
                assert_eq!(stage.reclaim().len(), 1);
                break;
            };
            assert!(matches!(error, RegionError::Interrupted | RegionError::Pin(_)), "{error:?}");
            is_as_it_was(&stage, neighbours);
        }
        is_as_it_was(&stage, neighbours);
    }
}

/// The words for the pin table end at every place: what is needed is said exactly.
#[test]
fn tables_of_every_size() {
    let (stage, neighbours) = scene(4096);
    let table = stage.table(4000);
    let mut size = 1;
    loop {
        match stage.register_in(&request(PART.0, PART.1), &table[..size]) {
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
                is_as_it_was(&stage, neighbours);
                // In small steps where that is quick, and then as far as it says.
                let need = match error {
                    RegionError::Table(table::TableError::NoSpace { need }) => need,
                    RegionError::Pin(PinError {
                        cause: PinCause::Table(table::TableError::NoSpace { need }),
                        ..
                    }) => need,
                    _ => panic!("{error:?}"),
                };
                assert!(need > size);
                size = if size < 40 { size + 1 } else { need };
            }
        }
    }
}

/// The same with the engine as what pins, over a machine.
#[test]
fn every_call_into_an_engines_host_fails_in_turn() {
    const AT: u64 = 0x4000_0000;
    const PAGES: u64 = 40;
    for call in HostCall::FALLIBLE {
        for nth in 1.. {
            let ram = Ram::new(&Layout::small());
            let machine = Machine::new(&ram);
            let space = machine.add_space();
            let file = machine.add_file(FileKind::Shmem, 10, Order::ZERO);
            machine.map(space.id(), MapSpec::anonymous(AT, 30)).unwrap();
            machine.map(space.id(), MapSpec::shared(AT + (30 << 12), 10, file)).unwrap();
            machine.touch(space.id(), AT, 8, BOTH).unwrap();
            let engine = Engine::new(&machine, machine.frames());
            let pinner = InSpace { pins: &engine, space: &*space };
            let window = AddrRange::new(VirtAddr::new(AT), PageCount::new(4096), BASE).unwrap();
            let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(PAGES), BASE).unwrap();
            let own = Registry::words_for(&window, 2).unwrap();
            let memory: Vec<Word> = (0..own + 1500).map(|_| Word::new(0)).collect();
            let (words, table) = memory.split_at(own);
            let areas = Areas::new(&[words, table]).unwrap();
            let registry = Registry::new(areas, words, &window, 2).unwrap();
            let request = PinRequest::longterm(range, BOTH);
            let before = Model::books(&machine);
            let calls = machine.calls(call);
            // What is read ahead of need is read again: of tables it is a failure that lasts.
            let times = if call == HostCall::Table { 64 } else { 1 };
            (0..times).for_each(|i| machine.fail(call, nth + i));
            let answer = registry.register(&pinner, &request, table);
            let reached = machine.calls(call) >= calls + nth;
            machine.disarm();
            let realmode = registry.realmode();
            if answer.is_err() {
                assert!(reached, "{call:?} {nth}");
                assert!(before.same(&Model::books(&machine), false), "{call:?} {nth}");
                assert!(registry.is_empty(&host::SpinWait));
                assert!(realmode.lookup(range.start(), 1).is_err());
                registry.register(&pinner, &request, table).unwrap();
            }
            let region = realmode.lookup(range.start(), PAGES << 12).unwrap();
            for page in 0..PAGES {
                let va = VirtAddr::new(AT + (page << 12));
                let there = machine.translate(space.id(), va.raw(), Access::READ);
                assert_eq!(realmode.translate(region, va, BASE).ok(), there);
            }
            registry.unregister(&pinner, region, Dirtied::No).unwrap();
            assert!(before.same(&Model::books(&machine), false), "{call:?} {nth}");
            Model::new().check(&machine).unwrap();
            if !reached {
                break;
            }
        }
    }
}
