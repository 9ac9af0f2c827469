//! What the bench programs share: the [scene] that is measured, the [floors](floor) it is
//! measured against, and the [rounds] in which they take turns. The protocol and what each row
//! means stand in `benches/README.md`.
//!
//! Nothing here is timed but the engine and the floors: memory is [flat](memory), inputs are made
//! before, results are checked outside.

pub mod memory;

pub mod allocator;
pub mod machine;
pub mod rows;

pub mod rounds;

pub mod floor;
pub mod scene;
