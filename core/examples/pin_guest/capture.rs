//! A guest of a real kernel: its capture, and what the kernel said itself.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use pinfold::{AddrRange, PageShift, VirtAddr};
use pinfold_sim::snapshot::{FrameClass, FrameRange, Snapshot, TablePage};
use pinfold_sim::{Ram, Replica};

use crate::scene::{Fallible, range};

/// The snapshot in a file, and whether a CMA area was added to it.
pub(crate) fn load(path: &Path) -> Fallible<(Snapshot, bool)> {
    let about = |error: &dyn Error| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|error| format!("cannot read {}", about(&error)))?;
    let mut snapshot = Snapshot::parse(&bytes).map_err(|error| about(&error))?;
    let layout = Replica::layout(&snapshot).map_err(|error| about(&error))?;
    let mut overlay = snapshot.cma.is_empty();
    if overlay {
        // What follows may rely on a snapshot that does not contradict itself.
        Replica::new(&Ram::new(&layout), &snapshot).map_err(|error| about(&error))?;
        overlay = overlay_area(&mut snapshot)?;
    }
    Ok((snapshot, overlay))
}

/// The base page size.
pub(crate) fn base(snapshot: &Snapshot) -> Fallible<PageShift> {
    Ok(PageShift::new(snapshot.base_shift).ok_or("the snapshot has no page size")?)
}

/// The range of the guest's memory.
pub(crate) fn guest(snapshot: &Snapshot) -> Fallible<AddrRange> {
    let (start, pages) = snapshot.guest().ok_or("the snapshot has no guest in one range")?;
    range(start, pages, base(snapshot)?)
}

/// Declares a CMA area where the kernel had none: over the frames in a row, none of them the
/// kernel's, that hold most of the guest. None if all of it lies in a movable zone.
fn overlay_area(snapshot: &mut Snapshot) -> Fallible<bool> {
    let guest: BTreeSet<u64> = said(snapshot, &guest(snapshot)?).into_values().collect();
    let frames = |table: &TablePage| {
        let last = table.addr + table.entries.len() as u64 * 8 - 1;
        table.addr >> snapshot.base_shift..=last >> snapshot.base_shift
    };
    let tables: BTreeSet<u64> = snapshot.tables.iter().flat_map(frames).collect();
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
    let best = cut.filter(|run| of_guest(run) > 0).max_by_key(of_guest);
    let Some((start, end)) = best else { return Ok(false) };
    let name = "overlay".to_owned();
    snapshot.cma.push(FrameRange { start_pfn: start, frames: end - start, name });
    Ok(true)
}

/// The frame that the kernel names for each page of a range.
pub(crate) fn said(snapshot: &Snapshot, range: &AddrRange) -> BTreeMap<u64, u64> {
    let pages = snapshot.pages.iter().filter_map(|run| Some((run, run.frame()?)));
    let base = range.base().raw();
    let pages = pages
        .flat_map(|(run, frame)| (0..run.count).map(move |i| (run.va + (i << base), frame + i)));
    pages.filter(|(va, _)| range.contains(VirtAddr::new(*va))).collect()
}
