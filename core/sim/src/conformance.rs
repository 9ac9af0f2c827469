//! A kit for embedders: does my host keep what it owes?
//!
//! What an embedder owes is written in [`pinfold::host::duties`]. Much of it can be seen from outside:
//! give the kit your own host and a few deeds on it, and it looks. Put it into your own tests:
//!
//! ```
//! use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
//! use pinfold::host::{Mapping, Mappings, Parts, PhysMem, SpaceId, TableView};
//! use pinfold::sync::{Ordering, Word};
//! use pinfold::*;
//! use pinfold_sim::conformance::{self, Memory, Subject};
//!
//! /// Five frames: tables in 0 to 3, and one page of memory in 4.
//! struct Ram(Vec<Word>);
//! impl PhysMem for Ram {
//!     fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
//!         let first = usize::try_from(base.raw() / 8).ok()?;
//!         let words = self.0.get(first..first.checked_add(entries)?)?;
//!         Some(TableView::from_words(words))
//!     }
//! }
//!
//! /// One private mapping of one page.
//! struct Vmas;
//! # fn range() -> AddrRange {
//! #     AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_4K).unwrap()
//! # }
//! impl Mappings for Vmas {
//!     fn mapping(&self, _: SpaceId, va: VirtAddr) -> Option<Mapping> {
//!         let (kind, shared) = (pinfold::host::MappingKind::Anonymous, false);
//!         let (access, may_write, dirty_tracked) = (Access::all(), true, false);
//!         let mapping = Mapping { range: range(), kind, shared, access, may_write, dirty_tracked };
//!         range().contains(va).then_some(mapping)
//!     }
//! }
//!
//! struct Mine {
//!     host: Parts<Ram, Vmas>,
//!     frames: Vec<Word>,
//! }
//! impl Subject for Mine {
//!     type Host = Parts<Ram, Vmas>;
//!     type Format = X86_64;
//!     type Space = Box<AddressSpace<X86_64>>;
//!
//!     fn host(&self) -> &Self::Host { &self.host }
//!     fn frames(&self) -> FrameTable<'_> {
//!         FrameTable::new(&self.frames, Pfn::new(0), PageShift::SIZE_4K).unwrap()
//!     }
//!     fn map(&self, memory: Memory, pages: u64) -> Option<(Self::Space, AddrRange)> {
//!         if memory != Memory::Private || pages != 1 { return None }
//!         let format = X86_64::new(4, 40).ok()?;
//!         Some((Box::new(AddressSpace::new(SpaceId(0), format, format.root(0).ok()?)), range()))
//!     }
//!     // What else you have: fork, unmap, a device, ...
//! }
//!
//! let ram = Ram((0..5 * 512).map(|_| Word::new(0)).collect());
//! for (entry, raw) in [(0, 0x1007), (512, 0x2007), (1024, 0x3007), (1536, 0x4067)] {
//!     ram.0[entry].store(raw, Ordering::Relaxed);
//! }
//! let frames = (0..10).map(|_| Word::new(0)).collect();
//! let mine = Mine { host: Parts::new(ram, Vmas), frames };
//! let (order, kind, flags) = (Order::ZERO, FolioKind::Anonymous, FolioFlags::EXCLUSIVE);
//! mine.frames().add_memory(Pfn::new(4), FolioInfo { order, kind, flags })?.unfreeze(1);
//!
//! let report = conformance::run(&mine);
//! println!("{report}");
//! assert_eq!(report.broken().count(), 0, "{report}");
//! assert!(report.kept().any(|duty| duty == "mapping-lookup"));
//! assert!(report.not_checked().any(|(duty, _)| duty == "fork-brackets")); // it cannot fork
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The kit works in one thread, so it cannot see how two deeds interleave. The page of duties
//! says of each whether the kit checks it.

use std::fmt;
use std::ops::Deref;

use pinfold::host::{GupHost, MappingKind};
use pinfold::{AccountId, AddrRange, AddressSpace, FrameTable, PageFormat, PhysAddr, VirtAddr};

mod checks;
mod kit;

pub use checks::DUTIES;

/// What to map. All of it readable and writable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Memory {
    /// Private anonymous memory: what most checks need.
    Private,
    /// Shared memory without a disk behind it.
    Shared,
    /// A shared file whose file system must hear of every page that is dirtied.
    TrackedFile,
    /// A shared file on persistent memory that it is mapped straight onto.
    FsDax,
    /// Memory hidden from the kernel itself.
    Secret,
    /// Device registers.
    Device,
}

impl Memory {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Private, Self::Shared, Self::TrackedFile, Self::FsDax, Self::Secret, Self::Device];

    /// What its mapping must say.
    fn kind(self) -> MappingKind {
        match self {
            Self::Private => MappingKind::Anonymous,
            Self::Shared => MappingKind::Shmem,
            Self::TrackedFile => MappingKind::File,
            Self::FsDax => MappingKind::FsDax,
            Self::Secret => MappingKind::Secret,
            Self::Device => MappingKind::Device,
        }
    }
}

