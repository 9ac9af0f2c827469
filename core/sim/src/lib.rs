//! A machine in ordinary memory, for tests of code that pins memory with `pinfold`.
//!
//! Make [`Ram`] from a [`Layout`] and a [`Machine`] from the ram. The machine has zones and an
//! allocator, address spaces with real page tables in its memory, files, a CPU that faults, fork,
//! migration, a contiguous allocator and devices. It is the engine's host in every part, and
//! it misbehaves on demand.
//!
//! ```
//! use pinfold_sim::{Layout, Machine, MapSpec, Ram};
//!
//! let ram = Ram::new(&Layout::small());
//! let machine = Machine::new(&ram);
//! let space = machine.add_space();
//! machine.map(space.id(), MapSpec::anonymous(0x10_0000, 16))?;
//!
//! machine.write(space.id(), 0x10_0ffe, b"pinfold")?;
//! let folio = machine.folio_at(space.id(), 0x10_0000).unwrap();
//! let counts = machine.frames().counts_of(folio);
//! assert_eq!((counts.references(), counts.pins()), (1, 0));
//!
//! // It is anonymous user memory, so it lies where it can be moved.
//! assert!(folio.info().flags.contains(pinfold::folio::FolioFlags::MOVABLE));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything is deterministic: first fit, ordered maps, no time and no chance. What a reference
//! count must be is written down in `state.rs`, and [`model`] checks it from outside.
//!
//! Its own holes: swap is for anonymous memory only and has no cache; there is no NUMA and no
//! write-back (a dirty file page stays).

mod account;
mod batch;
mod collapse;
mod contig;
mod cpu;
mod device;
mod fault;
mod fork;
mod format;
mod guard;
mod host;
mod inject;
mod iotables;
mod layout;
mod lock;
mod machine;
mod map;
mod migrate;
mod objects;
mod pins;
mod ram;
mod replica;
mod reserve;
mod space;
mod state;
mod swap;
mod tables;
mod watch;
mod zones;

pub mod conformance;
pub mod hostile;
pub mod hostile_io;
pub mod model;
pub mod regions;
pub mod script;
pub mod snapshot;
pub mod tlb;

pub use contig::ContigError;
pub use device::{Device, DmaError};
pub use format::TableFormat;
pub use guard::FreePolicy;
pub use host::Breach;
pub use inject::HostCall;
pub use iotables::TableMemory;
pub use layout::{FrameRange, Layout, ZoneKind, ZoneLayout, mib};
pub use machine::Machine;
pub use map::{MapError, MapSpec, Thp};
pub use objects::{FileId, FileKind, TruncateError};
pub use pins::PinHost;
pub use ram::Ram;
pub use replica::{Replica, ReplicaError, verdict};
pub use state::NoMemory;
pub use watch::Watched;
pub use zones::{Place, Want, ZoneCounts};
