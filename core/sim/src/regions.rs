//! Scripts for a registry: regions are registered, shared, mapped, removed and reclaimed as bytes
//! say, and after every step the registry is compared with a plain list.
//!
//! What the fuzz target `registry`, the replay of its corpus and the property tests run.

mod garbage;
mod model;
mod play;
mod register;

use play::Play;

/// What a script came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Regions that were registered.
    pub registered: u64,
    /// Regions that were registered once more.
    pub shared: u64,
    /// Registrations that were refused because another region was in the way.
    pub overlapped: u64,
    /// Registrations that lacked room for a node.
    pub no_space: u64,
    /// Registrations that failed because the host did.
    pub failed: u64,
    /// Regions that were removed.
    pub removed: u64,
    /// Removals that were refused because the region was mapped.
    pub busy: u64,
    /// Nodes of the directory, the most at any time.
    pub nodes: u64,
}

/// Plays a script. Bytes 0..4 choose the window and how much there is of everything; each step is
/// four bytes: what is done, and to which pages or which region.
///
/// # Panics
/// If the registry says or does anything but what it must.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let Some((head, steps)) = input.split_first_chunk() else { return Outcome::default() };
    play::with(head, |mut play: Play<'_>| {
        for step in steps.chunks_exact(4) {
            play.step([step[0], step[1], step[2], step[3]]);
        }
        play.end()
    })
}
