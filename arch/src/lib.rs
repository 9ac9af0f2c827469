//! What the hardware's page tables look like, as values.
//!
//! A *format* ([`PageFormat`]) is a small `Copy` value that carries its configuration (levels,
//! physical width, encryption bit) and has pure functions on `u64`. It touches no memory and no
//! CPU, so every format is compiled and tested on every host. Whoever walks a table loads an
//! entry, hands it to [`PageFormat::decode`] and gets an [`Entry`].
//!
//! Which of them a table is in may also be known at run time only: [`AnyFormat`].
//!
//! | format | module | levels | leaves |
//! |---|---|---|---|
//! | [`X86_64`] | `format/x86_64.rs` | 4, 5 | 4 KiB, 2 MiB, 1 GiB |
//! | [`Aarch64`], [`Aarch64Stage2`] | `format/aarch64.rs` | 1 to 5 | by granule: 4 KiB, 2 MiB, 1 GiB, 512 GiB; 16 KiB, 32 MiB, 64 GiB; 64 KiB, 512 MiB, 4 TiB |
//! | [`S390x`] | `format/s390x.rs` | 2 to 5 | 4 KiB, 1 MiB, 2 GiB |
//! | [`PowerRadix`] | `format/power_radix.rs` | as the entries say, 6 at most | 4 KiB, 64 KiB, 2 MiB, 1 GiB |
//!
//! ```
//! use pinfold_arch::{Entry, PageFormat, PhysAddr, X86_64};
//!
//! let format = X86_64::new(4, 46)?;
//! let root = format.root(0x1000)?;
//! // A present, writable, user entry of the root table points to the next table at 0x2000.
//! let Entry::Table(next, _) = format.decode(&root, 0x2007) else { panic!() };
//! assert_eq!(next.base, PhysAddr::new(0x2000));
//! assert_eq!(next.shift.raw(), 30);
//! # Ok::<(), pinfold_arch::FormatError>(())
//! ```
//!
//! The tables of IOMMUs are formats of their own kind, [`IoFormat`]:
//!
//! | format | module | levels | leaves |
//! |---|---|---|---|
//! | [`Tce`] (POWER) | `ioformat/tce.rs` | 1 to 5 | one size, 4 KiB to 16 GiB |
//! | [`Vtd`] (Intel) | `ioformat/vtd.rs` | 3 to 5 | 4 KiB, 2 MiB, 1 GiB |
//! | [`AmdVi`] | `ioformat/amdvi.rs` | 1 to 6 | every power of two from 4 KiB |
//! | [`Smmu`] (Arm, both stages) | `ioformat/smmu.rs` | 1 to 5 | as the granule has them, and contiguous groups |
//! | [`Zpci`] (s390) | `ioformat/zpci.rs` | 2 to 5 | 4 KiB |
//!
//! The modules, each using only those above it: [`addr`], [`rights`], [`format`](mod@format),
//! [`ioformat`], [`cpu`].

#![no_std]
#![warn(clippy::missing_errors_doc, clippy::cast_possible_truncation)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(test)]
extern crate std;

#[cfg(not(all(target_pointer_width = "64", target_has_atomic = "64")))]
compile_error!("pinfold needs a 64-bit target with 64-bit atomics");

pub mod addr;
pub mod rights;

pub mod format;

pub mod ioformat;

pub mod cpu;

pub use addr::{AddrRange, Iova, Order, PageCount, PageShift, Pfn, PhysAddr, VirtAddr};
pub use format::aarch64::{Aarch64, Aarch64Stage2, Granule};
pub use format::any::AnyFormat;
pub use format::power_radix::PowerRadix;
pub use format::s390x::S390x;
pub use format::x86_64::X86_64;
pub use format::{EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageFormat, Table};
pub use ioformat::amdvi::AmdVi;
pub use ioformat::any::AnyIoFormat;
pub use ioformat::smmu::{Smmu, SmmuRoot};
pub use ioformat::tce::Tce;
pub use ioformat::vtd::Vtd;
pub use ioformat::zpci::Zpci;
pub use ioformat::{IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, LeafSizes};
pub use rights::{Access, Rights};
