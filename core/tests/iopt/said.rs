//! What an IOMMU finds that does not look into the CPU's caches: all that was written, however a call ends.

use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AnyIoFormat, IoFlags, IoFormat, Iova};

use super::formats;
use super::watched::Watched;
use super::world::write;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();
/// Entries between two pauses: calls look around in the middle of tables.
const STEP: u64 = 48;

struct Scene {
    host: Watched,
    table: IoPageTable<AnyIoFormat>,
    base: u8,
}

impl Scene {
    fn new(format: AnyIoFormat) -> Self {
        let host = Watched::new(STEP);
        let table = IoPageTable::new(format, &host).unwrap();
        Self { host, table, base: format.base().raw() }
    }

    fn at(&self, page: u64) -> Iova {
        Iova::new(page << self.base)
    }

    fn run(&self, page: u64, pages: u64) -> IoRun {
        IoRun { addr: PhysAddr::new((1 << 36) + (page << self.base)), bytes: pages << self.base }
    }

    fn range(&self, page: u64, pages: u64) -> IovaRange {
        IovaRange::new(self.at(page), pages << self.base).unwrap()
    }

    fn map(&self, page: u64, runs: &[IoRun]) -> Result<(), IoptError> {
        let mapped = self.table.map(&self.host, self.at(page), runs, RW, NONE);
        self.host.all_said();
        mapped
    }

    fn replace(&self, page: u64, runs: &[IoRun]) {
        let mut buffer = heapless::Vec::<UnmappedRun, 16>::new();
        let at = self.at(page);
        let mut replace = self.table.replace(&self.host, at, runs, RW, NONE).unwrap();
        while let Some(old) = replace.step(&self.host, &mut buffer).unwrap() {
            old.flushed(&self.host);
            self.host.all_said();
        }
    }

    fn unmap(&self, range: IovaRange) {
        let mut buffer = heapless::Vec::<UnmappedRun, 16>::new();
        let mut unmap = self.table.unmap(&self.host, range).unwrap();
        while let Some(unmapped) = unmap.step(&self.host, &mut buffer).unwrap() {
            unmapped.flushed(&self.host);
            self.host.all_said();
        }
    }
}

#[test]
fn all_that_a_call_writes_is_written_back() {
    for format in formats() {
        let mut scene = Scene::new(format);
        scene.host.all_said();
        // A leaf of every size, and pages here and there: line after line, and with lines between.
        scene.map(1, &[scene.run(1, 1300)]).unwrap();
        let scattered: Vec<_> = (0..200).map(|page| scene.run(5000 - page * 3, 1)).collect();
        scene.map(1301, &scattered).unwrap();
        for page in [1600, 1607, 1617, 1640, 1633] {
            scene.map(page, &[scene.run(page, 1)]).unwrap();
        }
        // Something in the way, after much was written.
        let met = scene.map(1501, &[scene.run(0, 90), scene.run(256, 90)]);
        assert_eq!(met, Err(IoptError::Mapped { at: scene.at(1600) }));
        let whole = scene.map(2048, &[scene.run(2048, 512), scene.run(0, 600)]);
        whole.unwrap();
        scene.host.memory.stop_after(12);
        let run = [scene.run(3200, 256), scene.run(1, 800)];
        assert_eq!(scene.map(3200, &run), Err(IoptError::Interrupted));
        scene.host.memory.stop_after(u64::MAX);
        // Over pages and over large leaves, by pages and by large leaves.
        scene.replace(1, &[scene.run(4096 + 1, 700), scene.run(7, 600)]);
        scene.replace(1310, &scattered[..100]);
        if scene.table.split(&scene.host, scene.range(2049, 400)).is_ok() {
            scene.host.all_said();
        }
        if scene.table.start_tracking(&scene.host).is_ok() {
            for page in [2, 3, 900, 2100, 2047 + 512] {
                write(&scene.table, &scene.host, scene.at(page));
            }
            scene.host.device_wrote();
            let range = scene.range(1, 1500);
            assert!(scene.table.take_dirty(&scene.host, range, |_| {}).unwrap().dirty > 0);
            scene.host.all_said();
            scene.unmap(scene.range(1, 1300));
            scene.table.stop_tracking();
        }
        let beyond = scene.table.format().last().checked_add(1);
        if beyond.is_some_and(|beyond| scene.table.grow(&scene.host, beyond).is_ok()) {
            scene.host.all_said();
        }
        scene.unmap(scene.range(1310, 250));
        scene.unmap(scene.range(0, 4096));
        scene.table.trim(&scene.host).flushed(&scene.host);
        scene.host.all_said();
        assert_eq!(scene.host.memory.used(), 1, "{format:?}");
    }
}

/// Lines are dear: a call that goes through a range once names each once.
#[test]
fn each_line_is_named_once() {
    for format in formats() {
        let scene = Scene::new(format);
        let once = |what: &str| {
            let mut lines = scene.host.all_said();
            let named = lines.len();
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), named, "{what}, {format:?}");
        };
        let runs: Vec<_> = (0..1000).map(|page| scene.run(5000 - page * 3, 1)).collect();
        scene.map(3, &runs).unwrap();
        (0..10).for_each(|part| scene.unmap(scene.range(3 + 100 * part, 100)));
        // Now the tables are there.
        scene.table.map(&scene.host, scene.at(3), &runs, RW, NONE).unwrap();
        once("map");
        let mut buffer = heapless::Vec::<UnmappedRun, 1024>::new();
        scene.host.memory.set_step(4096);
        let mut unmap = scene.table.unmap(&scene.host, scene.range(3, 1000)).unwrap();
        let unmapped = unmap.step(&scene.host, &mut buffer).unwrap().unwrap();
        assert!(unmapped.bytes() > 0);
        unmapped.flushed(&scene.host);
        once("unmap");
    }
}

/// Lines between those that were written are left alone.
#[test]
fn lines_in_between_are_not_named() {
    for format in formats() {
        let scene = Scene::new(format);
        let pages = [0, 7, 8, 40, 41, 120, 200];
        for page in pages {
            scene.map(page, &[scene.run(4 * page + 1, 1)]).unwrap();
        }
        scene.host.memory.set_step(4096);
        let mut buffer = heapless::Vec::<UnmappedRun, 16>::new();
        let mut unmap = scene.table.unmap(&scene.host, scene.range(0, 201)).unwrap();
        unmap.step(&scene.host, &mut buffer).unwrap().unwrap().flushed(&scene.host);
        let lines = scene.host.all_said();
        let first = lines[0];
        let lines: Vec<_> = lines.into_iter().map(|line| line - first).collect();
        assert_eq!(lines, [0, 1, 5, 15, 25], "{format:?}");
    }
}
