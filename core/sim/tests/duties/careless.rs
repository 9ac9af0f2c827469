//! The machine as an embedder that neglects one duty, named as on the page of duties, some in more than
//! one way: `duty/way`. With the name of none it is the machine itself.

use std::cell::Cell;
use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::{Claim, Frozen};
use pinfold::host::{
    Account, Event, Fault, FaultError, FaultIn, Flow, GupHost, Host, Mapping, MappingKind,
    Mappings, Migrate, MigrateError, OverLimit, PhysMem, Progress, Reclaim, Saved, SpaceId,
    TableView, Trace, Wait, WalkGuard,
};
use pinfold::sync::{Ordering, Word};
use pinfold::{
    Access, AccountId, AddrRange, AddressSpace, FrameTable, PageCount, PageFormat, Pfn, PhysAddr,
    VirtAddr, X86_64,
};
use pinfold_sim::conformance::{Memory, Subject};
use pinfold_sim::{FileKind, Machine, MapSpec, Want};

use crate::{AT, PAGE};

/// A space as its embedder hands it out.
pub(crate) type Space = Arc<AddressSpace<X86_64>>;

const PRESENT: u64 = 1;
/// As it lies in memory, whatever the byte order of the CPU that runs the tests.
pub(crate) const WRITABLE: u64 = 2_u64.to_le();
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The last-level entry for `va`, whose tables are there.
pub(crate) fn leaf<'m>(machine: &Machine<'m>, space: &AddressSpace<X86_64>, va: u64) -> &'m Word {
    let mut table = space.root().base;
    for shift in [39, 30, 21] {
        let words = machine.ram().words(table, 512).expect("a table");
        let entry = u64::from_le(words[(va >> shift & 511) as usize].load(Ordering::SeqCst));
        assert_eq!(entry & PRESENT, PRESENT, "no table for {va:#x}");
        table = PhysAddr::new(entry & FRAME);
    }
    &machine.ram().words(table, 512).expect("a table")[(va >> 12 & 511) as usize]
}

/// Makes a folio in use another kind or gives it other flags, as its owner may.
pub(crate) fn remake(machine: &Machine<'_>, folio: Folio, kind: FolioKind, flags: FolioFlags) {
    let frames = machine.frames();
    let references = frames.counts_of(folio).references();
    let mut owned = frames.freeze(folio, references).expect("nobody else is at it");
    let order = folio.order();
    owned.reshape(FolioInfo { order, kind, flags }, |_| ()).expect("the same size");
    owned.unfreeze(references);
}

/// An embedder that neglects one duty.
pub(crate) struct Careless<'a, 'm> {
    pub(crate) machine: &'a Machine<'m>,
    duty: &'static str,
    /// A reference in a cache of its own.
    cached: Cell<Option<Pfn>>,
    /// A frame that was pinned when its owner unmapped it.
    orphan: Cell<Option<Pfn>>,
    /// A lock of its own that is held: the one that freeing tables takes, or the mappings' own.
    held: Cell<bool>,
    /// Interrupts are masked.
    masked: Cell<bool>,
    /// The mapping that was looked up last.
    known: Cell<Option<Mapping>>,
    /// It waits for a lock that it holds itself. The test goes on; a kernel does not.
    pub(crate) stuck: Cell<bool>,
}

impl<'a, 'm> Careless<'a, 'm> {
    /// Neglects this duty.
    pub(crate) fn of(machine: &'a Machine<'m>, duty: &'static str) -> Self {
        let (cached, orphan) = (Cell::new(None), Cell::new(None));
        let (held, stuck, known) = (Cell::new(false), Cell::new(false), Cell::new(None));
        Self { machine, duty, cached, orphan, held, masked: Cell::new(false), known, stuck }
    }

    pub(crate) fn neglects(&self, duty: &str) -> bool {
        self.duty == duty
    }

    /// The handle that the engine gets. Whoever forgets a bracket moves no sequence: here because
    /// the machine brackets its own handle.
    pub(crate) fn handle(&self, space: Space) -> Space {
        if self.neglects("invalidate-brackets") || self.neglects("fork-brackets") {
            return Arc::new(AddressSpace::new(space.id(), space.format(), space.root()));
        }
        space
    }

