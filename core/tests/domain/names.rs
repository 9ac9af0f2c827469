//! Who is attached: each has a name that is nobody else's, before it comes, after it went, or in another domain.

use pinfold::{DomainError, ErrorKind};

use super::flushes::{attached, unmap};
use super::*;

/// Who came into the place of another is not taken out by that one's name.
#[test]
fn an_old_name_takes_nobody_out() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let iommus: [Iommu<'_, Vtd>; 3] =
        ["one", "two", "three"].map(|name| Iommu::new(name, &memory, &journal));
    let [one, two, three] = &iommus;
    let mut domain = made(&memory);
    let names = [domain.attach_iommu(one).unwrap(), domain.attach_device(two).unwrap()];
    names.iter().for_each(|name| domain.detach(*name).unwrap());
    let new = domain.attach_iommu(three).unwrap();
    three.enter(domain.table().format(), domain.table().root());
    drop(journal.take());
    for name in names {
        assert_eq!(domain.detach(name), Err(DomainError::NotAttached));
    }
    assert_eq!(DomainError::NotAttached.kind(), ErrorKind::InvalidArgument);
    assert_eq!(journal.take(), []);
    domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    assert_eq!(three.access(iova(0), true), Ok(PhysAddr::new(MEMORY)));
    unmap(&domain, &memory, range(0, 0x1000));
    assert_eq!(three.access(iova(0), true), blocked(iova(0)));
    domain.detach(new).unwrap();
}

/// The first IOMMU of a domain is not the first of another.
#[test]
fn a_name_of_another_domain_takes_nobody_out() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let [one, two] = ["one", "two"].map(|name| Iommu::<Vtd>::new(name, &memory, &journal));
    let [mut domain, mut other] = [(); 2].map(|()| made(&memory));
    let name = domain.attach_iommu(&one).unwrap();
    other.attach_iommu(&two).unwrap();
    assert_eq!(other.detach(name), Err(DomainError::NotAttached));
    assert_eq!(journal.take(), []);
    other.flush(range(0, 0x1000), Kept::Leaves).unwrap();
    assert_eq!(journal.take().len(), 2);
    domain.detach(name).unwrap();
}

/// Tables that somebody may walk are kept, for ever if need be.
#[test]
fn nothing_is_destroyed_under_somebody() {
    for keep in 0..4 {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let (mut domain, names) = attached(&memory, &hardware, &devices);
        domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
        let used = memory.used();
        let others = names.into_iter().enumerate().filter(|(place, _)| *place != keep);
        others.for_each(|(_, name)| domain.detach(name).unwrap());
        assert_eq!(domain.destroy(&memory), Err(DomainError::StillAttached));
        assert_eq!(memory.used(), used);
        let there = Ok(PhysAddr::new(MEMORY));
        assert_eq!(answers(&hardware, &devices, iova(0)), [there; 4]);
    }
    assert_eq!(DomainError::StillAttached.kind(), ErrorKind::Busy);
}
