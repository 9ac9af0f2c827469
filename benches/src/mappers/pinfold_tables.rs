//! pinfold's tables, in any format.

use pinfold::PhysAddr;
use pinfold::iopt::{IoPageTable, IoRun, IoptError};
use pinfold::sync::Word;
use pinfold_arch::{IoEntry, IoFormat, Iova};

use super::calls::{empty, map, unmap};
use super::floor::Entries;
use super::{Job, Mapper, Unmapper, sum_of};
use crate::allocator;
use crate::pool::TablePool;

/// pinfold's tables for a job, in memory of the pool.
#[derive(Debug)]
pub struct Pinfold<F> {
    format: F,
    job: Job,
    pool: TablePool,
    table: IoPageTable<F>,
}

impl<F: IoFormat> Pinfold<F> {
    /// Tables that map nothing yet.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn new(format: F, job: Job) -> Self {
        let pool = TablePool::new(job.table_bytes());
        let table = empty(format, &pool);
        Self { format, job, pool, table }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> F {
        self.format
    }

    /// The entries that [`map`](Mapper::map) wrote, to be stored by somebody else.
    ///
    /// # Panics
    /// If it was not called, or the job is one leaf.
    #[must_use]
    pub fn ready(&self) -> Entries {
        let mut table = self.format.top(PhysAddr::new(0));
        while table.shift > self.job.entry {
            table = self.format.below(&table, table.base).expect("a level with such entries");
        }
        let absent = self.format.encode(&table, 0, IoEntry::Absent);
        let absent = absent.expect("every format has absent entries");
        Entries::like(self.entries(), self.format.big_endian(), absent)
    }

    /// Maps the job, in the tables that there are.
    ///
    /// # Panics
    /// If something is mapped there.
    #[inline(never)]
    pub fn map_once(&self) {
        let mapped = if self.job.scattered {
            map(&self.table, &self.pool, self.job.iova, self.leaves().map(|(_, run)| run))
        } else {
            let run = IoRun { addr: PhysAddr::new(self.job.addr), bytes: self.job.bytes };
            map(&self.table, &self.pool, self.job.iova, [run])
        };
        mapped.expect("memory that is not mapped yet");
    }

    /// Each leaf as a run of its own, and its device address.
    fn leaves(&self) -> impl Iterator<Item = (u64, IoRun)> + Clone + use<F> {
        let bytes = self.job.leaf.bytes();
        self.job.each().map(move |(iova, addr)| (iova, IoRun { addr: PhysAddr::new(addr), bytes }))
    }

    /// Maps the job leaf by leaf, with a call each, in the tables that there are.
    ///
    /// # Panics
    /// If something is mapped there.
    #[inline(never)]
    pub fn map_each(&self) {
        for (iova, run) in self.leaves() {
            let mapped = map(&self.table, &self.pool, iova, [run]);
            mapped.expect("a page that is not mapped yet");
        }
    }
}

/// How often mapping a job at once, unmapping it and mapping it leaf by leaf call the allocator.
#[must_use]
pub fn allocator_calls<F: IoFormat>(format: F, job: Job) -> u64 {
    let mut tables = Pinfold::new(format, job);
    allocator::calls(|| {
        tables.map_once();
        assert_eq!(tables.unmap(), sum_of(job.addr, job.leaves(), job.leaf));
        tables.map_each();
        assert!(tables.translate(job.iova).is_some());
        tables.unmap();
    })
}

impl<F: IoFormat> Mapper for Pinfold<F> {
    fn job(&self) -> Job {
        self.job
    }

    fn clear(&mut self) {
        self.pool.reset();
        self.table = empty(self.format, &self.pool);
    }

    fn map(&mut self) {
        self.map_once();
    }

    fn entries(&self) -> &[Word] {
        self.pool.last_words(self.job.entries())
    }

    fn translate(&self, iova: u64) -> Option<u64> {
        match self.table.translate(&self.pool, Iova::new(iova)) {
            Err(IoptError::OutsideAperture { .. }) => None,
            found => found.expect("tables in memory").map(|found| found.addr.raw()),
        }
    }
}

impl<F: IoFormat> Unmapper for Pinfold<F> {
    #[inline(never)]
    fn unmap(&mut self) -> u64 {
        let Job { iova, bytes, leaf, .. } = self.job;
        let mut sum = 0_u64;
        unmap(&self.table, &self.pool, iova, bytes, |run| {
            sum = sum.wrapping_add(sum_of(run.addr.raw(), run.bytes >> leaf.raw(), leaf));
        });
        sum
    }
}
