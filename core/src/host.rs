//! What the engine asks of the system around it.
//!
//! Two bundles. [`Host`] is for everybody: waiting and accounting. [`GupHost`] adds what it takes
//! to find and pin frames through page tables: memory, mappings, the walk guard, faults,
//! migration. Each part is a trait of one to three functions in a file of its own; all but
//! the mappings have a ready-made implementation for a system that does not need more. [`Parts`] puts
//! parts together, and [`PlainHost`] is the first bundle, ready-made.
//!
//! | part | trait | ready-made | may sleep |
//! |---|---|---|---|
//! | page tables in memory | [`PhysMem`] | [`DirectMap`] | no |
//! | what is mapped where, and why | [`Mappings`] | | yes |
//! | table pages stay while walked | [`WalkGuard`] | [`NeverFreed`] | no |
//! | make a page present | [`FaultIn`] | [`NoFault`] | yes |
//! | move a folio elsewhere | [`Migrate`] | [`NoMigrate`] | yes |
//! | take back a folio nobody refers to | [`Reclaim`] | [`LeakFrames`] | no |
//! | locked-memory limits | [`Account`] | [`NoAccount`] | no |
//! | waiting, progress, cancelling | [`Wait`] | [`SpinWait`] | `pause` may |
//! | memory for IOMMU tables | [`IoTables`] | | no |
//! | flushing an IOMMU or a device's TLB | [`IoTlb`] | | `complete` may |
//! | events | [`Trace`] | [`NoTrace`] | no |
//!
//! Every function takes `&self` and may be called from several threads at once. Those that return a
//! `Result` or an `Option` may fail at any call, and `pause` may stop it: the engine then puts
//! everything back.
//!
//! What these functions owe the engine, and what the system around them does: [`duties`].

pub mod account;
#[doc = include_str!("host/duties.md")]
pub mod duties {}
pub mod fault;
pub mod iommu;
pub mod mem;
pub mod migrate;
pub mod source;
pub mod space;
pub mod trace;
pub mod wait;
pub mod walk;

pub use account::{Account, NoAccount, OverLimit};
pub use fault::{Fault, FaultError, FaultIn, NoFault};
pub use iommu::{FlushError, IoTables, IoTlb, Kept};
#[cfg(not(loom))]
pub use mem::DirectMap;
pub use mem::{PhysMem, TableView};
pub use migrate::{LeakFrames, Migrate, MigrateError, NoMigrate, Reclaim};
pub use source::SourceError;
pub use space::{Mapping, MappingKind, Mappings, SpaceId};
pub use trace::{Event, NoTrace, Trace};
pub(crate) use wait::Step;
pub use wait::{Flow, Progress, Saved, SpinWait, Wait};
pub use walk::{NeverFreed, WalkGuard};

/// Runs `critical` under `lock`, inside the host's own bracket (a kernel masks interrupts there).
/// It must not sleep and must not lock again.
pub fn locked<W: Wait, T, R>(
    wait: &W,
    lock: &crate::sync::Lock<T>,
    critical: impl FnOnce(&mut T) -> R,
) -> R {
    let saved = wait.enter();
    let result = lock.with(critical);
    wait.leave(saved);
    result
}

/// What every embedder provides.
pub trait Host {
    /// Waiting, progress, cancelling.
    type Wait: Wait;
    /// Locked-memory limits.
    type Account: Account;
    /// Events.
    type Trace: Trace;

    /// The waiting part.
    fn wait(&self) -> &Self::Wait;
    /// The accounting part.
    fn account(&self) -> &Self::Account;
    /// The events part.
    fn trace(&self) -> &Self::Trace;
}

/// A host that has nothing to say: it spins where others wait, charges nobody and keeps no events.
#[derive(Clone, Copy, Debug)]
pub struct PlainHost;

impl Host for PlainHost {
    type Wait = SpinWait;
    type Account = NoAccount;
    type Trace = NoTrace;

