//! The tree: making tables, finding the way, giving tables back.

use pinfold_arch::addr::index;
use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{Access, IoEntry, IoFormat, IoTable, Iova, PageCount, PhysAddr};

use super::{IoptError, view};
use crate::host::{Flow, IoTables, Progress, Step, TableView};
use crate::sync::{Ordering, Word};

/// An entry as it stands in memory.
#[inline(always)]
pub(super) fn in_memory<F: IoFormat>(format: &F, raw: u64) -> u64 {
    if format.big_endian() { raw.to_be() } else { raw.to_le() }
}

/// The entry for an address in a table, in host byte order.
#[inline]
fn raw<F: IoFormat>(
    format: &F,
    table: &IoTable,
    view: &TableView<'_>,
    at: Iova,
) -> Result<u64, IoptError> {
    let raw = view.load(index(u64::from(table.index(at))));
    raw.map(|raw| in_memory(format, raw)).ok_or(IoptError::Corrupt { at, raw: 0 })
}

/// What the entry for an address says; never malformed.
#[inline(always)]
pub(super) fn entry<F: IoFormat>(
    format: &F,
    table: &IoTable,
    view: &TableView<'_>,
    at: Iova,
) -> Result<IoEntry, IoptError> {
    let raw = raw(format, table, view, at)?;
    match format.decode(table, raw) {
        IoEntry::Malformed => Err(IoptError::Corrupt { at, raw }),
        IoEntry::Table(next, _) if next.shift >= table.shift => Err(IoptError::Corrupt { at, raw }),
        entry => Ok(entry),
    }
}

/// One table on the way down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level<'m> {
    pub(super) table: IoTable,
    pub(super) view: TableView<'m>,
    /// The first address that it maps, and the last.
    pub(super) start: u64,
    pub(super) last: u64,
}

impl<'m> Level<'m> {
    fn new<T: IoTables>(tables: &'m T, table: IoTable, at: u64) -> Result<Self, IoptError> {
        let view = view(tables, &table, Iova::new(at))?;
        let span = u32::from(table.shift.raw()) + u32::from(table.bits);
        let above = u64::MAX.checked_shl(span).unwrap_or(0);
        Ok(Self { table, view, start: at & above, last: at | !above })
    }

    fn maps(&self, at: u64) -> bool {
        self.start <= at && at <= self.last
    }

    /// The index of the entry for an address.
    pub(super) fn place(&self, at: u64) -> usize {
        index(u64::from(self.table.index(Iova::new(at))))
    }
}

/// Where a call stands in the tree: the tables on the way to an address, from the top down, and which
/// entries of each it has written but not said so yet.
#[derive(Debug)]
pub(super) struct Cursor<'m, F, T: IoTables> {
    pub(super) format: F,
    pub(super) tables: &'m T,
    /// The lowest of them.
    pub(super) level: Level<'m>,
    changed: Changed,
    above: heapless::Vec<(Level<'m>, Changed), { MAX_IO_LEVELS - 1 }>,
    /// For a call that makes tables: how many such calls have links that they have not said yet.
    unsaid: Option<&'m Word>,
    /// Whether this is one of them.
    linking: bool,
}

/// Entries of a table, from the first to before the last.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    from: usize,
    to: usize,
}

/// Entries in a line of a cache. Some have longer lines; then a line may be named twice, never missed.
pub(super) const LINE: usize = 8;

impl Changed {
    /// Takes entries in. What is there already is said first, unless all lines between are touched.
    #[inline]
    fn add<T: IoTables>(&mut self, tables: &T, table: &IoTable, from: usize, to: usize) {
        let line = |entry: usize| entry / LINE;
        if self.from == self.to {
            *self = Self { from, to };
        } else if line(from) <= line(self.to - 1) + 1 && line(self.from) <= line(to - 1) + 1 {
            *self = Self { from: self.from.min(from), to: self.to.max(to) };
        } else {
            self.say(tables, table);
            *self = Self { from, to };
        }
    }

