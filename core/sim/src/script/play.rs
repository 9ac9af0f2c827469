//! Running a script against the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use pinfold::host::SpaceId;
use pinfold::pin::Dirtied;
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{
    Access, AccountId, AddrRange, Engine, HolderId, Pfn, PinCause, PinError, PinFlags, PinRequest,
    PinTable,
};

use super::world::World;
use super::{How, Op, Part, Script};
use crate::inject::HostCall;
use crate::layout::{Layout, ZoneKind, ZoneLayout, mib};
use crate::lock::lock;
use crate::machine::Machine;
use crate::model::{Model, Verdict};
use crate::ram::Ram;

/// Pin tables of a script.
const TABLES: u8 = 6;
const ACCOUNTS: u8 = 2;

/// What happened in a script, for those who want to know that it was worth something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Pin calls that succeeded.
    pub pinned: u64,
    /// Pin calls that failed, as they may.
    pub failed: u64,
    /// Pages pinned.
    pub pages: u64,
    /// Folios moved.
    pub migrated: u64,
    /// Pages faulted in.
    pub faults: u64,
}

/// What was found wrong, and after which step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Index of the step; behind the last one for what is wrong at the end.
    pub step: usize,
    /// The step.
    pub op: Option<Op>,
    /// One sentence.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} ({:?}): {}", self.step, self.op, self.what)
    }
}

impl std::error::Error for Failure {}

/// The memory that scripts run in: every kind of zone, and little of each.
#[must_use]
pub fn layout() -> Layout {
    let zone = |name, kind, pages| ZoneLayout { name, kind, pages };
    Layout::new(Pfn::new(0x1000))
        .normal(mib(10))
        .cma(mib(2))
        .movable(mib(8))
        .zone(zone("gpu", ZoneKind::Coherent, mib(1)))
        .zone(zone("pmem", ZoneKind::FsDax, mib(1)))
}

/// Runs a script on a machine of its own and asks the model after every step. At the end
/// everything is given back, and all memory must be free.
///
/// # Errors
/// [`Failure`], the first thing that is wrong.
pub fn run(script: &Script) -> Result<Outcome, Failure> {
    let ram = Ram::new(&layout());
    let machine = Machine::new(&ram);
    let mut player = Player::new(&machine);
    for (step, op) in script.0.iter().enumerate() {
        let fail = |what| Failure { step, op: Some(*op), what };
        player.step(op).map_err(fail)?;
        player.check().map_err(fail)?;
    }
    let outcome = player.outcome;
    let fail = |what| Failure { step: script.0.len(), op: None, what };
    player.end().map_err(fail)?;
    Ok(outcome)
}

struct Player<'a, 'm> {
    machine: &'a Machine<'m>,
    engine: Engine<'m, &'a Machine<'m>>,
    world: Arc<Mutex<World>>,
    model: Model,
    tables: BTreeMap<u64, Vec<Word>>,
    outcome: Outcome,
    stamp: u8,
}

impl<'a, 'm> Player<'a, 'm> {
    fn new(machine: &'a Machine<'m>) -> Self {
        Self {
            machine,
            engine: Engine::new(machine, machine.frames()),
            world: Arc::new(Mutex::new(World::new(machine))),
            model: Model::new(),
            tables: BTreeMap::new(),
            outcome: Outcome::default(),
            stamp: 0,
        }
    }

