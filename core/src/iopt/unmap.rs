//! Taking memory away from a device, a buffer at a time.

use pinfold_arch::addr::index;
use pinfold_arch::{IoEntry, IoFormat, IoLeaf, Iova, PhysAddr};

use super::tree::{self, Detached, Level, Path};
use super::{IoPageTable, IoRun, IoptError, IovaRange};
use crate::host::IoTables;
use crate::sync::Ordering;

/// A range on its way out; made by [`IoPageTable::unmap`]. All of it, also what was taken out already,
/// belongs to this value until [`step`](Self::step) says that nothing is left: nobody maps anything there.
#[derive(Debug)]
#[must_use = "nothing is unmapped before `step` is called"]
pub struct Unmap<'t, F> {
    table: &'t IoPageTable<F>,
    range: IovaRange,
    /// What comes next; `None` behind the end.
    at: Option<u64>,
}

/// What was taken out of the tables and may still be in use: the IOMMU must be flushed.
///
/// Dropped without [`flushed`](Self::flushed), it keeps the tables that were taken out: the host never gets them
/// back.
#[derive(Debug)]
#[must_use = "the IOMMU must be flushed, and then tables go back to the host"]
pub struct Unmapped<'t, F> {
    table: &'t IoPageTable<F>,
    range: IovaRange,
    detached: Detached,
}

impl<F: IoFormat> IoPageTable<F> {
    /// Begins to unmap a range: with as many calls of [`Unmap::step`] as it takes. Holes in it are
    /// passed over.
    ///
    /// # Context
    /// Any. Nobody else maps or unmaps the same range.
    ///
    /// # Errors
    /// [`IoptError::Unaligned`], [`IoptError::OutsideAperture`], [`IoptError::InsideLeaf`] if the range
    /// begins or ends inside a leaf, [`IoptError::Corrupt`]. Nothing has changed.
    pub fn unmap<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
    ) -> Result<Unmap<'_, F>, IoptError> {
        if range.last() > self.format.last() {
            return Err(IoptError::OutsideAperture { at: range.last() });
        }
        if !range.is_aligned(self.format.base()) {
            return Err(IoptError::Unaligned { at: range.start() });
        }
        for edge in [range.start(), range.last()] {
            if let Some(found) = self.translate(tables, edge)? {
                let (first, shift) = (edge.align_down(found.shift), found.shift);
                let last = Iova::new(first.raw() | shift.mask());
                if !range.covers(first, last) {
                    return Err(IoptError::InsideLeaf { at: first, shift });
                }
            }
        }
        Ok(Unmap { table: self, range, at: Some(range.start().raw()) })
    }
}

impl<F: IoFormat> IoPageTable<F> {
    /// Takes the tables out that map nothing, but for the top one. What is corrupt stays.
    ///
    /// # Context
    /// Any. Nobody else maps or unmaps meanwhile.
    pub fn trim<T: IoTables>(&mut self, tables: &T) -> Unmapped<'_, F> {
        let mut detached = Detached::default();
        tree::trim(&self.format, tables, &self.root, 0, &mut detached);
        let all = self.format.last().raw().wrapping_add(1);
        let start = Iova::new(0);
        // All 2^64 addresses are one more byte than a length can be.
        let range = IovaRange::new(start, all).unwrap_or(IovaRange::ALL);
        Unmapped { table: self, range, detached }
    }
}

