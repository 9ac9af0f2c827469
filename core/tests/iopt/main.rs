//! IOMMU tables in every format against a plain map of addresses.

use std::collections::BTreeMap;

use heapless::Vec as Buffer;
use pinfold::iopt::{IoPageTable, IoRun, IoptError, UnmappedRun};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AmdVi, AnyIoFormat, Granule, IoFlags, IoFormat, Iova, Smmu, Tce, Vtd, Zpci};
use pinfold_sim::TableMemory;
use proptest::prelude::*;

mod calls;
mod threads;

/// Every format, in shapes that differ in levels and leaf sizes.
fn formats() -> Vec<AnyIoFormat> {
    let shift = |raw| PageShift::new(raw).unwrap();
    let tce = |page, window, levels| Tce::new(shift(page), shift(window), levels).unwrap();
    vec![
        tce(12, 36, 3).into(),
        tce(16, 40, 2).into(),
        Vtd::new(3, 46).unwrap().into(),
        Vtd::new(5, 46).unwrap().with_leaves(true, false).into(),
        AmdVi::new(3).unwrap().into(),
        AmdVi::new(6).unwrap().into(),
        Zpci::new(3).unwrap().into(),
        Zpci::new(5).unwrap().into(),
        Smmu::stage1(Granule::Size4K, 39, 44).unwrap().into(),
        Smmu::stage1(Granule::Size64K, 48, 48).unwrap().into(),
        Smmu::stage2(Granule::Size16K, 40, 44).unwrap().into(),
    ]
}

/// How many units of a size the operations take place in.
const UNITS: u64 = 48;

#[derive(Clone, Debug)]
enum Op {
    /// At a unit, runs of memory: where (in units, and how far from a multiple of the largest
    /// page), how long.
    Map(u64, Vec<(u64, u64)>, bool),
    /// From a unit, so many units, through a buffer of one or of many runs.
    Unmap(u64, u64, bool),
    Trim,
}

fn op() -> impl Strategy<Value = Op> {
    let run = (0..512_u64, prop_oneof![3 => 1..4_u64, 1 => 8..20_u64]);
    prop_oneof![
        4 => (0..UNITS, prop::collection::vec(run, 1..4), any::<bool>())
            .prop_map(|(at, runs, write)| Op::Map(at, runs, write)),
        3 => (0..UNITS, 1..UNITS, any::<bool>()).prop_map(|(at, units, many)| Op::Unmap(at, units, many)),
        1 => Just(Op::Trim),
    ]
}

struct World {
    table: IoPageTable<AnyIoFormat>,
    memory: TableMemory,
    /// Which unit of memory each unit of device addresses leads to, and whether it may be written.
    model: BTreeMap<u64, (u64, bool)>,
    start: u64,
    unit: PageShift,
}

impl World {
    fn new(format: AnyIoFormat, unit: PageShift, top: bool) -> Self {
        let memory = TableMemory::new(32 << 20);
        let table = IoPageTable::new(format, &memory).unwrap();
        let bytes = UNITS << unit.raw();
        let start = if top { format.last().raw() - (bytes - 1) } else { 0 };
        Self { table, memory, model: BTreeMap::new(), start, unit }
    }

    fn iova(&self, unit: u64) -> Iova {
        Iova::new(self.start + (unit << self.unit.raw()))
    }

    fn play(&mut self, op: &Op) {
        match op {
            Op::Map(at, runs, write) => self.map(*at, runs, *write),
            Op::Unmap(at, units, many) => self.unmap(*at, (*units).min(UNITS - at), *many),
            Op::Trim => drop(self.table.trim(&self.memory).flushed(&self.memory)),
        }
    }

    fn map(&mut self, at: u64, runs: &[(u64, u64)], write: bool) {
        let access = if write { Access::all() } else { Access::READ };
        let memory = |unit: u64| PhysAddr::new((1 << 36) + (unit << self.unit.raw()));
        let bytes = |units: u64| units << self.unit.raw();
        let given: Vec<IoRun> = runs
            .iter()
            .map(|(unit, units)| IoRun { addr: memory(*unit), bytes: bytes(*units) })
            .collect();
        let units: u64 = runs.iter().map(|run| run.1).sum();
        let mapped = self.table.map(&self.memory, self.iova(at), &given, access, IoFlags::empty());
        let wanted = at..at + units;
        if at + units > UNITS {
            // At the end of the address space there is nothing more; elsewhere there may be room.
            if mapped.is_ok() {
                let range = IovaRange::new(self.iova(at), bytes(units)).unwrap();
                self.take_out::<64>(range).unwrap();
                assert!(self.model.range(wanted).next().is_none());
                return;
            }
            let outside = matches!(mapped, Err(IoptError::OutsideAperture { .. }));
            assert!(outside || self.model.range(wanted).next().is_some(), "{mapped:?}");
            return;
        }
        let first = self.model.range(wanted.clone()).next().map(|(unit, _)| self.iova(*unit));
        match first {
            Some(at) => assert_eq!(mapped, Err(IoptError::Mapped { at })),
            None => {
                assert_eq!(mapped, Ok(()));
                let each = runs.iter().flat_map(|(unit, units)| *unit..unit + units);
                self.model.extend(wanted.zip(each.map(|unit| (unit, write))));
            }
        }
    }

