//! What all tables of a machine share.

use pinfold_arch::PhysAddr;

use crate::dma::{Dma, TRANSFER};
use crate::memory::Memory;
use crate::report::Report;

/// The words of one transfer.
pub(super) const WORDS: usize = (TRANSFER / 8) as usize;
/// What one transfer moves.
pub(super) type Words = [u64; WORDS];

/// Memory, the device and the report.
#[derive(Debug)]
pub struct Stage<'m, 'c> {
    /// Memory.
    pub memory: &'m Memory,
    /// The device.
    pub device: &'c mut dyn Dma,
    /// What was found.
    pub report: Report<'c>,
    seed: u64,
}

impl<'m, 'c> Stage<'m, 'c> {
    /// Nothing was tried so far.
    #[must_use]
    pub const fn new(memory: &'m Memory, device: &'c mut dyn Dma, report: Report<'c>) -> Self {
        Self { memory, device, report, seed: 0 }
    }

    /// The device itself, while no IOMMU is in its way.
    pub fn without_iommu(&mut self) {
        let (from, to) = (self.memory.window(), PhysAddr::new(self.memory.window().raw() + 4096));
        let words = self.fresh();
        self.memory.store(from, words);
        self.device.read(from.raw());
        self.device.write(to.raw());
        let arrived = self.memory.load(to) == Some(words);
        self.report.check(arrived, format_args!("without an IOMMU the device copies memory"));
    }

    /// Words that were never there before.
    pub(super) fn fresh(&mut self) -> Words {
        core::array::from_fn(|_| {
            // SplitMix64: no two of them are alike.
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.seed ^ self.seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        })
    }
}
