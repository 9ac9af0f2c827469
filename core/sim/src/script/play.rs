//! Running a script against the engine, step by step.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use pinfold::host::SpaceId;
use pinfold::pin::{Dirtied, UnpinError};
use pinfold::policy::Refusal;
use pinfold::sync::Word;
use pinfold::table::{Run, TableError};
use pinfold::{
    Access, AccountId, AddrRange, Engine, HolderId, PageCount, Pfn, PinCause, PinError, PinFlags,
    PinRequest, PinTable, Pinned, X86_64,
};

use super::world::World;
use super::{Deed, Did, Failure, How, Op, Outcome, Part, Script};
use crate::format::TableFormat;
use crate::inject::HostCall;
use crate::layout::{Layout, ZoneKind, ZoneLayout, mib};
use crate::lock::lock;
use crate::machine::Machine;
use crate::model::{Model, Verdict};
use crate::ram::Ram;

/// Pin tables of a script.
const TABLES: u8 = 6;
const ACCOUNTS: u8 = 2;
/// Words of a table that is given less than it may need.
const TIGHT: usize = 48;
/// What stands in a table's words before it is made.
const JUNK: u64 = 0x5a5a_5a5a_5a5a_5a5a;

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
    run_checking(script, 1)
}

/// [`run`], but the model is asked after so many steps only, and at the end: what is wrong may have
/// been so for some steps when it is found.
///
/// # Errors
/// [`Failure`], the first thing that is found wrong.
pub fn run_checking(script: &Script, every: usize) -> Result<Outcome, Failure> {
    let ram = Ram::new(&layout());
    run_on(&Machine::new(&ram), script, every)
}

/// [`run_checking`] on this machine, with page tables of any format. Its memory must be
/// [`layout`]'s, in base pages of any size, and nothing may have been done with it.
///
/// # Errors
/// [`Failure`], the first thing that is found wrong.
pub fn run_on<F: TableFormat>(
    machine: &Machine<'_, F>,
    script: &Script,
    every: usize,
) -> Result<Outcome, Failure> {
    let mut session = Session::new(machine);
    for (step, op) in script.0.iter().enumerate() {
        let fail = |what| Failure { step, op: Some(*op), what };
        session.step(op).map_err(fail)?;
        if step % every == every - 1 {
            session.check().map_err(fail)?;
        }
    }
    let fail = |what| Failure { step: script.0.len(), op: None, what };
    session.end().map_err(fail)
}

/// A script under way: its machine, the engine, and the model that watches both.
pub struct Session<'a, 'm, F = X86_64> {
    machine: &'a Machine<'m, F>,
    engine: Engine<'m, &'a Machine<'m, F>>,
    world: Arc<Mutex<World>>,
    model: Model,
    tables: BTreeMap<u64, Vec<Word>>,
    outcome: Outcome,
    /// Something may be scheduled for when an entry is read.
    watch: bool,
    stamp: u8,
}

impl<F> fmt::Debug for Session<'_, '_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl<'a, 'm, F: TableFormat> Session<'a, 'm, F> {
    /// Nothing has been done yet.
    #[must_use]
    pub fn new(machine: &'a Machine<'m, F>) -> Self {
        Self {
            machine,
            engine: Engine::new(machine, machine.frames()),
            world: Arc::new(Mutex::new(World::new(machine))),
            model: Model::new(),
            tables: BTreeMap::new(),
            outcome: Outcome::default(),
            watch: false,
            stamp: 0,
        }
    }

