//! IOMMUs and devices that keep what they have read, for as long as they may: the hardware around a domain at
//! its worst.
//!
//! An [`Iommu`] keeps leaves, pointers to tables and, if so made, that nothing was there. An [`AtsDevice`]
//! keeps what its IOMMU answered. Both go on using what they keep until an invalidation of it has come to
//! its end. A [`Journal`] says in which order they were asked, and has one of these calls time out.
//!
//! ```
//! use pinfold::iopt::{IoPageTable, IoRun};
//! use pinfold::{Access, Domain, PhysAddr};
//! use pinfold_arch::{IoFlags, Iova, Vtd};
//! use pinfold_sim::TableMemory;
//! use pinfold_sim::tlb::{AtsDevice, Iommu, Journal};
//!
//! let (memory, journal) = (TableMemory::new(1 << 20), Journal::new());
//! let iommu = Iommu::new("iommu", &memory, &journal);
//! let device = AtsDevice::new("device", &iommu);
//! let mut domain: Domain<'_, Vtd> = Domain::new(IoPageTable::new(Vtd::new(4, 46)?, &memory)?);
//! domain.attach_iommu(&iommu)?;
//! domain.attach_device(&device)?;
//! iommu.enter(domain.table().format(), domain.table().root());
//!
//! let run = IoRun { addr: PhysAddr::new(0x8000), bytes: 0x1000 };
//! domain.map(&memory, Iova::new(0x1000), [run], Access::all(), IoFlags::empty())?;
//! assert_eq!(device.access(Iova::new(0x1004), true), Ok(PhysAddr::new(0x8004)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pinfold::host::{FlushError, IoTlb, Kept, PhysMem};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::addr::index;
use pinfold_arch::{IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova};

use crate::iotables::TableMemory;
use crate::lock::lock;

/// Why a device did not get through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing is mapped at the address, the access is not granted, or there is no root entry.
    #[error("{at} is blocked")]
    Blocked {
        /// The address.
        at: Iova,
    },
    /// The walk came to a table that was given back: whoever has that memory now decides where the device
    /// writes.
    #[error("on the way to {at} stands the table {table}, which was given back")]
    FreedTable {
        /// The address.
        at: Iova,
        /// The table.
        table: PhysAddr,
    },
}

/// What somebody was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// To begin to forget.
    Invalidate(IovaRange, Kept),
    /// To say when that is done.
    Complete,
}

/// What IOMMUs and devices were asked, in order; and which of these calls fails.
#[derive(Debug, Default)]
pub struct Journal {
    calls: Mutex<Vec<(&'static str, Asked)>>,
    /// The number of the call that fails next, counted from 1.
    fail: AtomicU64,
}

impl Journal {
    /// An empty one, in which no call fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was asked since the last call of this.
    #[must_use]
    pub fn take(&self) -> Vec<(&'static str, Asked)> {
        self.fail(0);
        std::mem::take(&mut *lock(&self.calls))
    }

    /// How many calls are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        lock(&self.calls).len() as u64
    }

    /// Whether nobody was asked anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets the n-th call from now on time out, and all others succeed; 0 is none.
    pub fn fail(&self, nth: u64) {
        let calls = lock(&self.calls).len() as u64;
        self.fail.store(if nth == 0 { 0 } else { calls + nth }, Ordering::Relaxed);
    }

    fn asked(&self, who: &'static str, what: Asked) -> Result<(), FlushError> {
        let mut calls = lock(&self.calls);
        calls.push((who, what));
        if calls.len() as u64 == self.fail.load(Ordering::Relaxed) {
            Err(FlushError)
        } else {
            Ok(())
        }
    }
}

/// Something that is kept of a range.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Leaf(IoLeaf),
    /// Nothing is there; and whether a table would have to come there first.
    Absent {
        above: bool,
    },
    Table(IoTable, Access),
}

/// What one of them keeps, and what it was asked to forget.
#[derive(Debug, Default)]
struct Cache {
    entries: Vec<(IovaRange, Entry)>,
    queue: Vec<(IovaRange, Kept)>,
}

impl Cache {
    /// What it keeps of an address: a leaf or that there is none, else the lowest table on the way.
    fn find(&self, at: Iova) -> Option<(IovaRange, Entry)> {
        let here = self.entries.iter().filter(|(range, _)| range.covers(at, at));
        here.min_by_key(|(range, _)| range.last().raw() - range.start().raw()).copied()
    }

    fn keep(&mut self, at: Iova, shift: PageShift, entry: Entry) {
        let (start, last) = (at.raw() & !shift.mask(), at.raw() | shift.mask());
        let range = IovaRange::between(Iova::new(start), Iova::new(last)).expect("in this order");
        self.entries.push((range, entry));
    }

