//! One leaf of every size: what is in it is reached, what is beside it is not, and after the flush nothing is.

use pinfold::iopt::IoRun;
use pinfold_arch::{Access, Iova, PageShift, PhysAddr};

use super::space::Space;
use super::{Blind, Size, sizes};
use crate::dma::TRANSFER;
use crate::iommu::Iommu;

pub(super) fn each_size<U: Iommu>(space: &mut Space<'_, '_, '_, U>, blind: Blind) {
    for shift in sizes(space.format()) {
        one(space, shift, blind);
    }
}

fn one<U: Iommu>(space: &mut Space<'_, '_, '_, U>, shift: PageShift, blind: Blind) {
    let (page, data, bytes) = space.probe.stage.memory.page(shift);
    let (at, run, size) = (place(shift), IoRun { addr: page, bytes: shift.bytes() }, Size(shift));
    let offset = data.raw() - page.raw();
    let inside = |bytes: u64| Iova::new(at.raw() + offset + bytes);
    let memory = |bytes: u64| PhysAddr::new(data.raw() + bytes);
    // Whoever keeps that nothing is there has seen it now.
    space.probe.blocked(inside(0), memory(0), format_args!("{size} leaf, not mapped yet"));
    space.map(at, &[run], Access::all()).expect("room for a leaf");
    space.is_one_leaf(at, run, Access::all());

    let probe = &mut space.probe;
    for (there, name) in [(0, "first"), (bytes / 2, "middle"), (bytes - TRANSFER, "last")] {
        probe.reaches(inside(there), memory(there), format_args!("{size} leaf, {name} bytes"));
    }
    let before = PhysAddr::new(page.raw().wrapping_sub(TRANSFER));
    let behind = PhysAddr::new(page.raw() + run.bytes);
    probe.blocked(Iova::new(at.raw() - TRANSFER), before, format_args!("before the {size} leaf"));
    probe.blocked(Iova::new(at.raw() + run.bytes), behind, format_args!("behind the {size} leaf"));

    let (there, addr) = (inside(bytes / 2), memory(bytes / 2));
    space.unmap(at, &[run], |probe| {
        // If the IOMMU kept nothing, what comes after would say nothing about flushes.
        if !blind.keeps {
            probe.writes(there, addr, format_args!("{size} leaf, unmapped but not flushed"));
        }
    });
    space.probe.blocked(there, addr, format_args!("{size} leaf, unmapped and flushed"));
}

/// Where the leaf of a size goes: where no memory is, and with other bits than the memory behind it.
fn place(shift: PageShift) -> Iova {
    let gigabytes = 16 + 2 * u64::from(shift.raw());
    Iova::new(gigabytes << 30 | Iova::new(0x2a5b_7000).align_down(shift).raw())
}
