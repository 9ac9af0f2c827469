//! What comes out of tables when it is unmapped or replaced: in which pieces, and what stays meanwhile.

use pinfold::host::{Kept, PhysMem};
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange, PhysAddr};
use pinfold_arch::{AmdVi, AnyIoFormat, Granule, IoFlags, Iova, Smmu, Vtd};
use pinfold_sim::TableMemory;

use super::world::write;

const RW: Access = Access::all();
const NONE: IoFlags = IoFlags::empty();
const HUGE: u64 = 2 << 20;
/// A leaf of several entries, in AMD's format.
const GROUP: u64 = 0x8000;

struct Scene {
    memory: TableMemory,
    table: IoPageTable<AnyIoFormat>,
}

fn run(addr: u64, bytes: u64) -> IoRun {
    IoRun { addr: PhysAddr::new(addr), bytes }
}

fn range(start: u64, bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), bytes).unwrap()
}

impl Scene {
    fn new(format: impl Into<AnyIoFormat>) -> Self {
        let memory = TableMemory::new(1 << 20);
        let table = IoPageTable::new(format.into(), &memory).unwrap();
        Self { memory, table }
    }

    fn map(&self, at: u64, runs: &[IoRun], access: Access) {
        self.table.map(&self.memory, Iova::new(at), runs, access, NONE).unwrap();
    }

    /// What each step of an unmapping gives: address, memory, length, and whether it was written.
    fn steps<const N: usize>(&self, range: IovaRange) -> Vec<Vec<(u64, u64, u64, bool)>> {
        let mut buffer = heapless::Vec::<UnmappedRun, N>::new();
        let mut unmap = self.table.unmap(&self.memory, range).unwrap();
        let mut steps = Vec::new();
        while let Some(unmapped) = unmap.step(&self.memory, &mut buffer).unwrap() {
            let quiesced = unmapped.flushed(&self.memory);
            let run = |run: &UnmappedRun| (run.at.raw(), run.addr.raw(), run.bytes, run.dirty);
            steps.push(quiesced.runs().iter().map(run).collect());
        }
        steps
    }

    fn addr(&self, at: u64) -> Option<u64> {
        let found = self.table.translate(&self.memory, Iova::new(at)).unwrap();
        found.map(|found| found.addr.raw())
    }

    /// Where each step of a replacement leads these addresses, and what it says of tables.
    fn replaced<const N: usize>(
        &self,
        at: u64,
        runs: &[IoRun],
        places: [u64; N],
    ) -> Vec<(Kept, [Option<u64>; N])> {
        let mut buffer = heapless::Vec::<UnmappedRun, 8>::new();
        let at = Iova::new(at);
        let mut replace = self.table.replace(&self.memory, at, runs, RW, NONE).unwrap();
        let mut steps = Vec::new();
        while let Some(old) = replace.step(&self.memory, &mut buffer).unwrap() {
            let kept = old.kept();
            old.flushed(&self.memory);
            steps.push((kept, places.map(|at| self.addr(at))));
        }
        steps
    }
}

#[test]
fn a_buffer_of_one_run_holds_all_that_continues_it() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap());
    let bytes = HUGE + 0x3000;
    scene.map(HUGE - 0x1000, &[run(HUGE - 0x1000, bytes), run(0x9000, 0x1000)], RW);
    let first = (HUGE - 0x1000, HUGE - 0x1000, bytes, true);
    let second = (HUGE - 0x1000 + bytes, 0x9000, 0x1000, true);
    let steps = scene.steps::<1>(range(0, 4 * HUGE));
    assert_eq!(steps, [[first], [second]]);
}

/// Whether the next page continues the run is known only when its mark was read: no page is lost.
#[test]
fn written_pages_and_others_come_apart_while_tracking() {
    let pages = [true, false, true, true, false, false];
    let scene = Scene::new(Vtd::new(3, 46).unwrap().with_marks(true).unwrap());
    scene.map(0, &[run(0x10_0000, 0x6000)], RW);
    assert!(scene.table.start_tracking(&scene.memory).is_ok());
    for (at, _) in (0..).step_by(0x1000).zip(pages).filter(|(_, written)| *written) {
        write(&scene.table, &scene.memory, Iova::new(at)).unwrap();
    }
    let steps = scene.steps::<1>(range(0, 0x6000));
    let all: Vec<_> = steps.into_iter().flatten().collect();
    let pages = [(0, 1, true), (1, 1, false), (2, 2, true), (4, 2, false)];
    let mut next = all.iter();
    for (page, many, written) in pages {
        let (mut at, end) = (page << 12, (page + many) << 12);
        while at < end {
            let run = next.next().unwrap();
            assert_eq!((run.0, run.1, run.3), (at, 0x10_0000 + at, written));
            at += run.2;
        }
    }
    assert_eq!(next.next(), None);
}

