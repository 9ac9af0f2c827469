//! Leaves of one call, and writing them one behind the other.

use pinfold_arch::addr::index;
use pinfold_arch::{
    Access, EncodeError, IoEntry, IoFlags, IoFormat, IoLeaf, IoTable, Iova, PageShift, PhysAddr,
};

use super::IoptError;
use super::entry::{self, LINE};
use crate::sync::{Ordering, Word};

/// What all leaves of a call have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) access: Access,
    pub(super) flags: IoFlags,
}

impl Grant {
    pub(super) fn leaf(self, addr: PhysAddr, shift: PageShift) -> IoLeaf {
        IoLeaf { flags: self.flags, ..IoLeaf::new(addr, shift, self.access) }
    }
}

/// The entries of pages of the smallest size, for one grant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    /// What the tables look like that they are in, wherever those are.
    pub(super) table: IoTable,
    pub(super) grant: Grant,
    /// The entry of the page at address 0, and the bits that another address adds in its own place.
    zero: Result<u64, EncodeError>,
    address: u64,
    /// The entry that says nothing.
    absent: Result<u64, EncodeError>,
}

impl Pages {
    pub(super) fn new<F: IoFormat>(format: &F, root: IoTable, grant: Grant) -> Self {
        let mut table = root;
        while table.shift > format.base() {
            let Some(next) = format.below(&table, table.base) else { break };
            table = next;
        }
        let leaf = grant.leaf(PhysAddr::new(0), table.shift);
        let zero = format.encode(&table, 0, IoEntry::Leaf(leaf));
        let absent = format.encode(&table, 0, IoEntry::Absent);
        Self { table, grant, zero, address: format.address_bits(&table), absent }
    }

    /// The entry of the page at an address.
    #[inline]
    pub(super) fn encode<F: IoFormat>(
        &self,
        format: &F,
        addr: PhysAddr,
    ) -> Result<u64, EncodeError> {
        self.known(addr).map_or_else(|| self.encode_wide(format, addr), Ok)
    }

    /// The same, where all that another address changes is known.
    #[inline]
    fn known(&self, addr: PhysAddr) -> Option<u64> {
        let zero = self.zero.ok().filter(|_| addr.raw() & !self.address == 0)?;
        Some(zero | addr.raw())
    }

    /// The entry that says nothing in a table.
    pub(super) fn absent<F: IoFormat>(
        &self,
        format: &F,
        table: &IoTable,
        at: Iova,
    ) -> Result<u64, IoptError> {
        match self.absent {
            Ok(absent) if table.shift == self.table.shift => Ok(absent),
            _ => entry::absent(format, table, at),
        }
    }

    /// The entry of a leaf, if that is such a page.
    pub(super) fn of(&self, table: &IoTable, leaf: IoLeaf) -> Option<u64> {
        let smallest = leaf.shift == table.shift && leaf.shift == self.table.shift;
        if smallest { self.known(leaf.addr) } else { None }
    }

    #[cold]
    fn encode_wide<F: IoFormat>(&self, format: &F, addr: PhysAddr) -> Result<u64, EncodeError> {
        let leaf = self.grant.leaf(addr, self.table.shift);
        format.encode(&self.table, 0, IoEntry::Leaf(leaf))
    }
}

/// Leaves of one size for consecutive memory, in one table.
#[derive(Debug)]
pub(super) struct Leaves<'t, F> {
    format: &'t F,
    table: &'t IoTable,
    /// The address of the first, and its index.
    at: u64,
    first: u32,
    leaf: IoLeaf,
    /// The value of the first, if it is known already.
    pub(super) start: Option<u64>,
}

impl<'t, F: IoFormat> Leaves<'t, F> {
    pub(super) fn new(format: &'t F, table: &'t IoTable, at: u64, leaf: IoLeaf) -> Self {
        let first = table.index(Iova::new(at));
        Self { format, table, at, first, leaf, start: None }
    }

    pub(super) fn iova(&self, entry: u64) -> Iova {
        Iova::new(self.at.wrapping_add(entry << self.table.shift.raw()))
    }

