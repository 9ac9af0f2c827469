//! Entries as they stand in memory.

use pinfold_arch::addr::index;
use pinfold_arch::{IoEntry, IoFormat, IoTable, Iova};

use super::IoptError;
use crate::host::TableView;

/// Entries in a line of a cache. Some have longer lines; then a line may be named twice, never missed.
pub(super) const LINE: usize = 8;

/// An entry as it stands in memory.
#[inline(always)]
pub(super) fn in_memory<F: IoFormat>(format: &F, raw: u64) -> u64 {
    if format.big_endian() { raw.to_be() } else { raw.to_le() }
}

/// The entry for an address in a table, in host byte order.
#[inline]
pub(super) fn raw<F: IoFormat>(
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

/// The value of an entry without a meaning.
pub(super) fn absent<F: IoFormat>(format: &F, table: &IoTable, at: Iova) -> Result<u64, IoptError> {
    let absent = format.encode(table, 0, IoEntry::Absent);
    absent.map_err(|why| IoptError::Encode { at, why })
}
