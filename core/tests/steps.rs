//! Between two pauses a call does no more than its host allows, whatever it does: entries are counted at
//! every pause.

use std::cell::{Cell, RefCell};

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{
    Flow, LeakFrames, Mapping, Mappings, NeverFreed, NoAccount, NoFault, NoMigrate, NoTrace, Parts,
    PhysMem, Progress, SourceError, SpaceId, TableView, Wait,
};
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::sync::{Ordering, Word};
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{Run, TableError};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, ErrorKind, FrameTable, Order, PageCount,
    PageFormat, PageShift, Pfn, PhysAddr, PinCause, PinError, PinRequest, PinTable, Table,
    UnpinError, VirtAddr, X86_64,
};
use pinfold_arch::{EncodeError, Entry};

const BASE: PageShift = PageShift::SIZE_4K;
const BOUNDS: [u64; 7] = [0, 1, 2, 7, 64, 600, 4096];
/// The first frame, of which the guest's memory is made.
const FIRST: u64 = 0x1000;
const PAGES: u64 = 3 * 512;

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

/// Five tables and more from 0 on: three levels of one table each, then page tables.
#[derive(Clone, Copy)]
struct Memory<'a>(&'a [Word]);

impl PhysMem for Memory<'_> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

struct Nothing;

impl Mappings for Nothing {
    fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> {
        None
    }
}

/// The format, counting leaves and holes that are decoded: without `address_bits` that is each once.
#[derive(Clone, Copy)]
struct Counting<'a>(X86_64, &'a Cell<u64>);

impl PageFormat for Counting<'_> {
    fn name(&self) -> &'static str {
        "counting"
    }
    fn big_endian(&self) -> bool {
        self.0.big_endian()
    }
    fn base(&self) -> PageShift {
        self.0.base()
    }
    fn valid(&self, range: &AddrRange) -> bool {
        self.0.valid(range)
    }
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        let entry = self.0.decode(at, raw);
        if !matches!(entry, Entry::Table(..)) {
            self.1.set(self.1.get() + 1);
        }
        entry
    }
    fn encode(&self, at: &Table, entry: Entry) -> Result<u64, EncodeError> {
        self.0.encode(at, entry)
    }
    fn volatile_bits(&self) -> u64 {
        self.0.volatile_bits()
    }
}

/// What has been done since the last pause, by what it left behind.
struct Watch<'a> {
    bound: u64,
    frames: FrameTable<'a>,
    decoded: &'a Cell<u64>,
    table: &'a [Word],
    /// Pins of each frame and words of the table at the last pause.
    pins: RefCell<Vec<u32>>,
    words: RefCell<Vec<u64>>,
    stop_at: Cell<Option<u64>>,
    /// The most of each kind: entries decoded, folios counted, words written.
    most: Cell<[u64; 3]>,
    pauses: Cell<u64>,
}

impl<'a> Watch<'a> {
    fn new(bound: u64, frames: FrameTable<'a>, decoded: &'a Cell<u64>, table: &'a [Word]) -> Self {
        let (pins, words) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let (stop_at, most, pauses) = (Cell::new(None), Cell::new([0; 3]), Cell::new(0));
        let watch = Self { bound, frames, decoded, table, pins, words, stop_at, most, pauses };
        watch.look();
        watch.most.set([0; 3]);
        watch
    }

    fn look(&self) {
        let pins: Vec<u32> = (FIRST..FIRST + self.frames.frames().raw())
            .map(|pfn| match self.frames.folio(Pfn::new(pfn)) {
                Some(folio) if folio.head().raw() == pfn => self.frames.counts_of(folio).pins(),
                _ => 0,
            })
            .collect();
        // The header is no entry.
        let words: Vec<u64> =
            self.table.iter().skip(HEADER_WORDS).map(|word| word.load(Ordering::Relaxed)).collect();
        let now = [
            self.decoded.take(),
            differences(&self.pins.replace(pins.clone()), &pins),
            differences(&self.words.replace(words.clone()), &words),
        ];
        let most = self.most.get();
        self.most.set(std::array::from_fn(|i| most[i].max(now[i])));
    }

    /// The most that was done between two pauses, the last step included.
    fn most(&self) -> [u64; 3] {
        self.look();
        self.most.replace([0; 3])
    }

    fn check(&self, what: &str) {
        let [decoded, counted, written] = self.most();
        let bound = self.bound.max(1);
        assert!(decoded <= bound, "{what}, bound {bound}: {decoded} entries in a step");
        assert!(counted <= bound, "{what}, bound {bound}: {counted} folios in a step");
        // Four nodes of a folio that lies across blocks.
        assert!(written <= bound + 4 * 512, "{what}, bound {bound}: {written} words in a step");
    }
}

