//! Tables, and a list of pages that says the same: every operation is done to both.

use heapless::Vec as Buffer;
use pinfold::host::{Flow, IoTables};
use pinfold::iopt::{Harvest, IoPageTable, IoRun, IoptError, Unmapped, UnmappedRun};
use pinfold::{Access, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{AnyIoFormat, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova};
use pinfold_sim::TableMemory;

/// How many units of a size the operations take place in.
pub(crate) const UNITS: u64 = 48;
/// Where memory for devices begins.
const MEMORY: u64 = 1 << 36;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// At a unit, runs of memory (in units: where, how long), and whether devices may write.
    Map(u64, Vec<(u64, u64)>, bool),
    /// The same over what is there, with a buffer of one or of many runs.
    Replace(u64, Vec<(u64, u64)>, bool, bool),
    /// From a unit, so many units, through a buffer of one or of many runs.
    Unmap(u64, u64, bool),
    Split(u64, u64),
    /// A device writes to a page of a unit.
    Write(u64, u64),
    Track(bool),
    /// Which pages of these units were written; and whether the marks go.
    Dirty(u64, u64, bool),
    Grow,
    Trim,
    /// In the next operation so many pauses go on, and all after them say stop.
    Stop(u64),
}

/// What a page of device addresses is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    addr: u64,
    write: bool,
    dirty: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) table: IoPageTable<AnyIoFormat>,
    pub(crate) memory: TableMemory,
    pages: Vec<Option<Page>>,
    start: u64,
    unit: PageShift,
    base: PageShift,
    tracking: bool,
    stop: Option<u64>,
}

/// What is seen of a page of device addresses.
type Seen = Vec<(u64, IoLeaf)>;

impl World {
    pub(crate) fn new((format, unit, top): (AnyIoFormat, PageShift, bool), step: u64) -> Self {
        let memory = TableMemory::new(256 << 20);
        memory.set_step(step);
        let table = IoPageTable::new(format, &memory).unwrap();
        let (bytes, base) = (UNITS << unit.raw(), format.base());
        let start = if top { format.last().raw() - (bytes - 1) } else { 0 };
        let pages = vec![None; usize::try_from(bytes >> base.raw()).unwrap()];
        Self { table, memory, pages, start, unit, base, tracking: false, stop: None }
    }

    pub(crate) fn iova(&self, unit: u64) -> Iova {
        Iova::new(self.start + (unit << self.unit.raw()))
    }

    pub(crate) fn range(&self, at: u64, units: u64) -> IovaRange {
        IovaRange::new(self.iova(at), units << self.unit.raw()).unwrap()
    }

    pub(crate) fn runs(&self, runs: &[(u64, u64)]) -> Vec<IoRun> {
        let bytes = |units: u64| units << self.unit.raw();
        let run = |(at, units): &(u64, u64)| IoRun {
            addr: PhysAddr::new(MEMORY + bytes(*at)),
            bytes: bytes(*units),
        };
        runs.iter().map(run).collect()
    }

    fn index(&self, at: u64) -> usize {
        usize::try_from((at - self.start) >> self.base.raw()).unwrap()
    }

    /// Where the pages of a range are in the list.
    fn indices(&self, range: IovaRange) -> core::ops::RangeInclusive<usize> {
        self.index(range.start().raw())..=self.index(range.last().raw())
    }

    fn nothing_in(&self, range: IovaRange) -> bool {
        self.pages[self.indices(range)].iter().all(Option::is_none)
    }

    pub(crate) fn play(&mut self, op: &Op) {
        // A visit stops, too: what looks at the tables by one is left alone.
        let whole = matches!(op, Op::Stop(_) | Op::Split(..) | Op::Write(..));
        let stop = if whole { None } else { self.stop.take() };
        self.memory.stop_after(stop.unwrap_or(u64::MAX));
        match op {
            Op::Map(at, runs, write) => self.map(*at, runs, *write, stop.is_some()),
            Op::Replace(at, runs, write, many) => match many {
                true => self.replace::<512>(*at, runs, *write),
                false => self.replace::<1>(*at, runs, *write),
            },
            Op::Unmap(at, units, many) => self.unmap(*at, (*units).min(UNITS - at), *many),
            Op::Split(at, units) => self.split(self.range(*at, (*units).min(UNITS - at))),
            Op::Write(unit, page) => self.write(*unit, *page),
            Op::Track(on) => self.track(*on),
            Op::Dirty(at, units, take) => {
                self.dirty(self.range(*at, (*units).min(UNITS - at)), *take);
            }
            Op::Grow => self.grow(),
            Op::Trim => drop(self.table.trim(&self.memory).flushed(&self.memory)),
            Op::Stop(pauses) => self.stop = Some(*pauses),
        }
        self.memory.stop_after(u64::MAX);
    }

