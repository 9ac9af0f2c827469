//! In how large pieces a pinned range stays: what a successful pin says of it, on page tables written
//! by hand and for host pins. Only hugetlb folios count, each run on its own, and the smallest decides.
//! Numbers such as D29 are rows of `DEFECTS.md`.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{
    Flow, LeakFrames, Mapping, MappingKind, Mappings, NeverFreed, NoAccount, NoFault, NoMigrate,
    NoTrace, Parts, PhysMem, Progress, SpaceId, TableView, Wait,
};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, FrameTable, Order, PageCount, PageShift, Pfn,
    PhysAddr, PinRequest, PinTable, VirtAddr, X86_64,
};

mod any;
mod sizes;
mod source;

const BASE: PageShift = PageShift::SIZE_4K;
/// Pages of the smaller huge page, and of the larger one.
const HUGE: u64 = 512;
const GIANT: u64 = 512 * 512;
/// Pages from 0 on that are mapped by entries for base pages; then come entries for huge pages, and from
/// `GIANT` on for giant ones.
const SMALL: u64 = 4 * HUGE;

fn words(n: u64) -> Vec<Word> {
    (0..n).map(|_| Word::new(0)).collect()
}

fn order(raw: u8) -> Order {
    Order::new(raw).unwrap()
}

fn request(first: u64, pages: u64) -> PinRequest {
    let start = VirtAddr::new(first << 12);
    let range = AddrRange::new(start, PageCount::new(pages), BASE).unwrap();
    PinRequest::longterm(range, Access::READ | Access::WRITE)
}

/// Four levels of tables: one of each of the upper three, and four of the lowest.
struct Tables(Vec<Word>);

impl PhysMem for &Tables {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

struct OneMapping;

impl Mappings for OneMapping {
    fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> {
        let range = AddrRange::new(VirtAddr::new(0), PageCount::new(1 << 35), BASE).ok()?;
        let (kind, access) = (MappingKind::Hugetlb, Access::all());
        let (shared, may_write, dirty_tracked) = (false, true, false);
        Some(Mapping { range, kind, shared, access, may_write, dirty_tracked })
    }
}

/// A bound on what happens between two pauses.
struct Step(u64);

impl Wait for Step {
    fn step(&self) -> u64 {
        self.0
    }
    fn pause(&self, _: Progress) -> Flow {
        Flow::Continue
    }
}

/// Frames from 0 on, and one space.
struct World {
    tables: Tables,
    frames: Vec<Word>,
    step: u64,
}

impl World {
    fn new(frames: u64) -> Self {
        let (tables, frames) = (Tables(words(7 * 512)), words(2 * frames));
        let lowest = (0..4).map(|i| (1024 + i, (3 + i as u64) << 12 | 7));
        for (at, raw) in lowest.chain([(0, 0x1007), (512, 0x2007)]) {
            tables.0[at].store(raw.to_le(), Ordering::Relaxed);
        }
        Self { tables, frames, step: 4096 }
    }

    fn frames(&self) -> FrameTable<'_> {
        FrameTable::new(&self.frames, Pfn::new(0), BASE).unwrap()
    }

    /// Makes frames from `head` on one folio.
    fn folio(&self, head: u64, raw: u8, kind: FolioKind) {
        let info = FolioInfo { order: order(raw), kind, flags: FolioFlags::EXCLUSIVE };
        self.frames().add_memory(Pfn::new(head), info).unwrap().unfreeze(1);
    }

    fn hugetlb(&self, head: u64, raw: u8) {
        self.folio(head, raw, FolioKind::Hugetlb);
    }

    /// Maps frames from `pfn` on by so many entries, of the size that the page's place has.
    fn map(&self, page: u64, entries: u64, pfn: u64) {
        for i in 0..entries {
            let (at, raw) = match page {
                0..SMALL => (1536 + page + i, (pfn + i) << 12 | 0x67),
                SMALL..GIANT => (1024 + (page / HUGE) + i, (pfn + i * HUGE) << 12 | 0xe7),
                _ => (512 + (page / GIANT) + i, (pfn + i * GIANT) << 12 | 0xe7),
            };
            self.tables.0[at as usize].store(raw.to_le(), Ordering::Relaxed);
        }
    }

    /// What a pin says, which is undone again.
    fn indivisible(&self, first: u64, pages: u64) -> u8 {
        let host = Parts {
            memory: &self.tables,
            mappings: OneMapping,
            guard: NeverFreed,
            fault: NoFault,
            migrate: NoMigrate,
            reclaim: LeakFrames,
            account: NoAccount,
            wait: Step(self.step),
            trace: NoTrace,
        };
        let engine = Engine::new(host, self.frames());
        let format = X86_64::new(4, 46).unwrap();
        let space = AddressSpace::new(SpaceId(0), format, format.root(0).unwrap());
        let table_words = words(4096);
        let table = PinTable::new(&table_words).unwrap();
        let pinned = engine.pin(&space, &table, &request(first, pages)).unwrap();
        assert_eq!(pinned.pages.raw(), pages);
        engine.unpin(&table, Dirtied::No).unwrap();
        pinned.indivisible.raw()
    }
}