    /// Makes the first page of a process present, to write or to read.
    pub(crate) fn fault(&self, space: &Space, write: bool) {
        let access = if write { Access::all() } else { Access::READ };
        let fault = Fault { access, unshare: false, longterm: false };
        self.fault_in(space.id(), VirtAddr::new(AT), fault).expect("mapped memory");
    }

    /// Memory that is no table.
    fn zeroes(&self) -> PhysAddr {
        self.machine.zero_page().addr(self.machine.ram().base()).expect("an address")
    }

    /// Takes its own lock, if it can.
    fn lock(&self) -> bool {
        if self.held.get() {
            self.stuck.set(true);
        }
        !self.held.get()
    }

    /// Every page that is mapped.
    fn pages(&self) -> Vec<(Space, u64)> {
        let mut pages = Vec::new();
        for space in self.machine.spaces() {
            for mapping in self.machine.mappings(space.id()) {
                let start = mapping.range.start().raw();
                let count = mapping.range.pages().raw();
                pages.extend((0..count).map(|i| (Arc::clone(&space), start + i * PAGE)));
            }
        }
        pages
    }

    /// Where a frame is mapped.
    fn mapped(&self, pfn: Pfn) -> Option<(Space, u64)> {
        let here = |(space, va): &(Space, u64)| {
            self.machine.folio_at(space.id(), *va).is_some_and(|folio| folio.head() == pfn)
        };
        self.pages().into_iter().find(here)
    }

    /// What a move does that does not care for pins: another page with the same contents.
    fn replace(&self, pfn: Pfn) -> Result<(), MigrateError> {
        let (space, va) = self.mapped(pfn).ok_or(MigrateError::Unmovable)?;
        let other = self.machine.add_space();
        self.machine.map(other.id(), MapSpec::anonymous(va, 1)).expect("an empty space");
        let fault = Fault { access: Access::all(), unshare: false, longterm: true };
        self.machine.fault_in(other.id(), VirtAddr::new(va), fault).expect("free memory");
        let mut byte = [0];
        self.machine.read(space.id(), va, &mut byte).expect("it is mapped");
        self.machine.write(other.id(), va, &byte).expect("it is mapped");
        let target = leaf(self.machine, &other, va).load(Ordering::SeqCst);
        leaf(self.machine, &space, va).store(target, Ordering::SeqCst);
        Ok(())
    }
}

impl PhysMem for Careless<'_, '_> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        if self.neglects("hook-context") && !self.lock() {
            return None; // it maps the table for a moment, for which it takes a lock
        }
        if !self.neglects("table-views") {
            let view = self.machine.table(base, entries);
            return match self.duty {
                "table-views/anywhere" => {
                    view.or_else(|| self.machine.table(self.zeroes(), entries))
                }
                "table-views/half" => self.machine.table(base, entries / 2),
                _ => view,
            };
        }
        // Read through a window, and shown when the window may show something else by now.
        let words = self.machine.ram().words(base, entries)?;
        let copy = words.iter().map(|word| Word::new(word.load(Ordering::SeqCst)));
        let copy: &'static [Word] = copy.collect::<Vec<_>>().leak();
        self.machine.table(base, entries)?;
        Some(TableView::from_words(copy))
    }
}

impl Mappings for Careless<'_, '_> {
    fn mapping(&self, space: SpaceId, va: VirtAddr) -> Option<Mapping> {
        if !self.lock() {
            return None;
        }
        let mut found = self.machine.mapping(space, va);
        if self.neglects("mapping-lookup/stale") {
            found = found.or(self.known.get()); // what it knew before an unmap
            self.known.set(found);
        }
        let tracked = |found: &Mapping| found.dirty_tracked && !self.neglects("mapping-lookup");
        found.map(|found| Mapping { dirty_tracked: tracked(&found), ..found })
    }
}

