//! The directory: from a page to the record of the region that touches its block.
//!
//! Its form follows from the regions alone: a block has a node where two or more regions touch it,
//! and only there; so what a registration changes, its removal changes back. Readers see each change
//! as one store: a node is complete before it is linked, and one that was taken out stays as it
//! is until it is reclaimed.
//!
//! Every function here runs under the registry's lock.

use pinfold_arch::addr::index;
use pinfold_arch::{PageCount, VirtAddr};

use super::memory::{Memory, Phase, WriterWord};
use crate::realmode::RealMode;
use crate::realmode::layout::{DIRECTORY_LEVELS, Entry, Field, NODE_ENTRIES, NODE_ORDER, Window};
use crate::sync::{Ordering, Word};

/// Pages from `first` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) end: u64,
}

impl Span {
    /// The block of an order that holds a page.
    fn block(page: u64, order: u8) -> Self {
        let first = page >> order << order;
        Self { first, end: first + (1 << order) }
    }

    /// How many of its pages lie in front of `page`.
    pub(super) fn pages_to(&self, page: u64) -> PageCount {
        PageCount::new(page.min(self.end).saturating_sub(self.first))
    }

    fn touches(&self, other: &Self) -> bool {
        self.first < other.end && other.first < self.end
    }
}

/// Another region lies in the way: the number of its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken(pub(super) u64);

/// An entry and the block that it stands for.
#[derive(Clone, Copy)]
struct Place<'m> {
    word: &'m Word,
    entry: Entry,
    /// Cut by nothing: it may reach beyond the window.
    block: Span,
    order: u8,
}

/// The directory of a registry, for its writers.
#[derive(Clone, Copy)]
pub(super) struct Directory<'m> {
    view: RealMode<'m>,
}

impl<'m> Directory<'m> {
    pub(super) fn new(view: RealMode<'m>) -> Self {
        Self { view }
    }

    fn place(word: &'m Word, page: u64, order: u8) -> Place<'m> {
        let entry = Entry::decode(word.load(Ordering::Relaxed));
        Place { word, entry, block: Span::block(page, order), order }
    }

    /// The places on the way to a page, the root's first.
    fn path(&self, page: u64) -> heapless::Vec<Place<'m>, { DIRECTORY_LEVELS + 1 }> {
        let mut path = heapless::Vec::new();
        let Window { base, mut order, .. } = *self.view.window();
        let va = VirtAddr::new(page << base.raw());
        let mut word = self.view.root_entry(va);
        while let Some(place) = word.map(|word| Self::place(word, page, order)) {
            word = match place.entry {
                Entry::Node(offset) if order != 0 => {
                    order -= NODE_ORDER;
                    self.view.node_entry(offset, va, base.raw() + order)
                }
                _ => None,
            };
            if path.push(place).is_err() {
                break;
            }
        }
        path
    }

