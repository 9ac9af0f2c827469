//! Taking memory away from a device, a buffer at a time.

use pinfold_arch::addr::index;
use pinfold_arch::{Access, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova};

use super::budget::Budget;
use super::cursor::Cursor;
use super::entry::{self, LINE};
use super::unmapped::{Detached, Unmapped, join};
use super::{IoPageTable, IoptError, OfCaller, UnmappedRun};
use crate::host::{Flow, IoTables};
use crate::iova::IovaRange;
use crate::sync::{Ordering, Word};

/// A range on its way out; made by [`IoPageTable::unmap`]. All of it, also what was taken out already,
/// belongs to this value until [`step`](Self::step) says that nothing is left: nobody maps anything there.
#[derive(Debug)]
#[must_use = "nothing is unmapped before `step` is called"]
pub struct Unmap<'t, F, O = OfCaller> {
    table: &'t IoPageTable<F, O>,
    range: IovaRange,
    /// What comes next; `None` behind the end.
    at: Option<u64>,
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Begins to unmap a range: with as many calls of [`Unmap::step`] as it takes. Holes in it are
    /// passed over.
    ///
    /// # Context
    /// Any. Nobody else maps or unmaps the same range.
    ///
    /// # Errors
    /// [`IoptError::Unaligned`], [`IoptError::OutsideAperture`], [`IoptError::InsideLeaf`] if the range
    /// begins or ends inside a leaf ([`split`](Self::split) goes first), [`IoptError::Corrupt`]. Nothing has
    /// changed.
    pub fn unmap<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
    ) -> Result<Unmap<'_, F, O>, IoptError> {
        self.aligned(range)?;
        match self.cut(tables, range)? {
            Some((at, shift)) => Err(IoptError::InsideLeaf { at, shift }),
            None => Ok(Unmap { table: self, range, at: Some(range.start().raw()) }),
        }
    }

    /// Takes out what the caller has mapped in a range just now, and leaves the tables where they are.
    pub(crate) fn withdraw<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
    ) -> Result<(), IoptError> {
        let mut runs = heapless::Vec::<UnmappedRun, 16>::new();
        let start = range.start();
        let taker = Taker::new(self, self.tree(), tables, range, start.raw());
        let mut taker = taker.map_err(|_| IoptError::NotUndone { at: start })?.keeping_tables();
        // It ends early where the buffer is full or a pause says stop, which it cannot.
        loop {
            match taker.take_out(&mut runs) {
                Ok(Taken::All) => return Ok(()),
                Ok(Taken::AsMuchAsFits) => runs.clear(),
                Err(_) => return Err(IoptError::NotUndone { at: Iova::new(taker.at) }),
            }
        }
    }
}

impl<'t, F: IoFormat, O> Unmap<'t, F, O> {
    /// Unmaps as much of what is left as fits `runs`, which is emptied before: the memory that was mapped, in
    /// order of device addresses, with neighbours joined. `None` when nothing is left. It also ends early where
    /// [`Wait::pause`](crate::host::Wait::pause) says so.
    ///
    /// # Context
    /// Any, but for `pause`.
    ///
    /// # Errors
    /// [`IoptError::NoBuffer`] for a buffer without room, [`IoptError::Corrupt`]. Nothing has changed: what
    /// comes before a corrupt entry was handed out by the call before.
    pub fn step<'b, T: IoTables>(
        &mut self,
        tables: &T,
        runs: &'b mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<Option<Unmapped<'t, 'b, F, O>>, IoptError> {
        runs.clear();
        let Some(from) = self.at else { return Ok(None) };
        if runs.capacity() == 0 {
            return Err(IoptError::NoBuffer);
        }
        let tree = self.table.tree();
        let mut taker = Taker::new(self.table, tree, tables, self.range, from)?;
        self.at = match taker.take_out(runs) {
            Ok(Taken::All) => None,
            Ok(Taken::AsMuchAsFits) => Some(taker.at),
            Err(error) if taker.at == from => return Err(error),
            // It comes again in the next call, and what was taken out is flushed first.
            Err(_) => Some(taker.at),
        };
        let last = self.at.map_or(self.range.last(), |at| Iova::new(at.wrapping_sub(1)));
        let range = IovaRange::between(Iova::new(from), last).unwrap_or(self.range);
        Ok(Some(Unmapped::new(self.table, range, tree, (taker.detached, false), runs)))
    }

    /// What is left to unmap.
    #[must_use]
    pub fn rest(&self) -> Option<IovaRange> {
        IovaRange::between(Iova::new(self.at?), self.range.last())
    }
}

