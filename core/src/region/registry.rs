//! The registry: registering, removing, finding.

use pinfold_arch::addr::index;
use pinfold_arch::{Access, AddrRange, PageCount, PageShift, PhysAddr, VirtAddr};

use super::directory::{Directory, Span, Taken};
use super::memory::{Memory, Phase, WriterWord};
use super::{DeviceMemory, Pinner, Region, RegionError, Registered, Unregistered};
use crate::host::{Flow, Progress, Step, Wait, locked};
use crate::pin::{Dirtied, UnpinError};
use crate::realmode::layout::{Field, Life, NODE_WORDS, Record, Shape, Window};
use crate::realmode::{Areas, RealMode, RegionId};
use crate::request::{PinFlags, PinRequest};
use crate::sync::{Lock, Ordering, Word, fence};
use crate::table::PinTable;
use crate::table::layout::{Geometry, SMALLEST_PAGE};

/// The registered regions of one address space.
///
/// ```
/// # use pinfold::host::{Host, NoAccount, NoTrace, SpaceId, SpinWait};
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
/// # struct Plain;
/// # impl Host for Plain {
/// #     type Wait = SpinWait; type Account = NoAccount; type Trace = NoTrace;
/// #     fn wait(&self) -> &SpinWait { &SpinWait }
/// #     fn account(&self) -> &NoAccount { &NoAccount }
/// #     fn trace(&self) -> &NoTrace { &NoTrace }
/// # }
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
/// let pins = HostPins::new(Plain, Fixed);
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
    view: RealMode<'m>,
    memory: Lock<Memory>,
}

const INDIVISIBLE: pinfold_arch::Order = pinfold_arch::Order::ZERO;

/// What was retired so far; see [`Registry::retired`].
#[derive(Debug)]
#[must_use]
pub struct Grace(u64);

/// What lies behind a new region.
#[derive(Clone, Copy)]
enum Backing<'m> {
    /// Memory that is pinned, with a table in these words.
    Pinned { table: &'m [Word], place: u64, access: Access },
    /// Device memory from this address on.
    Device(PhysAddr),
}

