//! Who builds tables that map a range of memory, and takes it out again: pinfold, the least that a program
//! can do, and other crates.
//!
//! All of them have their tables in a [pool](crate::pool) of their own, and each clears a table that it
//! takes. The other crates go from the top for every page, as their interface has it, or in a pass of
//! their own.

use pinfold::PageShift;
use pinfold::sync::Word;

mod aarch64_paging;
#[cfg(target_arch = "x86_64")]
mod multiarch;
mod pinfold_tables;
mod x86_64;

pub mod calls;
pub mod floor;

pub use aarch64_paging::Aarch64Paging;
#[cfg(target_arch = "x86_64")]
pub use multiarch::Multiarch;
pub use pinfold_tables::{Pinfold, allocator_calls};
pub use x86_64::X86_64;

use crate::scene::BASE;

/// What is mapped: memory that is contiguous for the device, and for the machine if it is not scattered.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Where it begins for the device.
    pub iova: u64,
    /// Where it begins in memory.
    pub addr: u64,
    /// How much.
    pub bytes: u64,
    /// The leaves that map it: both addresses are multiples of this, and of no larger size at the same time.
    pub leaf: PageShift,
    /// What one entry maps: less than a leaf where several make one.
    pub entry: PageShift,
    /// Whether every leaf is a run of its own: no two that follow each other are neighbours in memory.
    pub scattered: bool,
}

/// Where memory begins: at a multiple of any leaf.
const ADDR: u64 = 1 << 40;

impl Job {
    /// So many bytes (a power of two, and what is before them is not mapped) in leaves of a size, and in no
    /// larger ones whatever the format has.
    #[must_use]
    pub const fn new(bytes: u64, leaf: PageShift) -> Self {
        Self { iova: bytes, addr: ADDR + leaf.bytes(), bytes, leaf, entry: leaf, scattered: false }
    }

    /// The same where an entry maps so much.
    #[must_use]
    pub const fn with_entry(self, entry: PageShift) -> Self {
        Self { entry, ..self }
    }

    /// The same memory, scattered.
    #[must_use]
    pub const fn scattered(self) -> Self {
        Self { scattered: true, ..self }
    }

    /// Leaves.
    #[must_use]
    pub const fn leaves(&self) -> u64 {
        self.bytes >> self.leaf.raw()
    }

    /// Entries of all leaves.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.bytes >> self.entry.raw()
    }

    /// Bytes that hold its tables in any format, also in one that is a single flat table from 0 on, wherever
    /// the next multiple of its size is.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        4 * (self.bytes >> BASE.raw()) * 8 + (1 << 20)
    }

    /// Device address and address of each leaf.
    pub fn each(&self) -> impl Iterator<Item = (u64, u64)> + Clone + use<> {
        let Self { iova, addr, leaf, scattered, .. } = *self;
        (0..self.leaves()).map(move |number| {
            // Each two change places.
            let place = number ^ u64::from(scattered);
            (iova + (number << leaf.raw()), addr + (place << leaf.raw()))
        })
    }
}

/// Who maps a job, all of it in one go.
pub trait Mapper {
    /// What is mapped.
    fn job(&self) -> Job;

    /// Forgets all tables, and takes a top table that maps nothing.
    fn clear(&mut self);

    /// Maps the job in tables that have nothing there.
    fn map(&mut self);

    /// The entries of the job's leaves, in order of address, after it was mapped in new tables.
    fn entries(&self) -> &[Word];

    /// Where a device address leads.
    fn translate(&self, iova: u64) -> Option<u64>;

    /// Looks closely: nothing is mapped, or each leaf, and nothing beside.
    ///
    /// # Panics
    /// If that is not so.
    fn check(&self, mapped: bool) {
        let job = self.job();
        for (iova, addr) in job.each() {
            assert_eq!(self.translate(iova), mapped.then_some(addr), "{iova:#x}");
        }
        assert_eq!(self.translate(job.iova - 1), None);
        assert_eq!(self.translate(job.iova + job.bytes), None);
    }
}

/// Who can take a job out again, too.
pub trait Unmapper: Mapper {
    /// Takes out what was mapped: the sum of the addresses of all leaves.
    fn unmap(&mut self) -> u64;
}

/// The sum of the addresses of consecutive leaves.
#[must_use]
pub fn sum_of(first: u64, leaves: u64, leaf: PageShift) -> u64 {
    let steps = (leaves.wrapping_mul(leaves.wrapping_sub(1)) / 2) << leaf.raw();
    first.wrapping_mul(leaves).wrapping_add(steps)
}
