//! Hosts that lie, tables in memory that others wrote to, and figures for tables that are too small:
//! an error in bounded time, with a pause between bounded steps.

use std::cell::Cell;

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::Claim;
use pinfold::host::{
    Flow, LeakFrames, Mapping, MappingKind, Mappings, Migrate, MigrateError, NeverFreed, NoAccount,
    NoFault, NoTrace, Parts, PhysMem, Progress, SpaceId, TableView, Wait,
};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::sync::{Ordering, Word};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{Run, TableError};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, ErrorKind, FrameTable, Order, PageCount,
    PageShift, Pfn, PhysAddr, PinCause, PinRequest, PinTable, UnpinError, VirtAddr, X86_64,
};

const BASE: PageShift = PageShift::SIZE_4K;

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

/// Tables at 0, 0x1000, 0x2000 and 0x3000; the last maps pages from frame 8 on.
struct Memory(Vec<Word>);

impl Memory {
    fn new(pages: u64) -> Self {
        let memory = Self(words(4 * 512));
        for (at, raw) in [(0, 0x1007), (512, 0x2007), (1024, 0x3007)] {
            memory.set(at, raw);
        }
        for i in 0..pages {
            memory.set(1536 + i as usize, (8 + i) << 12 | 0x67);
        }
        memory
    }