/// How far a step has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    All,
    AsMuchAsFits,
}

/// Takes entries out.
#[derive(Debug)]
pub(super) struct Taker<'m, F: IoFormat, T: IoTables> {
    cursor: Cursor<'m, F, T>,
    budget: Budget<'m, T>,
    range: IovaRange,
    /// Whether somebody asks which pages were written: then it must not be lost what a device does
    /// at this moment.
    tracking: bool,
    /// Whether tables go, too, of which nothing is left.
    detaches: bool,
    detached: Detached,
    from: u64,
    pub(super) at: u64,
}

impl<'m, F: IoFormat, T: IoTables> Taker<'m, F, T> {
    pub(super) fn new<O>(
        table: &IoPageTable<F, O>,
        tree: (F, IoTable),
        tables: &'m T,
        range: IovaRange,
        from: u64,
    ) -> Result<Self, IoptError> {
        let pages = (range.last().raw().wrapping_sub(from) >> tree.0.base().raw()).wrapping_add(1);
        let cursor = Cursor::new(tree, tables)?;
        let (budget, tracking) = (Budget::new(tables, pages), table.is_tracking());
        let detached = Detached::default();
        Ok(Self { cursor, budget, range, tracking, detaches: true, detached, from, at: from })
    }

    /// Leaves the tables where they are.
    pub(super) fn keeping_tables(mut self) -> Self {
        self.detaches = false;
        self
    }

