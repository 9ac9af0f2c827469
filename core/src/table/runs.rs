//! The contents of a pin table as runs.

use pinfold_arch::{PageCount, Pfn, VirtAddr};

use super::PinTable;
use super::layout::{Geometry, Node};
use super::slot::Slot;

/// Nodes whose blocks make one run at most, so that reading the next run is a bounded step.
const BLOCKS: usize = 64;

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
}

impl<'m> Runs<'m> {
    pub(super) fn new(table: PinTable<'m>, geometry: Option<Geometry>) -> Self {
        let next = geometry.map_or(0, |geometry| geometry.start);
        Self { table, geometry, next, node: None }
    }

    /// The next block that holds a frame.
    fn block(&mut self) -> Option<Run> {
        let geometry = self.geometry?;
        while self.next < geometry.end {
            let Some((node, at)) =
                self.node.and_then(|node| Some((node, node.index_of(self.next)?)))
            else {
                match self.table.descend(&geometry, self.next) {
                    Some((node, _)) => self.node = Some(node),
                    // A link that leads nowhere: somebody wrote to the table. The next block of the
                    // root may still be whole.
                    None => {
                        let root = geometry.root();
                        self.next = root.end_page(root.index_of(self.next)?);
                    }
                }
                continue;
            };
            let slot = Slot::decode(self.table.get(node.word(at)?));
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

    /// Adds the blocks to `run`, which ends here, that continue it in the same node.
    fn extend(&mut self, run: &mut Run) -> Option<()> {
        let base = self.geometry?.base;
        let node = self.node?;
        let at = node.index_of(self.next - 1)?;
        let mut raw = self.table.get(node.word(at)?);
        let mut pages = node.end_page(at) - node.first_page(at);
        for at in at + 1..node.len() {
            raw = Slot::continued(raw, pages, base)?;
            if self.table.get(node.word(at)?) != raw {
                break;
            }
            let end = node.end_page(at);
            pages = end - self.next;
            run.pages = PageCount::new(run.pages.raw() + pages);
            self.next = end;
        }
        Some(())
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let base = self.geometry?.base;
        let mut run = self.block()?;
        for _ in 0..BLOCKS {
            self.extend(&mut run);
            let next = self.next;
            let Some(block) = self.block() else { break };
            let next_va = run.pages.bytes(base).and_then(|bytes| run.va.checked_add(bytes));
            let continues = block.dirty == run.dirty
                && run.pfn.checked_add(run.pages) == Some(block.pfn)
                && next_va == Some(block.va);
            if !continues {
                // It is read again, as the first of the next run.
                self.next = next;
                break;
            }
            run.pages = PageCount::new(run.pages.raw() + block.pages.raw());
        }
        Some(run)
    }
}
