//! What a program without an operating system needs to prove pinfold's IOMMU tables: an emulated IOMMU, a
//! device whose DMA goes through it, and a [`scenario`] that says what must arrive where.
//!
//! The scenario knows formats and IOMMUs by traits only: [`IoFormat`](pinfold_arch::IoFormat) and
//! [`Iommu`](iommu::Iommu). Which machine there is, how it starts, prints and ends, is in the program
//! (`main.rs`) with one folder an architecture. Nothing in here is for one CPU, so all of it is checked
//! wherever the workspace is.
//!
//! A register that does not answer, or memory that runs out, ends the program: it panics, and its
//! exit code says so.

#![no_std]

pub mod dma;
pub mod edu;
pub mod iommu;
pub mod memory;
pub mod pci;
pub mod registers;
pub mod report;
pub mod scenario;
