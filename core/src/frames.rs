//! The frame table: what is known of every frame, in two words a frame.
//!
//! 16 bytes a frame of the caller's memory, where Linux spends 64. The *state* word says which
//! folio the frame belongs to and what the folio is; every frame of a folio carries a copy, so
//! that any frame leads to its head by alignment alone. The *count* word, used on heads only,
//! holds references, pins and the migration claim, so that a whole run is counted in one atomic
//! operation.
//!
//! | state word, bits | |
//! |---|---|
//! | 0..6 | order of the folio |
//! | 6..8 | zero |
//! | 8..12 | kind, see [`FolioKind`]; 0 = no memory here |
//! | 16..22 | [`FolioFlags`] |
//!
//! | count word, bits | |
//! |---|---|
//! | 0..31 | references; a pin is also a reference |
//! | 31 | frozen: somebody owns the folio alone and may change what it is |
//! | 32..63 | pins, in pages |
//! | 63 | claimed: somebody is moving it |
//!
//! Order, kind and the CMA, movable and zero flags change only while frozen. Whoever takes a count
//! reads the state, takes the count, and reads the state again: if it is the same, the count
//! landed on the folio that was looked up.

use pinfold_arch::addr::index;
use pinfold_arch::{Order, PageCount, PageShift, Pfn};

use crate::folio::{Folio, FolioFlags, FolioInfo, FolioKind};
use crate::sync::{Ordering, Word, fence, ordered};

pub mod counts;
pub mod owned;

pub use counts::{CountError, Counts};
pub use owned::{Claim, FreezeError, Frozen, Lost};

/// Words a frame.
const WORDS: usize = 2;

/// What is known of frames, from a first one on: see the [module](self).
///
/// ```
/// use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
/// use pinfold::sync::Word;
/// use pinfold::{FrameTable, Order, PageCount, PageShift, Pfn};
///
/// let words = [const { Word::new(0) }; 2 * 16];
/// let frames = FrameTable::new(&words, Pfn::new(0x100), PageShift::SIZE_4K)?;
/// let info = FolioInfo {
///     order: Order::new(3).unwrap(),
///     kind: FolioKind::Anonymous,
///     flags: FolioFlags::EXCLUSIVE,
/// };
/// frames.add_memory(Pfn::new(0x108), info)?.unfreeze(1); // mapped once
/// let folio = frames.folio(Pfn::new(0x10d)).unwrap();
/// assert_eq!(folio.head(), Pfn::new(0x108));
/// assert!(frames.pin(folio, PageCount::new(3)).is_ok());
/// assert_eq!(frames.counts_of(folio).pins(), 3);
/// # Ok::<(), pinfold::frames::FrameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrameTable<'m> {
    /// State and count of each frame.
    words: &'m [[Word; WORDS]],
    first: Pfn,
    base: PageShift,
}

/// Why a frame table or a folio in it was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frames run past the last physical address.
    #[error("frames from {first} on do not fit a 64-bit physical address")]
    TooHigh {
        /// The first frame as given.
        first: Pfn,
    },
    /// A frame of the folio is not in the table.
    #[error("frame {pfn} is outside the table")]
    Outside {
        /// The frame.
        pfn: Pfn,
    },
    /// The folio does not start at a multiple of its size.
    #[error("a folio of this order cannot start at frame {pfn}")]
    Unaligned {
        /// The frame.
        pfn: Pfn,
    },
    /// Frames of it belong to a folio that is in use.
    #[error("frame {pfn} is part of a folio in use")]
    InUse {
        /// The frame.
        pfn: Pfn,
    },
}

impl<'m> FrameTable<'m> {
    /// Words that a table of `frames` frames takes; `None` if that overflows.
    #[must_use]
    pub const fn words_for(frames: PageCount) -> Option<usize> {
        index(frames.raw()).checked_mul(WORDS)
    }

