//! The contents of a pin table as runs.

use pinfold_arch::{PageCount, Pfn, VirtAddr};

use super::PinTable;
use super::layout::{Geometry, Node};
use super::slot::Slot;

/// Words that make one run at most, so that reading the next run is a bounded step.
const WORDS: u64 = 1 << 15;

/// Consecutive frames behind consecutive addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First address.
    pub va: VirtAddr,
    /// First frame.
    pub pfn: Pfn,
    /// Length.
    pub pages: PageCount,
    /// Whether the device wrote to any of it.
    pub dirty: bool,
}

/// Iterates over the runs of a table, in order of virtual address; made by
/// [`PinTable::runs`]. Blocks that continue each other come as one run, whatever their folios.
#[derive(Clone, Debug)]
pub struct Runs<'m> {
    table: PinTable<'m>,
    geometry: Option<Geometry>,
    /// The page to look at next.
    next: u64,
    /// The node that holds it, if it is known.
    node: Option<Node>,
    /// Words that may still be taken at this time.
    words: u64,
    /// A block that was read and does not continue the run before it.
    ahead: Option<Run>,
}

impl<'m> Runs<'m> {
    pub(super) fn new(table: PinTable<'m>, geometry: Option<Geometry>) -> Self {
        let next = geometry.map_or(0, |geometry| geometry.start);
        Self { table, geometry, next, node: None, words: 0, ahead: None }
    }

    /// Whether all has been read.
    pub(crate) fn ended(&self) -> bool {
        self.ahead.is_none() && self.geometry.is_none_or(|geometry| self.next >= geometry.end)
    }

    /// The next run, from at most `words` words, which become fewer. `None` if they hold nothing.
    pub(crate) fn next_within(&mut self, words: &mut u64) -> Option<Run> {
        self.words = *words;
        let run = self.run();
        *words = self.words;
        run
    }

    /// The next block that holds a frame.
    fn block(&mut self) -> Option<Run> {
        let geometry = self.geometry?;
        while self.next < geometry.end && self.words > 0 {
            self.words -= 1;
            let Some((node, at)) = self.place(&geometry) else {
                // A link that leads nowhere: somebody wrote to the table. The next block of the
                // root may still be whole.
                let root = geometry.root();
                let at = root.index_of(self.next);
                self.next = at.map_or(geometry.end, |at| root.end_page(at));
                continue;
            };
            let slot = node.word(at).map_or(Slot::Vacant, |at| Slot::decode(self.table.get(at)));
            if let Slot::Link { .. } = slot {
                self.node = None;
                continue;
            }
            let page = self.next.max(node.first_page(at));
            let end = node.end_page(at);
            self.next = end;
            let (pfn, dirty) = match slot {
                Slot::Page(pfn) => (pfn, false),
                Slot::Address { addr, dirty } | Slot::Stale { addr, dirty } => {
                    (addr.pfn(geometry.base), dirty)
                }
                Slot::Vacant | Slot::Link { .. } => continue,
            };
            return Some(Run {
                va: VirtAddr::new(page << geometry.base.raw()),
                pfn: Pfn::new(pfn.raw() + (page - node.first_page(at))),
                pages: PageCount::new(end - page),
                dirty,
            });
        }
        None
    }

    /// The node that holds the next page, and the page's entry in it.
    #[inline]
    fn place(&mut self, geometry: &Geometry) -> Option<(Node, u64)> {
        if let Some(node) = self.node
            && let Some(at) = node.index_of(self.next)
        {
            return Some((node, at));
        }
        let (node, at) = self.descend(geometry)?;
        self.node = Some(node);
        Some((node, at))
    }

    /// The lowest node that holds the next page, and the page's entry in it.
    fn descend(&self, geometry: &Geometry) -> Option<(Node, u64)> {
        let mut node = geometry.root();
        loop {
            let at = node.index_of(self.next)?;
            match Slot::decode(self.table.get(node.word(at)?)) {
                Slot::Link { origin, order } => node = node.child(at, origin, order)?,
                _ => return Some((node, at)),
            }
        }
    }

    /// Adds the blocks to `run`, which ends here, that continue it in the same node.
    fn extend(&mut self, run: &mut Run) -> Option<()> {
        let base = self.geometry?.base;
        let node = self.node?;
        let at = node.index_of(self.next - 1)?;
        let mut raw = self.table.get(node.word(at)?);
        let mut pages = node.end_page(at) - node.first_page(at);
        for at in at + 1..node.len() {
            raw = Slot::continued(raw, pages, base)?;
            if self.words == 0 || self.table.get(node.word(at)?) != raw {
                break;
            }
            let end = node.end_page(at);
            pages = end - self.next;
            run.pages = PageCount::new(run.pages.raw() + pages);
            self.next = end;
            self.words -= 1;
        }
        Some(())
    }
}

impl Runs<'_> {
    /// The next run, from as many words as there may be now.
    fn run(&mut self) -> Option<Run> {
        let base = self.geometry?.base;
        let mut run = match self.ahead.take() {
            Some(run) => run,
            None => self.block()?,
        };
        loop {
            self.extend(&mut run);
            let Some(block) = self.block() else { return Some(run) };
            let next_va = run.pages.bytes(base).and_then(|bytes| run.va.checked_add(bytes));
            let continues = block.dirty == run.dirty
                && run.pfn.checked_add(run.pages) == Some(block.pfn)
                && next_va == Some(block.va);
            if !continues {
                self.ahead = Some(block);
                return Some(run);
            }
            run.pages = PageCount::new(run.pages.raw() + block.pages.raw());
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        while !self.ended() {
            self.words = WORDS;
            let run = self.run();
            if run.is_some() {
                return run;
            }
        }
        None
    }
}
