//! Walk guards: who is walking which space, and the table pages that wait for them to leave.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;

use pinfold::Table;
use pinfold::host::SpaceId;

use crate::lock::lock;

/// What happens to a page-table page that nothing points to any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreePolicy {
    /// It is overwritten and freed when no walker is in its space: what an embedder owes.
    Deferred,
    /// It is overwritten and freed at once: what a missing guard looks like.
    PoisonAtOnce,
}

#[derive(Debug)]
struct Books {
    policy: FreePolicy,
    walkers: BTreeMap<u64, u64>,
    waiting: BTreeMap<u64, Vec<Table>>,
}

#[derive(Debug)]
pub(crate) struct Guards {
    books: Mutex<Books>,
}

thread_local! {
    /// How many guards and spin-lock brackets this thread is inside of.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread holds a guard or a spin lock: it must not call what may sleep.
pub(crate) fn must_not_sleep() -> bool {
    INSIDE.get() != 0
}

pub(crate) fn step_in() {
    INSIDE.set(INSIDE.get() + 1);
}

pub(crate) fn step_out() {
    INSIDE.set(INSIDE.get().saturating_sub(1));
}

impl Guards {
    pub(crate) fn new() -> Self {
        // A test that failed inside a walk may have left the mark behind.
        INSIDE.set(0);
        let books = Books {
            policy: FreePolicy::Deferred,
            walkers: BTreeMap::new(),
            waiting: BTreeMap::new(),
        };
        Self { books: Mutex::new(books) }
    }

    pub(crate) fn set_policy(&self, policy: FreePolicy) {
        lock(&self.books).policy = policy;
    }

    pub(crate) fn enter(&self, id: SpaceId) {
        step_in();
        *lock(&self.books).walkers.entry(id.0).or_default() += 1;
    }

    /// Returns the tables that can be freed now.
    pub(crate) fn leave(&self, id: SpaceId) -> Vec<Table> {
        step_out();
        let mut books = lock(&self.books);
        let left = books.walkers.get_mut(&id.0).map(|walkers| {
            *walkers = walkers.saturating_sub(1);
            *walkers
        });
        if left != Some(0) {
            return Vec::new();
        }
        books.walkers.remove(&id.0);
        books.waiting.remove(&id.0).unwrap_or_default()
    }

    /// Walkers in all spaces.
    pub(crate) fn walkers(&self) -> u64 {
        lock(&self.books).walkers.values().sum()
    }

    /// Table pages that wait for a walker to leave.
    pub(crate) fn waiting(&self) -> Vec<Table> {
        lock(&self.books).waiting.values().flatten().copied().collect()
    }

    /// Calls `free`, or keeps the table for later.
    pub(crate) fn free(&self, id: SpaceId, table: Table, free: impl FnOnce(Table)) {
        {
            let mut books = lock(&self.books);
            let waits = books.policy == FreePolicy::Deferred;
            if waits && books.walkers.get(&id.0).is_some_and(|walkers| *walkers > 0) {
                books.waiting.entry(id.0).or_default().push(table);
                return;
            }
        }
        free(table);
    }
}
