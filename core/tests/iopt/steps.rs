//! Large ranges in bounded steps: what a call does between two pauses does not grow with the range.

use pinfold::host::Flow;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun, Visited};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AnyIoFormat, IoFlags, IoFormat, Iova};

use super::formats;
use super::watched::Watched;
use super::world::write;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();
const STEP: u64 = 24;
const PAGES: u64 = 1500;

/// Tables in a watched memory, and the most that may be handled there between two pauses: a step of the
/// call and one of a table that it makes, the largest leaf, and the way from the top.
struct Scene {
    format: AnyIoFormat,
    host: Watched,
    table: IoPageTable<AnyIoFormat>,
    most: u64,
}

impl Scene {
    fn new(format: AnyIoFormat) -> Self {
        Self::with_step(format, STEP)
    }

    fn with_step(format: AnyIoFormat, step: u64) -> Self {
        let host = Watched::new(step);
        let table = IoPageTable::new(format, &host).unwrap();
        let (mut shape, mut group, mut levels) = (Some(table.root()), 1, 0);
        while let Some(table) = shape {
            let largest = format.leaf_sizes(&table).at_most(PageShift::new(63).unwrap());
            group = largest.map_or(group, |size| group.max(size.bytes() >> table.shift.raw()));
            levels += 1;
            shape = format.below(&table, table.base);
        }
        let most = 2 * step + group + levels;
        let scene = Self { format, host, table, most };
        scene.bounded("new");
        scene
    }

    fn at(&self, page: u64) -> Iova {
        Iova::new(page << self.format.base().raw())
    }

    fn range(&self) -> IovaRange {
        IovaRange::new(self.at(1), PAGES << self.format.base().raw()).unwrap()
    }

    /// A run whose leaves have other sizes the less it lies like its addresses.
    fn run(&self, page: u64) -> IoRun {
        let base = self.format.base().raw();
        let addr = PhysAddr::new((1 << 36) + (page << base));
        IoRun { addr, bytes: PAGES << base }
    }

    fn map(&self, first: u64) {
        self.table.map(&self.host, self.at(1), [self.run(first)], RW, NONE).unwrap();
    }

    fn unmap(&self, range: IovaRange) {
        let mut buffer = heapless::Vec::<UnmappedRun, 4096>::new();
        let mut unmap = self.table.unmap(&self.host, range).unwrap();
        while let Some(unmapped) = unmap.step(&self.host, &mut buffer).unwrap() {
            unmapped.flushed(&self.host);
        }
    }

    /// Entries of the lowest tables.
    fn table_entries(&self) -> u64 {
        let mut shape = self.table.root();
        while let Some(below) = self.format.below(&shape, shape.base) {
            shape = below;
        }
        shape.entries().into()
    }

    /// Since this was called last, no more was done at once than there may be.
    fn bounded(&self, what: &str) -> u64 {
        self.bounded_with(0, what)
    }

    /// The same, and a table that is full when it is put into its place.
    fn bounded_with(&self, table: u64, what: &str) -> u64 {
        let (most, all) = self.host.handled_at_once();
        assert!(most <= self.most + table, "{what}: {most} at once of {all}, {:?}", self.format);
        all
    }
}

/// How the memory of a run lies to its addresses: with leaves as large as they come, with middling ones, and with
/// none but the smallest.
const LIES: [u64; 3] = [1, 9, 2];

#[test]
fn mapping_is_bounded() {
    for format in formats() {
        for first in LIES {
            let scene = Scene::new(format);
            scene.map(first);
            let all = scene.bounded("map");
            assert!(first != 2 || all >= PAGES);
            scene.unmap(scene.range());
            scene.bounded("unmap");
            // The tables are there.
            let one = |page| IoRun { bytes: format.base().bytes(), ..scene.run(page) };
            let runs: Vec<_> = (0..PAGES).map(|page| one(2 * page)).collect();
            scene.table.map(&scene.host, scene.at(1), &runs, RW, NONE).unwrap();
            assert!(scene.bounded("map of single pages") >= PAGES);
            scene.unmap(scene.range());
            scene.bounded("unmap of single pages");
            scene.host.memory.stop_after(PAGES / STEP / 2);
            let stopped = scene.table.map(&scene.host, scene.at(1), &runs, RW, NONE);
            assert_eq!(stopped, Err(IoptError::Interrupted));
            scene.bounded("undo");
        }
    }
}

/// Tables that are filled before they are linked count with all their entries.
#[test]
fn full_tables_are_bounded() {
    for format in formats() {
        let scene = Scene::with_step(format, 520);
        scene.map(2);
        assert!(scene.bounded("map") >= PAGES);
    }
}

#[test]
fn replacing_is_bounded() {
    for format in formats() {
        for (before, after) in [(1, 2), (2, 1), (9, 2), (9, 9)] {
            let scene = Scene::new(format);
            scene.map(before);
            scene.bounded("map");
            let mut buffer = heapless::Vec::<UnmappedRun, 4096>::new();
            let (run, at) = (scene.run(after + (1 << 20)), scene.at(1));
            let mut replace = scene.table.replace(&scene.host, at, [run], RW, NONE).unwrap();
            while let Some(old) = replace.step(&scene.host, &mut buffer).unwrap() {
                old.flushed(&scene.host);
                scene.bounded_with(scene.table_entries(), "replace");
            }
        }
    }
}

