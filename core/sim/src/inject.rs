//! Misbehaviour by a schedule: any call that the engine makes into the machine may fail, and
//! anything may happen during it.
//!
//! What is scheduled for the n-th call of a function happens at that call, once, whatever thread
//! makes it. Between two threads that is a race; in one thread it is the way to put an unmap or
//! a fork exactly between two steps of the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::lock::lock;
use crate::machine::Machine;

/// The functions that the engine calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostCall {
    /// A view of a page table. Fails: it lies outside memory.
    Table,
    /// Mapping lookup. Fails: nothing is mapped.
    Mapping,
    /// A walk begins. Cannot fail.
    GuardEnter,
    /// A walk ends. Cannot fail.
    GuardLeave,
    /// Fault-in. Fails: no memory.
    Fault,
    /// Migration. Fails: no memory.
    Migrate,
    /// A folio whose last reference went. Cannot fail.
    Reclaim,
    /// A charge. Fails: over the limit.
    Charge,
    /// A charge is taken back. Cannot fail.
    Uncharge,
    /// `pause`. Fails: stop.
    Pause,
    /// The caches of new pages are to be emptied. Fails: they are not.
    Drain,
}

impl HostCall {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Table,
        Self::Mapping,
        Self::GuardEnter,
        Self::GuardLeave,
        Self::Fault,
        Self::Migrate,
        Self::Reclaim,
        Self::Charge,
        Self::Uncharge,
        Self::Pause,
        Self::Drain,
    ];

    /// Those that can fail.
    pub const FALLIBLE: [Self; 6] =
        [Self::Table, Self::Mapping, Self::Fault, Self::Migrate, Self::Charge, Self::Pause];
}

type Deed<'m, F> = Box<dyn FnOnce(&Machine<'m, F>) + Send + 'm>;

enum Action<'m, F> {
    Fail,
    Do(Deed<'m, F>),
}

/// Counts calls and keeps the schedule.
pub(crate) struct Injector<'m, F> {
    calls: [AtomicU64; HostCall::ALL.len()],
    /// Whether anything is scheduled: the only thing that an unhurried call looks at.
    armed: AtomicBool,
    plan: Mutex<BTreeMap<(HostCall, u64), Action<'m, F>>>,
}

impl<F> fmt::Debug for Injector<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injector").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl<'m, F> Injector<'m, F> {
    pub(crate) fn new() -> Self {
        Self {
            calls: [const { AtomicU64::new(0) }; HostCall::ALL.len()],
            armed: AtomicBool::new(false),
            plan: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn calls(&self, call: HostCall) -> u64 {
        self.calls[call as usize].load(Ordering::SeqCst)
    }

    fn plan(&self, call: HostCall, nth: u64, action: Action<'m, F>) {
        let at = self.calls(call) + nth;
        lock(&self.plan).insert((call, at), action);
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fail(&self, call: HostCall, nth: u64) {
        self.plan(call, nth, Action::Fail);
    }

    pub(crate) fn during(&self, call: HostCall, nth: u64, deed: Deed<'m, F>) {
        self.plan(call, nth, Action::Do(deed));
    }

    pub(crate) fn scheduled(&self) -> bool {
        !lock(&self.plan).is_empty()
    }

    pub(crate) fn disarm(&self) {
        lock(&self.plan).clear();
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Counts a call, does what is scheduled for it, and says whether it shall succeed.
    pub(crate) fn call(&self, machine: &Machine<'m, F>, call: HostCall) -> bool {
        let nth = self.calls[call as usize].fetch_add(1, Ordering::SeqCst) + 1;
        if !self.armed.load(Ordering::SeqCst) {
            return true;
        }
        let action = lock(&self.plan).remove(&(call, nth));
        match action {
            None => true,
            Some(Action::Fail) => false,
            Some(Action::Do(deed)) => {
                deed(machine);
                true
            }
        }
    }
}
