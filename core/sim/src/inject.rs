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
    /// An event. Cannot fail.
    Event,
    /// A walker has read a page-table entry, in a space that is
    /// [watched](Machine::watching). Cannot fail.
    Entry,
}

impl HostCall {
    /// All of them.
    pub const ALL: [Self; 13] = [
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
        Self::Event,
        Self::Entry,
    ];

    /// Those that can fail.
    pub const FALLIBLE: [Self; 7] = [
        Self::Table,
        Self::Mapping,
        Self::Fault,
        Self::Migrate,
        Self::Charge,
        Self::Pause,
        Self::Drain,
    ];
}

type Deed<'m, F> = Box<dyn FnOnce(&Machine<'m, F>) + Send + 'm>;

enum Action<'m, F> {
    Fail,
    Do(Deed<'m, F>),
}

/// What happens at which call, in order.
type Plan<'m, F> = BTreeMap<(HostCall, u64), Vec<Action<'m, F>>>;

/// Counts calls and keeps the schedule.
pub(crate) struct Injector<'m, F> {
    calls: [AtomicU64; HostCall::ALL.len()],
    /// Whether anything is scheduled: the only thing that an unhurried call looks at.
    armed: AtomicBool,
    plan: Mutex<Plan<'m, F>>,
    /// Calls that were made to fail.
    failed: AtomicU64,
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
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn calls(&self, call: HostCall) -> u64 {
        self.calls[call as usize].load(Ordering::SeqCst)
    }

    fn plan(&self, call: HostCall, nth: u64, action: Action<'m, F>) {
        let at = self.calls(call) + nth;
        lock(&self.plan).entry((call, at)).or_default().push(action);
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fail(&self, call: HostCall, nth: u64) {
        self.plan(call, nth, Action::Fail);
    }

    pub(crate) fn during(&self, call: HostCall, nth: u64, deed: Deed<'m, F>) {
        self.plan(call, nth, Action::Do(deed));
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn scheduled(&self) -> bool {
        !lock(&self.plan).is_empty()
    }

    pub(crate) fn disarm(&self) {
        lock(&self.plan).clear();
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Counts a call, does what is scheduled for it in the order in which it was scheduled, and
    /// says whether the call shall succeed.
    pub(crate) fn call(&self, machine: &Machine<'m, F>, call: HostCall) -> bool {
        let nth = self.calls[call as usize].fetch_add(1, Ordering::SeqCst) + 1;
        if !self.armed.load(Ordering::SeqCst) {
            return true;
        }
        let actions = lock(&self.plan).remove(&(call, nth)).unwrap_or_default();
        let mut succeed = true;
        for action in actions {
            match action {
                Action::Fail => succeed = false,
                Action::Do(deed) => deed(machine),
            }
        }
        if !succeed {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        succeed
    }
}
