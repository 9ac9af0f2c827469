//! Why a snapshot that can be read is no machine.

use pinfold::VirtAddr;

use crate::snapshot::MmuError;
use crate::state::NoMemory;

/// Why no machine can be made from a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The memory was made from another layout.
    #[error("this memory does not have the snapshot's layout")]
    WrongRam,
    /// Its registers name no page tables.
    #[error(transparent)]
    Mmu(#[from] MmuError),
    /// Something about the machine as a whole is not supported.
    #[error("this machine is not supported: {what}")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// A zone is wrong.
    #[error("zone {name}: {what}")]
    Zone {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A CMA area is wrong.
    #[error("CMA area {name}: {what}")]
    Cma {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A mapping is wrong.
    #[error("mapping at {at}: {what}")]
    Mapping {
        /// Where it begins.
        at: VirtAddr,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A page of page-table memory is wrong.
    #[error("page table at physical address {addr:#x}: {what}")]
    Table {
        /// Its physical address.
        addr: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry of a page table is wrong.
    #[error("page-table entry {raw:#x} for {at}: {what}")]
    Entry {
        /// The first address that it is for.
        at: VirtAddr,
        /// The entry.
        raw: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What is said about a page is wrong.
    #[error("page at {at}: {what}")]
    Page {
        /// Its address.
        at: VirtAddr,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What is said about a frame is wrong.
    #[error("frame {pfn:#x}: {what}")]
    Frame {
        /// Its number.
        pfn: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The machine needs a few free frames of its own and there are none.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}