    /// Does one step.
    ///
    /// # Errors
    /// With what the engine did wrong in it.
    pub fn step(&mut self, op: &Op) -> Result<Did, String> {
        match *op {
            Op::Do(deed) => {
                let done = lock(&self.world).apply(self.machine, &deed, false);
                self.settle();
                self.outcome.deeds += u64::from(done);
                self.outcome.idle += u64::from(!done);
                Ok(if done { Did::Done } else { Did::Nothing })
            }
            Op::During { call, nth, deed } => {
                let call = HostCall::ALL[usize::from(call) % HostCall::ALL.len()];
                self.watch |= call == HostCall::Entry;
                let world = Arc::clone(&self.world);
                let deed = match deed {
                    // Between two walks nobody would complete it.
                    Deed::ForkSlowly(space) if call != HostCall::Entry => Deed::Fork(space),
                    deed => deed,
                };
                self.machine.during(call, u64::from(nth) + 1, move |machine| {
                    let begun = surprise(&world, machine, &deed);
                    if begun && matches!(deed, Deed::ForkSlowly(_)) {
                        let complete = move |machine: &Machine<'_, F>| {
                            lock(&world).complete_forks(machine);
                        };
                        machine.during(HostCall::GuardLeave, 1, complete);
                    }
                });
                Ok(Did::Done)
            }
            Op::Fail { call, nth } => {
                let call = HostCall::FALLIBLE[usize::from(call) % HostCall::FALLIBLE.len()];
                self.machine.fail(call, u64::from(nth) + 1);
                Ok(Did::Done)
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
            Op::Mark { table, page } => self.mark(u64::from(table % TABLES), u64::from(page)),
            Op::Step(power) => {
                self.machine.set_step(1 << (power % 13));
                Ok(Did::Done)
            }
            Op::Limit { account, pages } => {
                let limit = (pages != u8::MAX).then(|| Part::scale(pages));
                self.machine.limit(AccountId(u32::from(account % ACCOUNTS)), limit);
                Ok(Did::Done)
            }
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let world = lock(&self.world);
        let idle = self.outcome.idle + world.idle;
        Outcome { hooked: world.done, idle, ..self.outcome }
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

    fn pin(
        &mut self,
        table: u64,
        space: SpaceId,
        request: &PinRequest,
        tight: bool,
    ) -> Result<Did, String> {
        if let Some(words) = self.tables.get(&table) {
            let used = PinTable::open(words).map_err(|error| error.to_string())?;
            let again = self.call(space, &used, request);
            let in_use = PinCause::Table(TableError::InUse);
            return match again {
                Err(error) if error.cause == in_use => Ok(Did::Nothing),
                other => Err(format!("a table in use was filled again: {other:?}")),
            };
        }
        let enough = PinTable::words_for(&request.range, request.range.base()).unwrap_or(0);
        let mut size = if tight { TIGHT.min(enough) } else { enough };
        loop {
            let did = self.pin_into(table, space, request, size)?;
            let Did::Failed(error) = did else { return Ok(did) };
            let PinCause::Table(TableError::NoSpace { need }) = error.cause else {
                return Ok(did);
            };
            // As long as it takes: the figure is for the mapping as it was found.
            if need <= size || need > enough {
                return Err(format!("{size} words were too few, said to need {need} of {enough}"));
            }
            size = need;
        }
    }

    /// One call with a table of so many words.
    fn pin_into(
        &mut self,
        table: u64,
        space: SpaceId,
        request: &PinRequest,
        size: usize,
    ) -> Result<Did, String> {
        let words: Vec<Word> = (0..size).map(|_| Word::new(JUNK)).collect();
        let fresh = PinTable::new(&words).map_err(|error| error.to_string())?;
        let before = Model::books(self.machine);
        let (calls, failures) = (self.machine.calls(HostCall::Pause), self.machine.failed_calls());
        let armed = self.machine.scheduled();
        self.settle();
        self.watch &= armed;
        let result = self.call(space, &fresh, request);
        let (gone, disturbed) = self.happened();
        let failed = self.machine.failed_calls() != failures;
        match result {
            Ok(pinned) => {
                let count = match disturbed {
                    true => &mut self.outcome.pinned_late,
                    false => &mut self.outcome.pinned,
                };
                *count += 1;
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
                self.model.table_says(table, lookup)?;
                self.model.check_pins(self.machine, table)?;
                self.tables.insert(table, words);
                Ok(Did::Pinned(pinned))
            }
            Err(error) => {
                self.forget(&gone);
                let count = match (failed, disturbed) {
                    (true, _) => &mut self.outcome.injected,
                    (false, true) => &mut self.outcome.disturbed,
                    (false, false) => &mut self.outcome.refused,
                };
                *count += 1;
                let after = Model::books(self.machine);
                if !before.same(&after, disturbed) {
                    return Err(format!("failed ({error}) and changed {before:?} to {after:?}"));
                }
                if let Ok(at) = fresh.lookup(request.range.start()) {
                    return Err(format!("failed ({error}) and the table says {at}"));
                }
                // D56: what failed was given back once, and cannot be given back again.
                let empty = Err(UnpinError::Table(TableError::Empty));
                let again = self.engine.unpin(&fresh, Dirtied::No);
                if again != empty {
                    return Err(format!("failed ({error}), and then an unpin says {again:?}"));
                }
                let paused = self.machine.calls(HostCall::Pause) - calls;
                excused(&error, request, armed || disturbed, paused)?;
                Ok(Did::Failed(error))
            }
        }
    }

    fn call(
        &self,
        space: SpaceId,
        table: &PinTable<'_>,
        request: &PinRequest,
    ) -> Result<Pinned, PinError> {
        let handle = lock(&self.world).handle(self.machine, space);
        if self.watch {
            self.machine.watching(&handle, |space| self.engine.pin(space, table, request))
        } else {
            self.engine.pin(&handle, table, request)
        }
    }

    fn unpin(&mut self, table: u64, dirty: bool) -> Result<Did, String> {
        let Some(words) = self.tables.remove(&table) else { return Ok(Did::Nothing) };
        let held = PinTable::open(&words).map_err(|error| error.to_string())?;
        let pages = held.range().map(|range| range.pages());
        let runs: Vec<Run> = held.runs().filter(|run| dirty || run.dirty).collect();
        let how = if dirty { Dirtied::All } else { Dirtied::No };
        self.settle();
        let report = self.engine.unpin(&held, how).map_err(|error| error.to_string())?;
        let (gone, disturbed) = self.happened();
        self.forget(&gone);
        self.outcome.unpinned += 1;
        if Some(report.pages) != pages {
            return Err(format!("{pages:?} were held, {} given back", report.pages));
        }
        if let Ok(again) = self.engine.unpin(&held, how) {
            return Err(format!("unpinned twice: {again:?}"));
        }
        if !disturbed {
            runs.iter().try_for_each(|run| Model::check_dirty(self.machine, run))?;
        }
        self.model.unpinned(table)?;
        Ok(Did::Unpinned(report))
    }

    fn mark(&mut self, table: u64, page: u64) -> Result<Did, String> {
        let Some(words) = self.tables.get(&table) else { return Ok(Did::Nothing) };
        let held = PinTable::open(words).map_err(|error| error.to_string())?;
        let range = held.range().ok_or("a table that is in use has no range")?;
        let page = PageCount::new(page % range.pages().raw());
        let at = range.skip(page).map_or(range.start(), |rest| rest.start());
        held.mark_dirty(at).map_err(|error| format!("{at} cannot be marked: {error}"))?;
        self.outcome.marked += 1;
        let base = range.base();
        let behind =
            |run: &Run| at.raw().checked_sub(run.va.raw()).map(|bytes| bytes >> base.raw());
        let holds = |run: &Run| behind(run).is_some_and(|pages| pages < run.pages.raw());
        let marked = held.runs().any(|run| run.dirty && holds(&run));
        if marked { Ok(Did::Done) } else { Err(format!("the mark at {at} got lost")) }
    }

    /// Asks the model whether everything holds that must hold between two steps.
    ///
    /// # Errors
    /// With the first thing that does not.
    pub fn check(&mut self) -> Verdict {
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

    /// Gives everything back and looks whether anything is left.
    ///
    /// # Errors
    /// With what is wrong then.
    pub fn end(mut self) -> Result<Outcome, String> {
        self.check()?;
        let outcome = self.outcome();
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
        Ok(outcome)
    }
}

/// Does something inside a call, and says whether it was done.
fn surprise<F: TableFormat>(world: &Mutex<World>, machine: &Machine<'_, F>, deed: &Deed) -> bool {
    let mut world = lock(world);
    let done = world.apply(machine, deed, true);
    match done {
        true => world.done += 1,
        false => world.idle += 1,
    }
    done
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
fn excused(error: &PinError, request: &PinRequest, others: bool, paused: u64) -> Verdict {
    if !request.range.contains(error.at) {
        return Err(format!("the error is at {}, outside the request", error.at));
    }
    let fine = match error.cause {
        PinCause::Busy { .. } | PinCause::FaultLoop | PinCause::Walk(_) => others,
        PinCause::Interrupted => others && paused > 0,
        PinCause::Table(TableError::NoSpace { .. }) => true,
        PinCause::Range(_) | PinCause::NotTranslatable | PinCause::BaseMismatch => false,
        PinCause::Request(_) | PinCause::Table(_) | PinCause::Overflow { .. } => false,
        // Free memory and the kernel's own are mapped nowhere.
        PinCause::NotMemory { .. } | PinCause::Refused(Refusal::NotUserMemory) => false,
        _ => true,
    };
    if fine { Ok(()) } else { Err(format!("there was no reason to fail: {error}")) }
}
