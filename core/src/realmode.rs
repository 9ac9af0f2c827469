//! Reads where nothing is within reach: no fault, no lock, no allocation, no call of the host.
//!
//! POWER's real mode (translation off) is the strictest such place; an exit handler with interrupts
//! off and a handler of non-maskable interrupts are others. What runs there gets from a virtual
//! address to the host physical address of registered memory, counts what it maps, and marks what
//! a device wrote to:
//!
//! | | reads | writes |
//! |---|---|---|
//! | [`lookup`](RealMode::lookup) | directory, record | |
//! | [`translate`](RealMode::translate) | record, pin table | |
//! | [`access`](RealMode::access) | record | |
//! | [`map_get`](RealMode::map_get), [`map_put`](RealMode::map_put) | record | its count |
//! | [`mark_dirty`](RealMode::mark_dirty) | record, pin table | one entry |
//!
//! # The contract
//! Each of these functions
//! - touches only memory inside the [`Areas`] that were declared reachable, and the view itself: it
//!   lies where the embedder puts it, which must be reachable too;
//! - writes by one aligned compare-and-swap of one word only, tried a bounded number of times;
//! - takes no lock, calls nothing outside this module's section `.text.realmode`, cannot panic, uses
//!   no floating-point or vector register;
//! - does a bounded number of steps;
//! - answers correctly, or [`TooHard`] before it changed anything.
//!
//! `cargo xtask audit` proves on the object code what can be seen there.
//!
//! # What an answer means
//! - A region that [`lookup`](RealMode::lookup) returned was registered, and covered what was asked
//!   for, at some instant within the call. It may be gone at the next. Its name never comes to
//!   mean another region: later calls with it answer [`TooHard`].
//! - An address that [`translate`](RealMode::translate) returned was right at some instant within the
//!   call. It may be *used* only while a reference is held that [`map_get`](RealMode::map_get) took
//!   *before* the translation: then it stays right until [`map_put`](RealMode::map_put).
//! - [`TooHard`] means no more than: ask again by a way that may sleep. It does not mean that
//!   there is no such region. A registered region is always found: registrations and removals of
//!   others never make a look-up fail.
//! - Nothing is said about what the memory holds, or about whether a device still has an old
//!   translation: flushing is the business of whoever changes the device's tables.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![deny(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use core::mem::size_of;

use pinfold_arch::addr::index;
use pinfold_arch::{Access, PageShift, PhysAddr, VirtAddr};

use crate::sync::{Ordering, Word, fence, tries};
use crate::table::{Form, PinTable, TooHard};

pub mod layout;

use layout::{Entry, Field, Life, NODE_ENTRIES, NODE_ORDER, RECORD_WORDS, Record, Shape, Window};

/// How many areas may be declared.
pub const AREAS: usize = 4;

/// Memory that was declared reachable where translation is off, as words.
///
/// Everything that a real-mode function reads lies inside: the registry and the pin tables of its
/// regions. A place in it is a number of words, counted through the areas in their order; so
/// what is stored there holds no pointer, and means the same to whoever sees the areas at other
/// addresses.
#[derive(Clone, Copy, Debug)]
pub struct Areas<'m> {
    areas: [&'m [Word]; AREAS],
}