#[test]
fn pages_with_other_rights_come_apart() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap().with_marks(true).unwrap());
    assert!(scene.table.start_tracking(&scene.memory).is_ok());
    scene.map(0, &[run(0x10_0000, 0x2000)], RW);
    scene.map(0x2000, &[run(0x10_2000, 0x2000)], Access::READ);
    let steps = scene.steps::<4>(range(0, 0x4000));
    let apart = [(0, 0x10_0000, 0x2000, false), (0x2000, 0x10_2000, 0x2000, false)];
    assert_eq!(steps, [apart]);
}

/// Behind the last address that a leaf can have comes none that continues it, whatever the bits beyond say.
#[test]
fn nothing_continues_the_last_address() {
    let scene = Scene::new(Vtd::new(3, 52).unwrap());
    let top = (1_u64 << 52) - 0x1000;
    scene.map(0x1000, &[run(top, 0x1000), run(0, 0x1000)], RW);
    let mut lowest = None;
    let each = |visited: &pinfold::iopt::Visited| {
        lowest = Some(visited.table);
        pinfold::host::Flow::Continue
    };
    scene.table.visit(&scene.memory, range(0x1000, 1), each).unwrap();
    let view = scene.memory.table(lowest.unwrap().base, 512).unwrap();
    // Hardware does not look at bit 52.
    view.store(2, (1_u64 << 52 | 3).to_le()).unwrap();
    let steps = scene.steps::<4>(range(0, HUGE));
    assert_eq!(steps, [[(0x1000, top, 0x1000, true), (0x2000, 0, 0x1000, true)]]);
}

#[test]
fn a_pause_ends_a_step_and_the_next_goes_on() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap());
    scene.map(0, &[run(0x10_0000, 0x4000)], RW);
    scene.memory.set_step(1);
    scene.memory.stop_after(0);
    let replaced = scene.replaced(0, &[run(0x20_0000, 0x2000)], [0, 0x1000]);
    let (first, second) = (Some(0x20_0000), Some(0x20_1000));
    let steps = [(Kept::Leaves, [first, Some(0x10_1000)]), (Kept::Leaves, [first, second])];
    assert_eq!(replaced[..2], steps);
    let page = |at: u64, addr| vec![(at, addr, 0x1000, true)];
    let steps = scene.steps::<4>(range(0, 0x4000));
    let memory = [0x20_0000, 0x20_1000, 0x10_2000, 0x10_3000];
    assert_eq!(steps, [0, 1, 2, 3].map(|i| page(i << 12, memory[i as usize])));
}

/// What is left begins behind what came out.
#[test]
fn the_rest_is_what_did_not_come_out() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap());
    scene.map(0x1000, &[run(0x10_0000, 0x1000), run(0x30_0000, 0x1000)], RW);
    let mut buffer = heapless::Vec::<UnmappedRun, 1>::new();
    let mut unmap = scene.table.unmap(&scene.memory, range(0, 0x8000)).unwrap();
    for (out, rest) in
        [(range(0, 0x2000), Some(range(0x2000, 0x6000))), (range(0x2000, 0x6000), None)]
    {
        let unmapped = unmap.step(&scene.memory, &mut buffer).unwrap().unwrap();
        assert_eq!((unmapped.range(), unmapped.bytes()), (out, 0x1000));
        unmapped.flushed(&scene.memory);
        assert_eq!(unmap.rest(), rest);
    }
    assert!(unmap.step(&scene.memory, &mut buffer).unwrap().is_none());
}

#[test]
fn a_buffer_without_room_replaces_nothing() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap());
    let mut buffer = heapless::Vec::<UnmappedRun, 0>::new();
    let (memory, page) = (&scene.memory, [run(0x5000, 0x1000)]);
    let mut replace = scene.table.replace(memory, Iova::new(0), page, RW, NONE).unwrap();
    assert_eq!(replace.step(memory, &mut buffer).err(), Some(IoptError::NoBuffer));
    assert_eq!(scene.addr(0), None);
}

/// Where a table comes in the place of a leaf, more than leaves is to be forgotten.
#[test]
fn a_leaf_that_becomes_a_table_is_said_to() {
    let scene = Scene::new(Vtd::new(3, 46).unwrap());
    scene.map(HUGE, &[run(HUGE, HUGE)], RW);
    let same = scene.replaced(HUGE, &[run(2 * HUGE, HUGE)], [HUGE]);
    assert_eq!(same, [(Kept::Leaves, [Some(2 * HUGE)])]);
    let smaller = scene.replaced(HUGE, &[run(0x1000, HUGE)], [HUGE, 2 * HUGE - 0x1000]);
    assert_eq!(smaller, [(Kept::Tables, [Some(0x1000), Some(HUGE)])]);
    let again = scene.replaced(HUGE, &[run(HUGE, HUGE)], [HUGE]);
    assert_eq!(again, [(Kept::Leaves, [Some(HUGE)])]);
}

