//! Filling a pin table, in order of virtual address.
//!
//! The node that is being filled is always the last one in the arena, so that it can be made finer
//! in place when a smaller run arrives: no free lists, and the words that a table needs follow from
//! its runs alone. When the words run out, the filler goes on counting without writing; that is
//! how the caller learns the exact figure.

use pinfold_arch::addr::index;
use pinfold_arch::{Order, PageCount, Pfn};

use super::layout::{COARSE, FINE, Geometry, Header, Node};
use super::slot::Slot;
use super::{PinTable, TableError};
use crate::sync::{Ordering, Word};

/// Fills one table. There is one at a time: the table is in its filling state.
#[derive(Debug)]
pub(crate) struct Filler<'m> {
    table: PinTable<'m>,
    geometry: Geometry,
    /// The page that comes next.
    next: u64,
    /// Words that the table needs for what has come so far.
    used: u64,
    /// The order-9 node of the current root block, where the root's blocks are coarser.
    middle: Option<Node>,
    /// The finest node, of the current order-9 block, and the word that links to it.
    fine: Option<(Node, usize)>,
    /// Words for the pages that come next, one for each, where pages came one by one so far.
    singles: &'m [Word],
    /// The first page that was not recorded, if the words ran out.
    cut: Option<u64>,
}

impl<'m> Filler<'m> {
    /// Starts with the root.
    pub(crate) fn new(table: PinTable<'m>, geometry: Geometry) -> Self {
        let mut filler = Self {
            table,
            geometry,
            next: geometry.start,
            used: Header::WORDS as u64,
            middle: None,
            fine: None,
            singles: &[],
            cut: None,
        };
        filler.grow(geometry.root().len());
        filler.cut = filler.overflowed().then_some(geometry.start);
        filler
    }

    /// The table's geometry.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The geometry as far as pages were recorded. Words behind that were never written.
    pub(crate) fn held(&self) -> Geometry {
        Geometry { end: self.cut.unwrap_or(self.next), ..self.geometry }
    }

    /// What comes next, in pages from the start.
    pub(crate) fn done(&self) -> PageCount {
        PageCount::new(self.next - self.geometry.start)
    }

    /// Whether all that came was recorded.
    pub(crate) fn check(&self) -> Result<(), TableError> {
        if self.overflowed() { Err(TableError::NoSpace { need: index(self.used) }) } else { Ok(()) }
    }

    fn overflowed(&self) -> bool {
        self.used > self.table.words.len() as u64
    }

    /// Makes room for so many words at the end; where they begin. They are written as their pages
    /// come, and read only as far as pages came.
    fn grow(&mut self, words: u64) -> u64 {
        let offset = self.used;
        // Page numbers have at most 52 bits, and so have the words.
        self.used += words;
        if !self.overflowed() {
            self.table.set(Header::USED, self.used);
        }
        offset
    }

    fn write(&self, word: Option<usize>, slot: Slot) {
        if let (Some(word), false) = (word, self.overflowed()) {
            self.table.set(word, slot.encode());
        }
    }

    /// Words that a part of a folio takes at most where it is mapped by as few entries as can be;
    /// otherwise it has at least as many entries.
    pub(crate) fn most_words(pages: PageCount) -> u64 {
        let whole = |order: u8| pages.raw() >> order;
        let below = |order: u8| (1 << order) - 1;
        whole(COARSE) + (whole(FINE) & below(COARSE - FINE)) + (pages.raw() & below(FINE))
    }

    /// Records one frame that is a folio of its own, if that takes no more than its word.
    #[inline(always)]
    pub(crate) fn place_single(&mut self, pfn: Pfn) -> bool {
        let Some((word, rest)) = self.singles.split_first() else { return false };
        word.store(Slot::Page(pfn).encode(), Ordering::Relaxed);
        self.singles = rest;
        self.next += 1;
        true
    }

    /// Records `pages` pinned frames from `pfn` on, each a folio of its own, for the next addresses.
    /// Returns how many pages were recorded: fewer if the words ran out.
    pub(crate) fn place_singles(&mut self, pfn: Pfn, pages: PageCount) -> PageCount {
        let from = self.next;
        let mut done = 0;
        while done < pages.raw() {
            let frame = pfn.raw() + done;
            let room = self.singles.len().min(index(pages.raw() - done));
            let (words, rest) = self.singles.split_at(room);
            if words.is_empty() {
                self.place(Pfn::new(frame), PageCount::ONE);
                self.singles = self.single_words();
                done += 1;
                continue;
            }
            for (word, frame) in words.iter().zip(frame..) {
                word.store(Slot::Page(Pfn::new(frame)).encode(), Ordering::Relaxed);
            }
            let placed = words.len() as u64;
            self.singles = rest;
            self.next += placed;
            done += placed;
        }
        self.recorded_since(from)
    }

    /// How many pages from `from` on were recorded.
    fn recorded_since(&self, from: u64) -> PageCount {
        PageCount::new(self.cut.unwrap_or(self.next).saturating_sub(from))
    }

