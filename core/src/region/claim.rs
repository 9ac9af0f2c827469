//! Claiming a range, and what is done with a claim.
//!
//! A claim is a record that the directory names and that is not open to readers yet. Under the lock
//! it is made at the range's two ends at once; the blocks between them are added in steps. So two
//! claims that overlap meet, and at least one of them goes back, before anything is pinned.

use pinfold_arch::addr::index;
use pinfold_arch::{Access, AddrRange, PageCount, PageShift, PhysAddr, VirtAddr};

use super::directory::{Directory, Span, Taken};
use super::memory::{Memory, Phase, WriterWord};
use super::steps::Steps;
use super::{RegionError, Registered};
use crate::host::{Flow, Wait, locked};
use crate::realmode::layout::{Field, Life, Record, Shape};
use crate::realmode::{RealMode, RegionId};
use crate::sync::{Lock, Ordering, Word, fence};
use crate::table::PinTable;
use crate::table::layout::Geometry;

/// What lies behind a new region.
#[derive(Clone, Copy)]
pub(super) enum Backing<'m> {
    /// Memory that is pinned, with a table in these words, at this place if they can be reached.
    Pinned { table: &'m [Word], place: Option<u64>, access: Access, revocable: bool },
    /// Device memory from this address on.
    Device(PhysAddr),
}

/// What a claim of a range came to.
pub(super) enum Claim {
    /// It is registered already, exactly so, and now once more.
    Shared(Registered),
    /// It is claimed by the record of this number.
    New(u64),
}

/// The records and the directory of a registry, for its writers: readers are in the view.
#[derive(Debug)]
pub(super) struct Claims<'m> {
    pub(super) view: RealMode<'m>,
    pub(super) memory: Lock<Memory>,
}

impl<'m> Claims<'m> {
    pub(super) const fn new(view: RealMode<'m>, memory: Memory) -> Self {
        Self { view, memory: Lock::new(memory) }
    }

    /// Claims the range for a new record, or registers once more what is registered exactly so.
    pub(super) fn claim(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        backing: Backing<'m>,
    ) -> Result<Claim, RegionError> {
        let span = self.span(range)?;
        locked(wait, &self.memory, |memory| {
            if let Some(registered) = self.share(range, span, backing)? {
                return Ok(Claim::Shared(registered));
            }
            let (place, length, access) = match backing {
                Backing::Pinned { table, place, access, .. } => {
                    (place.ok_or(RegionError::Unreachable)?, table.len() as u64, access.bits())
                }
                Backing::Device(at) => (at.raw(), 0, 0),
            };
            let nodes = self.directory().nodes_for(span).map_err(|taken| self.conflict(taken))?;
            memory
                .room_for(&self.view, nodes)
                .map_err(|need| RegionError::NoSpace { need: index(need) })?;
            let (number, record) = memory.take_record(&self.view).ok_or(RegionError::Full)?;
            // Who reads a field that is written from here on, sees that the region it asked for is
            // gone.
            fence(Ordering::Release);
            record.store(Field::START, range.start().raw());
            record.store(Field::LAST, range.last().raw() - range.start().raw());
            record.store(Field::PLACE, place);
            record.store(Field::LENGTH, length);
            WriterWord { phase: Phase::Coming, access, number: 0 }.write(&record);
            for page in [span.first, span.end - 1] {
                let added = self.directory().add(memory, number, span, page);
                debug_assert!(added.is_ok(), "the way was free a moment ago");
            }
            Ok(Claim::New(number))
        })
    }

    /// Registers the range once more if it is registered exactly so: with no less access and not
    /// revocable where this one is not, or as the same device memory.
    fn share(
        &self,
        range: &AddrRange,
        span: Span,
        backing: Backing<'_>,
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
        let is_device = Shape(record.load(Field::SHAPE, Ordering::Relaxed)).is_device();
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        let fits = match backing {
            Backing::Pinned { access, revocable, .. } => {
                let pins = self.table_of(&record).map(PinTable::at);
                access.bits() & !state.access == 0
                    && pins.is_some_and(|pins| revocable || !pins.revocable())
            }
            Backing::Device(at) => is_device && place == at.raw(),
        };
        if !fits {
            return Err(self.conflict(Taken(number)));
        }
        if state.number == u64::from(u32::MAX) {
            return Err(RegionError::Overflow);
        }
        let used = state.number + 1;
        WriterWord { number: used, ..state }.write(&record);
        let life = Life(record.load(Field::STATE, Ordering::Relaxed));
        Ok(Some(Registered { region: RegionId::new(number, life), pinned: None, used }))
    }

    /// What to say of a region in the way.
    fn conflict(&self, Taken(number): Taken) -> RegionError {
        match self.view.record(number) {
            Some(record) if WriterWord::read(&record).phase == Phase::Here => {
                let life = Life(record.load(Field::STATE, Ordering::Relaxed));
                RegionError::Overlap { with: RegionId::new(number, life) }
            }
            _ => RegionError::Busy,
        }
    }

