//! The tables of an IOMMU: which memory a device finds behind its addresses.
//!
//! [`IoPageTable`] keeps a tree of tables in any [`IoFormat`]. It maps [`IoRun`]s of memory with the largest
//! leaves that the format has and the run allows, and takes a range out in pieces as large as the caller's
//! buffer. What was taken out may be used by the device until its IOMMU has been flushed: so
//! an [`Unmapped`] comes between, and tables go back to the host only behind it.
//!
//! Who maps and unmaps different ranges need not know of each other. The same range belongs to one of
//! them at a time.
//!
//! ```
//! use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
//! use pinfold::{Access, IovaRange, PhysAddr};
//! use pinfold_arch::{IoFlags, Iova, Vtd};
//! use pinfold_sim::TableMemory;
//!
//! let memory = TableMemory::new(1 << 20);
//! let table = IoPageTable::new(Vtd::new(4, 46)?, &memory)?;
//! let run = IoRun { addr: PhysAddr::new(0x4020_0000), bytes: 3 << 20 };
//! table.map(&memory, Iova::new(0x20_0000), &[run], Access::all(), IoFlags::empty())?;
//! let found = table.translate(&memory, Iova::new(0x20_1234))?.unwrap();
//! assert_eq!((found.addr, found.shift.raw()), (PhysAddr::new(0x4020_1234), 21));
//!
//! let range = IovaRange::new(Iova::new(0x20_0000), 3 << 20)?;
//! let mut unmap = table.unmap(&memory, range)?;
//! let mut runs = heapless::Vec::<UnmappedRun, 512>::new();
//! while let Some(unmapped) = unmap.step(&memory, &mut runs)? {
//!     // Here the IOMMU is told to forget `unmapped.range()`. Then:
//!     let quiesced = unmapped.flushed(&memory);
//!     let [released] = quiesced.runs() else { panic!("one run") };
//!     assert_eq!((released.addr, released.bytes), (run.addr, run.bytes)); // may be unpinned now
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::marker::PhantomData;

use pinfold_arch::addr::index;
use pinfold_arch::ioformat::MAX_IO_LEVELS;
use pinfold_arch::{
    Access, EncodeError, IoEntry, IoFlags, IoFormat, IoTable, Iova, PageShift, PhysAddr,
};

use crate::error::ErrorKind;
use crate::host::{IoTables, TableView};
use crate::iova::IovaRange;
use crate::sync::{Ordering, Word};

mod budget;
mod cursor;
mod dirty;
mod entry;
mod leaves;
mod map;
mod replace;
mod split;
mod tree;
mod trim;
mod unmap;
mod unmapped;
mod visit;

pub(crate) use budget::Budget;
pub(crate) use map::MapFailed;

pub use dirty::{DirtyBitmap, Harvest};
pub use replace::Replace;
pub use unmap::Unmap;
pub(crate) use unmapped::Removed;
pub use unmapped::{Quiesced, Unmapped};
pub use visit::Visited;

/// Memory for a device to use: consecutive bytes that are pinned and released together.
///
/// No leaf reaches over the end of a run: what may be released alone is a run of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoRun {
    /// First byte.
    pub addr: PhysAddr,
    /// Length.
    pub bytes: u64,
}

/// Memory that a device could use, and cannot any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnmappedRun {
    /// Where it was mapped.
    pub at: Iova,
    /// First byte.
    pub addr: PhysAddr,
    /// Length.
    pub bytes: u64,
    /// Whether the device was allowed to write to it.
    pub writable: bool,
    /// The same; but while [tracking](IoPageTable::start_tracking), whether hardware says that it wrote
    /// to any of it since the marks were taken away last.
    pub dirty: bool,
}

/// Where a device address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoTranslation {
    /// The byte in memory.
    pub addr: PhysAddr,
    /// Size of the leaf that maps it.
    pub shift: PageShift,
    /// What all entries on the way allow together.
    pub access: Access,
    /// The leaf's marks.
    pub flags: IoFlags,
}

