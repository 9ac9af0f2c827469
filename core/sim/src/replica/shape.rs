//! The machine as a whole: format, zones, CMA areas.

use pinfold::{PageCount, PageFormat, Pfn};

use super::ReplicaError;
use crate::format::TableFormat;
use crate::layout::{FrameRange, Layout, ZoneKind, ZoneLayout};
use crate::snapshot::{Snapshot, Zone};

/// The largest machine that is simulated: 64 GiB in base pages of 4 KiB.
const FRAMES: u64 = 1 << 24;

/// The zone of memory that belongs to devices. The kernel does not tell where it lies.
const DEVICE: &str = "Device";

pub(super) fn layout(snapshot: &Snapshot) -> Result<Layout, ReplicaError> {
    let (format, _) = snapshot.format()?;
    let base = format.base();
    let has_memory = |zone: &&Zone| zone.spanned > 0 && zone.name != DEVICE;
    let mut zones: Vec<&Zone> = snapshot.zones.iter().filter(has_memory).collect();
    zones.sort_by_key(|zone| zone.start_pfn);
    let first = zones.first().ok_or(ReplicaError::Unsupported { what: "it has no memory" })?;
    let mut layout = Layout { base, ..Layout::new(Pfn::new(first.start_pfn)) };
    for zone in &zones {
        let wrong = |what| ReplicaError::Zone { name: zone.name.clone(), what };
        let gap = zone.start_pfn.checked_sub(layout.end().raw());
        let gap = gap.ok_or(wrong("it overlaps another zone"))?;
        let size = gap.checked_add(zone.spanned).filter(|size| *size <= FRAMES);
        let end = size.and_then(|size| layout.frames().pages.raw().checked_add(size));
        if end.is_none_or(|end| end > FRAMES) {
            return Err(wrong("more than 16 Mi frames from the first one on"));
        }
        let last = zone.start_pfn.checked_add(zone.spanned - 1);
        let last = last.and_then(|last| Pfn::new(last).addr(base));
        if !last.is_some_and(|last| format.can_map(last)) {
            return Err(wrong("it lies beyond the physical address width"));
        }
        if gap > 0 {
            let pages = PageCount::new(gap);
            layout.zones.push(ZoneLayout { name: "hole", kind: ZoneKind::Normal, pages });
        }
        let (name, kind) = known(&zone.name).ok_or(wrong("not a zone that is supported"))?;
        layout.zones.push(ZoneLayout { name, kind, pages: PageCount::new(zone.spanned) });
    }
    areas(snapshot, &mut layout)?;
    let normal = placed(&layout).filter(|(zone, _)| zone.kind == ZoneKind::Normal);
    let normal: u64 = normal.map(|(_, frames)| frames.pages.raw()).sum();
    if normal == layout.cma.iter().map(|area| area.pages.raw()).sum() {
        return Err(ReplicaError::Unsupported { what: "it has no memory outside movable zones" });
    }
    Ok(layout)
}

/// Zones by the kernel's names.
fn known(name: &str) -> Option<(&'static str, ZoneKind)> {
    Some(match name {
        "DMA" => ("DMA", ZoneKind::Normal),
        "DMA32" => ("DMA32", ZoneKind::Normal),
        "Normal" => ("Normal", ZoneKind::Normal),
        "Movable" => ("Movable", ZoneKind::Movable),
        _ => return None,
    })
}

/// Where a zone of the layout lies.
fn placed(layout: &Layout) -> impl Iterator<Item = (ZoneLayout, FrameRange)> {
    let mut at = layout.first;
    layout.zones.iter().map(move |zone| {
        let frames = FrameRange::new(at, zone.pages);
        at = frames.end();
        (*zone, frames)
    })
}

fn areas(snapshot: &Snapshot, layout: &mut Layout) -> Result<(), ReplicaError> {
    for area in &snapshot.cma {
        let wrong = |what| Err(ReplicaError::Cma { name: area.name.clone(), what });
        let Some(end) = area.start_pfn.checked_add(area.frames).filter(|_| area.frames > 0) else {
            return wrong("it has no frames");
        };
        let frames = FrameRange::new(Pfn::new(area.start_pfn), PageCount::new(area.frames));
        let inside = placed(layout).any(|(zone, all)| {
            zone.kind == ZoneKind::Normal && all.start <= frames.start && end <= all.end().raw()
        });
        if !inside {
            return wrong("it does not lie in one zone of kernel memory");
        }
        if layout.cma.iter().any(|other| other.overlaps(&frames)) {
            return wrong("it overlaps another one");
        }
        layout.cma.push(frames);
    }
    Ok(())
}
