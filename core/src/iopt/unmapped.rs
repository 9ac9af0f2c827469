//! What was taken out of the tables, before and behind the flush.

use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{IoEntry, IoFormat, IoTable, Iova, PhysAddr};

use super::budget::Budget;
use super::entry::{absent, in_memory};
use super::tree::release;
use super::{IoPageTable, IoptError, OfCaller, UnmappedRun, view};
use crate::host::{IoTables, Kept, TableView};
use crate::iova::IovaRange;
use crate::sync::{Ordering, Word};

/// What was taken out of the tables and may still be in use: the IOMMU must be flushed, and only then may
/// what was mapped be released. So the runs cannot be looked at before:
///
/// ```compile_fail,E0502
/// # use pinfold::{iopt::{IoPageTable, UnmappedRun}, IovaRange, PhysAddr};
/// # use pinfold_arch::Vtd; use pinfold_sim::TableMemory;
/// # let memory = TableMemory::new(1 << 20);
/// # let table = IoPageTable::new(Vtd::new(4, 46).unwrap(), &memory).unwrap();
/// # let mut runs = heapless::Vec::<UnmappedRun, 512>::new();
/// let mut unmap = table.unmap(&memory, IovaRange::ALL).unwrap();
/// let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
/// let released = runs.first(); // the device may still write there
/// unmapped.flushed(&memory);
/// ```
///
/// Dropped without [`flushed`](Self::flushed), it keeps the tables that were taken out, the host never gets
/// them back, and is counted: [`IoPageTable::unflushed`].
#[derive(Debug)]
#[must_use = "the IOMMU must be flushed, and then tables go back to the host"]
pub struct Unmapped<'t, 'b, F, O = OfCaller> {
    table: &'t IoPageTable<F, O>,
    range: IovaRange,
    /// The top table when they were taken out, which says what tables of which level look like.
    tree: (F, IoTable),
    detached: Detached,
    /// Whether something was put where nothing was, or a table where a leaf was.
    linked: bool,
    runs: &'b [UnmappedRun],
}

/// What was unmapped, and is out of every device's reach: the memory may be released.
#[derive(Debug)]
pub struct Quiesced<'b> {
    runs: &'b [UnmappedRun],
    returned: Result<(), IoptError>,
}

impl<'b> Quiesced<'b> {
    /// The memory that was mapped, in order of device addresses.
    #[must_use]
    pub const fn runs(&self) -> &'b [UnmappedRun] {
        self.runs
    }

    /// Whether all tables that were taken out went back to the host.
    ///
    /// # Errors
    /// [`IoptError::Corrupt`] if somebody wrote to one of them: it, and of its level what was taken out before
    /// it, was not given back.
    pub const fn tables(&self) -> Result<(), IoptError> {
        self.returned
    }
}

impl<'t, 'b, F: IoFormat, O> Unmapped<'t, 'b, F, O> {
    pub(super) fn new(
        table: &'t IoPageTable<F, O>,
        range: IovaRange,
        tree: (F, IoTable),
        (detached, linked): (Detached, bool),
        runs: &'b [UnmappedRun],
    ) -> Self {
        table.unflushed.fetch_add(1, Ordering::Relaxed);
        Self { table, range, tree, detached, linked, runs }
    }

    /// What could be mapped in a range of these tables for a while.
    pub(crate) fn nothing(
        table: &'t IoPageTable<F, O>,
        range: IovaRange,
    ) -> Unmapped<'t, 'static, F, O> {
        Unmapped::new(table, range, table.tree(), (Detached::default(), false), &[])
    }

    /// Whether it comes from these tables.
    pub(crate) fn is_of(&self, table: &IoPageTable<F, O>) -> bool {
        core::ptr::eq(self.table, table)
    }

    /// The device addresses to flush.
    #[must_use]
    pub const fn range(&self) -> IovaRange {
        self.range
    }

    /// What is to be forgotten: entries that lead to tables have changed too, or only others.
    #[must_use]
    pub fn kept(&self) -> Kept {
        if self.linked || self.has_tables() { Kept::Tables } else { Kept::Leaves }
    }

    /// Whether tables were taken out.
    pub(crate) fn has_tables(&self) -> bool {
        !self.detached.is_empty()
    }

    /// How many bytes were mapped.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.wrapping_add(run.bytes))
    }

    /// The memory that was mapped, for those who only make notes of it.
    pub(crate) const fn runs(&self) -> &'b [UnmappedRun] {
        self.runs
    }

    /// The same without the memory.
    pub(crate) fn without_runs(self) -> Unmapped<'t, 'static, F, O> {
        let Self { table, range, tree, detached, linked, .. } = self;
        Unmapped { table, range, tree, detached, linked, runs: &[] }
    }

    /// Tables go back to the host, and what was mapped comes out: everybody has forgotten it.
    pub(crate) fn quiesced<T: IoTables>(self, tables: &T) -> Quiesced<'b> {
        let (table, runs) = (self.table, self.runs);
        Quiesced { runs, returned: table.give_back(tables, self.into_tables()) }
    }

    /// The tables alone, to be given back when they are flushed.
    pub(crate) fn into_tables(self) -> Removed<F> {
        Removed { tree: self.tree, detached: self.detached }
    }
}