    fn say<T: IoTables>(self, tables: &T, table: &IoTable) {
        if self.from < self.to {
            let at = table.base.raw().wrapping_add(self.from as u64 * 8);
            tables.written(PhysAddr::new(at), (self.to - self.from) as u64 * 8);
        }
    }
}

impl<'m, F: IoFormat, T: IoTables> Cursor<'m, F, T> {
    /// At the top of the tree `(format, root)`.
    #[inline]
    pub(super) fn new((format, root): (F, IoTable), tables: &'m T) -> Result<Self, IoptError> {
        let (level, changed) = (Level::new(tables, root, 0)?, Changed::default());
        let above = heapless::Vec::new();
        Ok(Self { format, tables, level, changed, above, unsaid: None, linking: false })
    }

    /// For a call that makes tables. Whoever wrote a link on the way may not have come to say so yet, and
    /// what is mapped behind it must be found when this call returns. So `unsaid` counts the calls that have
    /// such links; while there are any, all say each link that they pass.
    pub(super) fn making(mut self, unsaid: &'m Word) -> Self {
        self.unsaid = Some(unsaid);
        self
    }

    /// Whether links were written.
    pub(super) fn has_linked(&self) -> bool {
        self.linking
    }

    /// Before a link is written.
    fn links(&mut self) {
        if let (Some(unsaid), false) = (self.unsaid, self.linking) {
            // Whoever finds the link, which is written with release, finds this.
            unsaid.fetch_add(1, Ordering::Relaxed);
            self.linking = true;
        }
    }

    /// Whether the link that was found may not have been said by who wrote it.
    fn finds_unsaid(&self) -> bool {
        // Acquire: if the one who wrote it is not counted any more, it has been said.
        self.unsaid.is_some_and(|unsaid| unsaid.load(Ordering::Acquire) != 0)
    }

    /// Goes to the lowest table on the way to an address, and says what its entry says: never a table.
    #[inline(always)]
    pub(super) fn find(&mut self, at: u64) -> Result<IoEntry, IoptError> {
        while !self.level.maps(at) && self.leave().is_some() {}
        loop {
            match entry(&self.format, &self.level.table, &self.level.view, Iova::new(at))? {
                IoEntry::Table(next, _) => self.enter(next, at)?,
                found => return Ok(found),
            }
        }
    }

    /// Goes to the table that the entry for an address points to.
    #[inline]
    fn enter(&mut self, next: IoTable, at: u64) -> Result<(), IoptError> {
        if self.finds_unsaid() {
            self.wrote(self.level.place(at), 1);
        }
        let next = Level::new(self.tables, next, at)?;
        let corrupt = IoptError::Corrupt { at: Iova::new(at), raw: next.table.base.raw() };
        self.above.push((self.level, self.changed)).map_err(|_| corrupt)?;
        (self.level, self.changed) = (next, Changed::default());
        Ok(())
    }

    /// The last address of the lowest table; `None` in the top one.
    pub(super) fn ends(&self) -> Option<u64> {
        (!self.above.is_empty()).then_some(self.level.last)
    }
}

impl<'m, F, T: IoTables> Cursor<'m, F, T> {
    /// Leaves the lowest table, if it is not the top one, and says which it was and its level, counted from
    /// the top.
    #[inline]
    pub(super) fn leave(&mut self) -> Option<(Level<'m>, usize)> {
        let above = self.above.pop()?;
        self.changed.say(self.tables, &self.level.table);
        let left = self.level;
        (self.level, self.changed) = above;
        Some((left, self.above.len() + 1))
    }

    /// Entries of the lowest table were written.
    #[inline]
    pub(super) fn wrote(&mut self, first: usize, entries: usize) {
        if entries != 0 {
            let to = first.saturating_add(entries);
            self.changed.add(self.tables, &self.level.table, first, to);
        }
    }
}

