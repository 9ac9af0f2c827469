//! The contiguous allocator: memory in one piece out of a CMA area, for a device that cannot do
//! without. Whoever uses the area meanwhile is moved away.

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::MigrateError;
use pinfold::{Order, PageCount, Pfn};

use crate::format::TableFormat;
use crate::layout::FrameRange;
use crate::state::State;
use crate::zones::{Want, align_up};

/// Why there is no memory in one piece. Whatever was moved stays moved; everything else is as
/// before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContigError {
    /// There is no such area, or it is too small, or others have all of it.
    #[error("no room in the area")]
    NoRoom,
    /// A folio is in the way and could not be moved.
    #[error("the folio at frame {blocker} is in the way: {error}")]
    Blocked {
        /// Its first frame.
        blocker: Pfn,
        /// Why it stays: with the references that were expected and found, if that was it.
        error: MigrateError,
    },
}

impl<F: TableFormat> State<'_, F> {
    /// The first `pages` in a row, aligned as they would be as a folio, that can be had in the area.
    pub(crate) fn alloc_contig(
        &mut self,
        area: usize,
        pages: PageCount,
    ) -> Result<FrameRange, ContigError> {
        let area = *self.zones.cma().get(area).ok_or(ContigError::NoRoom)?;
        let step = pages.raw().max(1).next_power_of_two();
        let order = Order::new(step.trailing_zeros() as u8).ok_or(ContigError::NoRoom)?;
        let mut start = align_up(area.start, order);
        let mut first_error = ContigError::NoRoom;
        while start.raw() + pages.raw() <= area.end().raw() {
            let range = FrameRange::new(start, pages);
            match self.empty(&range) {
                Ok(()) => return Ok(range),
                Err(error) if first_error == ContigError::NoRoom => first_error = error,
                Err(_) => {}
            }
            start = Pfn::new(start.raw() + step);
        }
        Err(first_error)
    }

    /// Isolates a range, moves everybody out of it, and takes it.
    pub(crate) fn empty(&mut self, range: &FrameRange) -> Result<(), ContigError> {
        if self.pieces.iter().any(|piece| piece.overlaps(range)) {
            return Err(ContigError::NoRoom);
        }
        // Mark first, then look: whoever pins reads the mark again after its pin.
        self.zones.isolated.push(*range);
        self.zones.refresh_isolated(range);
        let emptied = self.move_out(range);
        self.zones.isolated.pop();
        if emptied.is_ok() {
            for pfn in range.iter() {
                let none = FolioFlags::empty();
                let taken = self.zones.take(pfn, Order::ZERO, FolioKind::Kernel, none);
                taken.expect("it was emptied under the lock").unfreeze(1);
            }
            self.pieces.push(*range);
        }
        self.zones.refresh_isolated(range);
        emptied
    }

    fn move_out(&mut self, range: &FrameRange) -> Result<(), ContigError> {
        let mut at = range.start;
        while at < range.end() {
            let folio = self.folio(at);
            let Some(folio) = folio.filter(|folio| folio.info().kind != FolioKind::Free) else {
                at = Pfn::new(at.raw() + 1);
                continue;
            };
            let blocker = folio.head();
            let end = FrameRange::new(blocker, folio.order().pages()).end();
            let moved = if self.pool.contains(&blocker) {
                self.replace_idle(blocker, folio.order())
            } else {
                self.claim_and_move(blocker, Want::Movable).and_then(|_| {
                    // What was a huge page of the pool went back to it.
                    let idle = self.pool.contains(&blocker);
                    if idle { self.replace_idle(blocker, folio.order()) } else { Ok(()) }
                })
            };
            moved.map_err(|error| ContigError::Blocked { blocker, error })?;
            at = end;
        }
        Ok(())
    }

    /// Takes a huge page that nobody uses apart, and another one into the pool for it.
    fn replace_idle(&mut self, head: Pfn, order: Order) -> Result<(), MigrateError> {
        self.reserve_huge(order, Want::Movable).map_err(|_| MigrateError::NoMemory)?;
        let idle = self.folio(head).ok_or(MigrateError::Unmovable)?;
        let frozen = self.frames.freeze(idle, 0).map_err(|_| MigrateError::Unmovable)?;
        self.pool.remove(&head);
        self.zones.release(frozen);
        Ok(())
    }

    pub(crate) fn free_contig(&mut self, range: &FrameRange) -> bool {
        let Some(index) = self.pieces.iter().position(|piece| piece == range) else {
            return false;
        };
        self.pieces.remove(index);
        for pfn in range.iter() {
            self.put(pfn, 1);
        }
        true
    }

    /// Takes up to `pages` free frames away, so that memory is short. Returns how many it got.
    pub(crate) fn hog(&mut self, pages: u64) -> u64 {
        let none = FolioFlags::empty();
        for taken in 0..pages {
            let frozen = [Want::Movable, Want::Pinnable]
                .into_iter()
                .find_map(|want| self.zones.alloc(Order::ZERO, want, FolioKind::Kernel, none));
            let Some(frozen) = frozen else { return taken };
            self.hogged.push(frozen.head());
            frozen.unfreeze(1);
        }
        pages
    }

    /// Returns how many frames came back.
    pub(crate) fn release_hog(&mut self) -> usize {
        let hogged = std::mem::take(&mut self.hogged);
        for pfn in &hogged {
            self.put(*pfn, 1);
        }
        hogged.len()
    }
}
