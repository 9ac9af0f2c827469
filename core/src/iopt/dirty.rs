//! Which pages devices have written to.

use pinfold_arch::addr::index;
use pinfold_arch::{IoEntry, IoFlags, IoFormat, IoLeaf, Iova, PageShift};

use super::budget::Budget;
use super::cursor::Cursor;
use super::entry;
use super::leaves::Leaves;
use super::{IoPageTable, IoptError};
use crate::host::IoTables;
use crate::iova::IovaRange;
use crate::sync::{Ordering, tries};

/// What was found, and what is to be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "what was cleared must be flushed, or what a device writes next goes unseen"]
pub struct Harvest {
    /// Bytes of the pages that were written.
    pub dirty: u64,
    /// Addresses whose marks were cleared: IOMMUs and devices must forget them, because who has kept a
    /// translation with its mark does not set it again.
    pub flush: Option<IovaRange>,
    /// The corrupt entry at which it ended early.
    pub ended: Option<IoptError>,
}

/// A bit for each page of a range, set where the page was written.
#[derive(Debug)]
pub struct DirtyBitmap<'w> {
    words: &'w mut [u64],
    range: IovaRange,
    page: PageShift,
}

impl<'w> DirtyBitmap<'w> {
    /// Bits for the pages of a range, the first in bit 0 of the first word; those that are set stay so.
    /// `None` if the range is not made of such pages or the words have fewer bits.
    #[must_use]
    pub fn new(words: &'w mut [u64], range: IovaRange, page: PageShift) -> Option<Self> {
        let pages = ((range.last().raw() - range.start().raw()) >> page.raw()).checked_add(1)?;
        let fits = pages.div_ceil(u64::from(u64::BITS)) <= words.len() as u64;
        (range.is_aligned(page) && fits).then_some(Self { words, range, page })
    }

    /// Sets the bits of all pages that `written` touches.
    pub fn mark(&mut self, written: IovaRange) {
        let start = self.range.start();
        let first = written.start().max(start).raw();
        let last = written.last().min(self.range.last()).raw();
        if first > last {
            return;
        }
        let page = |at: u64| (at - start.raw()) >> self.page.raw();
        let (first, last) = (page(first), page(last));
        for word in first / 64..=last / 64 {
            let from = if word == first / 64 { first % 64 } else { 0 };
            let to = if word == last / 64 { last % 64 } else { 63 };
            if let Some(bits) = self.words.get_mut(index(word)) {
                *bits |= u64::MAX << from & u64::MAX >> (63 - to);
            }
        }
    }
}

/// What happens to marks that were seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marks {
    Stay,
    Go,
}

impl<F: IoFormat> IoPageTable<F> {
    /// Begins to keep track of pages that devices write to: clears all marks, so that what is found later was
    /// written since. While it is on, what is unmapped says whether it was written.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause), which cannot stop it. Others may map and unmap,
    /// but no table that is unmapped meanwhile may be given back before this returns.
    ///
    /// # Errors
    /// [`IoptError::NoMarks`] if the format keeps none. It is off again if it [ended](Harvest::ended) early.
    pub fn start_tracking<T: IoTables>(&self, tables: &T) -> Result<Harvest, IoptError> {
        self.clear_marks(tables)
    }

