//! Mapping runs of memory.

use core::borrow::Borrow;

use pinfold_arch::addr::index;
use pinfold_arch::{
    Access, EncodeError, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova, PageShift, PhysAddr,
};

use super::budget::Budget;
use super::cursor::{Cursor, Level};
use super::leaves::{Grant, Leaves, Pages};
use super::{IoPageTable, IoRun, IoptError};
use super::{entry, tree};
use crate::host::{Flow, IoTables, TableView};
use crate::iova::IovaRange;
use crate::sync::{Ordering, Word};

impl<F: IoFormat> IoPageTable<F> {
    /// Maps runs of memory one behind the other, from `start` on, with the largest leaves that the
    /// format has and a run allows. All of them or none: after an error nothing of them is mapped, but for
    /// [`IoptError::NotUndone`]. A device may have used what was mapped until then: after
    /// [`IoptError::Mapped`], [`IoptError::NoMemory`], [`IoptError::Interrupted`], [`IoptError::Corrupt`] and
    /// [`IoptError::Encode`] for a table, flush from `start` on before the memory is released. Tables that were made stay, empty, until [`trim`](Self::trim) or the
    /// range is unmapped; where one stands, what is mapped later is mapped with its small leaves.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause). Nobody else maps or unmaps the same range. The
    /// IOMMU may have to be told of new mappings, too (caching mode); that is up to the caller.
    ///
    /// # Errors
    /// [`IoptError::Unaligned`], [`IoptError::OutsideAperture`], and [`IoptError::Encode`] for memory or an
    /// access that the format cannot say: before anything is written. [`IoptError::Mapped`],
    /// [`IoptError::NoMemory`], [`IoptError::Corrupt`]; [`IoptError::Interrupted`] if `pause` said so;
    /// [`IoptError::Encode`] for a table that the host gave; [`IoptError::NotUndone`].
    pub fn map<T, R>(
        &self,
        tables: &T,
        start: Iova,
        runs: R,
        access: Access,
        flags: IoFlags,
    ) -> Result<(), IoptError>
    where
        T: IoTables,
        R: IntoIterator<Item: Borrow<IoRun>, IntoIter: Clone>,
    {
        let mapped = self.map_or_undo(tables, start, runs, access, flags);
        mapped.map(drop).map_err(|failed| failed.error)
    }
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Maps runs, and says what was mapped; after an error, what had been until then.
    pub(crate) fn map_or_undo<T, R>(
        &self,
        tables: &T,
        start: Iova,
        runs: R,
        access: Access,
        flags: IoFlags,
    ) -> Result<Option<IovaRange>, MapFailed>
    where
        T: IoTables,
        R: IntoIterator<Item: Borrow<IoRun>, IntoIter: Clone>,
    {
        let (grant, runs) = (Grant { access, flags }, runs.into_iter());
        let tree = self.tree();
        let nothing = |error| MapFailed { error, undone: None };
        let pages = Pages::new(&tree.0, tree.1, grant);
        let range = check(&tree.0, tables, (start, runs.clone()), &pages).map_err(nothing)?;
        let Some(range) = range else { return Ok(None) };
        let mut writer = Writer::new(self, tree, tables, range, pages).map_err(nothing)?;
        for run in runs {
            let mut run = writer.inside(*run.borrow());
            while run.bytes > 0 {
                let error = match writer.step(&mut run) {
                    Ok(Met::Leaf(_, at)) => IoptError::Mapped { at: Iova::new(at) },
                    Ok(_) => continue,
                    Err(error) => error,
                };
                let undone =
                    writer.last.and_then(|last| IovaRange::between(start, Iova::new(last)));
                let error = writer.clear().err().unwrap_or(error);
                return Err(MapFailed { error, undone });
            }
        }
        Ok(Some(range))
    }
}

/// Why runs were not mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapFailed {
    pub(crate) error: IoptError,
    /// What was mapped for a while.
    pub(crate) undone: Option<IovaRange>,
}

/// Everything that can be known before the first write; where the runs go, if they are not empty.
pub(super) fn check<F: IoFormat, T: IoTables>(
    format: &F,
    tables: &T,
    (start, runs): (Iova, impl Iterator<Item: Borrow<IoRun>>),
    pages: &Pages,
) -> Result<Option<IovaRange>, IoptError> {
    let mut budget = Budget::new(tables, 0);
    let (base, mut at) = (format.base(), start.raw());
    let last = format.last().raw();
    let mut room = last.checked_sub(at).ok_or(IoptError::OutsideAperture { at: start })?;
    let mut full = false;
    for run in runs {
        let run = run.borrow();
        let here = Iova::new(at);
        // To stop is for what comes next.
        let _ = budget.spend(1, 0);
        if (at | run.addr.raw() | run.bytes) & base.mask() != 0 {
            return Err(IoptError::Unaligned { at: here });
        }
        let Some(others) = run.bytes.checked_sub(1) else { continue };
        // The very last byte may be the last address there is.
        if full || others > room {
            return Err(IoptError::OutsideAperture { at: here });
        }
        let end = run.addr.checked_add(others);
        let end = end.ok_or(EncodeError::Address { addr: run.addr });
        // Where there is a place for the last page's address, there is one for those before it.
        let said = end.and_then(|end| pages.encode(format, end.align_down(base)));
        said.map_err(|why| IoptError::Encode { at: here, why })?;
        full = others == room;
        room = room.wrapping_sub(run.bytes);
        at = at.wrapping_add(run.bytes);
    }
    // The last address may be the last there is; then it is full.
    let some = at != start.raw() || full;
    Ok(IovaRange::between(start, Iova::new(at.wrapping_sub(1))).filter(|_| some))
}