/// Whoever looks at entries counts those that are shown.
#[test]
fn looking_is_bounded() {
    for format in formats() {
        let scene = Scene::new(format);
        let (host, table) = (&scene.host, &scene.table);
        let tracks = table.start_tracking(host).is_ok();
        scene.map(2);
        scene.bounded("map");
        let each = |_: &Visited| {
            host.handled(1);
            Flow::Continue
        };
        table.visit(host, scene.range(), each).unwrap();
        assert!(scene.bounded("visit") >= PAGES);
        host.memory.stop_after(PAGES / STEP / 2);
        assert_eq!(table.visit(host, scene.range(), each), Err(IoptError::Interrupted));
        assert!(scene.bounded("visit") < PAGES);
        host.memory.stop_after(u64::MAX);
        if !tracks {
            continue;
        }
        for page in 1..=PAGES {
            write(table, host, scene.at(page)).unwrap();
        }
        host.handled_at_once();
        let each = |_| host.handled(1);
        assert!(table.dirty(host, scene.range(), each).is_ok());
        assert_eq!(scene.bounded("dirty"), PAGES);
        assert!(table.take_dirty(host, scene.range(), |_| {}).is_ok());
        assert_eq!(scene.bounded("take dirty"), PAGES);
        // Leaves of up to eight entries: each entry counts.
        scene.unmap(scene.range());
        scene.map(9);
        let pauses = host.memory.pauses();
        assert!(table.dirty(host, scene.range(), |_| {}).is_ok());
        let least = PAGES / (STEP + 8);
        assert!(host.memory.pauses() >= pauses + least, "{format:?}");
    }
}

/// Tables that map nothing, one behind the other: each entry of them counts, and each that goes back.
#[test]
fn giving_back_is_bounded() {
    const TABLES: u64 = 5;
    for format in formats() {
        let mut scene = Scene::new(format);
        let (span, base) = (scene.table_entries(), format.base());
        scene.host.memory.set_step(span);
        let pages = (0..TABLES).map(|table| Iova::new((table * span) << base.raw()));
        let run = IoRun { addr: PhysAddr::new(1 << 36), bytes: base.bytes() };
        for at in pages.clone() {
            scene.table.map(&scene.host, at, [run], RW, NONE).unwrap();
            scene.unmap(IovaRange::new(at, run.bytes).unwrap());
        }
        scene.host.memory.set_step(span / 4);
        let paused = |host: &Watched, what: &str, before: u64| {
            let pauses = host.memory.pauses() - before;
            assert!(pauses >= 4 * TABLES, "{what}: {pauses}, {format:?}");
        };
        let before = scene.host.memory.pauses();
        let opened = IoPageTable::open(format, &scene.host, scene.table.root().base).unwrap();
        assert_eq!(opened.tables(), scene.table.tables());
        paused(&scene.host, "open", before);
        let before = scene.host.memory.pauses();
        let trimmed = scene.table.trim(&scene.host);
        paused(&scene.host, "trim", before);
        scene.host.memory.set_step(2);
        scene.host.handled_at_once();
        trimmed.flushed(&scene.host);
        let (most, all) = scene.host.handled_at_once();
        assert!(most <= 2 && all >= TABLES, "{most} at once of {all}, {format:?}");
        for at in pages {
            scene.table.map(&scene.host, at, [run], RW, NONE).unwrap();
        }
        scene.host.memory.set_step(span / 4);
        let (before, Scene { host, table, .. }) = (scene.host.memory.pauses(), scene);
        table.destroy(&host).unwrap();
        paused(&host, "destroy", before);
    }
}

/// Each pause is told how far the call has come.
#[test]
fn pauses_know_how_far_it_is() {
    for format in formats() {
        let scene = Scene::new(format);
        let far = |progress: &[(u64, u64)], what: &str| {
            assert!(progress.iter().all(|(_, total)| *total == PAGES), "{what}, {format:?}");
            let rises = progress.windows(2).all(|two| two[0].0 <= two[1].0);
            let last = progress.last().unwrap().0;
            assert!(rises && (PAGES - 2 * STEP..=PAGES).contains(&last), "{what}: {last}");
        };
        scene.map(2);
        far(&scene.host.progress(), "map");
        if scene.table.start_tracking(&scene.host).is_ok() {
            scene.host.progress();
            assert!(scene.table.dirty(&scene.host, scene.range(), |_| {}).is_ok());
            // It looks for holes first.
            let progress = scene.host.progress();
            let (holes, marks) = progress.split_at(progress.len() / 2);
            assert_eq!(holes, marks);
            far(holes, "dirty");
        }
        let mut buffer = heapless::Vec::<UnmappedRun, 4096>::new();
        let mut unmap = scene.table.unmap(&scene.host, scene.range()).unwrap();
        unmap.step(&scene.host, &mut buffer).unwrap().unwrap().flushed(&scene.host);
        far(&scene.host.progress(), "unmap");
    }
}
