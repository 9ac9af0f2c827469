//! Registered regions: ranges of one address space that are pinned for devices, and found again from
//! where nothing else can be found.
//!
//! A [`Registry`] pins a range once, however many register it, keeps it as long as anything of it is
//! mapped for a device, and answers by address in constant time: through a directory over the window
//! of addresses that the embedder declared, to a record, to the region's pin table. Readers take no
//! lock and are never waited for ([`realmode`](crate::realmode)); writers take one spin lock for a
//! bounded number of steps, and hold none while they pin.
//!
//! A region's life, with the count of its registrations (*used*) and of its mapped references:
//!
//! ```text
//!            register               map_get, map_put
//! free -> coming -> here (used 1..) <---------------> mapped
//!   ^                 | unregister: used - 1
//!   |                 | the last, and nothing mapped (else Busy, and used as before)
//!   +--- retired <- going: unpinned, out of the directory
//!   reclaim
//! ```
//!
//! *Retired* is memory that readers may still be looking at: see [`Registry::retired`].

use pinfold_arch::{Access, AddrRange, PageShift, PhysAddr};

use crate::error::ErrorKind;
use crate::host::{Host, SpaceId, Wait};
use crate::pin::{Dirtied, PinError, Pinned, UnpinError, Unpinned};
use crate::realmode::RegionId;
use crate::request::PinRequest;
use crate::source::{HostPins, PinSource};
use crate::table::{PinTable, TableError};

mod claim;
mod directory;
mod memory;
mod registry;
mod steps;

pub use registry::{Grace, Registry};

/// Whoever pins for a registry: something that pins, in one address space.
pub trait Pinner {
    /// The host's waiting part.
    type Wait: Wait;

    /// The host's waiting part: brackets the registry's lock, and is asked between steps.
    fn wait(&self) -> &Self::Wait;

    /// Pins the whole range of `request` and records it in `table`, or leaves all as it was.
    ///
    /// # Errors
    /// [`PinError`].
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError>;

    /// Gives back all that `table` holds.
    ///
    /// # Errors
    /// [`UnpinError`].
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError>;
}

/// Something that pins, and the address space in which it shall: [`HostPins`] with a [`SpaceId`], or
/// an [`Engine`](crate::Engine) with an [`AddressSpace`](crate::AddressSpace).
#[derive(Clone, Copy, Debug)]
pub struct InSpace<P, S> {
    /// What pins.
    pub pins: P,
    /// Where.
    pub space: S,
}

impl<H: Host, S: PinSource> Pinner for InSpace<&HostPins<H, S>, SpaceId> {
    type Wait = H::Wait;

    fn wait(&self) -> &H::Wait {
        self.pins.host().wait()
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.pins.pin(self.space, table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        self.pins.unpin(table, dirtied)
    }
}

/// What a registration came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The region's name.
    pub region: RegionId,
    /// What was done to pin it. `None` if exactly this range was registered before, and is now
    /// registered once more, or if it is device memory: then nothing was pinned or charged.
    pub pinned: Option<Pinned>,
    /// How often the range is registered now.
    pub used: u64,
}

/// What the end of a registration came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unregistered {
    /// Others have registered the range: so many registrations are left.
    StillUsed(u64),
    /// It was the last. The memory was unpinned; device memory has no pins.
    Gone(Option<Unpinned>),
}

/// What is known of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its name.
    pub id: RegionId,
    /// Its addresses.
    pub range: AddrRange,
    /// How often it is registered.
    pub used: u64,
    /// How many mapped references are held.
    pub mapped: u64,
    /// What devices may do: memory that was pinned for reading must not be mapped writable.
    pub access: Access,
    /// The largest IOMMU page that it carries: see [`Registry::register`].
    pub usable: PageShift,
    /// Where device memory begins; `None` for memory that is pinned.
    pub device: Option<PhysAddr>,
}

/// Device memory behind a physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMemory {
    /// The region.
    pub region: RegionId,
    /// Bytes of the page of the size asked for, from the address on, that lie in the region. A page
    /// that lies in it as a whole has all of its own.
    pub bytes: u64,
}

/// Why a registry refused. Nothing has changed, unless the text says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The range does not lie in the registry's window.
    #[error("the range is not in the registry's window")]
    OutsideWindow,
    /// The range counts in pages of another size than the registry.
    #[error("the base page sizes of range and registry differ")]
    BaseMismatch,
    /// The request is not a long-term one.
    #[error("a registration is for long: the request must say LONGTERM")]
    NotLongterm,
    /// Device memory at this address is not aligned to base pages, or ends beyond 64 bits.
    #[error("device memory at {at} is unaligned or wraps")]
    NoDeviceMemory {
        /// Where it should begin.
        at: PhysAddr,
    },
    /// Words that were given do not lie inside one of the areas declared reachable.
    #[error("the words are not in reachable memory")]
    Unreachable,
    /// The words for the table overlap the registry's own, or the table of another region, which
    /// may be one that was not reclaimed yet.
    #[error("the words for the table are in use")]
    TableInUse,
    /// The words do not continue those that the registry has.
    #[error("the words do not continue the registry's")]
    NotBehind,
    /// A registered region overlaps the range, and is not exactly this range with this access, or
    /// this device memory.
    #[error("a registered region overlaps the range")]
    Overlap {
        /// That region.
        with: RegionId,
    },
    /// A region that overlaps the range is being registered or removed just now.
    #[error("a region that overlaps the range is being registered or removed")]
    Busy,
    /// Parts of the region are mapped for devices.
    #[error("the region is mapped: {mapped} references are held")]
    Mapped {
        /// How many references.
        mapped: u64,
    },
    /// All records are in use, or wait to be reclaimed.
    #[error("all records are in use")]
    Full,
    /// The registry's words do not suffice: [reclaim](Registry::reclaim) what is retired, or
    /// [give more](Registry::grow) until there are `need`.
    #[error("the registry's memory is too small: it needs {need} words")]
    NoSpace {
        /// Words, in all.
        need: usize,
    },
    /// The range is registered as often as can be counted.
    #[error("the range is registered too often")]
    Overflow,
    /// There is no such region, or not any more.
    #[error("there is no such region")]
    NotFound,
    /// `pause` stopped the call.
    #[error("interrupted")]
    Interrupted,
    /// The words are too few for any table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The memory could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The memory could not all be given back. With [`UnpinError::Table`] nothing was, and the region
    /// stays; else it is gone.
    #[error(transparent)]
    Unpin(#[from] UnpinError),
}

impl RegionError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OutsideWindow
            | Self::BaseMismatch
            | Self::NotLongterm
            | Self::NoDeviceMemory { .. }
            | Self::Unreachable
            | Self::NotBehind
            | Self::Overlap { .. } => ErrorKind::InvalidArgument,
            Self::TableInUse | Self::Busy | Self::Mapped { .. } => ErrorKind::Busy,
            Self::Full | Self::Overflow => ErrorKind::Overflow,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::NotFound => ErrorKind::NotFound,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Table(error) => error.kind(),
            Self::Pin(error) => error.kind(),
            Self::Unpin(error) => error.kind(),
        }
    }
}