/// The tables of one device address space. `O` says who flushes, and so may say that it was done:
/// [`OfCaller`] or [`OfDomain`].
#[derive(Debug)]
pub struct IoPageTable<F, O = OfCaller> {
    /// With as many levels as at the beginning.
    format: F,
    /// Where the top table is, with the number of levels in the low bits: whoever reads one has the other,
    /// while the tree grows. Written by [`grow`](Self::grow); the release there makes the table behind it
    /// complete for the acquire in [`tree`](Self::tree).
    root: Word,
    /// Tables that the host gave and that it has not got back. Written by everybody who maps or
    /// unmaps; says nothing about the order of anything else.
    live: Word,
    /// What was unmapped and not flushed. As `live`.
    unflushed: Word,
    /// Calls that have written links and not said so yet; see `Cursor::making`.
    linking: Word,
    /// Whether it is asked which pages were written: 1 or 0. Written by who starts and stops that, which
    /// devices and unmapping callers need not see at once.
    tracking: Word,
    owner: PhantomData<O>,
}

/// Whose caller flushes, and says so: [`Unmapped::flushed`].
#[derive(Clone, Copy, Debug)]
pub enum OfCaller {}

/// Which a [`Domain`](crate::Domain) has: it flushes, and tells of what is mapped.
#[derive(Clone, Copy, Debug)]
pub enum OfDomain {}

/// Bits of the root's word that say how many levels there are.
const LEVELS: u64 = 7;

/// Why tables were not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoptError {
    /// The address, or the length of a run, is not a multiple of the format's smallest page.
    #[error("{at} or the memory for it is not page aligned")]
    Unaligned {
        /// The device address.
        at: Iova,
    },
    /// The format does not translate the address, or addresses would wrap.
    #[error("what begins at {at} goes beyond what the tables translate")]
    OutsideAperture {
        /// The device address, or where the run or range begins that goes beyond.
        at: Iova,
    },
    /// Something is mapped there already.
    #[error("{at} is mapped already")]
    Mapped {
        /// The device address.
        at: Iova,
    },
    /// The range ends inside a leaf.
    #[error("the range ends inside the page at {at}")]
    InsideLeaf {
        /// Where that leaf begins.
        at: Iova,
        /// Its size.
        shift: PageShift,
    },
    /// The format has no entry for the memory or the access.
    #[error("no entry for {at}: {why}")]
    Encode {
        /// The device address.
        at: Iova,
        /// What cannot be said.
        why: EncodeError,
    },
    /// A leaf reaches over an end of the range, and it cannot be split while it is in use: the format
    /// cannot, or has no smaller one.
    #[error("the page at {at} cannot be split")]
    Indivisible {
        /// Where that leaf begins.
        at: Iova,
        /// Its size.
        shift: PageShift,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {at}")]
    NotMapped {
        /// The device address.
        at: Iova,
    },
    /// The format has no marks, or it does not have them on.
    #[error("the tables have no marks for pages that were written")]
    NoMarks,
    /// `pause` stopped the call.
    #[error("interrupted")]
    Interrupted,
    /// The buffer for what is unmapped has no room.
    #[error("the buffer for runs has no room")]
    NoBuffer,
    /// The host has no memory for a table.
    #[error("no memory for a table")]
    NoMemory,
    /// The tables became corrupt while a call that failed took out what it had mapped: from this address on it
    /// is mapped still, and the memory may not be released.
    #[error("what was mapped at {at} and behind could not be taken out again")]
    NotUndone {
        /// The device address.
        at: Iova,
    },
    /// An entry on the way is malformed, or a table is outside memory.
    #[error("the table entry {raw:#x} on the way to {at} is corrupt")]
    Corrupt {
        /// The device address.
        at: Iova,
        /// The entry, in host byte order.
        raw: u64,
    },
}

impl IoptError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unaligned { .. }
            | Self::OutsideAperture { .. }
            | Self::InsideLeaf { .. }
            | Self::Indivisible { .. }
            | Self::NoMarks
            | Self::NoBuffer
            | Self::Encode { .. } => ErrorKind::InvalidArgument,
            Self::Mapped { .. } => ErrorKind::Busy,
            Self::NotMapped { .. } => ErrorKind::NotMapped,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::NoMemory => ErrorKind::NoMemory,
            Self::Corrupt { .. } | Self::NotUndone { .. } => ErrorKind::Corrupt,
        }
    }
}

impl<F: IoFormat> IoPageTable<F> {
    /// Tables that map nothing: the top one, in memory of the host's.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause), which cannot stop it.
    ///
    /// # Errors
    /// [`IoptError::NoMemory`]; [`IoptError::Corrupt`] if the memory that the host gives is not in its
    /// memory or not aligned.
    pub fn new<T: IoTables>(format: F, tables: &T) -> Result<Self, IoptError> {
        let live = Word::new(0);
        let shape = format.top(PhysAddr::new(0));
        let (root, _) = tree::allocate(&format, tables, &live, shape, Iova::new(0))?;
        Ok(Self::with_root(format, root.base, live))
    }

