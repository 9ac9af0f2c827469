//! Pinning a range in one call.

use pinfold_arch::PageCount;

pub mod error;
pub mod unpin;

pub use error::{PinCause, PinError};

/// What a successful call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// Pages pinned: all that were asked for.
    pub pages: PageCount,
    /// Counting operations on folios: runs of pages that share a folio.
    pub runs: u64,
    /// Page-table pages visited.
    pub tables: u64,
    /// Page-table entries decoded.
    pub entries: u64,
    /// Pages faulted in or made private.
    pub faults: u64,
    /// Folios moved.
    pub migrated: u64,
}
