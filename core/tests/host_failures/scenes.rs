//! What there is to pin: every kind of memory, in as few pages as it takes.

use pinfold::host::SpaceId;
use pinfold::{Access, AddrRange, Order, PageCount, PageShift, PinFlags, PinRequest, PinTable};
use pinfold::{Pfn, VirtAddr};
use pinfold_sim::{FileId, FileKind, Layout, Machine, MapSpec, Place, Thp, Want, ZoneKind, mib};

pub(crate) const BOTH: Access = Access::READ.union(Access::WRITE);
pub(crate) const AT: u64 = 0x7000_0000_0000;
const HUGE: u64 = 512;

/// Memory, and what is asked of it.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) layout: fn() -> Layout,
    pub(crate) build: fn(&Machine<'_>) -> Stage,
    pages: u64,
    access: Access,
    flags: PinFlags,
    revocable: bool,
}

/// A scene that was set up.
pub(crate) struct Stage {
    pub(crate) space: SpaceId,
    pub(crate) files: Vec<FileId>,
}

impl Stage {
    pub(crate) fn end(&self, machine: &Machine<'_>) {
        machine.release_hog();
        for space in machine.spaces() {
            machine.drop_space(space.id()).unwrap();
        }
        for file in &self.files {
            machine.close_file(*file).unwrap();
        }
    }
}

impl Scene {
    pub(crate) fn range(&self) -> AddrRange {
        let pages = PageCount::new(self.pages);
        AddrRange::new(VirtAddr::new(AT), pages, PageShift::SIZE_4K).unwrap()
    }

    pub(crate) fn request(&self) -> PinRequest {
        let request = PinRequest::longterm(self.range(), self.access);
        PinRequest { flags: self.flags, revocable: self.revocable, ..request }
    }

    /// Words that are enough for its table.
    pub(crate) fn words(&self) -> usize {
        PinTable::words_for(&self.range(), PageShift::SIZE_4K).unwrap()
    }
}

const LONG: PinFlags = PinFlags::LONGTERM;
const SHORT: PinFlags = PinFlags::empty();

const fn scene(name: &'static str, access: Access, flags: PinFlags) -> Scene {
    let (layout, build) = (small_layout as fn() -> Layout, small as fn(&Machine<'_>) -> Stage);
    Scene { name, layout, build, pages: SMALL, access, flags, revocable: false }
}

/// The same memory pinned in every way, then memory in huge pages, then more than one batch.
pub(crate) const SCENES: [Scene; 9] = [
    scene("long write", BOTH, LONG),
    Scene { revocable: true, ..scene("long read, revocable", Access::READ, LONG) },
    scene("short write", BOTH, SHORT),
    scene("short read", Access::READ, SHORT),
    Scene {
        pages: 4,
        ..scene(
            "present and anonymous",
            BOTH,
            LONG.union(PinFlags::NOFAULT).union(PinFlags::ANONYMOUS),
        )
    },
    Scene { build: short_of_memory, ..scene("little memory", BOTH, LONG) },
    Scene { layout: huge_layout, build: huge, pages: 4 * HUGE, ..scene("huge", BOTH, LONG) },
    Scene {
        layout: huge_layout,
        build: huge,
        pages: 4 * HUGE,
        ..scene("huge, short read", Access::READ, SHORT)
    },
    Scene { build: zeroes, pages: ZEROES, ..scene("batches", Access::READ, SHORT) },
];

const SMALL: u64 = 28;

fn small_layout() -> Layout {
    let quarter = PageCount::new(64);
    Layout::new(Pfn::new(0x1000)).normal(mib(1)).cma(quarter).movable(quarter)
}

fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

/// Movable, absent, zero, file, copied on write, in a CMA area, swapped out: a few pages of each.
fn small(machine: &Machine<'_>) -> Stage {
    let id = machine.add_space().id();
    let at = |page: u64| AT + (page << 12);
    let shmem = machine.add_file(FileKind::Shmem, 8, order(2));
    let disk = machine.add_file(FileKind::Disk, 2, Order::ZERO);
    machine.map(id, MapSpec::anonymous(AT, 12)).unwrap();
    machine.map(id, MapSpec::shared(at(12), 6, shmem)).unwrap();
    machine.map(id, MapSpec::private(at(18), 2, disk)).unwrap();
    machine.map(id, MapSpec::anonymous(at(20), SMALL - 20)).unwrap();
    // Shared with a child; everything that comes later is not.
    machine.touch(id, at(8), 4, BOTH).unwrap();
    machine.fork(id).unwrap();
    machine.touch(id, AT, 4, BOTH).unwrap();
    machine.touch(id, at(6), 2, Access::READ).unwrap();
    machine.touch(id, at(12), 4, BOTH).unwrap();
    machine.touch(id, at(18), 1, Access::READ).unwrap();
    let movable =
        machine.zones().iter().find(|zone| zone.zone.kind == ZoneKind::Movable).unwrap().free;
    machine.hog(movable.raw());
    machine.touch(id, at(20), 4, BOTH).unwrap();
    machine.release_hog();
    machine.touch(id, at(24), 4, BOTH).unwrap();
    machine.swap_out(id, at(25)).unwrap();
    machine.swap_out(id, at(26)).unwrap();
    Stage { space: id, files: vec![shmem, disk] }
}

/// The same, and just enough memory to move everything.
fn short_of_memory(machine: &Machine<'_>) -> Stage {
    let stage = small(machine);
    let free: u64 = machine.zones().iter().map(|zone| zone.free.raw()).sum();
    machine.hog(free - 30);
    stage
}

fn huge_layout() -> Layout {
    Layout::new(Pfn::new(0x1000)).normal(mib(14)).cma(mib(2)).movable(mib(6))
}

/// A huge page that one entry maps, one that is mapped page by page, one of the pool and one of a
/// file, all where they must not stay.
fn huge(machine: &Machine<'_>) -> Stage {
    let id = machine.add_space().id();
    let at = |block: u64| AT + ((block * HUGE) << 12);
    let file = machine.add_file(FileKind::Shmem, HUGE, order(9));
    for want in [Want::In(Place::Zone(ZoneKind::Movable)), Want::Pinnable] {
        machine.reserve_huge(order(9), want).unwrap();
    }
    machine.map(id, MapSpec::anonymous(at(0), HUGE).with_thp(Thp::Whole)).unwrap();
    machine.map(id, MapSpec::anonymous(at(1), HUGE).with_thp(Thp::Split)).unwrap();
    machine.map(id, MapSpec::hugetlb(at(2), HUGE, order(9))).unwrap();
    machine.map(id, MapSpec::shared(at(3), HUGE, file)).unwrap();
    machine.touch(id, at(0), 4 * HUGE, BOTH).unwrap();
    Stage { space: id, files: vec![file] }
}

/// More entries than a batch has, in no memory to speak of.
const ZEROES: u64 = 2 * 4096 + 700;

fn zeroes(machine: &Machine<'_>) -> Stage {
    let id = machine.add_space().id();
    machine.map(id, MapSpec::anonymous(AT, ZEROES)).unwrap();
    machine.touch(id, AT, ZEROES - 3, Access::READ).unwrap();
    Stage { space: id, files: Vec::new() }
}