    /// Takes out what comes from `at` on.
    pub(super) fn take_out(
        &mut self,
        runs: &mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<Taken, IoptError> {
        loop {
            let found = self.cursor.find(self.at)?;
            let shift = self.cursor.level.table.shift;
            let (last, entries) = match found {
                IoEntry::Leaf(leaf) => {
                    let Some(entries) = self.leaves(leaf, runs)? else {
                        return Ok(Taken::AsMuchAsFits);
                    };
                    let bytes = (entries as u64) << shift.raw();
                    (self.at.wrapping_add(bytes - 1), entries as u64)
                }
                _ => (self.at | shift.mask(), 1),
            };
            // Behind the last address that there is comes nothing.
            let behind = last.checked_add(1).filter(|behind| *behind <= self.range.last().raw());
            while let Some(end) = self.cursor.ends()
                && behind.is_none_or(|behind| behind > end)
            {
                self.detach();
            }
            let Some(behind) = behind else { return Ok(Taken::All) };
            self.at = behind;
            let pages = self.at.wrapping_sub(self.from) >> self.cursor.format.base().raw();
            if self.budget.spend(entries, pages) == Flow::Stop {
                return Ok(Taken::AsMuchAsFits);
            }
        }
    }

    /// Takes out the leaf at `at` and those behind it in the same table, and says how many entries they had;
    /// `None` if there is no room for the first.
    fn leaves(
        &mut self,
        mut leaf: IoLeaf,
        runs: &mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<Option<usize>, IoptError> {
        let (format, level) = (self.cursor.format, self.cursor.level);
        let table = &level.table;
        let absent = entry::in_memory(&format, entry::absent(&format, table, Iova::new(self.at))?);
        let place = level.place(self.at);
        let end = self.range.last().raw().min(level.last);
        let most = ((end - self.at) >> table.shift.raw()).min(self.budget.most() - 1);
        let words = level.view.words_from(place, index(most + 1));
        let mut done = 0;
        loop {
            let at = Iova::new(self.at.wrapping_add((done as u64) << table.shift.raw()));
            let inside = leaf.shift.mask();
            if at.raw() & inside != 0 || at.raw() | inside > end {
                // A leaf of several entries that does not begin where one can: somebody wrote to the table.
                break;
            }
            let writable = leaf.access.contains(Access::WRITE);
            let (addr, dirty) = (leaf.addr, writable);
            let mut run = UnmappedRun { at, addr, bytes: 0, writable, dirty };
            let joins = |last: &UnmappedRun| !self.tracking && last.joins(&run);
            if runs.is_full() && !runs.last().is_some_and(joins) {
                break;
            }
            let per_leaf = index(leaf.entries(table));
            let rest = level.view.words_from(place.saturating_add(done), per_leaf);
            let entries = if self.tracking {
                run.dirty = exchange(&format, table, rest, absent);
                per_leaf
            } else if per_leaf > 1 {
                rest.iter().for_each(|word| word.store(absent, Ordering::Release));
                per_leaf
            } else {
                sweep(&format, table, words.get(done..).unwrap_or_default(), absent)
            };
            run.bytes = (entries as u64) << table.shift.raw();
            join(runs, run);
            done += entries;
            let Some(next) = words.get(done) else { break };
            let next = entry::in_memory(&format, next.load(Ordering::Acquire));
            match format.decode(table, next) {
                IoEntry::Leaf(next) => leaf = next,
                _ => break,
            }
        }
        self.cursor.wrote(place, done);
        let first = Iova::new(self.at);
        let whole = first.is_aligned(leaf.shift) && self.at | leaf.shift.mask() <= end;
        match done {
            0 if !whole => Err(IoptError::Corrupt { at: first, raw: leaf.addr.raw() }),
            0 => Ok(None),
            _ => Ok(Some(done)),
        }
    }

    /// Leaves the lowest table, and takes it out of the one above if the range covers all that it can map.
    fn detach(&mut self) {
        let (below, depth) = (self.cursor.level, self.cursor.depth());
        if !self.cursor.leave() {
            return;
        }
        let above = self.cursor.level;
        let (start, last) = (Iova::new(below.start), Iova::new(below.last));
        if !self.detaches || !self.range.covers(start, last) {
            return;
        }
        let format = self.cursor.format;
        let Ok(absent) = entry::absent(&format, &above.table, start) else { return };
        let place = above.place(below.start);
        above.view.swap(place, entry::in_memory(&format, absent));
        self.cursor.wrote(place, 1);
        let added = self.detached.add(&format, depth, &below.table, &below.view);
        debug_assert!(added.is_ok(), "a table of the format has absent entries");
    }
}

/// Puts something else into the entries of a leaf; whether any says that the page was written.
pub(super) fn exchange<F: IoFormat>(format: &F, table: &IoTable, words: &[Word], new: u64) -> bool {
    words.iter().fold(false, |dirty, word| {
        // AcqRel: the mark comes with the writes that it stands for.
        let raw = entry::in_memory(format, word.swap(new, Ordering::AcqRel));
        let IoEntry::Leaf(leaf) = format.decode(table, raw) else { return dirty };
        dirty || leaf.flags.contains(IoFlags::DIRTY)
    })
}

/// Takes out the leaf in the first of these words and those behind it that continue it: all is the same but
/// the address, in its own place, and marks. Says how many.
fn sweep<F: IoFormat>(format: &F, table: &IoTable, words: &[Word], absent: u64) -> usize {
    // The order of bytes is chosen here and not word by word.
    if format.big_endian() {
        sweep_as(format, table, words, absent, u64::to_be)
    } else {
        sweep_as(format, table, words, absent, u64::to_le)
    }
}

#[inline(always)]
fn sweep_as<F: IoFormat>(
    format: &F,
    table: &IoTable,
    words: &[Word],
    absent: u64,
    in_memory: impl Fn(u64) -> u64,
) -> usize {
    let (step, address) = (table.shift.bytes(), format.address_bits(table));
    let (Some((first, rest)), marks) = (words.split_first(), format.volatile_bits()) else {
        return 0;
    };
    let raw = in_memory(first.load(Ordering::Relaxed)) & !marks;
    // Release: whoever maps here afterwards does so behind this.
    first.store(absent, Ordering::Release);
    // Up to where the address would go out of its place.
    let room = (address - (raw & address)) >> table.shift.raw();
    let rest = rest.get(..index(room)).unwrap_or(rest);
    let differs =
        |word: &Word, expected: u64| (in_memory(word.load(Ordering::Relaxed)) ^ expected) & !marks;
    let (mut done, mut expected) = (0, raw.wrapping_add(step));
    // With scattered memory, all are so.
    if rest.first().is_none_or(|word| differs(word, expected) != 0) {
        return 1;
    }
    let (lines, _) = rest.as_chunks::<{ LINE }>();
    for line in lines {
        let mut next = expected;
        let mut other = 0;
        for word in line {
            other |= differs(word, next);
            next = next.wrapping_add(step);
        }
        if other != 0 {
            break;
        }
        line.iter().for_each(|word| word.store(absent, Ordering::Release));
        (done, expected) = (done + line.len(), next);
    }
    for word in rest.get(done..).unwrap_or_default() {
        if differs(word, expected) != 0 {
            break;
        }
        word.store(absent, Ordering::Release);
        (done, expected) = (done + 1, expected.wrapping_add(step));
    }
    done + 1
}