    /// The tables under `top`, which somebody has made: a tree, in which nothing leads to a table twice. Where
    /// anything is given back, [`IoTables::free`] gets tables of these.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause). Nobody maps or unmaps meanwhile.
    ///
    /// # Errors
    /// [`IoptError::Corrupt`] if a table is outside the host's memory or holds an entry that is malformed, or if
    /// the top one is not aligned to its size;
    /// [`IoptError::Interrupted`] if `pause` said so.
    pub fn open<T: IoTables>(format: F, tables: &T, top: PhysAddr) -> Result<Self, IoptError> {
        let root = format.top(top);
        if top.raw() & (tree::memory(&root) - 1) != 0 {
            return Err(IoptError::Corrupt { at: Iova::new(0), raw: top.raw() });
        }
        let mut live = 1;
        let mut budget = Budget::new(tables, 0);
        tree::tables_below(&format, (&mut budget, true), &root, &mut |_| live += 1)?;
        Ok(Self::with_root(format, top, Word::new(live)))
    }

    fn with_root(format: F, top: PhysAddr, live: Word) -> Self {
        let root = Word::new(top.raw() | u64::from(format.levels()));
        let [unflushed, linking, tracking] = [0; 3].map(Word::new);
        Self { format, root, live, unflushed, linking, tracking, owner: PhantomData }
    }

    /// The same tables, which a domain has from now on.
    pub(crate) fn of_domain(self) -> IoPageTable<F, OfDomain> {
        let Self { format, root, live, unflushed, linking, tracking, owner: _ } = self;
        IoPageTable { format, root, live, unflushed, linking, tracking, owner: PhantomData }
    }

    /// Adds levels until `last` is translated, as few as it takes; none if it is already. What is mapped stays
    /// where it is. A device uses the new tables when its root entry names [`root`](Self::root) with
    /// [`format`](Self::format), and until then it finds below the old top table what is there.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause), which cannot stop it. Others map, unmap and
    /// translate meanwhile; but nobody trims or unmaps all that the old top table maps before every root
    /// entry is written and the IOMMU has forgotten the old ones.
    ///
    /// # Errors
    /// [`IoptError::OutsideAperture`] if the format has no more levels, [`IoptError::NoMemory`],
    /// [`IoptError::Corrupt`] as in [`new`](Self::new). Nothing has changed.
    pub fn grow<T: IoTables>(&self, tables: &T, last: Iova) -> Result<(), IoptError> {
        self.grow_to(tables, last)
    }
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// The format and the top table, of one moment.
    fn tree(&self) -> (F, IoTable) {
        self.tree_of(self.root.load(Ordering::Acquire))
    }

    /// What a value of the root's word says.
    fn tree_of(&self, root: u64) -> (F, IoTable) {
        let format = self.format.with_levels((root & LEVELS) as u8).unwrap_or(self.format);
        (format, format.top(PhysAddr::new(root & !LEVELS)))
    }

    /// The format, with the levels that there are now.
    #[must_use]
    pub fn format(&self) -> F {
        self.tree().0
    }

    /// The top table, to be named in the device's root entry.
    #[must_use]
    pub fn root(&self) -> IoTable {
        self.tree().1
    }

    /// Tables that the host gave and that it has not got back.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// How often something was unmapped and nobody has said that it was flushed: what is under way, and
    /// [`Unmapped`]s that were forgotten.
    #[must_use]
    pub fn unflushed(&self) -> u64 {
        self.unflushed.load(Ordering::Relaxed)
    }

    /// Adds levels until `last` is translated.
    pub(crate) fn grow_to<T: IoTables>(&self, tables: &T, last: Iova) -> Result<(), IoptError> {
        loop {
            let raw = self.root.load(Ordering::Acquire);
            let tree = self.tree_of(raw);
            if last <= tree.0.last() {
                return Ok(());
            }
            let mut made = heapless::Vec::<IoTable, MAX_IO_LEVELS>::new();
            let grown = self.taller(tables, tree, last, &mut made).map(|new| {
                let (done, seen) = (Ordering::AcqRel, Ordering::Relaxed);
                self.root.compare_exchange(raw, new, done, seen).is_ok()
            });
            // Somebody else was faster: it may be high enough by now.
            if grown != Ok(true) {
                made.iter().for_each(|table| tree::release(tables, &self.live, table));
            }
            if grown? {
                return Ok(());
            }
        }
    }

