//! Memory at the end of what a format can name, and entries in the way that say nothing sensible.

use pinfold::host::PhysMem;
use pinfold::iopt::{IoPageTable, IoRun, IoptError};
use pinfold::{Access, PhysAddr};
use pinfold_arch::{AnyIoFormat, EncodeError, Granule, IoFlags, Iova, Smmu, Vtd};
use pinfold_sim::TableMemory;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();

fn made(format: impl Into<AnyIoFormat>) -> (IoPageTable<AnyIoFormat>, TableMemory) {
    let memory = TableMemory::new(4 << 20);
    (IoPageTable::new(format.into(), &memory).unwrap(), memory)
}

/// The last page of a run has no place in an entry: known before anything is written.
#[test]
fn a_run_that_ends_beyond_all_addresses_is_refused() {
    let (table, memory) = made(Vtd::new(4, 46).unwrap());
    let beyond = PhysAddr::new(1 << 46);
    for pages in [2, 600] {
        let addr = PhysAddr::new(beyond.raw() - 0x1000);
        let run = IoRun { addr, bytes: pages << 12 };
        let error = table.map(&memory, Iova::new(0x1000), [run], RW, NONE).unwrap_err();
        let at = Iova::new(0x1000);
        let why = EncodeError::Address { addr: PhysAddr::new(addr.raw() + ((pages - 1) << 12)) };
        assert_eq!(error, IoptError::Encode { at, why });
        assert_eq!(memory.used(), 1);
    }
    let run = IoRun { addr: PhysAddr::new(beyond.raw() - 0x2000), bytes: 0x2000 };
    table.map(&memory, Iova::new(0x1000), [run], RW, NONE).unwrap();
}

/// With 64 KiB granules bits 51:48 of an address stand elsewhere in an entry: a run that crosses 2^48 leads to its
/// own pages on both sides.
#[test]
fn a_run_crosses_to_addresses_that_stand_elsewhere() {
    let granule = 1_u64 << 16;
    let format = Smmu::stage1(Granule::Size64K, 48, 52).unwrap();
    for (first, before, pages) in [(1, 3, 6), (0, 40, 100), (5, 37, 9000), (0, 1, 1), (3, 0, 70)] {
        let (table, memory) = made(format);
        let addr = (1_u64 << 48) - before * granule;
        let run = IoRun { addr: PhysAddr::new(addr), bytes: pages * granule };
        table.map(&memory, Iova::new(first * granule), [run], RW, NONE).unwrap();
        for page in 0..pages {
            let at = Iova::new((first + page) * granule + 7);
            let found = table.translate(&memory, at).unwrap().map(|found| found.addr.raw());
            assert_eq!(found, Some(addr + page * granule + 7), "{first}, {before}: page {page}");
        }
    }
    // Pages one by one, too.
    let (table, memory) = made(format);
    let page = |page: u64| IoRun { addr: PhysAddr::new((page << 48) + granule), bytes: granule };
    table.map(&memory, Iova::new(0), (0..16).map(page), RW, NONE).unwrap();
    for at in 0..16 {
        let found = table.translate(&memory, Iova::new(at * granule)).unwrap().unwrap();
        assert_eq!(found.addr, page(at).addr);
    }
}

/// In the middle of what is to be mapped stands an entry that no table holds: it stays, and nothing else does.
#[test]
fn a_malformed_entry_is_in_the_way() {
    let (table, memory) = made(Vtd::new(3, 46).unwrap());
    let (memory, page) = (&memory, |page: u64| Iova::new(page << 12));
    let run = |first: u64, pages: u64| IoRun {
        addr: PhysAddr::new((1 << 36) + (first << 12)),
        bytes: pages << 12,
    };
    table.map(memory, page(0), [run(0, 1)], RW, NONE).unwrap();
    let mut lowest = None;
    let each = |visited: &pinfold::iopt::Visited| {
        lowest = Some(visited.table);
        pinfold::host::Flow::Continue
    };
    table.visit(memory, pinfold::IovaRange::new(page(0), 1).unwrap(), each).unwrap();
    let lowest = lowest.unwrap();
    let view = memory.table(lowest.base, lowest.entries() as usize).unwrap();
    // Beyond the host's addresses.
    let raw = 1_u64 << 51 | 3;
    for place in [1_u64, 8, 13, 24, 29] {
        let was = view.swap(place as usize, raw.to_le()).unwrap();
        let mapped = table.map(memory, page(1), [run(6, 30)], RW, NONE);
        assert_eq!(mapped, Err(IoptError::Corrupt { at: page(place), raw }));
        assert_eq!(view.swap(place as usize, was), Some(raw.to_le()));
        assert!((1..32).all(|entry| view.load(entry) == Some(was)), "nothing is mapped");
    }
    table.map(memory, page(1), [run(6, 30)], RW, NONE).unwrap();
}
