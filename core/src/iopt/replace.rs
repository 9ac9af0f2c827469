//! Mapping over what is mapped.

use core::borrow::Borrow;
use core::slice::from_ref;

use pinfold_arch::addr::index;
use pinfold_arch::{Access, IoFlags, IoFormat, IoLeaf, IoTable, Iova, PhysAddr};

use super::leaves::{Grant, Leaves, Pages};
use super::map::{Met, Writer, check, largest};
use super::unmap::{self, Taken, Taker};
use super::unmapped::{Detached, join};
use super::{IoPageTable, IoRun, IoptError, OfCaller, Unmapped, UnmappedRun, entry, split};
use crate::host::{Flow, IoTables};
use crate::iova::IovaRange;

/// Memory on its way into a range in place of what is there; made by [`IoPageTable::replace`]. All of the
/// range belongs to this value until [`step`](Self::step) says that nothing is left: nobody else maps or
/// unmaps there.
#[derive(Debug)]
#[must_use = "nothing is mapped before `step` is called"]
pub struct Replace<'t, F, R, O = OfCaller> {
    table: &'t IoPageTable<F, O>,
    runs: R,
    /// What is left of the run that it stands in.
    run: IoRun,
    pages: Pages,
    range: IovaRange,
    /// What comes next; `None` behind the end.
    at: Option<u64>,
}

impl<F: IoFormat, O> IoPageTable<F, O> {
    /// Begins to map runs as [`map`](Self::map) does, in place of what is mapped there: with as many calls of
    /// [`Replace::step`] as it takes.
    ///
    /// A device finds what was mapped or what is mapped now. But where the format does not let an entry
    /// change while it is in use (Arm, and AMD's leaves of several entries where smaller ones replace
    /// them), what was mapped is taken out in one step, and after the flush what is new put there in the
    /// next: in between it finds nothing. A large page that smaller ones replace is split first; so the
    /// tables stay as fine as they are.
    ///
    /// # Context
    /// As [`map`](Self::map).
    ///
    /// # Errors
    /// Those that [`map`](Self::map) has before anything is written, [`IoptError::InsideLeaf`] if the range
    /// begins or ends inside a leaf, [`IoptError::Corrupt`]. Nothing has changed.
    pub fn replace<T, R>(
        &self,
        tables: &T,
        start: Iova,
        runs: R,
        access: Access,
        flags: IoFlags,
    ) -> Result<Replace<'_, F, R::IntoIter, O>, IoptError>
    where
        T: IoTables,
        R: IntoIterator<Item: Borrow<IoRun>, IntoIter: Clone>,
    {
        let (grant, runs) = (Grant { access, flags }, runs.into_iter());
        let (format, root) = self.tree();
        let pages = Pages::new(&format, root, grant);
        let run = IoRun { addr: PhysAddr::new(0), bytes: 0 };
        let Some(range) = check(&format, tables, (start, runs.clone()), &pages)? else {
            let range = IovaRange::ALL;
            return Ok(Replace { table: self, runs, run, pages, range, at: None });
        };
        match self.cut(tables, range)? {
            Some((at, shift)) => Err(IoptError::InsideLeaf { at, shift }),
            None => Ok(Replace { table: self, runs, run, pages, range, at: Some(start.raw()) }),
        }
    }
}

impl<'t, F: IoFormat, R: Iterator<Item: Borrow<IoRun>>, O> Replace<'t, F, R, O> {
    /// Maps as much as it takes to fill `runs`, which is emptied before, with what was mapped there, in
    /// order of device addresses, with neighbours joined. `None` when nothing is left. It also ends early
    /// where [`Wait::pause`](crate::host::Wait::pause) says so. What it hands out must be gone before the
    /// next step.
    ///
    /// # Context
    /// Any, but for `pause`.
    ///
    /// # Errors
    /// [`IoptError::NoBuffer`] for a buffer without room; [`IoptError::NoMemory`], [`IoptError::Corrupt`].
    /// Nothing has changed: what comes before was handed out by the call before, and another call may go
    /// on.
    pub fn step<'s, 'b, T: IoTables>(
        &'s mut self,
        tables: &T,
        runs: &'b mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<Option<Unmapped<'s, 'b, F, O>>, IoptError> {
        runs.clear();
        let Some(from) = self.at else { return Ok(None) };
        if runs.capacity() == 0 {
            return Err(IoptError::NoBuffer);
        }
        let tree = self.table.tree();
        let rest = IovaRange::between(Iova::new(from), self.range.last()).unwrap_or(self.range);
        let mut writer = Writer::new(self.table, tree, tables, rest, self.pages)?;
        let mut put = false;
        let result = self.go_on(tables, tree, &mut writer, (runs, &mut put));
        let (at, mapped) = (writer.at, writer.last.is_some());
        let mut last = at.wrapping_sub(1);
        drop(writer);
        match result {
            Ok(Gone::All) => (self.at, last) = (None, self.range.last().raw()),
            Ok(Gone::Exchanged) => self.at = Some(at),
            Ok(Gone::TakenOutTo(end)) => (self.at, last) = (Some(at), end),
            Err(error) if !mapped => return Err(error),
            Err(_) => self.at = Some(at),
        }
        let range = IovaRange::between(Iova::new(from), Iova::new(last)).unwrap_or(self.range);
        // An absence that somebody keeps may be one of a table above, whoever has put one there since.
        let taken = (Detached::default(), put);
        Ok(Some(Unmapped::new(self.table, range, tree, taken, runs)))
    }

