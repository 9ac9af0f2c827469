//! Who keeps what the tables of an IOMMU say, and who must be told.

use std::collections::BTreeMap;
use std::sync::Mutex;

use heapless::Vec as Buffer;
use pinfold::host::{Flow, FlushError, IoTables, IoTlb, Kept, PhysMem, Progress, TableView, Wait};
use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::{Access, Domain, IovaRange, PhysAddr};
use pinfold_arch::{IoEntry, IoFlags, IoFormat, Iova, Vtd};
use pinfold_sim::TableMemory;
use pinfold_sim::tlb::{Fault, Iommu, Journal};

const START: Iova = Iova::new(0x4000_0000);
const RUN: IoRun = IoRun { addr: PhysAddr::new(0x8000_0000), bytes: 0x1000 };

fn format() -> Vtd {
    Vtd::new(3, 46).expect("a width that there is")
}

/// An IOMMU as an embedder drives it who neglects a duty.
struct Careless<'t> {
    iommu: &'t Iommu<'t, Vtd>,
    neglected: &'static str,
}

impl IoTlb for Careless<'_> {
    fn keeps_absent(&self) -> bool {
        self.neglected != "tlb-absent" && self.iommu.keeps_absent()
    }

    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        let kept = if self.neglected == "tlb-tables" { Kept::Leaves } else { kept };
        self.iommu.invalidate(range, kept)
    }

    fn complete(&self) -> Result<(), FlushError> {
        // The command was put into the queue; that is not the same as done.
        if self.neglected == "tlb-complete" { Ok(()) } else { self.iommu.complete() }
    }
}

/// Plays a scene twice, with a domain of one IOMMU and a second that nobody has attached yet: with every
/// duty kept, and with this one neglected. The scene is told which.
fn both(duty: &'static str, scene: impl Fn(&mut Scene<'_, '_>, bool)) {
    for (neglected, kept) in [("none", true), (duty, false)] {
        let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
        let iommu = |name| Iommu::new(name, &memory, &journal).keeping_absent();
        let iommus = ["one", "two"].map(iommu);
        let tlbs = iommus.each_ref().map(|iommu| Careless { iommu, neglected });
        let table = IoPageTable::new(format(), &memory).expect("memory for a table");
        let mut domain: Domain<'_, Vtd> = Domain::new(table);
        domain.attach_iommu(&tlbs[0]).expect("room for one");
        let mut scene_of = Scene { memory: &memory, tlbs: &tlbs, domain };
        scene_of.enter(0);
        scene(&mut scene_of, kept);
    }
}

struct Scene<'d, 't> {
    memory: &'t TableMemory,
    tlbs: &'d [Careless<'d>; 2],
    domain: Domain<'d, Vtd>,
}

impl Scene<'_, '_> {
    /// Has the root entry of an IOMMU lead to the tables.
    fn enter(&self, number: usize) {
        let table = self.domain.table();
        self.tlbs[number].iommu.enter(table.format(), table.root());
    }

    fn map(&self) {
        let mapped = self.domain.map(self.memory, START, [RUN], Access::all(), IoFlags::empty());
        mapped.expect("nothing is there");
    }

    /// Unmaps all of 1 GiB, so that its tables go too.
    fn unmap(&self) {
        let range = IovaRange::new(START, 1 << 30).expect("not empty");
        let mut runs = Buffer::<UnmappedRun, 8>::new();
        let mut unmap = self.domain.table().unmap(self.memory, range).expect("whole leaves");
        while let Some(unmapped) = unmap.step(self.memory, &mut runs).expect("sound tables") {
            let quiesced = self.domain.finish(self.memory, unmapped).expect("it is in time");
            assert_eq!(quiesced.tables(), Ok(()));
        }
    }

    /// Where a device behind an IOMMU writes.
    fn write(&self, number: usize) -> Result<PhysAddr, Fault> {
        self.tlbs[number].iommu.access(START, true)
    }
}