/// What was written is said from below: an IOMMU that finds a link finds what is behind it.
impl<F, T: IoTables> Drop for Cursor<'_, F, T> {
    fn drop(&mut self) {
        self.changed.say(self.tables, &self.level.table);
        for (level, changed) in self.above.iter().rev() {
            changed.say(self.tables, &level.table);
        }
        if let (Some(unsaid), true) = (self.unsaid, self.linking) {
            unsaid.fetch_sub(1, Ordering::Release);
        }
    }
}

/// Counts what a call does between two pauses.
#[derive(Debug)]
pub(super) struct Budget<'m, T> {
    tables: &'m T,
    /// Entries that may still be handled before the next pause.
    left: u64,
    total: PageCount,
    /// Tables that there can still be: more are there only where a corrupt entry leads to one twice.
    others: u64,
}

impl<'m, T: IoTables> Budget<'m, T> {
    /// For a call over so many pages.
    pub(super) fn new(tables: &'m T, total: u64) -> Self {
        let (left, total) = (Step::of(tables).entries(), PageCount::new(total));
        Self { tables, left, total, others: u64::MAX }
    }

    /// For a call that goes through all tables, of which there are so many.
    pub(super) fn for_all(tables: &'m T, live: u64) -> Self {
        Self { others: live.saturating_sub(1), ..Self::new(tables, 0) }
    }

    /// Goes to another table; `false` if there are no more than were found.
    fn goes_on(&mut self) -> bool {
        let left = self.others.checked_sub(1);
        self.others = left.unwrap_or(0);
        left.is_some()
    }

    /// Entries that may be handled at once, one at least.
    pub(super) fn most(&self) -> u64 {
        self.left.max(1)
    }

    /// So many entries were handled, `done` pages altogether. Pauses where it is time.
    #[inline]
    pub(super) fn spend(&mut self, entries: u64, done: u64) -> Flow {
        self.left = self.left.saturating_sub(entries);
        if self.left > 0 { Flow::Continue } else { self.pause(done) }
    }

    #[cold]
    fn pause(&mut self, done: u64) -> Flow {
        self.left = Step::of(self.tables).entries();
        self.tables.pause(Progress { done: PageCount::new(done), total: self.total })
    }
}

/// Bytes of memory for a table: a line of a cache at least, so that nothing else is in it, and because a small
/// top table of Arm's has to be aligned like that.
fn memory(table: &IoTable) -> u64 {
    table.bytes().max(LINE as u64 * 8)
}

/// Memory for a table of the shape of `shape`, whose entries say nothing yet.
fn obtain<'m, T: IoTables>(
    tables: &'m T,
    live: &Word,
    shape: IoTable,
    at: Iova,
) -> Result<(IoTable, TableView<'m>), IoptError> {
    let bytes = memory(&shape);
    let base = tables.allocate(bytes).ok_or(IoptError::NoMemory)?;
    let table = IoTable { base, ..shape };
    // Address 0 ends the lists of tables that were taken out, and the root's word has its levels in the
    // low bits of its address.
    let misplaced = base.raw() == 0 || base.raw() & (bytes - 1) != 0;
    let corrupt = IoptError::Corrupt { at, raw: base.raw() };
    match if misplaced { Err(corrupt) } else { view(tables, &table, at) } {
        Ok(view) => {
            live.fetch_add(1, Ordering::Relaxed);
            Ok((table, view))
        }
        Err(error) => {
            tables.free(base, bytes);
            Err(error)
        }
    }
}

/// A table in which nothing is mapped, of the shape of `shape`.
pub(super) fn allocate<'m, F: IoFormat, T: IoTables>(
    format: &F,
    tables: &'m T,
    live: &Word,
    shape: IoTable,
    at: Iova,
) -> Result<(IoTable, TableView<'m>), IoptError> {
    let absent = absent(format, &shape, at)?;
    let (table, view) = obtain(tables, live, shape, at)?;
    let mut budget = Budget::new(tables, 0);
    let mut done = 0;
    while done < view.len() {
        let words = view.words_from(done, index(budget.most()));
        for word in words {
            word.store(in_memory(format, absent), Ordering::Relaxed);
        }
        done += words.len();
        // The table of a window may have millions of entries; a call cannot stop inside.
        let _ = budget.spend(words.len() as u64, 0);
    }
    tables.written(table.base, table.bytes());
    Ok((table, view))
}

