//! Tables as small as they can be, and memory for them that tells what an IOMMU sees of it.

use std::sync::Mutex;

use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::sync::{Ordering, Word};
use pinfold::{Access, PageShift, PhysAddr};
use pinfold_arch::ioformat::LeafSizes;
use pinfold_arch::{EncodeError, IoEntry, IoFormat, IoLeaf, IoTable, Iova};

const BASE: PageShift = PageShift::SIZE_4K;
/// Address bits that index a table.
const BITS: u8 = 2;
/// Bytes of a table.
const BYTES: u64 = 64;

/// A format with tables of four entries: 1 beside an address is a page, 2 a table, neither is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiny {
    pub(crate) levels: u8,
}

impl IoFormat for Tiny {
    fn name(&self) -> &'static str {
        "tiny"
    }
    fn big_endian(&self) -> bool {
        false
    }
    fn base(&self) -> PageShift {
        BASE
    }
    fn last(&self) -> Iova {
        Iova::new((1 << (BASE.raw() + BITS * self.levels)) - 1)
    }
    fn top(&self, base: PhysAddr) -> IoTable {
        let shift = PageShift::new(BASE.raw() + BITS * (self.levels - 1)).unwrap();
        IoTable { base, shift, bits: BITS }
    }
    fn levels(&self) -> u8 {
        self.levels
    }
    fn with_levels(&self, levels: u8) -> Option<Self> {
        (1..=4).contains(&levels).then_some(Self { levels })
    }
    fn below(&self, at: &IoTable, base: PhysAddr) -> Option<IoTable> {
        let shift = at.shift.raw().checked_sub(BITS).filter(|shift| *shift >= BASE.raw())?;
        Some(IoTable { base, shift: PageShift::new(shift)?, bits: BITS })
    }
    fn leaf_sizes(&self, at: &IoTable) -> LeafSizes {
        if at.shift == BASE { LeafSizes::NONE.with(BASE) } else { LeafSizes::NONE }
    }
    fn decode(&self, at: &IoTable, raw: u64) -> IoEntry {
        let addr = PhysAddr::new(raw & !3);
        match (raw & 3, self.below(at, addr)) {
            (0, _) => IoEntry::Absent,
            (1, None) => IoEntry::Leaf(IoLeaf::new(addr, BASE, Access::all())),
            (2, Some(next)) => IoEntry::Table(next, Access::all()),
            _ => IoEntry::Malformed,
        }
    }
    fn encode(&self, _: &IoTable, _: u32, entry: IoEntry) -> Result<u64, EncodeError> {
        Ok(match entry {
            IoEntry::Leaf(leaf) => leaf.addr.raw() | 1,
            IoEntry::Table(next, _) => next.base.raw() | 2,
            IoEntry::Absent | IoEntry::Malformed => 0,
        })
    }
    fn address_bits(&self, _: &IoTable) -> u64 {
        !BASE.mask()
    }
    fn volatile_bits(&self) -> u64 {
        0
    }
}

/// Memory for eight tables, each given out once. What the host does for itself is no part of a model, so
/// it has a plain lock, which orders nothing.
pub(crate) struct Memory {
    words: Vec<Word>,
    /// What an IOMMU sees that does not look into caches. In no order by itself: saying that something is
    /// written makes it visible to those behind whom it is said.
    seen: Vec<Word>,
    caches: bool,
    state: Mutex<State>,
}

struct State {
    given: u64,
    used: Vec<PhysAddr>,
}

const TABLES: u64 = 8;
/// Where it begins.
const START: u64 = 0x1000;
/// What it holds at first: malformed in every table.
const GARBAGE: u64 = u64::MAX;

impl Memory {
    /// With an IOMMU that looks into caches, or with one that does not.
    pub(crate) fn new(caches: bool) -> Self {
        let words = |tables: u64| (0..tables * BYTES / 8).map(|_| Word::new(GARBAGE)).collect();
        let state = Mutex::new(State { given: 0, used: Vec::new() });
        Self { words: words(TABLES), seen: words(if caches { 0 } else { TABLES }), caches, state }
    }

    /// Tables that were given out and not taken back.
    pub(crate) fn used(&self) -> u64 {
        self.state.lock().unwrap().used.len() as u64
    }

    /// Where an IOMMU finds an address that does not look into caches.
    pub(crate) fn seen(&self, root: IoTable, at: Iova) -> Option<PhysAddr> {
        let mut table = root;
        loop {
            let word = (table.base.raw() - START) / 8 + u64::from(table.index(at));
            let raw = self.seen[usize::try_from(word).unwrap()].load(Ordering::Relaxed);
            match (Tiny { levels: 1 }).decode(&table, raw) {
                IoEntry::Table(next, _) => table = next,
                IoEntry::Leaf(leaf) => return Some(leaf.addr),
                IoEntry::Absent => return None,
                IoEntry::Malformed => panic!("the IOMMU sees what was never written"),
            }
        }
    }
}

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw().checked_sub(START)? / 8).ok()?;
        self.words.get(first..first.checked_add(entries)?).map(TableView::from_words)
    }
}

impl IoTables for Memory {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        assert_eq!(bytes, BYTES);
        let mut state = self.state.lock().unwrap();
        let base = PhysAddr::new(START + state.given * BYTES);
        state.given += 1;
        state.used.push(base);
        (state.given <= TABLES).then_some(base)
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        assert_eq!(bytes, BYTES);
        let mut state = self.state.lock().unwrap();
        let at = state.used.iter().position(|used| *used == table);
        state.used.swap_remove(at.expect("a table in use"));
    }

    /// A line that is written back holds the newest value, which of all loads only a change in place is sure to
    /// see.
    fn written(&self, at: PhysAddr, bytes: u64) {
        let words = (at.raw() - START) / 8..(at.raw() - START + bytes) / 8;
        for word in words.filter(|_| !self.caches).map(|word| usize::try_from(word).unwrap()) {
            let newest = self.words[word].fetch_add(0, Ordering::Relaxed);
            self.seen[word].store(newest, Ordering::Relaxed);
        }
    }
}

impl Wait for Memory {
    fn pause(&self, _: Progress) -> Flow {
        Flow::Continue
    }
}
