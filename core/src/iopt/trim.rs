//! Giving back tables that map nothing.

use pinfold_arch::{IoEntry, IoFormat, IoTable, Iova};

use super::budget::Budget;
use super::cursor::Changed;
use super::entry::{absent, in_memory};
use super::unmapped::{Detached, Unmapped};
use super::{IoPageTable, view};
use crate::host::IoTables;
use crate::iova::IovaRange;

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Takes the tables out that map nothing, but for the top one. What is corrupt stays.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause). Nobody else maps or unmaps meanwhile.
    pub fn trim<T: IoTables>(&mut self, tables: &T) -> Unmapped<'_, 'static, F, O> {
        let mut detached = Detached::default();
        let (format, root) = self.tree();
        let mut budget = Budget::for_all(tables, self.tables());
        below(&format, &mut budget, &root, 0, &mut detached);
        let range = IovaRange::between(Iova::new(0), format.last()).unwrap_or(IovaRange::ALL);
        Unmapped::new(self, range, (format, root), (detached, false), &[])
    }
}

/// Takes the tables below `table` out that map nothing; whether nothing is left in it. What is
/// corrupt stays.
fn below<F: IoFormat, T: IoTables>(
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
            IoEntry::Table(next, _) if next.shift < table.shift && budget.goes_to(&next) => next,
            _ => {
                empty = false;
                continue;
            }
        };
        let deeper = level.saturating_add(1);
        let gone = below(format, budget, &next, deeper, detached);
        let (true, Ok(view)) = (gone, view(tables, &next, start)) else {
            empty = false;
            continue;
        };
        own.store(place, in_memory(format, absent));
        changed.add(tables, table, place, place.saturating_add(1));
        let added = detached.add(format, deeper, &next, &view);
        debug_assert!(added.is_ok(), "a table of the format has absent entries");
    }
    changed.say(tables, table);
    empty
}