    fn go_on<T: IoTables>(
        &mut self,
        tables: &T,
        tree: (F, IoTable),
        writer: &mut Writer<'_, F, T>,
        (runs, put): (&mut heapless::vec::VecView<UnmappedRun>, &mut bool),
    ) -> Result<Gone, IoptError> {
        loop {
            while self.run.bytes == 0 {
                let Some(run) = self.runs.next() else { return Ok(Gone::All) };
                self.run = writer.inside(*run.borrow());
            }
            let before = writer.at;
            let met = writer.step(&mut self.run);
            *put |= writer.at != before;
            let Met::Leaf(leaf, at) = met? else { continue };
            if runs.is_full() {
                return Ok(Gone::Exchanged);
            }
            let last = Iova::new(at | leaf.shift.mask());
            let Some(old) = IovaRange::between(Iova::new(at), last)
                .filter(|_| at & leaf.shift.mask() == 0 && last <= self.range.last())
            else {
                return Err(IoptError::Corrupt { at: Iova::new(at), raw: leaf.addr.raw() });
            };
            let format = writer.cursor.format;
            let addresses = at | self.run.addr.raw();
            let new = largest(&format, &writer.cursor.level.table, addresses, self.run.bytes);
            let divided = match new {
                _ if !format.replaces() => {
                    return self.take_out(tables, tree, self.range, at, runs);
                }
                Some(size) if size >= leaf.shift => {
                    let (run, flow) = self.exchange(writer, leaf)?;
                    join(runs, run);
                    if flow == Flow::Stop {
                        return Ok(Gone::Exchanged);
                    }
                    continue;
                }
                _ => split::divide(&mut writer.cursor, writer.live, at, leaf),
            };
            *put |= divided.is_ok();
            match divided {
                // Then it is as if entries could not change in use.
                Err(IoptError::Indivisible { .. }) => {
                    return self.take_out(tables, tree, old, at, runs);
                }
                other => other?,
            }
        }
    }

    /// Takes out what is mapped in a range from `at` on: what is new comes in the next step, behind the flush.
    fn take_out<T: IoTables>(
        &self,
        tables: &T,
        tree: (F, IoTable),
        range: IovaRange,
        at: u64,
        runs: &mut heapless::vec::VecView<UnmappedRun>,
    ) -> Result<Gone, IoptError> {
        let mut taker = Taker::new(self.table, tree, tables, range, at)?.keeping_tables();
        match taker.take_out(runs) {
            Ok(Taken::All) => Ok(Gone::TakenOutTo(range.last().raw())),
            Ok(Taken::AsMuchAsFits) | Err(_) if taker.at > at => {
                Ok(Gone::TakenOutTo(taker.at.wrapping_sub(1)))
            }
            Ok(Taken::AsMuchAsFits) => Ok(Gone::Exchanged),
            Err(error) => Err(error),
        }
    }

    /// Puts a leaf of the run in the place of one of the same size.
    fn exchange<T: IoTables>(
        &mut self,
        writer: &mut Writer<'_, F, T>,
        old: IoLeaf,
    ) -> Result<(UnmappedRun, Flow), IoptError> {
        let (at, format, level) = (writer.at, writer.cursor.format, writer.cursor.level);
        let table = &level.table;
        let new = self.pages.grant.leaf(self.run.addr, old.shift);
        let leaves = Leaves::new(&format, table, at, new);
        let (place, entries) = (level.place(at), index(old.entries(table)));
        let writable = old.access.contains(Access::WRITE);
        let mut dirty = writable && !self.table.is_tracking();
        for (entry, word) in (0..).zip(level.view.words_from(place, entries)) {
            let raw = entry::in_memory(&format, leaves.encode(entry)?);
            dirty |= unmap::exchange(&format, table, from_ref(word), raw);
        }
        writer.cursor.wrote(place, entries);
        let bytes = old.shift.bytes();
        let flow = match writer.went(&mut self.run, bytes, entries as u64) {
            Err(IoptError::Interrupted) => Flow::Stop,
            other => other.map(|()| Flow::Continue)?,
        };
        Ok((UnmappedRun { at: Iova::new(at), addr: old.addr, bytes, writable, dirty }, flow))
    }
}

/// How far a step has come.
enum Gone {
    All,
    /// Up to where the writer stands.
    Exchanged,
    /// Up to where the writer stands, and entries up to this address were taken out.
    TakenOutTo(u64),
}