    fn wait(&self) -> &SpinWait {
        &SpinWait
    }
    fn account(&self) -> &NoAccount {
        &NoAccount
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

/// What an embedder provides whose frames the engine counts itself.
pub trait GupHost: Host {
    /// Page tables in physical memory.
    type Memory: PhysMem;
    /// What is mapped where.
    type Mappings: Mappings;
    /// Keeps table pages in place.
    type Guard: WalkGuard;
    /// Makes pages present.
    type Fault: FaultIn;
    /// Moves folios.
    type Migrate: Migrate;
    /// Takes back folios.
    type Reclaim: Reclaim;

    /// The memory part.
    fn memory(&self) -> &Self::Memory;
    /// The mappings part.
    fn mappings(&self) -> &Self::Mappings;
    /// The walk-guard part.
    fn guard(&self) -> &Self::Guard;
    /// The fault part.
    fn fault(&self) -> &Self::Fault;
    /// The migration part.
    fn migrate(&self) -> &Self::Migrate;
    /// The reclaim part.
    fn reclaim(&self) -> &Self::Reclaim;
}

impl<H: Host + ?Sized> Host for &H {
    type Wait = H::Wait;
    type Account = H::Account;
    type Trace = H::Trace;

    fn wait(&self) -> &H::Wait {
        (**self).wait()
    }
    fn account(&self) -> &H::Account {
        (**self).account()
    }
    fn trace(&self) -> &H::Trace {
        (**self).trace()
    }
}

impl<H: GupHost + ?Sized> GupHost for &H {
    type Memory = H::Memory;
    type Mappings = H::Mappings;
    type Guard = H::Guard;
    type Fault = H::Fault;
    type Migrate = H::Migrate;
    type Reclaim = H::Reclaim;

    fn memory(&self) -> &H::Memory {
        (**self).memory()
    }
    fn mappings(&self) -> &H::Mappings {
        (**self).mappings()
    }
    fn guard(&self) -> &H::Guard {
        (**self).guard()
    }
    fn fault(&self) -> &H::Fault {
        (**self).fault()
    }
    fn migrate(&self) -> &H::Migrate {
        (**self).migrate()
    }
    fn reclaim(&self) -> &H::Reclaim {
        (**self).reclaim()
    }
}

/// A host put together from parts: name a field for what you have, take the ready-made part for
/// what you do not.
///
/// ```
/// use pinfold::host::{Mapping, Mappings, Parts, SpaceId};
/// use pinfold::VirtAddr;
///
/// struct NothingMapped;
/// impl Mappings for NothingMapped {
///     fn mapping(&self, _: SpaceId, _: VirtAddr) -> Option<Mapping> { None }
/// }
/// # use pinfold::host::*; use pinfold::PhysAddr;
/// # struct NoMemory; impl PhysMem for NoMemory {
/// #     fn table(&self, _: PhysAddr, _: usize) -> Option<TableView<'_>> { None } }
/// let host = Parts::new(NoMemory, NothingMapped);
/// # let _ = host;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Parts<
    M,
    S,
    G = NeverFreed,
    F = NoFault,
    V = NoMigrate,
    R = LeakFrames,
    A = NoAccount,
    W = SpinWait,
    T = NoTrace,
> {
    /// Page tables in physical memory.
    pub memory: M,
    /// What is mapped where.
    pub mappings: S,
    /// Keeps table pages in place.
    pub guard: G,
    /// Makes pages present.
    pub fault: F,
    /// Moves folios.
    pub migrate: V,
    /// Takes back folios.
    pub reclaim: R,
    /// Locked-memory limits.
    pub account: A,
    /// Waiting, progress, cancelling.
    pub wait: W,
    /// Events.
    pub trace: T,
}

impl<M: PhysMem, S: Mappings> Parts<M, S> {
    /// The two parts that have no ready-made form, and the ready-made ones for all others.
    pub const fn new(memory: M, mappings: S) -> Self {
        Self {
            memory,
            mappings,
            guard: NeverFreed,
            fault: NoFault,
            migrate: NoMigrate,
            reclaim: LeakFrames,
            account: NoAccount,
            wait: SpinWait,
            trace: NoTrace,
        }
    }
}

impl<M, S, G, F, V, R, A: Account, W: Wait, T: Trace> Host for Parts<M, S, G, F, V, R, A, W, T> {
    type Wait = W;
    type Account = A;
    type Trace = T;

    fn wait(&self) -> &W {
        &self.wait
    }
    fn account(&self) -> &A {
        &self.account
    }
    fn trace(&self) -> &T {
        &self.trace
    }
}

impl<M, S, G, F, V, R, A, W, T> GupHost for Parts<M, S, G, F, V, R, A, W, T>
where
    M: PhysMem,
    S: Mappings,
    G: WalkGuard,
    F: FaultIn,
    V: Migrate,
    R: Reclaim,
    A: Account,
    W: Wait,
    T: Trace,
{
    type Memory = M;
    type Mappings = S;
    type Guard = G;
    type Fault = F;
    type Migrate = V;
    type Reclaim = R;

    fn memory(&self) -> &M {
        &self.memory
    }
    fn mappings(&self) -> &S {
        &self.mappings
    }
    fn guard(&self) -> &G {
        &self.guard
    }
    fn fault(&self) -> &F {
        &self.fault
    }
    fn migrate(&self) -> &V {
        &self.migrate
    }
    fn reclaim(&self) -> &R {
        &self.reclaim
    }
}