/// What stands in the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Met {
    Nothing,
    Table,
    /// A leaf, and the first address of the entry.
    Leaf(IoLeaf, u64),
}

/// Maps from one address on.
#[derive(Debug)]
pub(super) struct Writer<'m, F: IoFormat, T: IoTables> {
    pub(super) live: &'m Word,
    pub(super) cursor: Cursor<'m, F, T>,
    budget: Budget<'m, T>,
    pages: Pages,
    /// Where it began, and the last address that it may map.
    start: u64,
    end: u64,
    /// Where it stands.
    pub(super) at: u64,
    /// The last address that it has mapped.
    pub(super) last: Option<u64>,
}

impl<'m, F: IoFormat, T: IoTables> Writer<'m, F, T> {
    /// Maps in a range.
    pub(super) fn new<O>(
        table: &'m IoPageTable<F, O>,
        tree: (F, IoTable),
        tables: &'m T,
        range: IovaRange,
        pages: Pages,
    ) -> Result<Self, IoptError> {
        let cursor = Cursor::new(tree, tables)?.making(&table.linking);
        let (start, end) = (range.start().raw(), range.last().raw());
        let others = end.wrapping_sub(start) >> tree.0.base().raw();
        let budget = Budget::new(tables, others.wrapping_add(1));
        let (live, at, last) = (&table.live, start, None);
        Ok(Self { live, cursor, budget, pages, start, end, at, last })
    }

    /// As much of a run as is inside the range: an iterator may say something else the second time.
    pub(super) fn inside(&self, run: IoRun) -> IoRun {
        let others = self.end.wrapping_sub(self.at);
        let room = if self.last == Some(self.end) { 0 } else { others.saturating_add(1) };
        IoRun { bytes: run.bytes.min(room), ..run }
    }

    /// Maps the beginning of a run, as many leaves as can be written at once, and takes it off the run, also
    /// with an error. Says which leaf is in the way, if one is.
    pub(super) fn step(&mut self, run: &mut IoRun) -> Result<Met, IoptError> {
        let at = self.at;
        if let IoEntry::Leaf(leaf) = self.cursor.find(at)? {
            return Ok(Met::Leaf(leaf, at));
        }
        let (format, level) = (&self.cursor.format, &self.cursor.level);
        let table = &level.table;
        if run.bytes == table.shift.bytes() && table.shift == self.pages.table.shift {
            return self.page(run).map(|()| Met::Nothing);
        }
        let Some(size) = largest(format, table, at | run.addr.raw(), run.bytes) else {
            return self.below(run).map(|()| Met::Nothing);
        };
        let bytes = stretch(format, level, at, run.addr.raw(), size).min(run.bytes);
        match self.leaves(size, bytes, run)? {
            Met::Leaf(leaf, found) if found == self.at => return Ok(Met::Leaf(leaf, found)),
            Met::Table | Met::Leaf(..) if self.at == at => {}
            _ => return Ok(Met::Nothing),
        }
        // A larger leaf met something behind its first entry. A smaller one goes in front of that.
        let table = &self.cursor.level.table;
        match largest(&self.cursor.format, table, at | run.addr.raw(), table.shift.bytes()) {
            Some(size) => self.leaves(size, size.bytes(), run),
            None => self.below(run).map(|()| Met::Nothing),
        }
    }

    /// Maps a run of one page in an entry that says nothing: with scattered memory, all are so.
    fn page(&mut self, run: &mut IoRun) -> Result<(), IoptError> {
        let (format, level) = (&self.cursor.format, &self.cursor.level);
        let (place, bytes) = (level.place(self.at), level.table.shift.bytes());
        let raw = self.pages.encode(format, run.addr);
        let raw = raw.map_err(|why| IoptError::Encode { at: Iova::new(self.at), why })?;
        level.view.store(place, entry::in_memory(format, raw));
        self.cursor.wrote(place, 1);
        self.went(run, bytes, 1)
    }

