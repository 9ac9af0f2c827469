//! The engine: a host and its frames, and the calls on them. Nothing but wiring.

use pinfold_arch::PageFormat;

use crate::frames::FrameTable;
use crate::host::{GupHost, Host};
use crate::pin::unpin::unpin_pages;
use crate::pin::{Dirtied, PinError, Pinned, UnpinError, Unpinned, pin_pages};
use crate::region::{InSpace, Pinner};
use crate::request::PinRequest;
use crate::space::AddressSpace;
use crate::table::PinTable;

/// Pins memory of the address spaces of one host, whose frames one table knows.
///
/// ```
/// use pinfold::{Access, AddrRange, Dirtied, Engine, PageCount, PinRequest, PinTable, VirtAddr};
/// use pinfold::{PageShift, sync::Word};
/// use pinfold_sim::{Layout, Machine, MapSpec, Ram};
///
/// let ram = Ram::new(&Layout::tiny());
/// let machine = Machine::new(&ram);
/// let space = machine.add_space();
/// machine.map(space.id(), MapSpec::anonymous(0x10_0000, 4))?;
///
/// let engine = Engine::new(&machine, machine.frames());
/// let words = [const { Word::new(0) }; 32];
/// let table = PinTable::new(&words)?;
/// let range = AddrRange::new(VirtAddr::new(0x10_0000), PageCount::new(4), PageShift::SIZE_4K)?;
/// engine.pin(&space, &table, &PinRequest::longterm(range, Access::READ | Access::WRITE))?;
/// assert!(table.lookup(VirtAddr::new(0x10_3fff)).is_ok());
/// engine.unpin(&table, Dirtied::All)?;
/// assert!(table.lookup(VirtAddr::new(0x10_3fff)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Engine<'m, H> {
    host: H,
    frames: FrameTable<'m>,
}

impl<'m, H: GupHost> Engine<'m, H> {
    /// The engine of this host and these frames.
    pub const fn new(host: H, frames: FrameTable<'m>) -> Self {
        Self { host, frames }
    }

    /// The host.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The frames.
    pub const fn frames(&self) -> FrameTable<'m> {
        self.frames
    }

    /// Pins the whole range of `request`, in the name of its holder, and records it in `table`.
    ///
    /// All pages or none. Pages are faulted in, made private and moved as the request needs. The
    /// account is charged for the whole range before the first pin. When the call returns, every
    /// address of the range can be looked up in `table`, and stays pinned until
    /// [`unpin`](Self::unpin).
    ///
    /// # Context
    /// May sleep. Any number of calls may run at once, each with a table of its own; they may
    /// overlap in memory. Takes no lock that is held over a host call.
    ///
    /// # Errors
    /// [`PinError`] names the address and the cause, and [`PinError::kind`] groups them. Every pin,
    /// reference and charge is what it was, and `table` is empty if it was before (one in use stays
    /// as it was); pages may have been faulted in, made private or moved.
    pub fn pin<F: PageFormat>(
        &self,
        space: &AddressSpace<F>,
        table: &PinTable<'_>,
        request: &PinRequest,
    ) -> Result<Pinned, PinError> {
        pin_pages(&self.host, self.frames, space, table, request)
    }

    /// Gives back every pin that `table` holds, and the charge. Readers of the table get
    /// [`TooHard`](crate::table::TooHard) from the first moment on.
    ///
    /// Whatever devices could reach the memory must have been cut off and flushed before.
    ///
    /// # Context
    /// May sleep (in `pause`, whose answer does not matter here: giving back cannot be undone).
    ///
    /// # Errors
    /// [`UnpinError`].
    pub fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        unpin_pages(&self.host, self.frames, table, dirtied)
    }
}

impl<H: GupHost, F: PageFormat> Pinner for InSpace<&Engine<'_, H>, &AddressSpace<F>> {
    type Wait = <H as Host>::Wait;

    fn wait(&self) -> &Self::Wait {
        self.pins.host().wait()
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        self.pins.pin(self.space, table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        self.pins.unpin(table, dirtied)
    }
}
