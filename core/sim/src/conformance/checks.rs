//! One check for each duty that can be seen from outside, in the order of the page of duties.

mod moving;
mod paging;
mod pinning;

use super::kit::{Kit, Stop};
use super::{Outcome, Subject};

/// Declares the checks: the name of the duty, and the function that looks.
macro_rules! checks {
    ($($duty:literal: $check:path,)*) => {
        /// The duties that have a check, by their names on the page of duties.
        pub const DUTIES: &[&str] = &[$($duty),*];

        pub(super) fn all<S: Subject>(subject: &S) -> Vec<(&'static str, Outcome)> {
            let kit = Kit(subject);
            vec![$(($duty, outcome($check(&kit)))),*]
        }
    };
}

checks! {
    "table-views": paging::table_views,
    "walk-guard": paging::walk_guard,
    "mapping-lookup": paging::mapping_lookup,
    "folio-kinds": paging::folio_kinds,
    "invalidate-brackets": paging::invalidate_brackets,
    "fault-in": paging::fault_in,
    "fault-locks": paging::fault_locks,
    "fork-brackets": paging::fork_brackets,
    "fork-copies-pinned": pinning::fork_copies_pinned,
    "exclusive-mark": paging::exclusive_mark,
    "clear-then-look": pinning::clear_then_look,
    "every-reference": pinning::every_reference,
    "last-reference": pinning::last_reference,
    "reclaim": pinning::reclaim,
    "folio-flags": moving::folio_flags,
    "migrate-place": moving::migrate_place,
    "migrate-contents": moving::migrate_contents,
    "migrate-never-pinned": moving::migrate_never_pinned,
    "migrate-drain": moving::migrate_drain,
    "migrate-gives-back": moving::migrate_gives_back,
    "account": pinning::account,
    "enter-leave": pinning::enter_leave,
    "pause": pinning::pause,
}

fn outcome(verdict: Result<(), Stop>) -> Outcome {
    match verdict {
        Ok(()) => Outcome::Kept,
        Err(Stop::Needs(want)) => Outcome::NotChecked(want),
        Err(Stop::Broken(seen)) => Outcome::Broken(seen),
    }
}