/// The value of an entry without a meaning.
pub(super) fn absent<F: IoFormat>(format: &F, table: &IoTable, at: Iova) -> Result<u64, IoptError> {
    let absent = format.encode(table, 0, IoEntry::Absent);
    absent.map_err(|why| IoptError::Encode { at, why })
}

/// Gives a table back.
pub(super) fn release<T: IoTables>(tables: &T, live: &Word, table: &IoTable) {
    tables.free(table.base, memory(table));
    live.fetch_sub(1, Ordering::Relaxed);
}

/// Gives every entry of a table a meaning.
pub(super) type Fill<'f> = dyn FnMut(&IoTable, &TableView<'_>) -> Result<(), IoptError> + 'f;

/// Puts a table into the entry for `at` of the lowest table, in place of what is expected there; `false` if there is something
/// else by then. With `fill`, it is filled before anything points to it: then each of its entries has a
/// meaning.
pub(super) fn make<F: IoFormat, T: IoTables>(
    cursor: &mut Cursor<'_, F, T>,
    live: &Word,
    at: u64,
    expected: IoEntry,
    fill: Option<&mut Fill<'_>>,
) -> Result<bool, IoptError> {
    let (format, tables, level) = (cursor.format, cursor.tables, cursor.level);
    let place = level.place(at);
    let at = Iova::new(at);
    let raw = raw(&format, &level.table, &level.view, at)?;
    if format.decode(&level.table, raw) != expected {
        return Ok(false);
    }
    let corrupt = IoptError::Corrupt { at, raw };
    let shape = format.below(&level.table, PhysAddr::new(0)).ok_or(corrupt)?;
    let (next, linked) = match fill {
        None => (allocate(&format, tables, live, shape, at)?.0, Ok(())),
        Some(fill) => {
            let (table, view) = obtain(tables, live, shape, at)?;
            let filled = fill(&table, &view);
            tables.written(table.base, table.bytes());
            (table, filled)
        }
    };
    let link = linked.and_then(|()| {
        let link = format.encode(&level.table, 0, IoEntry::Table(next, Access::all()));
        link.map_err(|why| IoptError::Encode { at, why })
    });
    let done = link.map(|link| {
        cursor.links();
        let (expected, link) = (in_memory(&format, raw), in_memory(&format, link));
        level.view.replace(place, expected, link)
    });
    if done != Ok(true) {
        release(tables, live, &next);
    } else {
        cursor.wrote(place, 1);
    }
    done
}

/// Tables that nothing points to any more, by their level, each naming the next in its first entry; 0
/// ends a list. An IOMMU may still walk them: an absent entry can hold an address and stay absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detached([List; MAX_IO_LEVELS]);

#[derive(Clone, Copy, Debug, Default)]
struct List {
    first: u64,
    tables: u64,
}

impl Detached {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|list| list.tables == 0)
    }

    /// Takes a table of a level in, whose entries are all absent.
    pub(super) fn add<F: IoFormat>(
        &mut self,
        format: &F,
        level: usize,
        table: &IoTable,
        view: &TableView<'_>,
    ) -> Result<(), IoptError> {
        let at = Iova::new(0);
        let absent = absent(format, table, at)?;
        let corrupt = IoptError::Corrupt { at, raw: table.base.raw() };
        let list = self.0.get_mut(level).ok_or(corrupt)?;
        view.store(0, in_memory(format, absent | list.first));
        *list = List { first: table.base.raw(), tables: list.tables.saturating_add(1) };
        Ok(())
    }

    /// Gives them back. A list ends where somebody has written to a table of it.
    pub(super) fn release<F: IoFormat, T: IoTables>(
        self,
        format: &F,
        tables: &T,
        live: &Word,
        root: IoTable,
    ) -> Result<(), IoptError> {
        let (mut shape, mut result) = (root, Ok(()));
        let mut budget = Budget::new(tables, 0);
        for list in self.0.into_iter().skip(1) {
            let Some(below) = format.below(&shape, PhysAddr::new(0)) else { break };
            shape = below;
            let mut next = list.first;
            for _ in 0..list.tables {
                let table = IoTable { base: PhysAddr::new(next), ..shape };
                let _ = budget.spend(1, 0);
                match following(format, tables, &table) {
                    Ok(following) => next = following,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
                release(tables, live, &table);
            }
        }
        result
    }
}