impl WalkGuard for Careless<'_, '_> {
    fn enter(&self, space: SpaceId) -> u64 {
        if self.neglects("hook-context") {
            self.held.set(true);
        }
        if self.neglects("walk-guard") { 0 } else { WalkGuard::enter(self.machine, space) }
    }
    fn leave(&self, space: SpaceId, saved: u64) {
        if self.neglects("hook-context") {
            self.held.set(false);
        }
        if !self.neglects("walk-guard") {
            WalkGuard::leave(self.machine, space, saved);
        }
    }
}

impl FaultIn for Careless<'_, '_> {
    fn fault_in(&self, space: SpaceId, va: VirtAddr, fault: Fault) -> Result<(), FaultError> {
        let handle = self.machine.space(space).expect("a space");
        self.held.set(self.neglects("fault-locks"));
        let write = fault.access.contains(Access::WRITE) || fault.unshare;
        let there = self.machine.folio_at(space, va.raw());
        if self.neglects("fault-in/nothing") {
            return Ok(()); // and nothing has changed
        }
        if self.neglects("fault-in") && there.is_some() && write {
            // Writable it is, and still shared.
            leaf(self.machine, &handle, va.raw()).fetch_or(WRITABLE, Ordering::SeqCst);
            return Ok(());
        }
        self.machine.fault_in(space, va, fault)?;
        if self.neglects("fault-in/unmarked")
            && let Some(folio) = self.machine.folio_at(space, va.raw())
        {
            self.frames().set_flags(folio, FolioFlags::EXCLUSIVE, false);
        }
        let kind = self.machine.mapping_at(space, va.raw()).map(|mapping| mapping.kind);
        if self.neglects("folio-kinds") && kind == Some(MappingKind::Secret) {
            let folio = self.machine.folio_at(space, va.raw()).expect("just made present");
            remake(self.machine, folio, FolioKind::Anonymous, FolioFlags::EXCLUSIVE);
        }
        let pinned = |pfn: &Pfn| {
            let folio = self.frames().folio(*pfn);
            folio.is_some_and(|folio| self.frames().counts_of(folio).pins() != 0)
        };
        if let Some(pfn) = self.orphan.take().filter(pinned) {
            // Its owner is gone, so it is taken for free.
            let entry = leaf(self.machine, &handle, va.raw());
            let raw = u64::from_le(entry.load(Ordering::SeqCst));
            entry.store((raw & !FRAME | pfn.raw() << 12).to_le(), Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Migrate for Careless<'_, '_> {
    fn migrate(&self, claim: &Claim<'_>) -> Result<(), MigrateError> {
        let head = claim.folio().head();
        if self.neglects("migrate-place") {
            return Ok(()); // it is at no better place than before
        }
        let at = self.mapped(head);
        match Migrate::migrate(self.machine, claim) {
            Err(MigrateError::Busy { .. }) if self.neglects("migrate-never-pinned") => {
                self.replace(head)
            }
            Err(busy) if self.neglects("migrate-never-pinned/cleared") => {
                if let Some((space, va)) = at {
                    leaf(self.machine, &space, va).store(0, Ordering::SeqCst);
                }
                Err(busy) // and the entry is not put back
            }
            Ok(()) if self.neglects("migrate-contents") => {
                let (space, va) = at.expect("it was mapped");
                let to = self.machine.folio_at(space.id(), va).expect("it is mapped");
                let to = to.head().addr(space.format().base()).expect("an address");
                self.machine.ram().write(to, &[0; PAGE as usize]).expect("memory");
                Ok(())
            }
            Ok(()) if self.neglects("migrate-gives-back") => {
                // The references of the mappings went along and stayed here.
                self.frames().get(claim.folio(), 1).expect("it is claimed");
                Ok(())
            }
            moved => moved,
        }
    }

    fn drain(&self) {
        if self.neglects("migrate-drain") {
            return;
        }
        if let Some(cached) = self.cached.take() {
            assert!(self.machine.put_page(cached));
        }
        self.machine.drain();
    }
}

impl Reclaim for Careless<'_, '_> {
    fn reclaim(&self, folio: Frozen<'_>) {
        if !self.neglects("reclaim") {
            Reclaim::reclaim(self.machine, folio);
        }
    }
}

impl Account for Careless<'_, '_> {
    fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        if self.neglects("account/twice") {
            self.machine.charge(account, pages)?;
        }
        self.machine.charge(account, pages)
    }
    fn uncharge(&self, account: AccountId, pages: PageCount) {
        if !self.neglects("account") {
            self.machine.uncharge(account, pages);
        }
    }
}

impl Wait for Careless<'_, '_> {
    fn enter(&self) -> Saved {
        Wait::enter(self.machine);
        let masks = !self.neglects("enter-leave");
        Saved(u64::from(self.masked.replace(masks || self.masked.get())))
    }
    fn leave(&self, saved: Saved) {
        let restores = !self.neglects("enter-leave/unmasks");
        self.masked.set(restores && saved.0 != 0);
        Wait::leave(self.machine, saved);
    }
    fn pause(&self, progress: Progress) -> Flow {
        if self.neglects("pause") { Flow::Stop } else { self.machine.pause(progress) }
    }
}

impl Trace for Careless<'_, '_> {
    fn event(&self, event: Event) {
        self.machine.event(event);
    }
}

/// One value is every part.
macro_rules! every_part {
    ($($name:ident: $part:ident),*) => {
        $(type $part = Self;)*
        $(fn $name(&self) -> &Self {
            self
        })*
    };
}

impl Host for Careless<'_, '_> {
    every_part!(wait: Wait, account: Account, trace: Trace);
}

impl GupHost for Careless<'_, '_> {
    every_part!(
        memory: Memory, mappings: Mappings, guard: Guard, fault: Fault, migrate: Migrate,
        reclaim: Reclaim
    );
}

impl Subject for Careless<'_, '_> {
    type Host = Self;
    type Format = X86_64;
    type Space = Space;

    fn host(&self) -> &Self {
        self
    }

    fn frames(&self) -> FrameTable<'_> {
        self.machine.frames()
    }

    fn map(&self, memory: Memory, pages: u64) -> Option<(Space, AddrRange)> {
        let space = self.machine.add_space();
        let shared = |kind| {
            let file = self.machine.add_file(kind, pages, pinfold::Order::ZERO);
            MapSpec::shared(AT, pages, file)
        };
        let spec = match memory {
            Memory::Private => MapSpec::anonymous(AT, pages),
            Memory::Shared => shared(FileKind::Shmem),
            Memory::TrackedFile => shared(FileKind::Disk),
            Memory::FsDax => shared(FileKind::FsDax),
            Memory::Secret => shared(FileKind::Secret),
            Memory::Device => MapSpec::device(AT, pages, self.machine.ram().frames().end()),
        };
        self.machine.map(space.id(), spec).expect("an empty space");
        let base = space.format().base();
        let range = AddrRange::new(VirtAddr::new(AT), PageCount::new(pages), base);
        Some((self.handle(space), range.expect("a range")))
    }

    fn unmap(&self, space: &Space, range: AddrRange) -> Option<()> {
        let at = range.start().raw();
        if self.neglects("last-reference")
            && let Some(folio) = self.machine.folio_at(space.id(), at)
            && self.frames().counts_of(folio).pins() != 0
        {
            self.orphan.set(Some(folio.head()));
        }
        if self.neglects("fork-brackets") {
            space.invalidate_start();
            space.invalidate_end();
        }
        if self.neglects("invalidate-brackets/open") {
            space.invalidate_start();
        }
        self.machine.unmap(space.id(), at, range.pages().raw()).expect("a range of the space");
        Some(())
    }

    fn unmap_in_walk(&self, space: &Space, range: AddrRange) -> Option<()> {
        self.unmap(space, range)?;
        let other = self.machine.add_space();
        self.machine.map(other.id(), MapSpec::anonymous(3 * AT, 8)).expect("an empty space");
        self.machine.touch(other.id(), 3 * AT, 8, Access::all()).expect("free memory");
        Some(())
    }

    fn fork(&self, space: &Space) -> Option<Space> {
        if self.neglects("invalidate-brackets") {
            space.fork_start();
            space.fork_end();
        }
        if self.neglects("fork-brackets/open") {
            space.fork_start();
        }
        let child = self.machine.fork(space.id()).expect("free memory");
        let frames = self.frames();
        let mine = self.pages().into_iter().filter(|(owner, _)| owner.id() == space.id());
        for (parent, va) in mine {
            let Some(folio) = self.machine.folio_at(space.id(), va) else { continue };
            let entry = leaf(self.machine, &parent, va);
            if self.neglects("fork-copies-pinned") && frames.counts_of(folio).pins() != 0 {
                // Shared as if no device wrote there.
                let raw = entry.fetch_and(!WRITABLE, Ordering::SeqCst) & !WRITABLE;
                leaf(self.machine, &child, va).store(raw, Ordering::SeqCst);
                frames.get(folio, 1).expect("a page in use");
            }
            if self.neglects("fork-copies-pinned/parent") && frames.counts_of(folio).pins() != 0 {
                // A copy was made, and the parent got it.
                let copy = leaf(self.machine, &child, va);
                let raw = copy.swap(entry.load(Ordering::SeqCst), Ordering::SeqCst);
                entry.store(raw, Ordering::SeqCst);
            }
            if self.neglects("exclusive-mark/writable") {
                entry.fetch_or(WRITABLE, Ordering::SeqCst);
            }
            if self.neglects("exclusive-mark") {
                frames.set_flags(folio, FolioFlags::EXCLUSIVE, true);
            }
            if self.neglects("every-reference") && frames.counts_of(folio).references() > 1 {
                let _ = frames.put(folio, 1).expect("the child's reference");
            }
        }
        Some(self.handle(child))
    }

    fn load(&self, space: &Space, va: VirtAddr) -> Option<u8> {
        let mut byte = [0];
        self.machine.read(space.id(), va.raw(), &mut byte).expect("mapped memory");
        Some(byte[0])
    }

    fn store(&self, space: &Space, va: VirtAddr, byte: u8) -> Option<()> {
        self.machine.write(space.id(), va.raw(), &[byte]).expect("mapped memory");
        Some(())
    }

    fn device_load(&self, at: PhysAddr) -> Option<u8> {
        let mut byte = [0];
        self.machine.ram().read(at, &mut byte)?;
        Some(byte[0])
    }

    fn device_store(&self, at: PhysAddr, byte: u8) -> Option<()> {
        self.machine.ram().write(at, &[byte])
    }

    fn misplace(&self, space: &Space, va: VirtAddr) -> Option<()> {
        // It fails only where an earlier neglect has left a page that is mapped and free.
        self.machine.move_page(space.id(), va.raw(), Want::Movable).ok()?;
        if self.neglects("folio-flags") {
            let folio = self.machine.folio_at(space.id(), va.raw()).expect("it is mapped");
            remake(self.machine, folio, FolioKind::Anonymous, FolioFlags::EXCLUSIVE);
        }
        Some(())
    }

    fn cache_reference(&self, space: &Space, va: VirtAddr) -> Option<()> {
        self.cached.set(self.machine.get_page(space.id(), va.raw()));
        Some(())
    }

    fn lock_held(&self) -> Option<bool> {
        Some(self.held.get())
    }

    fn masked(&self) -> Option<bool> {
        Some(self.masked.get())
    }

    fn shrink(&self) -> Option<()> {
        if self.neglects("clear-then-look") {
            for (space, va) in self.pages() {
                if self.machine.folio_at(space.id(), va).is_some() {
                    // It looked for pins a while ago. The contents are on their way to swap.
                    leaf(self.machine, &space, va).store(0, Ordering::SeqCst);
                }
            }
        }
        for (space, va) in self.pages() {
            let _ = self.machine.swap_out(space.id(), va); // what is pinned stays
        }
        let _ = self.machine.shrink();
        Some(())
    }

    fn charged(&self, account: AccountId) -> Option<u64> {
        Some(self.machine.charged(account))
    }

    fn free_pages(&self) -> Option<u64> {
        Some(self.machine.free_frames().raw())
    }
}