    fn access(write: bool) -> Access {
        if write { Access::all() } else { Access::READ }
    }

    fn map(&mut self, at: u64, runs: &[(u64, u64)], write: bool, stops: bool) {
        let given = self.runs(runs);
        let access = Self::access(write);
        let mapped = self.table.map(&self.memory, self.iova(at), &given, access, IoFlags::empty());
        let units: u64 = runs.iter().map(|run| run.1).sum();
        if mapped == Err(IoptError::Interrupted) {
            assert!(stops, "nobody said stop");
            return;
        }
        if at + units > UNITS {
            let inside = self.nothing_in(self.range(at, UNITS - at));
            // At the end of the address space there is nothing more; elsewhere there may be room.
            if mapped.is_ok() {
                assert!(inside);
                self.take_out::<64>(self.range(at, units)).unwrap();
                return;
            }
            let outside = matches!(mapped, Err(IoptError::OutsideAperture { .. }));
            assert!(outside || !inside, "{mapped:?}");
            return;
        }
        let range = self.range(at, units);
        let met = self.indices(range).find(|page| self.pages[*page].is_some());
        match met {
            Some(page) => {
                let at = Iova::new(self.start + ((page as u64) << self.base.raw()));
                assert_eq!(mapped, Err(IoptError::Mapped { at }));
            }
            None => {
                assert_eq!(mapped, Ok(()));
                self.put(range, &given, write);
            }
        }
    }

    /// Writes runs into the list, as far as a range reaches.
    pub(crate) fn put(&mut self, range: IovaRange, runs: &[IoRun], write: bool) {
        let size = self.base.bytes();
        let pages = runs
            .iter()
            .flat_map(|run| (0..run.bytes / size).map(|page| run.addr.raw() + page * size));
        let indices = self.indices(range);
        for (page, addr) in self.pages[indices].iter_mut().zip(pages) {
            *page = Some(Page { addr, write, dirty: false });
        }
    }

    /// Takes what came out of a range off the list: each page where it was, in order, none missing.
    fn came_out(&mut self, range: IovaRange, runs: &[UnmappedRun]) {
        let (base, tracking) = (self.base, self.tracking);
        let mut came = runs.iter().flat_map(|run| {
            (0..run.bytes >> base.raw()).map(move |page| {
                let bytes = page << base.raw();
                (run.at.raw() + bytes, run.addr.raw() + bytes, run.dirty)
            })
        });
        for index in self.indices(range) {
            let Some(page) = self.pages[index].take() else { continue };
            let at = self.start + ((index as u64) << base.raw());
            let dirty = if tracking { page.dirty } else { page.write };
            assert_eq!(came.next(), Some((at, page.addr, dirty)));
        }
        assert_eq!(came.next(), None);
        let apart = |pair: &[UnmappedRun]| {
            let [one, two] = pair else { return true };
            let next = |at: u64, other: u64| at + one.bytes == other;
            !next(one.at.raw(), two.at.raw())
                || !next(one.addr.raw(), two.addr.raw())
                || one.dirty != two.dirty
        };
        assert!(runs.windows(2).all(apart), "neighbours are joined: {runs:?}");
    }

    fn unmap(&mut self, at: u64, units: u64, many: bool) {
        let range = self.range(at, units);
        let out = if many { self.take_out::<512>(range) } else { self.take_out::<1>(range) };
        match out {
            Ok(()) => {}
            Err(IoptError::InsideLeaf { at, shift }) => self.crosses(range, at, shift),
            Err(error) => panic!("{error}"),
        }
    }

    /// A leaf really reaches over an end of the range.
    fn crosses(&self, range: IovaRange, at: Iova, shift: PageShift) {
        let found = self.table.translate(&self.memory, at).unwrap().unwrap();
        assert_eq!(found.shift, shift);
        let last = Iova::new(at.raw() | shift.mask());
        assert!(at.is_aligned(shift) && !range.covers(at, last));
        assert!(at <= range.last() && last >= range.start());
    }

