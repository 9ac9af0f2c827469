//! The pins of a table in a domain.
//!
//! What a [`PinTable`] holds is released together, so leaves may reach over its folios. While a domain maps
//! any of it, and until all that was unmapped is flushed, the table cannot be unpinned.

use core::fmt;

use pinfold_arch::{
    Access, AddrRange, IoEntry, IoFlags, IoFormat, Iova, PageCount, PageShift, VirtAddr,
};

use super::{Domain, DomainError, Unflushed};
use crate::error::ErrorKind;
use crate::host::{Flow, IoTables};
use crate::iopt::{Budget, IoRun, IoptError, OfDomain, Unmapped, UnmappedRun};
use crate::iova::IovaRange;
use crate::table::{PinTable, Run, Runs, TableError};

/// Pinned memory that was taken out of the tables and could not be flushed: to be handed to
/// [`Domain::settle`]. Dropped, it leaves the pins where they are, for good: [`PinTable::stale`] counts them.
#[must_use = "the pins stay until this is settled"]
pub struct Stale<'t, 'p, F> {
    pins: PinTable<'p>,
    bytes: u64,
    unmapped: Unmapped<'t, 'static, F, OfDomain>,
}

impl<F> fmt::Debug for Stale<'_, '_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stale").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Why pins were not mapped, or not taken out of the tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinsError<'t, 'p, F> {
    /// A call failed. What was taken out before is out and flushed.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// Somebody did not say in time that it has forgotten. When this is [settled](Domain::settle), the call
    /// may be repeated: nothing is mapped of what should have been, and the rest of what should not may be
    /// still.
    #[error("{} bytes were unmapped and are not flushed", .0.bytes)]
    NotFlushed(Stale<'t, 'p, F>),
}

impl<F> PinsError<'_, '_, F> {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Domain(error) => error.kind(),
            Self::NotFlushed(_) => ErrorKind::NotFlushed,
        }
    }
}

