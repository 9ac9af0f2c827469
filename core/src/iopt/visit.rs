//! Looking at what is in the tables: for debugging and dumps.

use core::fmt;

use pinfold_arch::{Access, IoEntry, IoFormat, IoTable, Iova};

use super::budget::Budget;
use super::entry;
use super::{IoPageTable, IoptError, view};
use crate::host::{Flow, IoTables};
use crate::iova::IovaRange;

/// An entry that says something. It prints as a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visited {
    /// The addresses that it maps.
    pub range: IovaRange,
    /// Levels above it.
    pub depth: u8,
    /// The table that it is in.
    pub table: IoTable,
    /// Its value, in host byte order.
    pub raw: u64,
    /// What it says. Malformed entries are shown, too.
    pub entry: IoEntry,
}

impl fmt::Display for Visited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, last) = (self.range.start().raw(), self.range.last().raw());
        let indent = usize::from(self.depth) * 2;
        write!(f, "{:indent$}{start:#x}..={last:#x} {:#018x} ", "", self.raw)?;
        match self.entry {
            IoEntry::Absent => f.write_str("absent"),
            IoEntry::Malformed => f.write_str("malformed"),
            IoEntry::Table(next, access) => write!(f, "table {} {}", next.base, letters(access)),
            IoEntry::Leaf(leaf) => {
                let (shift, access) = (leaf.shift.raw(), letters(leaf.access));
                write!(f, "page {} of 2^{shift} {access}", leaf.addr)?;
                if leaf.flags.is_empty() { Ok(()) } else { write!(f, " {:?}", leaf.flags) }
            }
        }
    }
}

const fn letters(access: Access) -> &'static str {
    match (access.contains(Access::READ), access.contains(Access::WRITE)) {
        (true, true) => "rw",
        (true, false) => "r-",
        (false, true) => "-w",
        (false, false) => "--",
    }
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Shows every entry for a range that says something, tables before what is in them, in order of
    /// addresses, until `each` says stop.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause). No table that is unmapped meanwhile may be given
    /// back before this returns.
    ///
    /// # Errors
    /// [`IoptError::OutsideAperture`]; [`IoptError::Corrupt`] for a table outside memory;
    /// [`IoptError::Interrupted`] if `pause` said so.
    pub fn visit<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(&Visited) -> Flow,
    ) -> Result<(), IoptError> {
        self.visit_with(tables, range, true, each)
    }

    /// The same, which a pause cannot stop.
    pub(crate) fn visit_all<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(&Visited) -> Flow,
    ) -> Result<(), IoptError> {
        self.visit_with(tables, range, false, each)
    }

    fn visit_with<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        stops: bool,
        mut each: impl FnMut(&Visited) -> Flow,
    ) -> Result<(), IoptError> {
        let (format, root) = self.tree();
        if range.start() > format.last() {
            return Err(IoptError::OutsideAperture { at: range.start() });
        }
        let range = IovaRange::between(range.start(), range.last().min(format.last()));
        let Some(range) = range else { return Ok(()) };
        let budget = Budget::new(tables, 0);
        let mut visitor = Visitor { format, budget, stops, each: &mut each };
        visitor.table(tables, &root, 0, 0, range).map(drop)
    }
}

struct Visitor<'v, 'm, F, T, E> {
    format: F,
    budget: Budget<'m, T>,
    /// Whether a pause can stop it.
    stops: bool,
    each: &'v mut E,
}

impl<F: IoFormat, T: IoTables, E: FnMut(&Visited) -> Flow> Visitor<'_, '_, F, T, E> {
    /// What is in a table whose first address is `start`.
    fn table(
        &mut self,
        tables: &T,
        table: &IoTable,
        start: u64,
        depth: u8,
        range: IovaRange,
    ) -> Result<Flow, IoptError> {
        let view = view(tables, table, Iova::new(start))?;
        let inside = table.shift.mask();
        // The part of the range that the table maps.
        let from = range.start().raw().max(start);
        let first = (from - start) >> table.shift.raw();
        for place in first..u64::from(table.entries()) {
            let inside_table = place << table.shift.raw();
            let at = start.wrapping_add(inside_table);
            // The top table may have entries for more than 64 bits.
            let beyond = inside_table >> table.shift.raw() != place || at < start;
            if beyond || at > range.last().raw() {
                break;
            }
            if self.budget.spend(1, 0) == Flow::Stop && self.stops {
                return Err(IoptError::Interrupted);
            }
            let raw = view.load(pinfold_arch::addr::index(place));
            let raw = entry::in_memory(&self.format, raw.unwrap_or(0));
            let entry = self.format.decode(table, raw);
            let (Some(own), false) = (
                IovaRange::between(Iova::new(at), Iova::new(at | inside)),
                entry == IoEntry::Absent,
            ) else {
                continue;
            };
            let visited = Visited { range: own, depth, table: *table, raw, entry };
            if (self.each)(&visited) == Flow::Stop {
                return Ok(Flow::Stop);
            }
            if let IoEntry::Table(next, _) = entry
                && next.shift < table.shift
                && self.table(tables, &next, at, depth.saturating_add(1), range)? == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }
}