impl<'b, F: IoFormat> Unmapped<'_, 'b, F> {
    /// Says that every IOMMU and every device that could have kept a translation of the range has
    /// forgotten it. Tables that were taken out go back to the host, and what was mapped may be released.
    ///
    /// What was unmapped in a [`Domain`](crate::Domain) goes by
    /// [`Domain::finish`](crate::Domain::finish), which asks them:
    ///
    /// ```compile_fail,E0599
    /// # use pinfold::{iopt::{IoPageTable, UnmappedRun}, Domain, IovaRange};
    /// # use pinfold_arch::Vtd; use pinfold_sim::TableMemory;
    /// # let memory = TableMemory::new(1 << 20);
    /// # let table = IoPageTable::new(Vtd::new(4, 46).unwrap(), &memory).unwrap();
    /// # let mut runs = heapless::Vec::<UnmappedRun, 512>::new();
    /// # let range = IovaRange::new(pinfold_arch::Iova::new(0), 0x1000).unwrap();
    /// let domain: Domain<'_, Vtd> = Domain::new(table);
    /// let mut unmap = domain.table().unmap(&memory, range).unwrap();
    /// let unmapped = unmap.step(&memory, &mut runs).unwrap().unwrap();
    /// unmapped.flushed(&memory); // says who?
    /// ```
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause).
    pub fn flushed<T: IoTables>(self, tables: &T) -> Quiesced<'b> {
        self.quiesced(tables)
    }
}

/// Tables that were taken out and not flushed.
#[derive(Debug)]
pub(crate) struct Removed<F> {
    /// As in [`Unmapped`].
    tree: (F, IoTable),
    detached: Detached,
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Gives back tables that everybody has forgotten.
    pub(crate) fn give_back<T: IoTables>(
        &self,
        tables: &T,
        removed: Removed<F>,
    ) -> Result<(), IoptError> {
        let (format, root) = removed.tree;
        self.unflushed.fetch_sub(1, Ordering::Relaxed);
        removed.detached.release(&format, tables, &self.live, root)
    }
}

impl UnmappedRun {
    /// Whether another run continues this one.
    pub(super) fn joins(&self, next: &Self) -> bool {
        self.addr.checked_add(self.bytes) == Some(next.addr)
            && self.at.checked_add(self.bytes) == Some(next.at)
            && self.writable == next.writable
            && self.dirty == next.dirty
    }
}

/// Adds memory to the runs, which have room for it.
pub(super) fn join(runs: &mut heapless::vec::VecView<UnmappedRun>, run: UnmappedRun) {
    match runs.last_mut() {
        Some(last) if last.joins(&run) => last.bytes = last.bytes.wrapping_add(run.bytes),
        _ => drop(runs.push(run)),
    }
}

/// Tables that nothing points to any more, by their level, each naming the next in its first entry; 0
/// ends a list. An IOMMU may still walk them: an absent entry can hold an address and stay absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detached([List; MAX_IO_LEVELS]);

#[derive(Clone, Copy, Debug, Default)]
struct List {
    first: u64,
    tables: u64,
}

impl Detached {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|list| list.tables == 0)
    }

    /// Takes a table of a level in, whose entries are all absent.
    pub(super) fn add<F: IoFormat>(
        &mut self,
        format: &F,
        level: usize,
        table: &IoTable,
        view: &TableView<'_>,
    ) -> Result<(), IoptError> {
        let at = Iova::new(0);
        let absent = absent(format, table, at)?;
        let corrupt = IoptError::Corrupt { at, raw: table.base.raw() };
        let list = self.0.get_mut(level).ok_or(corrupt)?;
        view.store(0, in_memory(format, absent | list.first));
        *list = List { first: table.base.raw(), tables: list.tables.saturating_add(1) };
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
        let mut budget = Budget::new(tables, 0);
        for list in self.0.into_iter().skip(1) {
            let Some(below) = format.below(&shape, PhysAddr::new(0)) else { break };
            shape = below;
            let mut next = list.first;
            for _ in 0..list.tables {
                let table = IoTable { base: PhysAddr::new(next), ..shape };
                let _ = budget.spend(1, 0);
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
    let absent = absent(format, table, at)?;
    let note = in_memory(format, view(tables, table, at)?.load(0).unwrap_or(0));
    match format.decode(table, note) {
        IoEntry::Absent => Ok(note & !absent),
        _ => Err(IoptError::Corrupt { at, raw: note }),
    }
}
