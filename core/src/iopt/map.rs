//! Mapping runs of memory.

use pinfold_arch::addr::index;
use pinfold_arch::{
    Access, EncodeError, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova, PageShift, PhysAddr,
};

use super::tree::{self, Level, Path};
use super::{IoPageTable, IoRun, IoptError};
use crate::host::IoTables;
use crate::sync::{Ordering, Word};

/// What all leaves of a call have in common.
#[derive(Clone, Copy, Debug)]
struct Grant {
    access: Access,
    flags: IoFlags,
}

impl<F: IoFormat> IoPageTable<F> {
    /// Maps runs of memory one behind the other, from `start` on, with the largest leaves that the
    /// format has and a run allows. All of them or none: after an error nothing of them is mapped. But a
    /// device may have used what was mapped until then: after [`IoptError::Mapped`],
    /// [`IoptError::NoMemory`] and [`IoptError::Corrupt`] flush from `start` on before the memory is
    /// released. Tables that were made stay, empty, until [`trim`](Self::trim) or the range is unmapped.
    ///
    /// # Context
    /// Any. Nobody else maps or unmaps the same range. The IOMMU may have to be told of new mappings, too
    /// (caching mode); that is up to the caller.
    ///
    /// # Errors
    /// [`IoptError::Unaligned`], [`IoptError::OutsideAperture`], and [`IoptError::Encode`] for memory or an
    /// access that the format cannot say: before anything is written. [`IoptError::Mapped`],
    /// [`IoptError::NoMemory`], [`IoptError::Corrupt`]; [`IoptError::Encode`] for a table that the host gave.
    pub fn map<T: IoTables>(
        &self,
        tables: &T,
        start: Iova,
        runs: &[IoRun],
        access: Access,
        flags: IoFlags,
    ) -> Result<(), IoptError> {
        let grant = Grant { access, flags };
        self.check(start, runs, grant)?;
        let mut path = Path::new();
        tree::descend(&mut path, tables, self.root, start.raw())?;
        let mut at = start.raw();
        for run in runs {
            if let Err(error) = self.map_run(tables, &mut path, &mut at, *run, grant) {
                self.clear(tables, start.raw(), at);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Everything that can be known before the first write.
    fn check(&self, start: Iova, runs: &[IoRun], grant: Grant) -> Result<(), IoptError> {
        let (base, mut at) = (self.format.base(), start.raw());
        let last = self.format.last().raw();
        let mut room = last.checked_sub(at).ok_or(IoptError::OutsideAperture { at: start })?;
        let mut full = false;
        for run in runs {
            let here = Iova::new(at);
            if (at | run.addr.raw() | run.bytes) & base.mask() != 0 {
                return Err(IoptError::Unaligned { at: here });
            }
            let Some(others) = run.bytes.checked_sub(1) else { continue };
            // The very last byte may be the last address there is.
            if full || others > room {
                return Err(IoptError::OutsideAperture { at: here });
            }
            let end = run.addr.checked_add(others);
            let end = end.ok_or(EncodeError::Address { addr: run.addr });
            for addr in [Ok(run.addr), end.map(|end| end.align_down(base))] {
                let said = addr.and_then(|addr| self.says(addr, grant));
                said.map_err(|why| IoptError::Encode { at: here, why })?;
            }
            full = others == room;
            room = room.wrapping_sub(run.bytes);
            at = at.wrapping_add(run.bytes);
        }
        Ok(())
    }

    /// Whether the format has a leaf of the smallest size for it.
    fn says(&self, addr: PhysAddr, grant: Grant) -> Result<u64, EncodeError> {
        let mut table = self.root;
        while table.shift > self.format.base() {
            let Some(next) = self.format.below(&table, table.base) else { break };
            table = next;
        }
        let leaf = IoLeaf { flags: grant.flags, ..IoLeaf::new(addr, table.shift, grant.access) };
        self.format.encode(&table, 0, IoEntry::Leaf(leaf))
    }

    /// Maps one run; `at` is behind what was mapped, also after an error.
    fn map_run<'m, T: IoTables>(
        &self,
        tables: &'m T,
        path: &mut Path<'m>,
        at: &mut u64,
        run: IoRun,
        grant: Grant,
    ) -> Result<(), IoptError> {
        let (mut addr, mut left) = (run.addr.raw(), run.bytes);
        // Set where a larger leaf met a table.
        let mut single = false;
        while left > 0 {
            while path.len() > 1 && path.last().is_some_and(|level| *at > level.last()) {
                path.pop();
            }
            let Some(level) = path.last().copied() else { return Ok(()) };
            let here = Iova::new(*at);
            match tree::entry(&self.format, &level.table, &level.view, here)? {
                IoEntry::Table(next, _) => {
                    // Whoever wrote it may not have come to say so yet, and what is mapped behind it
                    // must be found when this returns.
                    tables.written(tree::word_at(&level.table, here), 8);
                    tree::descend(path, tables, next, *at)?;
                    continue;
                }
                IoEntry::Leaf(_) => return Err(IoptError::Mapped { at: here }),
                IoEntry::Absent | IoEntry::Malformed => {}
            }
            let most = if single { level.table.shift.bytes() } else { left };
            let Some(size) = self.largest(&level.table, *at | addr, most.min(left)) else {
                tree::ensure(&self.format, tables, &self.live, &level, *at)?;
                continue;
            };
            let leaf = IoLeaf::new(PhysAddr::new(addr), size, grant.access);
            let leaf = IoLeaf { flags: grant.flags, ..leaf };
            let stretch = if single { size.bytes() } else { self.stretch(&level, *at, addr, size) };
            let bytes = stretch.min(left) >> size.raw() << size.raw();
            let (done, result) = self.write(tables, &level, *at, leaf, bytes);
            single = done == 0;
            (addr, left) = (addr.wrapping_add(done), left - done);
            *at = at.wrapping_add(done);
            result?;
        }
        Ok(())
    }

    /// The largest leaf that an entry of the table can be, for addresses with these low bits.
    fn largest(&self, table: &IoTable, addresses: u64, left: u64) -> Option<PageShift> {
        let aligned = addresses.trailing_zeros().min(63);
        let fitting = aligned.min(63 - left.leading_zeros());
        let most = PageShift::new(u8::try_from(fitting).ok()?)?;
        self.format.leaf_sizes(table).at_most(most)
    }

    /// Bytes from `at` to where the table ends, or where leaves of the next larger size can begin.
    fn stretch(&self, level: &Level<'_>, at: u64, addr: u64, size: PageShift) -> u64 {
        let to_end = (level.last() - at).saturating_add(1);
        let larger = self.format.leaf_sizes(&level.table).above(size);
        // Both addresses must come to a multiple of it at the same time.
        match larger.filter(|larger| (at ^ addr) & larger.mask() == 0) {
            Some(larger) => (larger.mask() - (at & larger.mask())).saturating_add(1).min(to_end),
            None => to_end,
        }
    }

    /// Writes leaves like `leaf` one behind the other, `bytes` of them, up to where a table stands.
    /// Says how many bytes were mapped, also with an error.
    fn write<T: IoTables>(
        &self,
        tables: &T,
        level: &Level<'_>,
        at: u64,
        leaf: IoLeaf,
        bytes: u64,
    ) -> (u64, Result<(), IoptError>) {
        let (format, table) = (&self.format, &level.table);
        let first = table.index(Iova::new(at));
        let entries = index(bytes >> table.shift.raw());
        let words = level.view.words_from(index(u64::from(first)), entries);
        let mut done = 0;
        let result = match format.encode(table, 0, IoEntry::Absent) {
            Ok(absent) => {
                let place = Place { format, table, at, first, absent };
                place.write(words, leaf, &mut done)
            }
            Err(why) => Err(IoptError::Encode { at: Iova::new(at), why }),
        };
        tables.written(tree::word_at(table, Iova::new(at)), done * 8);
        (done << table.shift.raw(), result)
    }

    /// Takes out what a call has mapped from `from` up to `to`: nothing else is there.
    fn clear<T: IoTables>(&self, tables: &T, from: u64, to: u64) {
        let mut path = Path::new();
        let mut at = from;
        if to == from || tree::descend(&mut path, tables, self.root, at).is_err() {
            return;
        }
        while at != to {
            while path.len() > 1 && path.last().is_some_and(|level| at > level.last()) {
                path.pop();
            }
            let Some(level) = path.last().copied() else { return };
            let entry = tree::entry(&self.format, &level.table, &level.view, Iova::new(at));
            if let Ok(IoEntry::Table(next, _)) = entry
                && tree::descend(&mut path, tables, next, at).is_ok()
            {
                continue;
            }
            let absent = self.format.encode(&level.table, 0, IoEntry::Absent).unwrap_or(0);
            let place = index(u64::from(level.table.index(Iova::new(at))));
            level.view.store(place, tree::in_memory(&self.format, absent));
            tables.written(tree::word_at(&level.table, Iova::new(at)), 8);
            let (_, last) = level.entry_at(at);
            at = last.wrapping_add(1);
        }
    }
}

/// Entries of one table, to be written.
struct Place<'t, F> {
    format: &'t F,
    table: &'t IoTable,
    /// The address of the first of them, and its index.
    at: u64,
    first: u32,
    /// What an entry without a meaning is.
    absent: u64,
}

impl<F: IoFormat> Place<'_, F> {
    fn iova(&self, entry: u64) -> Iova {
        Iova::new(self.at.wrapping_add(entry << self.table.shift.raw()))
    }