/// What a claim of a range came to.
enum Claim {
    /// It is registered already, exactly so, and now once more.
    Shared(Registered),
    /// It is claimed by the record of this number.
    New(u64),
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
        for number in 0..form.records {
            if let Some(record) = Record::of(words, &form, number) {
                record.store(Field::STATE, 1 << 32);
            }
        }
        form.write(words);
        let view = RealMode::open(areas, words).map_err(|_| RegionError::Unreachable)?;
        let memory = Lock::new(Memory::new(fixed, words.len() as u64));
        Ok(Self { view, memory })
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
        self.view
    }

    /// Gives the registry more words for its directory. They lie directly behind those that it has.
    ///
    /// # Context
    /// Any that may take a spin lock.
    ///
    /// # Errors
    /// [`RegionError::NotBehind`], [`RegionError::Unreachable`].
    pub fn grow(&self, wait: &impl Wait, more: &'m [Word]) -> Result<(), RegionError> {
        let own = self.view.words();
        let place = self.view.areas().place(more).ok_or(RegionError::Unreachable)?;
        let first = self.view.areas().place(own).ok_or(RegionError::Unreachable)?;
        locked(wait, &self.memory, |memory| {
            if place != first + memory.len() || memory.len() + more.len() as u64 > own.len() as u64
            {
                return Err(RegionError::NotBehind);
            }
            memory.grow(more.len() as u64);
            Ok(())
        })
    }

    /// Registers the range of `request`: pins it, and records it in a table in the words `table`,
    /// which are the registry's until they come back from [`reclaim`](Self::reclaim). If
    /// exactly this range is registered already, with no less access, it is only registered once more,
    /// and `table` stays the caller's.
    ///
    /// The region carries IOMMU pages up to the largest size that divides its start and its length
    /// and is not larger than any page behind it: only pages that nobody can split count as more
    /// than a base page.
    ///
    /// # Context
    /// May sleep. Any number of calls may run at once. Takes the registry's lock for bounded steps, and
    /// holds none while it pins.
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
        let place = self.view.areas().place(table);
        let backing = |place| Backing::Pinned { table, place, access: request.access };
        let claim = match place {
            Some(place) => self.claim(wait, range, backing(place))?,
            // Perhaps none is needed.
            None => Claim::Shared(
                self.share(wait, range, Some(request.access))?.ok_or(RegionError::Unreachable)?,
            ),
        };
        let number = match claim {
            Claim::Shared(registered) => return Ok(registered),
            Claim::New(number) => number,
        };
        let pinned = self.fill_in(wait, range, number).and_then(|()| {
            self.table_unused(wait, number)?;
            let pins = PinTable::new(table)?;
            Ok(pinner.pin(&pins, request)?)
        });
        let pinned = pinned.inspect_err(|_| self.withdraw(wait, range, number))?;
        let base = range.base().raw();
        let backed = PageShift::new(base + INDIVISIBLE.raw()).unwrap_or(range.base());
        let usable = backed.min(self.alignment(range, 0));
        let region = self.publish(wait, range, number, usable, false);
        Ok(Registered { region, pinned: Some(pinned), used: 1 })
    }

    /// Registers device memory: `range` is mapped to the physical addresses from `at` on. It is not
    /// pinned and not charged; that it stays there is the caller's to see to. It carries IOMMU
    /// pages up to the largest size that divides its start, its length and `at`.
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
        let number = match self.claim(wait, range, Backing::Device(at))? {
            Claim::Shared(registered) => return Ok(registered),
            Claim::New(number) => number,
        };
        self.fill_in(wait, range, number).inspect_err(|_| self.withdraw(wait, range, number))?;
        let usable = self.alignment(range, at.raw());
        let region = self.publish(wait, range, number, usable, true);
        Ok(Registered { region, pinned: None, used: 1 })
    }

    /// Ends one registration of the region. With the last one the memory is unpinned, dirty where it was
    /// marked and, if `dirtied` says so, everywhere. Its table's words come back from
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
        let record = self.view.record(region.index()).ok_or(RegionError::NotFound)?;
        if let Some(left) = locked(wait, &self.memory, |_| close(&record, region))? {
            return Ok(Unregistered::StillUsed(left));
        }
        let unpinned = match self.table_of(&record) {
            None => Ok(None),
            Some(words) => pinner.unpin(&PinTable::at(words), dirtied).map(Some),
        };
        if let Err(UnpinError::Table(_)) = unpinned {
            // Somebody else is at the table, or has emptied it.
            locked(wait, &self.memory, |_| reopen(&record));
        } else {
            let range = self.range_of(&record).ok_or(RegionError::NotFound)?;
            self.take_out(wait, &range, region.index());
            locked(wait, &self.memory, |memory| {
                let life = region.generation().wrapping_add(1) << 32;
                record.word(Field::STATE).store(life, Ordering::Release);
                memory.retire_record(self.view.words(), self.view.window(), region.index());
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
        let id = self.view.lookup(range.start(), 1).ok()?;
        self.region(id).filter(|region| region.range == *range)
    }

    /// What is known of a region; `None` if it is gone or going.
    ///
    /// # Context
    /// Any.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<Region> {
        let record = self.view.record(id.index())?;
        let life = || Life(record.load(Field::STATE, Ordering::Acquire));
        let before = life();
        let range = self.range_of(&record)?;
        let shape = Shape(record.load(Field::SHAPE, Ordering::Relaxed));
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        let used = WriterWord::read(&record).number;
        fence(Ordering::Acquire);
        let same = [before, life()]
            .iter()
            .all(|life| life.generation() == id.generation() && life.mapped() != 0);
        same.then(|| Region {
            id,
            range,
            used,
            mapped: before.mapped() - 1,
            usable: shape.usable(),
            device: shape.is_device().then(|| PhysAddr::new(place)),
        })
    }

    /// The device memory at a physical address, and how much of the page of size `shift` around it
    /// lies there, from the address on.
    ///
    /// # Context
    /// Any. Reads every record that was ever in use.
    #[must_use]
    pub fn device_at(
        &self,
        wait: &impl Wait,
        at: PhysAddr,
        shift: PageShift,
    ) -> Option<DeviceMemory> {
        let highest = locked(wait, &self.memory, |memory| memory.highest);
        (0..highest).find_map(|number| {
            let record = self.view.record(number)?;
            let life = Life(record.load(Field::STATE, Ordering::Acquire));
            let region = self.region(id_of(number, life))?;
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
        locked(wait, &self.memory, |memory| memory.regions)
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
    /// How the embedder knows that is its own: a grace period of its kernel, a count of its own, or
    /// the knowledge that nobody reads.
    ///
    /// # Context
    /// Any that may take a spin lock.
    pub fn retired(&self, wait: &impl Wait) -> Grace {
        Grace(locked(wait, &self.memory, Memory::tick))
    }

    /// Takes back what was retired before `grace`: nodes and records can be used again, and each table's
    /// words are given to `free`.
    ///
    /// Called too early, a reader that is still at it may be told [`TooHard`](crate::table::TooHard)
    /// about a region that is registered, or reads words that `free` has put to another use; it
    /// never gets a wrong address.
    ///
    /// # Context
    /// May sleep, in `pause`, whose answer does not matter here. `free` is called without a lock.
    pub fn reclaim(&self, wait: &impl Wait, grace: Grace, mut free: impl FnMut(&'m [Word])) {
        let (words, window) = (self.view.words(), self.view.window());
        let Grace(time) = grace;
        let mut steps = Steps::new(wait, PageCount::ZERO);
        while locked(wait, &self.memory, |memory| memory.reclaim_node(words, time)) {
            let _ = steps.did(1, PageCount::ZERO);
        }
        loop {
            let table = locked(wait, &self.memory, |memory| {
                let number = memory.reclaim_record(words, window, time)?;
                let record = self.view.record(number)?;
                Some(self.table_of(&record))
            });
            let Some(table) = table else { return };
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

    /// The pages of a range that lies in the window.
    fn span(&self, range: &AddrRange) -> Result<Span, RegionError> {
        let window = self.view.window();
        if range.base() != window.base {
            return Err(RegionError::BaseMismatch);
        }
        let first = range.start().raw() >> window.base.raw();
        let span = Span { first, end: first + range.pages().raw() };
        if window.holds(span.first, span.end) { Ok(span) } else { Err(RegionError::OutsideWindow) }
    }

    fn directory(&self) -> Directory<'m> {
        Directory::new(self.view)
    }

    /// Claims the range for a new record, or registers once more what is registered exactly so.
    fn claim(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        backing: Backing<'m>,
    ) -> Result<Claim, RegionError> {
        let span = self.span(range)?;
        let (words, window) = (self.view.words(), self.view.window());
        let access = match backing {
            Backing::Pinned { access, .. } => Some(access),
            Backing::Device(_) => None,
        };
        locked(wait, &self.memory, |memory| {
            if let Some(registered) = self.share_locked(range, span, access)? {
                return Ok(Claim::Shared(registered));
            }
            let nodes = self.directory().nodes_for(span).map_err(|taken| self.conflict(taken))?;
            memory
                .room_for(words, nodes)
                .map_err(|need| RegionError::NoSpace { need: index(need) })?;
            let number = memory.take_record(words, window).ok_or(RegionError::Full)?;
            let record = self.view.record(number).ok_or(RegionError::Full)?;
            // Who reads a field that is written from here on, sees that the region it asked for is
            // gone.
            fence(Ordering::Release);
            record.store(Field::START, span.first);
            record.store(Field::PAGES, span.end - span.first);
            let (place, length) = match backing {
                Backing::Pinned { table, place, .. } => (place, table.len() as u64),
                Backing::Device(at) => (at.raw(), 0),
            };
            record.store(Field::PLACE, place);
            record.store(Field::LENGTH, length);
            let access = access.map_or(0, |access| access.bits());
            WriterWord { phase: Phase::Coming, access, number: 0 }.write(&record);
            for page in [span.first, span.end - 1] {
                let added = self.directory().add(memory, number, span, page);
                debug_assert!(added.is_ok(), "the way was free a moment ago");
            }
            Ok(Claim::New(number))
        })
    }

    /// Registers the range once more if it is registered exactly so. `access` is `None` for device
    /// memory.
    fn share(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        access: Option<Access>,
    ) -> Result<Option<Registered>, RegionError> {
        let span = self.span(range)?;
        locked(wait, &self.memory, |_| self.share_locked(range, span, access))
    }

    fn share_locked(
        &self,
        range: &AddrRange,
        span: Span,
        access: Option<Access>,
    ) -> Result<Option<Registered>, RegionError> {
        let Some(number) = self.directory().named_for(span.first) else { return Ok(None) };
        let Some(record) = self.view.record(number) else { return Ok(None) };
        if self.range_of(&record).as_ref() != Some(range) {
            return Ok(None);
        }
        let state = WriterWord::read(&record);
        if state.phase != Phase::Here {
            return Err(RegionError::Busy);
        }
        let needed = access.map_or(0, |access| access.bits());
        let is_device = Shape(record.load(Field::SHAPE, Ordering::Relaxed)).is_device();
        if is_device != access.is_none() || state.access & needed != needed {
            return Err(self.conflict(Taken(number)));
        }
        if state.number == u64::from(u32::MAX) {
            return Err(RegionError::Overflow);
        }
        let used = state.number + 1;
        WriterWord { number: used, ..state }.write(&record);
        let life = Life(record.load(Field::STATE, Ordering::Relaxed));
        Ok(Some(Registered { region: id_of(number, life), pinned: None, used }))
    }

    /// What to say of a region in the way.
    fn conflict(&self, Taken(number): Taken) -> RegionError {
        match self.view.record(number) {
            Some(record) if WriterWord::read(&record).phase == Phase::Here => {
                let life = Life(record.load(Field::STATE, Ordering::Relaxed));
                RegionError::Overlap { with: id_of(number, life) }
            }
            _ => RegionError::Busy,
        }
    }

    /// Adds a claimed range to all blocks between its ends.
    fn fill_in(&self, wait: &impl Wait, range: &AddrRange, number: u64) -> Result<(), RegionError> {
        let span = self.span(range)?;
        let mut steps = Steps::new(wait, range.pages());
        let mut page = span.first;
        while page < span.end {
            let most = steps.left;
            let (next, words) = locked(wait, &self.memory, |memory| {
                let mut words = 0;
                let mut next = page;
                while next < span.end && words < most {
                    let added = self.directory().add(memory, number, span, next);
                    let (end, more) = added.map_err(|taken| self.conflict(taken))?;
                    next = end;
                    words += more.max(1);
                }
                Ok::<_, RegionError>((next, words))
            })?;
            page = next;
            if steps.did(words, span.pages_to(page)) == Flow::Stop {
                return Err(RegionError::Interrupted);
            }
        }
        Ok(())
    }

    /// Whether no other region has its table where this one shall have its own.
    fn table_unused(&self, wait: &impl Wait, number: u64) -> Result<(), RegionError> {
        let place = |record: &Record<'_>| {
            let first = record.load(Field::PLACE, Ordering::Relaxed);
            (first, first.saturating_add(record.load(Field::LENGTH, Ordering::Relaxed)))
        };
        let own = self.view.record(number).ok_or(RegionError::NotFound)?;
        let (first, end) = place(&own);
        let registry = self.view.areas().place(self.view.words()).unwrap_or(0);
        let mut steps = Steps::new(wait, PageCount::ZERO);
        let mut next = 0_u64;
        loop {
            let most = steps.left;
            let done = locked(wait, &self.memory, |memory| {
                if first < registry + memory.len() && registry < end {
                    return Err(RegionError::TableInUse);
                }
                let to = next.saturating_add(most).min(memory.highest);
                for other in (next..to).filter(|other| *other != number) {
                    let Some(record) = self.view.record(other) else { continue };
                    let (start, last) = place(&record);
                    let used = WriterWord::read(&record).phase != Phase::Free;
                    if used && first < last && start < end {
                        return Err(RegionError::TableInUse);
                    }
                }
                Ok(if to == memory.highest { None } else { Some(to) })
            })?;
            let Some(to) = done else { return Ok(()) };
            if steps.did(to - next, PageCount::ZERO) == Flow::Stop {
                return Err(RegionError::Interrupted);
            }
            next = to;
        }
    }

    /// Opens the region to readers, by one store.
    fn publish(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        number: u64,
        usable: PageShift,
        device: bool,
    ) -> RegionId {
        let Some(record) = self.view.record(number) else { return RegionId::from_raw(0) };
        let shape = Shape::new(Geometry::of(range).root_order(), usable, device);
        record.store(Field::SHAPE, shape.0);
        locked(wait, &self.memory, |_| {
            let state = WriterWord::read(&record);
            WriterWord { phase: Phase::Here, number: 1, ..state }.write(&record);
            let life = Life(record.load(Field::STATE, Ordering::Relaxed)).with_mapped(1);
            record.word(Field::STATE).store(life.0, Ordering::Release);
            id_of(number, life)
        })
    }

    /// Undoes a claim.
    fn withdraw(&self, wait: &impl Wait, range: &AddrRange, number: u64) {
        self.take_out(wait, range, number);
        let (words, window) = (self.view.words(), self.view.window());
        locked(wait, &self.memory, |memory| memory.free_record(words, window, number));
    }

    /// Takes a region out of the directory. Cannot be stopped.
    fn take_out(&self, wait: &impl Wait, range: &AddrRange, number: u64) {
        let Ok(span) = self.span(range) else { return };
        let mut steps = Steps::new(wait, range.pages());
        let mut page = span.first;
        while page < span.end {
            let most = steps.left;
            let (next, words) = locked(wait, &self.memory, |memory| {
                let mut words = 0;
                let mut next = page;
                while next < span.end && words < most {
                    let (end, more) = self.directory().remove(memory, number, span, next);
                    next = end;
                    words += more.max(1);
                }
                (next, words)
            });
            page = next;
            let _ = steps.did(words, span.pages_to(page));
        }
    }

    /// The addresses of a record's region.
    fn range_of(&self, record: &Record<'_>) -> Option<AddrRange> {
        let base = self.view.window().base;
        let first = record.load(Field::START, Ordering::Relaxed);
        let start = VirtAddr::new(first.checked_shl(u32::from(base.raw()))?);
        let pages = PageCount::new(record.load(Field::PAGES, Ordering::Relaxed));
        AddrRange::new(start, pages, base).ok()
    }

    /// The words of a record's table; `None` for device memory.
    fn table_of(&self, record: &Record<'_>) -> Option<&'m [Word]> {
        let length = record.load(Field::LENGTH, Ordering::Relaxed);
        if length == 0 {
            return None;
        }
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        self.view.areas().from(place)?.get(..index(length))
    }
}

fn id_of(number: u64, life: Life) -> RegionId {
    #[expect(clippy::cast_possible_truncation, reason = "both have 32 bits")]
    RegionId::new(number as u32, life.generation() as u32)
}

/// Ends one registration: how many are left, or `None` if it was the last and the region is closed
/// to readers.
fn close(record: &Record<'_>, region: RegionId) -> Result<Option<u64>, RegionError> {
    let state = WriterWord::read(record);
    let life = Life(record.load(Field::STATE, Ordering::Relaxed));
    if life.generation() != region.generation() || state.phase != Phase::Here {
        return Err(RegionError::NotFound);
    }
    if state.number > 1 {
        WriterWord { number: state.number - 1, ..state }.write(record);
        return Ok(Some(state.number - 1));
    }
    // From one to zero, and from nothing else: whoever maps it meanwhile keeps it, and from here on
    // nobody does. What mappers marked before they let go is seen from here on.
    let (idle, closed) = (life.with_mapped(1), life.with_mapped(0));
    let word = record.word(Field::STATE);
    match word.compare_exchange(idle.0, closed.0, Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => {
            WriterWord { phase: Phase::Going, ..state }.write(record);
            Ok(None)
        }
        Err(now) => Err(RegionError::Mapped { mapped: Life(now).mapped().saturating_sub(1) }),
    }
}

/// Undoes the close of a region that could not be unpinned.
fn reopen(record: &Record<'_>) {
    WriterWord { phase: Phase::Here, ..WriterWord::read(record) }.write(record);
    let life = Life(record.load(Field::STATE, Ordering::Relaxed)).with_mapped(1);
    record.word(Field::STATE).store(life.0, Ordering::Release);
}

/// Counts work, and pauses when a step is full.
struct Steps<'a, W> {
    wait: &'a W,
    left: u64,
    total: PageCount,
}

impl<'a, W: Wait> Steps<'a, W> {
    fn new(wait: &'a W, total: PageCount) -> Self {
        Self { wait, left: Step::of(wait).entries(), total }
    }

    /// So much was done.
    fn did(&mut self, words: u64, done: PageCount) -> Flow {
        self.left = self.left.saturating_sub(words);
        if self.left != 0 {
            return Flow::Continue;
        }
        self.left = Step::of(self.wait).entries();
        self.wait.pause(Progress { done, total: self.total })
    }
}