fn differences<T: PartialEq>(old: &[T], new: &[T]) -> u64 {
    old.iter().zip(new).filter(|(old, new)| old != new).count() as u64
}

impl Wait for &Watch<'_> {
    fn step(&self) -> u64 {
        self.bound
    }
    fn pause(&self, progress: Progress) -> Flow {
        self.look();
        self.pauses.set(self.pauses.get() + 1);
        let stop = self.stop_at.get().is_some_and(|at| progress.done.raw() >= at);
        if stop { Flow::Stop } else { Flow::Continue }
    }
}

type Host<'a> = Parts<
    Memory<'a>,
    Nothing,
    NeverFreed,
    NoFault,
    NoMigrate,
    LeakFrames,
    NoAccount,
    &'a Watch<'a>,
    NoTrace,
>;

/// How the guest's memory is made: of folios of an order, mapped in 4 KiB or 2 MiB pages.
#[derive(Clone, Copy, Debug)]
struct Shape {
    order: u8,
    large: bool,
    /// Pages that the range begins after the start of a table.
    skip: u64,
}

const SHAPES: [Shape; 6] = [
    Shape { order: 0, large: false, skip: 0 },
    Shape { order: 0, large: false, skip: 5 },
    Shape { order: 4, large: false, skip: 0 },
    Shape { order: 9, large: false, skip: 100 },
    Shape { order: 9, large: true, skip: 0 },
    Shape { order: 3, large: true, skip: 0 },
];

fn tables(shape: Shape) -> Vec<Word> {
    let memory = words(6 * 512);
    let set = |at: usize, raw: u64| memory[at].store(raw.to_le(), Ordering::Relaxed);
    for (at, raw) in [(0, 0x1007), (512, 0x2007)] {
        set(at, raw);
    }
    for table in 0..3 {
        let frame = FIRST + (table << 9);
        let entry = if shape.large { frame << 12 | 0xe7 } else { (3 + table) << 12 | 7 };
        set(1024 + table as usize, entry);
        for i in 0..512 {
            // Singles lie so that no two follow each other.
            let i = if shape.order == 0 { i * 5 % 512 } else { i };
            let at = 1536 + (table as usize) * 512 + i as usize;
            let behind = if shape.order == 0 { at as u64 * 205 % 512 } else { i };
            set(at, (frame + behind) << 12 | 0x67);
        }
    }
    memory
}

fn folios(words: &[Word], order: u8) -> FrameTable<'_> {
    let frames = FrameTable::new(words, Pfn::new(FIRST), BASE).unwrap();
    let order = Order::new(order).unwrap();
    let (kind, flags) = (FolioKind::Anonymous, FolioFlags::EXCLUSIVE);
    for at in (0..PAGES).step_by(1 << order.raw()) {
        let info = FolioInfo { order, kind, flags };
        frames.add_memory(Pfn::new(FIRST + at), info).unwrap().unfreeze(1);
    }
    frames
}

/// Runs `test` for every bound and shape, with a table of so many words more or less than needed.
fn each(
    size: impl Fn(usize) -> usize,
    test: impl Fn(
        Shape,
        &Watch<'_>,
        &dyn Fn() -> Result<u64, PinError>,
        &dyn Fn() -> Result<u64, UnpinError>,
    ),
) {
    for (bound, shape) in BOUNDS.into_iter().flat_map(|bound| SHAPES.map(|shape| (bound, shape))) {
        let memory = tables(shape);
        let frame_words = words(2 * PAGES as usize);
        let frames = folios(&frame_words, shape.order);
        let start = VirtAddr::new(shape.skip << 12);
        let range = AddrRange::new(start, PageCount::new(PAGES - shape.skip), BASE).unwrap();
        let request = PinRequest::longterm(range, Access::READ | Access::WRITE);
        let table_words = words(size(PinTable::words_for(&range, BASE).unwrap()));
        let table = PinTable::new(&table_words).unwrap();
        let decoded = Cell::new(0);
        let watch = Watch::new(bound, frames, &decoded, &table_words);
        let Parts { memory, mappings, guard, fault, migrate, reclaim, account, trace, .. } =
            Parts::new(Memory(&memory), Nothing);
        let wait = &watch;
        let host = Host { memory, mappings, guard, fault, migrate, reclaim, account, wait, trace };
        let format = Counting(X86_64::new(4, 40).unwrap(), &decoded);
        let space = AddressSpace::new(SpaceId(0), format, format.0.root(0).unwrap());
        let engine = Engine::new(host, frames);
        let pin = || engine.pin(&space, &table, &request).map(|pinned| pinned.pages.raw());
        let unpin = || engine.unpin(&table, Dirtied::No).map(|given| given.pages.raw());
        test(shape, &watch, &pin, &unpin);
    }
}

