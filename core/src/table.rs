//! The pin table: from virtual address to host physical address, and the owner of the pins.
//!
//! One table holds one pinned range, in words that the caller gives. An entry stands for a
//! naturally aligned block of *virtual* addresses whose frames are consecutive and belong to one
//! folio; blocks are as coarse as the mapping allows, so that a terabyte of 1 GiB folios takes
//! kilobytes. Each word carries a tag ([`slot`]): a frame that is being pinned and an address that
//! may be used can never be taken for one another.
//!
//! The levels are found in [`layout`], how they grow in `fill`, how they are read back as runs in
//! [`runs`]. A table moves between four states, each by one store or compare-exchange:
//!
//! ```text
//! empty -> filling -> live -> draining -> empty
//!              \________________^
//! ```
//!
//! Only a live table answers [`lookup`](PinTable::lookup); every other state is [`TooHard`].

use pinfold_arch::addr::index;
use pinfold_arch::{Access, AddrRange, PageShift, PhysAddr, VirtAddr};

use crate::error::ErrorKind;
use crate::host::Step;
use crate::request::{AccountId, HolderId, PinRequest};
use crate::sync::{Ordering, Word, fence, tries};

mod devices;
pub(crate) mod fill;
pub mod layout;
pub mod runs;
pub mod slot;

use layout::{Geometry, Header, State};
pub use runs::{Run, Runs};
use slot::Slot;

/// The answer of a reader that met anything but an address: ask again by a way that may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too hard here")]
pub struct TooHard;

/// Why a pin table refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The memory is too small. No pin or charge is left; give `need` words and repeat until it
    /// fits. The figure is what the mapping as it was found takes; it grows if folios become
    /// smaller meanwhile, or if a folio turns out to be shared by two mappings with other rules.
    #[error("the table's memory is too small: it needs {need} words")]
    NoSpace {
        /// Words, header included.
        need: usize,
    },
    /// It already holds pins, or another call is filling or draining it.
    #[error("the pin table is in use")]
    InUse,
    /// It holds no pins.
    #[error("the pin table holds nothing")]
    Empty,
    /// Devices reach it through IOMMU tables.
    #[error("devices reach {bytes:#x} bytes of the pinned memory")]
    Mapped {
        /// So many bytes; what is mapped twice counts twice.
        bytes: u64,
    },
    /// It was taken out of IOMMU tables, but whoever keeps translations was not flushed, or did not say
    /// so in time: devices may still write to it.
    #[error("{bytes:#x} bytes of the pinned memory were unmapped and not flushed")]
    NotFlushed {
        /// So many bytes.
        bytes: u64,
    },
    /// The pages were pinned for reading only.
    #[error("the memory was pinned for reading only")]
    ReadOnly,
    /// Its pins were taken by an engine and are to be given back to a host, or the reverse.
    #[error("the pins in this table are counted by somebody else")]
    OtherKeeper,
    /// The words are no pin table of this version and byte order.
    #[error("this memory holds no pin table of version {}", layout::VERSION)]
    NotATable,
}

impl TableError {
    /// Which of the kinds it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::InUse | Self::Mapped { .. } => ErrorKind::Busy,
            Self::NotFlushed { .. } => ErrorKind::NotFlushed,
            Self::Empty => ErrorKind::NotFound,
            Self::ReadOnly => ErrorKind::Refused,
            Self::OtherKeeper => ErrorKind::InvalidArgument,
            Self::NotATable => ErrorKind::Corrupt,
        }
    }
}

/// Who counts the pins of a table, and gets them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keeper {
    /// The engine's frame table.
    Frames = 0,
    /// The host's own pin call.
    Host = 1,
}

/// What it takes to find the entry for an address.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// First page.
    pub(crate) start: u64,
    pub(crate) base: PageShift,
    /// Order of the root's blocks.
    pub(crate) root_order: u8,
}