    /// The value of an entry, counted from the first.
    pub(super) fn encode(&self, entry: u64) -> Result<u64, IoptError> {
        let (leaf, table) = (self.leaf, self.table);
        let inside = (entry / leaf.entries(table)) << leaf.shift.raw();
        let addr = PhysAddr::new(leaf.addr.raw().wrapping_add(inside));
        let number = self.first.wrapping_add(u32::try_from(entry).unwrap_or(0));
        let raw = self.format.encode(table, number, IoEntry::Leaf(IoLeaf { addr, ..leaf }));
        raw.map_err(|why| IoptError::Encode { at: self.iova(entry), why })
    }

    /// How the values of so many entries follow from the first, if all that changes is the address, in its
    /// own place.
    #[inline(always)]
    fn series(&self, entries: usize) -> Result<Option<Series>, IoptError> {
        let (leaf, table) = (self.leaf, self.table);
        let bytes = (entries as u64) << table.shift.raw();
        let last = leaf.addr.raw().wrapping_add(bytes.wrapping_sub(leaf.shift.bytes()));
        let moves = leaf.addr.raw() ^ last;
        if moves & !self.format.address_bits(table) != 0 {
            return Ok(None);
        }
        let first = self.start.map_or_else(|| self.encode(0), Ok)?;
        let within = match leaf.entries(table) {
            1 => leaf.shift.bytes(),
            _ => self.encode(1)?.wrapping_sub(first),
        };
        Ok(Some(Series { first, within }))
    }

    /// The first entry of a leaf of a series, by the number of that entry: what an entry maps is from one leaf
    /// to the next for each of its entries.
    #[inline]
    const fn leaf_of(&self, series: Series, entry: u64) -> u64 {
        series.first.wrapping_add(entry << self.table.shift.raw())
    }

    /// Writes leaves into words that have no meaning yet.
    pub(super) fn fill(&self, words: &[Word]) -> Result<(), IoptError> {
        // The order of bytes is chosen once a table and not word by word.
        if self.format.big_endian() {
            self.fill_as(words, u64::to_be)
        } else {
            self.fill_as(words, u64::to_le)
        }
    }

    #[inline(always)]
    fn fill_as(
        &self,
        words: &[Word],
        in_memory: impl Fn(u64) -> u64 + Copy,
    ) -> Result<(), IoptError> {
        let per_leaf = index(self.leaf.entries(self.table));
        match self.series(words.len())? {
            Some(series) if per_leaf == 1 => {
                store_all(words, series.first, series.within, in_memory);
            }
            Some(series) => {
                for (entry, group) in (0..).step_by(per_leaf).zip(words.chunks_exact(per_leaf)) {
                    store_all(group, self.leaf_of(series, entry), series.within, in_memory);
                }
            }
            None => self.store_each(words, 0, in_memory)?,
        }
        Ok(())
    }

    /// Writes values that do not follow from one another, from a number on.
    fn store_each(
        &self,
        words: &[Word],
        first: u64,
        in_memory: impl Fn(u64) -> u64,
    ) -> Result<(), IoptError> {
        for (entry, word) in (first..).zip(words) {
            // Release: the IOMMU finds memory that was there before its entry.
            word.store(in_memory(self.encode(entry)?), Ordering::Release);
        }
        Ok(())
    }

    /// Writes leaves into words where nothing is mapped, and counts the words; what it met, if it did not
    /// come to the end. `absent` is what stands in most of them, in host byte order.
    pub(super) fn write(
        &self,
        words: &[Word],
        absent: u64,
        done: &mut u64,
    ) -> Result<Option<(u64, IoEntry)>, IoptError> {
        if self.format.big_endian() {
            self.write_as(words, absent.to_be(), done, u64::to_be)
        } else {
            self.write_as(words, absent.to_le(), done, u64::to_le)
        }
    }

