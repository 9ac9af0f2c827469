//! Pins of the engine, in the tables of two IOMMUs of different kinds, and what a device does to them.

use std::sync::atomic::{AtomicU64, Ordering};

use pinfold::domain::PinsError;
use pinfold::folio::FolioFlags;
use pinfold::host::{PlainHost, SpaceId};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::sync::Word;
use pinfold::table::{Run, TableError};
use pinfold::{
    AddrRange, Dirtied, DomainError, Engine, ErrorKind, PageCount, PageShift, Pfn, PinRequest,
    PinTable, UnpinError, VirtAddr,
};
use pinfold_arch::{AnyIoFormat, Granule, Smmu};
use pinfold_sim::{FileKind, Layout, Machine, MapSpec, Ram};

use super::*;

/// Where processes have their memory.
const VA: u64 = 0x1000_0000_0000;

pub(super) fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

pub(super) fn pages(pages: u64) -> AddrRange {
    AddrRange::new(VirtAddr::new(VA), PageCount::new(pages), PageShift::SIZE_4K).unwrap()
}

fn formats() -> [AnyIoFormat; 2] {
    [format().into(), Smmu::stage1(Granule::Size4K, 48, 48).unwrap().into()]
}

/// What a device writes reaches the file's page, through tables of two kinds; and its mark is there before the last
/// pin goes.
#[test]
fn what_a_device_wrote_is_dirty_before_the_last_unpin() {
    let ram = Ram::new(&Layout::small());
    let machine = Machine::new(&ram);
    let space = machine.add_space();
    let file = machine.add_file(FileKind::Shmem, 8, pinfold::Order::ZERO);
    machine.map(space.id(), MapSpec::shared(VA, 8, file)).unwrap();
    machine.touch(space.id(), VA, 8, RW).unwrap();
    let engine = Engine::new(&machine, machine.frames());
    let (words, memory, journal) = (words(400), TableMemory::new(1 << 20), Journal::new());
    let pins = PinTable::new(&words).unwrap();
    engine.pin(&space, &pins, &PinRequest::longterm(pages(8), RW)).unwrap();
    let folios: Vec<_> =
        (0..8).map(|i| machine.folio_at(space.id(), VA + (i << 12)).unwrap()).collect();
    for folio in &folios {
        machine.frames().set_flags(*folio, FolioFlags::DIRTY, false);
    }

    let dirty = |folio: &pinfold::folio::Folio| {
        let folio = machine.frames().folio(folio.head()).unwrap();
        folio.info().flags.contains(FolioFlags::DIRTY)
    };
    assert!(!folios.iter().any(dirty));
    let iommus = ["vt-d", "smmu"].map(|name| Iommu::new(name, &memory, &journal));
    let mut domains = formats()
        .map(|format| Domain::<'_, AnyIoFormat>::new(IoPageTable::new(format, &memory).unwrap()));
    for (domain, iommu) in domains.iter_mut().zip(&iommus) {
        domain.attach_iommu(iommu).unwrap();
        iommu.enter(domain.table().format(), domain.table().root());
        domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    }
    assert_eq!(pins.mapped(), 2 * (8 << 12), "each mapping counts");
    for (iommu, page) in iommus.iter().zip([2, 5]) {
        let at = iommu.access(iova(page << 12), true).unwrap();
        machine.device().write(at, &[0xa0 + page as u8]).unwrap();
    }
    let mut byte = [0];
    machine.read(space.id(), VA + 0x5000, &mut byte).unwrap();
    assert_eq!(byte, [0xa5]);

    let mut runs = Runs::new();
    for (left, domain) in [(1, &domains[0]), (0, &domains[1])] {
        let error = engine.unpin(&pins, Dirtied::No).unwrap_err();
        let bytes = (left + 1) * (8 << 12);
        assert_eq!(error, UnpinError::Table(TableError::Mapped { bytes }));
        assert!(pins.lookup(VirtAddr::new(VA)).is_ok(), "it is live still");
        domain.unmap_pins(&memory, iova(0), &pins, &mut runs).unwrap();
        assert_eq!((pins.mapped(), pins.stale()), (left * (8 << 12), 0));
    }
    for (iommu, page) in iommus.iter().zip([2, 5]) {
        assert_eq!(iommu.access(iova(page << 12), true), blocked(iova(page << 12)));
    }
    engine.unpin(&pins, Dirtied::No).unwrap();
    for folio in folios {
        assert!(dirty(&folio), "the device could write there");
        assert_eq!(machine.frames().counts_of(folio).pins(), 0);
    }
    assert_eq!(machine.breaches(), []);
}

/// Numbers of frames behind pages, in pieces; how many pages are pinned, and how many of those that came back had
/// been written.
pub(super) struct Source {
    pieces: Vec<(u64, u64)>,
    held: AtomicU64,
    written: AtomicU64,
}

impl Source {
    pub(super) fn new(pieces: &[(u64, u64)]) -> Self {
        Self { pieces: pieces.to_vec(), held: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    /// Pages that were written, when all are back.
    pub(super) fn written(&self) -> u64 {
        assert_eq!(self.held.load(Ordering::Relaxed), 0);
        self.written.load(Ordering::Relaxed)
    }
}

impl PinSource for &Source {
    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }
    fn chunk(&self) -> pinfold::Order {
        pinfold::Order::new(18).unwrap()
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let (first, mut from) = ((part.start().raw() - VA) >> 12, 0);
        for (pfn, many) in &self.pieces {
            for page in from.max(first)..(from + many).min(first + part.pages().raw()) {
                runs.push(Pfn::new(pfn + page - from), PageCount::ONE)?;
                self.held.fetch_add(1, Ordering::Relaxed);
            }
            from += many;
        }
        Ok(())
    }
    fn unpin(&self, run: Run) {
        self.held.fetch_sub(run.pages.raw(), Ordering::Relaxed);
        let written = if run.dirty { run.pages.raw() } else { 0 };
        self.written.fetch_add(written, Ordering::Relaxed);
    }
}

/// What a table holds is released together: frames that happen to be neighbours share a large leaf, although each
/// is a folio of its own.
#[test]
fn neighbours_of_one_table_share_a_leaf() {
    let source = Source::new(&[(0x8_0000, 512), (0x9_0000, 8)]);
    let (words, memory) = (words(1200), TableMemory::new(1 << 20));
    let pins = PinTable::new(&words).unwrap();
    let host = HostPins::new(PlainHost, &source);
    host.pin(SpaceId(0), &pins, &PinRequest::longterm(pages(520), RW)).unwrap();
    let domain = made(&memory);
    domain.map_pins(&memory, iova(0), &pins, RW, NONE).unwrap();
    let shift = |at| domain.table().translate(&memory, iova(at)).unwrap().unwrap().shift.raw();
    assert_eq!([shift(0), shift(HUGE - 1), shift(HUGE)], [21, 21, 12]);
    let mut runs = Buffer::<UnmappedRun, 1>::new();
    domain.unmap_pins(&memory, iova(0), &pins, &mut runs).unwrap();
    host.unpin(&pins, Dirtied::No).unwrap();
    assert_eq!(source.held.load(Ordering::Relaxed), 0);
}

/// Other memory in the range, be it a page, or a leaf that begins where a run does and reaches beyond its end.
#[test]
fn other_memory_in_the_range_is_left_alone() {
    let pieces = [(0x8_0000, 256), (0xa_0000, 256)];
    for (inside, bytes, at) in [(256 << 12, 0x1000, 256 << 12), (0, HUGE, 0)] {
        let source = Source::new(&pieces);
        let (words, memory) = (words(1200), TableMemory::new(1 << 20));
        let pins = PinTable::new(&words).unwrap();
        let host = HostPins::new(PlainHost, &source);
        host.pin(SpaceId(0), &pins, &PinRequest::longterm(pages(512), RW)).unwrap();
        let domain = made(&memory);
        domain.map_pins(&memory, Iova::new(0), &pins, RW, NONE).unwrap();
        domain.map(&memory, iova(inside), [run(inside, bytes)], RW, NONE).unwrap();
        let mut runs = Runs::new();
        let error = domain.unmap_pins(&memory, iova(0), &pins, &mut runs).unwrap_err();
        let PinsError::Domain(error) = error else { panic!("{error}") };
        assert_eq!(error, DomainError::OtherMemory { at: iova(at) });
        assert_eq!((pins.mapped(), pins.stale()), (HUGE, 0));
        let found = domain.table().translate(&memory, iova(inside)).unwrap().unwrap();
        assert_eq!(found.addr, PhysAddr::new(MEMORY + inside));
        domain.unmap_pins(&memory, Iova::new(0), &pins, &mut runs).unwrap();
        host.unpin(&pins, Dirtied::No).unwrap();
    }
}

/// Who maps and unmaps, and who tries to give the pins back meanwhile: pins go only with nothing mapped, a mapping
/// that succeeds is whole, and one that is there can always be taken out.
#[test]
fn pins_go_only_while_nothing_is_mapped() {
    let source = Source::new(&[(0x8_0000, 2), (0x9_0000, 2)]);
    let (words, memory) = (words(200), TableMemory::new(1 << 20));
    let domain = made(&memory);
    PinTable::new(&words).unwrap();
    let over = AtomicU64::new(0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let (pins, host) = (PinTable::open(&words).unwrap(), HostPins::new(PlainHost, &source));
            while over.load(Ordering::Acquire) < 2 {
                let _ = host.pin(SpaceId(0), &pins, &PinRequest::longterm(pages(4), RW));
                std::thread::yield_now();
                let unpinned = host.unpin(&pins, Dirtied::No);
                let kind = unpinned.map_or_else(|error| error.kind(), |_| ErrorKind::Busy);
                assert!(matches!(kind, ErrorKind::Busy | ErrorKind::NotFlushed), "{kind:?}");
            }
            let _ = host.unpin(&pins, Dirtied::No);
        });
        for place in 0..2 {
            let (domain, memory, words, source, over) = (&domain, &memory, &words, &source, &over);
            threads.spawn(move || {
                let (pins, at) = (PinTable::open(words).unwrap(), iova(place * HUGE));
                let mut runs = Runs::new();
                let mut mapped = 0;
                while mapped < 300 {
                    match domain.map_pins(memory, at, &pins, RW, NONE) {
                        Ok(()) => {}
                        Err(PinsError::Domain(DomainError::Pins(
                            TableError::InUse | TableError::Empty,
                        ))) => {
                            std::thread::yield_now();
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    mapped += 1;
                    assert_eq!(source.held.load(Ordering::Relaxed), 4);
                    let last = at.checked_add(0x3000).unwrap();
                    let found = domain.table().translate(memory, last).unwrap();
                    assert_eq!(found.unwrap().addr, PhysAddr::new(0x9000_1000));
                    domain.unmap_pins(memory, at, &pins, &mut runs).unwrap();
                }
                over.fetch_add(1, Ordering::Release);
            });
        }
    });
    let pins = PinTable::open(&words).unwrap();
    assert_eq!((pins.mapped(), pins.stale(), source.held.load(Ordering::Relaxed)), (0, 0, 0));
}
