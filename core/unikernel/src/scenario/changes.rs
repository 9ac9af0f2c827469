//! What changes while the device uses it: a large leaf is split, memory takes the place of other memory,
//! and tables get more levels.

use pinfold::iopt::{IoRun, IoptError};
use pinfold_arch::{Access, IoFormat, Iova, PhysAddr};

use super::space::Space;
use super::{Size, block};
use crate::dma::TRANSFER;
use crate::iommu::Iommu;

/// A page is taken out of the middle of a block.
pub(super) fn split<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let Some(shift) = block(space.format()) else { return };
    let (start, data, bytes) = space.probe.stage.memory.page(shift);
    let at = Iova::new(0x1_0000_0000 + shift.bytes());
    let run =
        |from: u64, to: u64| IoRun { addr: PhysAddr::new(start.raw() + from), bytes: to - from };
    let iova = |offset: u64| Iova::new(at.raw() + offset);
    let addr = |offset: u64| PhysAddr::new(start.raw() + offset);
    space.map(at, &[run(0, shift.bytes())], Access::all()).expect("room for a leaf");

    let page = space.format().base().bytes();
    let hole = data.raw() - start.raw() + bytes / 2;
    let sides = [(hole - TRANSFER, "before"), (hole + page, "behind")];
    space.probe.reaches(iova(hole), addr(hole), format_args!("{} leaf", Size(shift)));
    match space.split(iova(hole), page) {
        Ok(()) => {}
        Err(error) => {
            let refused = matches!(error, IoptError::Indivisible { .. });
            let report = &mut space.probe.stage.report;
            report.check(refused, format_args!("{} leaf in use: not to be split", Size(shift)));
            space.unmap(at, &[run(0, shift.bytes())], |_| ());
            return;
        }
    }
    // Not flushed: that is the promise.
    space.probe.reaches(iova(hole), addr(hole), format_args!("a page of the leaf that was split"));
    for (offset, name) in sides {
        space.probe.reaches(iova(offset), addr(offset), format_args!("{name} that page"));
    }
    space.unmap(iova(hole), &[run(hole, hole + page)], |_| ());
    space.probe.blocked(iova(hole), addr(hole), format_args!("that page, taken out"));
    for (offset, name) in sides {
        space.probe.reaches(iova(offset), addr(offset), format_args!("{name} the hole"));
    }
    space.unmap(at, &[run(0, hole)], |_| ());
    space.unmap(iova(hole + page), &[run(hole + page, shift.bytes())], |_| ());
    for (offset, name) in sides {
        space.probe.blocked(iova(offset), addr(offset), format_args!("{name} the hole, taken out"));
    }
}

/// Pages in place of others.
pub(super) fn replace<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let base = space.format().base();
    let (memory, ..) = space.probe.stage.memory.page(base);
    let start = 0x1_8000_0000;
    let at = |page: u64| Iova::new(start + page * base.bytes());
    let addr = |page: u64| PhysAddr::new(memory.raw() + page * base.bytes());
    let run = |page: u64| IoRun { addr: addr(page), bytes: base.bytes() };
    let (old, new) = ([run(0), run(2), run(4)], [run(8), run(6)]);
    space.map(at(0), &old, Access::all()).expect("room for pages");
    for (page, run) in (0..).zip(old) {
        space.probe.reaches(
            at(page),
            run.addr,
            format_args!("page {page}, with other memory later"),
        );
    }
    space.replace(at(1), &new, &[run(2), run(4)]);
    let now = [run(0), run(8), run(6)];
    for (page, run) in (0..).zip(now) {
        space.probe.reaches(at(page), run.addr, format_args!("page {page}, replaced from 1 on"));
    }
    space.unmap(at(0), &now, |_| ());
}

/// One level more: what was mapped stays, and what was beyond is reached.
pub(super) fn grow<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let format = space.format();
    let taller = format.levels().checked_add(1).and_then(|levels| format.with_levels(levels));
    let Some(taller) = taller.filter(|taller| space.probe.unit.has(taller)) else { return };
    let base = format.base();
    let (memory, ..) = space.probe.stage.memory.page(base);
    let run = |page: u64| {
        let addr = PhysAddr::new(memory.raw() + page * base.bytes());
        IoRun { addr, bytes: base.bytes() }
    };
    let (low, high) = (format.last().align_down(base), taller.last().align_down(base));
    space.map(low, &[run(0)], Access::all()).expect("room for a page");
    space.probe.reaches(low, run(0).addr, format_args!("{low}, before the tables grow"));
    space.grow(high);
    space.probe.reaches(low, run(0).addr, format_args!("{low}, after the tables have grown"));
    space.map(high, &[run(1)], Access::all()).expect("room for a page");
    space.probe.reaches(high, run(1).addr, format_args!("{high}, with one level more"));
    space.unmap(high, &[run(1)], |_| ());
    space.unmap(low, &[run(0)], |_| ());
    space.probe.blocked(high, run(1).addr, format_args!("{high}, flushed"));
}
