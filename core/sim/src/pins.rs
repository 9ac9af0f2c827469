//! A host that pins by a call of its own: what it holds and charges is counted, and it fails, falls
//! short or stops when it is told to.

use std::cell::{Cell, RefCell};

use pinfold::host::{
    Account, Flow, Host, NoTrace, OverLimit, Progress, SourceError, SpaceId, Wait,
};
use pinfold::region::Pinner;
use pinfold::source::{HostPins, PinSource, RunSink};
use pinfold::table::Run;
use pinfold::{
    AccountId, AddrRange, Dirtied, Order, PageCount, PageShift, Pfn, PhysAddr, PinError,
    PinRequest, PinTable, Pinned, UnpinError, Unpinned, VirtAddr,
};

/// A host whose memory lies at one distance from the addresses at which it is mapped.
#[derive(Debug)]
pub struct PinHost {
    base: PageShift,
    /// How many pages are pinned, and the sum of their frame numbers.
    held: Cell<(u64, u128)>,
    charged: Cell<u64>,
    dirty: RefCell<Vec<(Pfn, PageCount)>>,
    pins: Cell<u64>,
    pauses: Cell<u64>,
    calls: Cell<u64>,
    fail: Cell<Option<u64>>,
    short: Cell<bool>,
    step: Cell<u64>,
}

impl PinHost {
    /// Frames have numbers so much larger than the pages: a multiple of every block size.
    /// The topmost pages have the lowest frames.
    pub const DISTANCE: u64 = 1 << 33;

    /// A host with pages of this size, which does what it is asked.
    #[must_use]
    pub fn new(base: PageShift) -> Self {
        let zero = Cell::default;
        Self {
            base,
            held: Cell::default(),
            charged: zero(),
            dirty: RefCell::default(),
            pins: zero(),
            pauses: zero(),
            calls: zero(),
            fail: Cell::default(),
            short: Cell::default(),
            step: Cell::new(4096),
        }
    }

    /// Where the byte at an address lies.
    #[must_use]
    pub fn behind(&self, va: VirtAddr) -> PhysAddr {
        PhysAddr::new(va.raw().wrapping_add(Self::DISTANCE << self.base.raw()))
    }

    /// Pages that are pinned.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.get().0
    }

    /// Pages that are charged.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.charged.get()
    }

    /// Runs that came back dirty since the last call.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<(Pfn, PageCount)> {
        self.dirty.take()
    }

    /// Pin calls so far.
    #[must_use]
    pub fn pins(&self) -> u64 {
        self.pins.get()
    }

    /// Pauses so far.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses.get()
    }

    /// Calls so far that can fail: charges, pin calls, pauses.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Fails the n-th call from now on; 0 is none. A pin call has pinned all but its last page then.
    pub fn fail(&self, nth: u64) {
        self.fail.set((nth != 0).then(|| self.calls.get() + nth));
    }

    /// Whether a pin call that is to fail says success.
    pub fn lie(&self, short: bool) {
        self.short.set(short);
    }

    /// Allows so many entries between two pauses.
    pub fn set_step(&self, entries: u64) {
        self.step.set(entries);
    }

    /// Whether nothing is pinned and nobody is charged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        (self.held.get(), self.charged.get()) == ((0, 0), 0)
    }

    fn fails(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        self.fail.get() == Some(self.calls.get())
    }

    /// Pages come or go: their number and the sum of their frames.
    fn change(&self, pfn: Pfn, pages: u64, comes: bool) {
        let (first, many) = (u128::from(pfn.raw()), u128::from(pages));
        let frames = first * many + many * many.saturating_sub(1) / 2;
        let (held, sum) = self.held.get();
        self.held.set(if comes {
            (held + pages, sum + frames)
        } else {
            (held.wrapping_sub(pages), sum.wrapping_sub(frames))
        });
    }
}

impl PinSource for &PinHost {
    fn base(&self) -> PageShift {
        self.base
    }
    fn chunk(&self) -> Order {
        Order::new(18).unwrap_or(Order::ZERO)
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        self.pins.set(self.pins.get() + 1);
        let fails = self.fails();
        let pages = part.pages().raw() - u64::from(fails);
        if pages != 0 {
            let pfn = self.behind(part.start()).pfn(self.base);
            runs.push(pfn, PageCount::new(pages))?;
            self.change(pfn, pages, true);
        }
        if fails && !self.short.get() { Err(SourceError::NotMapped) } else { Ok(()) }
    }
    fn unpin(&self, run: Run) {
        self.change(run.pfn, run.pages.raw(), false);
        if run.dirty {
            self.dirty.borrow_mut().push((run.pfn, run.pages));
        }
    }
}

impl Wait for PinHost {
    fn step(&self) -> u64 {
        self.step.get()
    }
    fn pause(&self, progress: Progress) -> Flow {
        assert!(progress.done <= progress.total, "{progress:?}");
        self.pauses.set(self.pauses.get() + 1);
        if self.fails() { Flow::Stop } else { Flow::Continue }
    }
}

impl Account for PinHost {
    fn charge(&self, _: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        if self.fails() {
            return Err(OverLimit);
        }
        self.charged.set(self.charged.get() + pages.raw());
        Ok(())
    }
    fn uncharge(&self, _: AccountId, pages: PageCount) {
        let left = self.charged.get().checked_sub(pages.raw());
        assert!(left.is_some(), "uncharged what was not charged");
        self.charged.set(left.unwrap_or(0));
    }
}

impl Host for &PinHost {
    type Wait = PinHost;
    type Account = PinHost;
    type Trace = NoTrace;

    fn wait(&self) -> &PinHost {
        self
    }
    fn account(&self) -> &PinHost {
        self
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

impl Pinner for PinHost {
    type Wait = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn pin(&self, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
        HostPins::new(self, self).pin(SpaceId(0), table, request)
    }
    fn unpin(&self, table: &PinTable<'_>, dirtied: Dirtied) -> Result<Unpinned, UnpinError> {
        HostPins::new(self, self).unpin(table, dirtied)
    }
}
