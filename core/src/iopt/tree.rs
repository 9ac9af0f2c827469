//! The tables of the tree: making them, and giving them back.

use pinfold_arch::addr::index;
use pinfold_arch::{Access, IoEntry, IoFormat, IoTable, Iova, PhysAddr};

use super::budget::Budget;
use super::cursor::Cursor;
use super::entry::{LINE, absent, in_memory, raw};
use super::{IoptError, view};
use crate::host::{Flow, IoTables, TableView};
use crate::sync::{Ordering, Word};

/// Bytes of memory for a table: a line of a cache at least, so that nothing else is in it, and because a small
/// top table of Arm's has to be aligned like that.
pub(super) fn memory(table: &IoTable) -> u64 {
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

/// Gives a table back.
pub(super) fn release<T: IoTables>(tables: &T, live: &Word, table: &IoTable) {
    tables.free(table.base, memory(table));
    live.fetch_sub(1, Ordering::Relaxed);
}

/// Gives every entry of a table a meaning.
pub(super) type Fill<'f> = dyn FnMut(&IoTable, &TableView<'_>) -> Result<(), IoptError> + 'f;

/// Puts a table into the entry for `at` of the lowest table, in place of what is expected there; `false` if
/// there is something else by then. With `fill`, it is filled before anything points to it: then each of
/// its entries has a meaning.
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
            IoEntry::Table(next, _) if next.shift < table.shift && budget.goes_to(&next) => next,
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