impl<'t, F: IoFormat> Unmap<'t, F> {
    /// Unmaps as much of what is left as fits `runs`, which is emptied before: the memory that was mapped, in
    /// order of device addresses, with neighbours joined. `None` when nothing is left.
    ///
    /// # Errors
    /// [`IoptError::NoBuffer`] for a buffer without room, [`IoptError::Corrupt`]. Nothing has changed: what
    /// comes before a corrupt entry was handed out by the call before.
    pub fn step<T: IoTables>(
        &mut self,
        tables: &T,
        runs: &mut heapless::vec::VecView<IoRun>,
    ) -> Result<Option<Unmapped<'t, F>>, IoptError> {
        runs.clear();
        let Some(from) = self.at else { return Ok(None) };
        if runs.capacity() == 0 {
            return Err(IoptError::NoBuffer);
        }
        let (mut at, mut detached) = (from, Detached::default());
        self.at = match self.take_out(tables, runs, &mut at, &mut detached) {
            Ok(Taken::All) => None,
            Ok(Taken::AsMuchAsFits) => Some(at),
            Err(error) if at == from => return Err(error),
            // It comes again in the next call, and what was taken out is flushed first.
            Err(_) => Some(at),
        };
        let last = self.at.map_or(self.range.last().raw(), |at| at.wrapping_sub(1));
        let bytes = last.wrapping_sub(from).wrapping_add(1);
        let range = IovaRange::new(Iova::new(from), bytes).unwrap_or(self.range);
        Ok(Some(Unmapped { table: self.table, range, detached }))
    }

    /// Takes out what comes from `at` on, which goes with it.
    fn take_out<T: IoTables>(
        &self,
        tables: &T,
        runs: &mut heapless::vec::VecView<IoRun>,
        at: &mut u64,
        detached: &mut Detached,
    ) -> Result<Taken, IoptError> {
        let format = &self.table.format;
        let mut path = Path::new();
        tree::descend(&mut path, tables, self.table.root, *at)?;
        while let Some(level) = path.last().copied() {
            let (first, last) = level.entry_at(*at);
            let next = match tree::entry(format, &level.table, &level.view, Iova::new(*at))? {
                IoEntry::Table(next, _) => {
                    tree::descend(&mut path, tables, next, *at)?;
                    continue;
                }
                IoEntry::Leaf(leaf) => {
                    if !join(runs, leaf) {
                        return Ok(Taken::AsMuchAsFits);
                    }
                    self.clear(tables, &level, *at, leaf)?;
                    first | leaf.shift.mask()
                }
                IoEntry::Absent | IoEntry::Malformed => last,
            };
            // Behind the last address that there is comes nothing.
            let behind = next.checked_add(1).filter(|behind| *behind <= self.range.last().raw());
            let end = behind.unwrap_or(u64::MAX);
            while path.len() > 1
                && path.last().is_some_and(|level| behind.is_none() || end > level.last())
            {
                let Some(below) = path.pop() else { break };
                self.detach(tables, &path, &below, detached)?;
            }
            match behind {
                Some(behind) => *at = behind,
                None => break,
            }
        }
        Ok(Taken::All)
    }

    /// Takes the entries of one leaf out.
    fn clear<T: IoTables>(
        &self,
        tables: &T,
        level: &Level<'_>,
        at: u64,
        leaf: IoLeaf,
    ) -> Result<(), IoptError> {
        let (format, table, at) = (&self.table.format, &level.table, Iova::new(at));
        let absent = format.encode(table, 0, IoEntry::Absent);
        let absent = absent.map_err(|why| IoptError::Encode { at, why })?;
        let entries = leaf.entries(table);
        let first = u64::from(table.index(at)) & !(entries - 1);
        for word in level.view.words_from(index(first), index(entries)) {
            word.store(tree::in_memory(format, absent), Ordering::Release);
        }
        tables.written(PhysAddr::new(table.base.raw().wrapping_add(first * 8)), entries * 8);
        Ok(())
    }

    /// Takes a table out of the one above it, if the range covers all that it can map.
    fn detach<T: IoTables>(
        &self,
        tables: &T,
        path: &Path<'_>,
        below: &Level<'_>,
        detached: &mut Detached,
    ) -> Result<(), IoptError> {
        let (start, last) = (Iova::new(below.start), Iova::new(below.last()));
        let (Some(above), true) = (path.last(), self.range.covers(start, last)) else {
            return Ok(());
        };
        let format = &self.table.format;
        let absent = format.encode(&above.table, 0, IoEntry::Absent);
        let absent = absent.map_err(|why| IoptError::Encode { at: start, why })?;
        let place = index(u64::from(above.table.index(start)));
        above.view.swap(place, tree::in_memory(format, absent));
        tables.written(tree::word_at(&above.table, start), 8);
        detached.add(format, path.len(), &below.table, &below.view)
    }
}

/// How far a step has come.
enum Taken {
    All,
    AsMuchAsFits,
}

/// Adds a page to the runs; `false` if it does not fit.
fn join(runs: &mut heapless::vec::VecView<IoRun>, leaf: IoLeaf) -> bool {
    let (addr, bytes) = (leaf.addr, leaf.shift.bytes());
    if let Some(last) = runs.last_mut()
        && last.addr.checked_add(last.bytes) == Some(addr)
        && let Some(sum) = last.bytes.checked_add(bytes)
    {
        last.bytes = sum;
        return true;
    }
    runs.push(IoRun { addr, bytes }).is_ok()
}

impl<F: IoFormat> Unmapped<'_, F> {
    /// The device addresses to flush.
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.range
    }

    /// Says that every IOMMU and every device that could have kept a translation of the range has
    /// forgotten it. Tables that were taken out go back to the host.
    ///
    /// # Context
    /// Any.
    ///
    /// # Errors
    /// [`IoptError::Corrupt`] if somebody wrote to a table that was taken out: it, and of its level what was
    /// taken out before it, is not given back.
    pub fn flushed<T: IoTables>(self, tables: &T) -> Result<(), IoptError> {
        let IoPageTable { format, root, live } = self.table;
        self.detached.release(format, tables, live, *root)
    }
}
