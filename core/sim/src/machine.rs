//! The machine: everything above, and what the engine asks of a host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use pinfold::folio::Folio;
use pinfold::frames::FrameTable;
use pinfold::host::{FaultError, Mapping, MigrateError, SpaceId};
use pinfold::{
    Access, AccountId, AddrRange, AddressSpace, Order, PageCount, Pfn, PhysAddr, VirtAddr, X86_64,
};

use crate::account::Accounts;
use crate::contig::ContigError;
use crate::device::Device;
use crate::format::TableFormat;
use crate::guard::{FreePolicy, Guards};
use crate::host::Log;
use crate::inject::{HostCall, Injector};
use crate::layout::{FrameRange, ZoneKind};
use crate::lock::lock;
use crate::map::{MapError, MapSpec};
use crate::objects::{FileId, FileKind, TruncateError};
use crate::ram::Ram;
use crate::state::{NoMemory, State};
use crate::zones::{Place, Want, ZoneCounts};

/// A machine. All of it may be used from several threads; its one lock is never held while code of
/// the engine runs.
///
/// It is a [`GupHost`](pinfold::host::GupHost) with itself as every part, and so is a reference
/// to it: `Engine::new(&machine, machine.frames())`.
#[derive(Debug)]
pub struct Machine<'m, F = X86_64> {
    ram: &'m Ram,
    frames: FrameTable<'m>,
    state: Mutex<State<'m, F>>,
    pub(crate) guards: Arc<Guards>,
    pub(crate) accounts: Accounts,
    pub(crate) injector: Injector<'m, F>,
    pub(crate) log: Log,
    /// Entries between two pauses.
    pub(crate) step: AtomicU64,
}

/// Physical address width of the machine's CPU.
const PHYS_BITS: u8 = 46;

impl<'m> Machine<'m> {
    /// A machine with an x86-64 CPU, four levels of tables, and its zero page in a normal zone.
    ///
    /// # Panics
    /// If the memory has no room for a zero page, or was given to a machine before.
    #[must_use]
    pub fn new(ram: &'m Ram) -> Self {
        let format = X86_64::new(4, PHYS_BITS).expect("four levels and 46 bits are supported");
        Self::with(ram, format, Place::Zone(ZoneKind::Normal))
    }
}

impl<'m, F: TableFormat> Machine<'m, F> {
    /// A machine with tables of this format, and its zero page in such a place.
    ///
    /// # Panics
    /// If the memory has no room there, or was given to a machine before.
    #[must_use]
    pub fn with(ram: &'m Ram, format: F, zero: Place) -> Self {
        let guards = Arc::new(Guards::new());
        Self {
            ram,
            frames: ram.frame_table(),
            state: Mutex::new(State::new(ram, format, zero, Arc::clone(&guards))),
            guards,
            accounts: Accounts::default(),
            injector: Injector::new(),
            log: Log::default(),
            step: AtomicU64::new(4096),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<'m, F>> {
        lock(&self.state)
    }

    /// Its memory.
    #[must_use]
    pub fn ram(&self) -> &'m Ram {
        self.ram
    }

