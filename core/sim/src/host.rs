//! The machine as the engine sees it: one impl for each part of the host.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use pinfold::frames::{Claim, Frozen};
use pinfold::host::{
    Account, Event, Fault, FaultError, FaultIn, Flow, GupHost, Host, Mapping, Mappings, Migrate,
    MigrateError, OverLimit, PhysMem, Progress, Reclaim, Saved, SpaceId, TableView, Trace, Wait,
    WalkGuard,
};
use pinfold::{AccountId, PageCount, PhysAddr, VirtAddr};

use crate::format::TableFormat;
use crate::guard::{must_not_sleep, step_in, step_out};
use crate::inject::HostCall;
use crate::lock::lock;
use crate::machine::Machine;
use crate::zones::Want;

/// Events and breaches that are kept; later ones are counted only.
const KEPT: usize = 4096;

/// What the engine told, and what it did that it must not.
#[derive(Debug, Default)]
pub(crate) struct Log {
    events: Mutex<Vec<Event>>,
    progress: Mutex<Option<Progress>>,
    breaches: Mutex<Vec<Breach>>,
}

/// The engine broke the rules of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// It called what may sleep with a guard or a spin lock held.
    Sleeping(HostCall),
    /// It gave back more than it had charged.
    Uncharged(AccountId, PageCount),
    /// It asked for an unshare and a write at once.
    UnshareToWrite(VirtAddr),
    /// Progress went backwards within a call, or beyond its total.
    Progress(Progress),
}

impl Log {
    fn keep<T>(list: &Mutex<Vec<T>>, item: T) {
        let mut list = lock(list);
        if list.len() < KEPT {
            list.push(item);
        }
    }

    fn breach(&self, breach: Breach) {
        Self::keep(&self.breaches, breach);
    }
}

impl<'m, F: TableFormat> Machine<'m, F> {
    /// Events since the last time this was asked.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.log.events))
    }

    /// What the engine did that it must not, since the machine was made.
    #[must_use]
    pub fn breaches(&self) -> Vec<Breach> {
        lock(&self.log.breaches).clone()
    }

    /// The last progress that `pause` was told.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        *lock(&self.log.progress)
    }

    fn may_sleep(&self, call: HostCall) -> bool {
        if must_not_sleep() {
            self.log.breach(Breach::Sleeping(call));
        }
        self.injector.call(self, call)
    }
}

impl<F: TableFormat> PhysMem for Machine<'_, F> {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        if !self.injector.call(self, HostCall::Table) {
            return None;
        }
        self.ram().words(base, entries).map(TableView::from_words)
    }
}

impl<F: TableFormat> Mappings for Machine<'_, F> {
    fn mapping(&self, space: SpaceId, va: VirtAddr) -> Option<Mapping> {
        if !self.may_sleep(HostCall::Mapping) {
            return None;
        }
        self.state().vma(space, va).map(|vma| vma.mapping())
    }
}

impl<F: TableFormat> WalkGuard for Machine<'_, F> {
    fn enter(&self, space: SpaceId) -> u64 {
        self.guards.enter(space);
        self.injector.call(self, HostCall::GuardEnter);
        0
    }

    fn leave(&self, space: SpaceId, _: u64) {
        self.injector.call(self, HostCall::GuardLeave);
        let freed = self.guards.leave(space);
        if freed.is_empty() {
            return;
        }
        let mut state = self.state();
        for table in freed {
            state.release_table(&table);
        }
    }
}

impl<F: TableFormat> FaultIn for Machine<'_, F> {
    fn fault_in(&self, space: SpaceId, va: VirtAddr, fault: Fault) -> Result<(), FaultError> {
        if fault.unshare && fault.access.contains(pinfold::Access::WRITE) {
            self.log.breach(Breach::UnshareToWrite(va));
        }
        if !self.may_sleep(HostCall::Fault) {
            return Err(FaultError::NoMemory);
        }
        self.state().fault(space, va, fault)
    }
}

impl<F: TableFormat> Migrate for Machine<'_, F> {
    fn migrate(&self, claim: &Claim<'_>) -> Result<(), MigrateError> {
        if !self.may_sleep(HostCall::Migrate) {
            return Err(MigrateError::NoMemory);
        }
        self.state().relocate(claim, Want::Pinnable).map(|_| ())
    }

    fn drain(&self) {
        if self.may_sleep(HostCall::Drain) {
            self.state().drain_caches();
        }
    }
}

impl<F: TableFormat> Reclaim for Machine<'_, F> {
    fn reclaim(&self, folio: Frozen<'_>) {
        self.injector.call(self, HostCall::Reclaim);
        self.state().free(folio);
    }
}

impl<F: TableFormat> Account for Machine<'_, F> {
    fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        if !self.injector.call(self, HostCall::Charge) {
            return Err(OverLimit);
        }
        self.accounts.charge(account, pages)
    }

    fn uncharge(&self, account: AccountId, pages: PageCount) {
        self.injector.call(self, HostCall::Uncharge);
        if !self.accounts.uncharge(account, pages) {
            self.log.breach(Breach::Uncharged(account, pages));
        }
    }
}

impl<F: TableFormat> Wait for Machine<'_, F> {
    fn step(&self) -> u64 {
        self.step.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Saved {
        step_in();
        Saved(0)
    }

    fn leave(&self, _: Saved) {
        step_out();
    }

    fn pause(&self, progress: Progress) -> Flow {
        let go_on = self.may_sleep(HostCall::Pause);
        if progress.done > progress.total {
            self.log.breach(Breach::Progress(progress));
        }
        *lock(&self.log.progress) = Some(progress);
        // Whoever is waited for gets to run; seldom, because with many others about it takes long.
        if self.calls(HostCall::Pause).is_multiple_of(64) {
            std::thread::yield_now();
        }
        if go_on { Flow::Continue } else { Flow::Stop }
    }
}

impl<F: TableFormat> Trace for Machine<'_, F> {
    fn event(&self, event: Event) {
        self.injector.call(self, HostCall::Event);
        Log::keep(&self.log.events, event);
    }
}

impl<F: TableFormat> Host for Machine<'_, F> {
    type Wait = Self;
    type Account = Self;
    type Trace = Self;

    fn wait(&self) -> &Self {
        self
    }
    fn account(&self) -> &Self {
        self
    }
    fn trace(&self) -> &Self {
        self
    }
}

impl<F: TableFormat> GupHost for Machine<'_, F> {
    type Memory = Self;
    type Mappings = Self;
    type Guard = Self;
    type Fault = Self;
    type Migrate = Self;
    type Reclaim = Self;

    fn memory(&self) -> &Self {
        self
    }
    fn mappings(&self) -> &Self {
        self
    }
    fn guard(&self) -> &Self {
        self
    }
    fn fault(&self) -> &Self {
        self
    }
    fn migrate(&self) -> &Self {
        self
    }
    fn reclaim(&self) -> &Self {
        self
    }
}