/// The table that comes behind one in its list.
fn following<F: IoFormat, T: IoTables>(
    format: &F,
    tables: &T,
    table: &IoTable,
) -> Result<u64, IoptError> {
    let at = Iova::new(0);
    let absent = absent(format, table, at)?;
    let note = in_memory(format, view(tables, table, at)?.load(0).unwrap_or(0));
    match format.decode(table, note) {
        IoEntry::Absent => Ok(note & !absent),
        _ => Err(IoptError::Corrupt { at, raw: note }),
    }
}

/// Takes the tables below `table` out that map nothing; whether nothing is left in it. What is
/// corrupt stays.
pub(super) fn trim<F: IoFormat, T: IoTables>(
    format: &F,
    budget: &mut Budget<'_, T>,
    table: &IoTable,
    level: usize,
    detached: &mut Detached,
) -> bool {
    let (tables, start) = (budget.tables, Iova::new(0));
    let (Ok(own), Ok(absent)) = (view(tables, table, start), absent(format, table, start)) else {
        return false;
    };
    let (mut empty, mut changed) = (true, Changed::default());
    for place in 0..own.len() {
        let _ = budget.spend(1, 0);
        let raw = in_memory(format, own.load(place).unwrap_or(0));
        let next = match format.decode(table, raw) {
            IoEntry::Absent => continue,
            // Each step down is to a smaller table.
            IoEntry::Table(next, _) if next.shift < table.shift && budget.goes_on() => next,
            _ => {
                empty = false;
                continue;
            }
        };
        let below = level.saturating_add(1);
        if !trim(format, budget, &next, below, detached) {
            empty = false;
            continue;
        }
        own.store(place, in_memory(format, absent));
        changed.add(tables, table, place, place.saturating_add(1));
        let kept = view(tables, &next, start).map(|view| detached.add(format, below, &next, &view));
        debug_assert!(kept.is_ok_and(|added| added.is_ok()), "its entries were read just now");
    }
    changed.say(tables, table);
    empty
}

/// Names all tables below `table`, each behind those below it. The first error comes last: what is behind
/// a corrupt entry is not found. Whether a pause can stop it is up to the caller.
pub(super) fn tables_below<F: IoFormat, T: IoTables>(
    format: &F,
    (budget, stops): (&mut Budget<'_, T>, bool),
    table: &IoTable,
    visit: &mut dyn FnMut(&IoTable),
) -> Result<(), IoptError> {
    let at = Iova::new(0);
    let view = view(budget.tables, table, at)?;
    let mut result = Ok(());
    for place in 0..view.len() {
        if budget.spend(1, 0) == Flow::Stop && stops {
            return Err(IoptError::Interrupted);
        }
        let raw = in_memory(format, view.load(place).unwrap_or(0));
        let next = match format.decode(table, raw) {
            IoEntry::Absent | IoEntry::Leaf(_) => continue,
            IoEntry::Table(next, _) if next.shift < table.shift && budget.goes_on() => next,
            IoEntry::Table(..) | IoEntry::Malformed => {
                result = result.and(Err(IoptError::Corrupt { at, raw }));
                continue;
            }
        };
        match tables_below(format, (&mut *budget, stops), &next, visit) {
            Err(IoptError::Interrupted) => return Err(IoptError::Interrupted),
            // Not a table of ours: it was not given out.
            Err(error @ IoptError::Corrupt { raw, .. }) if raw == next.base.raw() => {
                result = result.and(Err(error));
            }
            below => {
                result = result.and(below);
                visit(&next);
            }
        }
    }
    result
}
