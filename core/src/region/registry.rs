//! The registry: registering, removing, finding.

use pinfold_arch::addr::index;
use pinfold_arch::{AddrRange, PageCount, PageShift, PhysAddr};

use super::claim::{Backing, Claim, Claims, close, reopen};
use super::memory::{Memory, WriterWord};
use super::steps::Steps;
use super::{DeviceMemory, Pinner, Region, RegionError, Registered, Unregistered};
use crate::host::{Wait, locked};
use crate::pin::{Dirtied, UnpinError};
use crate::realmode::layout::{Field, Life, NODE_WORDS, Record, Shape, Window};
use crate::realmode::{Areas, RealMode, RegionId};
use crate::request::{PinFlags, PinRequest};
use crate::sync::{Ordering, Word, fence};
use crate::table::PinTable;
use crate::table::layout::SMALLEST_PAGE;

/// The registered regions of one address space.
///
/// ```
/// # use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
/// # use pinfold::table::Run;
/// # struct Fixed;
/// # impl PinSource for Fixed {
/// #     fn base(&self) -> PageShift { PageShift::SIZE_4K }
/// #     fn pin(&self, _: SpaceId, part: AddrRange, _: &PinRequest, runs: &mut RunSink<'_>)
/// #         -> Result<(), SourceError> {
/// #         runs.push(Pfn::new(part.start().raw() >> 12), part.pages())
/// #     }
/// #     fn unpin(&self, _: Run) {}
/// # }
/// use pinfold::host::{PlainHost, SpaceId, SpinWait};
/// use pinfold::region::{InSpace, Unregistered};
/// use pinfold::sync::Word;
/// use pinfold::*;
///
/// // All memory that may be read with translation off; here one piece of it.
/// let memory: Vec<Word> = (0..4096).map(|_| Word::new(0)).collect();
/// let (own, tables) = memory.split_at(3072);
/// let base = PageShift::SIZE_4K;
/// let window = AddrRange::new(VirtAddr::new(0), PageCount::new(1 << 20), base)?;
/// let registry = Registry::new(Areas::new(&[&memory]).unwrap(), own, &window, 16)?;
///
/// let pins = HostPins::new(PlainHost, Fixed);
/// let pinner = InSpace { pins: &pins, space: SpaceId(1) };
/// let range = AddrRange::new(VirtAddr::new(0x70_0000), PageCount::new(16), base)?;
/// let request = PinRequest::longterm(range, Access::READ | Access::WRITE);
/// let region = registry.register(&pinner, &request, tables)?.region;
///
/// // From where nothing else can be asked:
/// let realmode = registry.realmode();
/// let found = realmode.lookup(VirtAddr::new(0x70_1234), 8)?;
/// realmode.map_get(found)?;
/// assert_eq!(realmode.translate(found, VirtAddr::new(0x70_1234), base)?.raw(), 0x70_1234);
/// assert!(registry.unregister(&pinner, region, Dirtied::No).is_err()); // mapped
/// realmode.map_put(found)?;
///
/// assert!(matches!(registry.unregister(&pinner, region, Dirtied::No)?, Unregistered::Gone(_)));
/// let grace = registry.retired(&SpinWait);
/// // ... wait until every reader that started before has ended ...
/// registry.reclaim(&SpinWait, grace, |table| assert_eq!(table.len(), tables.len()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Registry<'m> {
    claims: Claims<'m>,
}

/// What was retired so far; see [`Registry::retired`].
#[derive(Debug)]
#[must_use]
pub struct Grace(u64);

impl Grace {
    /// The one with this value, which [`raw`](Self::raw) gave.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The plain value: hand it on, do not interpret it.
    #[must_use]
    pub const fn raw(&self) -> u64 {
        self.0
    }
}

impl<'m> Registry<'m> {
    /// An empty registry for the addresses in `window`, with room for `regions` regions. What the words
    /// held is forgotten. They and the tables of all regions lie in `areas`.
    ///
    /// # Errors
    /// [`RegionError::Unreachable`] if the words do not lie inside one area,
    /// [`RegionError::NoSpace`] if they do not hold the records and the root of the directory,
    /// [`RegionError::BaseMismatch`] if the pages are below 4 KiB.
    pub fn new(
        areas: Areas<'m>,
        words: &'m [Word],
        window: &AddrRange,
        regions: u32,
    ) -> Result<Self, RegionError> {
        if window.base().raw() < SMALLEST_PAGE {
            return Err(RegionError::BaseMismatch);
        }
        let form = Window::of(window, regions);
        let fixed = form.fixed_words().ok_or(RegionError::NoSpace { need: usize::MAX })?;
        if (words.len() as u64) < fixed {
            return Err(RegionError::NoSpace { need: index(fixed) });
        }
        areas.place(words).ok_or(RegionError::Unreachable)?;
        for word in words.iter().take(index(fixed)) {
            word.store(0, Ordering::Relaxed);
        }
        for record in form.parts(words).map_or(&[][..], |(records, _)| records) {
            Record(record).store(Field::STATE, Life::FIRST.0);
        }
        form.write(words);
        let view = RealMode::open(areas, words).map_err(|_| RegionError::Unreachable)?;
        let memory = Memory::new(fixed, words.len() as u64);
        Ok(Self { claims: Claims::new(view, memory) })
    }