    /// Forgets what overlaps a range, and of tables above the leaves only what it must. Gives the addresses
    /// of which it knew where they lead.
    fn forget(&mut self, range: IovaRange, kept: Kept) -> Vec<Iova> {
        let mut known = Vec::new();
        self.entries.retain(|(own, entry)| {
            let apart = own.last() < range.start() || range.last() < own.start();
            let above = matches!(entry, Entry::Table(..) | Entry::Absent { above: true });
            let stays = apart || above && kept == Kept::Leaves;
            if !stays && !matches!(entry, Entry::Table(..)) {
                known.push(own.start().max(range.start()));
            }
            stays
        });
        known
    }
}

/// An IOMMU. It serves one domain.
#[derive(Debug)]
pub struct Iommu<'t, F> {
    name: &'static str,
    memory: &'t TableMemory,
    journal: &'t Journal,
    root: Mutex<Option<(F, IoTable)>>,
    cache: Mutex<Cache>,
    keeps_absent: bool,
}

impl<'t, F: IoFormat> Iommu<'t, F> {
    /// One that walks tables in this memory, without a root entry. The name is for the journal.
    #[must_use]
    pub fn new(name: &'static str, memory: &'t TableMemory, journal: &'t Journal) -> Self {
        let (root, cache) = (Mutex::new(None), Mutex::default());
        Self { name, memory, journal, root, cache, keeps_absent: false }
    }

    /// One that keeps also that nothing was there.
    #[must_use]
    pub fn keeping_absent(self) -> Self {
        Self { keeps_absent: true, ..self }
    }

    /// Writes the root entry. What is kept stays.
    pub fn enter(&self, format: F, root: IoTable) {
        *lock(&self.root) = Some((format, root));
    }

    /// Clears the root entry: what is not kept is blocked.
    pub fn leave(&self) {
        *lock(&self.root) = None;
    }

    /// Where a device's access leads.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn access(&self, at: Iova, write: bool) -> Result<PhysAddr, Fault> {
        reached(self.translation(at, write)?, at, write)
    }

    /// The leaf of an address: what is kept, or what the walk from the lowest kept table finds. A write
    /// marks the leaf, if the format has marks and it is not known to have one.
    fn translation(&self, at: Iova, write: bool) -> Result<IoLeaf, Fault> {
        let blocked = Fault::Blocked { at };
        let mut cache = lock(&self.cache);
        let found = cache.find(at);
        if let Some((_, Entry::Absent { .. })) = found {
            return Err(blocked);
        }
        if let Some((_, Entry::Leaf(leaf))) = found
            && (!write || !self.can_mark(leaf) || leaf.flags.contains(IoFlags::DIRTY))
        {
            return Ok(leaf);
        }
        let (format, top) = (*lock(&self.root)).ok_or(blocked)?;
        if at > format.last() {
            return Err(blocked);
        }
        let (mut table, mut access) = match found {
            Some((_, Entry::Table(table, access))) => (table, access),
            _ => (top, Access::all()),
        };
        loop {
            let freed = Fault::FreedTable { at, table: table.base };
            let place = index(u64::from(table.index(at)));
            let view = self.memory.table(table.base, index(u64::from(table.entries())));
            let view = view.ok_or(freed)?;
            let order = |raw: u64| if format.big_endian() { raw.to_be() } else { raw.to_le() };
            let stored = view.load(place).ok_or(freed)?;
            match format.decode(&table, order(stored)) {
                IoEntry::Table(next, most) => {
                    access &= most;
                    cache.keep(at, table.shift, Entry::Table(next, access));
                    table = next;
                }
                IoEntry::Leaf(mut leaf) => {
                    if write && leaf.access.contains(Access::WRITE) && self.can_mark(leaf) {
                        leaf.flags |= IoFlags::DIRTY;
                        let entry = table.index(at);
                        let marked = format.encode(&table, entry, IoEntry::Leaf(leaf));
                        // Somebody may have changed it: then the device looks again.
                        if !marked.is_ok_and(|raw| view.replace(place, stored, order(raw))) {
                            continue;
                        }
                    }
                    leaf.access &= access;
                    cache.forget(IovaRange::between(at, at).expect("one byte"), Kept::Leaves);
                    cache.keep(at, leaf.shift, Entry::Leaf(leaf));
                    return Ok(leaf);
                }
                IoEntry::Absent => {
                    if self.keeps_absent {
                        let above = format.below(&table, table.base).is_some();
                        cache.keep(at, table.shift, Entry::Absent { above });
                    }
                    return Err(blocked);
                }
                IoEntry::Malformed => return Err(blocked),
            }
        }
    }

    /// Whether a write sets a mark in a leaf.
    fn can_mark(&self, leaf: IoLeaf) -> bool {
        let marks = lock(&self.root).is_some_and(|(format, _)| format.volatile_bits() != 0);
        marks && leaf.access.contains(Access::WRITE)
    }
}