    fn leaf(&self, page: u64) -> Option<Place<'m>> {
        self.path(page).last().copied()
    }

    /// The record that is named for a page.
    pub(super) fn named_for(&self, page: u64) -> Option<u64> {
        match self.leaf(page)?.entry {
            Entry::Record(number) => Some(number),
            _ => None,
        }
    }

    /// The pages of a record that the directory names.
    fn span_of(&self, number: u64) -> Span {
        let base = self.view.window().base.raw();
        let field = |field| {
            self.view.record(number).map_or(0, |record| record.load(field, Ordering::Relaxed))
        };
        let (start, last) = (field(Field::START), field(Field::LAST));
        Span { first: start >> base, end: (start.saturating_add(last) >> base) + 1 }
    }

    /// Nodes that it takes to add the region to the blocks of its first and its last page. Other blocks
    /// it fills, and needs none there.
    pub(super) fn nodes_for(&self, span: Span) -> Result<u64, Taken> {
        let (first, last) = (self.leaf(span.first), self.leaf(span.end - 1));
        let of = |place: Option<Place<'m>>, page| {
            place.map_or(Ok(0), |place| self.splits(&place, page, span))
        };
        let (begin, end) = (of(first, span.first)?, of(last, span.end - 1)?);
        let same = match (first, last) {
            (Some(first), Some(last)) => core::ptr::eq(first.word, last.word),
            _ => false,
        };
        // In one block the region that is there lies on one side: the nodes at the other end are
        // among those at this one.
        Ok(if same { begin.max(end) } else { begin + end })
    }

    /// How often a block must be split until the region at `page` has one without others.
    fn splits(&self, place: &Place<'m>, page: u64, span: Span) -> Result<u64, Taken> {
        let Entry::Record(number) = place.entry else { return Ok(0) };
        let other = self.span_of(number);
        if other.touches(&span) {
            return Err(Taken(number));
        }
        let mut nodes = 0;
        let mut order = place.order;
        let mut block = place.block;
        while order != 0 && other.touches(&block) {
            nodes += 1;
            order -= NODE_ORDER;
            block = Span::block(page, order);
        }
        Ok(nodes)
    }

    /// Adds the region to the block of a page, and splits it where others touch it. Returns the first
    /// page behind the block, and how many words were written.
    ///
    /// There are nodes enough, see [`nodes_for`](Self::nodes_for).
    pub(super) fn add(
        &self,
        memory: &mut Memory,
        number: u64,
        span: Span,
        page: u64,
    ) -> Result<(u64, u64), Taken> {
        let mut words = 0;
        for _ in 0..=DIRECTORY_LEVELS {
            let Some(place) = self.leaf(page) else { break };
            match place.entry {
                Entry::Record(other) if other != number => {
                    if self.span_of(other).touches(&span) {
                        return Err(Taken(other));
                    }
                    self.split(memory, &place, other);
                    words += NODE_ENTRIES;
                }
                Entry::Record(_) => return Ok((place.block.end, words)),
                Entry::Empty | Entry::Node(_) => {
                    place.word.store(Entry::Record(number).encode(), Ordering::Release);
                    return Ok((place.block.end, words + 1));
                }
            }
        }
        Ok((span.end, words))
    }

    /// Replaces the entry by a node in which `other` has the blocks that it touches.
    fn split(&self, memory: &mut Memory, place: &Place<'m>, other: u64) {
        let Some(offset) = memory.take_node(&self.view) else { return };
        let span = self.span_of(other);
        let order = place.order - NODE_ORDER;
        for (at, word) in self.entries(offset).iter().enumerate() {
            let block = Span::block(place.block.first + ((at as u64) << order), order);
            let entry = if span.touches(&block) { Entry::Record(other) } else { Entry::Empty };
            word.store(entry.encode(), Ordering::Relaxed);
        }
        place.word.store(Entry::Node(offset).encode(), Ordering::Release);
    }

    fn entries(&self, node: u64) -> &'m [Word] {
        let from = index(node);
        self.view.words().get(from..from + index(NODE_ENTRIES)).unwrap_or_default()
    }

    /// Takes the region out of the block of a page, and takes out nodes that tell nothing apart any
    /// more. Returns the first page behind the block, and how many words were read or written.
    pub(super) fn remove(
        &self,
        memory: &mut Memory,
        number: u64,
        span: Span,
        page: u64,
    ) -> (u64, u64) {
        let mut path = self.path(page);
        let Some(leaf) = path.pop() else { return (span.end, 0) };
        let end = leaf.block.end;
        let mut words = 1;
        if leaf.entry == Entry::Record(number) {
            leaf.word.store(Entry::Empty.encode(), Ordering::Release);
        }
        // Looked at once: when the last of the region's blocks in the node is done.
        while let Some(above) = path.pop()
            && end >= above.block.end.min(span.end)
            && let Entry::Node(offset) = above.entry
        {
            words += NODE_ENTRIES;
            let Some(only) = self.only_entry(offset) else { break };
            above.word.store(only.encode(), Ordering::Release);
            memory.retire_node(&self.view, offset);
        }
        (end, words)
    }

    /// What the entries of a node say, if that is all the same but for those that are empty. A region
    /// that is being taken out is not made the only one of the block above: it would be split into
    /// blocks again that it has left already. The node goes with the last of its blocks.
    fn only_entry(&self, node: u64) -> Option<Entry> {
        let mut only = Entry::Empty;
        for word in self.entries(node) {
            let entry = Entry::decode(word.load(Ordering::Relaxed));
            match (entry, only) {
                (Entry::Empty, _) => {}
                (Entry::Record(number), Entry::Empty) if !self.is_going(number) => only = entry,
                _ if entry == only => {}
                _ => return None,
            }
        }
        Some(only)
    }

    fn is_going(&self, number: u64) -> bool {
        let record = self.view.record(number);
        record.is_some_and(|record| WriterWord::read(&record).phase == Phase::Going)
    }
}
