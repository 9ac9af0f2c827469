//! Every call into the host fails in turn, and at every call into the host the world changes in turn:
//! afterwards every count, reference, charge and zone total is what it must be, and nothing hangs.

#[path = "host_failures/changes.rs"]
mod changes;
#[path = "host_failures/run.rs"]
mod run;
#[path = "host_failures/scenes.rs"]
mod scenes;

use pinfold::host::{FaultError, MigrateError};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::{ErrorKind, PinCause, PinError, PinFlags};
use pinfold_sim::HostCall;

use changes::{CHANGES, Change};
use run::once;
use scenes::{SCENES, Scene};

/// Does it for each scene, in a thread of its own.
fn each_scene(act: fn(&'static Scene)) {
    std::thread::scope(|scope| {
        SCENES.iter().for_each(|scene| drop(scope.spawn(move || act(scene))));
    });
}

/// What a failed call may be reported as.
fn kinds(call: HostCall) -> &'static [ErrorKind] {
    match call {
        HostCall::Table => &[ErrorKind::Corrupt],
        HostCall::Mapping => &[ErrorKind::NotMapped],
        HostCall::Fault => &[ErrorKind::NoMemory],
        HostCall::Migrate => &[ErrorKind::Unmovable],
        HostCall::Charge => &[ErrorKind::OverLimit],
        HostCall::Pause => &[ErrorKind::Interrupted],
        _ => &[],
    }
}

/// Fails the n-th call of one kind, and the next ones, so many in all. `None` if it is never made.
fn fail(scene: &Scene, call: HostCall, nth: u64, times: u64) -> Option<Result<(), ErrorKind>> {
    let about = format!("{}: {call:?} {nth} fails {times} times", scene.name);
    once(scene, about, |mut run| {
        let before = run.machine.calls(call);
        (0..times).for_each(|i| run.machine.fail(call, nth + i));
        let result = run.pin(None);
        let reached = run.machine.calls(call) >= before + nth;
        run.machine.disarm();
        if let Err(error) = &result {
            assert!(reached, "{}: {error} without a failure", run.about);
            assert!(kinds(call).contains(&error.kind()), "{}: {error}", run.about);
            run.nothing_left(error, false);
            // Nothing stands in the way of the same call, made again.
            run.pin(None).unwrap_or_else(|error| panic!("{}: again: {error}", run.about));
        }
        run.pinned(&[]);
        run.check();
        run.unpin();
        run.end();
        reached.then(|| result.map(drop).map_err(|error| error.kind()))
    })
}

/// D30, D36, D57: error paths that mixed up what they held, or forgot it. D31: locks held around calls
/// that may sleep, which the machine records as a breach.
#[test]
fn every_call_fails_in_turn() {
    each_scene(|scene| {
        for call in HostCall::FALLIBLE {
            // What is read of the tables ahead of need, and not used, is read again: there it is
            // a failure that lasts which is reported.
            let times = if call == HostCall::Table { 64 } else { 1 };
            if times > 1 {
                assert_ne!((1..).map_while(|nth| fail(scene, call, nth, 1)).count(), 0);
            }
            let results: Vec<_> = (1..).map_while(|nth| fail(scene, call, nth, times)).collect();
            let failures = results.iter().filter(|result| result.is_err()).count();
            // One failed attempt to move a folio is repeated, and caches that are not emptied are
            // no reason to fail. Everything else is reported.
            let repeated = matches!(call, HostCall::Migrate | HostCall::Drain);
            let expected = if repeated { 0 } else { results.len() };
            assert_eq!(failures, expected, "{}: {call:?} of {}", scene.name, results.len());
        }
        // Ten attempts where folios are moved ahead of the walk, ten where the walk comes by.
        let mut moves = (1..).map_while(|nth| fail(scene, HostCall::Migrate, nth, 20));
        assert!(moves.all(|result| result.is_err()), "{}", scene.name);
    });
}

/// Whether a pin call may fail like this because of a change.
fn excused(scene: &Scene, change: &Change, error: &PinError) -> bool {
    let no_memory = matches!(
        error.cause,
        PinCause::Fault(FaultError::NoMemory)
            | PinCause::Unmovable { error: MigrateError::NoMemory, .. }
    );
    let spoilt = match error.kind() {
        ErrorKind::NotMapped => change.spoils || scene.request().flags.contains(PinFlags::NOFAULT),
        ErrorKind::Refused | ErrorKind::Unmovable => change.spoils,
        _ => false,
    };
    no_memory || spoilt
}

/// Has the world change at the n-th call of one kind. Whether that call was made.
fn late(scene: &Scene, call: HostCall, nth: u64, change: &Change) -> bool {
    let about = format!("{}: {} at {call:?} {nth}", scene.name, change.name);
    once(scene, about, |mut run| {
        run.schedule(call, nth, change);
        let result = run.pin(Some(call));
        run.machine.disarm();
        let reached = run.happened();
        let gone = run.gone();
        match &result {
            Ok(_) => {
                run.pinned(&gone);
                run.other_pinned();
                run.check();
                run.unpin();
                run.check();
                run.other_unpinned();
            }
            Err(error) => {
                assert!(excused(scene, change, error), "{}: {error}", run.about);
                run.other_pinned();
                run.other_unpinned();
                run.nothing_left(error, true);
            }
        }
        run.end();
        reached
    })
}

