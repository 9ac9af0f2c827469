//! The tree: making tables, finding the way, giving tables back.

use pinfold_arch::addr::index;
use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{Access, IoEntry, IoFormat, IoTable, Iova, PhysAddr};

use super::{IoptError, view};
use crate::host::{IoTables, TableView};
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
#[inline]
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
    /// The first address that it maps.
    pub(super) start: u64,
}

impl Level<'_> {
    /// The last address that it maps.
    pub(super) fn last(&self) -> u64 {
        let span = u32::from(self.table.shift.raw()) + u32::from(self.table.bits);
        self.start | u64::MAX.checked_shl(span).map_or(u64::MAX, |above| !above)
    }

    /// The first address of the entry for `at`, and the last.
    pub(super) fn entry_at(&self, at: u64) -> (u64, u64) {
        let inside = self.table.shift.mask();
        (at & !inside, at | inside)
    }
}

/// The way to an address, from the top down.
pub(super) type Path<'m> = heapless::Vec<Level<'m>, MAX_IO_LEVELS>;

/// Adds a table to the way.
pub(super) fn descend<'m, T: IoTables>(
    path: &mut Path<'m>,
    tables: &'m T,
    table: IoTable,
    at: u64,
) -> Result<(), IoptError> {
    let at = Iova::new(at);
    let view = view(tables, &table, at)?;
    let span = u32::from(table.shift.raw()) + u32::from(table.bits);
    let start = at.raw() & u64::MAX.checked_shl(span).unwrap_or(0);
    let corrupt = IoptError::Corrupt { at, raw: table.base.raw() };
    path.push(Level { table, view, start }).map_err(|_| corrupt)
}

/// A table in which nothing is mapped, of the shape of `shape`.
pub(super) fn allocate<'m, F: IoFormat, T: IoTables>(
    format: &F,
    tables: &'m T,
    live: &Word,
    shape: IoTable,
    at: Iova,
) -> Result<(IoTable, TableView<'m>), IoptError> {
    let absent = format.encode(&shape, 0, IoEntry::Absent);
    let absent = absent.map_err(|why| IoptError::Encode { at, why })?;
    let base = tables.allocate(shape.bytes()).ok_or(IoptError::NoMemory)?;
    let table = IoTable { base, ..shape };
    let view = match view(tables, &table, at) {
        Ok(view) => view,
        Err(error) => {
            tables.free(base, shape.bytes());
            return Err(error);
        }
    };
    for word in view.words_from(0, view.len()) {
        word.store(in_memory(format, absent), Ordering::Relaxed);
    }
    tables.written(base, shape.bytes());
    live.fetch_add(1, Ordering::Relaxed);
    Ok((table, view))
}

/// Gives a table back.
pub(super) fn release<T: IoTables>(tables: &T, live: &Word, table: &IoTable) {
    tables.free(table.base, table.bytes());
    live.fetch_sub(1, Ordering::Relaxed);
}

/// The table behind the entry for `at`, made if it is missing. `None` where a leaf is.
pub(super) fn ensure<F: IoFormat, T: IoTables>(
    format: &F,
    tables: &T,
    live: &Word,
    level: &Level<'_>,
    at: u64,
) -> Result<Option<IoTable>, IoptError> {
    let (table, view, at) = (&level.table, &level.view, Iova::new(at));
    let place = index(u64::from(table.index(at)));
    let corrupt = |raw| IoptError::Corrupt { at, raw };
    // Somebody else may make it at the same time; then theirs is taken.
    loop {
        let raw = raw(format, table, view, at)?;
        match format.decode(table, raw) {
            IoEntry::Table(next, _) if next.shift < table.shift => return Ok(Some(next)),
            IoEntry::Leaf(_) => return Ok(None),
            IoEntry::Table(..) | IoEntry::Malformed => return Err(corrupt(raw)),
            IoEntry::Absent => {}
        }
        let shape = format.below(table, PhysAddr::new(0)).ok_or(corrupt(raw))?;
        let (next, _) = allocate(format, tables, live, shape, at)?;
        let link = format.encode(table, 0, IoEntry::Table(next, Access::all()));
        let link = match link {
            Ok(link) => link,
            Err(why) => {
                release(tables, live, &next);
                return Err(IoptError::Encode { at, why });
            }
        };
        let (expected, link) = (in_memory(format, raw), in_memory(format, link));
        if view.replace(place, expected, link) {
            tables.written(word_at(table, at), 8);
            return Ok(Some(next));
        }
        release(tables, live, &next);
    }
}

/// Where the entry for an address stands.
pub(super) fn word_at(table: &IoTable, at: Iova) -> PhysAddr {
    PhysAddr::new(table.base.raw().wrapping_add(u64::from(table.index(at)) * 8))
}

/// Which tables are given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Prune {
    /// Those that map nothing.
    Empty,
    /// All of them.
    All,
}

/// Gives back tables below `table`; whether nothing is left in it.
pub(super) fn prune<F: IoFormat, T: IoTables>(
    format: &F,
    tables: &T,
    live: &Word,
    table: &IoTable,
    which: Prune,
) -> Result<bool, IoptError> {
    let nowhere = Iova::new(0);
    let view = view(tables, table, nowhere)?;
    let absent = format.encode(table, 0, IoEntry::Absent);
    let absent = absent.map_err(|why| IoptError::Encode { at: nowhere, why })?;
    let mut empty = true;
    for place in 0..view.len() {
        let raw = in_memory(format, view.load(place).unwrap_or(0));
        match format.decode(table, raw) {
            IoEntry::Absent => {}
            // Each step down is to a smaller table, so this ends.
            IoEntry::Table(next, _) if next.shift < table.shift => {
                if prune(format, tables, live, &next, which)? || which == Prune::All {
                    view.store(place, in_memory(format, absent));
                    release(tables, live, &next);
                } else {
                    empty = false;
                }
            }
            IoEntry::Leaf(_) => empty = false,
            IoEntry::Table(..) | IoEntry::Malformed => {
                return Err(IoptError::Corrupt { at: nowhere, raw });
            }
        }
    }
    Ok(empty)
}
