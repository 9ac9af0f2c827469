//! A domain: tables, and everybody who may keep what they say.
//!
//! A device reaches memory by what its IOMMU has read from the tables at some time, and with ATS by what it
//! keeps itself. So taking an entry out is one half, and the other is to make all of them forget, in this
//! order: first every IOMMU, then every device with a TLB of its own, because a device fills it from what an IOMMU
//! has kept. Only when all have said that it is done may the memory be released.
//!
//! A [`Domain`] knows all of them and asks all of them. What did not say so in time is
//! [not flushed](DomainError::NotFlushed): its pins stay until a later flush succeeds.
//!
//! ```
//! use pinfold::host::{FlushError, IoTlb, Kept};
//! use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
//! use pinfold::{Access, Domain, IovaRange, PhysAddr};
//! use pinfold_arch::{IoFlags, Iova, Vtd};
//! use pinfold_sim::TableMemory;
//!
//! struct Unit; // an IOMMU's queue of commands
//! impl IoTlb for Unit {
//!     fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> { Ok(()) }
//!     fn complete(&self) -> Result<(), FlushError> { Ok(()) }
//! }
//!
//! let memory = TableMemory::new(1 << 20);
//! let unit = Unit;
//! let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(Vtd::new(4, 46)?, &memory)?);
//! domain.attach_iommu(&unit)?;
//! let (start, run) = (Iova::new(0x1000), IoRun { addr: PhysAddr::new(0x8000), bytes: 0x2000 });
//! domain.map(&memory, start, [run], Access::all(), IoFlags::empty())?;
//!
//! let mut runs = heapless::Vec::<UnmappedRun, 512>::new();
//! let mut unmap = domain.table().unmap(&memory, IovaRange::new(start, 0x2000)?)?;
//! while let Some(unmapped) = unmap.step(&memory, &mut runs)? {
//!     let quiesced = domain.finish(&memory, unmapped).map_err(|unflushed| unflushed.error())?;
//!     assert_eq!(quiesced.runs()[0].addr, run.addr); // nobody reaches it any more
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::borrow::Borrow;
use core::fmt;

use pinfold_arch::{Access, IoFlags, IoFormat, IoTable, Iova};

use crate::error::ErrorKind;
use crate::host::{FlushError, IoTables, IoTlb, Kept};
use crate::iopt::{Harvest, IoPageTable, IoRun, IoptError, Quiesced, Unmapped};
use crate::iova::IovaRange;
use crate::table::TableError;

mod pins;

pub use pins::{Stale, UnmapPinsError};

/// Tables, and at most `N` IOMMUs that walk them and `N` devices that keep translations themselves.
///
/// Attaching and detaching take the domain for themselves: nobody maps or unmaps meanwhile.
pub struct Domain<'d, F, const N: usize = 8> {
    table: IoPageTable<F>,
    iommus: heapless::Vec<&'d dyn IoTlb, N>,
    devices: heapless::Vec<&'d dyn IoTlb, N>,
}

impl<F: fmt::Debug, const N: usize> fmt::Debug for Domain<'_, F, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("table", &self.table)
            .field("iommus", &self.iommus.len())
            .field("devices", &self.devices.len())
            .finish()
    }
}

/// Why a call on a domain failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The tables refused: nothing has changed, and nobody keeps anything of it.
    #[error(transparent)]
    Table(#[from] IoptError),
    /// The pin table refused; nothing has changed.
    #[error(transparent)]
    Pins(#[from] TableError),
    /// The tables do not map the pages of the pin table there; nothing has changed.
    #[error("{at} leads to other memory")]
    OtherMemory {
        /// The device address.
        at: Iova,
    },
    /// Nothing is mapped in the range any more, but somebody who may have kept it did not say that it has
    /// forgotten. The memory may not be released before [`Domain::flush`] of the range has succeeded.
    #[error("{} to {} is not flushed", range.start(), range.last())]
    NotFlushed {
        /// The range.
        range: IovaRange,
    },
    /// The domain has no room for another one.
    #[error("no room for another IOMMU or device")]
    Full,
}

impl DomainError {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Table(error) => error.kind(),
            Self::Pins(error) => error.kind(),
            Self::OtherMemory { .. } => ErrorKind::InvalidArgument,
            Self::NotFlushed { .. } => ErrorKind::NotFlushed,
            Self::Full => ErrorKind::NoSpace,
        }
    }
}

