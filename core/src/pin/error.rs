//! Why a pin call failed.

use pinfold_arch::addr::RangeError;
use pinfold_arch::{Order, Pfn, VirtAddr};

use crate::error::ErrorKind;
use crate::folio::Why;
use crate::host::{FaultError, MigrateError, OverLimit, SourceError};
use crate::policy::{Refusal, RequestError};
use crate::table::TableError;
use crate::walk::WalkError;

/// Why a pin call failed, and where. Nothing stays pinned or charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot pin at {at}: {cause}")]
pub struct PinError {
    /// The address of the first page that was in the way; for an error of the request as a whole,
    /// its start.
    pub at: VirtAddr,
    /// What was in the way.
    pub cause: PinCause,
}

/// What stood in the way of a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinCause {
    /// The range is none.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The format cannot translate the range: not canonical, or on both sides of a hole.
    #[error("the range is not one the page-table format can translate")]
    NotTranslatable,
    /// The request counts in pages of another size than the space or the frame table.
    #[error("the base page sizes of request, space and frame table differ")]
    BaseMismatch,
    /// A combination of access and flags that is not allowed.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// Nothing is mapped at the address.
    #[error("nothing is mapped there")]
    NotMapped,
    /// The page is absent or lacks the access, and the request forbids faults.
    #[error("the page is not present with this access, and the request forbids faults")]
    NotPresent,
    /// The memory may not be pinned like this.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The page could not be made present.
    #[error("fault failed: {0}")]
    Fault(#[from] FaultError),
    /// The walk failed.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A page-table entry points to something that is no known memory.
    #[error("frame {pfn} is not known memory")]
    NotMemory {
        /// The frame.
        pfn: Pfn,
    },
    /// A folio lies where it must not be pinned for long and could not be moved.
    #[error("{order:?} folio at frame {folio} must be moved ({why}): {error}")]
    Unmovable {
        /// Its first frame.
        folio: Pfn,
        /// Its size.
        order: Order,
        /// Why it has to move.
        why: Why,
        /// Why it could not: with the expected and the found references where that was it.
        error: MigrateError,
    },
    /// The page could not be grabbed within the bounded number of attempts, because others kept
    /// moving or changing it.
    #[error("the page kept changing{}", DisplayFrame(*pfn))]
    Busy {
        /// The frame last seen, if one was.
        pfn: Option<Pfn>,
    },
    /// A fault said success again and again, and the page is still not there.
    #[error("faults do not make the page present")]
    FaultLoop,
    /// The folio's counts are at their limit.
    #[error("the counts of the folio at frame {folio} are at their limit")]
    Overflow {
        /// Its first frame.
        folio: Pfn,
    },
    /// The account's limit is reached.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The pin table refused: too small, in use.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The host's own pin call failed, or its answer was wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// `pause` stopped the call.
    #[error("interrupted")]
    Interrupted,
}

impl PinCause {
    pub(crate) fn at(self, at: VirtAddr) -> PinError {
        PinError { at, cause: self }
    }
}

impl PinError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.cause {
            PinCause::Range(_)
            | PinCause::NotTranslatable
            | PinCause::BaseMismatch
            | PinCause::Request(_) => ErrorKind::InvalidArgument,
            PinCause::NotMapped | PinCause::NotPresent => ErrorKind::NotMapped,
            PinCause::Refused(_) | PinCause::NotMemory { .. } => ErrorKind::Refused,
            PinCause::Fault(FaultError::NoMemory) => ErrorKind::NoMemory,
            PinCause::Fault(_) => ErrorKind::NotMapped,
            PinCause::Walk(_) | PinCause::FaultLoop => ErrorKind::Corrupt,
            PinCause::Unmovable { .. } => ErrorKind::Unmovable,
            PinCause::Busy { .. } => ErrorKind::Busy,
            PinCause::Overflow { .. } => ErrorKind::Overflow,
            PinCause::OverLimit(_) => ErrorKind::OverLimit,
            PinCause::Table(error) => error.kind(),
            PinCause::Source(error) => error.kind(),
            PinCause::Interrupted => ErrorKind::Interrupted,
        }
    }
}

/// "at frame X", or nothing.
struct DisplayFrame(Option<Pfn>);

impl core::fmt::Display for DisplayFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.map_or(Ok(()), |pfn| write!(f, " (last frame {pfn})"))
    }
}
