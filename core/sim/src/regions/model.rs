//! What a registry must say, kept in the plainest way.

use std::collections::BTreeMap;

use pinfold::region::Region;
use pinfold::table::TooHard;
use pinfold::{Access, AddrRange, PageCount, PageShift, PhysAddr, RealMode, RegionId, VirtAddr};

pub(super) const BASE: PageShift = PageShift::SIZE_4K;
/// Words of a node of the directory.
pub(super) const NODE: u64 = 520;

/// Pages from the first up to, not including, the second.
pub(super) type Pages = (u64, u64);

pub(super) fn range((first, end): Pages) -> Option<AddrRange> {
    AddrRange::new(VirtAddr::new(first << 12), PageCount::new(end - first), BASE).ok()
}

fn overlap(a: Pages, b: Pages) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// A region that is registered.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: RegionId,
    pub(super) pages: Pages,
    pub(super) access: Access,
    pub(super) used: u64,
    pub(super) mapped: u64,
    pub(super) device: Option<PhysAddr>,
    /// Its table's number.
    pub(super) table: Option<usize>,
    /// Pages that were marked dirty.
    pub(super) marked: Vec<u64>,
}

impl Known {
    /// The largest page that its ends, and its place if it is device memory, allow.
    pub(super) fn usable(&self) -> PageShift {
        let Some(at) = self.device else { return BASE };
        let all = self.pages.0 | self.pages.1 | at.raw() >> 12;
        let zeros = u8::try_from(12 + all.trailing_zeros()).ok();
        zeros.and_then(PageShift::new).unwrap_or(BASE)
    }

    fn says(&self) -> Option<Region> {
        Some(Region {
            id: self.id,
            range: range(self.pages)?,
            used: self.used,
            mapped: self.mapped,
            access: self.access,
            usable: self.usable(),
            device: self.device,
        })
    }
}

/// A removed region that was not reclaimed: when it was removed, and its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retired {
    pub(super) time: u64,
    pub(super) nodes: u64,
    pub(super) table: Option<usize>,
}

/// All that a registry must know.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Order of the directory's root blocks.
    pub(super) order: u32,
    /// By first page.
    pub(super) regions: BTreeMap<u64, Known>,
    pub(super) retired: Vec<Retired>,
    pub(super) time: u64,
}

impl Model {
    pub(super) fn exactly(&mut self, pages: Pages) -> Option<&mut Known> {
        self.regions.get_mut(&pages.0).filter(|region| region.pages == pages)
    }

    pub(super) fn overlapping(&self, pages: Pages) -> Vec<RegionId> {
        let there = self.regions.values().filter(|region| overlap(region.pages, pages));
        there.map(|region| region.id).collect()
    }

    /// Nodes of the directory that these regions and one more take: a block has one where two
    /// regions touch it.
    pub(super) fn nodes(&self, more: Option<Pages>) -> u64 {
        let all: Vec<Pages> = self.regions.values().map(|r| r.pages).chain(more).collect();
        let mut nodes = 0;
        for order in (9..=self.order).step_by(9) {
            // Of two regions in a block one has an end there.
            let ends = all.iter().flat_map(|pages| [pages.0 >> order, (pages.1 - 1) >> order]);
            let mut blocks: Vec<u64> = ends.collect();
            blocks.sort_unstable();
            blocks.dedup();
            let shared = |block: &u64| {
                let block = (block << order, (block + 1) << order);
                all.iter().filter(|pages| overlap(**pages, block)).count() > 1
            };
            nodes += blocks.iter().filter(|block| shared(block)).count() as u64;
        }
        nodes
    }

    pub(super) fn retired_nodes(&self) -> u64 {
        self.retired.iter().map(|retired| retired.nodes).sum()
    }

    /// Takes a region out. Its nodes are retired.
    pub(super) fn remove(&mut self, first: u64) -> Option<Known> {
        let before = self.nodes(None);
        let region = self.regions.remove(&first)?;
        let nodes = before - self.nodes(None);
        self.retired.push(Retired { time: self.time, nodes, table: region.table });
        Some(region)
    }

    /// Forgets what was retired at this time or before; their tables.
    pub(super) fn reclaim(&mut self, time: u64) -> Vec<usize> {
        let due = self.retired.partition_point(|retired| retired.time <= time);
        self.retired.drain(..due).filter_map(|retired| retired.table).collect()
    }

    /// Whatever is asked at the borders of any region is answered as by looking at each in turn.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn check(&self, view: &RealMode<'_>) {
        let borders = self.regions.values().flat_map(|region| [region.pages.0, region.pages.1]);
        for border in borders {
            for va in [-4097_i64, -4096, -1, 0, 1, 4095] {
                let va = (border << 12).wrapping_add_signed(va);
                for bytes in [0, 1, 4096, 4097, va.wrapping_neg(), u64::MAX] {
                    let found = view.lookup(VirtAddr::new(va), bytes);
                    assert_eq!(found.ok(), self.lookup(va, bytes), "{va:#x}, {bytes:#x} bytes");
                }
            }
        }
        for region in self.regions.values() {
            let (start, bytes) = (region.pages.0 << 12, (region.pages.1 - region.pages.0) << 12);
            let found = view.lookup(VirtAddr::new(start), bytes);
            assert_eq!(found, Ok(region.id));
            let found = view.lookup(VirtAddr::new(start), bytes + 1);
            assert_eq!(found, Err(TooHard));
        }
    }

    fn lookup(&self, va: u64, bytes: u64) -> Option<RegionId> {
        let last = va.checked_add(bytes.checked_sub(1)?)?;
        let (_, region) = self.regions.range(..=va >> 12).next_back()?;
        (last >> 12 < region.pages.1).then_some(region.id)
    }

    /// What the registry says of each region is what is known.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn check_each(&self, say: impl Fn(RegionId) -> Option<Region>) {
        for region in self.regions.values() {
            assert_eq!(say(region.id), region.says());
        }
    }
}
