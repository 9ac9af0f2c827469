//! Tables that map nothing any more, taken out behind the back of those who keep pointers to them.

use pinfold::host::{Flow, FlushError, IoTlb, PhysMem};
use pinfold::iopt::Visited;
use pinfold::{DomainError, ErrorKind};
use pinfold_arch::{IoEntry, IoFormat};
use pinfold_sim::tlb::Asked;

use pinfold::domain::TlbId;

use super::flushes::{attach, unmap};
use super::*;

/// A domain of tables that somebody else has made: nothing is mapped there but a page, for which three tables are
/// below the top one.
fn opened<'d>(
    memory: &TableMemory,
    hardware: &'d Hardware<'_>,
    devices: &'d [AtsDevice<'_, Vtd>; 2],
) -> (Domain<'d, Vtd>, Vec<TlbId>) {
    let made = IoPageTable::new(format(), memory).unwrap();
    made.map(memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    let table = IoPageTable::open(format(), memory, made.root().base).unwrap();
    assert_eq!((table.tables(), memory.used()), (4, 4));
    attach(Domain::new(table), hardware, devices)
}

/// All that the tables translate.
fn all(domain: &Domain<'_, Vtd>) -> IovaRange {
    IovaRange::between(Iova::new(0), domain.table().format().last()).unwrap()
}

#[test]
fn tables_of_others_are_unmapped_and_trimmed() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let (mut domain, ids) = opened(&memory, &hardware, &devices);
    let there = Ok(PhysAddr::new(MEMORY + 8));
    assert_eq!(answers(&hardware, &devices, iova(8)), [there; 4]);
    domain.trim(&memory).unwrap();
    assert_eq!(memory.used(), 4, "a page is mapped in the lowest");
    unmap(&domain, &memory, range(0, 0x1000));
    assert_eq!(memory.used(), 4, "the range is no whole table");
    drop(journal.take());
    domain.trim(&memory).unwrap();
    let begin = Asked::Invalidate(all(&domain), Kept::Tables);
    let all_of = |who: [&'static str; 2]| {
        [begin, Asked::Complete].map(|what| who.map(|who| (who, what))).concat()
    };
    let order = [all_of(["iommu 1", "iommu 2"]), all_of(["device 1", "device 2"])].concat();
    assert_eq!(journal.take(), order);
    assert_eq!((memory.used(), domain.table().tables()), (1, 1));
    assert_eq!(answers(&hardware, &devices, iova(8)), [blocked(iova(8)); 4]);
    for id in ids {
        domain.detach(id).unwrap();
    }
    domain.destroy(&memory).unwrap();
    assert_eq!(memory.used(), 0);
}

/// What somebody may still walk through is not given back, and counted, until a trim is flushed.
#[test]
fn tables_that_could_not_be_flushed_are_kept() {
    for nth in 1.. {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let (mut domain, _) = opened(&memory, &hardware, &devices);
        answers(&hardware, &devices, iova(0));
        unmap(&domain, &memory, range(0, 0x1000));
        journal.fail(nth);
        let before = journal.len();
        let trimmed = domain.trim(&memory);
        if journal.len() < before + nth {
            assert_eq!((trimmed, nth), (Ok(()), 9), "there are eight calls");
            return;
        }
        journal.fail(0);
        assert_eq!(trimmed, Err(DomainError::NotFlushed { range: all(&domain) }));
        assert_eq!((domain.table().unflushed(), domain.table().tables()), (1, 4));
        assert_eq!(memory.used(), 4);
        // Who goes on walking the old tables comes to no harm; what is new is found beside them.
        assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
        domain.flush(all(&domain), Kept::Tables).unwrap();
        domain.map(&memory, iova(0), [run(0x5000, 0x1000)], RW, NONE).unwrap();
        let there = Ok(PhysAddr::new(MEMORY + 0x5000));
        assert_eq!(answers(&hardware, &devices, iova(0)), [there; 4]);
        assert_eq!(memory.used(), 7);
        unmap(&domain, &memory, range(0, 0x1000));
        domain.trim(&memory).unwrap();
        assert_eq!((domain.table().unflushed(), memory.used()), (0, 1));
    }
}

/// The tables below the top one, those above before those below.
fn tables_of(domain: &Domain<'_, Vtd>, memory: &TableMemory) -> Vec<PhysAddr> {
    let mut tables = Vec::new();
    let each = |visited: &Visited| {
        if let IoEntry::Table(next, _) = visited.entry {
            tables.push(next.base);
        }
        Flow::Continue
    };
    domain.table().visit(memory, all(domain), each).unwrap();
    tables
}

/// Somebody writes to a table that was taken out, while it is being flushed.
struct Vandal<'m>(&'m TableMemory, PhysAddr);

impl IoTlb for Vandal<'_> {
    fn invalidate(&self, _: IovaRange, _: Kept) -> Result<(), FlushError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), FlushError> {
        let table = self.0.table(self.1, 512).unwrap();
        table.store(0, (MEMORY | 3).to_le()).ok_or(FlushError)
    }
}

/// Then what its list names behind it is not given back: two of the lowest, here.
#[test]
fn what_was_written_to_is_not_given_back() {
    for trims in [true, false] {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let (domain, _) = opened(&memory, &hardware, &devices);
        domain.map(&memory, iova(HUGE), [run(0, 0x1000)], RW, NONE).unwrap();
        unmap(&domain, &memory, range(0, 0x1000));
        unmap(&domain, &memory, range(HUGE, 0x1000));
        let tables = tables_of(&domain, &memory);
        assert_eq!((tables.len(), memory.used()), (4, 5));
        let vandal = Vandal(&memory, tables[3]);
        let table = past(&domain, &memory);
        let mut domain: Domain<'_, Vtd> = Domain::new(table);
        domain.attach_iommu(&vandal).unwrap();
        let error = if trims {
            domain.trim(&memory).unwrap_err()
        } else {
            let mut runs = Runs::new();
            let mut step = domain.table().unmap(&memory, all(&domain)).unwrap();
            let unmapped = step.step(&memory, &mut runs).unwrap().unwrap();
            domain.finish(&memory, unmapped).unwrap().tables().unwrap_err().into()
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!((memory.used(), domain.table().tables()), (3, 3));
    }
}
