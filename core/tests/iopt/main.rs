//! IOMMU tables in every format against a plain list of pages.

use pinfold::iopt::IoptError;
use pinfold::{Access, PageShift};
use pinfold_arch::{AmdVi, AnyIoFormat, Granule, IoFlags, IoFormat, Smmu, Tce, Vtd, Zpci};
use proptest::prelude::*;

use self::world::{Op, UNITS, World};

mod addresses;
mod calls;
mod defects;
mod hosts;
mod long;
mod losses;
mod marks;
mod outs;
mod said;
mod splits;
mod steps;
mod threads;
mod visits;
mod watched;
mod whole;
mod world;

/// Every format, in shapes that differ in levels, leaf sizes and marks.
fn formats() -> Vec<AnyIoFormat> {
    let shift = |raw| PageShift::new(raw).unwrap();
    let tce = |page, window, levels| Tce::new(shift(page), shift(window), levels).unwrap();
    let marks = |smmu: Smmu| smmu.with_marks(true).unwrap();
    let stage1 = |granule, bits, host| Smmu::stage1(granule, bits, host).unwrap();
    let stage2 = |granule, bits, host| Smmu::stage2(granule, bits, host).unwrap();
    vec![
        tce(12, 36, 3).into(),
        tce(16, 40, 2).into(),
        Vtd::new(3, 46).unwrap().into(),
        Vtd::new(3, 46).unwrap().with_marks(true).unwrap().into(),
        Vtd::new(5, 46).unwrap().with_leaves(true, false).into(),
        AmdVi::new(2).unwrap().with_marks(true).into(),
        AmdVi::new(3).unwrap().into(),
        AmdVi::new(6).unwrap().into(),
        Zpci::new(3).unwrap().into(),
        Zpci::new(5).unwrap().into(),
        stage1(Granule::Size4K, 39, 44).into(),
        marks(stage1(Granule::Size4K, 39, 44)).with_bbml2(true).into(),
        stage1(Granule::Size64K, 48, 48).into(),
        stage2(Granule::Size16K, 40, 44).into(),
        marks(stage2(Granule::Size4K, 40, 44)).into(),
        marks(stage2(Granule::Size16K, 40, 44)).with_bbml2(true).into(),
    ]
}

fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    // Where the large leaves are, too.
    let at = prop_oneof![2 => 0..512_u64, 1 => (0..64_u64).prop_map(|at| at * 8)];
    prop::collection::vec((at, prop_oneof![3 => 1..4_u64, 1 => 8..20_u64]), 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    let units = || (0..UNITS, 1..UNITS, any::<bool>());
    prop_oneof![
        6 => (0..UNITS, runs(), any::<bool>()).prop_map(|(at, runs, write)| Op::Map(at, runs, write)),
        4 => (0..UNITS, runs(), any::<bool>(), any::<bool>())
            .prop_map(|(at, runs, write, many)| Op::Replace(at, runs, write, many)),
        3 => units().prop_map(|(at, units, many)| Op::Unmap(at, units, many)),
        3 => units().prop_map(|(at, units, _)| Op::Split(at, units)),
        4 => (0..UNITS, 0..512_u64).prop_map(|(unit, page)| Op::Write(unit, page)),
        2 => prop::bool::weighted(0.7).prop_map(Op::Track),
        2 => units().prop_map(|(at, units, take)| Op::Dirty(at, units, take)),
        1 => Just(Op::Grow),
        1 => Just(Op::Trim),
        1 => (0..8_u64).prop_map(Op::Stop),
    ]
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

    /// The tree always says what a plain list says, and nothing of it is left in the end; however short
    /// the steps between two pauses are.
    #[test]
    fn the_tree_is_the_map(
        shape in world(),
        step in prop::sample::select(vec![1, 7, 64, 4096_u64]),
        ops in prop::collection::vec(op(), 1..24),
    ) {
        let mut world = World::new(shape, step);
        for op in &ops {
            world.play(op);
            world.check();
        }
        world.check_visit();
        world.end();
    }

    /// Every allocation fails in turn: nothing of a map is mapped, and a replacement goes on where it was;
    /// nothing is lost.
    #[test]
    fn every_allocation_fails_in_turn(
        shape in world(),
        before in prop::collection::vec(op(), 0..6),
        at in 0..UNITS / 2,
        runs in prop::collection::vec((0..512_u64, 1..8_u64), 1..4),
        edge in 1..UNITS,
    ) {
        let mut world = World::new(shape, 4096);
        before.iter().for_each(|op| world.play(op));
        world.memory.stop_after(u64::MAX);
        let units: u64 = runs.iter().map(|run| run.1).sum();
        for allocations in 0.. {
            world.memory.fail_after(allocations);
            let split = world.table.split(&world.memory, world.range(0, edge));
            world.memory.fail_after(u64::MAX);
            world.check();
            if split != Err(IoptError::NoMemory) {
                break;
            }
        }
        for allocations in 0.. {
            world.memory.fail_after(allocations);
            let iova = world.iova(at);
            let (given, access) = (world.runs(&runs), Access::all());
            let mapped = world.table.map(&world.memory, iova, &given, access, IoFlags::empty());
            world.memory.fail_after(u64::MAX);
            if mapped == Err(IoptError::NoMemory) {
                world.check();
                continue;
            }
            if mapped.is_ok() {
                world.put(world.range(at, units), &given, true);
            }
            world.check();
            break;
        }
        let mut allocations = 0;
        while world.replace_failing::<4>(at, &runs, false, allocations) {
            world.check();
            allocations += 1;
        }
        world.check();
        world.memory.fail_after(0);
        world.grow();
        world.memory.fail_after(u64::MAX);
        world.check();
        world.end();
    }
}
