//! A domain: tables, and everybody who may keep what they say.
//!
//! A device reaches memory by what its IOMMU has read from the tables at some time, and with ATS by what it
//! keeps itself. So taking an entry out is one half, and the other is to make all of them forget, in this
//! order: first every IOMMU, then every device with a TLB of its own, because a device fills it from what
//! an IOMMU has kept. Only when all have said that it is done may the memory be released.
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
//! domain.attach_iommu(&unit)?; // before its root entry names the tables
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
use crate::iopt::{
    Harvest, IoPageTable, IoRun, IoptError, MapFailed, OfDomain, Quiesced, Removed, Unmapped,
};
use crate::iova::IovaRange;
use crate::sync::{Ordering, Word};
use crate::table::TableError;

mod pins;

pub use pins::{PinsError, Stale};

/// Tables, and at most `N` IOMMUs that walk them and `N` devices that keep translations themselves.
///
/// Attaching and detaching take the domain for themselves: nobody maps or unmaps meanwhile.
pub struct Domain<'d, F, const N: usize = 8> {
    table: IoPageTable<F, OfDomain>,
    iommus: [Option<Attached<'d>>; N],
    devices: [Option<Attached<'d>>; N],
    /// What tells its names from those of other domains: where its first table is.
    own: u64,
    /// Names given out so far.
    names: u64,
    /// Whether somebody may still walk from an old top table.
    outgrown: bool,
    /// Tables that were taken out while somebody did not say that it has forgotten them.
    owed: Option<Removed<F>>,
    /// How often somebody may have kept leaves whose marks were taken away, and how many of these times have
    /// been made up for; too few is a flush too many.
    unmarked: Word,
    made_up: Word,
}

/// One of a domain, and the name that only it ever has there.
#[derive(Clone, Copy)]
struct Attached<'d> {
    tlb: &'d dyn IoTlb,
    name: u64,
}

/// An IOMMU or a device of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbId {
    domain: u64,
    name: u64,
}

impl<F: fmt::Debug, const N: usize> fmt::Debug for Domain<'_, F, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("table", &self.table)
            .field("iommus", &self.iommus.iter().flatten().count())
            .field("devices", &self.devices.iter().flatten().count())
            .finish()
    }
}

/// Why a call on a domain failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The tables refused. Nothing has changed and nobody keeps anything of it, but where the call or the
    /// error says otherwise.
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
    /// Somebody may still walk from an old top table: [`Domain::grow`] has to be repeated first. Nothing has
    /// changed.
    #[error("the root entries do not name the new top table")]
    Outgrown,
    /// The domain has no room for another one.
    #[error("no room for another IOMMU or device")]
    Full,
    /// The domain has no such IOMMU or device, or not any more. Nothing has changed.
    #[error("no such IOMMU or device in this domain")]
    NotAttached,
    /// It was unmapped in another domain. Nothing has changed.
    #[error("this was unmapped in another domain")]
    OtherDomain,
    /// Somebody is attached who may still walk the tables: they are not given back, nor ever will be.
    #[error("an IOMMU or device is still attached")]
    StillAttached,
}

impl DomainError {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Table(error) => error.kind(),
            Self::Pins(error) => error.kind(),
            Self::OtherMemory { .. } | Self::OtherDomain | Self::NotAttached => {
                ErrorKind::InvalidArgument
            }
            Self::StillAttached => ErrorKind::Busy,
            Self::NotFlushed { .. } | Self::Outgrown => ErrorKind::NotFlushed,
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
    pub unmapped: Unmapped<'t, 'b, F, OfDomain>,
    error: DomainError,
}

impl<F> Unflushed<'_, '_, F> {
    /// Why: [`DomainError::NotFlushed`], [`DomainError::Outgrown`] or [`DomainError::OtherDomain`].
    #[must_use]
    pub const fn error(&self) -> DomainError {
        self.error
    }
}

impl<'d, F: IoFormat, const N: usize> Domain<'d, F, N> {
    /// Tables that nobody uses yet.
    #[must_use]
    pub fn new(table: IoPageTable<F>) -> Self {
        let own = table.root().base.raw();
        Self {
            table: table.of_domain(),
            iommus: [None; N],
            devices: [None; N],
            own,
            names: 0,
            outgrown: false,
            owed: None,
            unmarked: Word::new(0),
            made_up: Word::new(0),
        }
    }

    /// The tables: to look at, to [split](IoPageTable::split), and to [unmap](IoPageTable::unmap) or
    /// [replace](IoPageTable::replace) by [`finish`](Self::finish). What [`map_pins`](Self::map_pins) has mapped
    /// goes by [`unmap_pins`](Self::unmap_pins) alone: taken out or replaced here, its pins count as mapped for good.
    #[must_use]
    pub const fn table(&self) -> &IoPageTable<F, OfDomain> {
        &self.table
    }

    /// Adds an IOMMU, before a root entry in it names the tables.
    ///
    /// # Errors
    /// [`DomainError::Full`].
    pub fn attach_iommu(&mut self, iommu: &'d dyn IoTlb) -> Result<TlbId, DomainError> {
        let name = attach(&mut self.iommus, &mut self.names, iommu)?;
        Ok(TlbId { domain: self.own, name })
    }

