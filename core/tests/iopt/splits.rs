//! Splitting leaves that are in use.

use std::cell::Cell;

use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::iopt::{IoPageTable, IoRun, IoptError};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AmdVi, Granule, IoFlags, IoFormat, Iova, Smmu, Vtd};
use pinfold_sim::TableMemory;

const HUGE: u64 = 2 << 20;
const GIANT: u64 = 1 << 30;

/// Tables with one run mapped to the same addresses.
fn mapped<F: IoFormat>(format: F, start: u64, bytes: u64) -> (IoPageTable<F>, TableMemory) {
    let memory = TableMemory::new(4 << 20);
    let table = IoPageTable::new(format, &memory).unwrap();
    map(&table, &memory, start, bytes);
    (table, memory)
}

fn map<F: IoFormat>(table: &IoPageTable<F>, memory: &TableMemory, start: u64, bytes: u64) {
    let run = IoRun { addr: PhysAddr::new(start), bytes };
    table.map(memory, Iova::new(start), [run], Access::all(), IoFlags::empty()).unwrap();
}

fn split<F: IoFormat>(
    table: &IoPageTable<F>,
    memory: &TableMemory,
    start: u64,
    last: u64,
) -> Result<(), IoptError> {
    let range = IovaRange::between(Iova::new(start), Iova::new(last)).unwrap();
    table.split(memory, range)
}

fn size<F: IoFormat>(table: &IoPageTable<F>, memory: &TableMemory, at: u64) -> u8 {
    let found = table.translate(memory, Iova::new(at)).unwrap().unwrap();
    assert_eq!(found.addr, PhysAddr::new(at));
    found.shift.raw()
}

fn indivisible(at: u64, shift: PageShift) -> Result<(), IoptError> {
    Err(IoptError::Indivisible { at: Iova::new(at), shift })
}

/// Both ends are looked at before one is split: here one can be, and the other, of several entries, cannot.
#[test]
fn if_one_end_cannot_be_split_neither_is() {
    let (table, memory) = mapped(AmdVi::new(3).unwrap(), HUGE, HUGE);
    map(&table, &memory, 4 * HUGE, 0x8000);
    let (used, group) = (memory.used(), PageShift::new(15).unwrap());
    let refused = indivisible(4 * HUGE, group);
    assert_eq!(split(&table, &memory, HUGE + 0x1000, 4 * HUGE + 0xfff), refused);
    map(&table, &memory, 0x8000, 0x8000);
    let refused = indivisible(0x8000, group);
    assert_eq!(split(&table, &memory, 0x9000, HUGE + 0xfff), refused);
    let sizes = [0x8000, HUGE, 4 * HUGE].map(|at| size(&table, &memory, at));
    assert_eq!((sizes, memory.used()), ([15, 21, 15], used + 1));
    split(&table, &memory, HUGE + 0x1000, 4 * HUGE + 0x7fff).unwrap();
    assert_eq!([HUGE, 2 * HUGE - 1].map(|at| size(&table, &memory, at)), [12, 12]);
}

/// Down to the smallest size that the range needs, and no further.
#[test]
fn a_leaf_is_split_as_often_as_the_range_needs() {
    let (table, memory) = mapped(Vtd::new(4, 46).unwrap(), GIANT, GIANT);
    split(&table, &memory, GIANT, 2 * GIANT - 1).unwrap();
    assert_eq!((size(&table, &memory, GIANT), memory.used()), (30, 2));
    split(&table, &memory, GIANT + HUGE, 2 * GIANT - 0x1001).unwrap();
    let at = [GIANT, GIANT + HUGE, 2 * GIANT - HUGE - 1, 2 * GIANT - HUGE, 2 * GIANT - 1];
    assert_eq!(at.map(|at| size(&table, &memory, at)), [21, 21, 21, 12, 12]);
}

