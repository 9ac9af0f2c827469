//! Moving folios out of memory that must not be pinned for long, and taking back the ones that
//! nobody refers to any more.

use crate::frames::{Claim, Frozen};

/// Why a folio could not be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Somebody else refers to it. The counts are the two that did not agree when the freeze was
    /// tried, with the caller's own reference in both.
    #[error("expected {expected} references, found {found}")]
    Busy {
        /// References that mappings, caches and the claim account for.
        expected: u32,
        /// References that the folio has.
        found: u32,
    },
    /// No memory to move it to.
    #[error("no memory to move it to")]
    NoMemory,
    /// This kind of memory is never moved, or there is nothing here that could move it.
    #[error("it cannot be moved")]
    Unmovable,
}

/// Moves folios.
pub trait Migrate {
    /// Moves the claimed folio's contents and mappings to memory that may be pinned for long.
    ///
    /// The claim keeps other migrators and pinners off the folio and holds one reference, which
    /// must be counted as expected. The steps: announce the invalidation to every space that
    /// maps it, clear the entries, [`freeze`](crate::frames::FrameTable::freeze) with the expected
    /// references, copy, map the target, unfreeze the old folio with the claim's reference
    /// alone. On any error the old mapping stands as before. What goes wrong otherwise:
    /// [migration](super::duties#migration).
    ///
    /// # Context
    /// May sleep. Called with no engine lock, no walk guard, and no pin of this caller on the folio.
    ///
    /// # Errors
    /// [`MigrateError`].
    fn migrate(&self, claim: &Claim<'_>) -> Result<(), MigrateError>;

    /// Gives back the references that the embedder's own caches hold for a moment, on all CPUs:
    /// per-CPU lists of pages that were just faulted in, and the like. Called when a folio could
    /// not be moved because it was [busy](MigrateError::Busy), once, before the next attempt. The
    /// default is for embedders without such caches.
    ///
    /// # Context
    /// As [`migrate`](Self::migrate), and without a claim.
    fn drain(&self) {}
}

/// Takes back folios whose last reference went.
pub trait Reclaim {
    /// The folio has no references left and is the embedder's to free or to give new contents.
    ///
    /// # Context
    /// That of the call that dropped the reference; must not sleep. A walk guard may be held, so
    /// it must not take a lock that freeing page tables takes:
    /// [`hook-context`](super::duties#hook-context).
    fn reclaim(&self, folio: Frozen<'_>);
}

/// Nothing can be moved: what lies in a wrong place is refused.
#[derive(Clone, Copy, Debug)]
pub struct NoMigrate;

impl Migrate for NoMigrate {
    fn migrate(&self, _: &Claim<'_>) -> Result<(), MigrateError> {
        Err(MigrateError::Unmovable)
    }
}

/// Frames whose last reference goes while pinned stay frozen: for a system that never gives
/// user memory back.
#[derive(Clone, Copy, Debug)]
pub struct LeakFrames;

impl Reclaim for LeakFrames {
    fn reclaim(&self, _: Frozen<'_>) {}
}