/// An embedder, as the kit needs it: its host, its frames, and deeds that change memory.
///
/// The first three functions are required. Every other one may be left out: it then answers `None`,
/// which means "not to be had here", and the report names the checks that were left out for it.
/// `Some` means done. A deed that fails although it exists should panic: that is a failed test.
///
/// Deeds do what the embedder's own system does in that case, brackets and all. The kit calls them
/// with no walk guard held but for [`unmap_in_walk`](Self::unmap_in_walk).
pub trait Subject {
    /// The host under test.
    type Host: GupHost;
    /// The format of its page tables.
    type Format: PageFormat;
    /// How it hands out address spaces: a reference, a `Box`, an `Arc`.
    type Space: Deref<Target = AddressSpace<Self::Format>>;

    /// The host.
    fn host(&self) -> &Self::Host;

    /// Its frame table.
    fn frames(&self) -> FrameTable<'_>;

    /// Maps so many pages of such memory in a space of their own, and says where. The pages need
    /// not be present. Checks ask for one page, or for two.
    ///
    /// A host on which nothing can be unmapped or forked may give the same pages each time.
    fn map(&self, memory: Memory, pages: u64) -> Option<(Self::Space, AddrRange)>;

    /// Unmaps pages.
    fn unmap(&self, space: &Self::Space, range: AddrRange) -> Option<()> {
        let _ = (space, range);
        None
    }

    /// Unmaps pages, then uses what has become free for tables and pages of another space, at
    /// other addresses. The calling thread is inside the walk guard: leave this out if unmapping
    /// waits for walks to end.
    fn unmap_in_walk(&self, space: &Self::Space, range: AddrRange) -> Option<()> {
        let _ = (space, range);
        None
    }

    /// Forks: the child shares private memory until one of the two writes.
    fn fork(&self, space: &Self::Space) -> Option<Self::Space> {
        let _ = space;
        None
    }

    /// What the process reads, with faults.
    fn load(&self, space: &Self::Space, va: VirtAddr) -> Option<u8> {
        let _ = (space, va);
        None
    }

    /// Has the process write, with faults.
    fn store(&self, space: &Self::Space, va: VirtAddr, byte: u8) -> Option<()> {
        let _ = (space, va, byte);
        None
    }

    /// What a device reads.
    fn device_load(&self, at: PhysAddr) -> Option<u8> {
        let _ = at;
        None
    }

    /// Has a device write.
    fn device_store(&self, at: PhysAddr, byte: u8) -> Option<()> {
        let _ = (at, byte);
        None
    }

    /// Moves the page at `va` to where nothing may be pinned for long: a CMA area, a movable zone.
    fn misplace(&self, space: &Self::Space, va: VirtAddr) -> Option<()> {
        let _ = (space, va);
        None
    }

    /// Leaves a reference to the page at `va` in a cache of your own that keeps references for a
    /// moment, such as a per-CPU list.
    fn cache_reference(&self, space: &Self::Space, va: VirtAddr) -> Option<()> {
        let _ = (space, va);
        None
    }

    /// Whether this thread holds any lock of the embedder's own.
    fn lock_held(&self) -> Option<bool> {
        None
    }

    /// Whether what could come to a spin lock on this CPU is masked.
    fn masked(&self) -> Option<bool> {
        None
    }

    /// Takes back all memory that can be had, as when memory is short.
    fn shrink(&self) -> Option<()> {
        None
    }

    /// Pages that an account is charged.
    fn charged(&self, account: AccountId) -> Option<u64> {
        let _ = account;
        None
    }

    /// Pages that are free.
    fn free_pages(&self) -> Option<u64> {
        None
    }
}

/// What came of the check of one duty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing wrong was seen.
    Kept,
    /// It is broken, and this is what was seen.
    Broken(String),
    /// It was not checked, for want of this.
    NotChecked(String),
}

/// What came of all checks, each under the name of its duty.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Report {
    outcomes: Vec<(&'static str, Outcome)>,
}

impl Report {
    /// Every duty that has a check, with what came of it.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        self.outcomes.iter().map(|(duty, outcome)| (*duty, outcome))
    }

    /// The duties that are kept.
    pub fn kept(&self) -> impl Iterator<Item = &'static str> {
        self.outcomes().filter(|(_, outcome)| **outcome == Outcome::Kept).map(|(duty, _)| duty)
    }

    /// The duties that are broken, and what was seen.
    pub fn broken(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.outcomes().filter_map(|(duty, outcome)| match outcome {
            Outcome::Broken(seen) => Some((duty, seen.as_str())),
            _ => None,
        })
    }

    /// The duties that were not checked, and for want of what.
    pub fn not_checked(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.outcomes().filter_map(|(duty, outcome)| match outcome {
            Outcome::NotChecked(want) => Some((duty, want.as_str())),
            _ => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (duty, outcome) in self.outcomes() {
            match outcome {
                Outcome::Kept => writeln!(f, "{duty}: kept")?,
                Outcome::Broken(seen) => writeln!(f, "{duty}: BROKEN: {seen}")?,
                Outcome::NotChecked(want) => writeln!(f, "{duty}: not checked: {want}")?,
            }
        }
        Ok(())
    }
}

/// Checks every duty that can be seen from outside.
pub fn run<S: Subject>(subject: &S) -> Report {
    Report { outcomes: checks::all(subject) }
}