    fn step(&mut self, op: &Op) -> Verdict {
        match *op {
            Op::Do(deed) => {
                lock(&self.world).apply(self.machine, &deed, false);
                self.settle();
                Ok(())
            }
            Op::During { call, nth, deed } => {
                let call = HostCall::ALL[usize::from(call) % HostCall::ALL.len()];
                let world = Arc::clone(&self.world);
                self.machine.during(call, u64::from(nth) + 1, move |machine| {
                    lock(&world).apply(machine, &deed, true);
                });
                Ok(())
            }
            Op::Fail { call, nth } => {
                let call = HostCall::FALLIBLE[usize::from(call) % HostCall::FALLIBLE.len()];
                self.machine.fail(call, u64::from(nth) + 1);
                Ok(())
            }
            Op::Pin { table, part, write, how, account, tight } => {
                let (space, range) = lock(&self.world).range(self.machine, &part);
                let request = PinRequest {
                    range,
                    access: if write { Access::all() } else { Access::READ },
                    flags: flags(how),
                    holder: HolderId(u32::from(table)),
                    account: AccountId(u32::from(account % ACCOUNTS)),
                    revocable: how == How::Revocable,
                };
                self.pin(u64::from(table % TABLES), space, &request, tight)
            }
            Op::Unpin { table, dirty } => self.unpin(u64::from(table % TABLES), dirty),
            Op::Limit { account, pages } => {
                let limit = (pages != u8::MAX).then(|| Part::scale(pages));
                self.machine.limit(AccountId(u32::from(account % ACCOUNTS)), limit);
                Ok(())
            }
        }
    }

    /// What was unmapped since this was last asked, and whether anything happened at all.
    fn happened(&self) -> (Vec<(SpaceId, AddrRange)>, bool) {
        let mut world = lock(&self.world);
        (std::mem::take(&mut world.gone), std::mem::take(&mut world.disturbed))
    }

    fn forget(&mut self, gone: &[(SpaceId, AddrRange)]) {
        for (id, range) in gone {
            self.model.detached(*id, range);
        }
    }

    /// Tells the model what was unmapped.
    fn settle(&mut self) {
        let (gone, _) = self.happened();
        self.forget(&gone);
    }

    fn pin(&mut self, table: u64, space: SpaceId, request: &PinRequest, tight: bool) -> Verdict {
        let handle = lock(&self.world).handle(self.machine, space);
        if let Some(words) = self.tables.get(&table) {
            let used = PinTable::open(words).map_err(|error| error.to_string())?;
            let again = self.engine.pin(&handle, &used, request);
            let in_use = PinCause::Table(TableError::InUse);
            return match again {
                Err(PinError { cause, .. }) if cause == in_use => Ok(()),
                other => Err(format!("a table in use was filled again: {other:?}")),
            };
        }
        let need = PinTable::words_for(&request.range, request.range.base()).unwrap_or(0);
        let count = if tight { 48.min(need) } else { need };
        let words: Vec<Word> = (0..count).map(|_| Word::new(0)).collect();
        let Ok(fresh) = PinTable::new(&words) else { return Ok(()) };
        let before = Model::books(self.machine);
        let calls = self.machine.calls(HostCall::Pause);
        let armed = self.machine.scheduled();
        self.settle();
        let result = self.engine.pin(&handle, &fresh, request);
        let (gone, disturbed) = self.happened();
        match result {
            Ok(pinned) => {
                self.outcome.pinned += 1;
                self.outcome.pages += pinned.pages.raw();
                self.outcome.migrated += pinned.migrated;
                self.outcome.faults += pinned.faults;
                let lookup = |va| fresh.lookup(va).ok();
                let trust = if disturbed { Some(&lookup as _) } else { None };
                self.model.pinned(self.machine, table, space, request, trust)?;
                self.forget(&gone);
                let runs: u64 = fresh.runs().map(|run| run.pages.raw()).sum();
                if runs != request.range.pages().raw() {
                    return Err(format!("the runs of the table have {runs} pages"));
                }
                self.tables.insert(table, words);
                Ok(())
            }
            Err(error) => {
                self.forget(&gone);
                self.outcome.failed += 1;
                let after = Model::books(self.machine);
                if !before.same(&after, disturbed) {
                    return Err(format!("failed ({error}) and changed {before:?} to {after:?}"));
                }
                let paused = self.machine.calls(HostCall::Pause) - calls;
                excused(&error, request, armed || disturbed, tight, paused)
            }
        }
    }

