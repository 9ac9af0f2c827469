//! What came of a script.

use std::fmt;
use std::ops::AddAssign;

use pinfold::pin::Unpinned;
use pinfold::{PinError, Pinned};

use super::Op;

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    /// It could not be done, and was not.
    Nothing,
    /// It was done, or scheduled.
    Done,
    /// A pin call succeeded.
    Pinned(Pinned),
    /// A pin call failed, as it may.
    Failed(PinError),
    /// An unpin call succeeded.
    Unpinned(Unpinned),
}

/// How often what was done, for those who want to know that a script was worth something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Deeds that were done between two calls of the engine.
    pub deeds: u64,
    /// Deeds that were done inside a call of the engine.
    pub hooked: u64,
    /// Deeds that could not be done.
    pub idle: u64,
    /// Pin calls that succeeded while nothing else happened.
    pub pinned: u64,
    /// Pin calls that succeeded although something happened meanwhile.
    pub pinned_late: u64,
    /// Pin calls that were refused while nothing else happened.
    pub refused: u64,
    /// Pin calls that failed after a host call had been made to fail.
    pub injected: u64,
    /// Pin calls that failed after something else had happened meanwhile.
    pub disturbed: u64,
    /// Calls that gave pins back.
    pub unpinned: u64,
    /// Pages that were marked dirty.
    pub marked: u64,
    /// Pages pinned.
    pub pages: u64,
    /// Folios moved to be pinned.
    pub migrated: u64,
    /// Pages faulted in to be pinned.
    pub faults: u64,
}

impl Outcome {
    /// Calls of the engine.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        let pins = self.pinned + self.pinned_late + self.refused + self.injected + self.disturbed;
        pins + self.unpinned + self.marked
    }

    /// Everything that was done: calls of the engine and deeds, not what could not be done.
    #[must_use]
    pub const fn operations(&self) -> u64 {
        self.calls() + self.deeds + self.hooked
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.deeds += other.deeds;
        self.hooked += other.hooked;
        self.idle += other.idle;
        self.pinned += other.pinned;
        self.pinned_late += other.pinned_late;
        self.refused += other.refused;
        self.injected += other.injected;
        self.disturbed += other.disturbed;
        self.unpinned += other.unpinned;
        self.marked += other.marked;
        self.pages += other.pages;
        self.migrated += other.migrated;
        self.faults += other.faults;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} operations, {} of them calls of the engine:",
            self.operations(),
            self.calls()
        )?;
        writeln!(
            f,
            "  pins: {} succeeded, {} more while something happened; {} refused, {} failed by a \
             failing host, {} by what happened",
            self.pinned, self.pinned_late, self.refused, self.injected, self.disturbed
        )?;
        writeln!(f, "  {} unpins, {} dirty marks", self.unpinned, self.marked)?;
        writeln!(
            f,
            "  {} deeds between calls, {} inside calls ({} more could not be done)",
            self.deeds, self.hooked, self.idle
        )?;
        write!(
            f,
            "  {} pages pinned, {} folios moved, {} pages faulted in",
            self.pages, self.migrated, self.faults
        )
    }
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
