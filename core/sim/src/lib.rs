//! A machine in ordinary memory.

pub mod snapshot;
