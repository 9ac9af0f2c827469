//! The way to an entry, and what was written on it.

use pinfold_arch::addr::index;
use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{IoEntry, IoFormat, IoTable, Iova, PhysAddr};

use super::entry::{LINE, entry};
use super::{IoptError, view};
use crate::host::{IoTables, TableView};
use crate::sync::{Ordering, Word};

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
pub(super) struct Changed {
    from: usize,
    to: usize,
}

impl Changed {
    /// Takes entries in. What is there already is said first, unless all lines between are touched.
    #[inline]
    pub(super) fn add<T: IoTables>(&mut self, tables: &T, table: &IoTable, from: usize, to: usize) {
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

    pub(super) fn say<T: IoTables>(self, tables: &T, table: &IoTable) {
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

    /// Before a link is written.
    pub(super) fn links(&mut self) {
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
        while !self.level.maps(at) && self.leave() {}
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
    /// Leaves the lowest table, if it is not the top one.
    #[inline]
    pub(super) fn leave(&mut self) -> bool {
        let Some(&(level, changed)) = self.above.last() else { return false };
        self.changed.say(self.tables, &self.level.table);
        (self.level, self.changed) = (level, changed);
        self.above.pop();
        true
    }

    /// The level of the lowest table, counted from the top.
    pub(super) fn depth(&self) -> usize {
        self.above.len()
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