/// As [`late`], while pins are given back; of memory that is still mapped, or not any more.
fn late_unpin(scene: &Scene, call: HostCall, nth: u64, change: &Change, mapped: bool) -> bool {
    let about = format!("{}: {} at {call:?} {nth} of an unpin", scene.name, change.name);
    once(scene, about, |mut run| {
        if run.pin(None).is_err() {
            return false;
        }
        let gone = if mapped { Vec::new() } else { run.unmap() };
        run.pinned(&gone);
        run.schedule(call, nth, change);
        run.unpin();
        run.machine.disarm();
        let reached = run.happened();
        run.other_pinned();
        run.check();
        run.other_unpinned();
        run.end();
        reached
    })
}

/// The calls of a kind that are tried: each, or where there are many, the first ones and then ever
/// fewer.
fn tried(nth: u64) -> u64 {
    if nth < 64 { nth + 1 } else { nth + nth / 8 }
}

/// Which changes are tried at a call: each in a long run, else one after the other.
fn changes(call: HostCall, nth: u64) -> impl Iterator<Item = &'static Change> {
    let all = std::env::var_os("PINFOLD_EVERY_CHANGE").is_some();
    let turn = (call as u64 + nth) as usize % CHANGES.len();
    CHANGES.iter().enumerate().filter(move |(i, _)| all || *i == turn).map(|(_, change)| change)
}

/// Tries changes at every call of every kind. Returns how many happened.
fn each_call(act: impl Fn(HostCall, u64, &Change) -> bool) -> u64 {
    let mut happened = 0;
    for call in HostCall::ALL {
        let mut nth = 1;
        loop {
            // A change that comes too late is the end, whatever it is.
            let reached = changes(call, nth).filter(|change| act(call, nth, change)).count() as u64;
            if reached == 0 {
                break;
            }
            happened += reached;
            nth = tried(nth);
        }
    }
    happened
}

/// Whatever others do at whatever moment, a pin succeeds and holds what is mapped, or says why not and
/// leaves nothing.
#[test]
fn the_world_changes_at_every_call_of_a_pin() {
    each_scene(|scene| {
        let happened = each_call(|call, nth, change| late(scene, call, nth, change));
        assert!(happened >= 20, "{}: only {happened}", scene.name);
    });
}

/// And nothing keeps an unpin from giving back everything.
#[test]
fn the_world_changes_at_every_call_of_an_unpin() {
    each_scene(|scene| {
        for mapped in [true, false] {
            each_call(|call, nth, change| late_unpin(scene, call, nth, change, mapped));
        }
    });
}

/// `pause` cannot stop an unpin half-way.
#[test]
fn an_unpin_that_is_told_to_stop_goes_on() {
    let mut told = 0;
    for scene in &SCENES {
        for nth in 1.. {
            let reached = once(scene, format!("{}: stopped {nth}", scene.name), |mut run| {
                run.pin(None).unwrap();
                run.pinned(&[]);
                run.machine.fail(HostCall::Pause, nth);
                run.unpin();
                let reached = !run.machine.scheduled();
                run.end();
                reached
            });
            if !reached {
                break;
            }
            told += 1;
        }
    }
    assert!(told >= 2, "unpin pauses nowhere");
}

/// Too little table memory, of every size: the need is exact, nothing has changed, and with what is
/// needed the same call succeeds.
#[test]
fn table_memory_of_every_size() {
    each_scene(|scene| {
        let need = once(scene, format!("{}: need", scene.name), |mut run| {
            run.pin(None).unwrap();
            run.pinned(&[]);
            let need = run.table().used_words();
            run.unpin();
            run.end();
            need
        });
        // Each size takes a pin; where there are very many sizes not all are tried.
        let step = (need / 60).max(1);
        for size in (HEADER_WORDS..need).step_by(step).chain([need - 1]) {
            once(scene, format!("{}: {size} of {need} words", scene.name), |mut run| {
                run.shrink_table(size);
                let error = run.pin(None).unwrap_err();
                let PinCause::Table(pinfold::table::TableError::NoSpace { need: said }) =
                    error.cause
                else {
                    panic!("{}: {error}", run.about)
                };
                run.nothing_left(&error, false);
                assert!(said > size, "{}: said {said}", run.about);
                run.shrink_table(said);
                run.pin(None).unwrap_or_else(|error| panic!("{}: again: {error}", run.about));
                assert_eq!((run.table().used_words(), said), (need, need), "{}", run.about);
                run.pinned(&[]);
                run.unpin();
                run.end();
            });
        }
    });
}
