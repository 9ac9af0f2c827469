//! Row M7: what a host is told of lines of its caches that an IOMMU must find in memory.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use pinfold::PhysAddr;
use pinfold::host::{Flow, IoTables, PhysMem, Progress, SpinWait, TableView, Wait};
use pinfold::iopt::{IoRun, IoptError};
use pinfold::sync::Ordering;
use pinfold_arch::IoFormat;

use crate::mappers::Job;
use crate::mappers::calls::{empty, map, unmap};
use crate::pool::TablePool;

/// Words of a cache line.
const LINE: usize = 8;

/// Memory for tables, and the memory that an IOMMU sees that does not look into the caches: what was
/// told of.
#[derive(Debug)]
struct Incoherent {
    pool: TablePool,
    seen: RefCell<Vec<u64>>,
    /// Numbers of the lines, as often as they were told of.
    told: RefCell<Vec<usize>>,
    calls: Cell<u64>,
}

/// Lines of one job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lines {
    /// Calls of [`IoTables::written`].
    pub calls: u64,
    /// Lines in them, each as often as it is in one.
    pub told: usize,
    /// Different lines that changed.
    pub changed: usize,
    /// Whether every line that changed was told of.
    pub all: bool,
    /// Whether an IOMMU sees all that stands in the tables.
    pub seen: bool,
}

impl Incoherent {
    fn new(bytes: u64) -> Self {
        let pool = TablePool::new(bytes);
        let seen = RefCell::new(contents(&pool));
        Self { pool, seen, told: RefCell::default(), calls: Cell::new(0) }
    }

    /// What is told of during some work, and what changes.
    fn during<R>(&self, work: impl FnOnce() -> R) -> (Lines, R) {
        let before = contents(&self.pool);
        self.told.borrow_mut().clear();
        self.calls.set(0);
        let result = work();
        let after = contents(&self.pool);
        let lines = before.chunks(LINE).zip(after.chunks(LINE)).enumerate();
        let changed: HashSet<usize> =
            lines.filter(|(_, (before, after))| before != after).map(|(line, _)| line).collect();
        let told = self.told.borrow();
        let lines = Lines {
            calls: self.calls.get(),
            told: told.len(),
            changed: changed.len(),
            all: changed.is_subset(&told.iter().copied().collect()),
            seen: *self.seen.borrow() == after,
        };
        (lines, result)
    }
}

fn contents(pool: &TablePool) -> Vec<u64> {
    pool.words().iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

impl PhysMem for Incoherent {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.pool.table(base, entries)
    }
}

impl Wait for Incoherent {
    fn pause(&self, progress: Progress) -> Flow {
        SpinWait.pause(progress)
    }
}

impl IoTables for Incoherent {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.pool.allocate(bytes)
    }

    fn free(&self, _: PhysAddr, _: u64) {}

    fn written(&self, at: PhysAddr, bytes: u64) {
        self.calls.set(self.calls.get() + 1);
        if bytes == 0 {
            return;
        }
        let words = self.pool.number(at.raw())..=self.pool.number(at.raw() + bytes - 1);
        let mut seen = self.seen.borrow_mut();
        for line in words.start() / LINE..=words.end() / LINE {
            self.told.borrow_mut().push(line);
            for word in line * LINE..(line + 1) * LINE {
                seen[word] = self.pool.words()[word].load(Ordering::Relaxed);
            }
        }
    }
}

/// What is told of for a job in a format: mapped in new tables, in tables that are there, refused because its
/// last leaf is mapped, and unmapped with its tables.
///
/// # Panics
/// If a call does not do what it should.
#[must_use]
pub fn lines<F: IoFormat>(format: F, job: Job) -> [(&'static str, Lines); 4] {
    let tables = Incoherent::new(job.table_bytes());
    let table = empty(format, &tables);
    let run = |bytes| [IoRun { addr: PhysAddr::new(job.addr), bytes }];
    let leaf = job.leaf.bytes();

    // So that tables above the last ones are there.
    map(&table, &tables, job.iova - leaf, run(leaf)).expect("nothing is mapped");
    let all = || map(&table, &tables, job.iova, run(job.bytes));
    let (new, mapped) = tables.during(all);
    mapped.expect("nothing is mapped");

    // Half of what a table maps at a time, so that tables stay.
    for at in (0..job.bytes).step_by(pinfold_arch::addr::index(leaf * 16)) {
        unmap(&table, &tables, job.iova + at, leaf * 16, |_| {});
    }
    let (old, mapped) = tables.during(all);
    mapped.expect("nothing is mapped");

    for at in (0..job.bytes - leaf).step_by(pinfold_arch::addr::index(leaf)) {
        unmap(&table, &tables, job.iova + at, leaf, |_| {});
    }
    let (refused, mapped) = tables.during(all);
    assert!(matches!(mapped, Err(IoptError::Mapped { .. })), "{mapped:?}");

    map(&table, &tables, job.iova, run(job.bytes - leaf)).expect("all but the last leaf is free");
    let (out, ()) = tables.during(|| unmap(&table, &tables, job.iova, job.bytes, |_| {}));
    [
        ("mapped in new tables", new),
        ("mapped in tables that are there", old),
        ("refused at the last leaf", refused),
        ("unmapped", out),
    ]
}
