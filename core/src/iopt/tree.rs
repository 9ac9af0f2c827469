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
    let found = view(tables, &table, at);
    // Address 0 ends the lists of tables that were taken out.
    let found = found.and_then(|view| {
        if base.raw() == 0 { Err(IoptError::Corrupt { at, raw: 0 }) } else { Ok(view) }
    });
    let view = match found {
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

/// Tables that nothing points to any more, by their level, each naming the next in its first entry; 0
/// ends a list. An IOMMU may still walk them: an absent entry can hold an address and stay absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detached([u64; MAX_IO_LEVELS]);

impl Detached {
    /// Takes a table of a level in, whose entries are all absent.
    pub(super) fn add<F: IoFormat>(
        &mut self,
        format: &F,
        level: usize,
        table: &IoTable,
        view: &TableView<'_>,
    ) -> Result<(), IoptError> {
        let at = Iova::new(0);
        let absent = format.encode(table, 0, IoEntry::Absent);
        let absent = absent.map_err(|why| IoptError::Encode { at, why })?;
        let corrupt = IoptError::Corrupt { at, raw: table.base.raw() };
        let list = self.0.get_mut(level).ok_or(corrupt)?;
        view.store(0, in_memory(format, absent | *list));
        *list = table.base.raw();
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
        for list in self.0.into_iter().skip(1) {
            let Some(below) = format.below(&shape, PhysAddr::new(0)) else { break };
            shape = below;
            let mut next = list;
            while next != 0 {
                let table = IoTable { base: PhysAddr::new(next), ..shape };
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
    let absent = format.encode(table, 0, IoEntry::Absent);
    let absent = absent.map_err(|why| IoptError::Encode { at, why })?;
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
    tables: &T,
    table: &IoTable,
    level: usize,
    detached: &mut Detached,
) -> bool {
    let start = Iova::new(0);
    let (Ok(own), Ok(absent)) =
        (view(tables, table, start), format.encode(table, 0, IoEntry::Absent))
    else {
        return false;
    };
    let mut empty = true;
    for place in 0..own.len() {
        let raw = in_memory(format, own.load(place).unwrap_or(0));
        let next = match format.decode(table, raw) {
            IoEntry::Absent => continue,
            // Each step down is to a smaller table, so this ends.
            IoEntry::Table(next, _) if next.shift < table.shift => next,
            _ => {
                empty = false;
                continue;
            }
        };
        let below = level.saturating_add(1);
        if !trim(format, tables, &next, below, detached) {
            empty = false;
            continue;
        }
        own.store(place, in_memory(format, absent));
        tables.written(PhysAddr::new(table.base.raw().wrapping_add(place as u64 * 8)), 8);
        let kept = view(tables, &next, start).map(|view| detached.add(format, below, &next, &view));
        debug_assert!(kept.is_ok_and(|added| added.is_ok()), "its entries were read just now");
    }
    empty
}

/// Gives back all tables below `table`. The first error comes last: what is behind a corrupt entry is
/// not found.
pub(super) fn destroy<F: IoFormat, T: IoTables>(
    format: &F,
    tables: &T,
    live: &Word,
    table: &IoTable,
) -> Result<(), IoptError> {
    let at = Iova::new(0);
    let view = view(tables, table, at)?;
    let mut result = Ok(());
    for place in 0..view.len() {
        let raw = in_memory(format, view.load(place).unwrap_or(0));
        let next = match format.decode(table, raw) {
            IoEntry::Absent | IoEntry::Leaf(_) => continue,
            IoEntry::Table(next, _) if next.shift < table.shift => next,
            IoEntry::Table(..) | IoEntry::Malformed => {
                result = result.and(Err(IoptError::Corrupt { at, raw }));
                continue;
            }
        };
        match destroy(format, tables, live, &next) {
            // Not a table of ours: it was not given out.
            Err(error @ IoptError::Corrupt { raw, .. }) if raw == next.base.raw() => {
                result = result.and(Err(error));
            }
            below => {
                result = result.and(below);
                release(tables, live, &next);
            }
        }
    }
    result
}
