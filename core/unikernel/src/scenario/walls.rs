//! Where device addresses begin and end, and a device that may not do anything.

use pinfold::iopt::{IoRun, IoptError};
use pinfold_arch::{Access, IoFormat, Iova};

use super::Blind;
use super::probe::{Said, WINDOW};
use super::space::Space;
use crate::iommu::Iommu;

pub(super) fn first_and_last<U: Iommu>(space: &mut Space<'_, '_, '_, U>, blind: Blind) {
    let (format, base) = (space.format(), space.format().base());
    let (page, ..) = space.probe.stage.memory.page(base);
    let run = IoRun { addr: page, bytes: base.bytes() };
    let last = format.last().align_down(base);
    let first = space.probe.unit.first();
    for (at, name) in [(first, "first"), (last, "last")] {
        space.map(at, &[run], Access::all()).expect("room for a page");
        space.probe.reaches(at, page, format_args!("the {name} page of all, {at}"));
        space.unmap(at, &[run], |_| ());
        space.probe.blocked(at, page, format_args!("the {name} page of all, flushed"));
    }
    let Some(beyond) = last.checked_add(base.bytes()) else { return };
    let refused = space.map(beyond, &[run], Access::all());
    let refused = matches!(refused, Err(IoptError::OutsideAperture { .. }));
    let report = &mut space.probe.stage.report;
    report.check(refused, format_args!("nothing is mapped beyond the last page"));
    if !blind.beyond {
        // What a unit would find that does not look at the upper bits.
        space.map(Iova::new(0), &[run], Access::all()).expect("room for a page");
        space.probe.blocked(beyond, page, format_args!("beyond the last page, {beyond}"));
    }
}

pub(super) fn without_tables<U: Iommu>(space: Space<'_, '_, '_, U>) {
    let window = space.probe.stage.memory.window();
    space.end(|probe| {
        probe.blocks_write(WINDOW, window, Said::May, format_args!("without tables"));
    });
}