#[test]
fn a_pin_and_an_unpin_keep_to_the_bound() {
    each(
        |enough| enough,
        |shape, watch, pin, unpin| {
            let pages = PAGES - shape.skip;
            assert_eq!(pin(), Ok(pages), "{shape:?}");
            watch.check(&format!("pin of {shape:?}"));
            let folios = pages.div_ceil(1 << shape.order);
            let entries = if shape.large { pages >> 9 } else { pages };
            let pauses = watch.pauses.take();
            assert!(pauses >= folios.max(entries) / watch.bound.max(1), "{pauses} of {shape:?}");
            assert_eq!(unpin(), Ok(pages));
            watch.check(&format!("unpin of {shape:?}"));
            assert!(watch.pauses.take() >= (folios - 1) / watch.bound.max(1), "{shape:?}");
        },
    );
}

#[test]
fn a_pin_that_is_stopped_keeps_to_the_bound_on_its_way_back() {
    each(
        |enough| enough,
        |shape, watch, pin, _| {
            for stop_at in [1, PAGES / 2, PAGES - 100] {
                watch.stop_at.set(Some(stop_at));
                let kind = pin().map_err(|error| error.kind());
                // A step may reach the end before anybody asks.
                let done = kind == Err(ErrorKind::Interrupted);
                assert!(done, "{shape:?}: {kind:?}");
                watch.check(&format!("stopped pin of {shape:?}"));
                assert!(watch.pins.borrow().iter().all(|pins| *pins == 0), "{shape:?}");
            }
        },
    );
}

#[test]
fn a_table_that_is_too_small_is_measured_within_the_bound() {
    each(
        |enough| HEADER_WORDS + (enough - HEADER_WORDS) / 3,
        |shape, watch, pin, unpin| {
            match pin() {
                // Some shapes need no more.
                Ok(pages) => assert_eq!(unpin(), Ok(pages)),
                Err(error) => {
                    let PinCause::Table(TableError::NoSpace { .. }) = error.cause else {
                        panic!("{shape:?}: {error}")
                    };
                }
            }
            watch.check(&format!("measured pin of {shape:?}"));
        },
    );
}

/// Every address is its own frame; every page is reported by itself.
struct Single {
    /// Pages reported or given back since the last pause, and the most there ever were.
    since: Cell<u64>,
    most: Cell<u64>,
    held: Cell<u64>,
    bound: u64,
}

impl Single {
    fn did(&self) {
        self.since.set(self.since.get() + 1);
        self.most.set(self.most.get().max(self.since.get()));
    }
}

impl PinSource for &Single {
    fn base(&self) -> PageShift {
        BASE
    }
    fn chunk(&self) -> Order {
        Order::new(10).unwrap()
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        for i in 0..part.pages().raw() {
            let pfn = (part.start().raw() >> 12) + i;
            runs.push(Pfn::new(pfn ^ 1), PageCount::ONE)?;
            self.held.set(self.held.get() + 1);
            self.did();
        }
        Ok(())
    }
    fn unpin(&self, run: Run) {
        self.held.set(self.held.get() - run.pages.raw());
        self.did();
    }
}

impl Wait for Single {
    fn step(&self) -> u64 {
        self.bound
    }
    fn pause(&self, progress: Progress) -> Flow {
        assert!(progress.done <= progress.total);
        self.since.set(0);
        Flow::Continue
    }
}

impl pinfold::host::Host for &Single {
    type Wait = Single;
    type Account = NoAccount;
    type Trace = NoTrace;
    fn wait(&self) -> &Single {
        self
    }
    fn account(&self) -> &NoAccount {
        &NoAccount
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

#[test]
fn host_pins_keep_to_the_bound_however_many_runs_a_part_has() {
    for bound in BOUNDS {
        let zero = Cell::default;
        let host = Single { since: zero(), most: zero(), held: zero(), bound };
        let pins = HostPins::new(&host, &host);
        let range = AddrRange::new(VirtAddr::new(0x123_000), PageCount::new(PAGES), BASE).unwrap();
        let table_words = words(PinTable::words_for(&range, BASE).unwrap());
        let table = PinTable::new(&table_words).unwrap();
        let request = PinRequest::longterm(range, Access::READ);
        let pinned = pins.pin(SpaceId(0), &table, &request).unwrap();
        assert_eq!((pinned.pages.raw(), host.held.get()), (PAGES, PAGES));
        let va = VirtAddr::new(0x123_000 + 77 * 4096);
        assert_eq!(table.lookup(va), Ok(PhysAddr::new(va.raw() ^ 0x1000)));
        pins.unpin(&table, Dirtied::No).unwrap();
        assert_eq!(host.held.get(), 0);
        assert!(host.most.get() <= bound.max(1), "{} with bound {bound}", host.most.get());
    }
}
