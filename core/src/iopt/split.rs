//! Making small leaves of a large one while it is in use.

use pinfold_arch::{IoEntry, IoFormat, IoLeaf, IoTable, Iova};

use super::cursor::Cursor;
use super::leaves::Leaves;
use super::tree;
use super::{IoPageTable, IoptError};
use crate::host::{IoTables, TableView};
use crate::iova::IovaRange;
use crate::sync::{Word, tries};

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Splits the leaves that reach over an end of a range, until none does. What is mapped, and where to,
    /// is the same at every moment; so a TLB need not forget it.
    ///
    /// # Context
    /// Any. Nobody else maps or unmaps what the leaves map.
    ///
    /// # Errors
    /// [`IoptError::Unaligned`], [`IoptError::OutsideAperture`]; [`IoptError::Indivisible`] if the format
    /// has no smaller leaf there, or cannot replace one that is in use: before anything has changed.
    /// [`IoptError::NoMemory`], [`IoptError::Corrupt`]: some leaves may be smaller by then.
    pub fn split<T: IoTables>(&self, tables: &T, range: IovaRange) -> Result<(), IoptError> {
        self.aligned(range)?;
        let mut cursor = Cursor::new(self.tree(), tables)?.making(&self.linking);
        for edge in [range.start(), range.last()] {
            let found = cursor.find(edge.raw())?;
            if let IoEntry::Leaf(leaf) = found
                && !covers(range, edge, leaf)
            {
                divisible(&cursor.format, &cursor.level.table, leaf, edge, range)?;
            }
        }
        while let Some((first, _)) = self.cut(tables, range)? {
            if let IoEntry::Leaf(leaf) = cursor.find(first.raw())? {
                divide(&mut cursor, &self.live, first.raw(), leaf)?;
            }
        }
        Ok(())
    }
}

fn covers(range: IovaRange, edge: Iova, leaf: IoLeaf) -> bool {
    let first = edge.align_down(leaf.shift);
    range.covers(first, Iova::new(first.raw() | leaf.shift.mask()))
}

/// Whether a leaf can be split again and again until none reaches over the end of the range.
fn divisible<F: IoFormat>(
    format: &F,
    table: &IoTable,
    leaf: IoLeaf,
    edge: Iova,
    range: IovaRange,
) -> Result<(), IoptError> {
    let (mut table, mut leaf) = (*table, leaf);
    let indivisible = IoptError::Indivisible { at: edge.align_down(leaf.shift), shift: leaf.shift };
    while !covers(range, edge, leaf) {
        let below = format.below(&table, table.base).ok_or(indivisible)?;
        if !splits(format, &table, leaf) || !format.leaf_sizes(&below).contains(below.shift) {
            return Err(indivisible);
        }
        (table, leaf.shift) = (below, below.shift);
    }
    Ok(())
}

/// Whether a table may take the place of a leaf.
fn splits<F: IoFormat>(format: &F, table: &IoTable, leaf: IoLeaf) -> bool {
    format.splits() && leaf.shift == table.shift
}

/// Makes the entries of a new table of a leaf in the lowest table.
pub(super) fn divide<F: IoFormat, T: IoTables>(
    cursor: &mut Cursor<'_, F, T>,
    live: &Word,
    first: u64,
    leaf: IoLeaf,
) -> Result<(), IoptError> {
    let format = cursor.format;
    let indivisible = IoptError::Indivisible { at: Iova::new(first), shift: leaf.shift };
    if !splits(&format, &cursor.level.table, leaf) {
        return Err(indivisible);
    }
    for _ in tries() {
        // A device may set a mark meanwhile; then the pieces are made once more, with it.
        let IoEntry::Leaf(leaf) = cursor.find(first)? else { break };
        let mut fill = |table: &IoTable, view: &TableView<'_>| {
            let piece = IoLeaf { shift: table.shift, ..leaf };
            Leaves::new(&format, table, first, piece).fill(view.words_from(0, view.len()))
        };
        let expected = IoEntry::Leaf(leaf);
        if tree::make(cursor, live, first, expected, Some(&mut fill))? {
            return Ok(());
        }
    }
    Err(indivisible)
}
