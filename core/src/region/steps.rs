//! Counting what is done between two pauses.

use pinfold_arch::PageCount;

use crate::host::{Flow, Progress, Step, Wait};

/// Counts work, and pauses when a step is full.
pub(super) struct Steps<'a, W> {
    wait: &'a W,
    /// What may be done before the next pause.
    pub(super) left: u64,
    total: PageCount,
}

impl<'a, W: Wait> Steps<'a, W> {
    pub(super) fn new(wait: &'a W, total: PageCount) -> Self {
        Self { wait, left: Step::of(wait).entries(), total }
    }

    /// So many words were read or written, and `done` pages are behind.
    pub(super) fn did(&mut self, words: u64, done: PageCount) -> Flow {
        self.left = self.left.saturating_sub(words);
        if self.left != 0 {
            return Flow::Continue;
        }
        self.left = Step::of(self.wait).entries();
        self.wait.pause(Progress { done, total: self.total })
    }
}
