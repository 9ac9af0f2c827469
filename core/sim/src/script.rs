//! Scripts: what tests, fuzz targets and benches replay.
//!
//! Operands are small integers and taken modulo what there is, so that any script makes sense and
//! random ones meet each other. A step that cannot be done (no such file, nothing mapped) does
//! nothing. [`run`] executes a script against the engine and asks the [model](crate::model) after
//! every step; a [`Session`] does so step by step. [`Script::random`] makes scripts from a seed or
//! from bytes, and [`reduced`] finds the few steps that are to blame.

mod outcome;
mod play;
mod random;
mod reduce;
mod world;

pub use outcome::{Did, Failure, Outcome};
pub use play::{Session, layout, run, run_checking, run_on};
pub use reduce::reduced;

/// Steps, one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script(pub Vec<Op>);

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Something happens to the machine.
    Do(Deed),
    /// Something will happen during the n-th call of a host function from now on.
    During {
        /// Index into [`HostCall::ALL`](crate::HostCall::ALL).
        call: u8,
        /// 0 is the next call.
        nth: u16,
        /// What.
        deed: Deed,
    },
    /// The n-th call of a host function from now on will fail.
    Fail {
        /// Index into [`HostCall::FALLIBLE`](crate::HostCall::FALLIBLE).
        call: u8,
        /// 0 is the next call.
        nth: u16,
    },
    /// Pins pages.
    Pin {
        /// Which pin table. One that is in use is refused, and that is checked too.
        table: u8,
        /// What.
        part: Part,
        /// Whether the device writes.
        write: bool,
        /// For how long, and whether faults are allowed.
        how: How,
        /// Which account.
        account: u8,
        /// Give the table less memory than it may need.
        tight: bool,
    },
    /// Gives back what a table holds.
    Unpin {
        /// Which pin table.
        table: u8,
        /// Whether the device wrote.
        dirty: bool,
    },
    /// The device writes to a page and says so.
    Mark {
        /// Which pin table.
        table: u8,
        /// Which page of it, modulo what it has.
        page: u8,
    },
    /// From now on the engine pauses after so many entries: 2 to this power.
    Step(u8),
    /// Limits an account to so many pages.
    Limit {
        /// Which account.
        account: u8,
        /// Scaled like pages of a [`Part`]; 255 lifts the limit.
        pages: u8,
    },
}

/// How a pin is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// For long.
    Longterm,
    /// For long, and the holder lets go when asked.
    Revocable,
    /// For a moment.
    Short,
    /// For long, without faults.
    NoFault,
    /// For long, anonymous memory only.
    Anonymous,
}

/// A part of one of a space's mappings. Where something is to be mapped, and in a space without
/// mappings, a part of a window of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which space.
    pub space: u8,
    /// Which mapping of it, or which window.
    pub window: u8,
    /// First page: itself up to 15, above that in steps of 16.
    pub page: u8,
    /// Pages beyond the first, scaled the same way, but no further than the mapping; with bit 6
    /// set, as far as they go.
    pub pages: u8,
}

impl Part {
    /// The bit of `pages` that lets a part run past its mapping.
    pub const BEYOND: u8 = 0x40;
    /// Pages of a window.
    pub const WINDOW: u64 = 2048;

    /// A page number from an operand: 0 to 15, then multiples of 16 up to 2048.
    #[must_use]
    pub const fn scale(operand: u8) -> u64 {
        match operand {
            0..=127 => (operand & 15) as u64,
            _ => (operand as u64 - 127) * 16,
        }
    }
}

/// What a window can be filled with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Anonymous memory in base pages.
    Small,
    /// Anonymous memory that never becomes writable.
    ReadOnly,
    /// Anonymous memory in huge pages.
    Huge,
    /// Anonymous memory in huge pages that are mapped page by page.
    HugeSplit,
    /// Anonymous memory that reads as the huge zero folio.
    HugeZero,
    /// Private huge pages from the pool.
    Hugetlb,
    /// A file, shared.
    Shared(u8),
    /// A file, private.
    Private(u8),
    /// Device registers.
    Device,
}

/// Something that happens to the machine beside the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Maps something.
    Map(Part, What),
    /// Unmaps.
    Unmap(Part),
    /// Takes or gives rights: 0 none, 1 read, else all.
    Protect(Part, u8),
    /// The CPU reads every page.
    Read(Part),
    /// The CPU writes to every page.
    Write(Part),
    /// The CPU writes to every page of the huge page's worth of memory around the first page.
    Fill(Part),
    /// Forks a space, while there are few.
    Fork(u8),
    /// As the first half of a fork; inside a walk. The second half comes when the walk ends.
    ForkSlowly(u8),
    /// Ends a space. Not during a call.
    Exit(u8),
    /// Cuts or extends a file.
    Truncate(u8, u8),
    /// Drops clean caches.
    Shrink,
    /// Somebody takes a reference on the first page of the part.
    Get(Part),
    /// The oldest such reference goes.
    Put,
    /// Moves the folio of the first page: 0 pinnable, 1 anywhere, 2 CMA, 3 device-coherent.
    Move(Part, u8),
    /// Splits the entry that maps the first page.
    SplitMapping(Part),
    /// Splits the folio of the first page.
    SplitFolio(Part),
    /// Takes memory in one piece from the CMA area: this many pages and one.
    Contig(u8),
    /// Gives the oldest such piece back.
    FreeContig,
    /// Memory becomes short: takes this many pages, scaled; 255 all.
    Hog(u8),
    /// Memory is there again.
    Release,
    /// Puts the base pages around the first page together to a huge one.
    Collapse(Part),
    /// Takes the first page out of memory.
    SwapOut(Part),
    /// New pages wait in per-CPU lists of this size; 0: they do not.
    Batch(u8),
}
