//! Host pins: the host counts the pins, the engine keeps the table and the order of things.
//!
//! A kernel with a memory manager of its own, or a user-space hypervisor, has a call that pins
//! memory. It implements [`PinSource`] around that call and gets what [`Engine`](crate::Engine)
//! offers to others: all pages or none, one charge, one table, exact errors. The source reports
//! runs of frames to a [`RunSink`], which refuses what cannot be true; that the frames are
//! pinned, and that the long-term policy was applied to them, is the host's word.
//!
//! [`HostPins`] is the entry; how parts follow each other is in `transfer`, and the sink in `sink`.

use pinfold_arch::{AddrRange, Order, PageShift};

use crate::host::{Host, SpaceId};
use crate::pin::{Dirtied, PinError, Pinned, UnpinError, Unpinned};
use crate::request::PinRequest;
use crate::table::{PinTable, Run};

pub use crate::host::SourceError;

mod sink;
mod transfer;

pub use sink::RunSink;

/// Where pins come from when the host counts them: its own pin call and what undoes it.
///
/// Several threads may call it at once, also for the same memory.
pub trait PinSource {
    /// The base page size that it counts in, 4 KiB or more. Always the same answer.
    fn base(&self) -> PageShift;

    /// How much one call pins at most, in base pages; a call ends where a multiple of this does.
    /// A folio larger than this is recorded, and marked dirty, in blocks of this size. Always the
    /// same answer.
    fn chunk(&self) -> Order {
        const DEFAULT: Order = match Order::new(9) {
            Some(order) => order,
            None => Order::ZERO,
        };
        DEFAULT
    }

    /// Whether pinning charges the request's account by itself. If so the engine charges nothing.
    /// Always the same answer.
    fn charges(&self) -> bool {
        false
    }

    /// Pins every page of `part`, which lies in `request.range`, with the request's access and
    /// flags, and reports the frames to `runs` in order of address.
    ///
    /// A run is consecutive frames behind consecutive addresses. A run is also what is marked
    /// dirty as one, so it should not be larger than a folio. A run that was accepted belongs to
    /// the engine, whatever this call returns: it comes back through [`unpin`](Self::unpin). A
    /// run that was refused, and what was not reported, stays the source's: it gives that back
    /// itself and returns the error.
    ///
    /// A page that occurs twice is pinned twice.
    ///
    /// # Context
    /// May sleep. Called with no engine lock held.
    ///
    /// # Errors
    /// [`SourceError`]: what is in the way at the first page that was not reported. The request
    /// fails as a whole. To report fewer pages than asked and return success is an error too.
    fn pin(
        &self,
        space: SpaceId,
        part: AddrRange,
        request: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError>;

    /// Gives back one pin on each page of `run`; marks them dirty first if `run.dirty`.
    ///
    /// A run is any part of what was reported, in whole pages, or several reported runs that
    /// continue each other. It is at most [`chunk`](Self::chunk) long. Cannot fail.
    ///
    /// # Context
    /// May sleep. Called with no engine lock held and never from inside [`pin`](Self::pin).
    fn unpin(&self, run: Run);
}

/// Pins memory of a host that counts the pins itself.
///
/// ```
/// use pinfold::host::{PlainHost, SpaceId};
/// use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
/// use pinfold::sync::Word;
/// use pinfold::table::Run;
/// use pinfold::*;
///
/// /// All memory is mapped one to one and stays where it is.
/// struct Fixed;
/// impl PinSource for Fixed {
///     fn base(&self) -> PageShift { PageShift::SIZE_4K }
///     fn pin(&self, _: SpaceId, part: AddrRange, _: &PinRequest, runs: &mut RunSink<'_>)
///         -> Result<(), SourceError>
///     {
///         runs.push(Pfn::new(part.start().raw() >> 12), part.pages())
///     }
///     fn unpin(&self, _: Run) {}
/// }
/// let pins = HostPins::new(PlainHost, Fixed);
/// let words = [const { Word::new(0) }; 64];
/// let table = PinTable::new(&words)?;
/// let start = VirtAddr::new(0x7000_0000);
/// let request = PinRequest {
///     range: AddrRange::new(start, PageCount::new(16), PageShift::SIZE_4K)?,
///     access: Access::READ | Access::WRITE,
///     flags: PinFlags::LONGTERM,
///     holder: HolderId(1),
///     account: AccountId(1),
///     revocable: false,
/// };
/// pins.pin(SpaceId(1), &table, &request)?;
/// assert_eq!(table.lookup(VirtAddr::new(0x7000_1234)), Ok(PhysAddr::new(0x7000_1234)));
/// pins.unpin(&table, Dirtied::No)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostPins<H, S> {
    host: H,
    source: S,
}

impl<H: Host, S: PinSource> HostPins<H, S> {
    /// The pins of this source, with this host's waiting and accounting.
    pub const fn new(host: H, source: S) -> Self {
        Self { host, source }
    }

    /// The host.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// Where pins come from.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Pins the whole range of `request` in the address space that the host calls `space`, and
    /// records it in `table`: see [`Engine::pin`](crate::Engine::pin), whose contract this is.
    ///
    /// All pages or none. The account is charged for the whole range before the first pin, unless
    /// the source charges by itself. `pause` is called after each part.
    ///
    /// # Context
    /// May sleep. Any number of calls may run at once, each with a table of its own. Takes no lock.
    ///
    /// # Errors
    /// [`PinError`], and [`PinError::kind`] groups them; the source's own reasons are
    /// [`PinCause::Source`](crate::PinCause::Source). Every pin and charge is given back and
    /// `table` is empty if it was before. If `table` is too small, the rest of the range was pinned and given
    /// back part by part to say exactly how many words it takes; where that fails the figure
    /// is what is enough for any folios.
    pub fn pin(
        &self,
        space: SpaceId,
        table: &PinTable<'_>,
        request: &PinRequest,
    ) -> Result<Pinned, PinError> {
        transfer::pin_from_source(&self.host, &self.source, space, table, request)
    }

    /// Gives back every pin that `table` holds, and the charge. Readers of the table get
    /// [`TooHard`](crate::table::TooHard) from the first moment on.
    ///
    /// Whatever devices could reach the memory must have been cut off and flushed before.
    ///
    /// # Context
    /// May sleep (in `pause`, whose answer does not matter here, and in the source).
    ///
    /// # Errors
    /// [`UnpinError::Table`]: nothing is pinned, or another call is at it. Nothing has changed.
    /// [`UnpinError::Overwritten`]: all but the pages that are not in the table any more was given
    /// back.
    pub fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        transfer::unpin_to_source(&self.host, &self.source, table, dirtied)
    }
}
