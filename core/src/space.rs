//! An address space: the root of its page tables, their format, and two sequence counts that say
//! when what was read about it has gone stale.

use pinfold_arch::{PageFormat, Table};

use crate::host::SpaceId;
use crate::sync::{Ordering, Word};

/// One address space whose memory can be pinned.
#[derive(Debug)]
pub struct AddressSpace<F> {
    id: SpaceId,
    format: F,
    root: Table,
    /// Invalidations that began and ended, together; odd steps are not told apart because
    /// several may be under way. Written by the embedder's brackets, read by pin calls.
    invalidations: Word,
    /// Invalidations under way.
    invalidating: Word,
    /// Odd while a fork copies the tables. Written by the embedder's brackets.
    forks: Word,
}

/// A state of the space's mappings, or of its forks: unchanged as long as it compares equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence(u64);

impl<F: PageFormat> AddressSpace<F> {
    /// The space with this root table.
    pub fn new(id: SpaceId, format: F, root: Table) -> Self {
        Self {
            id,
            format,
            root,
            invalidations: Word::new(0),
            invalidating: Word::new(0),
            forks: Word::new(0),
        }
    }

    /// The embedder's name for it.
    pub fn id(&self) -> SpaceId {
        self.id
    }

    /// The format of its tables.
    pub fn format(&self) -> F {
        self.format
    }

    /// Its top table.
    pub fn root(&self) -> Table {
        self.root
    }

    /// The embedder is about to change mappings: clear entries, change what a mapping allows,
    /// unmap. Called before the first entry changes. Context: any; takes no lock. Every call is paired with [`invalidate_end`](Self::invalidate_end).
    pub fn invalidate_start(&self) {
        self.invalidating.fetch_add(1, Ordering::SeqCst);
        self.invalidations.fetch_add(1, Ordering::SeqCst);
    }

    /// The change is complete.
    pub fn invalidate_end(&self) {
        self.invalidations.fetch_add(1, Ordering::SeqCst);
        self.invalidating.fetch_sub(1, Ordering::SeqCst);
    }

    /// The state of the mappings now, or `None` while they are being changed.
    pub fn sequence(&self) -> Option<Sequence> {
        let seen = self.invalidations.load(Ordering::SeqCst);
        if self.invalidating.load(Ordering::SeqCst) != 0 {
            return None;
        }
        Some(Sequence(seen))
    }

    /// A fork is about to write-protect this space's private pages. Forks of one space do not
    /// overlap; each start is paired with [`fork_end`](Self::fork_end).
    pub fn fork_start(&self) {
        self.forks.fetch_add(1, Ordering::SeqCst);
    }

    /// The fork is complete.
    pub fn fork_end(&self) {
        self.forks.fetch_add(1, Ordering::SeqCst);
    }

    /// The state of forks now, or `None` while one is under way. A lockless pin that overlaps a fork
    /// is thrown away: it samples this before and compares after.
    pub fn fork_sequence(&self) -> Option<Sequence> {
        let seen = self.forks.load(Ordering::SeqCst);
        if seen.is_multiple_of(2) { Some(Sequence(seen)) } else { None }
    }
}
