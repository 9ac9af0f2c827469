//! The captured machine, and what there is to know about the guest in it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use pinfold::folio::FolioFlags;
use pinfold::sync::Word;
use pinfold::table::PinTable;
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{Access, AddrRange, Order, PageCount, PageShift, PinRequest, VirtAddr};
use pinfold_sim::snapshot::{FrameClass, FrameRange, Snapshot};
use pinfold_sim::{ContigError, Machine, Ram, Replica};

pub(crate) type Fallible<T> = Result<T, Box<dyn Error>>;

/// A page of the guest: where it is and how its folio is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) frame: u64,
    pub(crate) order: u8,
    pub(crate) zero: bool,
    pub(crate) dirty: bool,
    pub(crate) references: u32,
    pub(crate) pins: u32,
}

/// The snapshot in a file, and whether a CMA area was added to it.
pub(crate) fn load(path: &Path) -> Fallible<(Snapshot, bool)> {
    let about = |error: &dyn Error| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|error| format!("cannot read {}", about(&error)))?;
    let mut snapshot = Snapshot::parse(&bytes).map_err(|error| about(&error))?;
    let layout = Replica::layout(&snapshot).map_err(|error| about(&error))?;
    let overlay = snapshot.cma.is_empty();
    if overlay {
        // What follows may rely on a snapshot that does not contradict itself.
        Replica::new(&Ram::new(&layout), &snapshot).map_err(|error| about(&error))?;
        overlay_area(&mut snapshot)?;
    }
    Ok((snapshot, overlay))
}

/// The range of the guest's memory.
pub(crate) fn guest(snapshot: &Snapshot) -> Fallible<AddrRange> {
    let (start, pages) = snapshot.guest().ok_or("the snapshot has no guest in one range")?;
    range(start, pages)
}

pub(crate) fn range(start: u64, pages: u64) -> Fallible<AddrRange> {
    Ok(AddrRange::new(VirtAddr::new(start), PageCount::new(pages), PageShift::SIZE_4K)?)
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

/// Declares a CMA area where the kernel had none: over the frames in a row, none of them the
/// kernel's, that hold most of the guest.
fn overlay_area(snapshot: &mut Snapshot) -> Fallible<()> {
    let guest: BTreeSet<u64> = said(snapshot, &guest(snapshot)?).into_values().collect();
    let tables: BTreeSet<u64> = snapshot.tables.iter().map(|table| table.addr >> 12).collect();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let movable =
        |class| matches!(class, FrameClass::Free | FrameClass::Process | FrameClass::Movable);
    for run in snapshot.memory.iter().filter(|run| movable(run.class)) {
        let zone = snapshot
            .zones
            .iter()
            .find(|zone| (zone.start_pfn..zone.start_pfn + zone.spanned).contains(&run.start_pfn));
        let end = run.start_pfn + run.frames;
        if zone.is_none_or(|zone| zone.name == "Movable" || end > zone.start_pfn + zone.spanned)
            || tables.range(run.start_pfn..end).next().is_some()
        {
            continue;
        }
        let border = zone.is_some_and(|zone| zone.start_pfn == run.start_pfn);
        match runs.last_mut() {
            Some((_, last)) if *last == run.start_pfn && !border => *last = end,
            _ => runs.push((run.start_pfn, end)),
        }
    }
    // Free memory elsewhere must be left to move the guest to.
    let of_guest = |(start, end): &(u64, u64)| guest.range(*start..*end).count();
    let cut = runs.iter().map(|(start, end)| {
        let last = guest.range(*start..*end).next_back().map_or(*start, |last| last + 1);
        (*start, last)
    });
    let (start, end) = cut.max_by_key(of_guest).ok_or("no memory for a CMA area")?;
    let name = "overlay".to_owned();
    snapshot.cma.push(FrameRange { start_pfn: start, frames: end - start, name });
    Ok(())
}

/// The frame that the kernel names for each page of a range.
pub(crate) fn said(snapshot: &Snapshot, range: &AddrRange) -> BTreeMap<u64, u64> {
    let pages = snapshot.pages.iter().filter_map(|run| Some((run, run.frame()?)));
    let pages =
        pages.flat_map(|(run, frame)| (0..run.count).map(move |i| (run.va + (i << 12), frame + i)));
    pages.filter(|(va, _)| range.contains(VirtAddr::new(*va))).collect()
}

/// Every page of the range that is present.
pub(crate) fn pages(replica: &Replica<'_>, range: &AddrRange) -> BTreeMap<u64, Page> {
    let (machine, id) = (replica.machine(), replica.space().id());
    let mut pages = BTreeMap::new();
    for i in 0..range.pages().raw() {
        let va = range.start().raw() + (i << 12);
        let Some(at) = machine.translate(id, va, Access::READ) else { continue };
        let frame = at.raw() >> 12;
        let Some(folio) = machine.folio_at(id, va) else { continue };
        let (info, counts) = (folio.info(), machine.frames().counts_of(folio));
        let page = Page {
            frame,
            order: info.order.raw(),
            zero: info.flags.contains(FolioFlags::ZERO),
            dirty: info.flags.contains(FolioFlags::DIRTY),
            references: counts.references(),
            pins: counts.pins(),
        };
        pages.insert(va, page);
    }
    pages
}

/// Frames that are the guest's own.
pub(crate) fn own(pages: &BTreeMap<u64, Page>) -> BTreeSet<u64> {
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
}

pub(crate) fn walk(replica: &Replica<'_>, range: &AddrRange) -> Fallible<Walked> {
    let (machine, space) = (replica.machine(), replica.space());
    let mut walk = RangeWalk::new(space.format(), space.root(), machine, *range)?;
    let mut found = Walked::default();
    while let Some(extent) = walk.next_extent()? {
        match extent {
            Extent::Hole { pages, .. } => {
                found.holes += 1;
                found.absent += pages.raw();
            }
            Extent::Leaf(run) => {
                found.runs += 1;
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

/// Allocates it as POWER does: at any multiple of 256 KiB.
pub(crate) fn allocate_hpt(machine: &Machine<'_>) -> Result<pinfold_sim::FrameRange, ContigError> {
    let align = Order::new(6).ok_or(ContigError::NoRoom)?;
    machine.alloc_contig_aligned(0, hpt_pages(machine).1, align)
}

/// Whether the kernel must be able to take this frame back.
pub(crate) fn is_kept(snapshot: &Snapshot, frame: u64) -> bool {
    let zones = snapshot.zones.iter().filter(|zone| zone.name == "Movable");
    let zones = zones.map(|zone| (zone.start_pfn, zone.spanned));
    let areas = snapshot.cma.iter().map(|area| (area.start_pfn, area.frames));
    zones.chain(areas).any(|(start, frames)| (start..start + frames).contains(&frame))
}
