//! Leaves that allow one direction.

use pinfold::iopt::{IoRun, IoptError};
use pinfold_arch::{Access, IoFormat, Iova, PageShift};

use super::probe::Said;
use super::space::Space;
use super::{Size, sizes};
use crate::iommu::Iommu;

/// In the two smallest sizes that are of different levels: a page and a block.
pub(super) fn one_at_a_time<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let base = space.format().base();
    for shift in sizes(space.format()).filter(|shift| *shift == base || shift.raw() == block(base))
    {
        read_only(space, shift);
        write_only(space, shift);
    }
}

/// The size of a leaf one level above the smallest one: tables are as large as a page, 8 bytes an entry.
const fn block(base: PageShift) -> u8 {
    base.raw() + base.raw() - 3
}

fn read_only<U: Iommu>(space: &mut Space<'_, '_, '_, U>, shift: PageShift) {
    let (page, ..) = space.probe.stage.memory.page(shift);
    let (at, run, size) = (place(shift), IoRun { addr: page, bytes: shift.bytes() }, Size(shift));
    space.map(at, &[run], Access::READ).expect("room for a leaf");
    space.is_one_leaf(at, run, Access::READ);
    let probe = &mut space.probe;
    probe.blocks_write(at, page, Said::Must, format_args!("{size} leaf to read"));
    probe.reads(at, page, format_args!("{size} leaf to read"));
    probe.blocks_write(at, page, Said::May, format_args!("{size} leaf to read, in the cache"));
    space.unmap(at, &[run], |_| ());
    space.probe.blocks_read(at, page, Said::Must, format_args!("{size} leaf to read, flushed"));
}

fn write_only<U: Iommu>(space: &mut Space<'_, '_, '_, U>, shift: PageShift) {
    let (page, ..) = space.probe.stage.memory.page(shift);
    let (at, run, size) = (place(shift), IoRun { addr: page, bytes: shift.bytes() }, Size(shift));
    match space.map(at, &[run], Access::WRITE) {
        Ok(()) => {}
        Err(error) => {
            let refused = matches!(error, IoptError::Encode { .. });
            let report = &mut space.probe.stage.report;
            report.check(refused, format_args!("{size} leaf to write: the format has none"));
            return;
        }
    }
    space.is_one_leaf(at, run, Access::WRITE);
    let probe = &mut space.probe;
    probe.blocks_read(at, page, Said::Must, format_args!("{size} leaf to write"));
    probe.writes(at, page, format_args!("{size} leaf to write"));
    probe.blocks_read(at, page, Said::May, format_args!("{size} leaf to write, in the cache"));
    space.unmap(at, &[run], |_| ());
    space.probe.blocks_write(at, page, Said::Must, format_args!("{size} leaf to write, flushed"));
}

fn place(shift: PageShift) -> Iova {
    Iova::new(0x3_0000_0000 + shift.bytes())
}
