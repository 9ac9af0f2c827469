//! The machine as the engine's host, with two parts of our own: a progress bar and a tally.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use pinfold::folio::Why;
use pinfold::host::{Event, Flow, GupHost, Host, Progress, Saved, Trace, Wait};

use crate::stage::Machine;

/// What happened during a call.
#[derive(Default)]
pub(crate) struct Tally {
    /// Pages made present.
    pub(crate) faulted: Vec<u64>,
    /// Folios moved, by reason and order.
    pub(crate) moved: BTreeMap<(String, u8), u64>,
    /// Attempts to move that failed.
    pub(crate) failed: u64,
}

pub(crate) struct Observed<'a, 'm> {
    machine: &'a Machine<'m>,
    bar: Option<&'static str>,
    shown: Cell<u64>,
    tally: RefCell<Tally>,
}

const WIDTH: u64 = 40;

impl<'a, 'm> Observed<'a, 'm> {
    /// Shows a bar with this title if somebody is looking.
    pub(crate) fn new(machine: &'a Machine<'m>, title: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then_some(title);
        Self { machine, bar, shown: Cell::new(u64::MAX), tally: RefCell::default() }
    }

    /// Ends the bar.
    pub(crate) fn done(&self) -> Tally {
        if self.bar.is_some() {
            eprint!("\r{:80}\r", "");
        }
        self.tally.take()
    }
}

impl Wait for Observed<'_, '_> {
    fn enter(&self) -> Saved {
        Wait::enter(self.machine)
    }

    fn leave(&self, saved: Saved) {
        Wait::leave(self.machine, saved);
    }

    fn pause(&self, progress: Progress) -> Flow {
        let filled = progress.done.raw() * WIDTH / progress.total.raw().max(1);
        if let Some(title) = self.bar.filter(|_| self.shown.replace(filled) != filled) {
            let bar: String = (0..WIDTH).map(|i| if i < filled { '#' } else { '.' }).collect();
            eprint!("\r{title} [{bar}] {} of {} pages", progress.done, progress.total);
            // A bar that cannot be shown is not worth an error.
            let _ = std::io::stderr().flush();
        }
        self.machine.pause(progress)
    }
}

impl Trace for Observed<'_, '_> {
    fn event(&self, event: Event) {
        let mut tally = self.tally.borrow_mut();
        match event {
            Event::Faulted { at, .. } => tally.faulted.push(at.raw()),
            Event::Migrated { order, why, .. } => {
                let why = if why == Why::Cma { "in the CMA area".into() } else { why.to_string() };
                *tally.moved.entry((why, order.raw())).or_default() += 1;
            }
            Event::MigrateFailed { .. } => tally.failed += 1,
            _ => {}
        }
        self.machine.event(event);
    }
}

impl<'m> Host for Observed<'_, 'm> {
    type Wait = Self;
    type Account = Machine<'m>;
    type Trace = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn account(&self) -> &Machine<'m> {
        self.machine
    }
    fn trace(&self) -> &Self {
        self
    }
}

impl<'m> GupHost for Observed<'_, 'm> {
    type Memory = Machine<'m>;
    type Mappings = Machine<'m>;
    type Guard = Machine<'m>;
    type Fault = Machine<'m>;
    type Migrate = Machine<'m>;
    type Reclaim = Machine<'m>;

    fn memory(&self) -> &Machine<'m> {
        self.machine
    }
    fn mappings(&self) -> &Machine<'m> {
        self.machine
    }
    fn guard(&self) -> &Machine<'m> {
        self.machine
    }
    fn fault(&self) -> &Machine<'m> {
        self.machine
    }
    fn migrate(&self) -> &Machine<'m> {
        self.machine
    }
    fn reclaim(&self) -> &Machine<'m> {
        self.machine
    }
}
