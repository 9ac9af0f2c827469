//! Somebody is late: what is owed to it stays until the call is repeated, and then nothing is missing.

use pinfold::domain::{PinsError, TlbId};
use pinfold::host::{FlushError, PlainHost, SpaceId};
use pinfold::source::HostPins;
use pinfold::{Dirtied, DomainError, ErrorKind, PinRequest, PinTable};
use pinfold_arch::{AmdVi, IoFormat};

use super::flushes::{attached, made_with, unmap};
use super::pins::{Source, pages, words};
use super::*;

/// Outside three levels.
const BEYOND: Iova = Iova::new(1 << 40);

fn all<F: IoFormat>(domain: &Domain<'_, F>) -> IovaRange {
    IovaRange::between(Iova::new(0), domain.table().format().last()).unwrap()
}

type Grows<'d, 't> = (Domain<'d, AmdVi>, TlbId, &'d Iommu<'t, AmdVi>);

/// A domain of three levels, all of them tables, with an IOMMU that has read its way to a page; and it is growing, but
/// that fails: in telling of the new root, in beginning to forget the old one, or in waiting for that.
fn growing<'d, 't>(
    memory: &TableMemory,
    journal: &Journal,
    iommu: &'d Iommu<'t, AmdVi>,
    fails: u64,
) -> Grows<'d, 't> {
    let table = IoPageTable::new(AmdVi::new(3).unwrap(), memory).unwrap();
    let mut domain = Domain::new(table);
    let name = domain.attach_iommu(iommu).unwrap();
    iommu.enter(domain.table().format(), domain.table().root());
    domain.map(memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    assert_eq!(iommu.access(iova(0), true), Ok(PhysAddr::new(MEMORY)));
    unmap(&domain, memory, range(0, 0x1000));
    assert_eq!(memory.used(), 3);
    journal.fail(fails);
    let grown = match fails {
        0 => domain.grow(memory, BEYOND, |_, _| Err(FlushError)),
        _ => domain.grow(memory, BEYOND, |format, root| {
            iommu.enter(format, root);
            Ok(())
        }),
    };
    journal.fail(0);
    assert_eq!(grown, Err(DomainError::NotFlushed { range: all(&domain) }));
    assert_eq!(memory.used(), 4);
    (domain, name, iommu)
}

/// The IOMMU comes to no table that went back.
fn walks_in_tables((_, _, iommu): &Grows<'_, '_>) {
    for at in [0, 0x1000, HUGE, 1 << 30].map(iova) {
        assert_eq!(iommu.access(at, true), blocked(at));
    }
}

/// The growth succeeds at last, and all tables go back.
fn grown((mut domain, name, iommu): Grows<'_, '_>, memory: &TableMemory, lost: usize) {
    let retarget = |format, root| {
        iommu.enter(format, root);
        Ok::<(), FlushError>(())
    };
    domain.grow(memory, BEYOND, retarget).unwrap();
    domain.map(memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    assert_eq!(iommu.access(iova(0), true), Ok(PhysAddr::new(MEMORY)));
    unmap(&domain, memory, all(&domain));
    domain.trim(memory).unwrap();
    assert_eq!(memory.used(), 1 + lost);
    let grows = (domain, name, iommu);
    walks_in_tables(&grows);
    iommu.leave();
    let (mut domain, ..) = grows;
    domain.detach(name).unwrap();
    domain.destroy(memory).unwrap();
    assert_eq!(memory.used(), lost);
}

/// Somebody walks from the old top table until growth has come to its end: nothing is trimmed until then.
#[test]
fn nothing_is_trimmed_before_growth_has_come_to_its_end() {
    for fails in 0..3 {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let iommu = Iommu::new("iommu", &memory, &journal);
        let mut grows = growing(&memory, &journal, &iommu, fails);
        assert_eq!(grows.0.trim(&memory), Err(DomainError::Outgrown));
        assert_eq!(memory.used(), 4);
        walks_in_tables(&grows);
        grown(grows, &memory, 0);
    }
}

/// Nor is anything finished: the old top table can be unmapped as well.
#[test]
fn nothing_is_finished_before_growth_has_come_to_its_end() {
    for fails in 0..3 {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let iommu = Iommu::new("iommu", &memory, &journal);
        let grows = growing(&memory, &journal, &iommu, fails);
        let old = IovaRange::new(Iova::new(0), 1 << 39).unwrap();
        let mut runs = Runs::new();
        let mut step = grows.0.table().unmap(&memory, old).unwrap();
        let unmapped = step.step(&memory, &mut runs).unwrap().unwrap();
        let unflushed = grows.0.finish(&memory, unmapped).unwrap_err();
        assert_eq!(unflushed.error(), DomainError::Outgrown);
        assert_eq!(memory.used(), 4);
        walks_in_tables(&grows);
        // Who lets go of it leaves its three tables where they are.
        drop(unflushed);
        grown(grows, &memory, 3);
    }
}

/// Pins stay mapped until then, and are not stale for good: nothing is taken out that could not be given back. What
/// takes no table with it is finished at any time.
#[test]
fn pins_come_out_when_growth_has_come_to_its_end() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommu = Iommu::new("iommu", &memory, &journal);
    let (source, words) = (Source::new(&[(0x8_0000, 16)]), words(200));
    let (host, pins) = (HostPins::new(PlainHost, &source), PinTable::new(&words).unwrap());
    host.pin(SpaceId(0), &pins, &PinRequest::longterm(pages(16), RW)).unwrap();
    let (mut domain, _, iommu) = growing(&memory, &journal, &iommu, 0);
    domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    domain.map(&memory, iova(HUGE), [run(0, 0x1000)], RW, NONE).unwrap();
    unmap(&domain, &memory, range(HUGE, 0x1000));
    let mut runs = Runs::new();
    match domain.unmap_pins(&memory, iova(0), &pins, &mut runs) {
        Err(PinsError::Domain(error)) => {
            assert_eq!((error, error.kind()), (DomainError::Outgrown, ErrorKind::NotFlushed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((pins.mapped(), pins.stale()), (16 << 12, 0));
    assert!(host.unpin(&pins, Dirtied::No).is_err());
    let retarget = |format, root| {
        iommu.enter(format, root);
        Ok::<(), FlushError>(())
    };
    domain.grow(&memory, BEYOND, retarget).unwrap();
    domain.unmap_pins(&memory, iova(0), &pins, &mut runs).unwrap();
    host.unpin(&pins, Dirtied::No).unwrap();
    assert_eq!((domain.table().unflushed(), source.written()), (0, 16));
}

/// What a late trim has taken out goes back with the next one, or in the end.
#[test]
fn a_late_trim_is_made_up_for() {
    for (nth, again) in (1..=8).flat_map(|nth| [(nth, true), (nth, false)]) {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let (mut domain, names) = attached(&memory, &hardware, &devices);
        domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
        answers(&hardware, &devices, iova(0));
        unmap(&domain, &memory, range(0, 0x1000));
        journal.fail(nth);
        domain.trim(&memory).unwrap_err();
        assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
        assert_eq!((memory.used(), domain.table().tables()), (4, 4));
        if again {
            // Late again: what it owes is not lost.
            journal.fail(nth);
            domain.trim(&memory).unwrap_err();
            assert_eq!((memory.used(), domain.table().unflushed()), (4, 1));
            domain.trim(&memory).unwrap();
            assert_eq!((memory.used(), domain.table().tables()), (1, 1));
            assert_eq!(answers(&hardware, &devices, iova(0)), [blocked(iova(0)); 4]);
        }
        hardware.iommus.iter().for_each(Iommu::leave);
        names.into_iter().for_each(|name| domain.detach(name).unwrap());
        domain.destroy(&memory).unwrap();
        assert_eq!(memory.used(), 0);
    }
}

/// Marks were taken away, and somebody did not forget them in time: it has when the next call has succeeded.
#[test]
fn the_next_write_is_seen_after_a_late_harvest() {
    for nth in 1..=8 {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let domain = made_with(&memory, &hardware, &devices);
        domain.start_tracking(&memory).unwrap();
        domain.map(&memory, iova(0), [run(0, 0x2000)], RW, NONE).unwrap();
        answers(&hardware, &devices, iova(0));
        let (page, mut seen) = (range(0, 0x1000), Vec::new());
        let mut take = |range| domain.take_dirty(&memory, range, |range| seen.push(range));
        journal.fail(nth);
        assert_eq!(take(page), Err(DomainError::NotFlushed { range: page }));
        // Late again, be it with another range.
        journal.fail(nth);
        let beside = range(0x1000, 0x1000);
        assert_eq!(take(beside), Err(DomainError::NotFlushed { range: all(&domain) }));
        assert_eq!(take(beside), Ok(0));
        // Once is enough.
        let asked = journal.len();
        assert_eq!((take(beside), journal.len()), (Ok(0), asked));
        for who in hardware.iommus.iter() {
            who.access(iova(0), true).unwrap();
            assert_eq!(take(page), Ok(0x1000), "{nth}");
        }
        assert_eq!(seen, [page; 3]);
    }
}