    /// Adds a device with a TLB of its own, before it may ask for translations.
    ///
    /// # Errors
    /// [`DomainError::Full`].
    pub fn attach_device(&mut self, device: &'d dyn IoTlb) -> Result<TlbId, DomainError> {
        let name = attach(&mut self.devices, &mut self.names, device)?;
        Ok(TlbId { domain: self.own, name })
    }

    /// Takes an IOMMU or a device out, when its root entries name other tables or block every access. All are
    /// made to forget everything first: a device that is forgetting may ask its IOMMU again.
    ///
    /// # Errors
    /// [`DomainError::NotFlushed`]: it is still attached. [`DomainError::NotAttached`].
    pub fn detach(&mut self, id: TlbId) -> Result<(), DomainError> {
        let own = self.own == id.domain;
        let named = |one: &Option<Attached<'_>>| own && one.is_some_and(|one| one.name == id.name);
        if !self.iommus.iter().chain(&self.devices).any(named) {
            return Err(DomainError::NotAttached);
        }
        self.flush(self.aperture(), Kept::Tables)?;
        let all = self.iommus.iter_mut().chain(&mut self.devices);
        all.filter(|one| named(one)).for_each(|one| *one = None);
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
        self.flush_those(range, kept, |_| true)
    }

    /// The same for some of them.
    fn flush_those(
        &self,
        range: IovaRange,
        kept: Kept,
        these: impl Fn(&&dyn IoTlb) -> bool + Copy,
    ) -> Result<(), DomainError> {
        let those = |all: &[Option<Attached<'d>>; N]| {
            flush(all.iter().flatten().map(|one| one.tlb).filter(these), range, kept)
        };
        let (iommus, devices) = (those(&self.iommus), those(&self.devices));
        iommus.and(devices).map_err(|FlushError| DomainError::NotFlushed { range })
    }

    /// Maps runs as [`IoPageTable::map`] does, and tells those who may have kept that nothing was there.
    /// After an error nothing of them is mapped.
    ///
    /// # Context
    /// As [`IoPageTable::map`] and [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]; [`DomainError::NotFlushed`] if it was taken out again because somebody did
    /// not say in time that it has forgotten, that nothing was there or, after an error of the tables, what
    /// was.
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
        let failed = match self.map_or_undo(tables, start, runs, access, flags) {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        // It was mapped for a while.
        let flushed = failed.undone.map_or(Ok(()), |range| self.flush(range, Kept::Leaves));
        flushed.and(Err(failed.error))
    }

    /// Maps runs, and tells those who keep what is absent; or nothing of them is mapped, but somebody
    /// may have kept it.
    fn map_or_undo<T, R>(
        &self,
        tables: &T,
        start: Iova,
        runs: R,
        access: Access,
        flags: IoFlags,
    ) -> Result<(), Failed>
    where
        T: IoTables,
        R: IntoIterator<Item: Borrow<IoRun>, IntoIter: Clone>,
    {
        let mapped = self.table.map_or_undo(tables, start, runs, access, flags);
        let failed = |MapFailed { error, undone }| Failed { error: error.into(), undone };
        let Some(range) = mapped.map_err(failed)? else { return Ok(()) };
        let told = self.flush_those(range, Kept::Tables, |tlb| tlb.keeps_absent());
        told.map_err(|error| {
            // A device would find its memory or not, as it happens.
            let withdrawn = self.table.withdraw(tables, range);
            let error = withdrawn.err().map_or(error, DomainError::from);
            Failed { error, undone: Some(range) }
        })
    }