#[test]
fn an_iommu_that_the_domain_does_not_know_writes_to_what_was_released() {
    both("iommu-attach", |scene, kept| {
        if kept {
            scene.domain.attach_iommu(&scene.tlbs[1]).expect("room for two");
        }
        scene.enter(1);
        scene.map();
        assert_eq!(scene.write(1), Ok(RUN.addr));
        scene.unmap();
        assert_eq!(scene.write(1).is_err(), kept);
    });
}

#[test]
fn a_flush_that_is_said_to_be_complete_too_early_lets_a_device_write_to_what_was_released() {
    both("tlb-complete", |scene, kept| {
        scene.map();
        assert_eq!(scene.write(0), Ok(RUN.addr));
        scene.unmap();
        let blocked = Err(Fault::Blocked { at: START });
        assert_eq!(scene.write(0), if kept { blocked } else { Ok(RUN.addr) });
    });
}

#[test]
fn a_flush_of_leaves_alone_lets_an_iommu_walk_a_table_that_was_given_back() {
    both("tlb-tables", |scene, kept| {
        scene.map();
        assert_eq!(scene.write(0), Ok(RUN.addr));
        scene.unmap();
        let fault = scene.write(0).expect_err("the leaf is forgotten");
        assert_eq!(matches!(fault, Fault::FreedTable { .. }), !kept);
    });
}

#[test]
fn an_iommu_that_keeps_absences_and_is_not_asked_blocks_what_is_mapped() {
    both("tlb-absent", |scene, kept| {
        assert!(scene.write(0).is_err());
        scene.map();
        assert_eq!(scene.write(0).is_ok(), kept);
    });
}

/// Memory behind the caches of a CPU, into which the IOMMU does not look.
struct Cached<'m> {
    caches: &'m TableMemory,
    memory: Mutex<BTreeMap<u64, u64>>,
    writes_back: bool,
}

impl PhysMem for Cached<'_> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.caches.table(base, entries)
    }
}

impl Wait for Cached<'_> {
    fn pause(&self, progress: Progress) -> Flow {
        self.caches.pause(progress)
    }
}

impl IoTables for Cached<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.caches.allocate(bytes)
    }

    fn free(&self, table: PhysAddr, bytes: u64) {
        self.caches.free(table, bytes);
    }

    fn written(&self, at: PhysAddr, bytes: u64) {
        for word in (at.raw()..at.raw() + bytes).step_by(8).filter(|_| self.writes_back) {
            let cached = self.caches.table(PhysAddr::new(word), 1).and_then(|view| view.load(0));
            self.memory.lock().expect("nobody panicked").extend(cached.map(|raw| (word, raw)));
        }
    }
}

impl Cached<'_> {
    /// Where an IOMMU finds that an address leads.
    fn walk(&self, table: &IoPageTable<Vtd>, at: Iova) -> Option<PhysAddr> {
        let (format, mut level) = (table.format(), table.root());
        loop {
            let word = level.base.raw() + u64::from(level.index(at)) * 8;
            // What was never written back is whatever stood there: here, nothing.
            let raw = *self.memory.lock().expect("nobody panicked").get(&word)?;
            match format.decode(&level, u64::from_le(raw)) {
                IoEntry::Table(next, _) => level = next,
                IoEntry::Leaf(leaf) => return Some(leaf.addr),
                _ => return None,
            }
        }
    }
}

#[test]
fn lines_that_are_not_written_back_hide_the_entries_in_them() {
    for kept in [true, false] {
        let caches = TableMemory::new(1 << 20);
        let memory = Cached { caches: &caches, memory: Mutex::default(), writes_back: kept };
        let table = IoPageTable::new(format(), &memory).expect("memory for a table");
        table.map(&memory, START, [RUN], Access::all(), IoFlags::empty()).expect("it is free");
        assert_eq!(memory.walk(&table, START), kept.then_some(RUN.addr));
    }
}