/// The byte that a leaf leads to, if it grants the access.
fn reached(leaf: IoLeaf, at: Iova, write: bool) -> Result<PhysAddr, Fault> {
    let asked = if write { Access::WRITE } else { Access::READ };
    let addr = leaf.addr.checked_add(at.raw() & leaf.shift.mask());
    addr.filter(|_| leaf.access.contains(asked)).ok_or(Fault::Blocked { at })
}

impl<F: IoFormat + Send + Sync> IoTlb for Iommu<'_, F> {
    fn keeps_absent(&self) -> bool {
        self.keeps_absent
    }

    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        self.journal.asked(self.name, Asked::Invalidate(range, kept))?;
        lock(&self.cache).queue.push((range, kept));
        Ok(())
    }

    /// After a failure nothing of what was begun is done, now or later.
    fn complete(&self) -> Result<(), FlushError> {
        let mut cache = lock(&self.cache);
        let queue = std::mem::take(&mut cache.queue);
        self.journal.asked(self.name, Asked::Complete)?;
        queue.into_iter().for_each(|(range, kept)| drop(cache.forget(range, kept)));
        Ok(())
    }
}

/// A device with a TLB of its own, always busy: of each address that it must forget it asks its IOMMU
/// again at once.
pub struct AtsDevice<'t, F> {
    name: &'static str,
    iommu: &'t Iommu<'t, F>,
    cache: Mutex<Cache>,
    /// Whether an invalidation takes place as soon as it is begun, and not only when it is waited for.
    at_once: AtomicBool,
}

impl<F> fmt::Debug for AtsDevice<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = lock(&self.cache).entries.len();
        f.debug_struct("AtsDevice").field("name", &self.name).field("kept", &kept).finish()
    }
}

impl<'t, F: IoFormat> AtsDevice<'t, F> {
    /// One that asks this IOMMU, and keeps what that keeps. The name is for the journal.
    #[must_use]
    pub fn new(name: &'static str, iommu: &'t Iommu<'t, F>) -> Self {
        Self { name, iommu, cache: Mutex::default(), at_once: AtomicBool::new(false) }
    }

    /// When an invalidation takes place: as soon as it is begun, or only when it is waited for.
    pub fn invalidates_at_once(&self, at_once: bool) {
        self.at_once.store(at_once, Ordering::Relaxed);
    }

    /// Where an access leads.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn access(&self, at: Iova, write: bool) -> Result<PhysAddr, Fault> {
        let found = lock(&self.cache).find(at);
        match found {
            Some((_, Entry::Leaf(leaf))) => reached(leaf, at, write),
            Some(_) => Err(Fault::Blocked { at }),
            None => reached(self.ask(at, write)?, at, write),
        }
    }

    /// Asks the IOMMU, and keeps what it says.
    fn ask(&self, at: Iova, write: bool) -> Result<IoLeaf, Fault> {
        let answer = self.iommu.translation(at, write);
        let mut cache = lock(&self.cache);
        match (answer, lock(&self.iommu.cache).find(at)) {
            (Ok(leaf), _) => cache.keep(at, leaf.shift, Entry::Leaf(leaf)),
            (Err(_), Some((range, absent @ Entry::Absent { .. }))) => {
                cache.entries.push((range, absent));
            }
            (Err(_), _) => {}
        }
        answer
    }

    /// Forgets, and asks again for what it was using.
    fn forget(&self, range: IovaRange, kept: Kept) {
        let known = lock(&self.cache).forget(range, kept);
        for at in known {
            let _ = self.ask(at, false);
        }
    }
}

impl<F: IoFormat + Send + Sync> IoTlb for AtsDevice<'_, F> {
    fn keeps_absent(&self) -> bool {
        self.iommu.keeps_absent
    }

    fn invalidate(&self, range: IovaRange, kept: Kept) -> Result<(), FlushError> {
        self.iommu.journal.asked(self.name, Asked::Invalidate(range, kept))?;
        if self.at_once.load(Ordering::Relaxed) {
            self.forget(range, kept);
        } else {
            lock(&self.cache).queue.push((range, kept));
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), FlushError> {
        let queue = std::mem::take(&mut lock(&self.cache).queue);
        self.iommu.journal.asked(self.name, Asked::Complete)?;
        queue.into_iter().for_each(|(range, kept)| self.forget(range, kept));
        Ok(())
    }
}