    /// The words of the pages that come next, as far as the current node has one for each.
    fn single_words(&self) -> &'m [Word] {
        if let Some((node, _)) = self.fine
            && node.order == 0
            && (node.first..node.end).contains(&self.next)
            && !self.overflowed()
        {
            let from = node.offset + (self.next - node.first);
            let to = node.offset + (node.end - node.first);
            return self.table.words.get(index(from)..index(to)).unwrap_or_default();
        }
        &[]
    }

    /// Records `pages` pinned frames from `pfn` on, all of one folio, for the next addresses.
    /// Returns how many pages were recorded: fewer if the words ran out.
    #[inline]
    pub(crate) fn place(&mut self, pfn: Pfn, pages: PageCount) -> PageCount {
        self.singles = &[];
        let end = (self.next + pages.raw()).min(self.geometry.end);
        let from = self.next;
        while self.next < end {
            // The first page's frame has an address, and so have those that follow in its folio.
            let frame = Pfn::new(pfn.raw() + (self.next - from));
            let before = self.next;
            self.place_block(frame, end);
            if self.overflowed() {
                self.cut = self.cut.or(Some(before));
            }
        }
        self.recorded_since(from)
    }

    /// Records the part of the run that lies in the current block: the coarsest that it fills, or
    /// else the current order-9 block, in a finer node.
    #[inline]
    fn place_block(&mut self, frame: Pfn, end: u64) {
        let mut node = self.geometry.root();
        loop {
            let Some(at) = node.index_of(self.next) else { return };
            let block_end = node.end_page(at);
            if self.next == node.first_page(at) && block_end <= end {
                self.write(node.word(at), Slot::Page(frame));
                self.next = block_end;
                return;
            }
            match node.order {
                COARSE => node = self.middle_of(node, at),
                FINE => {
                    let end = end.min(block_end);
                    return self.place_fine(node, at, frame, end);
                }
                _ => return,
            }
        }
    }

    /// The order-9 node below an entry of the root.
    fn middle_of(&mut self, root: Node, at: u64) -> Node {
        let first = root.first_page(at);
        if let Some(middle) = self.middle.filter(|middle| middle.first == first) {
            return middle;
        }
        let mut middle = Node { first, end: root.end_page(at), order: FINE, offset: 0 };
        middle.offset = self.grow(middle.len());
        let order = Order::new(FINE).unwrap_or(Order::ZERO);
        self.write(root.word(at), Slot::Link { origin: middle.origin(), order });
        self.middle = Some(middle);
        middle
    }

    /// Records the run up to `end`, inside one order-9 block that it does not fill.
    #[inline]
    fn place_fine(&mut self, parent: Node, at: u64, frame: Pfn, end: u64) {
        let (first, last) = (parent.first_page(at), parent.end_page(at));
        // The coarsest blocks that begin and end where the run does; the range's ends may cut.
        let begins = if self.next == first { u32::from(FINE) } else { self.next.trailing_zeros() };
        let ends = if end == last { u32::from(FINE) } else { end.trailing_zeros() };
        #[expect(clippy::cast_possible_truncation, reason = "below nine")]
        let order = begins.min(ends).min(u32::from(FINE) - 1) as u8;

        let node = match self.fine {
            Some((node, _)) if node.first == first && node.order <= order => node,
            Some((node, link)) if node.first == first => self.refine(node, link, order),
            _ => {
                let mut node = Node { first, end: last, order, offset: 0 };
                node.offset = self.grow(node.len());
                self.link(node, parent.word(at).unwrap_or(usize::MAX));
                node
            }
        };
        let (Some(from), Some(to)) = (node.index_of(self.next), node.index_of(end - 1)) else {
            return;
        };
        if !self.overflowed() {
            for entry in from..=to {
                let page = node.first_page(entry);
                let frame = Pfn::new(frame.raw() + (page - self.next));
                self.write(node.word(entry), Slot::Page(frame));
            }
        }
        self.next = end;
    }

    fn link(&mut self, node: Node, word: usize) {
        let order = Order::new(node.order).unwrap_or(Order::ZERO);
        self.write(Some(word), Slot::Link { origin: node.origin(), order });
        self.fine = Some((node, word));
    }

    /// Makes the last node finer, in place: from the last entry that was written backwards, so that
    /// none is overwritten before it was read.
    fn refine(&mut self, old: Node, link: usize, order: u8) -> Node {
        let node = Node { order, ..old };
        self.used += node.len() - old.len();
        if !self.overflowed() {
            for entry in (0..node.index_of(self.next).unwrap_or(node.len())).rev() {
                let page = node.first_page(entry);
                let Some(from) = old.index_of(page) else { continue };
                let raw = old.word(from).map_or(0, |word| self.table.get(word));
                let slot = match Slot::decode(raw) {
                    Slot::Page(pfn) => {
                        Slot::Page(Pfn::new(pfn.raw() + page - old.first_page(from)))
                    }
                    other => other,
                };
                self.write(node.word(entry), slot);
            }
            self.table.set(Header::USED, self.used);
        }
        self.link(node, link);
        node
    }
}

#[cfg(test)]
mod tests;