/// Arm's rule: what is old is out and flushed before what is new comes.
#[test]
fn break_before_make() {
    let scene = Scene::new(Smmu::stage1(Granule::Size4K, 39, 44).unwrap());
    scene.map(0, &[run(0x10_0000, 0x1000), run(0x20_0000, 0x1000)], RW);
    let runs = [run(0x30_0000, 0x1000), run(0x40_0000, 0x1000)];
    let steps = scene.replaced(0, &runs, [0, 0x1000]);
    let (out, there) = ([None, None], [Some(0x30_0000), Some(0x40_0000)]);
    assert_eq!(steps, [(Kept::Leaves, out), (Kept::Tables, there)]);
}

/// AMD's leaves of several entries: smaller ones come when the flush is over, and no neighbour is out meanwhile.
#[test]
fn a_leaf_of_several_entries_is_out_before_smaller_ones_come() {
    let scene = Scene::new(AmdVi::new(3).unwrap());
    scene.map(GROUP, &[run(GROUP, GROUP), run(0x10_0000, 0x1000)], RW);
    let runs: Vec<_> = (0..9).map(|page| run(0x20_0000 + page * 0x2000, 0x1000)).collect();
    let places = [GROUP, 2 * GROUP - 0x1000, 2 * GROUP];
    let steps = scene.replaced(GROUP, &runs, places);
    let there = [Some(0x20_0000), Some(0x20_e000), Some(0x21_0000)];
    let neighbour = [None, None, Some(0x10_0000)];
    assert_eq!(steps, [(Kept::Leaves, neighbour), (Kept::Tables, there)]);
}

/// Part of a leaf of several entries is gone, or one has come where none can be: nothing of it is touched.
#[test]
fn a_broken_leaf_of_several_entries_is_corrupt() {
    let broken = || {
        let scene = Scene::new(AmdVi::new(2).unwrap().with_marks(true));
        scene.map(GROUP, &[run(GROUP, GROUP)], RW);
        let mut lowest = None;
        let each = |visited: &pinfold::iopt::Visited| {
            lowest = Some((visited.table.base, visited.raw));
            pinfold::host::Flow::Continue
        };
        scene.table.visit(&scene.memory, range(GROUP, 1), each).unwrap();
        (scene, lowest.unwrap())
    };
    let corrupt = |error: Option<IoptError>| matches!(error, Some(IoptError::Corrupt { .. }));
    let mut buffer = heapless::Vec::<UnmappedRun, 8>::new();
    let (scene, (base, _)) = broken();
    let view = scene.memory.table(base, 512).unwrap();
    view.store(8, 0).unwrap();
    let harvest = scene.table.start_tracking(&scene.memory).unwrap();
    assert!(corrupt(harvest.ended), "{harvest:?}");
    scene.table.stop_tracking();
    let all = range(GROUP, 2 * GROUP);
    let mut unmap = scene.table.unmap(&scene.memory, all).unwrap();
    let before = unmap.step(&scene.memory, &mut buffer).unwrap().unwrap();
    assert_eq!((before.range(), before.bytes()), (range(GROUP, 0x1000), 0));
    before.flushed(&scene.memory);
    assert!(corrupt(unmap.step(&scene.memory, &mut buffer).err()));
    let runs: Vec<_> = (0..16).map(|page| run(0x20_0000 + page * 0x2000, 0x1000)).collect();
    let mut replace = scene.table.replace(&scene.memory, Iova::new(GROUP), runs, RW, NONE).unwrap();
    replace.step(&scene.memory, &mut buffer).unwrap().unwrap().flushed(&scene.memory);
    assert!(corrupt(replace.step(&scene.memory, &mut buffer).err()));
    assert_eq!(scene.addr(GROUP + 0x1000), Some(GROUP + 0x1000));

    // It came when the ends of the range had been looked at, and reaches over one.
    let (scene, (base, raw)) = broken();
    let view = scene.memory.table(base, 512).unwrap();
    let words: Vec<_> = (8..16).map(|entry| view.load(entry).unwrap()).collect();
    (8..16).for_each(|entry| view.store(entry, 0).unwrap());
    let mut unmap = scene.table.unmap(&scene.memory, range(GROUP, 0x4000)).unwrap();
    (8..16).zip(&words).for_each(|(entry, word)| view.store(entry, *word).unwrap());
    assert!(corrupt(unmap.step(&scene.memory, &mut buffer).err()));
    assert_eq!(view.load(8).map(u64::from_le), Some(raw));
}