impl<F: IoFormat, const N: usize> Domain<'_, F, N> {
    /// Maps all that a table holds, from `start` on: its first address there, and so on.
    ///
    /// ```
    /// # use pinfold::host::{PlainHost, SpaceId};
    /// # use pinfold::iopt::{IoPageTable, UnmappedRun};
    /// # use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
    /// # use pinfold::sync::Word;
    /// # use pinfold::table::{Run, TableError};
    /// # use pinfold::*;
    /// # use pinfold_arch::{IoFlags, Iova, Vtd};
    /// # use pinfold_sim::TableMemory;
    /// # struct Fixed;
    /// # impl PinSource for Fixed {
    /// #     fn base(&self) -> PageShift { PageShift::SIZE_4K }
    /// #     fn pin(&self, _: SpaceId, part: AddrRange, _: &PinRequest, runs: &mut RunSink<'_>)
    /// #         -> Result<(), SourceError> { runs.push(Pfn::new(part.start().raw() >> 12), part.pages()) }
    /// #     fn unpin(&self, _: Run) {}
    /// # }
    /// # let pins = HostPins::new(PlainHost, Fixed);
    /// # let words = [const { Word::new(0) }; 64];
    /// # let table = PinTable::new(&words)?;
    /// # let range = AddrRange::new(VirtAddr::new(0x7000_0000), PageCount::new(16), PageShift::SIZE_4K)?;
    /// # let memory = TableMemory::new(1 << 20);
    /// # let domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(Vtd::new(4, 46)?, &memory)?);
    /// pins.pin(SpaceId(1), &table, &PinRequest::longterm(range, Access::all()))?;
    /// let start = Iova::new(0x10_0000);
    /// domain.map_pins(&memory, start, &table, Access::all(), IoFlags::empty()).unwrap();
    /// assert_eq!(table.mapped(), 16 << 12);
    /// assert!(pins.unpin(&table, Dirtied::No).is_err()); // a device may be writing to it
    ///
    /// let mut runs = heapless::Vec::<UnmappedRun, 512>::new();
    /// domain.unmap_pins(&memory, start, &table, &mut runs).unwrap();
    /// pins.unpin(&table, Dirtied::No)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Context
    /// As [`map`](Self::map).
    ///
    /// # Errors
    /// [`DomainError::Pins`] if nothing is pinned, or not for writing, which is asked for, or while others pin
    /// or unpin; else as [`map`](Self::map). What could not be flushed comes as [`PinsError::NotFlushed`]; after
    /// [`DomainError::NotFlushed`] a second flush has succeeded, and the pins are free. After
    /// [`IoptError::NotUndone`] they count as mapped for good.
    pub fn map_pins<'t, 'p, T: IoTables>(
        &'t self,
        tables: &T,
        start: Iova,
        pins: &PinTable<'p>,
        access: Access,
        flags: IoFlags,
    ) -> Result<(), PinsError<'t, 'p, F>> {
        let range = pins.map_get().map_err(DomainError::from)?;
        let bytes = range.pages().raw() << range.base().raw();
        let writes = access.contains(Access::WRITE);
        if writes && !pins.writable() {
            pins.map_put(bytes);
            return Err(DomainError::from(TableError::ReadOnly).into());
        }
        let runs = Joined::new(tables, pins, range.base()).map(|(_, run)| run);
        let failed = match self.map_or_undo(tables, start, runs, access, flags) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let Some(undone) = failed.undone else {
            pins.map_put(bytes);
            return Err(failed.error.into());
        };
        // A device could reach it for a while.
        if writes {
            mark(tables, pins, range.start(), bytes);
        }
        if let DomainError::Table(IoptError::NotUndone { .. }) = failed.error {
            // It still can.
            return Err(failed.error.into());
        }
        pins.unmapped(bytes);
        let unmapped = Unmapped::nothing(&self.table, undone);
        let stale = Stale { pins: *pins, bytes, unmapped };
        self.settle(tables, stale).map_err(PinsError::NotFlushed)?;
        Err(failed.error.into())
    }

    /// Unmaps what [`map_pins`](Self::map_pins) has mapped from `start` on, through `runs`. What a device
    /// could write to is marked as written in the table: that hardware says otherwise may be because
    /// somebody took its marks away. What [`map`](Self::map) has mapped is not for this call, and not
    /// counted.
    ///
    /// # Context
    /// As [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`DomainError::Pins`] if the table is empty, [`DomainError::OtherMemory`] if something else is mapped
    /// there, [`DomainError::Table`]: nothing has changed, but where the tables became corrupt meanwhile.
    /// [`PinsError::NotFlushed`]. [`DomainError::Outgrown`]. It is no error if nothing is mapped any more.
    pub fn unmap_pins<'t, 'p, T: IoTables>(
        &'t self,
        tables: &T,
        start: Iova,
        pins: &PinTable<'p>,
        runs: &mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<(), PinsError<'t, 'p, F>> {
        let held = pins.mapped_range().ok_or(DomainError::Pins(TableError::Empty))?;
        let (first, bytes) = (held.start(), held.pages().raw() << held.base().raw());
        let outside = IoptError::OutsideAperture { at: start };
        let range = IovaRange::new(start, bytes).map_err(|_| DomainError::from(outside))?;
        if self.outgrown {
            // What it would take out could not be given back, and the pins would be stale for good.
            return Err(DomainError::Outgrown.into());
        }
        let mut unmap = self.table.unmap(tables, range).map_err(DomainError::from)?;
        if self.maps(tables, range, held, pins)? > pins.mapped() {
            return Err(DomainError::OtherMemory { at: start }.into());
        }
        if pins.mapped() == 0 {
            return Ok(());
        }
        while let Some(unmapped) = unmap.step(tables, runs).map_err(DomainError::from)? {
            let stale = Stale::new(tables, *pins, (first, start), unmapped);
            self.settle(tables, stale).map_err(PinsError::NotFlushed)?;
        }
        Ok(())
    }

    /// Makes everybody forget what could not be flushed before. Then the pins are free of it.
    ///
    /// # Context
    /// As [`finish`](Self::finish).
    ///
    /// # Errors
    /// The same again, if one of them did not say so.
    pub fn settle<'t, 'p, T: IoTables>(
        &self,
        tables: &T,
        stale: Stale<'t, 'p, F>,
    ) -> Result<(), Stale<'t, 'p, F>> {
        let Stale { pins, bytes, unmapped } = stale;
        match self.finish(tables, unmapped) {
            Ok(_) => {
                pins.flushed(bytes);
                Ok(())
            }
            Err(Unflushed { unmapped, .. }) => Err(Stale { pins, bytes, unmapped }),
        }
    }

    /// Whether the tables lead to the pages of a table, where they lead anywhere: to how many bytes.
    fn maps<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        held: AddrRange,
        pins: &PinTable<'_>,
    ) -> Result<u64, DomainError> {
        let (first, mut bytes) = (held.start(), 0_u64);
        let mut runs = Joined::new(tables, pins, held.base());
        let mut run = runs.next();
        let mut other = None;
        self.table.visit_all(tables, range, |visited| {
            let IoEntry::Leaf(leaf) = visited.entry else { return Flow::Continue };
            let at = visited.range.start().align_down(leaf.shift);
            let va = first.raw().wrapping_add(at.raw().wrapping_sub(range.start().raw()));
            while run.is_some_and(|(start, run)| va.wrapping_sub(start) >= run.bytes) {
                run = runs.next();
            }
            // As much of the run as the leaf maps.
            let same = run.is_some_and(|(start, run)| {
                let inside = va.wrapping_sub(start);
                run.addr.checked_add(inside) == Some(leaf.addr)
                    && run.bytes.wrapping_sub(inside) >= leaf.shift.bytes()
            });
            if same {
                // A leaf of several entries is seen with each.
                let entry = visited.range.last().raw().wrapping_sub(visited.range.start().raw());
                bytes = bytes.wrapping_add(entry.min(leaf.shift.mask())).wrapping_add(1);
                return Flow::Continue;
            }
            other = Some(at);
            Flow::Stop
        })?;
        other.map_or(Ok(bytes), |at| Err(DomainError::OtherMemory { at }))
    }
}

