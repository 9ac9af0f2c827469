//! Hosts that give tables where none can be, and trees that lead to one twice.

use std::sync::Mutex;

use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::iopt::{IoPageTable, IoRun, IoptError};
use pinfold::{Access, PhysAddr};
use pinfold_arch::{AmdVi, Granule, IoFlags, IoFormat, Iova, Smmu, Vtd};
use pinfold_sim::TableMemory;

/// Memory that is reached also after it was given back, like a kernel's.
struct Host {
    memory: TableMemory,
    /// What the next allocation gives, in place of a table.
    gives: Mutex<Option<u64>>,
    /// How much was asked for, and what came back.
    asked: Mutex<Vec<u64>>,
    freed: Mutex<Vec<PhysAddr>>,
}

impl Host {
    fn new() -> Self {
        let (gives, asked, freed) = Default::default();
        Self { memory: TableMemory::new(1 << 20), gives, asked, freed }
    }

    fn freed(&self) -> Vec<PhysAddr> {
        std::mem::take(&mut self.freed.lock().unwrap())
    }
}

impl PhysMem for Host {
    /// At odd addresses is memory, too.
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let odd = base.raw() == 0 || !base.raw().is_multiple_of(0x1000);
        let base = if odd { PhysAddr::new(0x4000_0000) } else { base };
        self.memory.table(base, entries)
    }
}

impl Wait for Host {
    fn pause(&self, _: Progress) -> Flow {
        Flow::Continue
    }
}

impl IoTables for Host {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.asked.lock().unwrap().push(bytes);
        let gives = self.gives.lock().unwrap().take();
        gives.map(PhysAddr::new).or_else(|| self.memory.allocate(bytes))
    }

    fn free(&self, table: PhysAddr, _: u64) {
        let mut freed = self.freed.lock().unwrap();
        assert!(!freed.contains(&table), "{table} comes back twice");
        freed.push(table);
    }
}

fn map<F: IoFormat>(table: &IoPageTable<F>, host: &Host, at: u64) -> Result<(), IoptError> {
    let run = IoRun { addr: PhysAddr::new(0x7000), bytes: 0x1000 };
    table.map(host, Iova::new(at), [run], Access::all(), IoFlags::empty())
}

/// At 0, off its alignment, outside memory: it goes back, and nothing has changed.
#[test]
fn a_table_that_is_none_goes_back() {
    let host = Host::new();
    let format = Vtd::new(3, 46).unwrap();
    let table = IoPageTable::new(format, &host).unwrap();
    for base in [0, 0x4000_0040, 0x9000_0000] {
        let corrupt = |at| IoptError::Corrupt { at: Iova::new(at), raw: base };
        let gives = || *host.gives.lock().unwrap() = Some(base);
        gives();
        let made = IoPageTable::new(format, &host);
        assert_eq!((made.map(drop), host.freed()), (Err(corrupt(0)), vec![PhysAddr::new(base)]));
        gives();
        assert_eq!(map(&table, &host, 0x5000), Err(corrupt(0x5000)));
        assert_eq!((host.freed(), table.tables()), (vec![PhysAddr::new(base)], 1));
    }
    map(&table, &host, 0x5000).unwrap();
    assert_eq!(table.tables(), 3);
    // Nor is one opened there.
    let odd = PhysAddr::new(table.root().base.raw() + 4);
    let opened = IoPageTable::open(format, &host, odd);
    assert_eq!(opened.map(drop), Err(IoptError::Corrupt { at: Iova::new(0), raw: odd.raw() }));
}

/// A table has a line of the cache to itself, however small it is.
#[test]
fn small_tables_have_a_line_of_their_own() {
    let host = Host::new();
    let smmu = Smmu::stage1(Granule::Size4K, 40, 44).unwrap();
    let table = IoPageTable::new(smmu, &host).unwrap();
    assert_eq!((table.root().bytes(), &host.asked.lock().unwrap()[..]), (16, &[64][..]));
    // And as much goes back.
    let memory = TableMemory::new(1 << 20);
    IoPageTable::new(smmu, &memory).unwrap().destroy(&memory).unwrap();
    assert_eq!(memory.used(), 0);
}

/// Levels that were made before memory ran out go back.
#[test]
fn a_tree_that_cannot_grow_stays_as_it_is() {
    for allocations in 0..=4 {
        let memory = TableMemory::new(1 << 20);
        let table = IoPageTable::new(AmdVi::new(2).unwrap(), &memory).unwrap();
        let root = table.root();
        memory.fail_after(allocations);
        let grown = table.grow(&memory, Iova::new(u64::MAX));
        if allocations == 4 {
            assert_eq!((grown, memory.used(), table.tables()), (Ok(()), 5, 5));
        } else {
            assert_eq!(grown, Err(IoptError::NoMemory));
            assert_eq!((table.root(), memory.used(), table.tables()), (root, 1, 1));
        }
    }
}

/// A link was overwritten, and leads out of memory: nothing is there that could be given back. Everything else is.
#[test]
fn what_was_never_given_is_not_given_back() {
    for lost in [0, 1] {
        let host = Host::new();
        let table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &host).unwrap();
        map(&table, &host, 0).unwrap();
        map(&table, &host, 1 << 30).unwrap();
        let (top, raw) = (host.table(table.root().base, 512).unwrap(), 0x9000_0003);
        top.store(lost, u64::to_le(raw)).unwrap();
        let destroyed = table.destroy(&host);
        assert_eq!(destroyed, Err(IoptError::Corrupt { at: Iova::new(0), raw }));
        let freed = host.freed();
        assert!(freed.len() == 3 && !freed.contains(&PhysAddr::new(0x9000_0000)), "{lost}");
    }
}

/// Somebody has let two entries lead to one table.
#[test]
fn no_table_goes_back_twice() {
    for trims in [true, false] {
        let host = Host::new();
        let mut table = IoPageTable::new(Vtd::new(3, 46).unwrap(), &host).unwrap();
        map(&table, &host, 0x5000).unwrap();
        let top = host.table(table.root().base, 512).unwrap();
        let middle = top.load(0).unwrap();
        if trims {
            let below = PhysAddr::new(u64::from_le(middle) & !0xfff);
            let lowest = host.table(below, 512).unwrap().load(0).unwrap();
            let lowest = PhysAddr::new(u64::from_le(lowest) & !0xfff);
            host.table(lowest, 512).unwrap().store(5, 0).unwrap();
        }
        top.store(9, middle).unwrap();
        if trims {
            table.trim(&host).flushed(&host).tables().unwrap();
            assert_eq!(host.freed().len(), 2);
        } else {
            assert!(matches!(table.destroy(&host), Err(IoptError::Corrupt { .. })));
            assert_eq!(host.freed().len(), 3);
        }
    }
}