    fn unpin(&mut self, table: u64, dirty: bool) -> Verdict {
        let Some(words) = self.tables.remove(&table) else { return Ok(()) };
        let held = PinTable::open(&words).map_err(|error| error.to_string())?;
        let pages = held.range().map(|range| range.pages());
        let how = if dirty { Dirtied::All } else { Dirtied::No };
        let report = self.engine.unpin(&held, how).map_err(|error| error.to_string())?;
        self.settle();
        if Some(report.pages) != pages {
            return Err(format!("{pages:?} were held, {} given back", report.pages));
        }
        if let Ok(again) = self.engine.unpin(&held, how) {
            return Err(format!("unpinned twice: {again:?}"));
        }
        self.model.unpinned(table)
    }

    /// Everything that must hold between two steps.
    fn check(&mut self) -> Verdict {
        for (table, words) in &self.tables {
            let table_words = PinTable::open(words).map_err(|error| error.to_string())?;
            self.model.table_says(*table, |va| table_words.lookup(va).ok())?;
        }
        self.exchange()?;
        self.model.check(self.machine)
    }

    /// What a device writes the process reads, and the other way round, in the first page of
    /// each table that they share.
    fn exchange(&mut self) -> Verdict {
        for table in self.model.tables() {
            let Some((space, va, pfn)) = self.model.attached(table).into_iter().next() else {
                continue;
            };
            self.stamp = self.stamp.wrapping_add(1);
            let stamp = self.stamp;
            let base = self.machine.ram().base();
            let at = pfn.addr(base).ok_or("a frame without an address")?;
            let device = self.machine.device();
            // Only what the process can do is tried; rights may have been taken away.
            let mut seen = [0];
            if self.machine.write(space, va.raw(), &[stamp]).is_ok() {
                device.read(at, &mut seen).map_err(|error| error.to_string())?;
                if seen != [stamp] {
                    return Err(format!("the device does not see what was written to {va}"));
                }
            }
            if device.write(at, &[!stamp]).is_ok()
                && self.machine.read(space, va.raw(), &mut seen).is_ok()
                && seen != [!stamp]
            {
                return Err(format!("the process does not see what the device wrote for {va}"));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Verdict {
        for table in self.model.tables() {
            self.unpin(table, false)?;
        }
        let world = Arc::clone(&self.world);
        lock(&world).end(self.machine)?;
        self.model.check(self.machine)?;
        let kept = self.machine.kept_frames();
        let all = self.machine.ram().frames().pages.raw();
        let free = self.machine.free_frames().raw();
        if free + kept != all {
            return Err(format!("of {all} frames {free} are free and {kept} kept at the end"));
        }
        Ok(())
    }
}

fn flags(how: How) -> PinFlags {
    match how {
        How::Longterm | How::Revocable => PinFlags::LONGTERM,
        How::Short => PinFlags::empty(),
        How::NoFault => PinFlags::LONGTERM | PinFlags::NOFAULT,
        How::Anonymous => PinFlags::LONGTERM | PinFlags::ANONYMOUS,
    }
}

/// Whether a pin call may fail like this. With nobody else about, it neither waits in vain nor
/// faults in circles, and an interruption has a reason.
fn excused(
    error: &PinError,
    request: &PinRequest,
    others: bool,
    tight: bool,
    paused: u64,
) -> Verdict {
    if !request.range.contains(error.at) {
        return Err(format!("the error is at {}, outside the request", error.at));
    }
    let fine = match error.cause {
        PinCause::Busy { .. } | PinCause::FaultLoop | PinCause::Walk(_) => others,
        PinCause::Interrupted => others && paused > 0,
        PinCause::Table(TableError::NoSpace { .. }) => tight,
        PinCause::Range(_) | PinCause::NotTranslatable | PinCause::BaseMismatch => false,
        PinCause::Request(_) | PinCause::Table(_) | PinCause::Overflow { .. } => false,
        _ => true,
    };
    if fine { Ok(()) } else { Err(format!("there was no reason to fail: {error}")) }
}