    /// Entries are little endian, whatever the CPU that runs the tests.
    fn set(&self, at: usize, raw: u64) {
        self.0[at].store(raw.to_le(), Ordering::Relaxed);
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

/// All of the lower half is one anonymous mapping.
struct OneMapping;

impl Mappings for OneMapping {
    fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> {
        let range = AddrRange::new(VirtAddr::new(0), PageCount::new(1 << 35), BASE).ok()?;
        let (kind, access) = (MappingKind::Anonymous, Access::all());
        let (shared, may_write, dirty_tracked) = (false, true, false);
        Some(Mapping { range, kind, shared, access, may_write, dirty_tracked })
    }
}

/// Counts pauses.
#[derive(Default)]
struct Pauses(Cell<u64>);

impl Wait for Pauses {
    fn pause(&self, _: Progress) -> Flow {
        self.0.set(self.0.get() + 1);
        Flow::Continue
    }
}

/// Says that it moved what it was given, and does nothing.
#[derive(Default)]
struct Liar(Cell<u64>);

impl Migrate for Liar {
    fn migrate(&self, _: &Claim<'_>) -> Result<(), MigrateError> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
}

type Host =
    Parts<Memory, OneMapping, NeverFreed, NoFault, Liar, LeakFrames, NoAccount, Pauses, NoTrace>;

fn host(memory: Memory) -> Host {
    let Parts { memory, mappings, guard, fault, reclaim, account, trace, .. } =
        Parts::new(memory, OneMapping);
    let (migrate, wait) = (Liar::default(), Pauses::default());
    Parts { memory, mappings, guard, fault, migrate, reclaim, account, wait, trace }
}

fn space() -> AddressSpace<X86_64> {
    let format = X86_64::new(4, 40).unwrap();
    AddressSpace::new(SpaceId(0), format, format.root(0).unwrap())
}

fn request(pages: u64) -> PinRequest {
    let range = AddrRange::new(VirtAddr::new(0), PageCount::new(pages), BASE).unwrap();
    PinRequest::longterm(range, Access::READ | Access::WRITE)
}

/// Frames 8 and up, each a folio of its own with these flags.
fn user_frames(words: &[Word], flags: FolioFlags) -> FrameTable<'_> {
    let frames = FrameTable::new(words, Pfn::new(8), BASE).unwrap();
    for i in 0..frames.frames().raw() {
        let info = FolioInfo { order: Order::ZERO, kind: FolioKind::Anonymous, flags };
        frames.add_memory(Pfn::new(8 + i), info).unwrap().unfreeze(1);
    }
    frames
}

#[test]
fn a_host_that_claims_to_have_moved_what_it_has_not_is_found_out() {
    let memory = words(32);
    let frames = user_frames(&memory, FolioFlags::EXCLUSIVE | FolioFlags::MOVABLE);
    let engine = Engine::new(host(Memory::new(4)), frames);
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    let error = engine.pin(&space(), &table, &request(4)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let (moves, pauses) = (engine.host().migrate.0.get(), engine.host().wait.0.get());
    assert!(moves < 100, "{moves} moves of four pages");
    assert!(pauses >= moves / 2, "{pauses} pauses for {moves} moves");
    for pfn in 8..12 {
        let counts = frames.counts_of(frames.folio(Pfn::new(pfn)).unwrap());
        assert_eq!((counts.references(), counts.pins()), (1, 0));
    }
}

#[test]
fn the_figure_for_a_table_that_is_too_small_is_found_in_bounded_steps() {
    let frame_words = words(0);
    let frames = FrameTable::new(&frame_words, Pfn::new(8), BASE).unwrap();
    let table_words = words(HEADER_WORDS);
    let table = PinTable::new(&table_words).unwrap();
    // The root leads out of memory: there is nothing to count.
    let memory = Memory::new(0);
    memory.set(0, 0x9999_0007);
    let engine = Engine::new(host(memory), frames);
    let huge = request(1 << 35);
    let error = engine.pin(&space(), &table, &huge).unwrap_err();
    let need = PinTable::words_for(&huge.range, BASE).unwrap();
    assert_eq!(error.cause, PinCause::Table(TableError::NoSpace { need }));
    // 1 GiB leaves of memory that nobody knows: each page counts for one, some at a time.
    let memory = Memory::new(0);
    memory.set(512, 0x4000_0000 | 0xe7);
    let engine = Engine::new(host(memory), frames);
    let pages = 1 << 18;
    engine.pin(&space(), &table, &request(pages)).unwrap_err();
    let pauses = engine.host().wait.0.get();
    assert!(pauses >= pages / 4096, "{pauses} pauses for {pages} pages");
}

#[test]
fn a_table_that_others_wrote_to_gives_back_what_it_still_holds_and_says_so() {
    let pages = 8;
    for broken in [0, 3, 7] {
        let memory = words(32);
        let frames = user_frames(&memory, FolioFlags::EXCLUSIVE);
        let engine = Engine::new(host(Memory::new(pages)), frames);
        let table_words = words(64);
        let table = PinTable::new(&table_words).unwrap();
        engine.pin(&space(), &table, &request(pages)).unwrap();
        // A link to nowhere, in place of a page's address.
        table_words[HEADER_WORDS + broken].store(4, Ordering::Relaxed);
        let error = engine.unpin(&table, Dirtied::No).unwrap_err();
        assert_eq!(error, UnpinError::Overwritten { pages: PageCount::ONE });
        for i in 0..pages {
            let counts = frames.counts_of(frames.folio(Pfn::new(8 + i)).unwrap());
            assert_eq!(counts.pins(), u32::from(i == broken as u64), "page {i}");
        }
    }
}

#[test]
fn a_host_that_counts_hears_of_pages_that_others_took_out_of_the_table() {
    let pins = HostPins::new(host(Memory::new(0)), Fixed);
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    pins.pin(SpaceId(0), &table, &request(8)).unwrap();
    table_words[HEADER_WORDS + 3].store(0, Ordering::Relaxed);
    let error = pins.unpin(&table, Dirtied::No).unwrap_err();
    assert_eq!(error, UnpinError::Overwritten { pages: PageCount::ONE });
    pins.pin(SpaceId(0), &table, &request(8)).unwrap();
}

#[test]
fn a_header_that_others_wrote_to_is_no_table() {
    let memory = words(32);
    let frames = user_frames(&memory, FolioFlags::EXCLUSIVE);
    let engine = Engine::new(host(Memory::new(4)), frames);
    for (word, value) in [(3, u64::MAX), (4, 1 << 63), (4, 1 << 50), (5, 0x3f), (5, 0xff0c)] {
        let table_words = words(64);
        let table = PinTable::new(&table_words).unwrap();
        engine.pin(&space(), &table, &request(4)).unwrap();
        let good = table_words[word].swap(value, Ordering::Relaxed);
        assert!(table.lookup(VirtAddr::new(0)).is_err());
        assert_eq!(table.runs().count(), 0);
        let error = engine.unpin(&table, Dirtied::No).unwrap_err();
        assert_eq!(error, UnpinError::Table(TableError::NotATable), "word {word}");
        table_words[word].store(good, Ordering::Relaxed);
        engine.unpin(&table, Dirtied::No).unwrap();
    }
}

/// A frame that was taken away under the table costs its own pin, not its neighbours'.
#[test]
fn one_stolen_frame_does_not_keep_the_others_pinned() {
    let memory = words(32);
    let frames = user_frames(&memory, FolioFlags::EXCLUSIVE);
    let engine = Engine::new(host(Memory::new(6)), frames);
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    engine.pin(&space(), &table, &request(6)).unwrap();
    memory[2 * 2].store(0, Ordering::Relaxed); // the third frame is no memory any more
    let error = engine.unpin(&table, Dirtied::No).unwrap_err();
    assert!(matches!(error, UnpinError::Miscounted { pfn, .. } if pfn == Pfn::new(10)));
    for pfn in [8, 9, 11, 12, 13] {
        let counts = frames.counts_of(frames.folio(Pfn::new(pfn)).unwrap());
        assert_eq!(counts.pins(), 0, "frame {pfn}");
    }
}

/// All memory is mapped one to one.
struct Fixed;

impl PinSource for Fixed {
    fn base(&self) -> PageShift {
        BASE
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        runs.push(Pfn::new(8 + (part.start().raw() >> 12)), part.pages())
    }
    fn unpin(&self, _: Run) {}
}

#[test]
fn pins_go_back_to_whom_they_were_taken_from() {
    let memory = words(32);
    let frames = user_frames(&memory, FolioFlags::EXCLUSIVE);
    let engine = Engine::new(host(Memory::new(4)), frames);
    let pins = HostPins::new(engine.host(), Fixed);
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    let other = UnpinError::Table(TableError::OtherKeeper);
    pins.pin(SpaceId(0), &table, &request(4)).unwrap();
    assert_eq!(engine.unpin(&table, Dirtied::No).unwrap_err(), other);
    assert!(table.lookup(VirtAddr::new(0)).is_ok(), "the refusal changed nothing");
    pins.unpin(&table, Dirtied::No).unwrap();
    engine.pin(&space(), &table, &request(4)).unwrap();
    assert_eq!(pins.unpin(&table, Dirtied::No).unwrap_err(), other);
    engine.unpin(&table, Dirtied::No).unwrap();
}

/// D7 for plain references: the folio was split since it was looked up.
#[test]
fn a_reference_never_lands_on_another_folio() {
    let memory = words(32);
    let frames = FrameTable::new(&memory, Pfn::new(8), BASE).unwrap();
    let order = Order::new(2).unwrap();
    let info = FolioInfo { order, kind: FolioKind::Anonymous, flags: FolioFlags::empty() };
    frames.add_memory(Pfn::new(8), info).unwrap().unfreeze(1);
    let looked_up = frames.folio(Pfn::new(11)).unwrap();
    let mut whole = frames.freeze(looked_up, 1).unwrap();
    let single = FolioInfo { order: Order::ZERO, ..info };
    whole.reshape(single, |part| part.unfreeze(1)).unwrap();
    whole.unfreeze(1);
    assert!(frames.get(looked_up, 1).is_err());
    // Nothing held is nothing given back, also not to a second owner.
    let free = frames.folio(Pfn::new(9)).unwrap();
    let owner = frames.freeze(free, 1).unwrap();
    assert!(frames.put(free, 0).is_err() && frames.unpin(free, PageCount::ZERO).is_err());
    owner.unfreeze(1);
    assert!(frames.put(free, 0).unwrap().is_none());
    for pfn in 8..12 {
        assert_eq!(frames.counts_of(frames.folio(Pfn::new(pfn)).unwrap()).references(), 1);
    }
}

#[test]
fn a_base_page_too_small_for_a_tag_is_refused() {
    let tiny = PageShift::new(3).unwrap();
    let range = AddrRange::new(VirtAddr::new(u64::MAX - 7), PageCount::ONE, tiny).unwrap();
    assert_eq!(PinTable::words_for(&range, tiny), None);
    let memory = words(32);
    let frames = user_frames(&memory, FolioFlags::EXCLUSIVE);
    let engine = Engine::new(host(Memory::new(1)), frames);
    let table_words = words(64);
    let table = PinTable::new(&table_words).unwrap();
    let error = engine.pin(&space(), &table, &PinRequest { range, ..request(1) }).unwrap_err();
    assert_eq!(error.cause, PinCause::BaseMismatch);
}