    /// Its frame table, to be shared with an engine.
    #[must_use]
    pub fn frames(&self) -> FrameTable<'m> {
        self.frames
    }

    /// A device.
    #[must_use]
    pub fn device(&self) -> Device<'_, 'm, F> {
        Device::new(self)
    }

    // Spaces.

    /// A new address space with nothing in it.
    ///
    /// # Panics
    /// If there is no memory for its root table.
    #[must_use]
    pub fn add_space(&self) -> Arc<AddressSpace<F>> {
        self.state().add_space().expect("room for a root table")
    }

    /// The spaces there are.
    #[must_use]
    pub fn spaces(&self) -> Vec<Arc<AddressSpace<F>>> {
        self.state().spaces.values().map(|space| Arc::clone(&space.handle)).collect()
    }

    /// The space with this name.
    #[must_use]
    pub fn space(&self, id: SpaceId) -> Option<Arc<AddressSpace<F>>> {
        self.state().spaces.get(&id.0).map(|space| Arc::clone(&space.handle))
    }

    /// A copy of a space that shares its private memory until one of the two writes.
    ///
    /// # Errors
    /// [`MapError::NoSpace`], [`MapError::NoMemory`]; there is no child then.
    pub fn fork(&self, id: SpaceId) -> Result<Arc<AddressSpace<F>>, MapError> {
        self.state().fork(id)
    }

    /// Begins a fork that [`fork`](Self::fork) will complete: it has found out which pages are pinned,
    /// and shares the others in the end.
    ///
    /// # Errors
    /// [`MapError::NoSpace`].
    pub fn begin_fork(&self, id: SpaceId) -> Result<(), MapError> {
        self.state().begin_fork(id)
    }

    /// Ends a space: unmaps everything, frees its tables. Its handle must not be used any more.
    ///
    /// # Errors
    /// [`MapError::NoSpace`].
    pub fn drop_space(&self, id: SpaceId) -> Result<(), MapError> {
        self.state().drop_space(id)
    }

    /// Maps memory. Nothing is present before it is touched, but for devices.
    ///
    /// # Errors
    /// [`MapError`]; nothing has changed.
    pub fn map(&self, id: SpaceId, spec: MapSpec) -> Result<(), MapError> {
        self.state().map(id, spec)
    }

    /// Unmaps a range, whatever is mapped there. Pinned pages stay with whoever pinned them.
    ///
    /// # Errors
    /// [`MapError`]; mappings may have been cut at the ends of the range.
    pub fn unmap(&self, id: SpaceId, at: u64, pages: u64) -> Result<(), MapError> {
        self.state().unmap(id, VirtAddr::new(at), PageCount::new(pages))
    }

    /// Changes what the process may do in a range.
    ///
    /// # Errors
    /// [`MapError`]; mappings may have been cut at the ends of the range.
    pub fn protect(
        &self,
        id: SpaceId,
        at: u64,
        pages: u64,
        access: Access,
    ) -> Result<(), MapError> {
        self.state().protect(id, VirtAddr::new(at), PageCount::new(pages), access)
    }

    /// Every mapping of a space, in order of addresses.
    #[must_use]
    pub fn mappings(&self, id: SpaceId) -> Vec<Mapping> {
        let state = self.state();
        let vmas = state.spaces.get(&id.0).map(|space| space.vmas.values());
        vmas.into_iter().flatten().map(|vma| vma.mapping()).collect()
    }

    /// The mapping that holds an address.
    #[must_use]
    pub fn mapping_at(&self, id: SpaceId, va: u64) -> Option<Mapping> {
        self.state().vma(id, VirtAddr::new(va)).map(|vma| vma.mapping())
    }

    // The CPU.

    /// Loads bytes as the process does, with faults.
    ///
    /// # Errors
    /// [`FaultError`].
    pub fn read(&self, id: SpaceId, va: u64, bytes: &mut [u8]) -> Result<(), FaultError> {
        self.state().read(id, VirtAddr::new(va), bytes)
    }

    /// Stores bytes as the process does, with faults.
    ///
    /// # Errors
    /// [`FaultError`]; what lies before the fault is stored.
    pub fn write(&self, id: SpaceId, va: u64, bytes: &[u8]) -> Result<(), FaultError> {
        self.state().write(id, VirtAddr::new(va), bytes)
    }

    /// Touches every page of a range.
    ///
    /// # Errors
    /// [`FaultError`] of the first page that fails.
    pub fn touch(
        &self,
        id: SpaceId,
        va: u64,
        pages: u64,
        access: Access,
    ) -> Result<(), FaultError> {
        let mut state = self.state();
        for page in 0..pages {
            let va = VirtAddr::new(va + (page << self.ram.base().raw()));
            state.touch(id, va, access)?;
        }
        Ok(())
    }

    /// Where the page tables say an address lies, for this access, without a fault.
    #[must_use]
    pub fn translate(&self, id: SpaceId, va: u64, access: Access) -> Option<PhysAddr> {
        self.state().translate(id, VirtAddr::new(va), access)
    }

    /// The folio behind an address.
    #[must_use]
    pub fn folio_at(&self, id: SpaceId, va: u64) -> Option<Folio> {
        let at = self.translate(id, va, Access::READ)?;
        self.frames.folio(at.pfn(self.ram.base()))
    }

    // Files.

    /// A file of so many base pages, cached in folios of this order where one fits.
    #[must_use]
    pub fn add_file(&self, kind: FileKind, pages: u64, order: Order) -> FileId {
        self.state().add_file(kind, pages, order)
    }

    /// Makes a file shorter or longer. Pinned pages behind its end stay with whoever pinned them.
    ///
    /// # Errors
    /// [`TruncateError`]; its pages behind the end are unmapped already.
    pub fn truncate(&self, file: FileId, pages: u64) -> Result<(), TruncateError> {
        self.state().truncate(file, pages)
    }

    /// Ends a file and its cache.
    ///
    /// # Errors
    /// [`TruncateError`]; the file is still there.
    pub fn close_file(&self, file: FileId) -> Result<(), TruncateError> {
        self.state().close_file(file)
    }

    /// Where pages of a file from `from` on are mapped.
    #[must_use]
    pub fn file_ranges(&self, file: FileId, from: u64) -> Vec<(SpaceId, AddrRange)> {
        self.state().file_ranges(file, from)
    }

    /// Drops clean pages of files on disk that nobody pins. Returns how many folios went.
    pub fn shrink(&self) -> u64 {
        self.state().shrink()
    }

    // Memory.

    /// Every zone with its frames and how many are free.
    #[must_use]
    pub fn zones(&self) -> Vec<ZoneCounts> {
        self.state().zones.counts()
    }

    /// Frames that are free, in all zones.
    #[must_use]
    pub fn free_frames(&self) -> PageCount {
        PageCount::new(self.zones().iter().map(|zone| zone.free.raw()).sum())
    }

    /// Frames that are not free when nobody uses the machine: the zero pages and the pool.
    #[must_use]
    pub fn kept_frames(&self) -> u64 {
        let state = self.state();
        let kept = state.pool.iter().copied().chain([state.zero]).chain(state.huge_zero);
        kept.map(|head| state.folio(head).map_or(0, |folio| folio.order().pages().raw())).sum()
    }

    /// In what kind of place a frame lies; `None` outside memory.
    #[must_use]
    pub fn place(&self, pfn: Pfn) -> Option<Place> {
        self.state().zones.place(pfn)
    }

    /// The zero page.
    #[must_use]
    pub fn zero_page(&self) -> Pfn {
        self.state().zero
    }

    /// Adds a huge page to the pool.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn reserve_huge(&self, order: Order, want: Want) -> Result<(), NoMemory> {
        self.state().reserve_huge(order, want).map(|_| ())
    }

    /// Free huge pages in the pool.
    #[must_use]
    pub fn pool_pages(&self) -> usize {
        self.state().pool.len()
    }

    /// Memory in one piece out of a CMA area, named by its place in the layout. Whoever is in the
    /// way is moved.
    ///
    /// # Errors
    /// [`ContigError`].
    pub fn alloc_contig(&self, area: usize, pages: u64) -> Result<FrameRange, ContigError> {
        self.state().alloc_contig(area, PageCount::new(pages))
    }

    /// Gives back what [`alloc_contig`](Self::alloc_contig) gave. `false` for anything else.
    pub fn free_contig(&self, range: &FrameRange) -> bool {
        self.state().free_contig(range)
    }

    /// Begins to empty a range of frames: it is marked, nobody is moved yet.
    pub fn isolate(&self, range: FrameRange) {
        let mut state = self.state();
        state.zones.isolated.push(range);
        state.zones.refresh_isolated(&range);
    }

    /// Undoes [`isolate`](Self::isolate).
    pub fn put_back(&self, range: &FrameRange) {
        let mut state = self.state();
        state.zones.isolated.retain(|isolated| isolated != range);
        state.zones.refresh_isolated(range);
    }

    /// Takes up to so many free frames away. Returns how many it got.
    pub fn hog(&self, pages: u64) -> u64 {
        self.state().hog(pages)
    }

    /// Gives back all that [`hog`](Self::hog) took. Returns how many frames that were.
    pub fn release_hog(&self) -> usize {
        self.state().release_hog()
    }

    /// Moves the folio behind an address to such a place, whoever maps it.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn move_page(&self, id: SpaceId, va: u64, want: Want) -> Result<Pfn, MigrateError> {
        let folio = self.folio_at(id, va).ok_or(MigrateError::Unmovable)?;
        self.state().claim_and_move(folio.head(), want)
    }

    /// Splits the entry that maps `va` into the next smaller ones. The folio stays whole.
    ///
    /// # Errors
    /// [`NoMemory`] for the table.
    pub fn split_mapping(&self, id: SpaceId, va: u64) -> Result<(), NoMemory> {
        self.state().split_leaf(id, VirtAddr::new(va))
    }

    /// Splits the anonymous folio behind an address into base pages.
    ///
    /// # Errors
    /// [`MigrateError`]; its mappings are split by then.
    pub fn split_folio(&self, id: SpaceId, va: u64) -> Result<(), MigrateError> {
        let folio = self.folio_at(id, va).ok_or(MigrateError::Unmovable)?;
        self.state().split_folio(folio.head())
    }

    /// Puts the base pages around an address together to a huge page that one entry maps.
    ///
    /// # Errors
    /// [`MigrateError`]: [`Unmovable`](MigrateError::Unmovable) where not every page is there and
    /// the space's own, [`Busy`](MigrateError::Busy) where somebody else refers to one.
    pub fn collapse(&self, id: SpaceId, va: u64) -> Result<Pfn, MigrateError> {
        self.state().collapse(id, VirtAddr::new(va))
    }

    /// Takes the base page behind an address out of memory, whoever maps it; a touch brings it back.
    ///
    /// # Errors
    /// [`MigrateError`]; pinned pages stay.
    pub fn swap_out(&self, id: SpaceId, va: u64) -> Result<(), MigrateError> {
        let folio = self.folio_at(id, va).ok_or(MigrateError::Unmovable)?;
        self.state().swap_out(folio.head())
    }

    /// Entries that name a page which was taken out of memory.
    #[must_use]
    pub fn swapped(&self) -> usize {
        self.state().swap.entries()
    }

    /// From now on new pages wait in per-CPU lists of this size, with a reference each, until the
    /// list is full or drained. 0, as in the beginning: they do not.
    pub fn batch_new_pages(&self, size: usize) {
        self.state().batch_new_pages(size);
    }

    /// Takes a reference on the folio behind an address by hand: somebody whom nobody expects.
    pub fn get_page(&self, id: SpaceId, va: u64) -> Option<Pfn> {
        let mut state = self.state();
        let at = state.translate(id, VirtAddr::new(va), Access::READ)?;
        let folio = state.folio(at.pfn(self.ram.base()))?;
        self.frames.get(folio, 1).ok()?;
        *state.foreign.entry(folio.head()).or_default() += 1;
        Some(folio.head())
    }

    /// Drops a reference that [`get_page`](Self::get_page) took. `false` if there is none.
    pub fn put_page(&self, head: Pfn) -> bool {
        let mut state = self.state();
        let Some(held) = state.foreign.get_mut(&head) else { return false };
        *held -= 1;
        if *held == 0 {
            state.foreign.remove(&head);
        }
        state.put(head, 1);
        true
    }

    // What the engine sees of it.

    /// Limits what an account may be charged, in pages.
    pub fn limit(&self, account: AccountId, pages: Option<u64>) {
        self.accounts.limit(account, pages.map(PageCount::new));
    }

    /// Pages that an account is charged.
    #[must_use]
    pub fn charged(&self, account: AccountId) -> u64 {
        self.accounts.charged().get(&account.0).copied().unwrap_or(0)
    }

    /// From the next call on, how much the engine does between two pauses:
    /// [`Wait::step`](pinfold::host::Wait::step).
    pub fn set_step(&self, entries: u64) {
        self.step.store(entries, Ordering::SeqCst);
    }

    /// How freed page-table pages are treated.
    pub fn set_free_policy(&self, policy: FreePolicy) {
        self.guards.set_policy(policy);
    }

    /// Walks under way, and table pages that wait for them to end.
    #[must_use]
    pub fn walks(&self) -> (u64, u64) {
        (self.guards.walkers(), self.guards.waiting().len() as u64)
    }

    /// How often the engine has called a function.
    #[must_use]
    pub fn calls(&self, call: HostCall) -> u64 {
        self.injector.calls(call)
    }

    /// How many calls were made to fail.
    #[must_use]
    pub fn failed_calls(&self) -> u64 {
        self.injector.failed()
    }

    /// Makes the `nth` call from now on fail: 1 is the next.
    pub fn fail(&self, call: HostCall, nth: u64) {
        self.injector.fail(call, nth);
    }

    /// Has something happen at the `nth` call from now on, before the call does its work. It may
    /// use the machine, not the engine. What is scheduled for the same call happens in order.
    pub fn during(&self, call: HostCall, nth: u64, deed: impl FnOnce(&Self) + Send + 'm) {
        self.injector.during(call, nth, Box::new(deed));
    }

    /// Whether anything is scheduled that has not happened.
    #[must_use]
    pub fn scheduled(&self) -> bool {
        self.injector.scheduled()
    }

    /// Forgets what was scheduled and has not happened.
    pub fn disarm(&self) {
        self.injector.disarm();
    }
}