/// No leaf of 2 MiB is there to make one of 1 GiB of.
#[test]
fn a_size_that_is_missing_in_between_cannot_be_passed() {
    let format = Vtd::new(4, 46).unwrap().with_leaves(false, true);
    let (table, memory) = mapped(format, GIANT, GIANT);
    let used = memory.used();
    let refused = indivisible(GIANT, PageShift::SIZE_1G);
    assert_eq!(split(&table, &memory, GIANT, GIANT + 0xfff), refused);
    assert_eq!((size(&table, &memory, GIANT), memory.used()), (30, used));
}

/// Arm's rule is to break a leaf before a table comes in its place, but for those that say they need not.
#[test]
fn formats_that_cannot_are_left_alone() {
    let smmu = Smmu::stage1(Granule::Size4K, 39, 44).unwrap();
    let (table, memory) = mapped(smmu, HUGE, HUGE);
    let used = memory.used();
    let refused = indivisible(HUGE, PageShift::SIZE_2M);
    assert_eq!(split(&table, &memory, HUGE, HUGE + 0xfff), refused);
    assert_eq!((size(&table, &memory, HUGE), memory.used()), (21, used));
    let (table, memory) = mapped(smmu.with_bbml2(true), HUGE, HUGE);
    split(&table, &memory, HUGE, HUGE + 0xfff).unwrap();
    assert_eq!(size(&table, &memory, HUGE), 12);
}

/// A table is put in place of the leaf that it says the same as, and of no other.
#[test]
fn a_corrupt_entry_is_not_split() {
    let (table, memory) = mapped(Vtd::new(3, 46).unwrap(), GIANT, GIANT);
    let top = memory.table(table.root().base, 512).unwrap();
    let raw = 1_u64 << 62 | 3;
    top.store(1, raw.to_le()).unwrap();
    let corrupt = Err(IoptError::Corrupt { at: Iova::new(GIANT), raw });
    assert_eq!(split(&table, &memory, GIANT, GIANT + 0xfff), corrupt);
    assert_eq!((top.load(1), memory.used()), (Some(raw.to_le()), 1));
}

/// A device that writes to a page at the very moment when a table is made to take its place.
struct Busy {
    memory: TableMemory,
    /// The table and the entry that it goes through, once.
    goes_through: Cell<Option<(PhysAddr, usize)>>,
}

impl PhysMem for Busy {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.memory.table(base, entries)
    }
}

impl Wait for Busy {
    fn pause(&self, progress: Progress) -> Flow {
        self.memory.pause(progress)
    }
}

impl IoTables for Busy {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        if let Some((base, entry)) = self.goes_through.take() {
            let view = self.memory.table(base, 512).unwrap();
            let dirty = 1_u64 << 9;
            view.store(entry, view.load(entry).unwrap() | dirty.to_le()).unwrap();
        }
        self.memory.allocate(bytes)
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        self.memory.free(table, bytes);
    }
}

/// The pieces are made once more, and all have the mark that came in between.
#[test]
fn a_mark_that_comes_in_between_is_not_lost() {
    let busy = Busy { memory: TableMemory::new(1 << 20), goes_through: Cell::new(None) };
    let format = Vtd::new(3, 46).unwrap().with_marks(true).unwrap();
    let table = IoPageTable::new(format, &busy).unwrap();
    map(&table, &busy.memory, GIANT, GIANT);
    assert!(table.start_tracking(&busy).is_ok());
    busy.goes_through.set(Some((table.root().base, 1)));
    let range = |bytes| IovaRange::new(Iova::new(GIANT), bytes).unwrap();
    table.split(&busy, range(HUGE)).unwrap();
    assert_eq!((table.tables(), busy.memory.used()), (2, 2));
    assert_eq!(size(&table, &busy.memory, GIANT), 21);
    let mut written = 0;
    let harvest = table.dirty(&busy, range(GIANT), |_| written += 1).unwrap();
    assert_eq!((harvest.dirty, written), (GIANT, 512));
}