/// A pin table over the caller's words.
///
/// The words are the table: position independent, without pointers, and shared by every value
/// that was made from them.
///
/// ```
/// use pinfold::sync::Word;
/// use pinfold::table::{PinTable, TooHard};
/// use pinfold::VirtAddr;
///
/// let words = [const { Word::new(0) }; 64];
/// let table = PinTable::new(&words)?;
/// assert_eq!(table.lookup(VirtAddr::new(0x1000)), Err(TooHard)); // nothing pinned yet
/// # Ok::<(), pinfold::table::TableError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PinTable<'m> {
    words: &'m [Word],
}

impl<'m> PinTable<'m> {
    /// An empty table. What the words held is forgotten: they must not be a table in use.
    ///
    /// # Errors
    /// [`TableError::NoSpace`] if not even the header fits.
    pub fn new(words: &'m [Word]) -> Result<Self, TableError> {
        if words.len() < Header::WORDS {
            return Err(TableError::NoSpace { need: Header::WORDS + 1 });
        }
        let table = Self { words };
        table.settle(State::Empty);
        table.set(Header::MAPPED, 0);
        table.set(Header::STALE, 0);
        table.set(Header::VERSION, layout::VERSION);
        table.set(Header::MAGIC, layout::MAGIC);
        Ok(table)
    }

    /// The table that was made in these words before.
    ///
    /// # Errors
    /// [`TableError::NotATable`].
    pub fn open(words: &'m [Word]) -> Result<Self, TableError> {
        let table = Self { words };
        let known = words.len() >= Header::WORDS
            && table.get(Header::MAGIC) == layout::MAGIC
            && table.get(Header::VERSION) == layout::VERSION;
        if known { Ok(table) } else { Err(TableError::NotATable) }
    }

    /// The table in these words, unchecked: for callers that know that there is one, or that ask
    /// afterwards whether there was.
    #[inline(always)]
    pub(crate) const fn at(words: &'m [Word]) -> Self {
        Self { words }
    }

    /// Words that a table for `range` takes if every block is one page of size `granule` (the
    /// range's base page size is the worst case, and always enough). `None` if that overflows.
    #[must_use]
    pub fn words_for(range: &AddrRange, granule: PageShift) -> Option<usize> {
        layout::words_for(range, granule)
    }

