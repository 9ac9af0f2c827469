//! What can go wrong between the engine and a host that counts pins itself.

use pinfold_arch::{Order, PageCount, Pfn};

use crate::error::ErrorKind;

/// Why a pin source did not pin, or what was wrong with its answer.
///
/// The first group is for the source to return. The second is the engine's verdict on a source
/// that broke its contract; whatever it had reported was given back to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing is mapped there, or not with this access.
    #[error("nothing is mapped there, or not with this access")]
    NotMapped,
    /// The memory may not be pinned like this.
    #[error("the host refuses to pin this memory like this")]
    Refused,
    /// The memory could not be moved to where it may be pinned.
    #[error("the host could not move the memory to where it may be pinned")]
    Unmovable,
    /// Somebody else is at it.
    #[error("the host is busy with this memory")]
    Busy,
    /// The host has no memory.
    #[error("the host is out of memory")]
    NoMemory,
    /// The limit of a host that charges by itself is reached.
    #[error("the host's limit on pinned memory is reached")]
    OverLimit,
    /// A count of the host is at its limit.
    #[error("a pin count of the host is at its limit")]
    Overflow,
    /// The host was told to stop.
    #[error("the host's pin call was interrupted")]
    Interrupted,

    /// It said success and had reported fewer pages than asked for.
    #[error("the host pinned {got} of {asked} pages and called that success")]
    Short {
        /// Pages asked for.
        asked: PageCount,
        /// Pages reported.
        got: PageCount,
    },
    /// It reported more pages than asked for.
    #[error("the host reported {got} pages where {asked} were asked for")]
    TooMany {
        /// Pages asked for.
        asked: PageCount,
        /// Pages reported, with the run that was refused.
        got: PageCount,
    },
    /// It reported a run without pages.
    #[error("the host reported a run of no pages at frame {pfn}")]
    Empty {
        /// The run's first frame.
        pfn: Pfn,
    },
    /// It reported frames that have no physical address.
    #[error("the host reported {pages} frames from {pfn}, which have no address")]
    NoSuchFrames {
        /// The run's first frame.
        pfn: Pfn,
        /// Its length.
        pages: PageCount,
    },
    /// It reported frames as part of one folio that no folio of that order can have together.
    #[error("the host reported {pages} frames from {pfn} as part of one {order:?} folio")]
    NotOneFolio {
        /// The run's first frame.
        pfn: Pfn,
        /// Its length.
        pages: PageCount,
        /// The size of the folio as reported.
        order: Order,
    },
    /// It stopped at a run that was refused. The call that pins puts the reason in place of this.
    #[error("a run was refused")]
    RunRefused,
    /// It answered with a number that means nothing.
    #[error("the host answered {code}, which means nothing")]
    Unknown {
        /// The number.
        code: i32,
    },
}

impl SourceError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotMapped => ErrorKind::NotMapped,
            Self::Refused => ErrorKind::Refused,
            Self::Unmovable => ErrorKind::Unmovable,
            Self::Busy => ErrorKind::Busy,
            Self::NoMemory => ErrorKind::NoMemory,
            Self::OverLimit => ErrorKind::OverLimit,
            Self::Overflow => ErrorKind::Overflow,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Short { .. }
            | Self::TooMany { .. }
            | Self::Empty { .. }
            | Self::NoSuchFrames { .. }
            | Self::NotOneFolio { .. }
            | Self::RunRefused
            | Self::Unknown { .. } => ErrorKind::BadHost,
        }
    }
}
