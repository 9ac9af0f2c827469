//! Measures: where the guest's pages are, how they are counted, what a walk finds.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::sync::Word;
use pinfold::table::PinTable;
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{Access, AddrRange, PageCount, PageShift, PinRequest, VirtAddr};
use pinfold_sim::{ContigError, FrameRange};

use crate::stage::{Machine, Stage};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// A range that is pinned in one call, and its table.
pub(crate) type Asked<'m> = (AddrRange, PinTable<'m>);

/// A page of the guest: where it is and how its folio is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) frame: u64,
    pub(crate) order: u8,
    pub(crate) kind: FolioKind,
    pub(crate) zero: bool,
    pub(crate) dirty: bool,
    pub(crate) references: u32,
    pub(crate) pins: u32,
}

pub(crate) fn range(start: u64, pages: u64, base: PageShift) -> Fallible<AddrRange> {
    Ok(AddrRange::new(VirtAddr::new(start), PageCount::new(pages), base)?)
}

/// What VFIO asks for: a long-term pin for reading and writing.
pub(crate) fn longterm(range: AddrRange) -> PinRequest {
    PinRequest::longterm(range, Access::READ | Access::WRITE)
}

/// Memory for a pin table of the range that is always enough.
pub(crate) fn words(range: &AddrRange) -> Fallible<Vec<Word>> {
    let words = PinTable::words_for(range, range.base()).ok_or("the range is too long")?;
    Ok((0..words).map(|_| Word::new(0)).collect())
}

/// Every page of the guest that is present, by address.
pub(crate) type Pages = BTreeMap<u64, Page>;

/// Every page of the guest that is present.
pub(crate) fn pages(stage: &Stage<'_>) -> Pages {
    let (machine, id, range) = (stage.machine(), stage.space().id(), &stage.guest);
    let mut pages = BTreeMap::new();
    for i in 0..range.pages().raw() {
        let va = range.start().raw() + (i << range.base().raw());
        let Some(at) = machine.translate(id, va, Access::READ) else { continue };
        let frame = at.pfn(range.base()).raw();
        let Some(folio) = machine.folio_at(id, va) else { continue };
        let (info, counts) = (folio.info(), machine.frames().counts_of(folio));
        let page = Page {
            frame,
            order: info.order.raw(),
            kind: info.kind,
            zero: info.flags.contains(FolioFlags::ZERO),
            dirty: info.flags.contains(FolioFlags::DIRTY),
            references: counts.references(),
            pins: counts.pins(),
        };
        pages.insert(va, page);
    }
    pages
}

/// Without the pages of parts that must not be pinned.
pub(crate) fn pinnable(stage: &Stage<'_>, mut pages: Pages) -> Pages {
    for part in stage.refused() {
        pages.retain(|va, _| !part.range.contains(VirtAddr::new(*va)));
    }
    pages
}

/// Frames that are the guest's own.
pub(crate) fn own(pages: &Pages) -> BTreeSet<u64> {
    pages.values().filter(|page| !page.zero).map(|page| page.frame).collect()
}

/// What one pass over the page tables finds.
#[derive(Default)]
pub(crate) struct Walked {
    pub(crate) tables: u64,
    pub(crate) entries: u64,
    pub(crate) runs: u64,
    pub(crate) holes: u64,
    pub(crate) absent: u64,
    /// By order of the folio: runs and pages.
    pub(crate) sizes: BTreeMap<u8, (u64, u64)>,
    /// The frame behind each address.
    pub(crate) frames: BTreeMap<u64, u64>,
}

pub(crate) fn walk(stage: &Stage<'_>) -> Fallible<Walked> {
    let (machine, space) = (stage.machine(), stage.space());
    let mut walk = RangeWalk::new(space.format(), space.root(), machine, stage.guest)?;
    let mut found = Walked::default();
    while let Some(extent) = walk.next_extent()? {
        match extent {
            Extent::Hole { pages, .. } => {
                found.holes += 1;
                found.absent += pages.raw();
            }
            Extent::Leaf(run) => {
                found.runs += 1;
                let (va, frame) = (run.va.raw(), run.pfn.raw());
                let base = stage.guest.base().raw();
                found.frames.extend((0..run.pages.raw()).map(|i| (va + (i << base), frame + i)));
                let (mut at, mut last) = (0, None);
                while at < run.pages.raw() {
                    let folio = run.pfn.checked_add(PageCount::new(at));
                    let folio = folio.and_then(|pfn| machine.frames().folio(pfn));
                    let folio = folio.ok_or("a page of the guest is no memory")?;
                    let inside = run.pfn.raw() + at - folio.head().raw();
                    let pages = (folio.order().pages().raw() - inside).min(run.pages.raw() - at);
                    let order = folio.order().raw();
                    let size = found.sizes.entry(order).or_default();
                    *size = (size.0 + u64::from(last != Some(order)), size.1 + pages);
                    (at, last) = (at + pages, Some(order));
                }
            }
        }
    }
    (found.tables, found.entries) = (walk.tables(), walk.entries());
    Ok(found)
}

/// Pages of the first CMA area, and of the largest hash page table that fits into it.
pub(crate) fn hpt_pages(machine: &Machine<'_>) -> (u64, u64) {
    let area = machine.ram().layout().cma.first().map_or(0, |area| area.pages.raw());
    (area, area.checked_ilog2().map_or(0, |order| 1 << order))
}

/// Where a hash page table may begin.
const HPT_ALIGN: PageShift = match PageShift::new(18) {
    Some(shift) => shift,
    None => panic!("18 is a shift"),
};

/// Allocates it as POWER does: at any multiple of 256 KiB.
pub(crate) fn allocate_hpt(machine: &Machine<'_>) -> Result<FrameRange, ContigError> {
    let align = HPT_ALIGN.order(machine.ram().base());
    machine.alloc_contig_aligned(0, hpt_pages(machine).1, align)
}