    /// Writes leaves of one size one behind the other, up to where something stands.
    fn leaves(&mut self, size: PageShift, bytes: u64, run: &mut IoRun) -> Result<Met, IoptError> {
        let level = &self.cursor.level;
        let (table, place) = (&level.table, level.place(self.at));
        let leaf = self.pages.grant.leaf(run.addr, size);
        let per_leaf = leaf.entries(table);
        let entries = (bytes >> table.shift.raw()).min(self.budget.most().max(per_leaf));
        let words = level.view.words_from(place, index(entries / per_leaf * per_leaf));
        let mut leaves = Leaves::new(&self.cursor.format, table, self.at, leaf);
        leaves.start = self.pages.of(table, leaf);
        let absent = self.pages.absent(&self.cursor.format, table, Iova::new(self.at))?;
        let mut done = 0;
        let met = leaves.write(words, absent, &mut done).map(|met| match met {
            None => Met::Nothing,
            Some((entry, IoEntry::Leaf(leaf))) => Met::Leaf(leaf, leaves.iova(entry).raw()),
            Some(_) => Met::Table,
        });
        let bytes = done << table.shift.raw();
        self.cursor.wrote(place, index(done));
        self.went(run, bytes, done.max(1)).and(met)
    }

    /// So many bytes of a run were mapped, in so many entries.
    pub(super) fn went(
        &mut self,
        run: &mut IoRun,
        bytes: u64,
        entries: u64,
    ) -> Result<(), IoptError> {
        run.addr = PhysAddr::new(run.addr.raw().wrapping_add(bytes));
        run.bytes = run.bytes.wrapping_sub(bytes);
        self.at = self.at.wrapping_add(bytes);
        if bytes > 0 {
            self.last = Some(self.at.wrapping_sub(1));
        }
        let pages = self.at.wrapping_sub(self.start) >> self.cursor.format.base().raw();
        match self.budget.spend(entries, pages) {
            // Whoever calls again comes further.
            Flow::Stop if bytes > 0 => Err(IoptError::Interrupted),
            _ => Ok(()),
        }
    }

    /// Makes the table behind an entry, full of leaves if the run goes all the way through it.
    fn below(&mut self, run: &mut IoRun) -> Result<(), IoptError> {
        let (at, format, table) = (self.at, self.cursor.format, self.cursor.level.table);
        let span = table.shift.bytes();
        let full = at & (span - 1) == 0 && run.bytes >= span;
        let shape = format.below(&table, table.base);
        let below = shape.filter(|below| full && u64::from(below.entries()) <= self.budget.most());
        let size = below.and_then(|below| largest(&format, &below, at | run.addr.raw(), span));
        let (Some(below), Some(size)) = (below, size) else {
            tree::make(&mut self.cursor, self.live, at, IoEntry::Absent, None)?;
            let entries = shape.map_or(1, |shape| u64::from(shape.entries()));
            return self.went(run, 0, entries);
        };
        let leaf = self.pages.grant.leaf(run.addr, size);
        let mut fill = |table: &IoTable, view: &TableView<'_>| {
            Leaves::new(&format, table, at, leaf).fill(view.words_from(0, view.len()))
        };
        let made = tree::make(&mut self.cursor, self.live, at, IoEntry::Absent, Some(&mut fill));
        match made? {
            true => self.went(run, span, below.entries().into()),
            false => Ok(()),
        }
    }

    /// Takes out what was mapped: nothing else is there.
    fn clear(&mut self) -> Result<(), IoptError> {
        let (mut next, last) = (self.last.map(|_| self.start), self.last);
        while let Some(at) = next {
            let corrupt = IoptError::NotUndone { at: Iova::new(at) };
            let Ok(IoEntry::Leaf(leaf)) = self.cursor.find(at) else { return Err(corrupt) };
            let (format, level) = (self.cursor.format, self.cursor.level);
            let absent = entry::absent(&format, &level.table, Iova::new(at))?;
            let place = level.place(at);
            let entries = index(leaf.entries(&level.table));
            for word in level.view.words_from(place, entries) {
                word.store(entry::in_memory(&format, absent), Ordering::Release);
            }
            self.cursor.wrote(place, entries);
            let end = at | leaf.shift.mask();
            next = end.checked_add(1).filter(|_| last > Some(end));
            let _ = self.budget.spend(entries as u64, 0);
        }
        Ok(())
    }
}

/// The largest leaf that an entry of the table can be, for addresses with these low bits.
pub(super) fn largest<F: IoFormat>(
    format: &F,
    table: &IoTable,
    addresses: u64,
    left: u64,
) -> Option<PageShift> {
    let aligned = addresses.trailing_zeros().min(63);
    let fitting = aligned.min(63 - left.leading_zeros());
    let most = PageShift::new(u8::try_from(fitting).ok()?)?;
    format.leaf_sizes(table).at_most(most)
}

/// Bytes from `at` to where the table ends, or where leaves of the next larger size can begin.
fn stretch<F: IoFormat>(format: &F, level: &Level<'_>, at: u64, addr: u64, size: PageShift) -> u64 {
    let to_end = (level.last - at).saturating_add(1);
    let larger = format.leaf_sizes(&level.table).above(size);
    // Both addresses must come to a multiple of it at the same time.
    match larger.filter(|larger| (at ^ addr) & larger.mask() == 0) {
        Some(larger) => (larger.mask() - (at & larger.mask())).saturating_add(1).min(to_end),
        None => to_end,
    }
}
