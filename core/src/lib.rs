//! Pin memory for devices.
//!
//! A *pinfold* is the pound where strays are held. Here it holds folios: memory that a device may
//! reach at any moment, so that nobody may move, reclaim or give it away until the device has
//! let go.
//!
//! The flow, data in one direction: [address space](space) -> [`walk`] -> [`folio`] -> [`policy`] ->
//! [`pin`] -> [`table`] -> [`iopt`] -> [`domain`] -> [unpin](pin::unpin).
//! What travels is not pages but runs: a 1 GiB folio is one run from the first step to the last.
//!
//! Nothing here allocates, and the only `unsafe` is in [`host::mem`]: table views and the direct map. The engine
//! sees the world through the traits in [`host`]; its memory is words that the caller gives.
//!
//! Modules import only modules above them in this file.

#![no_std]
#![warn(clippy::missing_errors_doc, clippy::cast_possible_truncation)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(any(test, loom))]
extern crate std;

pub use pinfold_arch::{
    Aarch64, Aarch64Stage2, Access, AddrRange, AnyFormat, Granule, Order, PageCount, PageFormat,
    PageShift, Pfn, PhysAddr, PowerRadix, Rights, S390x, Table, VirtAddr, X86_64,
};

pub mod error;
pub mod iova;
pub mod request;
pub mod sync;

pub mod folio;
pub mod frames;

pub mod host;

pub mod space;
pub mod walk;

pub mod policy;

pub mod table;

pub mod realmode;

pub mod pin;

pub mod source;

pub mod region;

pub mod iopt;

pub mod domain;

pub mod engine;

pub use domain::{Domain, DomainError};
pub use engine::Engine;
pub use error::ErrorKind;
pub use frames::FrameTable;
pub use iova::{IovaRange, IovaRangeError};
pub use pin::{Dirtied, PinCause, PinError, Pinned, UnpinError, Unpinned};
pub use realmode::{Areas, RealMode, RegionId};
pub use region::Registry;
pub use request::{AccountId, HolderId, PinFlags, PinRequest};
pub use source::HostPins;
pub use space::AddressSpace;
pub use table::PinTable;

/// The README's code is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