    fn take_out<const N: usize>(&mut self, range: IovaRange) -> Result<(), IoptError> {
        let inside = self.range(0, UNITS).covers(range.start(), range.last());
        let table = &self.table;
        let mut unmap = table.unmap(&self.memory, range)?;
        let mut buffer = Buffer::<UnmappedRun, N>::new();
        let mut next = range.start();
        let mut steps = Vec::new();
        while let Some(unmapped) = unmap.step(&self.memory, &mut buffer).unwrap() {
            steps.push(accepted(&self.memory, unmapped, &mut next));
        }
        assert_eq!(next.raw().wrapping_sub(1), range.last().raw());
        for (range, runs) in steps {
            if inside {
                self.came_out(range, &runs);
            }
        }
        Ok(())
    }

    fn replace<const N: usize>(&mut self, at: u64, runs: &[(u64, u64)], write: bool) {
        let units: u64 = runs.iter().map(|run| run.1).sum();
        if at + units > UNITS {
            return;
        }
        self.replace_failing::<N>(at, runs, write, u64::MAX);
    }

    /// Replaces a range, with so many allocations before one fails; whether one did. What was done by then is
    /// done, and the rest goes on.
    pub(crate) fn replace_failing<const N: usize>(
        &mut self,
        at: u64,
        runs: &[(u64, u64)],
        write: bool,
        allocations: u64,
    ) -> bool {
        let units: u64 = runs.iter().map(|run| run.1).sum();
        let (given, range, access) = (self.runs(runs), self.range(at, units), Self::access(write));
        let mut steps = Vec::new();
        let mut next = range.start();
        let mut failed = false;
        self.memory.fail_after(allocations);
        let table = &self.table;
        match table.replace(&self.memory, self.iova(at), &given, access, IoFlags::empty()) {
            Err(IoptError::InsideLeaf { at, shift }) => self.crosses(range, at, shift),
            Err(error) => panic!("{error}"),
            Ok(mut replace) => {
                let mut buffer = Buffer::<UnmappedRun, N>::new();
                loop {
                    match replace.step(&self.memory, &mut buffer) {
                        Ok(Some(old)) => steps.push(accepted(&self.memory, old, &mut next)),
                        Ok(None) => break,
                        Err(IoptError::NoMemory) if !failed => {
                            failed = true;
                            self.memory.fail_after(u64::MAX);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        self.memory.fail_after(u64::MAX);
        let done = next.raw().wrapping_sub(range.start().raw());
        self.handed_out(range.start(), &steps);
        if let Some(others) = done.checked_sub(1) {
            let done = IovaRange::new(range.start(), others + 1).unwrap();
            self.put(done, &given, write);
        }
        failed
    }

    /// What came out in steps that may come back to where the ones before were.
    fn handed_out(&mut self, start: Iova, steps: &[(IovaRange, Vec<UnmappedRun>)]) {
        let last = steps.iter().map(|(range, _)| range.last()).max();
        let Some(range) = last.and_then(|last| IovaRange::between(start, last)) else { return };
        let mut all: Vec<UnmappedRun> = Vec::new();
        for run in steps.iter().flat_map(|(_, runs)| runs) {
            match all.last_mut() {
                Some(last)
                    if last.at.raw() + last.bytes == run.at.raw()
                        && last.addr.raw() + last.bytes == run.addr.raw()
                        && last.dirty == run.dirty =>
                {
                    last.bytes += run.bytes;
                }
                _ => all.push(*run),
            }
        }
        self.came_out(range, &all);
    }

    fn split(&mut self, range: IovaRange) {
        let before = self.seen();
        match self.table.split(&self.memory, range) {
            Ok(()) => {
                for edge in [range.start(), range.last()] {
                    let found = self.table.translate(&self.memory, edge).unwrap();
                    let Some(found) = found else { continue };
                    let first = edge.align_down(found.shift);
                    assert!(range.covers(first, Iova::new(first.raw() | found.shift.mask())));
                }
            }
            Err(IoptError::Indivisible { at, shift }) => {
                self.crosses(range, at, shift);
                let format = self.table.format();
                let groups = matches!(format, AnyIoFormat::AmdVi(_) | AnyIoFormat::Smmu(_));
                assert!(!format.splits() || groups);
                assert_eq!(self.seen(), before, "refused before anything has changed");
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A device writes to a page.
    fn write(&mut self, unit: u64, page: u64) {
        let at = self.iova(unit).raw() + ((page << self.base.raw()) & self.unit.mask());
        let Some(leaf) = write(&self.table, &self.memory, Iova::new(at)) else { return };
        let indices = self.indices(leaf);
        self.pages[indices].iter_mut().flatten().for_each(|page| page.dirty = true);
    }

    fn dirty_bytes(&self, range: IovaRange) -> u64 {
        let pages = self.pages[self.indices(range)].iter().flatten();
        (pages.filter(|page| page.dirty).count() as u64) << self.base.raw()
    }

    fn track(&mut self, on: bool) {
        if !on {
            self.table.stop_tracking();
        } else if self.table.format().volatile_bits() == 0 {
            assert_eq!(self.table.start_tracking(&self.memory), Err(IoptError::NoMarks));
            return;
        } else {
            let dirty = self.dirty_bytes(self.range(0, UNITS));
            let harvest = self.table.start_tracking(&self.memory).unwrap();
            assert_eq!(harvest.dirty, dirty);
            self.pages.iter_mut().flatten().for_each(|page| page.dirty = false);
        }
        self.tracking = on;
        assert_eq!(self.table.is_tracking(), on);
    }

    fn dirty(&mut self, range: IovaRange, take: bool) {
        let mut said = vec![false; self.pages.len()];
        let mut next = 0;
        let each = |written: IovaRange| {
            assert!(written.start().raw() >= next && range.covers(written.start(), written.last()));
            next = written.last().raw();
            said[self.indices(written)].fill(true);
        };
        let result = match take {
            true => self.table.take_dirty(&self.memory, range, each),
            false => self.table.dirty(&self.memory, range, each),
        };
        let harvest = match result {
            Ok(harvest) => harvest,
            Err(error) => {
                assert!(!said.contains(&true), "nothing was handed out");
                match error {
                    IoptError::NoMarks => assert!(!self.tracking),
                    IoptError::InsideLeaf { at, shift } => self.crosses(range, at, shift),
                    IoptError::NotMapped { at } => {
                        let hole = self.indices(range).find(|page| self.pages[*page].is_none());
                        assert_eq!(Some(self.index(at.raw())), hole);
                    }
                    error => panic!("{error}"),
                }
                return;
            }
        };
        let indices = self.indices(range);
        assert!(self.tracking && self.pages[indices.clone()].iter().all(Option::is_some));
        assert_eq!(harvest.dirty, self.dirty_bytes(range));
        let written = |index: &usize| self.pages[*index].is_some_and(|page| page.dirty);
        assert!(indices.clone().all(|index| said[index] == written(&index)));
        let at = |index: usize| self.start + ((index as u64) << self.base.raw());
        let first = indices.clone().find(written).map(|index| Iova::new(at(index)));
        let last = indices.clone().rev().find(written);
        let last = last.map(|index| Iova::new(at(index) | self.base.mask()));
        let flush = first.zip(last).and_then(|(first, last)| IovaRange::between(first, last));
        let flush = flush.filter(|_| take);
        assert_eq!(harvest, Harvest { dirty: harvest.dirty, flush, ended: None });
        if take {
            self.pages[indices].iter_mut().flatten().for_each(|page| page.dirty = false);
        }
    }

    pub(crate) fn grow(&mut self) {
        let (format, root) = (self.table.format(), self.table.root());
        let Some(beyond) = format.last().checked_add(1) else { return };
        let grown = self.table.grow(&self.memory, beyond);
        let Some(taller) = format.with_levels(format.levels() + 1) else {
            assert_eq!(grown, Err(IoptError::OutsideAperture { at: beyond }));
            return;
        };
        match grown {
            Ok(()) => {
                assert_eq!(self.table.format(), taller);
                assert_ne!(self.table.root().base, root.base);
            }
            Err(IoptError::NoMemory) => {
                assert_eq!((self.table.format(), self.table.root()), (format, root));
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The leaf at each entry that has one, and where.
    fn seen(&self) -> Seen {
        let mut seen = Vec::new();
        let each = |visited: &pinfold::iopt::Visited| {
            if let IoEntry::Leaf(leaf) = visited.entry {
                seen.push((visited.range.start().raw(), leaf));
            }
            Flow::Continue
        };
        self.table.visit(&self.memory, self.range(0, UNITS), each).unwrap();
        seen
    }

    /// A visit shows the leaves that translations go through, and no others.
    pub(crate) fn check_visit(&self) {
        let mut bytes = 0;
        for (at, leaf) in self.seen() {
            let found = self.table.translate(&self.memory, Iova::new(at)).unwrap().unwrap();
            let addr = PhysAddr::new(found.addr.raw() & !leaf.shift.mask());
            let of = IoLeaf { flags: found.flags, ..IoLeaf::new(addr, found.shift, found.access) };
            assert_eq!(leaf, of);
            // A leaf of several entries is shown as often.
            if Iova::new(at).is_aligned(leaf.shift) {
                bytes += leaf.shift.bytes();
            }
        }
        let mapped = self.pages.iter().flatten().count() as u64;
        assert_eq!(bytes, mapped << self.base.raw());
    }

    pub(crate) fn check(&self) {
        for unit in 0..UNITS {
            for offset in [0, 1, self.unit.bytes() / 2, self.unit.mask()] {
                let at = Iova::new(self.iova(unit).raw() + offset);
                let found = self.table.translate(&self.memory, at).unwrap();
                let found = found.map(|found| (found.addr.raw(), found.access));
                let expected = self.pages[self.index(at.raw())].map(|page| {
                    (page.addr + (at.raw() & self.base.mask()), Self::access(page.write))
                });
                assert_eq!(found, expected, "{at}");
            }
        }
        assert_eq!(self.table.tables(), self.memory.used() as u64);
        assert_eq!(self.table.unflushed(), 0);
    }

    /// Unmaps everything: the top table alone is left, and in the end nothing.
    pub(crate) fn end(mut self) {
        self.memory.stop_after(u64::MAX);
        self.unmap(0, UNITS, true);
        assert!(self.pages.iter().all(Option::is_none));
        self.check();
        self.table.trim(&self.memory).flushed(&self.memory);
        assert_eq!(self.memory.used(), 1, "the top table alone");
        self.table.destroy(&self.memory).unwrap();
        assert_eq!(self.memory.used(), 0);
    }
}

/// A device writes to an address: hardware that keeps marks marks the entry that it goes through. Gives what the
/// leaf maps.
pub(crate) fn write<T: IoTables>(
    tree: &IoPageTable<AnyIoFormat>,
    tables: &T,
    at: Iova,
) -> Option<IovaRange> {
    let format = tree.format();
    let mut found: Option<(IoTable, u64, IoLeaf)> = None;
    let each = |visited: &pinfold::iopt::Visited| {
        if let IoEntry::Leaf(leaf) = visited.entry {
            found = Some((visited.table, visited.raw, leaf));
        }
        Flow::Continue
    };
    tree.visit(tables, IovaRange::new(at, 1).unwrap(), each).unwrap();
    let marks = |leaf: IoLeaf| format.volatile_bits() != 0 && leaf.access == Access::all();
    let (table, raw, leaf) = found.filter(|found| marks(found.2))?;
    let index = table.index(at);
    let dirty = IoLeaf { flags: leaf.flags | IoFlags::DIRTY, ..leaf };
    let new = format.encode(&table, index, IoEntry::Leaf(dirty)).unwrap();
    let view = tables.table(table.base, table.entries() as usize).unwrap();
    assert!(view.replace(index as usize, raw.to_le(), new.to_le()));
    Some(IovaRange::new(at.align_down(leaf.shift), leaf.shift.bytes()).unwrap())
}

/// What came out of a range in a step, and is flushed; the next begins where this one ends, or before.
fn accepted(
    memory: &TableMemory,
    out: Unmapped<'_, '_, AnyIoFormat>,
    next: &mut Iova,
) -> (IovaRange, Vec<UnmappedRun>) {
    let (range, bytes) = (out.range(), out.bytes());
    // A part that was taken out and is mapped in the next step comes twice.
    assert!(range.start() <= *next);
    *next = Iova::new(range.last().raw().wrapping_add(1));
    let quiesced = out.flushed(memory);
    quiesced.tables().unwrap();
    assert_eq!(quiesced.runs().iter().map(|run| run.bytes).sum::<u64>(), bytes);
    (range, quiesced.runs().to_vec())
}
