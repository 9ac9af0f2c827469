//! How large the pieces are that a pinned range is made of for as long as it is pinned.
//!
//! A device's page that is larger than a base page needs memory in one piece, wherever in the range it
//! lies. Only folios that are never split count: a folio that is merely large today may be mapped in
//! smaller pieces, or taken apart, by others tomorrow. Each run is looked at on its own, and
//! the smallest decides for all.

use pinfold_arch::{Order, Pfn};

use crate::folio::{Folio, FolioInfo, FolioKind};

/// What holds for the runs that came so far, in order of address and without a gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indivisible {
    order: Order,
    /// How far the frames of the last run lie behind their pages, modulo 2^64.
    distance: Option<u64>,
}

impl Indivisible {
    /// Of no run.
    pub(crate) const fn new() -> Self {
        Self { order: Order::LARGEST, distance: None }
    }

    /// Pages came that may be taken apart, or are base pages.
    #[inline]
    pub(crate) fn add_base_pages(&mut self) {
        self.order = Order::ZERO;
    }

    /// Frames from `pfn` on of such a folio came, behind the pages from number `page` on.
    #[inline]
    pub(super) fn add_folio(&mut self, page: u64, pfn: Pfn, folio: Folio) {
        // Mostly the first run says that there is nothing to look at.
        if self.order == Order::ZERO {
            return;
        }
        match folio.info() {
            FolioInfo { kind: FolioKind::Hugetlb, order, .. } => self.add(page, pfn, order),
            _ => self.add_base_pages(),
        }
    }

    /// Frames from `pfn` on came, behind the pages from number `page` on: all of a folio of this order
    /// that is never split.
    pub(crate) fn add(&mut self, page: u64, pfn: Pfn, order: Order) {
        let distance = pfn.raw().wrapping_sub(page);
        // A block of pages lies in as large a block of frames only if both are aligned alike.
        self.order = self.order.min(order).min(aligned(distance));
        // Where frames do not follow those before, no block may lie across.
        if self.distance.is_some_and(|last| last != distance) {
            self.order = self.order.min(aligned(page));
        }
        self.distance = Some(distance);
    }

    /// See [`Pinned::indivisible`](super::Pinned::indivisible).
    pub(crate) fn order(&self) -> Order {
        self.order
    }
}

/// The order of the blocks that this is a multiple of.
fn aligned(number: u64) -> Order {
    let zeros = u8::try_from(number.trailing_zeros()).ok();
    zeros.and_then(Order::new).unwrap_or(Order::LARGEST)
}