impl<'t, 'p, F: IoFormat> Stale<'t, 'p, F> {
    /// What was unmapped, of a table whose first address is mapped at an address. Written blocks are marked
    /// while the pins cannot go.
    fn new<T: IoTables>(
        tables: &T,
        pins: PinTable<'p>,
        (first, start): (VirtAddr, Iova),
        unmapped: Unmapped<'t, '_, F, OfDomain>,
    ) -> Self {
        let bytes = unmapped.bytes();
        for run in unmapped.runs().iter().filter(|run| run.writable) {
            let inside = run.at.raw().wrapping_sub(start.raw());
            mark(tables, &pins, VirtAddr::new(first.raw().wrapping_add(inside)), run.bytes);
        }
        pins.unmapped(bytes);
        Self { pins, bytes, unmapped: unmapped.without_runs() }
    }
}

/// Marks blocks of a table as written; its pins cannot go meanwhile.
fn mark<T: IoTables>(tables: &T, pins: &PinTable<'_>, va: VirtAddr, bytes: u64) {
    let mut budget = Budget::new(tables, 0);
    let marked = pins.mark_written(va, bytes, || {
        let _ = budget.spend(1, 0);
    });
    debug_assert!(marked.is_ok(), "what is mapped keeps the table as it is");
}

/// The memory of a table in order of virtual addresses, each piece with its own, as large as they come: all of
/// it is released together.
#[derive(Debug)]
struct Joined<'p, 'm, T> {
    runs: Runs<'p>,
    /// A run that was read and does not continue the one before it.
    ahead: Option<Run>,
    base: PageShift,
    budget: Budget<'m, T>,
}

impl<T> Clone for Joined<'_, '_, T> {
    fn clone(&self) -> Self {
        Self { runs: self.runs.clone(), budget: self.budget.clone(), ..*self }
    }
}

impl<'p, 'm, T: IoTables> Joined<'p, 'm, T> {
    fn new(tables: &'m T, pins: &PinTable<'p>, base: PageShift) -> Self {
        Self { runs: pins.mapped_runs(), ahead: None, base, budget: Budget::new(tables, 0) }
    }

    /// The next run, or a part of it, from as many words as are between two pauses. To stop is for who maps.
    fn run(&mut self) -> Option<Run> {
        loop {
            let most = self.budget.most();
            let mut words = most;
            let run = self.runs.next_within(&mut words);
            let _ = self.budget.spend(most.wrapping_sub(words), 0);
            if run.is_some() || self.runs.ended() {
                return run;
            }
        }
    }
}

impl<T: IoTables> Iterator for Joined<'_, '_, T> {
    type Item = (u64, IoRun);

    fn next(&mut self) -> Option<Self::Item> {
        let Run { va, pfn, mut pages, .. } = self.ahead.take().or_else(|| self.run())?;
        while let Some(next) = self.run() {
            if pfn.checked_add(pages) != Some(next.pfn) {
                self.ahead = Some(next);
                break;
            }
            pages = PageCount::new(pages.raw().wrapping_add(next.pages.raw()));
        }
        // Whatever is pinned has an address.
        let addr = pfn.addr(self.base)?;
        Some((va.raw(), IoRun { addr, bytes: pages.raw() << self.base.raw() }))
    }
}
