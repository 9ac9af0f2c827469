//! The calls of pinfold that map and unmap, in one place.

use std::hint::black_box;

use pinfold::host::IoTables;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange};
use pinfold_arch::{IoFlags, IoFormat, Iova};

/// Runs that a step of unmap hands out at most.
pub const RUNS: usize = 512;

/// Tables that map nothing.
///
/// # Panics
/// If there is no memory.
pub fn empty<F: IoFormat, T: IoTables>(format: F, tables: &T) -> IoPageTable<F> {
    IoPageTable::new(format, tables).expect("memory for a table")
}

/// Maps runs, for reading and writing.
///
/// # Errors
/// If something is mapped there already, or another one of [`IoptError`].
pub fn map<F: IoFormat, T: IoTables>(
    table: &IoPageTable<F>,
    tables: &T,
    iova: u64,
    runs: impl IntoIterator<Item = IoRun, IntoIter: Clone>,
) -> Result<(), IoptError> {
    table.map(tables, Iova::new(iova), runs, Access::all(), IoFlags::empty())
}

/// Unmaps a range, in steps of [`RUNS`] at most, and hands out what was there. The IOMMU forgets at once.
///
/// # Panics
/// If that fails.
pub fn unmap<F: IoFormat, T: IoTables>(
    table: &IoPageTable<F>,
    tables: &T,
    iova: u64,
    bytes: u64,
    mut each: impl FnMut(&UnmappedRun),
) {
    let range = IovaRange::new(Iova::new(iova), bytes).expect("a range");
    let mut runs = heapless::Vec::<UnmappedRun, RUNS>::new();
    let mut unmap = table.unmap(tables, range).expect("a range that the format translates");
    while let Some(unmapped) = unmap.step(tables, &mut runs).expect("tables in memory") {
        black_box(unmapped.range());
        let quiesced = unmapped.flushed(tables);
        quiesced.runs().iter().for_each(&mut each);
    }
}
