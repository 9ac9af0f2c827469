//! The C interface of [`pinfold`]: host pins, regions, and their translation.
//!
//! What C programs see is `include/pinfold.h`, which is generated from the documentation here; the
//! sources are written for its readers. Rust programs use [`pinfold`] itself.
//!
//! Modules import only modules above them in this file.

#![no_std]
#![warn(clippy::missing_errors_doc, clippy::cast_possible_truncation)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "std")]
extern crate std;

pub mod status;
pub mod version;

mod pointer;

mod memory;

pub mod ops;

mod host;
mod slots;

pub mod engine;
pub mod region;

pub mod realmode;
pub mod registry;

#[cfg(all(feature = "panic-handler", not(feature = "std")))]
mod panic;