    /// [`dirty`](Self::dirty), and takes the marks away.
    ///
    /// # Context
    /// As [`dirty`](Self::dirty).
    ///
    /// # Errors
    /// As [`dirty`](Self::dirty).
    pub fn take_dirty<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(IovaRange),
    ) -> Result<Harvest, IoptError> {
        self.take_marks(tables, range, each)
    }
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Clears all marks, and begins to keep track.
    pub(crate) fn clear_marks<T: IoTables>(&self, tables: &T) -> Result<Harvest, IoptError> {
        if self.format().volatile_bits() == 0 {
            return Err(IoptError::NoMarks);
        }
        self.tracking.store(1, Ordering::Relaxed);
        let all = IovaRange::between(Iova::new(0), self.format().last());
        let harvest = self.marks(tables, all.unwrap_or(IovaRange::ALL), Marks::Go, |_| {});
        if harvest.ended.is_some() {
            self.stop_tracking();
        }
        Ok(harvest)
    }

    /// Ends it: from now on every page that a device may write to counts as written when it is unmapped.
    pub fn stop_tracking(&self) {
        self.tracking.store(0, Ordering::Relaxed);
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::Relaxed) != 0
    }

    /// Hands out each page of a range that was written, in order of addresses, and leaves the marks.
    ///
    /// # Context
    /// As [`start_tracking`](Self::start_tracking); but nobody maps or unmaps in the range.
    ///
    /// # Errors
    /// [`IoptError::NoMarks`] if it is not being tracked; [`IoptError::Unaligned`],
    /// [`IoptError::OutsideAperture`], [`IoptError::InsideLeaf`] if the range begins or ends inside a leaf,
    /// [`IoptError::NotMapped`] for a hole in it, [`IoptError::Corrupt`]: nothing was handed out.
    pub fn dirty<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(IovaRange),
    ) -> Result<Harvest, IoptError> {
        self.mapped(tables, range)?;
        Ok(self.marks(tables, range, Marks::Stay, each))
    }

    /// Hands out each page that was written, and takes the marks away.
    pub(crate) fn take_marks<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(IovaRange),
    ) -> Result<Harvest, IoptError> {
        self.mapped(tables, range)?;
        Ok(self.marks(tables, range, Marks::Go, each))
    }

    /// Whether a range is mapped from end to end, by leaves that lie inside, and tracked.
    fn mapped<T: IoTables>(&self, tables: &T, range: IovaRange) -> Result<(), IoptError> {
        if !self.is_tracking() {
            return Err(IoptError::NoMarks);
        }
        self.aligned(range)?;
        if let Some((at, shift)) = self.cut(tables, range)? {
            return Err(IoptError::InsideLeaf { at, shift });
        }
        self.each_leaf(tables, range, |_, at, leaf| match leaf {
            Some(_) => Ok(()),
            None => Err(IoptError::NotMapped { at: Iova::new(at) }),
        })
    }

    /// Goes through a range leaf by leaf and hole by hole.
    fn each_leaf<'m, T: IoTables>(
        &self,
        tables: &'m T,
        range: IovaRange,
        mut each: impl FnMut(&mut Cursor<'m, F, T>, u64, Option<IoLeaf>) -> Result<(), IoptError>,
    ) -> Result<(), IoptError> {
        let mut cursor = Cursor::new(self.tree(), tables)?;
        let base = cursor.format.base().raw();
        let (start, last) = (range.start().raw(), range.last().raw());
        let mut budget = Budget::new(tables, ((last - start) >> base).wrapping_add(1));
        let mut at = Some(start);
        while let Some(here) = at.filter(|at| *at <= last) {
            let found = cursor.find(here)?;
            let table = cursor.level.table;
            let (entries, leaf) = match found {
                IoEntry::Leaf(leaf) if here & leaf.shift.mask() != 0 => {
                    return Err(IoptError::Corrupt { at: Iova::new(here), raw: leaf.addr.raw() });
                }
                IoEntry::Leaf(leaf) => (leaf.entries(&table), Some(leaf)),
                _ => (1, None),
            };
            each(&mut cursor, here, leaf)?;
            let inside = leaf.map_or(table.shift, |leaf| leaf.shift).mask();
            at = (here | inside).checked_add(1);
            let _ = budget.spend(entries, (here - start) >> base);
        }
        Ok(())
    }

    fn marks<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        marks: Marks,
        mut each: impl FnMut(IovaRange),
    ) -> Harvest {
        let mut harvest = Harvest { dirty: 0, flush: None, ended: None };
        let result = self.each_leaf(tables, range, |cursor, at, leaf| {
            let Some(leaf) = leaf else { return Ok(()) };
            if !read(cursor, at, leaf, marks)? {
                return Ok(());
            }
            let last = Iova::new(at | leaf.shift.mask());
            let Some(page) = IovaRange::between(Iova::new(at), last) else { return Ok(()) };
            harvest.dirty = harvest.dirty.wrapping_add(leaf.shift.bytes());
            if marks == Marks::Go {
                let first = harvest.flush.map_or(page.start(), |flush| flush.start());
                harvest.flush = IovaRange::between(first, last);
            }
            each(page);
            Ok(())
        });
        // What was cleared must be flushed all the same.
        harvest.ended = result.err();
        harvest
    }
}

/// Whether any entry of a leaf in the lowest table says that it was written. Marks that shall go are
/// exchanged for none: what a device sets in the same moment is seen now or stays.
fn read<F: IoFormat, T: IoTables>(
    cursor: &mut Cursor<'_, F, T>,
    at: u64,
    leaf: IoLeaf,
    marks: Marks,
) -> Result<bool, IoptError> {
    let (format, level) = (cursor.format, cursor.level);
    let table = &level.table;
    let (place, entries) = (level.place(at), index(leaf.entries(table)));
    let mut dirty = false;
    for (entry, word) in (0..).zip(level.view.words_from(place, entries)) {
        for _ in tries() {
            let old = word.load(Ordering::Acquire);
            let IoEntry::Leaf(now) = format.decode(table, entry::in_memory(&format, old)) else {
                break;
            };
            if !now.flags.contains(IoFlags::DIRTY) {
                break;
            }
            dirty = true;
            if marks == Marks::Stay {
                break;
            }
            let clean = IoLeaf { flags: now.flags.difference(IoFlags::DIRTY), ..now };
            let clean = Leaves::new(&format, table, at, clean).encode(entry)?;
            let new = entry::in_memory(&format, clean);
            // AcqRel: the mark comes with the writes that it stands for.
            let (done, seen) = (Ordering::AcqRel, Ordering::Relaxed);
            if word.compare_exchange(old, new, done, seen).is_ok() {
                cursor.wrote(place.saturating_add(index(entry)), 1);
                break;
            }
        }
    }
    Ok(dirty)
}
