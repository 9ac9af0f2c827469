//! Leaves that allow one direction.

use pinfold::iopt::{IoRun, IoptError};
use pinfold_arch::{Access, IoFormat, Iova, PageShift, PhysAddr};

use super::probe::Said;
use super::space::Space;
use super::{Size, block};
use crate::iommu::Iommu;

/// In two sizes, of entries at two levels: a page and a block.
pub(super) fn one_at_a_time<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let format = space.format();
    for shift in core::iter::once(format.base()).chain(block(format)) {
        let leaf = Leaf::new(space, shift);
        read_only(space, &leaf);
        write_only(space, &leaf);
    }
}

struct Leaf {
    at: Iova,
    run: IoRun,
    size: Size,
    /// Where the device is sent to, and the memory that is there.
    there: Iova,
    addr: PhysAddr,
}

impl Leaf {
    fn new<U: Iommu>(space: &Space<'_, '_, '_, U>, shift: PageShift) -> Self {
        let (page, addr, _) = space.probe.stage.memory.page(shift);
        let at = Iova::new(0x3_0000_0000 + shift.bytes());
        let there = Iova::new(at.raw() + (addr.raw() - page.raw()));
        let run = IoRun { addr: page, bytes: shift.bytes() };
        Self { at, run, size: Size(shift), there, addr }
    }
}

fn read_only<U: Iommu>(space: &mut Space<'_, '_, '_, U>, leaf: &Leaf) {
    let Leaf { at, run, size, there, addr } = leaf;
    space.map(*at, &[*run], Access::READ).expect("room for a leaf");
    space.is_one_leaf(*at, *run, Access::READ);
    let probe = &mut space.probe;
    probe.blocks_write(*there, *addr, Said::Must, format_args!("{size} leaf to read"));
    probe.reads(*there, *addr, format_args!("{size} leaf to read"));
    probe.blocks_write(*there, *addr, Said::May, format_args!("{size} leaf to read, once more"));
    space.unmap(*at, &[*run], |_| ());
    space.probe.blocks_read(
        *there,
        *addr,
        Said::Must,
        format_args!("{size} leaf to read, flushed"),
    );
}

fn write_only<U: Iommu>(space: &mut Space<'_, '_, '_, U>, leaf: &Leaf) {
    let Leaf { at, run, size, there, addr } = leaf;
    if let Err(error) = space.map(*at, &[*run], Access::WRITE) {
        let refused = matches!(error, IoptError::Encode { .. });
        let report = &mut space.probe.stage.report;
        report.check(refused, format_args!("{size} leaf to write: the format has none"));
        return;
    }
    space.is_one_leaf(*at, *run, Access::WRITE);
    let probe = &mut space.probe;
    probe.blocks_read(*there, *addr, Said::Must, format_args!("{size} leaf to write"));
    probe.writes(*there, *addr, format_args!("{size} leaf to write"));
    probe.blocks_read(*there, *addr, Said::May, format_args!("{size} leaf to write, once more"));
    space.unmap(*at, &[*run], |_| ());
    let what = format_args!("{size} leaf to write, flushed");
    space.probe.blocks_write(*there, *addr, Said::Must, what);
}
