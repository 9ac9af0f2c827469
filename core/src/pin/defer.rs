//! Why the fast way did not accept a page: what it gives to the slow way.

use pinfold_arch::{PageCount, Pfn};

use crate::folio::{Folio, Why};
use crate::policy::Refusal;
use crate::walk::WalkError;

/// What the slow way has to see to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defer {
    /// Nothing present, or not with the access: a fault may help.
    Fault,
    /// A read-only pin of a page that a later write would replace: make it private first.
    Unshare,
    /// The answer depends on the mapping, which is not known here.
    NeedsMapping,
    /// The folio must be moved first.
    Move {
        /// What is in the way.
        folio: Folio,
        /// Why it cannot stay.
        why: Why,
        /// The frame that is wanted.
        pfn: Pfn,
        /// Pages of the same run from it on: what comes next may have to move too.
        run: PageCount,
    },
    /// The memory may never be pinned like this.
    Refused(Refusal),
    /// The frame is no known memory.
    NotMemory(Pfn),
    /// The folio was being moved, freed or changed, or its entry was.
    Changed(Pfn),
    /// The folio's count is at its limit.
    Overflow(Pfn),
    /// A fork of the space is under way.
    Fork,
    /// The walk failed.
    Walk(WalkError),
}
