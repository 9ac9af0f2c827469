//! Marks of pages that devices wrote to.

use pinfold::host::PhysMem;
use pinfold::iopt::{DirtyBitmap, Harvest, IoPageTable, IoRun, IoptError};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AnyIoFormat, IoFlags, IoFormat, Iova, Vtd};
use pinfold_sim::TableMemory;
use proptest::prelude::*;

use super::world::{Op, UNITS, World, write};
use super::{formats, runs, units};

const RW: Access = Access::all();
const HUGE: u64 = 2 << 20;

fn range(start: u64, bytes: u64) -> IovaRange {
    IovaRange::new(Iova::new(start), bytes).unwrap()
}

fn run(addr: u64, bytes: u64) -> [IoRun; 1] {
    [IoRun { addr: PhysAddr::new(addr), bytes }]
}

fn marking() -> Vec<AnyIoFormat> {
    formats().into_iter().filter(|format| format.volatile_bits() != 0).collect()
}

fn op() -> impl Strategy<Value = Op> {
    let units = || (0..UNITS, 1..UNITS, any::<bool>());
    let all = any::<bool>().prop_map(|take| Op::Dirty(0, UNITS, take));
    prop_oneof![
        8 => (0..UNITS, 0..512_u64).prop_map(|(unit, page)| Op::Write(unit, page)),
        2 => units().prop_map(|(at, units, _)| Op::Split(at, units)),
        3 => units().prop_map(|(at, units, take)| Op::Dirty(at, units, take)),
        2 => all,
        2 => (0..UNITS, runs()).prop_map(|(at, runs)| Op::Replace(at, runs, true, true)),
        1 => units().prop_map(|(at, units, many)| Op::Unmap(at, units.min(4), many)),
        1 => any::<bool>().prop_map(Op::Track),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Where all is mapped, large, and tracked: what is said to be written is what was written, whatever has
    /// become of the leaves meanwhile.
    #[test]
    fn marks_stay_with_their_pages(
        (format, unit) in prop::sample::select(marking())
            .prop_flat_map(|format| (Just(format), units(&format))),
        step in prop::sample::select(vec![1, 64, 4096_u64]),
        ops in prop::collection::vec(op(), 1..32),
    ) {
        let mut world = World::new((format, unit, false), step);
        world.play(&Op::Map(0, vec![(0, UNITS)], true));
        world.play(&Op::Track(true));
        for op in &ops {
            world.play(op);
            world.check();
        }
        world.play(&Op::Dirty(0, UNITS, true));
        world.end();
    }
}

fn tracked(format: Vtd) -> (IoPageTable<AnyIoFormat>, TableMemory) {
    let memory = TableMemory::new(1 << 20);
    let table = IoPageTable::new(format.with_marks(true).unwrap().into(), &memory).unwrap();
    table.start_tracking(&memory).unwrap().flush.ok_or(()).unwrap_err();
    (table, memory)
}

/// A mark says of a large page that any of it was written; and pieces of the page say so, too.
#[test]
fn pieces_of_a_written_page_are_written() {
    let (table, memory) = tracked(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(HUGE), run(HUGE, HUGE), RW, IoFlags::empty()).unwrap();
    write(&table, &memory, Iova::new(HUGE + 0x1234)).unwrap();
    let all = range(HUGE, HUGE);
    let written = Harvest { dirty: HUGE, flush: None, ended: None };
    assert_eq!(table.dirty(&memory, all, |_| {}), Ok(written));
    table.split(&memory, range(HUGE, 0x1000)).unwrap();
    assert_eq!(table.dirty(&memory, all, |_| {}), Ok(written));
    let taken = Harvest { flush: Some(all), ..written };
    assert_eq!(table.take_dirty(&memory, all, |_| {}), Ok(taken));
    let nothing = Harvest { dirty: 0, flush: None, ended: None };
    assert_eq!(table.take_dirty(&memory, all, |_| {}), Ok(nothing));
}

/// The mark alone goes.
#[test]
fn what_else_a_leaf_says_stays() {
    let (table, memory) = tracked(Vtd::new(4, 46).unwrap().with_snoop_control(true));
    let at = Iova::new(0x3000);
    table.map(&memory, at, run(0x5000, 0x1000), RW, IoFlags::SNOOP).unwrap();
    write(&table, &memory, at).unwrap();
    let flags = || table.translate(&memory, at).unwrap().unwrap().flags;
    assert_eq!(flags(), IoFlags::SNOOP | IoFlags::DIRTY);
    let taken = table.take_dirty(&memory, range(0x3000, 0x1000), |_| {}).unwrap();
    assert_eq!((taken.dirty, flags()), (0x1000, IoFlags::SNOOP));
}

#[test]
fn only_who_tracks_is_told() {
    let (table, memory) = tracked(Vtd::new(4, 46).unwrap());
    table.map(&memory, Iova::new(0), run(0x5000, 0x1000), RW, IoFlags::empty()).unwrap();
    let page = range(0, 0x1000);
    assert!(table.dirty(&memory, page, |_| {}).is_ok());
    table.stop_tracking();
    assert_eq!(table.dirty(&memory, page, |_| {}), Err(IoptError::NoMarks));
    assert_eq!(table.take_dirty(&memory, page, |_| {}), Err(IoptError::NoMarks));
}

/// What was cleared before a corrupt entry is to be flushed all the same.
#[test]
fn a_corrupt_entry_ends_it_and_what_was_cleared_is_said() {
    let (table, memory) = tracked(Vtd::new(3, 46).unwrap());
    for at in [0x1000, 0x3000] {
        table.map(&memory, Iova::new(at), run(at, 0x1000), RW, IoFlags::empty()).unwrap();
        write(&table, &memory, Iova::new(at)).unwrap();
    }
    let top = memory.table(table.root().base, 512).unwrap();
    top.store(1, (1_u64 << 62 | 3).to_le()).unwrap();
    let harvest = table.start_tracking(&memory).unwrap();
    assert_eq!(harvest.dirty, 0x2000);
    assert_eq!(harvest.flush, Some(range(0x1000, 0x3000)));
    let at = Iova::new(1 << 30);
    assert_eq!(harvest.ended, Some(IoptError::Corrupt { at, raw: 1 << 62 | 3 }));
    assert!(!table.is_tracking());
    top.store(1, 0).unwrap();
    assert_eq!(table.start_tracking(&memory).unwrap().ended, None);
    // Nothing is taken where anything is wrong before it begins.
    write(&table, &memory, Iova::new(0x3000)).unwrap();
    let across = table.take_dirty(&memory, range(0x3000, 0x2000), |_| panic!("nothing"));
    assert_eq!(across, Err(IoptError::NotMapped { at: Iova::new(0x4000) }));
    let flags = table.translate(&memory, Iova::new(0x3000)).unwrap().unwrap().flags;
    assert_eq!(flags, IoFlags::DIRTY);
}

#[test]
fn a_bitmap_has_a_bit_for_each_page() {
    let pages = |first: u64, pages: u64| range(first << 12, pages << 12);
    let of = |written: &[IovaRange]| {
        let mut words = [0_u64; 3];
        let mut bitmap = DirtyBitmap::new(&mut words, pages(100, 150), PageShift::SIZE_4K).unwrap();
        written.iter().for_each(|written| bitmap.mark(*written));
        let set = (0..192).filter(|bit| words[bit / 64] >> (bit % 64) & 1 != 0);
        set.map(|bit| bit as u64).collect::<Vec<_>>()
    };
    assert_eq!(of(&[]), []);
    assert_eq!(of(&[pages(100, 1), pages(249, 1)]), [0, 149]);
    assert_eq!(of(&[pages(150, 80)]), (50..130).collect::<Vec<_>>());
    assert_eq!(of(&[pages(163, 1), pages(164, 1)]), [63, 64]);
    // Only what is in the range; and a part of a page is the page.
    assert_eq!(of(&[pages(0, 102), pages(248, 100)]), [0, 1, 148, 149]);
    assert_eq!(of(&[pages(0, 100), pages(250, 9)]), []);
    assert_eq!(of(&[pages(0, 1000)]), (0..150).collect::<Vec<_>>());
    assert_eq!(of(&[range((110 << 12) + 5, 0x1000)]), [10, 11]);
    let made = |words: usize, range| {
        DirtyBitmap::new(&mut vec![0; words], range, PageShift::SIZE_4K).is_some()
    };
    assert!(made(2, pages(0, 128)) && !made(2, pages(0, 129)));
    assert!(!made(2, range(0x800, 0x1000)) && !made(2, range(0, 0x1800)));
    assert!(!made(9, IovaRange::ALL));
}