    /// A table over `words` (zeroed: no memory anywhere) for frames of size `base` from `first`
    /// on, as many as fit.
    ///
    /// # Errors
    /// [`FrameError::TooHigh`].
    pub fn new(words: &'m [Word], first: Pfn, base: PageShift) -> Result<Self, FrameError> {
        let table = Self { words: words.as_chunks().0, first, base };
        let end = first.checked_add(table.frames()).and_then(|end| end.addr(base));
        end.map(|_| table).ok_or(FrameError::TooHigh { first })
    }

    /// The base page size.
    #[must_use]
    pub fn base(&self) -> PageShift {
        self.base
    }

    /// The first frame.
    #[must_use]
    pub fn first(&self) -> Pfn {
        self.first
    }

    /// How many frames there are.
    #[must_use]
    pub fn frames(&self) -> PageCount {
        PageCount::new(self.words.len() as u64)
    }

    #[inline]
    fn frame(&self, pfn: Pfn) -> Option<&'m [Word; WORDS]> {
        // A frame below the first one wraps to a number that no slice is long enough for.
        self.words.get(index(pfn.raw().wrapping_sub(self.first.raw())))
    }

    #[inline]
    fn state(&self, pfn: Pfn) -> Option<&'m Word> {
        self.frame(pfn).map(|[state, _]| state)
    }

    #[inline]
    fn counts(&self, pfn: Pfn) -> Option<&'m Word> {
        self.frame(pfn).map(|[_, counts]| counts)
    }

    /// Brings the frame's words close, for a count that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, pfn: Pfn) {
        if let Some(word) = self.state(pfn) {
            pinfold_arch::cpu::prefetch(word);
        }
    }

    /// Brings the words of a folio close that lies behind a larger one, some folios of that size
    /// further: they are often handled one after the other, and too far apart for the CPU to guess.
    #[inline]
    pub(crate) fn prefetch_behind(&self, folio: Folio) {
        const AHEAD: u64 = 8;
        let pages = folio.order().pages().raw();
        if pages > 1 {
            self.prefetch(Pfn::new(folio.head.raw().wrapping_add(pages.wrapping_mul(AHEAD))));
        }
    }

    /// The folio that holds `pfn`, or `None` where no memory is known.
    ///
    /// A snapshot: it may be split or freed at any time unless a count on it is held.
    #[inline]
    #[must_use]
    pub fn folio(&self, pfn: Pfn) -> Option<Folio> {
        let own = self.state(pfn)?.load(Ordering::Acquire);
        let head = pfn.align_down(FolioInfo::decode(own).order);
        let raw = if head == pfn { own } else { self.state(head)?.load(Ordering::Acquire) };
        // A tail that no longer agrees with its head: the folio is being split or put together.
        if FolioInfo::decode(raw).order != FolioInfo::decode(own).order {
            return None;
        }
        (raw != 0).then_some(Folio { head, raw })
    }

    /// Whether memory is known at `pfn`. A frame of it may still have no [`folio`](Self::folio) for
    /// a moment, while folios are taken apart or put together.
    #[must_use]
    pub fn has_memory(&self, pfn: Pfn) -> bool {
        self.state(pfn).is_some_and(|state| state.load(Ordering::Acquire) != 0)
    }

    /// Makes frames that are unknown one folio, frozen. The embedder calls it once for each block
    /// of memory there is, and never twice at once for the same frames.
    ///
    /// # Errors
    /// [`FrameError::Outside`], [`FrameError::Unaligned`], [`FrameError::InUse`] if any of
    /// the frames has been made a folio before; nothing has changed then.
    pub fn add_memory(&self, pfn: Pfn, info: FolioInfo) -> Result<Frozen<'m>, FrameError> {
        if pfn != pfn.align_down(info.order) {
            return Err(FrameError::Unaligned { pfn });
        }
        let pages = info.order.pages();
        for frame in frames_of(pfn, pages) {
            let word = self.state(frame).ok_or(FrameError::Outside { pfn: frame })?;
            if word.load(Ordering::Acquire) != 0 {
                return Err(FrameError::InUse { pfn: frame });
            }
        }
        let counts = self.counts(pfn).ok_or(FrameError::Outside { pfn })?;
        counts.store(Counts::FROZEN, Ordering::Release);
        self.write_state(pfn, info, pages);
        Ok(Frozen::new(*self, pfn, info.order))
    }

    /// Puts free folios together: all frames of the block at `pfn` become one folio, frozen. This is
    /// how an allocator hands out memory; [`Frozen::reshape`] takes it apart again.
    ///
    /// # Errors
    /// [`FrameError::Outside`], [`FrameError::Unaligned`], [`FrameError::InUse`] if a part is
    /// not free; nothing has changed then.
    pub fn assemble(&self, pfn: Pfn, info: FolioInfo) -> Result<Frozen<'m>, FrameError> {
        if pfn != pfn.align_down(info.order) {
            return Err(FrameError::Unaligned { pfn });
        }
        let pages = info.order.pages();
        let end = pfn.checked_add(pages).ok_or(FrameError::Outside { pfn })?;
        let mut taken = pfn;
        while taken < end {
            let part = self.folio(taken).filter(|folio| folio.info().kind == FolioKind::Free);
            let frozen = part
                .filter(|folio| folio.head == taken && folio.order() <= info.order)
                .and_then(|folio| self.freeze(folio, 0).ok());
            let Some(frozen) = frozen else {
                self.release_free(pfn, taken);
                let inside = self.frame(taken).is_some();
                return Err(match inside {
                    true => FrameError::InUse { pfn: taken },
                    false => FrameError::Outside { pfn: taken },
                });
            };
            taken = frozen.head().checked_add(frozen.order().pages()).unwrap_or(end);
        }
        self.write_state(pfn, info, info.order.pages());
        Ok(Frozen::new(*self, pfn, info.order))
    }

    /// Undoes the first part of [`assemble`](Self::assemble).
    fn release_free(&self, from: Pfn, to: Pfn) {
        let mut at = from;
        while at < to {
            self.unfreeze(at, 0);
            let order = self.folio(at).map_or(Order::ZERO, Folio::order);
            at = at.checked_add(order.pages()).unwrap_or(to);
        }
    }

    /// Writes the state of the `pages` frames of a frozen folio, as one folio or as several of a
    /// smaller order, all of them frozen. The first head is written last: whoever finds its
    /// new state finds the rest.
    pub(crate) fn write_state(&self, head: Pfn, info: FolioInfo, pages: PageCount) {
        let raw = info.encode();
        for frame in frames_of(head, pages).skip(1) {
            if let (Some(state), Some(counts)) = (self.state(frame), self.counts(frame)) {
                let is_head = frame == frame.align_down(info.order);
                counts.store(if is_head { Counts::FROZEN } else { 0 }, Ordering::Release);
                state.store(raw, Ordering::Release);
            }
        }
        if let Some(state) = self.state(head) {
            state.store(raw, Ordering::Release);
        }
    }

    /// Sets flags of a folio in use: only the isolated, exclusive and dirty ones, which change
    /// while others look. Other flags are ignored.
    ///
    /// For [`FolioFlags::ISOLATED`] this is the first half of "mark, then look for pins": whoever
    /// pins reads the mark again after its pin.
    pub fn set_flags(&self, folio: Folio, flags: FolioFlags, on: bool) {
        let live = FolioFlags::ISOLATED | FolioFlags::EXCLUSIVE | FolioFlags::DIRTY;
        let bits = flags.intersection(live).encode();
        if let Some(state) = self.state(folio.head) {
            if on {
                state.fetch_or(bits, Ordering::SeqCst);
            } else {
                state.fetch_and(!bits, Ordering::SeqCst);
            }
        }
    }

    /// References and pins of a folio; stale as soon as it is read.
    ///
    /// This is the second half of "mark or clear, then look for pins": whoever has marked the folio,
    /// cleared an entry or begun a fork *before* sees every pin whose owner did not see that.
    #[must_use]
    pub fn counts_of(&self, folio: Folio) -> Counts {
        // A pin is a sequentially consistent read-modify-write followed by sequentially consistent
        // loads of mark, entry and fork sequence. Against that a mark and a plain acquire load
        // could both miss the other, on POWER and on some ARM cores also in fact.
        fence(Ordering::SeqCst);
        self.counts(folio.head).map_or(Counts(0), |word| Counts(word.load(Ordering::SeqCst)))
    }

    /// Whether the folio is still what it was when it was looked up (dirtiness aside).
    #[inline]
    fn same(&self, folio: Folio) -> bool {
        self.state(folio.head).is_some_and(|state| same(state, folio.raw))
    }

    /// Adds `pages` references and `pages` pins to a folio in one atomic operation.
    ///
    /// A zero frame is not counted: success, and nothing changes.
    ///
    /// # Errors
    /// [`Lost`]; no count has changed, but for a folio that has gone meanwhile.
    #[inline]
    pub fn pin(&self, folio: Folio, pages: PageCount) -> Result<(), Lost<'m>> {
        if folio.is_zero_frame() {
            return Ok(());
        }
        let [state, counts] = self.frame(folio.head).ok_or(CountError::Gone)?;
        update(counts, |old| old.plus(pages.raw(), pages.raw()))?;
        if same(state, folio.raw) { Ok(()) } else { Err(self.take_back(folio, pages)) }
    }

    /// Pins frames from `from` on that are folios of their own and whose state is `raw`, word for
    /// word, up to the first that is not or cannot be pinned, at most `most`. Returns how many, and
    /// whether the count of the one after them was taken and must be [taken back](Self::take_back).
    #[inline(always)]
    pub(crate) fn pin_alike(&self, raw: u64, from: Pfn, most: u64) -> (u64, bool) {
        let at = from.raw().wrapping_sub(self.first.raw());
        let mut pages = 0;
        while pages < most {
            let Some([state, counts]) = self.words.get(index(at.wrapping_add(pages))) else {
                break;
            };
            if state.load(Ordering::Acquire) != raw || update(counts, |old| old.plus(1, 1)).is_err()
            {
                break;
            }
            if !same(state, raw) {
                return (pages, true);
            }
            pages += 1;
        }
        (pages, false)
    }

    /// [Undoes](Self::undo) a pin.
    #[cold]
    pub(crate) fn take_back(&self, folio: Folio, pages: PageCount) -> Lost<'m> {
        self.undo(folio, |old| old.minus(pages.raw(), pages.raw()))
    }

    /// It became another folio between the look-up and the count: takes the count back from
    /// where it landed. If that was the last reference, somebody must free what it was on.
    fn undo(&self, folio: Folio, back: impl Fn(Counts) -> Result<Counts, CountError>) -> Lost<'m> {
        match self.update(folio, back) {
            Ok(undone) => {
                Lost { error: CountError::Changed, last: self.last_reference(folio, undone) }
            }
            Err(error) => error.into(),
        }
    }

    /// Takes `pages` pins and references back. Returns the folio, frozen, if that was the
    /// last reference.
    ///
    /// # Errors
    /// [`CountError::NotHeld`] if it has fewer pins; no count has changed.
    #[inline]
    pub fn unpin(&self, folio: Folio, pages: PageCount) -> Result<Option<Frozen<'m>>, CountError> {
        if folio.is_zero_frame() {
            return Ok(None);
        }
        let new = self.update(folio, |old| old.minus(pages.raw(), pages.raw()))?;
        Ok(self.last_reference(folio, new))
    }

    /// Unpins frames from `from` on that are folios of their own and whose state is `raw`, word for
    /// word, up to the first that is not or has no pin, at most `most`. Returns how many; `last`
    /// gets those whose last reference that was.
    #[inline]
    pub(crate) fn unpin_alike(
        &self,
        raw: u64,
        from: Pfn,
        most: PageCount,
        mut last: impl FnMut(Frozen<'m>),
    ) -> PageCount {
        let at = index(from.raw().wrapping_sub(self.first.raw()));
        let frames = self.words.get(at..).unwrap_or_default();
        let mut pages = 0;
        for [state, counts] in frames.iter().take(index(most.raw())) {
            if state.load(Ordering::Acquire) != raw {
                break;
            }
            let Ok(left) = update(counts, |old| old.minus(1, 1)) else { break };
            if left.is_frozen() {
                last(Frozen::new(*self, Pfn::new(from.raw() + pages), Order::ZERO));
            }
            pages += 1;
        }
        PageCount::new(pages)
    }

    /// Adds `n` plain references: a mapping, a cache.
    ///
    /// # Errors
    /// [`Lost`]; no count has changed, but for a folio that has gone meanwhile. A folio without
    /// references has none to add to.
    pub fn get(&self, folio: Folio, n: u32) -> Result<(), Lost<'m>> {
        self.update(folio, |old| old.plus(u64::from(n), 0))?;
        if self.same(folio) {
            return Ok(());
        }
        Err(self.undo(folio, |old| old.minus(u64::from(n), 0)))
    }

    /// Drops `n` plain references. Returns the folio, frozen, if that was the last.
    ///
    /// # Errors
    /// [`CountError::NotHeld`] if so many references are not there, beside those of pins.
    pub fn put(&self, folio: Folio, n: u32) -> Result<Option<Frozen<'m>>, CountError> {
        let new = self.update(folio, |old| old.minus(u64::from(n), 0))?;
        Ok(self.last_reference(folio, new))
    }

    /// Takes a folio with exactly `expected` references and no pins for oneself: nobody can add a
    /// reference until it is unfrozen. With 0 expected: a folio that is free; otherwise the caller holds
    /// one of the references, so that the folio cannot become another meanwhile.
    ///
    /// # Errors
    /// [`FreezeError`] with what was found; nothing has changed. Counts equal to the expected ones mean
    /// that it is frozen already or is no longer this folio; `u32::MAX` twice, that others kept
    /// changing it.
    pub fn freeze(&self, folio: Folio, expected: u32) -> Result<Frozen<'m>, FreezeError> {
        let word = self.counts(folio.head).ok_or(FreezeError { found: 0, pins: 0 })?;
        for _ in 0..TRIES {
            let old = Counts(word.load(Ordering::Acquire));
            let found = FreezeError { found: old.references(), pins: old.pins() };
            if old.references() != expected || old.pins() != 0 || old.is_frozen() {
                return Err(found);
            }
            let frozen = old.0 & Counts::CLAIMED | Counts::FROZEN;
            // Acquire: what was done under the references happened before; Release with the
            // fence: entries were cleared before anybody is told that no pin was found.
            if word.compare_exchange(old.0, frozen, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                if self.same(folio) {
                    return Ok(Frozen::new(*self, folio.head, folio.order()));
                }
                word.store(old.0, Ordering::Release);
                return Err(found);
            }
        }
        Err(FreezeError { found: u32::MAX, pins: u32::MAX })
    }

    /// Becomes the one migrator of a folio, with a reference of its own.
    ///
    /// # Errors
    /// [`Lost`], with [`CountError::Claimed`] if another is at it.
    pub fn claim(&self, folio: Folio) -> Result<Claim<'m>, Lost<'m>> {
        self.update(folio, Counts::claimed)?;
        if self.same(folio) {
            return Ok(Claim::new(*self, folio));
        }
        Err(self.undo(folio, Counts::unclaimed))
    }

    /// Ends a claim and drops its reference.
    pub(crate) fn unclaim(&self, folio: Folio) -> Option<Frozen<'m>> {
        let new = self.update(folio, Counts::unclaimed).ok()?;
        self.last_reference(folio, new)
    }

    /// Gives a frozen folio `references` and lets others at it. A claim stays.
    pub(crate) fn unfreeze(&self, head: Pfn, references: u32) {
        if let Some(word) = self.counts(head) {
            let claim = word.load(Ordering::Relaxed) & Counts::CLAIMED;
            word.store(u64::from(references.min(Counts::MAX)) | claim, Ordering::Release);
        }
    }

    /// A frozen folio whose claim, if any, has ended with it.
    pub(crate) fn forget_claim(&self, head: Pfn) {
        if let Some(word) = self.counts(head) {
            word.fetch_and(!Counts::CLAIMED, Ordering::Release);
        }
    }

    /// The folio at the head of `folio`, if its last reference went. Its size is what it is by now: a
    /// count that landed on another folio may have been the last one there.
    fn last_reference(&self, folio: Folio, new: Counts) -> Option<Frozen<'m>> {
        if !new.is_frozen() {
            return None;
        }
        let raw = self.state(folio.head)?.load(Ordering::Acquire);
        Some(Frozen::new(*self, folio.head, FolioInfo::decode(raw).order))
    }

    /// One change of the count word, by compare-exchange: what `change` refuses is not written.
    #[inline]
    fn update(
        &self,
        folio: Folio,
        change: impl Fn(Counts) -> Result<Counts, CountError>,
    ) -> Result<Counts, CountError> {
        update(self.counts(folio.head).ok_or(CountError::Gone)?, change)
    }
}

