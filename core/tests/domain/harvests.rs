//! Marks of written pages, which IOMMUs keep with their translations: what is cleared is flushed.

use pinfold::host::PhysMem;
use pinfold::iopt::IoptError;
use pinfold::{DomainError, ErrorKind};

use super::flushes::made_with;
use super::*;

/// Everybody writes to the first of two pages, and then begins the tracking: the mark goes, and so must what they
/// know of it.
#[test]
fn a_start_that_could_not_be_flushed_is_flushed_by_the_next_try() {
    for nth in 1.. {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let hardware = Hardware::new(&memory, &journal, false);
        let devices = hardware.devices();
        let domain = made_with(&memory, &hardware, &devices);
        domain.map(&memory, iova(0), [run(0, 0x2000)], RW, NONE).unwrap();
        answers(&hardware, &devices, iova(0));
        let before = journal.len();
        journal.fail(nth);
        let started = domain.start_tracking(&memory);
        let late = journal.len() >= before + nth;
        journal.fail(0);
        assert!(domain.table().is_tracking());
        let page = range(0, 0x1000);
        if late {
            assert_eq!(started, Err(DomainError::NotFlushed { range: page }));
            domain.flush(page, Kept::Leaves).unwrap();
        } else {
            assert_eq!((started, nth), (Ok(()), 9), "there are eight calls");
        }
        answers(&hardware, &devices, iova(0));
        assert_eq!(domain.take_dirty(&memory, range(0, 0x2000), |_| {}), Ok(0x1000));
        if !late {
            return;
        }
    }
}

/// What comes before a corrupt entry is flushed before that is reported.
#[test]
fn what_was_cleared_before_a_corrupt_entry_is_flushed() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    domain.map(&memory, iova(0), [run(0, 0x2000)], RW, NONE).unwrap();
    answers(&hardware, &devices, iova(0));
    let (raw, beyond) = (1 << 62 | 3, Iova::new(1 << 39));
    let top = memory.table(domain.table().root().base, 512).unwrap();
    top.store(1, u64::to_le(raw)).unwrap();
    let corrupt = DomainError::Table(IoptError::Corrupt { at: beyond, raw });
    assert_eq!(domain.start_tracking(&memory), Err(corrupt));
    assert!(!domain.table().is_tracking());
    top.store(1, 0).unwrap();
    domain.start_tracking(&memory).unwrap();
    answers(&hardware, &devices, iova(0));
    assert_eq!(domain.take_dirty(&memory, range(0, 0x2000), |_| {}), Ok(0x1000));
    assert_eq!(corrupt.kind(), ErrorKind::Corrupt);
}
