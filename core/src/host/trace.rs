//! Typed events for whoever wants to know what a call did. No formatting happens here.

use pinfold_arch::{Order, Pfn, VirtAddr};

use super::migrate::MigrateError;
use crate::folio::Why;

/// Something that happened inside a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A page was faulted in.
    Faulted {
        /// Its address.
        at: VirtAddr,
        /// A read-only pin made it private.
        unshare: bool,
    },
    /// A folio was moved to where it may be pinned.
    Migrated {
        /// The address that led to it.
        at: VirtAddr,
        /// Its first frame, before.
        from: Pfn,
        /// Its size.
        order: Order,
        /// Why it had to move.
        why: Why,
    },
    /// One attempt to move a folio failed; there may be more.
    MigrateFailed {
        /// The address that led to it.
        at: VirtAddr,
        /// Its first frame.
        folio: Pfn,
        /// What the host said.
        error: MigrateError,
    },
    /// The call waits for another caller that is moving this folio.
    Waiting {
        /// The address that led to it.
        at: VirtAddr,
        /// Its first frame.
        folio: Pfn,
    },
}

/// Receives events.
pub trait Trace {
    /// Called as it happens.
    ///
    /// # Context
    /// Any; must not sleep and must not call the engine.
    fn event(&self, event: Event);
}

/// Drops them.
#[derive(Clone, Copy, Debug)]
pub struct NoTrace;

impl Trace for NoTrace {
    #[inline]
    fn event(&self, _: Event) {}
}