    /// Adds a claimed range to all blocks between its ends.
    pub(super) fn fill_in(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        number: u64,
    ) -> Result<(), RegionError> {
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

    /// Whether nobody else has the words in which this region shall have its table.
    pub(super) fn table_unused(&self, wait: &impl Wait, number: u64) -> Result<(), RegionError> {
        let own = self.view.record(number).ok_or(RegionError::NotFound)?;
        let (first, end) = table_places(&own);
        let registry = self.place()?;
        let is_own = locked(wait, &self.memory, |memory| {
            first < registry + memory.promised() && registry < end
        });
        if is_own {
            return Err(RegionError::TableInUse);
        }
        self.no_table_in(wait, first, end, Some(number))
    }

    /// Whether no region, but for one, has its table in these places.
    pub(super) fn no_table_in(
        &self,
        wait: &impl Wait,
        first: u64,
        end: u64,
        but: Option<u64>,
    ) -> Result<(), RegionError> {
        let mut steps = Steps::new(wait, PageCount::ZERO);
        let mut next = 0_u64;
        loop {
            let most = steps.left;
            let (to, highest) = locked(wait, &self.memory, |memory| {
                let to = next.saturating_add(most).min(memory.highest);
                for number in (next..to).filter(|number| Some(*number) != but) {
                    let Some(record) = self.view.record(number) else { continue };
                    let (start, last) = table_places(&record);
                    let used = WriterWord::read(&record).phase != Phase::Free;
                    if used && first < last && start < end {
                        return Err(RegionError::TableInUse);
                    }
                }
                Ok((to, memory.highest))
            })?;
            if to == highest {
                return Ok(());
            }
            if steps.did(to - next, PageCount::ZERO) == Flow::Stop {
                return Err(RegionError::Interrupted);
            }
            next = to;
        }
    }

    /// Opens the region to readers, by one store.
    pub(super) fn publish(
        &self,
        wait: &impl Wait,
        range: &AddrRange,
        number: u64,
        usable: PageShift,
        device: bool,
    ) -> RegionId {
        let Some(record) = self.view.record(number) else { return RegionId::from_raw(0) };
        let access = WriterWord::read(&record).access;
        let access = if device { Access::all() } else { Access::from_bits_truncate(access) };
        let root_order = Geometry::of(range).form().root_order;
        record.store(Field::SHAPE, Shape::new(root_order, usable, device, access).0);
        locked(wait, &self.memory, |_| {
            let state = WriterWord::read(&record);
            WriterWord { phase: Phase::Here, number: 1, ..state }.write(&record);
            let life = Life(record.load(Field::STATE, Ordering::Relaxed)).with_mapped(1);
            record.word(Field::STATE).store(life.0, Ordering::Release);
            RegionId::new(number, life)
        })
    }

    /// Undoes a claim.
    pub(super) fn withdraw(&self, wait: &impl Wait, range: &AddrRange, number: u64) {
        if let Some(record) = self.view.record(number) {
            let state = WriterWord { phase: Phase::Going, access: 0, number: 0 };
            locked(wait, &self.memory, |_| state.write(&record));
        }
        self.take_out(wait, range, number);
        locked(wait, &self.memory, |memory| memory.free_record(&self.view, number));
    }

    /// Takes a region out of the directory. Cannot be stopped.
    pub(super) fn take_out(&self, wait: &impl Wait, range: &AddrRange, number: u64) {
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

    /// Where the registry's own words begin.
    pub(super) fn place(&self) -> Result<u64, RegionError> {
        self.view.areas().place(self.view.words()).ok_or(RegionError::Unreachable)
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

    /// The addresses of a record's region.
    pub(super) fn range_of(&self, record: &Record<'_>) -> Option<AddrRange> {
        let base = self.view.window().base;
        let start = VirtAddr::new(record.load(Field::START, Ordering::Relaxed));
        let last = record.load(Field::LAST, Ordering::Relaxed);
        let pages = PageCount::new((last >> base.raw()).checked_add(1)?);
        AddrRange::new(start, pages, base).ok()
    }

    /// The words of a record's table; `None` for device memory.
    pub(super) fn table_of(&self, record: &Record<'_>) -> Option<&'m [Word]> {
        let length = record.load(Field::LENGTH, Ordering::Relaxed);
        if length == 0 {
            return None;
        }
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        self.view.areas().from(place)?.get(..index(length))
    }
}

/// Where a record's table stands: from the first place up to, not including, the second. Device memory
/// has none.
fn table_places(record: &Record<'_>) -> (u64, u64) {
    let length = record.load(Field::LENGTH, Ordering::Relaxed);
    let first = if length == 0 { 0 } else { record.load(Field::PLACE, Ordering::Relaxed) };
    (first, first.saturating_add(length))
}

/// Ends one registration: how many are left, or `None` if it was the last and the region is closed
/// to readers.
pub(super) fn close(record: &Record<'_>, region: RegionId) -> Result<Option<u64>, RegionError> {
    let state = WriterWord::read(record);
    let life = Life(record.load(Field::STATE, Ordering::Relaxed));
    if !life.same(region.life()) || state.phase != Phase::Here {
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
pub(super) fn reopen(record: &Record<'_>) {
    WriterWord { phase: Phase::Here, ..WriterWord::read(record) }.write(record);
    let life = Life(record.load(Field::STATE, Ordering::Relaxed)).with_mapped(1);
    record.word(Field::STATE).store(life.0, Ordering::Release);
}
