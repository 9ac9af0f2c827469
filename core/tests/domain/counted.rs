//! What a domain counts and marks in a table of pins, however a call ends.

use pinfold::domain::PinsError;
use pinfold::host::{PlainHost, SpaceId};
use pinfold::iopt::IoptError;
use pinfold::source::HostPins;
use pinfold::sync::Word;
use pinfold::table::TableError;
use pinfold::{Dirtied, DomainError, ErrorKind, PinRequest, PinTable};
use pinfold_arch::{AmdVi, IoFormat};

use super::flushes::made_with;
use super::pins::{Source, pages, words};
use super::*;

const READ: Access = Access::READ;
/// 16 pages in two pieces.
const PIECES: [(u64, u64); 2] = [(0x8_0000, 8), (0xa_0000, 8)];
const BYTES: u64 = 16 << 12;

fn pinned<'w>(source: &Source, words: &'w [Word], access: Access) -> PinTable<'w> {
    let pins = PinTable::new(words).unwrap();
    pin(source, &pins, access);
    pins
}

fn pin(source: &Source, pins: &PinTable<'_>, access: Access) {
    let request = PinRequest::longterm(pages(16), access);
    HostPins::new(PlainHost, source).pin(SpaceId(0), pins, &request).unwrap();
}

/// Gives the pins back; how many pages were written.
fn unpinned(source: &Source, pins: &PinTable<'_>) -> u64 {
    assert_eq!((pins.mapped(), pins.stale()), (0, 0));
    HostPins::new(PlainHost, source).unpin(pins, Dirtied::No).unwrap();
    source.written()
}