/// What was unmapped and could not be flushed: to be handed to [`Domain::finish`] again. Dropped, it keeps what
/// it has and is counted: [`IoPageTable::unflushed`].
#[derive(Debug)]
#[must_use = "the memory may not be released before this is finished"]
pub struct Unflushed<'t, 'b, F> {
    /// What was unmapped.
    pub unmapped: Unmapped<'t, 'b, F>,
}

impl<F: IoFormat> Unflushed<'_, '_, F> {
    /// The same as an error.
    #[must_use]
    pub fn error(&self) -> DomainError {
        DomainError::NotFlushed { range: self.unmapped.range() }
    }
}

impl<'d, F: IoFormat, const N: usize> Domain<'d, F, N> {
    /// Tables that nobody uses yet.
    #[must_use]
    pub const fn new(table: IoPageTable<F>) -> Self {
        Self { table, iommus: heapless::Vec::new(), devices: heapless::Vec::new() }
    }

    /// The tables.
    #[must_use]
    pub const fn table(&self) -> &IoPageTable<F> {
        &self.table
    }

    /// Adds an IOMMU, before a root entry in it names the tables.
    ///
    /// # Errors
    /// [`DomainError::Full`].
    pub fn attach_iommu(&mut self, iommu: &'d dyn IoTlb) -> Result<(), DomainError> {
        self.iommus.push(iommu).map_err(|_| DomainError::Full)
    }

    /// Adds a device with a TLB of its own, before it may ask for translations.
    ///
    /// # Errors
    /// [`DomainError::Full`].
    pub fn attach_device(&mut self, device: &'d dyn IoTlb) -> Result<(), DomainError> {
        self.devices.push(device).map_err(|_| DomainError::Full)
    }

    /// Takes an IOMMU or a device out, when its root entries name other tables or block every access. It is made to
    /// forget everything first.
    ///
    /// # Errors
    /// [`DomainError::NotFlushed`]: it is still attached.
    pub fn detach(&mut self, tlb: &'d dyn IoTlb) -> Result<(), DomainError> {
        let range = self.aperture();
        flush(core::iter::once(tlb), range, Kept::Tables)
            .map_err(|FlushError| DomainError::NotFlushed { range })?;
        let other = |one: &&dyn IoTlb| !core::ptr::addr_eq(*one, tlb);
        self.iommus.retain(other);
        self.devices.retain(other);
        Ok(())
    }

    /// Every address that the tables translate.
    fn aperture(&self) -> IovaRange {
        IovaRange::between(Iova::new(0), self.table.format().last()).unwrap_or(IovaRange::ALL)
    }

    /// Makes everybody forget a range: every IOMMU, and then every device.
    ///
    /// # Context
    /// As [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::NotFlushed`] if one of them did not say so; all have been asked.
    pub fn flush(&self, range: IovaRange, kept: Kept) -> Result<(), DomainError> {
        self.flush_those(|_| true, range, kept)
    }

    /// Makes some of them forget a range: IOMMUs first, because devices fill their TLBs from theirs.
    fn flush_those(
        &self,
        which: impl Fn(&dyn IoTlb) -> bool,
        range: IovaRange,
        kept: Kept,
    ) -> Result<(), DomainError> {
        let those = |tlb: &&dyn IoTlb| which(*tlb);
        let iommus = flush(self.iommus.iter().copied().filter(&those), range, kept);
        let devices = flush(self.devices.iter().copied().filter(&those), range, kept);
        iommus.and(devices).map_err(|FlushError| DomainError::NotFlushed { range })
    }

    /// Maps runs as [`IoPageTable::map`] does, and tells those who may have kept that nothing was there. After an
    /// error nothing of them is mapped.
    ///
    /// # Context
    /// As [`IoPageTable::map`] and [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]; [`DomainError::NotFlushed`] if it was taken out again because somebody did not say in
    /// time that it has forgotten, that nothing was there or, after an error of the tables, what was.
    pub fn map<T, R>(
        &self,
        tables: &T,
        start: Iova,
        runs: R,
        access: Access,
        flags: IoFlags,
    ) -> Result<(), DomainError>
    where
        T: IoTables,
        R: IntoIterator<Item: Borrow<IoRun>, IntoIter: Clone>,
    {
        let runs = runs.into_iter();
        let sum = |sum: u64, run: R::Item| sum.wrapping_add(run.borrow().bytes);
        let bytes = runs.clone().fold(0, sum);
        let last = Iova::new(start.raw().wrapping_add(bytes).wrapping_sub(1));
        let range = IovaRange::between(start, last).filter(|_| bytes != 0);
        if let Err(error) = self.table.map(tables, start, runs, access, flags) {
            let flushed = match (error, range) {
                // These come before anything is written.
                (IoptError::Unaligned { .. } | IoptError::OutsideAperture { .. }, _) => Ok(()),
                (_, Some(range)) => self.flush(range, Kept::Leaves),
                (_, None) => Ok(()),
            };
            return flushed.and(Err(error.into()));
        }
        let Some(range) = range else { return Ok(()) };
        if self.flush_those(|tlb| tlb.keeps_absent(), range, Kept::Tables).is_ok() {
            return Ok(());
        }
        // A device would find its memory or not, as it happens.
        self.table.withdraw(tables, range);
        self.flush(range, Kept::Leaves).and(Err(DomainError::NotFlushed { range }))
    }

