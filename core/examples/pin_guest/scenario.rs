//! Guests built in memory, a few MiB each, for what no capture shows.

use pinfold::host::SpaceId;
use pinfold::policy::Refusal;
use pinfold::{Access, Order, PageShift, Pfn, X86_64};
use pinfold_sim::{FileKind, Layout, MapSpec, Place, Ram, Thp, Want, ZoneKind, ZoneLayout, mib};

use crate::scene::{Fallible, range};
use crate::stage::{Machine, Part, Stage};

/// A guest, and what is expected of it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// A line for a list.
    pub(crate) about: &'static str,
    /// What must come out.
    pub(crate) expected: &'static str,
    pub(crate) layout: fn() -> Layout,
    /// Whether somebody writes to the page tables who must not.
    pub(crate) lies: bool,
    memory: &'static [Memory],
}

/// A part of a guest: its name, its MiB, what it is, and what was done to it.
struct Memory(&'static str, u64, What, Done);

#[derive(Clone, Copy)]
enum What {
    Anonymous(Thp),
    /// Anonymous, with the huge zero page where nothing was written.
    HugeZero,
    Hugetlb,
    Memfd,
    /// A file of a disk: shared, or a private copy.
    Disk {
        shared: bool,
    },
    /// A file on persistent memory.
    FsDax,
}

#[derive(Clone, Copy)]
enum Done {
    Nothing,
    Read,
    /// Written, and now wherever the host put it.
    Written,
    /// Written, and then moved there.
    WrittenIn(Place),
}

use Done::{Nothing, Read, Written, WrittenIn};
use What::{Anonymous, Disk, FsDax, HugeZero, Hugetlb, Memfd};

const ORDINARY: Done = WrittenIn(Place::Zone(ZoneKind::Normal));
const CMA: Done = WrittenIn(Place::Cma);

/// All there are, by name.
pub(crate) static SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "cma",
        about: "memory in a CMA area, which must be left for who needs it in one piece",
        expected: "all of it pinned; what lay in the CMA area moved, the rest not",
        layout: || first().cma(mib(32)),
        lies: false,
        memory: &[
            Memory("base pages", 6, Anonymous(Thp::Never), Written),
            Memory("huge pages", 12, Anonymous(Thp::Whole), Written),
            Memory("huge mapped small", 4, Anonymous(Thp::Split), Written),
            Memory("ordinary", 8, Anonymous(Thp::Whole), ORDINARY),
            Memory("untouched", 2, Anonymous(Thp::Whole), Nothing),
        ],
    },
    Scenario {
        name: "movable",
        about: "memory in a movable zone, which must stay unpluggable",
        expected: "all of it pinned; the movable zone is left empty",
        layout: || first().movable(mib(32)),
        lies: false,
        memory: &[
            Memory("base pages", 6, Anonymous(Thp::Never), Written),
            Memory("huge pages", 12, Anonymous(Thp::Whole), Written),
            Memory("memfd", 4, Memfd, Written),
            Memory("hugetlb", 4, Hugetlb, Written),
            Memory("ordinary", 4, Anonymous(Thp::Never), ORDINARY),
            Memory("read only once", 2, Anonymous(Thp::Never), Read),
        ],
    },
    Scenario {
        name: "fsdax",
        about: "a file on persistent memory, which truncate must be able to take back",
        expected: "the file refused, by name; the memory around it pinned",
        layout: || first().movable(mib(16)).zone(persistent()),
        lies: false,
        memory: &[
            Memory("memory below", 8, Anonymous(Thp::Whole), Written),
            Memory("DAX file", 12, FsDax, Written),
            Memory("memory above", 4, Anonymous(Thp::Never), Written),
        ],
    },
    Scenario {
        name: "file-backed",
        about: "files of a disk, whose dirty pages the file system must hear of",
        expected: "the shared file refused for writing; private copies and memory pinned",
        layout: || first().movable(mib(24)),
        lies: false,
        memory: &[
            Memory("memory", 8, Anonymous(Thp::Whole), Written),
            Memory("private file", 4, Disk { shared: false }, Read),
            Memory("shared file", 6, Disk { shared: true }, Written),
            Memory("private written", 4, Disk { shared: false }, Written),
        ],
    },
    Scenario {
        name: "mixed",
        about: "every kind of memory side by side, of which two must be refused",
        expected: "shared file and DAX file refused; the rest pinned, none in a zone or area of others",
        layout: || first().cma(mib(16)).movable(mib(16)).zone(persistent()),
        lies: false,
        memory: &[
            Memory("ordinary", 6, Anonymous(Thp::Whole), ORDINARY),
            Memory("in the CMA area", 6, Anonymous(Thp::Never), CMA),
            Memory("movable huge", 8, Anonymous(Thp::Whole), Written),
            Memory("zeroes", 2, Anonymous(Thp::Never), Read),
            Memory("huge zeroes", 2, HugeZero, Read),
            Memory("untouched", 4, Anonymous(Thp::Whole), Nothing),
            Memory("hugetlb", 4, Hugetlb, Written),
            Memory("memfd", 2, Memfd, Written),
            Memory("shared file", 4, Disk { shared: true }, Written),
            Memory("private file", 2, Disk { shared: false }, Read),
            Memory("DAX file", 6, FsDax, Written),
            Memory("huge mapped small", 4, Anonymous(Thp::Split), CMA),
        ],
    },
    Scenario {
        name: "hostile",
        about: "page tables that lie: loops, bad leaves, entries that lead out of memory",
        expected: "a precise error for each lie and nothing changed; pinned once they are put right",
        layout: || first().movable(mib(24)),
        lies: true,
        memory: &[
            Memory("base pages", 8, Anonymous(Thp::Never), Written),
            Memory("huge pages", 8, Anonymous(Thp::Whole), Written),
        ],
    },
];