    /// Words that a registry for this window takes with so many regions wherever they lie, if what is
    /// retired is reclaimed before it is missed. `None` if that overflows.
    ///
    /// Regions take fewer where their first and last blocks are their own: none at all, if no
    /// two touch the same block of 512 pages.
    #[must_use]
    pub fn words_for(window: &AddrRange, regions: u32) -> Option<usize> {
        let form = Window::of(window, regions);
        // Each end of a region can make one node of each size.
        let levels = u64::from(form.order / crate::realmode::layout::NODE_ORDER);
        let nodes = u64::from(regions).checked_mul(2 * levels)?.checked_mul(NODE_WORDS)?;
        usize::try_from(form.fixed_words()?.checked_add(nodes)?).ok()
    }

    /// The registry as it may be read where translation is off, and anywhere else.
    #[must_use]
    pub const fn realmode(&self) -> RealMode<'m> {
        self.claims.view
    }

    /// Gives the registry more words for its directory. They lie directly behind those that it has.
    ///
    /// # Context
    /// May sleep, in `pause`.
    ///
    /// # Errors
    /// [`RegionError::NotBehind`], [`RegionError::Unreachable`]; [`RegionError::TableInUse`] if a
    /// region has its table there; [`RegionError::Busy`] while another call does the same;
    /// [`RegionError::Interrupted`].
    pub fn grow(&self, wait: &impl Wait, more: &'m [Word]) -> Result<(), RegionError> {
        let first = self.claims.view.areas().place(more).ok_or(RegionError::Unreachable)?;
        let own = self.claims.place()?;
        let words = more.len() as u64;
        locked(wait, &self.claims.memory, |memory| {
            if !memory.promise(words) {
                return Err(RegionError::Busy);
            }
            let behind = first + words == own + memory.promised()
                && memory.promised() <= self.claims.view.words().len() as u64;
            if !behind {
                memory.settle(false);
                return Err(RegionError::NotBehind);
            }
            Ok(())
        })?;
        // Tables that come meanwhile find the words taken.
        let free = self.claims.no_table_in(wait, first, first + words, None);
        locked(wait, &self.claims.memory, |memory| memory.settle(free.is_ok()));
        free
    }

    /// Registers the range of `request`: pins it, and records it in a table in the words `table`,
    /// which are the registry's until they come back from [`reclaim`](Self::reclaim). If
    /// exactly this range is registered already, with no less access, and not by revocable pins unless
    /// these may be revocable too, it is only registered once more,
    /// and `table` stays the caller's; holder and account stay those of the first registration.
    ///
    /// The region carries IOMMU pages up to the largest size that divides its start and its length
    /// and is not larger than any page behind it: only pages that nobody can split count as more
    /// than a base page.
    ///
    /// # Context
    /// May sleep. Any number of calls may run at once. Takes the registry's lock for bounded steps, and
    /// holds none while it pins. Reads the record of every region: its table must overlap no other.
    ///
    /// # Errors
    /// [`RegionError`], and [`RegionError::kind`] groups them. Whether something overlaps is known before
    /// anything is pinned. Everything is as it was, but for nodes of the directory that may wait to
    /// be reclaimed, and `table` is the caller's.
    pub fn register<P: Pinner>(
        &self,
        pinner: &P,
        request: &PinRequest,
        table: &'m [Word],
    ) -> Result<Registered, RegionError> {
        if !request.flags.contains(PinFlags::LONGTERM) {
            return Err(RegionError::NotLongterm);
        }
        let range = &request.range;
        let wait = pinner.wait();
        let place = self.claims.view.areas().place(table);
        let PinRequest { access, revocable, .. } = *request;
        let backing = Backing::Pinned { table, place, access, revocable };
        let number = match self.claims.claim(wait, range, backing)? {
            Claim::Shared(registered) => return Ok(registered),
            Claim::New(number) => number,
        };
        let pinned = self.claims.fill_in(wait, range, number).and_then(|()| {
            self.claims.table_unused(wait, number)?;
            let pins = PinTable::new(table)?;
            Ok(pinner.pin(&pins, request)?)
        });
        let pinned = pinned.inspect_err(|_| self.claims.withdraw(wait, range, number))?;
        let base = range.base().raw();
        let backed = PageShift::new(base + pinned.indivisible.raw()).unwrap_or(range.base());
        let usable = backed.min(self.alignment(range, 0));
        let region = self.claims.publish(wait, range, number, usable, false);
        Ok(Registered { region, pinned: Some(pinned), used: 1 })
    }

    /// Registers device memory: `range` is mapped to the physical addresses from `at` on. It is not
    /// pinned and not charged; that it stays there is the caller's to see to. It carries IOMMU
    /// pages up to the largest size that divides its start, its length and `at`. If exactly this
    /// is registered already, it is only registered once more.
    ///
    /// # Context
    /// As [`register`](Self::register).
    ///
    /// # Errors
    /// As [`register`](Self::register), and [`RegionError::NoDeviceMemory`].
    pub fn register_device(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        at: PhysAddr,
    ) -> Result<Registered, RegionError> {
        let last = range.last().raw() - range.start().raw();
        if !at.is_aligned(range.base()) || at.checked_add(last).is_none() {
            return Err(RegionError::NoDeviceMemory { at });
        }
        let number = match self.claims.claim(wait, range, Backing::Device(at))? {
            Claim::Shared(registered) => return Ok(registered),
            Claim::New(number) => number,
        };
        self.claims
            .fill_in(wait, range, number)
            .inspect_err(|_| self.claims.withdraw(wait, range, number))?;
        let usable = self.alignment(range, at.raw());
        let region = self.claims.publish(wait, range, number, usable, true);
        Ok(Registered { region, pinned: None, used: 1 })
    }

    /// Ends one registration of the region; `pinner` is the one that registered it. With the last one
    /// the memory is unpinned, dirty where it was marked and, if `dirtied` says so, everywhere. Its
    /// table's words come back from
    /// [`reclaim`](Self::reclaim).
    ///
    /// # Context
    /// May sleep; cannot be stopped.
    ///
    /// # Errors
    /// [`RegionError::NotFound`]; [`RegionError::Mapped`] if it was the last registration and
    /// something is mapped: then it stays. [`RegionError::Unpin`].
    pub fn unregister<P: Pinner>(
        &self,
        pinner: &P,
        region: RegionId,
        dirtied: Dirtied,
    ) -> Result<Unregistered, RegionError> {
        let wait = pinner.wait();
        let record = self.claims.view.record(region.number()).ok_or(RegionError::NotFound)?;
        if let Some(left) = locked(wait, &self.claims.memory, |_| close(&record, region))? {
            return Ok(Unregistered::StillUsed(left));
        }
        let unpinned = match self.claims.table_of(&record) {
            None => Ok(None),
            Some(words) => pinner.unpin(&PinTable::at(words), dirtied).map(Some),
        };
        if let Err(UnpinError::Table(_)) = unpinned {
            // Somebody else is at the table, or has emptied it.
            locked(wait, &self.claims.memory, |_| reopen(&record));
        } else {
            let range = self.claims.range_of(&record).ok_or(RegionError::NotFound)?;
            self.claims.take_out(wait, &range, region.number());
            locked(wait, &self.claims.memory, |memory| {
                if let Some(next) = region.life().next() {
                    record.word(Field::STATE).store(next.0, Ordering::Release);
                    // Who reads what the record says from here on, sees that the region is gone.
                    fence(Ordering::Release);
                }
                memory.retire_record(&self.claims.view, region.number());
            });
        }
        Ok(Unregistered::Gone(unpinned?))
    }

    /// The region that covers exactly this range.
    ///
    /// # Context
    /// Any.
    #[must_use]
    pub fn find(&self, range: &AddrRange) -> Option<Region> {
        let id = self.claims.view.lookup(range.start(), 1).ok()?;
        self.region(id).filter(|region| region.range == *range)
    }

    /// What is known of a region; `None` if it is gone or going.
    ///
    /// # Context
    /// Any.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<Region> {
        let record = self.claims.view.record(id.number())?;
        let life = || Life(record.load(Field::STATE, Ordering::Acquire));
        let before = life();
        let range = self.claims.range_of(&record)?;
        let shape = Shape(record.load(Field::SHAPE, Ordering::Relaxed));
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        let used = WriterWord::read(&record).number;
        fence(Ordering::Acquire);
        let same = [before, life()].iter().all(|life| life.same(id.life()) && life.mapped() != 0);
        same.then(|| Region {
            id,
            range,
            used,
            mapped: before.mapped() - 1,
            access: shape.access(),
            usable: shape.usable(),
            device: shape.is_device().then(|| PhysAddr::new(place)),
        })
    }

    /// The device memory at a physical address, and how much of the page of size `shift` around it
    /// lies there, from the address on.
    ///
    /// # Context
    /// May sleep, in `pause`, whose answer does not matter here: every record that was ever in use is
    /// read.
    #[must_use]
    pub fn device_at(
        &self,
        wait: &impl Wait,
        at: PhysAddr,
        shift: PageShift,
    ) -> Option<DeviceMemory> {
        let highest = locked(wait, &self.claims.memory, |memory| memory.highest);
        let mut steps = Steps::new(wait, PageCount::ZERO);
        (0..highest).find_map(|number| {
            let _ = steps.did(1, PageCount::ZERO);
            let record = self.claims.view.record(number)?;
            let life = Life(record.load(Field::STATE, Ordering::Acquire));
            let region = self.region(RegionId::new(number, life))?;
            let inside = at.raw().checked_sub(region.device?.raw())?;
            let last = region.range.last().raw() - region.range.start().raw();
            let others = last.checked_sub(inside)?;
            let in_page = shift.mask() - at.offset(shift);
            Some(DeviceMemory { region: region.id, bytes: others.min(in_page).saturating_add(1) })
        })
    }

    /// Regions that are registered, being registered, or not yet reclaimed.
    ///
    /// # Context
    /// Any that may take a spin lock.
    #[must_use]
    pub fn len(&self, wait: &impl Wait) -> u64 {
        locked(wait, &self.claims.memory, |memory| memory.regions)
    }

    /// Whether nothing is registered, being registered, or not yet reclaimed.
    ///
    /// # Context
    /// Any that may take a spin lock.
    #[must_use]
    pub fn is_empty(&self, wait: &impl Wait) -> bool {
        self.len(wait) == 0
    }

    /// What was retired so far: tables, records and nodes that readers may still be looking at. When
    /// every reader that started before this call has ended, pass it to [`reclaim`](Self::reclaim).
    /// Readers that start later must see what was written before this call, as they do after a grace
    /// period; a count of one's own takes a sequentially consistent fence on both sides for that.
    /// How the embedder knows that is its own: a grace period of its kernel, a count of its own, or
    /// the knowledge that nobody reads.
    ///
    /// # Context
    /// Any that may take a spin lock.
    pub fn retired(&self, wait: &impl Wait) -> Grace {
        Grace(locked(wait, &self.claims.memory, Memory::tick))
    }

    /// Takes back what was retired before `grace`: nodes and records can be used again, and each table's
    /// words are given to `free`.
    ///
    /// Called too early, a reader that is still at it may be told [`TooHard`](crate::table::TooHard)
    /// about a region that is registered, or reads words that `free` has put to another use; it
    /// never gets a wrong address, as long as those who write to the words learn of them through
    /// this call: by a release and an acquire, if they are other threads.
    ///
    /// # Context
    /// May sleep, in `pause`, whose answer does not matter here. `free` is called without a lock.
    pub fn reclaim(&self, wait: &impl Wait, grace: Grace, mut free: impl FnMut(&'m [Word])) {
        let Grace(time) = grace;
        let mut steps = Steps::new(wait, PageCount::ZERO);
        while locked(wait, &self.claims.memory, |memory| {
            memory.reclaim_node(&self.claims.view, time)
        }) {
            let _ = steps.did(1, PageCount::ZERO);
        }
        loop {
            let table = locked(wait, &self.claims.memory, |memory| {
                let record = memory.reclaim_record(&self.claims.view, time)?;
                Some(self.claims.table_of(&record))
            });
            let Some(table) = table else { return };
            // Whoever reads a word that is written from here on, sees at its second look at the
            // record that the region is gone: also if this was called too early.
            fence(Ordering::Release);
            table.into_iter().for_each(&mut free);
            let _ = steps.did(1, PageCount::ZERO);
        }
    }

    /// The largest page size that divides the range's ends and this address.
    fn alignment(&self, range: &AddrRange, at: u64) -> PageShift {
        let pages = range.pages().raw() << range.base().raw();
        let zeros = (range.start().raw() | pages | at).trailing_zeros();
        u8::try_from(zeros).ok().and_then(PageShift::new).unwrap_or(range.base())
    }
}
