//! Tables of an IOMMU that somebody else wrote to: arbitrary bytes as memory, opened, mapped, unmapped,
//! replaced, split and given back.
//!
//! What the fuzz target `iommu` and the replay of its corpus run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use pinfold::host::{Flow, IoTables, PhysMem, Progress, TableView, Wait};
use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::sync::{Ordering, Word};
use pinfold::{Access, Granule, IovaRange, PageShift, PhysAddr};
use pinfold_arch::format::FormatError;
use pinfold_arch::{AmdVi, AnyIoFormat, IoFlags, IoFormat, Iova, Smmu, Tce, Vtd, Zpci};

use crate::ram::index;

/// Bytes of memory: the first quarter is the input's, the rest is given out.
const MEMORY: u64 = 256 << 10;
const INPUT: u64 = MEMORY / 4;
/// Where it begins. No table may lie at address 0.
const BASE: u64 = 0x10_0000;
/// Pauses after which a call that can be stopped is.
const PAUSES: u64 = 64;
/// Bytes of a step.
const STEP: usize = 6;

/// What an input came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Calls that succeeded.
    pub done: u64,
    /// Calls that were refused, or found what is no table.
    pub failed: u64,
}

struct Ram {
    words: Vec<Word>,
    next: Cell<u64>,
    given: RefCell<BTreeSet<u64>>,
    pauses: Cell<u64>,
}

impl PhysMem for Ram {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = base.raw().checked_sub(BASE).filter(|at| at % 8 == 0)?;
        let first = usize::try_from(first / 8).ok()?;
        Some(TableView::from_words(self.words.get(first..first.checked_add(entries)?)?))
    }
}

impl Wait for Ram {
    fn step(&self) -> u64 {
        1024
    }

    fn pause(&self, _: Progress) -> Flow {
        self.pauses.set(self.pauses.get() + 1);
        if self.pauses.get() > PAUSES { Flow::Stop } else { Flow::Continue }
    }
}

impl IoTables for Ram {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        let at = self.next.get().next_multiple_of(bytes);
        let end = at.checked_add(bytes).filter(|end| *end <= BASE + MEMORY)?;
        self.next.set(end);
        self.given.borrow_mut().insert(at);
        Some(PhysAddr::new(at))
    }

    /// Where entries were written by others, tables may come back that were never given out.
    fn free(&self, table: PhysAddr, _: u64) {
        self.given.borrow_mut().remove(&table.raw());
    }

    fn written(&self, at: PhysAddr, bytes: u64) {
        let inside = at.raw() >= BASE && bytes <= MEMORY && at.raw() - BASE <= MEMORY - bytes;
        assert!(inside, "{bytes} bytes at {at} are no table's");
    }
}

/// The format with a number, as inputs name it.
fn format(number: u8) -> Result<Option<AnyIoFormat>, FormatError> {
    let large = PageShift::new(16).unwrap_or(PageShift::SIZE_4K);
    let window = PageShift::new(36).unwrap_or(PageShift::SIZE_1G);
    Ok(Some(match number {
        0 => Vtd::new(3, 40)?.into(),
        1 => Vtd::new(5, 52)?.with_marks(true)?.into(),
        2 => AmdVi::new(2)?.into(),
        3 => AmdVi::new(6)?.with_marks(true).into(),
        4 => Zpci::new(3)?.into(),
        5 => Zpci::new(5)?.into(),
        6 => Tce::new(PageShift::SIZE_4K, window, 3)?.into(),
        7 => Tce::new(large, window, 2)?.into(),
        8 => Smmu::stage1(Granule::Size4K, 39, 40)?.with_marks(true)?.with_bbml2(true).into(),
        9 => Smmu::stage1(Granule::Size16K, 36, 40)?.into(),
        10 => Smmu::stage2(Granule::Size4K, 40, 40)?.into(),
        _ => return Ok(None),
    }))
}

