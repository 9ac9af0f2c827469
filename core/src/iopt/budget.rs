//! Work between two pauses.

use pinfold_arch::{IoTable, Iova, PageCount};

use super::view;

use crate::host::{Flow, IoTables, Progress, Step};

/// Counts what a call does between two pauses.
#[derive(Debug)]
pub(crate) struct Budget<'m, T> {
    pub(super) tables: &'m T,
    /// Entries that may still be handled before the next pause.
    left: u64,
    total: PageCount,
    /// Tables that there can still be: more are there only where a corrupt entry leads to one twice.
    others: u64,
}

impl<T> Clone for Budget<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'m, T: IoTables> Budget<'m, T> {
    /// For a call over so many pages.
    pub(crate) fn new(tables: &'m T, total: u64) -> Self {
        let (left, total) = (Step::of(tables).entries(), PageCount::new(total));
        Self { tables, left, total, others: u64::MAX }
    }

    /// For a call that goes through all tables, of which there are so many.
    pub(super) fn for_all(tables: &'m T, live: u64) -> Self {
        Self { others: live.saturating_sub(1), ..Self::new(tables, 0) }
    }

    /// Goes to another table; `false` if it is outside memory or there are no more than were found.
    pub(super) fn goes_to(&mut self, table: &IoTable) -> bool {
        let there = view(self.tables, table, Iova::new(0)).is_ok();
        let left = self.others.checked_sub(1).filter(|_| there);
        self.others = left.unwrap_or(self.others);
        left.is_some()
    }

    /// Entries that may be handled at once, one at least.
    pub(crate) fn most(&self) -> u64 {
        self.left.max(1)
    }

    /// So many entries were handled, `done` pages altogether. Pauses where it is time.
    #[inline]
    pub(crate) fn spend(&mut self, entries: u64, done: u64) -> Flow {
        self.left = self.left.saturating_sub(entries);
        if self.left > 0 { Flow::Continue } else { self.pause(done) }
    }

    #[cold]
    fn pause(&mut self, done: u64) -> Flow {
        self.left = Step::of(self.tables).entries();
        self.tables.pause(Progress { done: PageCount::new(done), total: self.total })
    }
}
