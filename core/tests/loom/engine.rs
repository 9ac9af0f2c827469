//! The engine's whole lockless way, from the page-table entry to the pin table, run by loom against
//! those who take its memory away.

use std::sync::Arc;

use loom::thread;
use pinfold::folio::{Folio, FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::FrameTable;
use pinfold::host::{
    Flow, Mapping, MappingKind, Mappings, Parts, PhysMem, Progress, SpaceId, TableView, Wait,
};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, Order, PageCount, PageFormat, PageShift, Pfn,
    PhysAddr, PinRequest, PinTable, Rights, Table, VirtAddr,
};
use pinfold_arch::{EncodeError, Entry, Leaf};

const PFN: Pfn = Pfn::new(1);
const BASE: PageShift = PageShift::SIZE_4K;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
/// The folio's frame, mapped for everything.
const MAPPED: u64 = 0x1000 | PRESENT | WRITE;

/// One table of two entries.
#[derive(Clone, Copy)]
struct Tiny;

impl PageFormat for Tiny {
    fn name(&self) -> &'static str {
        "tiny"
    }
    fn big_endian(&self) -> bool {
        false
    }
    fn base(&self) -> PageShift {
        BASE
    }
    fn valid(&self, range: &AddrRange) -> bool {
        range.last().raw() < 0x2000
    }
    fn decode(&self, at: &Table, raw: u64) -> Entry {
        if raw & PRESENT == 0 {
            return Entry::Absent;
        }
        let mut rights = Rights::READ | Rights::USER;
        rights.set(Rights::WRITE, raw & WRITE != 0);
        let addr = PhysAddr::new(raw & !0xfff);
        Entry::Leaf(Leaf::new(addr, at.shift, rights))
    }
    fn encode(&self, _: &Table, _: Entry) -> Result<u64, EncodeError> {
        Err(EncodeError::Malformed)
    }
    fn volatile_bits(&self) -> u64 {
        0
    }
}

struct Shared {
    frames: Vec<Word>,
    entries: Vec<Word>,
    pins: Vec<Word>,
    space: AddressSpace<Tiny>,
}

struct Host(Arc<Shared>);

impl PhysMem for Host {
    fn table(&self, _: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.0.entries.get(..entries).map(TableView::from_words)
    }
}

struct Private;

impl Mappings for Private {
    fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> {
        Some(Mapping {
            range: request().range,
            kind: MappingKind::Anonymous,
            shared: false,
            access: Access::all(),
            may_write: true,
            dirty_tracked: false,
        })
    }
}

/// Waits for nobody: one batch and the end of a call, then it stops.
struct Patience(std::cell::Cell<u32>);

impl Wait for Patience {
    fn pause(&self, _: Progress) -> Flow {
        let Some(left) = self.0.get().checked_sub(1) else { return Flow::Stop };
        self.0.set(left);
        Flow::Continue
    }
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn request() -> PinRequest {
    let range = AddrRange::new(VirtAddr::new(0), PageCount::ONE, BASE).unwrap();
    PinRequest::longterm(range, Access::READ | Access::WRITE)
}

impl Shared {
    /// One anonymous folio, mapped once.
    fn new() -> Arc<Self> {
        let root = Table { base: PhysAddr::new(0), shift: BASE, bits: 1, first: 0, last: 1 };
        let this = Arc::new(Self {
            frames: words(2),
            entries: vec![Word::new(MAPPED), Word::new(0)],
            pins: words(16),
            space: AddressSpace::new(SpaceId(0), Tiny, root),
        });
        let info = FolioInfo {
            order: Order::ZERO,
            kind: FolioKind::Anonymous,
            flags: FolioFlags::EXCLUSIVE,
        };
        this.frames().add_memory(PFN, info).unwrap().unfreeze(1);
        this
    }

    fn frames(&self) -> FrameTable<'_> {
        FrameTable::new(&self.frames, PFN, BASE).unwrap()
    }

    fn folio(&self) -> Folio {
        self.frames().folio(PFN).unwrap()
    }
}

/// Whether the engine pinned the page. What it pinned stays pinned.
fn pin(shared: &Arc<Shared>) -> bool {
    let parts = Parts::new(Host(Arc::clone(shared)), Private);
    let host = Parts {
        memory: parts.memory,
        mappings: parts.mappings,
        guard: parts.guard,
        fault: parts.fault,
        migrate: parts.migrate,
        reclaim: parts.reclaim,
        account: parts.account,
        wait: Patience(std::cell::Cell::new(2)),
        trace: parts.trace,
    };
    let engine = Engine::new(host, shared.frames());
    let table = PinTable::new(&shared.pins).unwrap();
    engine.pin(&shared.space, &table, &request()).is_ok()
}

/// Every interleaving with at most three switches that nobody asked for.
fn model(race: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(race);
}

/// D16: the entry is cleared, and pins are looked for.
#[test]
fn a_page_is_never_taken_away_under_a_pin() {
    model(|| {
        let shared = Shared::new();
        let pinner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || pin(&shared))
        };
        let folio = shared.folio();
        shared.entries[0].swap(0, Ordering::SeqCst);
        let taken = shared.frames().freeze(folio, 1);
        // At once it is somebody else's, in the same state: only the entry tells.
        let taken = taken.map(|frozen| frozen.unfreeze(1)).is_ok();
        if !taken {
            shared.entries[0].store(MAPPED, Ordering::Release);
        }
        let pinned = pinner.join().unwrap();
        assert!(!(taken && pinned), "the page was taken away under a pin");
        let counts = shared.frames().counts_of(folio);
        assert_eq!(counts.pins(), u32::from(pinned));
    });
}

/// D5: a fork takes the page's exclusive mark away and looks for pins. With none it shares the
/// page; a pin that it did not see must not stand.
#[test]
fn a_page_that_a_fork_shares_is_not_pinned() {
    model(|| {
        let shared = Shared::new();
        let pinner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || pin(&shared))
        };
        let (frames, folio) = (shared.frames(), shared.folio());
        shared.space.fork_start();
        frames.set_flags(folio, FolioFlags::EXCLUSIVE, false);
        let copied = frames.counts_of(folio).pins() > 0;
        if copied {
            frames.set_flags(folio, FolioFlags::EXCLUSIVE, true);
        } else {
            shared.entries[0].swap(MAPPED & !WRITE, Ordering::SeqCst);
        }
        shared.space.fork_end();
        let pinned = pinner.join().unwrap();
        assert!(copied || !pinned, "the page was pinned and shared");
        assert_eq!(frames.counts_of(folio).pins(), u32::from(pinned));
    });
}

/// What is pinned is given back as a whole while another looks.
#[test]
fn what_is_given_back_is_given_back_once() {
    model(|| {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let folio = shared.folio();
                shared.frames().get(folio, 1).unwrap();
                shared.frames().put(folio, 1).unwrap().is_some()
            })
        };
        assert!(pin(&shared), "nothing is in the way");
        let parts = Parts::new(Host(Arc::clone(&shared)), Private);
        let table = PinTable::open(&shared.pins).unwrap();
        Engine::new(parts, shared.frames()).unpin(&table, Dirtied::No).unwrap();
        assert!(!other.join().unwrap(), "the last reference went");
        let counts = shared.frames().counts_of(shared.folio());
        assert_eq!((counts.references(), counts.pins()), (1, 0));
    });
}