impl<'m> Areas<'m> {
    /// These areas. `None` if there are more than [`AREAS`], or two overlap.
    ///
    /// ```
    /// use pinfold::realmode::Areas;
    /// use pinfold::sync::Word;
    ///
    /// let words = [const { Word::new(0) }; 64];
    /// assert!(Areas::new(&[&words]).is_some());
    /// assert!(Areas::new(&[&words, &words[60..]]).is_none());
    /// ```
    #[must_use]
    pub fn new(areas: &[&'m [Word]]) -> Option<Self> {
        let mut all: [&'m [Word]; AREAS] = [&[]; AREAS];
        for (at, area) in areas.iter().enumerate() {
            let (first, end) = bounds(area);
            let before = all.iter().take(at).map(|before| bounds(before));
            if before.into_iter().any(|(start, last)| start < end && first < last) {
                return None;
            }
            *all.get_mut(at)? = area;
        }
        Some(Self { areas: all })
    }

    /// The place of these words, or `None` if they do not lie inside one area.
    #[must_use]
    pub fn place(&self, words: &[Word]) -> Option<u64> {
        let (first, end) = bounds(words);
        let mut place = 0_usize;
        for area in &self.areas {
            let (start, last) = bounds(area);
            if start <= first && end <= last && first < end {
                let inside = first.checked_sub(start)?.checked_div(size_of::<Word>())?;
                return u64::try_from(place.checked_add(inside)?).ok();
            }
            place = place.checked_add(area.len())?;
        }
        None
    }

    /// The words from a place to the end of its area.
    #[inline(always)]
    pub(crate) fn from(&self, place: u64) -> Option<&'m [Word]> {
        let mut left = index(place);
        for area in &self.areas {
            if left < area.len() {
                return area.get(left..);
            }
            left = left.wrapping_sub(area.len());
        }
        None
    }
}

/// Addresses of the first byte and of the one behind the last.
fn bounds(words: &[Word]) -> (usize, usize) {
    let range = words.as_ptr_range();
    (range.start.addr(), range.end.addr())
}

/// Names a region of one registry. A name is never given to a second region of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct RegionId(u64);

impl RegionId {
    #[inline(always)]
    pub(crate) const fn new(number: u64, life: Life) -> Self {
        Self(life.with_mapped(0).0 | number)
    }

    /// The name with this value, which [`raw`](Self::raw) gave.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The plain value: compare it, do not interpret it. Never zero.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The number of its record.
    #[inline(always)]
    pub(crate) const fn number(self) -> u64 {
        self.0 & Life::MOST
    }

    /// The generation of its record, with any count.
    #[inline(always)]
    pub(crate) const fn life(self) -> Life {
        Life(self.0)
    }
}

/// A registry as it is seen where translation is off: plain words and their places. Cheap to copy;
/// made by [`Registry::realmode`](crate::region::Registry::realmode).
#[derive(Clone, Copy, Debug)]
pub struct RealMode<'m> {
    /// The directory's root.
    root: &'m [Word],
    /// The number of the block that the root's first entry stands for.
    first_block: u64,
    /// The size of the root's blocks in bytes, as a power of two.
    root_shift: u8,
    /// From the registry's first word to the end of its area.
    words: &'m [Word],
    records: &'m [[Word; RECORD_WORDS]],
    areas: Areas<'m>,
    window: Window,
}

impl<'m> RealMode<'m> {
    /// The registry that was made in these words, seen at the addresses of these areas. They are
    /// the same memory as when it was made, in the same order.
    ///
    /// # Errors
    /// [`TooHard`] if the words hold no registry of this version and byte order, or do not lie inside
    /// the areas.
    pub fn open(areas: Areas<'m>, words: &[Word]) -> Result<Self, TooHard> {
        let words = areas.place(words).and_then(|place| areas.from(place)).ok_or(TooHard)?;
        let window = Window::read(words).ok_or(TooHard)?;
        let (records, root) = window.parts(words).ok_or(TooHard)?;
        let (first_block, root_shift) = (window.first_block(), window.root_shift());
        Ok(Self { root, first_block, root_shift, words, records, areas, window })
    }

