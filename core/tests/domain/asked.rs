//! What everybody is asked, whatever the others say.

use pinfold::host::FlushError;
use pinfold::iopt::IoptError;
use pinfold::{DomainError, ErrorKind};
use pinfold_arch::IoFormat;
use pinfold_sim::tlb::Asked;

use super::flushes::{attached, made_with, unmap};
use super::*;

/// What a flush asks of the hardware, in order.
fn flush_of(range: IovaRange, kept: Kept) -> Vec<(&'static str, Asked)> {
    let [iommus, devices] = [["iommu 1", "iommu 2"], ["device 1", "device 2"]].map(|who| {
        let both = [Asked::Invalidate(range, kept), Asked::Complete];
        both.map(|what| who.map(|who| (who, what))).concat()
    });
    [iommus, devices].concat()
}

fn all(domain: &Domain<'_, Vtd>) -> IovaRange {
    IovaRange::between(Iova::new(0), domain.table().format().last()).unwrap()
}

/// Who is late keeps nobody else from forgetting.
#[test]
fn all_are_asked_though_one_is_late() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    let range = range(0, 0x1000);
    for nth in 1..=8 {
        journal.fail(nth);
        let late = domain.flush(range, Kept::Leaves);
        assert_eq!(late, Err(DomainError::NotFlushed { range }));
        assert_eq!(journal.take(), flush_of(range, Kept::Leaves), "{nth}");
    }
}

/// What stood there for a while before something was in the way is forgotten, or that is what is said.
#[test]
fn what_is_undone_is_flushed() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    domain.map(&memory, iova(0x5000), [run(0, 0x1000)], RW, NONE).unwrap();
    let (mapped, undone) = (IoptError::Mapped { at: iova(0x5000) }, range(0x1000, 0x4000));
    for nth in 0..=8 {
        journal.fail(nth);
        let pages = [run(0x1000, 0x3000), run(0x8000, 0x2000)];
        let error = domain.map(&memory, iova(0x1000), pages, RW, NONE).unwrap_err();
        let late = DomainError::NotFlushed { range: undone };
        assert_eq!(error, if nth == 0 { mapped.into() } else { late });
        assert_eq!(journal.take(), flush_of(undone, Kept::Leaves), "{nth}");
    }
    // Nothing had been mapped yet.
    let error = domain.map(&memory, iova(0x5000), [run(0, 0x2000)], RW, NONE);
    assert_eq!(error, Err(mapped.into()));
    assert_eq!(journal.take(), []);
}

/// Another domain cannot know who keeps it.
#[test]
fn what_comes_from_another_domain_is_not_finished() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let (domain, other) = (made_with(&memory, &hardware, &devices), made(&memory));
    domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    let used = memory.used();
    let mut runs = Runs::new();
    let mut step = domain.table().unmap(&memory, range(0, HUGE)).unwrap();
    let unmapped = step.step(&memory, &mut runs).unwrap().unwrap();
    drop(journal.take());
    let late = other.finish(&memory, unmapped).unwrap_err();
    assert_eq!(late.error(), DomainError::OtherDomain);
    assert_eq!(late.error().kind(), ErrorKind::InvalidArgument);
    assert_eq!((journal.take(), memory.used()), (vec![], used));
    assert_eq!((domain.table().unflushed(), other.table().unflushed()), (1, 0));
    domain.finish(&memory, late.unmapped).unwrap();
    assert_eq!((domain.table().unflushed(), memory.used()), (0, used - 1));
}

/// Who is taken out, and who gets a new root entry, forgets pointers to tables, too.
#[test]
fn tables_are_forgotten_where_roots_change() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let (mut domain, ids) = attached(&memory, &hardware, &devices);
    let retarget = |format, root| {
        hardware.iommus.iter().for_each(|iommu| iommu.enter(format, root));
        Ok::<(), FlushError>(())
    };
    domain.grow(&memory, Iova::new(1 << 50), retarget).unwrap();
    assert_eq!(journal.take(), flush_of(all(&domain), Kept::Tables));
    domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    answers(&hardware, &devices, iova(0));
    hardware.iommus[1].leave();
    domain.detach(ids[1]).unwrap();
    domain.detach(ids[3]).unwrap();
    let begin = Asked::Invalidate(all(&domain), Kept::Tables);
    let of = |who: &[&'static str]| {
        [begin, Asked::Complete].map(|what| who.iter().map(|who| (*who, what)).collect::<Vec<_>>())
    };
    let devices_of = of(&["device 1", "device 2"]).concat();
    let order = [of(&["iommu 1", "iommu 2"]), of(&["iommu 1"])].map(|of| of.concat());
    assert_eq!(journal.take(), order.map(|iommus| [iommus, devices_of.clone()].concat()).concat());
    // And so it stays away from tables that go back without it.
    unmap(&domain, &memory, all(&domain));
    for blocks in [hardware.iommus[1].access(iova(0), true), devices[1].access(iova(0), true)] {
        assert_eq!(blocks, blocked(iova(0)));
    }
}

/// Pages here and there, all that a table has: they are out again, and the table stays where it is.
#[test]
fn many_pieces_that_could_not_be_announced_are_gone() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, true);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    let pages: Vec<_> = (0..512).map(|page| run(page * 0x2000, 0x1000)).collect();
    for _ in 0..2 {
        journal.fail(1);
        let late = domain.map(&memory, iova(0), &pages, RW, NONE);
        assert_eq!(late, Err(DomainError::NotFlushed { range: range(0, HUGE) }));
        for page in 0..512 {
            assert_eq!(domain.table().translate(&memory, iova(page << 12)), Ok(None));
        }
        assert_eq!((domain.table().tables(), memory.used()), (4, 4));
    }
    domain.map(&memory, iova(0), &pages, RW, NONE).unwrap();
    assert_eq!(memory.used(), 4);
}

/// There are so many places, and who leaves makes room for another.
#[test]
fn places_are_counted() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommus: [Iommu<'_, Vtd>; 3] =
        ["one", "two", "three"].map(|name| Iommu::new(name, &memory, &journal));
    let mut domain = Domain::<'_, Vtd, 2>::new(IoPageTable::new(format(), &memory).unwrap());
    let ids = [0, 1].map(|place| domain.attach_iommu(&iommus[place]).unwrap());
    let full = domain.attach_iommu(&iommus[2]).unwrap_err();
    assert_eq!((full, full.kind()), (DomainError::Full, ErrorKind::NoSpace));
    // Devices have places of their own.
    let device = domain.attach_device(&iommus[2]).unwrap();
    domain.detach(ids[0]).unwrap();
    assert_eq!(domain.detach(ids[0]), Err(DomainError::NotAttached));
    domain.attach_iommu(&iommus[2]).unwrap();
    domain.detach(device).unwrap();
    drop(journal.take());
    domain.flush(range(0, 0x1000), Kept::Leaves).unwrap();
    let who: Vec<_> = journal.take().into_iter().map(|(who, _)| who).collect();
    assert_eq!(who, ["three", "two", "three", "two"]);
}