/// One change of a count word, by compare-exchange: what `change` refuses is not written.
#[inline]
fn update(
    word: &Word,
    change: impl Fn(Counts) -> Result<Counts, CountError>,
) -> Result<Counts, CountError> {
    let old = word.load(Ordering::Relaxed);
    match exchange(word, old, &change)? {
        Ok(new) => Ok(new),
        Err(seen) => update_again(word, seen, &change),
    }
}

/// [`update`] of a word that others change too.
#[cold]
fn update_again(
    word: &Word,
    mut old: u64,
    change: &impl Fn(Counts) -> Result<Counts, CountError>,
) -> Result<Counts, CountError> {
    for _ in 1..TRIES {
        match exchange(word, old, change)? {
            Ok(new) => return Ok(new),
            Err(seen) => old = seen,
        }
    }
    Err(CountError::Contended)
}

/// One try: the word as it is now, or what it was instead of `old`.
#[inline(always)]
fn exchange(
    word: &Word,
    old: u64,
    change: &impl Fn(Counts) -> Result<Counts, CountError>,
) -> Result<Result<Counts, u64>, CountError> {
    let new = change(Counts(old))?;
    // SeqCst on success: the loads of page-table entry and state that follow a pin, which are
    // SeqCst too, come after it; pairs with "clear or mark, then look for pins".
    let result = word.compare_exchange(old, new.0, Ordering::SeqCst, Ordering::Relaxed);
    Ok(result.map(|_| {
        ordered();
        new
    }))
}

/// Whether a state word still says what it said when the folio was looked up, dirtiness aside.
#[inline]
fn same(state: &Word, raw: u64) -> bool {
    let dirty = FolioFlags::DIRTY.encode();
    (state.load(Ordering::SeqCst) ^ raw) & !dirty == 0
}

/// How often a compare-exchange is repeated. Each failure is somebody else's success, so reaching
/// this means hundreds of CPUs at one folio.
const TRIES: u32 = 1 << 16;

/// The frames of a folio. It was checked to lie inside the table, so no sum wraps.
fn frames_of(head: Pfn, pages: PageCount) -> impl Iterator<Item = Pfn> {
    (0..pages.raw()).map_while(move |i| head.checked_add(PageCount::new(i)))
}
