//! Ranges of device addresses.

use pinfold_arch::{Iova, PageShift};

/// Device addresses from the first to the last, both inside: so the very last address there is can be
/// in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IovaRange {
    start: Iova,
    last: Iova,
}

/// Why a start and a length are no [`IovaRange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IovaRangeError {
    /// No bytes.
    #[error("the range is empty")]
    Empty,
    /// The range runs past the last 64-bit address.
    #[error("{bytes:#x} bytes from {start} wrap around the address space")]
    Wraps {
        /// The start as given.
        start: Iova,
        /// The length as given.
        bytes: u64,
    },
}

impl IovaRange {
    /// Every address there is.
    pub const ALL: Self = Self { start: Iova::new(0), last: Iova::new(u64::MAX) };

    /// `bytes` bytes from `start` on.
    ///
    /// # Errors
    /// [`IovaRangeError`].
    pub const fn new(start: Iova, bytes: u64) -> Result<Self, IovaRangeError> {
        let Some(others) = bytes.checked_sub(1) else { return Err(IovaRangeError::Empty) };
        match start.checked_add(others) {
            Some(last) => Ok(Self { start, last }),
            None => Err(IovaRangeError::Wraps { start, bytes }),
        }
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> Iova {
        self.start
    }

    /// Last address.
    #[must_use]
    pub const fn last(&self) -> Iova {
        self.last
    }

    /// The addresses from the first to the last, both inside; `None` if the last comes before the first.
    #[must_use]
    pub const fn between(start: Iova, last: Iova) -> Option<Self> {
        if start.raw() <= last.raw() { Some(Self { start, last }) } else { None }
    }

    /// Whether it begins and ends with a page of this size.
    #[must_use]
    pub const fn is_aligned(&self, shift: PageShift) -> bool {
        self.start.is_aligned(shift) && self.last.offset(shift) == shift.mask()
    }

    /// Whether all of `first..=last` lies inside.
    #[must_use]
    pub const fn covers(&self, first: Iova, last: Iova) -> bool {
        self.start.raw() <= first.raw() && last.raw() <= self.last.raw()
    }
}