/// The CPU of these machines.
const PHYS_BITS: u8 = 46;
const BASE: PageShift = PageShift::SIZE_4K;

/// 64 MiB of ordinary memory.
fn first() -> Layout {
    Layout::new(Pfn::new(0x4000)).normal(mib(64))
}

fn persistent() -> ZoneLayout {
    ZoneLayout { name: "persistent", kind: ZoneKind::FsDax, pages: mib(16) }
}

/// Where guests begin: at this place every table is read at its entry 1, down to the last, where
/// that is the guest's second page. A table that leads back to itself is then met at every level.
const START: u64 = 0x80_4020_0000;

impl Scenario {
    /// The guest on a machine in this memory, and 2 MiB of somebody else.
    pub(crate) fn build<'m>(&self, ram: &'m Ram) -> Fallible<Stage<'m>> {
        let format = X86_64::new(4, PHYS_BITS)?.into();
        let machine = Machine::with(ram, format, Place::Zone(ZoneKind::Normal));
        let other = machine.add_space();
        let huge = Order::new(9).ok_or("2 MiB is a size")?;
        machine.map(other.id(), MapSpec::anonymous(START, mib(2).raw()))?;
        ORDINARY.happen(&machine, other.id(), START, mib(2).raw())?;
        let space = machine.add_space();
        let mut parts = Vec::new();
        let mut at = START;
        for memory in self.memory {
            let Memory(name, size, what, done) = memory;
            let pages = mib(*size).raw();
            machine.map(space.id(), what.spec(&machine, at, pages, huge)?)?;
            done.happen(&machine, space.id(), at, pages)?;
            let refused = what.refused();
            parts.push(Part { name: (*name).to_owned(), range: range(at, pages, BASE)?, refused });
            at += pages << BASE.raw();
        }
        Stage::built(machine, space, parts)
    }
}

impl What {
    fn spec(self, machine: &Machine<'_>, at: u64, pages: u64, huge: Order) -> Fallible<MapSpec> {
        let file = |kind| machine.add_file(kind, pages, Order::ZERO);
        Ok(match self {
            Anonymous(thp) => MapSpec::anonymous(at, pages).with_thp(thp),
            HugeZero => MapSpec::anonymous(at, pages).with_thp(Thp::Whole).with_huge_zero(),
            Hugetlb => {
                for _ in 0..pages >> huge.raw() {
                    machine.reserve_huge(huge, Want::Movable)?;
                }
                MapSpec::hugetlb(at, pages, huge)
            }
            Memfd => MapSpec::shared(at, pages, file(FileKind::Shmem)),
            Disk { shared: true } => MapSpec::shared(at, pages, file(FileKind::Disk)),
            Disk { shared: false } => MapSpec::private(at, pages, file(FileKind::Disk)),
            FsDax => MapSpec::shared(at, pages, file(FileKind::FsDax)),
        })
    }

    /// Why a device must not write to it for long.
    fn refused(self) -> Option<Refusal> {
        match self {
            Disk { shared: true } => Some(Refusal::DirtyTracked),
            FsDax => Some(Refusal::FsDax),
            _ => None,
        }
    }
}

impl Done {
    fn happen(self, machine: &Machine<'_>, id: SpaceId, at: u64, pages: u64) -> Fallible<()> {
        match self {
            Nothing => {}
            Read => machine.touch(id, at, pages, Access::READ)?,
            Written | WrittenIn(_) => machine.touch(id, at, pages, Access::READ | Access::WRITE)?,
        }
        let WrittenIn(place) = self else { return Ok(()) };
        for va in (0..pages).map(|page| at + (page << BASE.raw())) {
            let folio = machine.folio_at(id, va).ok_or("it was written")?;
            if machine.place(folio.head()) != Some(place) {
                machine.move_page(id, va, Want::In(place))?;
            }
        }
        Ok(())
    }
}
