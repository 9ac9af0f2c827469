//! Making a page present, writable or private before it is pinned.

use pinfold_arch::{Access, VirtAddr};

use super::space::SpaceId;

/// What the page must be like afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The access that must be possible. With [`Access::WRITE`] a copy-on-write share is broken.
    pub access: Access,
    /// Make a shared copy-on-write page private although nobody writes: a read-only pin must keep
    /// seeing what the process later writes. Never together with [`Access::WRITE`].
    pub unshare: bool,
    /// The page will be pinned for long: allocate it where long-term pins are allowed (not in a
    /// CMA area, not in a movable zone), so that it need not be moved right after.
    pub longterm: bool,
}

/// Why a page could not be made present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// Nothing may be there, or not with this access.
    #[error("the access is not allowed")]
    Denied,
    /// No memory for the page or its tables.
    #[error("out of memory")]
    NoMemory,
    /// The memory or its backing store has failed.
    #[error("the page is poisoned or its backing store failed")]
    Poisoned,
    /// There is no fault handler, or not in this context.
    #[error("pages cannot be faulted in here")]
    NotHere,
}

/// Makes a page present, as a CPU access would.
pub trait FaultIn {
    /// Makes the page at `va` present so that a walk finds what `fault` asks for.
    ///
    /// Called with no engine lock and no walk guard held. The embedder takes and drops its own
    /// locks. A success that did not change the page is tried again a bounded number of times.
    /// What goes wrong otherwise: [`fault-in`](super::duties#fault-in),
    /// [`fault-locks`](super::duties#fault-locks).
    ///
    /// # Context
    /// May sleep.
    ///
    /// # Errors
    /// [`FaultError`]; the pin call is rolled back and reports it.
    fn fault_in(&self, space: SpaceId, va: VirtAddr, fault: Fault) -> Result<(), FaultError>;
}

/// All memory is present from the start; what is absent stays absent.
#[derive(Clone, Copy, Debug)]
pub struct NoFault;

impl FaultIn for NoFault {
    fn fault_in(&self, _: SpaceId, _: VirtAddr, _: Fault) -> Result<(), FaultError> {
        Err(FaultError::NotHere)
    }
}
