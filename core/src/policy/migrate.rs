//! Moving a folio to where it may be pinned for long: claim, move, try again, bounded.

use pinfold_arch::VirtAddr;

use crate::folio::{Folio, Why};
use crate::frames::FrameTable;
use crate::host::{Event, Flow, GupHost, Migrate, MigrateError, Progress, Reclaim, Trace, Wait};

/// How often one call tries to move a folio that others refer to for a moment.
pub(crate) const ATTEMPTS: u32 = 10;

/// What became of an attempt to move a folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    /// It was moved: walk again.
    Yes,
    /// Another caller is moving it, or it is no longer what it was: look again later.
    Elsewhere,
    /// It could not be moved.
    No(MigrateError),
    /// `pause` stopped the call.
    Stopped,
}

/// Moves `folio`, which was found at `at`.
///
/// There is one migrator for a folio, by the claim in its count word. A folio is judged before it is
/// counted, so a caller who waits for a claim holds nothing on that folio: two callers who want
/// the same one do not defeat each other. (One that was fit to be pinned earlier in this call,
/// and is isolated before the range maps it a second time, has this call's own pins and stays.)
pub(crate) fn move_folio<H: GupHost>(
    host: &H,
    frames: &FrameTable<'_>,
    folio: Folio,
    why: Why,
    at: VirtAddr,
    progress: Progress,
) -> Moved {
    let mut attempt = 0;
    loop {
        let claim = match frames.claim(folio) {
            Ok(claim) => claim,
            Err(lost) => {
                if let Some(last) = lost.last {
                    host.reclaim().reclaim(last);
                }
                return Moved::Elsewhere;
            }
        };
        let result = host.migrate().migrate(&claim);
        if let Some(last) = claim.release() {
            host.reclaim().reclaim(last);
        }
        let error = match result {
            Ok(()) => {
                let (from, order) = (folio.head(), folio.order());
                host.trace().event(Event::Migrated { at, from, order, why });
                return Moved::Yes;
            }
            Err(error) => error,
        };
        host.trace().event(Event::MigrateFailed { at, folio: folio.head(), error });
        if attempt == 0 && matches!(error, MigrateError::Busy { .. }) {
            host.migrate().drain();
        }
        attempt += 1;
        if attempt == ATTEMPTS || error == MigrateError::Unmovable {
            return Moved::No(error);
        }
        if host.wait().pause(progress) == Flow::Stop {
            return Moved::Stopped;
        }
    }
}
