//! Pages in a row whose memory lies in no order, and what is taken out of their middle.

use pinfold::iopt::IoRun;
use pinfold_arch::{Access, IoFormat, Iova, PhysAddr};

use super::space::Space;
use crate::iommu::Iommu;

const PAGES: u64 = 12;
/// The pages that are taken out: more than one, so that a flush can be too short.
const HOLE: core::ops::Range<u64> = 3..10;

pub(super) fn in_the_middle<U: Iommu>(space: &mut Space<'_, '_, '_, U>) {
    let base = space.format().base();
    let (memory, ..) = space.probe.stage.memory.page(base);
    // Not at the start of a table, and over the end of one.
    let start = 0x3_8000_0000 - 5 * base.bytes();
    let at = |page: u64| Iova::new(start + page * base.bytes());
    // Every third page, and every second from the end: no two are neighbours.
    let addr = |page: u64| PhysAddr::new(memory.raw() + (page * 5 % PAGES * 3) * base.bytes());
    let run = |page| IoRun { addr: addr(page), bytes: base.bytes() };
    let runs: [IoRun; PAGES as usize] = core::array::from_fn(|page| run(page as u64));

    space.map(at(0), &runs, Access::all()).expect("room for pages");
    for page in 0..PAGES {
        space.probe.reaches(at(page), addr(page), format_args!("page {page} of a row"));
    }
    let hole = runs.get(HOLE.start as usize..HOLE.end as usize).unwrap_or_default();
    space.unmap(at(HOLE.start), hole, |_| ());
    for page in 0..PAGES {
        if HOLE.contains(&page) {
            space.probe.blocked(at(page), addr(page), format_args!("page {page}, taken out"));
        } else {
            space.probe.reaches(at(page), addr(page), format_args!("page {page}, still there"));
        }
    }
    let other = PhysAddr::new(memory.raw() + 100 * base.bytes());
    let run = IoRun { addr: other, bytes: base.bytes() };
    space.map(at(HOLE.start), &[run], Access::all()).expect("room for a page");
    space.probe.reaches(at(HOLE.start), other, format_args!("other memory in the hole"));
}
