//! What the bench programs share: the [scene] that is measured, the [floors](floor) it is
//! measured against, the [regions] that are looked up and the [peers] that look them up too, and the
//! [rounds] in which they take turns. The protocol and what each row
//! means stand in `benches/README.md`.
//!
//! Nothing here is timed but the engine and the floors: memory is [flat](memory), inputs are made
//! before, results are checked outside.

pub mod memory;
pub mod pool;
pub mod random;

pub mod allocator;
pub mod machine;
pub mod rows;

pub mod beside;
pub mod rounds;

pub mod floor;
pub mod scene;
pub mod tables;

pub mod queries;

pub mod lines;
pub mod mappers;
pub mod peers;
pub mod regions;
pub mod walkers;
