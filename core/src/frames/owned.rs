//! The two ways to own a folio: to move it, and to have it alone.

use pinfold_arch::{Order, Pfn};

use super::{CountError, FrameError, FrameTable};
use crate::folio::{Folio, FolioInfo};

/// A freeze found other counts than expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("found {found} references, {pins} of them pins")]
pub struct FreezeError {
    /// References that it has.
    pub found: u32,
    /// Pins among them.
    pub pins: u32,
}

/// A count that was not taken, or was taken back.
#[derive(Debug)]
#[must_use]
pub struct Lost<'m> {
    /// Why.
    pub error: CountError,
    /// The count landed on another folio, and taking it back took the last reference: the folio
    /// is its owner's to free.
    pub last: Option<Frozen<'m>>,
}

impl From<CountError> for Lost<'_> {
    fn from(error: CountError) -> Self {
        Self { error, last: None }
    }
}

/// The right to move a folio, and a reference on it. There is one at a time for a folio.
///
/// Ended by [`release`](Self::release), which the engine calls for the claims it makes; if it is
/// dropped otherwise, the folio stays claimed.
#[derive(Debug)]
#[must_use]
pub struct Claim<'m> {
    frames: FrameTable<'m>,
    folio: Folio,
}

impl<'m> Claim<'m> {
    pub(crate) fn new(frames: FrameTable<'m>, folio: Folio) -> Self {
        Self { frames, folio }
    }

    /// What is claimed.
    #[must_use]
    pub fn folio(&self) -> Folio {
        self.folio
    }

    /// Gives up the right and the reference. Returns the folio if that was the last one.
    #[must_use]
    pub fn release(self) -> Option<Frozen<'m>> {
        self.frames.unclaim(self.folio)
    }
}

/// A folio that its holder owns alone: nobody can take a reference. The only state in which a folio
/// may become another kind, be split, or be freed.
///
/// End it with [`unfreeze`](Self::unfreeze) or [`free`](Self::free); if it is dropped, the
/// folio stays frozen: leaked, never used twice.
#[derive(Debug)]
#[must_use]
pub struct Frozen<'m> {
    frames: FrameTable<'m>,
    head: Pfn,
    order: Order,
}

impl<'m> Frozen<'m> {
    pub(crate) fn new(frames: FrameTable<'m>, head: Pfn, order: Order) -> Self {
        Self { frames, head, order }
    }

    /// Its first frame.
    #[must_use]
    pub fn head(&self) -> Pfn {
        self.head
    }

    /// Its size.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// Makes it what `info` says. A smaller order splits it: every part becomes a frozen folio of
    /// its own with the same kind and flags, and `others` receives all but the first.
    ///
    /// # Errors
    /// [`FrameError::Unaligned`] for a larger order; nothing has changed.
    pub fn reshape(
        &mut self,
        info: FolioInfo,
        mut others: impl FnMut(Frozen<'m>),
    ) -> Result<(), FrameError> {
        if info.order > self.order {
            return Err(FrameError::Unaligned { pfn: self.head });
        }
        self.frames.write_state(self.head, info, self.order.pages());
        let mut part = self.head.checked_add(info.order.pages());
        let end = self.head.checked_add(self.order.pages());
        while let Some(head) = part.filter(|head| Some(*head) < end) {
            others(Frozen::new(self.frames, head, info.order));
            part = head.checked_add(info.order.pages());
        }
        self.order = info.order;
        Ok(())
    }

    /// Lets others at it, with so many references; more than [`Counts::MAX`](super::Counts::MAX) are
    /// taken as that. With 0 it has no owner but whoever freezes it with 0 expected.
    pub fn unfreeze(self, references: u32) {
        self.frames.unfreeze(self.head, references);
    }

    /// Ends it as a free folio without references: [`FrameTable::freeze`] with 0 gets it back.
    pub fn free(self) {
        self.frames.forget_claim(self.head);
        self.frames.unfreeze(self.head, 0);
    }
}