/// Plays an input: its first byte names the format, its second how many bytes of steps follow, and the rest is
/// what memory holds. A step is what is done, where, with how much, and on what.
///
/// # Panics
/// If anything but an error comes of it.
#[must_use]
pub fn run(input: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(([number, steps], rest)) = input.split_first_chunk() else { return outcome };
    let Ok(Some(format)) = format(*number) else { return outcome };
    let (steps, memory) = rest.split_at(usize::from(*steps).min(rest.len()));
    let ram = Ram {
        words: (0..MEMORY / 8).map(|_| Word::new(0)).collect(),
        next: Cell::new(BASE + INPUT),
        given: RefCell::default(),
        pauses: Cell::new(0),
    };
    for (word, bytes) in ram.words.iter().zip(memory.as_chunks::<8>().0).take(index(INPUT / 8)) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    // Whatever the input holds is opened as it is, and as the memory behind tables that are made.
    let opened = IoPageTable::open(format, &ram, PhysAddr::new(BASE));
    let table = match opened {
        Ok(table) => table,
        Err(_) => match IoPageTable::new(format, &ram) {
            Ok(table) => table,
            Err(_) => return outcome,
        },
    };
    let mut table = table;
    for step in steps.as_chunks::<STEP>().0 {
        ram.pauses.set(0);
        let done = play(&mut table, &ram, *step);
        *(if done { &mut outcome.done } else { &mut outcome.failed }) += 1;
    }
    ram.pauses.set(0);
    let _ = table.trim(&ram).flushed(&ram);
    let _ = table.destroy(&ram);
    outcome
}

/// One step; whether it succeeded.
fn play(table: &mut IoPageTable<AnyIoFormat>, ram: &Ram, step: [u8; STEP]) -> bool {
    let [what, place, pages, high, target, bits] = step;
    let format = table.format();
    let base = format.base();
    // In steps of a page, of a table, or from the end.
    let unit = base.raw() + if bits & 1 != 0 { 9 } else { 0 };
    let near = u64::from(place) << unit;
    let at =
        if bits & 2 != 0 { format.last().raw().wrapping_sub(near) & !base.mask() } else { near };
    let start = Iova::new(at);
    let bytes = u64::from(pages) << (base.raw() + (high & 0xf));
    let run = IoRun { addr: PhysAddr::new(u64::from(target) << base.raw() << (high >> 4)), bytes };
    let access = if bits & 4 != 0 { Access::all() } else { Access::READ };
    let range = IovaRange::new(start, bytes).unwrap_or(IovaRange::ALL);
    let mut runs = heapless::Vec::<UnmappedRun, 8>::new();
    match what % 12 {
        0 | 1 => table.map(ram, start, [run], access, IoFlags::empty()).is_ok(),
        2 => table.map(ram, start, [run, run], access, IoFlags::empty()).is_ok(),
        3 | 4 => {
            let Ok(mut unmap) = table.unmap(ram, range) else { return false };
            for _ in 0..PAUSES {
                match unmap.step(ram, &mut runs) {
                    Ok(Some(unmapped)) => {
                        let _ = unmapped.flushed(ram);
                    }
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
            false
        }
        5 => {
            let replace = table.replace(ram, start, [run], access, IoFlags::empty());
            let Ok(mut replace) = replace else { return false };
            for _ in 0..PAUSES {
                match replace.step(ram, &mut runs) {
                    Ok(Some(unmapped)) => {
                        let _ = unmapped.flushed(ram);
                    }
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
            false
        }
        6 => table.split(ram, range).is_ok(),
        7 => table.start_tracking(ram).is_ok() && table.take_dirty(ram, range, |_| {}).is_ok(),
        8 => table.grow(ram, start).is_ok(),
        9 => table.visit(ram, range, |_| Flow::Continue).is_ok(),
        10 => table.trim(ram).flushed(ram).tables().is_ok(),
        _ => {
            // Somebody writes to a table.
            let word = ram.words.get(usize::from(place) << 5 | usize::from(pages & 31));
            let to = BASE + (u64::from(target) << 12);
            let raw = to | u64::from(bits) | u64::from(high) << 8;
            let raw = if format.big_endian() { raw.to_be() } else { raw.to_le() };
            word.is_some_and(|word| {
                word.store(raw, Ordering::Relaxed);
                true
            })
        }
    }
}
