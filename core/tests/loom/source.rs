//! A host that pins: what it says of itself is no part of a model, so it has plain counts and locks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pinfold::host::SpaceId;
use pinfold::source::{PinSource, RunSink, SourceError};
use pinfold::table::Run;
use pinfold::{Access, AddrRange, PageCount, PageShift, Pfn, PhysAddr, PinRequest, VirtAddr};

pub(super) const BASE: PageShift = PageShift::SIZE_4K;

/// Pins each time other frames, so that an address tells by which call it was pinned.
#[derive(Default)]
pub(super) struct Source {
    calls: AtomicU64,
    pinned: Mutex<Vec<PhysAddr>>,
    dirty: Mutex<Vec<PhysAddr>>,
}

/// The frame behind a page that the call of this number pinned; the first is number one.
pub(super) fn frame(call: u64, page: u64) -> PhysAddr {
    PhysAddr::new((call << 8 | page) << 12)
}

/// The first byte of a page.
pub(super) fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page << 12)
}

pub(super) fn range(first: u64, pages: u64) -> AddrRange {
    AddrRange::new(va(first), PageCount::new(pages), BASE).unwrap()
}

pub(super) fn request(first: u64, pages: u64) -> PinRequest {
    PinRequest::longterm(range(first, pages), Access::READ | Access::WRITE)
}

impl Source {
    /// The frames that are pinned now.
    pub(super) fn pinned(&self) -> Vec<PhysAddr> {
        self.pinned.lock().unwrap().clone()
    }

    /// The frames that were dirty when they were given back.
    pub(super) fn dirty(&self) -> Vec<PhysAddr> {
        self.dirty.lock().unwrap().clone()
    }
}

impl PinSource for &Source {
    fn base(&self) -> PageShift {
        BASE
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let first = part.start().raw() >> 12;
        let frames = (first..first + part.pages().raw()).map(|page| frame(call, page));
        self.pinned.lock().unwrap().extend(frames);
        runs.push(frame(call, first).pfn(BASE), part.pages())
    }
    fn unpin(&self, run: Run) {
        for page in 0..run.pages.raw() {
            let addr = Pfn::new(run.pfn.raw() + page).addr(BASE).unwrap();
            let mut pinned = self.pinned.lock().unwrap();
            let at = pinned.iter().position(|pinned| *pinned == addr);
            pinned.swap_remove(at.expect("given back without a pin"));
            if run.dirty {
                self.dirty.lock().unwrap().push(addr);
            }
        }
    }
}
