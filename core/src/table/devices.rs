//! What devices have of a table's pins, through the tables of IOMMUs.
//!
//! Pins go only when nothing is mapped and nothing is stale. Who maps adds to the count and then looks
//! whether the table is live; who closes the table leaves that state and then looks at the counts. So one of
//! them sees the other.

use pinfold_arch::{AddrRange, VirtAddr};

use super::layout::{self, Header, State};
use super::{PinTable, Runs, TableError, TooHard};
use crate::sync::{Ordering, fence};

impl<'m> PinTable<'m> {
    /// Bytes that devices reach through IOMMU tables; what is mapped twice counts twice.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.get(Header::MAPPED)
    }

    /// Bytes that were taken out of IOMMU tables and not flushed: what is under way, and what was forgotten.
    #[must_use]
    pub fn stale(&self) -> u64 {
        self.get(Header::STALE)
    }

    /// Before all of it is mapped: what it holds, which stays while it is mapped.
    pub(crate) fn map_get(&self) -> Result<AddrRange, TableError> {
        let range = self.mapped_range().ok_or(TableError::Empty)?;
        let bytes = range.pages().raw() << range.base().raw();
        let word = self.words.get(Header::MAPPED).ok_or(TableError::NotATable)?;
        let before = word.fetch_add(bytes, Ordering::Relaxed);
        // SeqCst: pairs with the one in `let_go`.
        fence(Ordering::SeqCst);
        // The state first: while it is live with this count, the table stays as it is.
        let state = self.state();
        let same = self.mapped_range() == Some(range);
        let error = match state {
            State::Live if same && before.checked_add(bytes).is_some() => return Ok(range),
            // It was filled anew, or is mapped as often as can be counted.
            State::Live => TableError::InUse,
            State::Empty => TableError::Empty,
            State::Filling | State::Draining => TableError::InUse,
        };
        self.map_put(bytes);
        Err(error)
    }

    /// What it holds, whatever the state. While anything is mapped or stale, it stays.
    pub(crate) fn mapped_range(&self) -> Option<AddrRange> {
        self.geometry()?.range()
    }

    /// The memory of a table of which anything is mapped or stale.
    pub(crate) fn mapped_runs(&self) -> Runs<'m> {
        Runs::new(*self, self.geometry())
    }

    /// So many bytes are not mapped any more, and nobody can have kept them.
    pub(crate) fn map_put(&self, bytes: u64) {
        self.take(Header::MAPPED, bytes);
    }

    /// So many bytes are not mapped any more, but somebody may have kept them.
    pub(crate) fn unmapped(&self, bytes: u64) {
        if let Some(word) = self.words.get(Header::STALE) {
            // Before the other count goes down: who reads that one first misses nothing.
            word.fetch_add(bytes, Ordering::Relaxed);
        }
        self.take(Header::MAPPED, bytes);
    }

    /// So many bytes that were stale have been flushed.
    pub(crate) fn flushed(&self, bytes: u64) {
        self.take(Header::STALE, bytes);
    }

    fn take(&self, count: usize, bytes: u64) {
        if let Some(word) = self.words.get(count) {
            // Release: whoever sees that nothing is left comes after all that was done to get there.
            word.fetch_sub(bytes, Ordering::Release);
        }
    }

    /// Whether no device has anything of a table that is not live any more.
    pub(super) fn let_go(&self) -> Result<(), TableError> {
        // SeqCst: pairs with the one in `map_get`.
        fence(Ordering::SeqCst);
        let (mapped, stale) = (self.mapped(), self.stale());
        match (mapped, stale) {
            (0, 0) => Ok(()),
            (0, bytes) => Err(TableError::NotFlushed { bytes }),
            (bytes, _) => Err(TableError::Mapped { bytes }),
        }
    }

    /// Marks the blocks of a part of the range as written, and says each. The caller's mapping keeps the table
    /// live.
    pub(crate) fn mark_written(
        &self,
        va: VirtAddr,
        bytes: u64,
        mut marked: impl FnMut(),
    ) -> Result<(), TooHard> {
        let form = self.form_at(va)?;
        let shift = u32::from(form.base.raw());
        let (mut page, last) =
            (va.raw() >> shift, va.raw().wrapping_add(bytes.wrapping_sub(1)) >> shift);
        while page <= last {
            self.mark_dirty_in(form, VirtAddr::new(page << shift))?;
            marked();
            let (_, _, order) = self.entry(form, page).ok_or(TooHard)?;
            let block = layout::block(page, order).wrapping_add(1);
            page = block.wrapping_shl(u32::from(order)).max(page.wrapping_add(1));
        }
        Ok(())
    }
}