    fn unmap(&mut self, at: u64, units: u64, many: bool) {
        let range = IovaRange::new(self.iova(at), units << self.unit.raw()).unwrap();
        let out = if many { self.take_out::<512>(range) } else { self.take_out::<1>(range) };
        let expected: Vec<u64> =
            self.model.range(at..at + units).map(|(_, (memory, _))| *memory).collect();
        match out {
            Ok(runs) => {
                let page = 1 << self.unit.raw();
                let came: Vec<u64> = runs
                    .iter()
                    .flat_map(|run| (0..run.bytes / page).map(|i| run.addr.raw() + i * page))
                    .map(|addr| (addr - (1 << 36)) >> self.unit.raw())
                    .collect();
                assert_eq!(came, expected);
                self.model.retain(|unit, _| !(at..at + units).contains(unit));
            }
            Err(IoptError::InsideLeaf { at, shift }) => {
                // A larger leaf really crosses an end of the range.
                let found = self.table.translate(&self.memory, at).unwrap().unwrap();
                assert_eq!(found.shift, shift);
                assert!(!range.covers(at, Iova::new(at.raw() | shift.mask())));
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn take_out<const N: usize>(&self, range: IovaRange) -> Result<Vec<UnmappedRun>, IoptError> {
        let mut unmap = self.table.unmap(&self.memory, range)?;
        let mut buffer = Buffer::<UnmappedRun, N>::new();
        let (mut all, mut next) = (Vec::new(), range.start());
        while let Some(unmapped) = unmap.step(&self.memory, &mut buffer).unwrap() {
            assert_eq!(unmapped.range().start(), next);
            next = Iova::new(unmapped.range().last().raw().wrapping_add(1));
            unmapped.flushed(&self.memory);
            all.extend(buffer.iter().copied());
        }
        assert_eq!(next.raw().wrapping_sub(1), range.last().raw());
        Ok(all)
    }

    fn check(&self) {
        for unit in 0..UNITS {
            for offset in [0, 1, self.unit.mask()] {
                let at = Iova::new(self.iova(unit).raw() + offset);
                let found = self.table.translate(&self.memory, at).unwrap();
                let found = found.map(|found| (found.addr.raw(), found.access));
                let expected = self.model.get(&unit).map(|(memory, write)| {
                    let addr = (1 << 36) + (memory << self.unit.raw()) + offset;
                    (addr, if *write { Access::all() } else { Access::READ })
                });
                assert_eq!(found, expected, "{at}");
            }
        }
        assert_eq!(self.table.tables(), self.memory.used() as u64);
    }
}

fn units(format: &AnyIoFormat) -> impl Strategy<Value = PageShift> + use<> {
    let base = format.base().raw();
    // The base page, a few of them, a part of a large leaf, and one that large leaves fit.
    prop::sample::select(vec![base, base + 3, base + 7, base + 9])
        .prop_map(|raw| PageShift::new(raw).unwrap())
}

fn world() -> impl Strategy<Value = (AnyIoFormat, PageShift, bool)> {
    prop::sample::select(formats())
        .prop_flat_map(|format| (Just(format), units(&format), any::<bool>()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The tree always says what a plain map says, and nothing of it is left in the end.
    #[test]
    fn the_tree_is_the_map(
        (format, unit, top) in world(),
        ops in prop::collection::vec(op(), 1..16),
    ) {
        let mut world = World::new(format, unit, top);
        for op in &ops {
            world.play(op);
            world.check();
        }
        world.unmap(0, UNITS, true);
        assert!(world.model.is_empty());
        world.check();
        world.table.trim(&world.memory).flushed(&world.memory);
        assert_eq!(world.memory.used(), 1, "the top table alone");
        world.table.destroy(&world.memory).unwrap();
        assert_eq!(world.memory.used(), 0);
    }

    /// Every allocation fails in turn: nothing of the call is mapped, and nothing is lost.
    #[test]
    fn every_allocation_fails_in_turn(
        (format, unit, top) in world(),
        before in prop::collection::vec(op(), 0..4),
        at in 0..UNITS / 2,
        runs in prop::collection::vec((0..512_u64, 1..8_u64), 1..4),
    ) {
        let mut world = World::new(format, unit, top);
        before.iter().for_each(|op| world.play(op));
        for allocations in 0.. {
            let model = world.model.clone();
            world.memory.fail_after(allocations);
            let units: u64 = runs.iter().map(|run| run.1).sum();
            let given: Vec<IoRun> = runs.iter().map(|(run, units)| IoRun {
                addr: PhysAddr::new((1 << 36) + (run << unit.raw())),
                bytes: units << unit.raw(),
            }).collect();
            let iova = world.iova(at);
            let mapped = world.table.map(&world.memory, iova, &given, Access::all(), IoFlags::empty());
            world.memory.fail_after(u64::MAX);
            if mapped != Err(IoptError::NoMemory) {
                let free = model.range(at..at + units).next().is_none();
                prop_assert_eq!(mapped.is_ok(), free, "{:?}", mapped);
                break;
            }
            world.check();
        }
    }
}