    /// Makes everybody forget what was unmapped, and then gives tables back and hands out what may be
    /// released.
    ///
    /// # Context
    /// As [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`Unflushed`] if one of them did not say so.
    pub fn finish<'t, 'b, T: IoTables>(
        &self,
        tables: &T,
        unmapped: Unmapped<'t, 'b, F>,
    ) -> Result<Quiesced<'b>, Unflushed<'t, 'b, F>> {
        let kept = if unmapped.has_tables() { Kept::Tables } else { Kept::Leaves };
        match self.flush(unmapped.range(), kept) {
            Ok(()) => Ok(unmapped.flushed(tables)),
            Err(_) => Err(Unflushed { unmapped }),
        }
    }
    /// Hands out the pages of a range that were written, takes their marks away, and makes everybody forget them:
    /// [`IoPageTable::take_dirty`] and the flush that it asks for. Says how many bytes they have.
    ///
    /// # Context
    /// As [`IoPageTable::dirty`] and [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]; [`DomainError::NotFlushed`]: what is written next may go unseen until a flush
    /// of the range succeeds.
    pub fn take_dirty<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(IovaRange),
    ) -> Result<u64, DomainError> {
        self.harvested(self.table.take_dirty(tables, range, each)?)
    }

    /// Begins to keep track of pages that devices write to: [`IoPageTable::start_tracking`] and its flush.
    ///
    /// # Context
    /// As [`take_dirty`](Self::take_dirty).
    ///
    /// # Errors
    /// As [`take_dirty`](Self::take_dirty).
    pub fn start_tracking<T: IoTables>(&self, tables: &T) -> Result<(), DomainError> {
        self.harvested(self.table.start_tracking(tables)?).map(drop)
    }

    fn harvested(&self, harvest: Harvest) -> Result<u64, DomainError> {
        harvest.flush.map_or(Ok(()), |range| self.flush(range, Kept::Leaves))?;
        Ok(harvest.dirty)
    }

    /// Adds levels until `last` is translated: [`IoPageTable::grow`]. Then `retarget` writes the root entries of all
    /// devices, and everybody forgets the old ones. Nobody maps or unmaps meanwhile.
    ///
    /// # Context
    /// As [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]; [`DomainError::NotFlushed`] if `retarget` or a flush fails: what was mapped stays
    /// mapped under the old root and the new one, and the call may be repeated.
    pub fn grow<T: IoTables>(
        &mut self,
        tables: &T,
        last: Iova,
        retarget: impl FnOnce(F, IoTable) -> Result<(), FlushError>,
    ) -> Result<(), DomainError> {
        self.table.grow(tables, last)?;
        let range = self.aperture();
        let told = retarget(self.table.format(), self.table.root());
        told.map_err(|FlushError| DomainError::NotFlushed { range })?;
        self.flush(range, Kept::Tables)
    }

    /// Gives back all tables: [`IoPageTable::destroy`]. Everything has been detached or blocked.
    ///
    /// # Errors
    /// [`DomainError::Table`].
    pub fn destroy<T: IoTables>(self, tables: &T) -> Result<(), DomainError> {
        Ok(self.table.destroy(tables)?)
    }
}

/// Makes some of them forget, at the same time.
fn flush<'d>(
    tlbs: impl Iterator<Item = &'d dyn IoTlb> + Clone,
    range: IovaRange,
    kept: Kept,
) -> Result<(), FlushError> {
    let mut result = Ok(());
    for tlb in tlbs.clone() {
        result = result.and(tlb.invalidate(range, kept));
    }
    for tlb in tlbs {
        result = result.and(tlb.complete());
    }
    result
}