    /// Tables above a tree, until `last` is translated: the value of the root's word for them.
    fn taller<T: IoTables>(
        &self,
        tables: &T,
        (mut format, mut root): (F, IoTable),
        last: Iova,
        made: &mut heapless::Vec<IoTable, MAX_IO_LEVELS>,
    ) -> Result<u64, IoptError> {
        let (start, outside) = (Iova::new(0), IoptError::OutsideAperture { at: last });
        while last > format.last() {
            let more = format.levels().checked_add(1).and_then(|more| format.with_levels(more));
            format = more.ok_or(outside)?;
            let shape = format.top(PhysAddr::new(0));
            let (top, view) = tree::allocate(&format, tables, &self.live, shape, start)?;
            // No format has more levels than there is room for.
            made.push(top).map_err(|_| outside)?;
            let link = format.encode(&top, 0, IoEntry::Table(root, Access::all()));
            let link = link.map_err(|why| IoptError::Encode { at: start, why })?;
            view.store(0, entry::in_memory(&format, link));
            tables.written(top.base, 8);
            root = top;
        }
        Ok(root.base.raw() | u64::from(format.levels()))
    }

    /// Where `at` leads, `None` where nothing is mapped.
    ///
    /// # Context
    /// Any. No table that has been unmapped meanwhile may be given back before this returns.
    ///
    /// # Errors
    /// [`IoptError::OutsideAperture`], [`IoptError::Corrupt`].
    pub fn translate<T: IoTables>(
        &self,
        tables: &T,
        at: Iova,
    ) -> Result<Option<IoTranslation>, IoptError> {
        let (format, mut table) = self.tree();
        if at > format.last() {
            return Err(IoptError::OutsideAperture { at });
        }
        let mut access = Access::all();
        loop {
            let view = view(tables, &table, at)?;
            match entry::entry(&format, &table, &view, at)? {
                IoEntry::Absent => return Ok(None),
                IoEntry::Table(next, most) => (table, access) = (next, access & most),
                IoEntry::Leaf(leaf) => {
                    let addr = leaf.addr.checked_add(at.raw() & leaf.shift.mask());
                    let (shift, flags) = (leaf.shift, leaf.flags);
                    let access = access & leaf.access;
                    return Ok(addr.map(|addr| IoTranslation { addr, shift, access, flags }));
                }
                IoEntry::Malformed => return Err(IoptError::Corrupt { at, raw: 0 }),
            }
        }
    }

    /// Gives back all tables, whatever they map.
    ///
    /// # Context
    /// Any, but for [`Wait::pause`](crate::host::Wait::pause). No IOMMU uses the tables any more.
    ///
    /// # Errors
    /// [`IoptError::Corrupt`]: what is behind a corrupt entry was not given back, everything else was.
    pub fn destroy<T: IoTables>(self, tables: &T) -> Result<(), IoptError> {
        let (format, root) = self.tree();
        let mut budget = Budget::for_all(tables, self.tables());
        let mut release = |table: &IoTable| tree::release(tables, &self.live, table);
        let result = tree::tables_below(&format, (&mut budget, false), &root, &mut release);
        release(&root);
        result
    }

    /// Whether the tables translate a range, and it is made of pages.
    fn aligned(&self, range: IovaRange) -> Result<(), IoptError> {
        let format = self.format();
        if range.last() > format.last() {
            return Err(IoptError::OutsideAperture { at: range.last() });
        }
        match range.is_aligned(format.base()) {
            true => Ok(()),
            false => Err(IoptError::Unaligned { at: range.start() }),
        }
    }

    /// The first leaf that reaches over an end of a range: where it begins, and its size.
    fn cut<T: IoTables>(
        &self,
        tables: &T,
        range: IovaRange,
    ) -> Result<Option<(Iova, PageShift)>, IoptError> {
        for edge in [range.start(), range.last()] {
            let Some(found) = self.translate(tables, edge)? else { continue };
            let (first, shift) = (edge.align_down(found.shift), found.shift);
            if !range.covers(first, Iova::new(first.raw() | shift.mask())) {
                return Ok(Some((first, shift)));
            }
        }
        Ok(None)
    }
}

/// The entries of a table.
fn view<'m, T: IoTables>(
    tables: &'m T,
    table: &IoTable,
    at: Iova,
) -> Result<TableView<'m>, IoptError> {
    let entries = index(table.entries().into());
    let view = tables.table(table.base, entries).filter(|view| view.len() == entries);
    view.ok_or(IoptError::Corrupt { at, raw: table.base.raw() })
}