    pub(crate) const fn words(&self) -> &'m [Word] {
        self.words
    }

    pub(crate) const fn window(&self) -> &Window {
        &self.window
    }

    pub(crate) const fn areas(&self) -> &Areas<'m> {
        &self.areas
    }

    /// The record of this number.
    #[inline(always)]
    pub(crate) fn record(&self, number: u64) -> Option<Record<'m>> {
        self.records.get(index(number)).map(Record)
    }

    /// The entry of the root for an address.
    #[inline(always)]
    pub(crate) fn root_entry(&self, va: VirtAddr) -> Option<&'m Word> {
        let block = va.raw().wrapping_shr(u32::from(self.root_shift));
        self.root.get(index(block.wrapping_sub(self.first_block)))
    }

    /// The entry for an address in a node: the entries begin at `offset`, and stand for blocks of
    /// `1 << shift` bytes.
    #[inline(always)]
    pub(crate) fn node_entry(&self, offset: u64, va: VirtAddr, shift: u8) -> Option<&'m Word> {
        let entry = va.raw().wrapping_shr(u32::from(shift)) & NODE_ENTRIES.wrapping_sub(1);
        self.words.get(index(offset.wrapping_add(entry)))
    }

    /// The record that the directory names for an address. It may be of a region elsewhere in the
    /// same block, or of none.
    #[inline(always)]
    fn named_for(&self, va: VirtAddr) -> Option<u64> {
        let mut shift = self.root_shift;
        let mut word = self.root_entry(va)?;
        // As often as there are levels, and never more than a shift of 64 bits can fall.
        loop {
            match Entry::decode(word.load(Ordering::Acquire)) {
                Entry::Empty => return None,
                Entry::Record(number) => return Some(number),
                Entry::Node(offset) => {
                    shift = shift.checked_sub(NODE_ORDER)?;
                    word = self.node_entry(offset, va, shift)?;
                }
            }
        }
    }

    /// The registered region that holds all of `bytes` bytes from `va` on.
    ///
    /// # Context
    /// Real mode. At most four entries of the directory and one record are read.
    ///
    /// # Errors
    /// [`TooHard`] if no region holds them, `bytes` is zero, their sum with `va` wraps, or the
    /// region is being registered or removed.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn lookup(&self, va: VirtAddr, bytes: u64) -> Result<RegionId, TooHard> {
        let number = self.named_for(va).ok_or(TooHard)?;
        let record = self.record(number).ok_or(TooHard)?;
        let life = Life(record.load(Field::STATE, Ordering::Acquire));
        let (_, left) = record.offset_of(va)?;
        let others = bytes.checked_sub(1).ok_or(TooHard)?;
        if life.mapped() == 0 || others > left {
            return Err(TooHard);
        }
        record.still(life)?;
        Ok(RegionId::new(number, life))
    }

    /// The host physical address of the byte at `va`, an address in the region, for an IOMMU page
    /// of size `shift`: the whole page of that size around it lies inside the region, and in
    /// frames that are consecutive, as far aligned, and released together. What a device may do there
    /// says [`access`](Self::access).
    ///
    /// # Context
    /// Real mode. One record and at most three entries of the pin table are read.
    ///
    /// # Errors
    /// [`TooHard`] if the region is gone or going, `va` is not in it, or it does not carry IOMMU
    /// pages of this size.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn translate(
        &self,
        region: RegionId,
        va: VirtAddr,
        shift: PageShift,
    ) -> Result<PhysAddr, TooHard> {
        let record = self.held(region, 1)?;
        let (offset, _) = record.offset_of(va)?;
        let shape = Shape(record.load(Field::SHAPE, Ordering::Relaxed));
        if shift > shape.usable() {
            return Err(TooHard);
        }
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        let found = if shape.is_device() {
            PhysAddr::new(place).checked_add(offset).ok_or(TooHard)?
        } else {
            self.table(place)?.address_in(self.form(&record, shape), va)?
        };
        record.still(region.life())?;
        Ok(found)
    }

    /// What devices may do in the region: memory that was pinned for reading must not be mapped
    /// writable. Device memory may be read and written.
    ///
    /// # Context
    /// Real mode. One record is read.
    ///
    /// # Errors
    /// [`TooHard`] if the region is gone or going.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn access(&self, region: RegionId) -> Result<Access, TooHard> {
        let record = self.held(region, 1)?;
        let shape = Shape(record.load(Field::SHAPE, Ordering::Relaxed));
        record.still(region.life())?;
        Ok(shape.access())
    }

    /// Takes a mapped reference on the region: until [`map_put`](Self::map_put) it cannot be
    /// unregistered, and what [`translate`](Self::translate) says of it from now on stays right.
    ///
    /// # Context
    /// Real mode.
    ///
    /// # Errors
    /// [`TooHard`] if the region is gone or going, its count is at its limit, or others changed the
    /// count at every try. Nothing has changed.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn map_get(&self, region: RegionId) -> Result<(), TooHard> {
        self.count(region, |mapped| match mapped {
            0 | Life::MOST => None,
            _ => Some(mapped.wrapping_add(1)),
        })
    }

    /// Gives a mapped reference back. Whatever the device could reach through it must have been cut
    /// off and flushed before.
    ///
    /// # Context
    /// Real mode.
    ///
    /// # Errors
    /// [`TooHard`] if nobody holds a mapped reference on the region, or others changed the count at
    /// every try. Nothing has changed.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn map_put(&self, region: RegionId) -> Result<(), TooHard> {
        self.count(region, |mapped| match mapped {
            0 | 1 => None,
            _ => Some(mapped.wrapping_sub(1)),
        })
    }

    /// Records that the device wrote to the page at `va`: it reaches the folio before the unpin. The
    /// caller holds a mapped reference on the region: that somebody does is checked, not who; without one of
    /// its own it may mark what is in the same words later. For device memory there is nothing to record.
    ///
    /// # Context
    /// Real mode.
    ///
    /// # Errors
    /// [`TooHard`] if nobody holds a mapped reference on the region, `va` is not in it, or others
    /// changed the same entry at every try. Nothing has changed.
    #[inline(never)]
    #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".text.realmode"))]
    pub fn mark_dirty(&self, region: RegionId, va: VirtAddr) -> Result<(), TooHard> {
        let record = self.held(region, 2)?;
        record.offset_of(va)?;
        let shape = Shape(record.load(Field::SHAPE, Ordering::Relaxed));
        if shape.is_device() {
            return Ok(());
        }
        let place = record.load(Field::PLACE, Ordering::Relaxed);
        self.table(place)?.mark_dirty_in(self.form(&record, shape), va)
    }

    /// The record of a region with at least `mapped` in its count.
    #[inline(always)]
    fn held(&self, region: RegionId, mapped: u64) -> Result<Record<'m>, TooHard> {
        let record = self.record(region.number()).ok_or(TooHard)?;
        let life = Life(record.load(Field::STATE, Ordering::Acquire));
        let held = life.same(region.life()) && life.mapped() >= mapped;
        if held { Ok(record) } else { Err(TooHard) }
    }

    /// What it takes to find an entry of a region's table.
    #[inline(always)]
    fn form(&self, record: &Record<'_>, shape: Shape) -> Form {
        let base = self.window.base;
        let start =
            record.load(Field::START, Ordering::Relaxed).wrapping_shr(u32::from(base.raw()));
        Form { start, base, root_order: shape.root_order() }
    }

    /// The pin table at a place.
    #[inline(always)]
    fn table(&self, place: u64) -> Result<PinTable<'m>, TooHard> {
        Ok(PinTable::at(self.areas.from(place).ok_or(TooHard)?))
    }

    /// Changes the mapped count of a region to what `next` makes of it, unless that is `None`.
    #[inline(always)]
    fn count(&self, region: RegionId, next: impl Fn(u64) -> Option<u64>) -> Result<(), TooHard> {
        let record = self.record(region.number()).ok_or(TooHard)?;
        let state = record.word(Field::STATE);
        let mut life = Life(state.load(Ordering::Relaxed));
        for _ in tries() {
            if !life.same(region.life()) {
                return Err(TooHard);
            }
            let mapped = next(life.mapped()).ok_or(TooHard)?;
            let new = life.with_mapped(mapped);
            // Acquire: what is read of the region afterwards is what was published. Release: marks
            // that were made under the reference are seen by whoever takes the last one.
            match state.compare_exchange_weak(life.0, new.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => life = Life(now),
            }
        }
        Err(TooHard)
    }
}

impl Record<'_> {
    /// The offset of an address in the region, and how many bytes follow it there.
    #[inline(always)]
    fn offset_of(&self, va: VirtAddr) -> Result<(u64, u64), TooHard> {
        let start = self.load(Field::START, Ordering::Relaxed);
        let last = self.load(Field::LAST, Ordering::Relaxed);
        // An address in front of the region becomes an offset behind it.
        let offset = va.raw().wrapping_sub(start);
        last.checked_sub(offset).map(|left| (offset, left)).ok_or(TooHard)
    }

    /// Whether what was read belongs to the region of this generation: its words are used for nothing
    /// else before the generation has changed. That the region was there was seen at the first look.
    #[inline(always)]
    fn still(&self, life: Life) -> Result<(), TooHard> {
        fence(Ordering::Acquire);
        let now = Life(self.load(Field::STATE, Ordering::Relaxed));
        if now.same(life) { Ok(()) } else { Err(TooHard) }
    }
}
