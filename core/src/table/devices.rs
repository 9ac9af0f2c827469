//! What devices have of a table's pins, through the tables of IOMMUs.
//!
//! Pins go only when nothing is mapped and nothing is stale. Who maps adds to the count and then looks
//! whether the table is live; who closes the table leaves that state and then looks at the counts. So one of
//! them sees the other.

use pinfold_arch::{PageShift, VirtAddr};

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

    /// Before all that the table holds is mapped: where it begins, and how many bytes that is, which stays so until
    /// they are given back.
    pub(crate) fn map_get(&self) -> Result<(VirtAddr, u64), TableError> {
        let (_, bytes) = self.extent()?;
        let word = self.words.get(Header::MAPPED).ok_or(TableError::NotATable)?;
        let more = |before: u64| before.checked_add(bytes);
        if word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            // It is mapped as often as can be counted.
            return Err(TableError::InUse);
        }
        // SeqCst: pairs with the one in `let_go`.
        fence(Ordering::SeqCst);
        let live = match self.state() {
            State::Live => self.extent(),
            State::Empty => Err(TableError::Empty),
            State::Filling | State::Draining => Err(TableError::InUse),
        };
        // In between it may have been given back and filled anew.
        let live =
            live.and_then(|now| if now.1 == bytes { Ok(now) } else { Err(TableError::InUse) });
        if live.is_err() {
            self.map_put(bytes);
        }
        live
    }

    /// Where a table begins and how many bytes it holds, also while somebody tries in vain to give it back.
    pub(crate) fn extent(&self) -> Result<(VirtAddr, u64), TableError> {
        match self.state() {
            State::Live | State::Draining => {}
            State::Empty => return Err(TableError::Empty),
            State::Filling => return Err(TableError::InUse),
        }
        let range = self.geometry().and_then(|geometry| geometry.range());
        let range = range.ok_or(TableError::NotATable)?;
        let bytes = range.pages().raw().checked_mul(range.base().bytes());
        Ok((range.start(), bytes.ok_or(TableError::InUse)?))
    }

    /// What it holds, for a caller whose mapping keeps it: also while somebody tries in vain to give it back.
    /// With the size of its pages.
    pub(crate) fn kept(&self) -> (Runs<'m>, PageShift) {
        let geometry = self.geometry();
        let base = geometry.map_or(PageShift::SIZE_4K, |geometry| geometry.base);
        (Runs::new(*self, geometry), base)
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

    /// Marks the blocks of a part of the range as written. The caller's mapping keeps the table live.
    pub(crate) fn mark_written(&self, va: VirtAddr, bytes: u64) -> Result<(), TooHard> {
        let form = self.form_at(va)?;
        let shift = u32::from(form.base.raw());
        let (mut page, last) =
            (va.raw() >> shift, va.raw().wrapping_add(bytes.wrapping_sub(1)) >> shift);
        while page <= last {
            self.mark_dirty_in(form, VirtAddr::new(page << shift))?;
            let (_, _, order) = self.entry(form, page).ok_or(TooHard)?;
            let block = layout::block(page, order).wrapping_add(1);
            page = block.wrapping_shl(u32::from(order)).max(page.wrapping_add(1));
        }
        Ok(())
    }
}