fn failed<F>(result: Result<(), PinsError<'_, '_, F>>) -> DomainError {
    match result {
        Err(PinsError::Domain(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(()) => panic!("it should have failed"),
    }
}

/// All pieces of what a device could write to count as written, and nothing of what it could only read.
#[test]
fn what_could_be_written_is_marked() {
    for (access, written) in [(RW, 16), (READ, 0)] {
        let (source, words, memory) = (Source::new(&PIECES), words(200), TableMemory::new(1 << 20));
        let pins = pinned(&source, &words, RW);
        let domain = made(&memory);
        domain.map_pins(&memory, iova(0), &pins, access, NONE).unwrap();
        domain.unmap_pins(&memory, iova(0), &pins, &mut Runs::new()).unwrap();
        assert_eq!(unpinned(&source, &pins), written);
    }
}

#[test]
fn what_is_pinned_for_reading_is_not_mapped_for_writing() {
    let (source, words, memory) = (Source::new(&PIECES), words(200), TableMemory::new(1 << 20));
    let pins = pinned(&source, &words, READ);
    let domain = made(&memory);
    let error = failed(domain.map_pins(&memory, iova(0), &pins, RW, NONE));
    assert_eq!(error, DomainError::Pins(TableError::ReadOnly));
    assert_eq!((pins.mapped(), domain.table().translate(&memory, iova(0))), (0, Ok(None)));
    domain.map_pins(&memory, iova(0), &pins, READ, NONE).unwrap();
    assert_eq!(pins.mapped(), BYTES);
    domain.unmap_pins(&memory, iova(0), &pins, &mut Runs::new()).unwrap();
    assert_eq!(unpinned(&source, &pins), 0);
}

/// Refused before anything was mapped: nothing is counted, and nothing is marked.
#[test]
fn what_was_refused_is_free() {
    let (source, words, memory) = (Source::new(&PIECES), words(200), TableMemory::new(1 << 20));
    let pins = pinned(&source, &words, RW);
    let domain = made(&memory);
    for at in [iova(0x800), Iova::new(1 << 60)] {
        let error = failed(domain.map_pins(&memory, at, &pins, RW, NONE));
        assert_eq!((error.kind(), pins.mapped()), (ErrorKind::InvalidArgument, 0));
    }
    domain.map(&memory, iova(0), [run(0, 0x1000)], RW, NONE).unwrap();
    let error = failed(domain.map_pins(&memory, iova(0), &pins, RW, NONE));
    assert_eq!(error, IoptError::Mapped { at: iova(0) }.into());
    assert_eq!(unpinned(&source, &pins), 0);
}

/// The first piece could be reached until the second met something.
#[test]
fn what_was_mapped_for_a_while_is_marked() {
    for (access, written) in [(RW, 16), (READ, 0)] {
        let (source, words, memory) = (Source::new(&PIECES), words(200), TableMemory::new(1 << 20));
        let pins = pinned(&source, &words, RW);
        let domain = made(&memory);
        domain.map(&memory, iova(0xa000), [run(0, 0x1000)], RW, NONE).unwrap();
        let error = failed(domain.map_pins(&memory, iova(0), &pins, access, NONE));
        assert_eq!(error, IoptError::Mapped { at: iova(0xa000) }.into());
        assert_eq!(domain.table().translate(&memory, iova(0)), Ok(None));
        assert_eq!(unpinned(&source, &pins), written);
    }
}

/// A leaf of several entries is counted once; and it holds pages that are marked beside those that are not.
#[test]
fn leaves_of_several_entries_come_out() {
    let source = Source::new(&[(0x8_0000, 16)]);
    let (words, memory) = (words(200), TableMemory::new(1 << 20));
    let pins = pinned(&source, &words, RW);
    pins.mark_dirty(pages(4).start()).unwrap();
    let format = AmdVi::new(3).unwrap();
    let domain: Domain<'_, AmdVi> = Domain::new(IoPageTable::new(format, &memory).unwrap());
    domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    let found = domain.table().translate(&memory, iova(0x9000)).unwrap().unwrap();
    assert_eq!(found.shift.bytes(), BYTES);
    assert!(found.shift > format.base());
    domain.unmap_pins(&memory, iova(0), &pins, &mut Runs::new()).unwrap();
    assert_eq!(unpinned(&source, &pins), 16);
}

/// The same pages mapped past the table of pins: there is more of them in the range than was counted.
#[test]
fn more_than_was_mapped_does_not_come_out() {
    let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
    let hardware = Hardware::new(&memory, &journal, false);
    let devices = hardware.devices();
    let domain = made_with(&memory, &hardware, &devices);
    let (source, words) = (Source::new(&PIECES), words(200));
    let pins = pinned(&source, &words, RW);
    domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    let pieces =
        PIECES.map(|(pfn, pages)| IoRun { addr: PhysAddr::new(pfn << 12), bytes: pages << 12 });
    domain.map(&memory, iova(HUGE), pieces, RW, NONE).unwrap();
    // The first piece is out and not flushed, the second is still mapped.
    journal.fail(1);
    let mut one = Buffer::<UnmappedRun, 1>::new();
    let stale = match domain.unmap_pins(&memory, iova(0), &pins, &mut one) {
        Err(PinsError::NotFlushed(stale)) => stale,
        other => panic!("{other:?}"),
    };
    journal.fail(0);
    assert_eq!((pins.mapped(), pins.stale()), (BYTES / 2, BYTES / 2));
    let error = failed(domain.unmap_pins(&memory, iova(HUGE), &pins, &mut one));
    assert_eq!(error, DomainError::OtherMemory { at: iova(HUGE) });
    assert_eq!((pins.mapped(), pins.stale()), (BYTES / 2, BYTES / 2));
    domain.settle(&memory, stale).unwrap();
    domain.unmap_pins(&memory, iova(0), &pins, &mut one).unwrap();
    assert_eq!(unpinned(&source, &pins), 16);
    // Nothing of it is mapped by this call, although its memory is there.
    let error = failed(domain.unmap_pins(&memory, iova(HUGE), &pins, &mut one));
    assert_eq!(error, DomainError::Pins(TableError::Empty));
    pin(&source, &pins, RW);
    let error = failed(domain.unmap_pins(&memory, iova(HUGE), &pins, &mut one));
    assert_eq!(error, DomainError::OtherMemory { at: iova(HUGE) });
    assert_eq!(unpinned(&source, &pins), 16);
}