    fn encode(&self, leaf: IoLeaf, entry: u64) -> Result<u64, IoptError> {
        let inside = (entry / leaf.entries(self.table)) << leaf.shift.raw();
        let addr = PhysAddr::new(leaf.addr.raw().wrapping_add(inside));
        let number = self.first.wrapping_add(u32::try_from(entry).unwrap_or(0));
        let raw = self.format.encode(self.table, number, IoEntry::Leaf(IoLeaf { addr, ..leaf }));
        raw.map_err(|why| IoptError::Encode { at: self.iova(entry), why })
    }

    /// What stands in a word; never malformed.
    #[inline]
    fn found(&self, word: &Word, entry: u64) -> Result<IoEntry, IoptError> {
        let raw = tree::in_memory(self.format, word.load(Ordering::Relaxed));
        if raw == self.absent {
            return Ok(IoEntry::Absent);
        }
        match self.format.decode(self.table, raw) {
            IoEntry::Malformed => Err(IoptError::Corrupt { at: self.iova(entry), raw }),
            found => Ok(found),
        }
    }

    /// Writes leaves into these words, and counts the words.
    fn write(&self, words: &[Word], leaf: IoLeaf, done: &mut u64) -> Result<(), IoptError> {
        let per_leaf = leaf.entries(self.table);
        let (step, bytes) = (leaf.shift.bytes(), (words.len() as u64) << self.table.shift.raw());
        // Where all that changes from one entry to the next is the address, in its own place.
        let last = leaf.addr.raw().wrapping_add(bytes.wrapping_sub(step));
        let moves = leaf.addr.raw() ^ last;
        let counted = per_leaf == 1 && moves & !self.format.address_bits(self.table) == 0;
        let mut raw = self.encode(leaf, 0)?;
        for (number, group) in words.chunks_exact(index(per_leaf)).enumerate() {
            let number = number as u64 * per_leaf;
            // A leaf that takes several entries is there with all of them or not at all.
            for (entry, word) in group.iter().enumerate() {
                let entry = number + entry as u64;
                match self.found(word, entry)? {
                    IoEntry::Absent => {}
                    IoEntry::Table(..) => return Ok(()),
                    _ => return Err(IoptError::Mapped { at: self.iova(entry) }),
                }
            }
            for (entry, word) in group.iter().enumerate() {
                if !counted {
                    raw = self.encode(leaf, number + entry as u64)?;
                }
                // Release: the IOMMU finds memory that was there before its entry.
                word.store(tree::in_memory(self.format, raw), Ordering::Release);
            }
            raw = raw.wrapping_add(if counted { step } else { 0 });
            *done += per_leaf;
        }
        Ok(())
    }
}