    /// Makes everybody forget what was unmapped, and then gives tables back and hands out what may be
    /// released.
    ///
    /// # Context
    /// As [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`Unflushed`] if one of them did not say so, if the last [`grow`](Self::grow) has to be repeated first,
    /// or if it was unmapped in another domain.
    pub fn finish<'t, 'b, T: IoTables>(
        &self,
        tables: &T,
        unmapped: Unmapped<'t, 'b, F, OfDomain>,
    ) -> Result<Quiesced<'b>, Unflushed<'t, 'b, F>> {
        let flushed = match unmapped.is_of(&self.table) {
            false => Err(DomainError::OtherDomain),
            // The old top table may be among what was taken out.
            true if self.outgrown && unmapped.has_tables() => Err(DomainError::Outgrown),
            true => self.flush(unmapped.range(), unmapped.kept()),
        };
        match flushed {
            Ok(()) => Ok(unmapped.quiesced(tables)),
            Err(error) => Err(Unflushed { unmapped, error }),
        }
    }

    /// Takes the tables out that map nothing: [`IoPageTable::trim`] and its flush.
    ///
    /// # Context
    /// As [`finish`](Self::finish); nobody maps or unmaps meanwhile.
    ///
    /// # Errors
    /// [`DomainError::NotFlushed`]: the tables are out, and go back with the next call of this or of
    /// [`destroy`](Self::destroy). [`DomainError::Table`] if somebody has written to one of them.
    /// [`DomainError::Outgrown`].
    pub fn trim<T: IoTables>(&mut self, tables: &T) -> Result<(), DomainError> {
        let range = self.aperture();
        if self.outgrown {
            return Err(DomainError::Outgrown);
        }
        if self.owed.is_some() {
            self.flush(range, Kept::Tables)?;
            self.repay(tables)?;
        }
        self.owed = Some(self.table.trim(tables).into_tables());
        self.flush(range, Kept::Tables)?;
        self.repay(tables)
    }

    /// Gives back the tables that were taken out, behind the flush.
    fn repay<T: IoTables>(&mut self, tables: &T) -> Result<(), DomainError> {
        let repaid = self.owed.take().map(|owed| self.table.give_back(tables, owed));
        Ok(repaid.unwrap_or(Ok(()))?)
    }

    /// Hands out the pages of a range that were written, takes their marks away, and makes everybody forget
    /// them: [`IoPageTable::take_dirty`] and the flush that it asks for. Says how many bytes they have. A
    /// page that was handed out may be read when this has returned: until then a device may write to it
    /// without a new mark.
    ///
    /// # Context
    /// As [`IoPageTable::dirty`] and [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]: if the tables became corrupt meanwhile, some pages were handed out;
    /// [`DomainError::NotFlushed`]: what is written next may go unseen until the next call has succeeded.
    pub fn take_dirty<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
        each: impl FnMut(IovaRange),
    ) -> Result<u64, DomainError> {
        let unmarked = self.unmarked.load(Ordering::Acquire);
        if self.made_up.load(Ordering::Acquire) != unmarked {
            self.flush(self.aperture(), Kept::Leaves)?;
            self.made_up.store(unmarked, Ordering::Release);
        }
        self.harvested(self.table.take_marks(tables, range, each)?)
    }

    /// Begins to keep track of pages that devices write to: [`IoPageTable::start_tracking`] and its flush.
    ///
    /// # Context
    /// As [`take_dirty`](Self::take_dirty).
    ///
    /// # Errors
    /// As [`take_dirty`](Self::take_dirty).
    pub fn start_tracking<T: IoTables>(&self, tables: &T) -> Result<(), DomainError> {
        self.harvested(self.table.clear_marks(tables)?).map(drop)
    }

    fn harvested(&self, harvest: Harvest) -> Result<u64, DomainError> {
        let flushed = harvest.flush.map_or(Ok(()), |range| self.flush(range, Kept::Leaves));
        if flushed.is_err() {
            self.unmarked.fetch_add(1, Ordering::Release);
        }
        flushed?;
        harvest.ended.map_or(Ok(harvest.dirty), |error| Err(error.into()))
    }

    /// Adds levels until `last` is translated: [`IoPageTable::grow`]. Then `retarget` writes the root
    /// entries of all devices, and everybody forgets the old ones. Nobody maps or unmaps meanwhile.
    ///
    /// # Context
    /// As [`IoTlb::complete`].
    ///
    /// # Errors
    /// [`DomainError::Table`]; [`DomainError::NotFlushed`] if `retarget` or a flush fails: what was mapped
    /// stays mapped under the old root and the new one. The call must be repeated, before anything is unmapped:
    /// tables that go meanwhile cannot be flushed, and what holds them holds the domain too.
    pub fn grow<T: IoTables>(
        &mut self,
        tables: &T,
        last: Iova,
        retarget: impl FnOnce(F, IoTable) -> Result<(), FlushError>,
    ) -> Result<(), DomainError> {
        self.table.grow_to(tables, last)?;
        let range = self.aperture();
        self.outgrown = true;
        let told = retarget(self.table.format(), self.table.root());
        told.map_err(|FlushError| DomainError::NotFlushed { range })?;
        self.flush(range, Kept::Tables)?;
        self.outgrown = false;
        Ok(())
    }

    /// Gives back all tables: [`IoPageTable::destroy`]. Everybody has been [detached](Self::detach), and no
    /// pins are mapped: they would count as mapped for ever.
    ///
    /// # Errors
    /// [`DomainError::StillAttached`]; [`DomainError::Table`].
    pub fn destroy<T: IoTables>(mut self, tables: &T) -> Result<(), DomainError> {
        if self.iommus.iter().chain(&self.devices).any(Option::is_some) {
            return Err(DomainError::StillAttached);
        }
        let repaid = self.repay(tables);
        self.table.destroy(tables)?;
        repaid
    }
}

/// Why runs were not mapped.
struct Failed {
    error: DomainError,
    /// What was mapped for a while.
    undone: Option<IovaRange>,
}

/// Takes the first free place, and gives a name.
fn attach<'d>(
    places: &mut [Option<Attached<'d>>],
    names: &mut u64,
    tlb: &'d dyn IoTlb,
) -> Result<u64, DomainError> {
    let free = places.iter_mut().find(|place| place.is_none()).ok_or(DomainError::Full)?;
    let name = *names;
    *names = name.wrapping_add(1);
    *free = Some(Attached { tlb, name });
    Ok(name)
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