    #[inline(always)]
    fn write_as(
        &self,
        words: &[Word],
        absent: u64,
        done: &mut u64,
        in_memory: impl Fn(u64) -> u64 + Copy,
    ) -> Result<Option<(u64, IoEntry)>, IoptError> {
        let per_leaf = index(self.leaf.entries(self.table));
        let Some(series) = self.series(words.len())? else {
            return self.groups(words, absent, per_leaf, None, done, in_memory);
        };
        // What is looked at before anything of it is written: a leaf, or as many small ones as fill a line.
        let piece = if per_leaf == 1 { LINE } else { per_leaf };
        let mut left = words;
        loop {
            let first = self.leaf_of(series, *done);
            let leap = (piece as u64) << self.table.shift.raw();
            let values = (first, series.within, leap);
            let stored = if per_leaf == 1 {
                let lines = left.as_chunks::<{ LINE }>().0.iter().map(<[_; LINE]>::as_slice);
                store_free(lines, absent, values, in_memory)
            } else {
                store_free(left.chunks_exact(per_leaf), absent, values, in_memory)
            };
            *done += stored as u64;
            left = left.get(stored..).unwrap_or_default();
            if left.is_empty() {
                return Ok(None);
            }
            // Something stands in what comes next, or it is no whole line.
            let (next, rest) = left.split_at(piece.min(left.len()));
            let met = self.groups(next, absent, per_leaf, Some(series), done, in_memory)?;
            if met.is_some() {
                return Ok(met);
            }
            left = rest;
        }
    }

    /// The same leaf by leaf.
    #[inline(never)]
    fn groups(
        &self,
        words: &[Word],
        absent: u64,
        per_leaf: usize,
        series: Option<Series>,
        done: &mut u64,
        in_memory: impl Fn(u64) -> u64 + Copy,
    ) -> Result<Option<(u64, IoEntry)>, IoptError> {
        for group in words.chunks_exact(per_leaf) {
            // A leaf that takes several entries is there with all of them or not at all.
            if !all_are(group, absent)
                && let Some(met) = self.met(group, *done)?
            {
                return Ok(Some(met));
            }
            match series {
                Some(series) => {
                    let raw = self.leaf_of(series, *done);
                    store_all(group, raw, series.within, in_memory);
                }
                None => self.store_each(group, *done, in_memory)?,
            }
            *done += per_leaf as u64;
        }
        Ok(None)
    }

    /// The first of some entries, counted from this number, that says something; never malformed.
    #[cold]
    fn met(&self, words: &[Word], first: u64) -> Result<Option<(u64, IoEntry)>, IoptError> {
        for (entry, word) in (first..).zip(words) {
            let raw = entry::in_memory(self.format, word.load(Ordering::Relaxed));
            match self.format.decode(self.table, raw) {
                IoEntry::Malformed => return Err(IoptError::Corrupt { at: self.iova(entry), raw }),
                IoEntry::Absent => {}
                found => return Ok(Some((entry, found))),
            }
        }
        Ok(None)
    }
}

/// Whether words all have a value.
#[inline(always)]
fn all_are(words: &[Word], raw: u64) -> bool {
    let is = |word: &Word| word.load(Ordering::Relaxed) == raw;
    let (lines, rest) = words.as_chunks::<{ LINE }>();
    lines.iter().all(|line| line.iter().all(is)) && rest.iter().all(is)
}

/// Writes values into pieces of words, up to the first piece in which something stands: it is written whole or
/// not at all. Says how many words. A function of its own has everything that it needs in registers.
#[inline(never)]
fn store_free<'w>(
    pieces: impl Iterator<Item = &'w [Word]>,
    absent: u64,
    (first, step, leap): (u64, u64, u64),
    in_memory: impl Fn(u64) -> u64 + Copy,
) -> usize {
    let (mut raw, mut stored) = (first, 0);
    for piece in pieces {
        if !all_are(piece, absent) {
            break;
        }
        store_all(piece, raw, step, in_memory);
        raw = raw.wrapping_add(leap);
        stored += piece.len();
    }
    stored
}

/// Writes consecutive values into words.
#[inline(always)]
fn store_all(words: &[Word], first: u64, step: u64, in_memory: impl Fn(u64) -> u64) {
    let mut raw = first;
    let mut store = |word: &Word| {
        // Release: the IOMMU finds memory that was there before its entry.
        word.store(in_memory(raw), Ordering::Release);
        raw = raw.wrapping_add(step);
    };
    let (lines, rest) = words.as_chunks::<{ LINE }>();
    for line in lines {
        line.iter().for_each(&mut store);
    }
    rest.iter().for_each(store);
}

/// Values that follow from one another.
#[derive(Clone, Copy, Debug)]
struct Series {
    /// The first entry of the first leaf.
    first: u64,
    /// From one entry of a leaf to the next.
    within: u64,
}