    fn get(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Release);
        }
    }

    fn state(&self) -> State {
        State::from_word(self.get(Header::STATE))
    }

    /// Moves from one state to another; `false` if it is in a third.
    fn transition(&self, from: State, to: State) -> bool {
        let Some(word) = self.words.get(Header::STATE) else { return false };
        let raw = word.load(Ordering::Relaxed);
        let taken = State::from_word(raw) == from
            && word
                .compare_exchange(raw, to.after(raw), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if taken {
            // Whoever reads a word that is written from here on, sees at its second look at the
            // state that the table left the one before.
            fence(Ordering::Release);
        }
        taken
    }

    /// Moves to a state, from one that nobody else moves it from.
    fn settle(&self, to: State) {
        self.set(Header::STATE, to.after(self.get(Header::STATE)));
    }

    fn geometry(&self) -> Option<Geometry> {
        let geometry = Geometry::read(|at| self.get(at))?;
        let root = geometry.root();
        (root.offset + root.len() <= self.words.len() as u64).then_some(geometry)
    }

    /// The pinned range, or `None` while nothing is pinned, or while somebody tries to give the pins back.
    #[must_use]
    pub fn range(&self) -> Option<AddrRange> {
        if self.state() != State::Live {
            return None;
        }
        self.geometry()?.range()
    }

    /// Who holds the pins. Meaningless while nothing is pinned.
    #[must_use]
    pub fn holder(&self) -> HolderId {
        HolderId((self.get(Header::OWNER) >> 32) as u32)
    }

    /// Who is charged. Meaningless while nothing is pinned.
    #[must_use]
    pub fn account(&self) -> AccountId {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        AccountId(self.get(Header::OWNER) as u32)
    }

    /// Whether the holder agreed to let go when asked. Meaningless while nothing is pinned.
    #[must_use]
    pub fn revocable(&self) -> bool {
        self.get(Header::FLAGS) & 1 != 0
    }

    /// Whether the pages were pinned for writing. Meaningless while nothing is pinned.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.get(Header::FLAGS) & 1 << 2 != 0
    }

    /// Words in use, header included.
    #[must_use]
    pub fn used_words(&self) -> usize {
        index(self.get(Header::USED)).max(Header::WORDS)
    }

    /// The physical address of the byte at `va`.
    ///
    /// It was right at some instant within the call: the table was live then, and not filled anew
    /// meanwhile. The page stays pinned at least as long as the table stays live; that nobody unpins
    /// the table between this call and the use of the address is the caller's to see to.
    ///
    /// # Context
    /// Any: no lock, no allocation, no host call; at most three entries are read.
    ///
    /// # Errors
    /// [`TooHard`] if the table is not live or the address is not in it.
    #[inline]
    pub fn lookup(&self, va: VirtAddr) -> Result<PhysAddr, TooHard> {
        let state = self.words.get(Header::STATE).ok_or(TooHard)?;
        let before = state.load(Ordering::Acquire);
        if State::from_word(before) != State::Live {
            return Err(TooHard);
        }
        let found = self.address_in(self.form_at(va)?, va)?;
        fence(Ordering::Acquire);
        if state.load(Ordering::Relaxed) == before { Ok(found) } else { Err(TooHard) }
    }

    /// The form of the table, if its range holds `va`.
    #[inline]
    fn form_at(&self, va: VirtAddr) -> Result<Form, TooHard> {
        let geometry = self.geometry().ok_or(TooHard)?;
        let page = va.raw() >> geometry.base.raw();
        let inside = geometry.start <= page && page < geometry.end;
        if inside { Ok(geometry.form()) } else { Err(TooHard) }
    }

    /// What the entry for `va` says, whatever the state. For callers that know the form and that it
    /// still holds, and that `va` lies in the range.
    #[inline(always)]
    pub(crate) fn address_in(&self, form: Form, va: VirtAddr) -> Result<PhysAddr, TooHard> {
        let base = u32::from(form.base.raw());
        let page = va.raw().wrapping_shr(base);
        let (_, raw, order) = self.entry(form, page).ok_or(TooHard)?;
        let Slot::Address { addr, .. } = Slot::decode(raw) else { return Err(TooHard) };
        // The first block may be cut by the start of the range.
        let first = layout::block(page, order).wrapping_shl(u32::from(order)).max(form.start);
        addr.checked_add(va.raw().wrapping_sub(first.wrapping_shl(base))).ok_or(TooHard)
    }

    /// The entry for a page of the range: its word, what that says, and the order of its block.
    #[inline(always)]
    fn entry(&self, form: Form, page: u64) -> Option<(&'m Word, u64, u8)> {
        let mut order = form.root_order;
        let mut origin = (Header::WORDS as u64).wrapping_sub(layout::block(form.start, order));
        // Three nodes at most.
        loop {
            let at = origin.wrapping_add(layout::block(page, order));
            let word = self.words.get(index(at))?;
            let raw = word.load(Ordering::Acquire);
            let Slot::Link { origin: child, order: finer } = Slot::decode(raw) else {
                return Some((word, raw, order));
            };
            if !layout::is_below(finer.raw(), order) {
                return None;
            }
            (order, origin) = (finer.raw(), child);
        }
    }

    /// Records that the device wrote to the page at `va`: it reaches the folio before the unpin.
    ///
    /// # Context
    /// Any. The caller holds what keeps the table live.
    ///
    /// # Errors
    /// [`TooHard`] if the table is not live or the address is not in it, or others changed the same
    /// entry at every try.
    pub fn mark_dirty(&self, va: VirtAddr) -> Result<(), TooHard> {
        if self.state() != State::Live {
            return Err(TooHard);
        }
        self.mark_dirty_in(self.form_at(va)?, va)
    }

    /// Marks the entry for `va`, whatever the state.
    ///
    /// An address word becomes something else only after the table left the live state, which the
    /// caller prevents; so the mark lands on an address. It is seen by whoever closes the table after
    /// the caller has let go of what keeps it live.
    #[inline(always)]
    pub(crate) fn mark_dirty_in(&self, form: Form, va: VirtAddr) -> Result<(), TooHard> {
        let page = va.raw().wrapping_shr(u32::from(form.base.raw()));
        let (word, mut raw, _) = self.entry(form, page).ok_or(TooHard)?;
        for _ in tries() {
            match Slot::decode(raw) {
                Slot::Address { dirty: true, .. } => return Ok(()),
                Slot::Address { .. } => {}
                _ => return Err(TooHard),
            }
            let marked = raw | slot::DIRTY;
            match word.compare_exchange_weak(raw, marked, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => raw = now,
            }
        }
        Err(TooHard)
    }

    /// The pinned memory as runs of consecutive frames, in order of virtual address. Empty unless
    /// the table is live.
    #[must_use]
    pub fn runs(&self) -> Runs<'m> {
        let geometry = (self.state() == State::Live).then(|| self.geometry()).flatten();
        Runs::new(*self, geometry)
    }

    /// Takes the table for filling: a header and an empty root.
    pub(crate) fn begin(
        &self,
        request: &PinRequest,
        keeper: Keeper,
    ) -> Result<Geometry, TableError> {
        if !self.transition(State::Empty, State::Filling) {
            return Err(TableError::InUse);
        }
        let geometry = Geometry::of(&request.range);
        geometry.write(|at, value| self.set(at, value));
        let owner = u64::from(request.holder.0) << 32 | u64::from(request.account.0);
        self.set(Header::OWNER, owner);
        let writable = u64::from(request.access.contains(Access::WRITE));
        let flags = u64::from(request.revocable) | (keeper as u64) << 1 | writable << 2;
        self.set(Header::FLAGS, flags);
        self.set(Header::USED, Header::WORDS as u64);
        Ok(geometry)
    }

    /// Turns a step of entries from page references into addresses; the number of the word to
    /// go on with, or `None` when all are done. It cannot fail: the addresses were checked when
    /// the pages were recorded.
    pub(crate) fn convert(&self, geometry: &Geometry, from: usize, step: Step) -> Option<usize> {
        let from = from.max(Header::WORDS);
        let end = self.used_words().min(from.saturating_add(index(step.entries())));
        for word in self.words.get(from..end)? {
            // Nobody else writes entries while the table is filling.
            if let Some(address) = Slot::settled(word.load(Ordering::Relaxed), geometry.base) {
                word.store(address, Ordering::Relaxed);
            }
        }
        (end < self.used_words()).then_some(end)
    }

    /// Opens a filled and converted table to readers, by one store.
    pub(crate) fn publish(&self) {
        self.settle(State::Live);
    }

    /// Closes a live table to readers, to give its pins back.
    pub(crate) fn close(&self, keeper: Keeper) -> Result<Geometry, TableError> {
        match self.state() {
            State::Live => {}
            State::Empty => return Err(TableError::Empty),
            State::Filling | State::Draining => return Err(TableError::InUse),
        }
        self.kept_by(keeper)?;
        // In most cases it need not leave the state to find out.
        self.let_go()?;
        if !self.transition(State::Live, State::Draining) {
            return Err(TableError::InUse);
        }
        // Since it was looked at, others may have given it back and filled it anew: what counts is
        // what it holds now.
        let geometry = self.kept_by(keeper).and_then(|geometry| self.let_go().map(|()| geometry));
        if geometry.is_err() {
            self.settle(State::Live);
        }
        geometry
    }

    /// The geometry, if `keeper` counts the pins.
    fn kept_by(&self, keeper: Keeper) -> Result<Geometry, TableError> {
        let geometry = self.geometry().ok_or(TableError::NotATable)?;
        if self.get(Header::FLAGS) >> 1 & 1 != keeper as u64 {
            return Err(TableError::OtherKeeper);
        }
        Ok(geometry)
    }

    /// The pages that a table which is being filled or drained holds, from its start on.
    pub(crate) fn held(&self, geometry: Geometry) -> Runs<'m> {
        Runs::new(*self, Some(geometry))
    }

    /// Forgets everything: the pins have been given back.
    pub(crate) fn reset(&self) {
        self.set(Header::USED, Header::WORDS as u64);
        self.set(Header::PAGES, 0);
        self.settle(State::Empty);
    }
}
