//! The leaves of one table, as many as there are, in as few runs as they make.

use pinfold_arch::addr::index;
use pinfold_arch::{Entry, Leaf, PageCount, PageFormat, Pfn, PhysAddr};

use super::run::{Chain, Run, host_order};
use super::{Level, RangeWalk};
use crate::host::PhysMem;
use crate::sync::Ordering;

/// A leaf that was decoded, and what it says of entries that need not be.
struct Decoded {
    leaf: Leaf,
    /// Bits in which an entry must not differ: all but its address and what hardware sets.
    fixed: u64,
    /// What it has there.
    value: u64,
    /// See [`PageFormat::address_bits`].
    address_bits: u64,
    /// What those bits of an entry do not say of its address.
    addr: u64,
}

impl Decoded {
    fn new(leaf: Leaf, raw: u64, address_bits: u64, volatile: u64) -> Self {
        let fixed = !(address_bits | volatile);
        let addr = leaf.addr.raw() ^ raw & address_bits;
        Self { leaf, fixed, value: raw & fixed, address_bits, addr }
    }

    /// Whether an entry differs from it in address bits only.
    #[inline]
    fn describes(&self, raw: u64) -> bool {
        raw & self.fixed == self.value
    }

    /// How many pages behind an entry it describes too, for sure, if all that grows is the address.
    #[inline]
    fn more(&self, raw: u64) -> u64 {
        let shift = self.leaf.shift.raw();
        let low = (self.address_bits >> shift).trailing_ones().min(32);
        let mask = (1 << low) - 1;
        mask - (raw >> shift & mask)
    }

    /// The address in an entry that differs in address bits only.
    #[inline]
    fn addr(&self, raw: u64) -> PhysAddr {
        PhysAddr::new(self.addr ^ raw & self.address_bits)
    }
}

/// Whether `next` maps what comes behind a leaf at `addr`, in the same way.
#[inline]
fn follows(addr: PhysAddr, leaf: &Leaf, next: &Leaf) -> bool {
    addr.checked_add(leaf.shift.bytes()) == Some(next.addr)
        && (next.shift, next.rights, next.memory) == (leaf.shift, leaf.rights, leaf.memory)
}

#[inline]
fn leaf_of(entry: &Entry) -> Option<Leaf> {
    if let Entry::Leaf(leaf) = entry { Some(*leaf) } else { None }
}

impl<'m, F: PageFormat, M: PhysMem> RangeWalk<'m, F, M> {
    /// Runs from the leaf `first` on, up to the entry `last`, to what is no leaf of its size and
    /// rights, or to what does not fit.
    // Once for many entries: its loop needs the registers more than it needs to be inline.
    #[inline(never)]
    pub(super) fn leaves<const N: usize>(
        &mut self,
        level: &Level<'m>,
        first: (u16, u64, Leaf),
        last: u16,
        runs: &mut heapless::Vec<Run, N>,
        most: usize,
    ) {
        let (start, raw, leaf) = first;
        let base = self.format.base();
        let (bytes, pages, order) =
            (leaf.shift.bytes(), leaf.shift.pages(base).raw(), leaf.shift.order(base).raw());
        let (big_endian, volatile) = (self.format.big_endian(), self.format.volatile_bits());
        // Pages of the first leaf before the walk comes to it, and the last entry that is wanted.
        let skipped = (self.va & leaf.shift.mask()) >> base.raw();
        let wanted = u16::try_from((skipped + self.left - 1) >> order).unwrap_or(u16::MAX);
        let last = start.saturating_add(wanted).min(last);

        let address_bits = self.format.address_bits(&level.table);
        let mut known = Decoded::new(leaf, raw, address_bits, volatile);
        let pfn = leaf.addr.pfn(base).checked_add(PageCount::new(skipped));
        let pfn = pfn.unwrap_or(Pfn::new(u64::MAX));
        let pages = PageCount::new(pages);
        let _ = runs.push(Run { pfn, pages, raw, first: start, entries: 1 });
        let chain = Chain { view: level.view, big_endian, volatile, bytes };
        let entry =
            |at: u16| level.view.load(usize::from(at)).map(|raw| host_order(raw, big_endian));
        // The last entry that was taken, and what it says.
        let (mut at, mut latest) = (start, raw);
        while at < last {
            let Some(raw) = entry(at + 1) else { break };
            let mut continues = (raw ^ latest.wrapping_add(bytes)) & !volatile == 0;
            if !known.describes(raw) {
                let found = self.format.decode(&level.table, raw);
                let alike = |leaf: &Leaf| {
                    (leaf.shift, leaf.rights) == (known.leaf.shift, known.leaf.rights)
                };
                let Some(leaf) = leaf_of(&found).filter(alike) else {
                    self.ahead = Some((at + 1, raw, found));
                    break;
                };
                continues &= follows(known.addr(latest), &known.leaf, &leaf);
                known = Decoded::new(leaf, raw, address_bits, volatile);
            }
            if !continues {
                let pfn = known.addr(raw).pfn(base);
                let run = Run { pfn, pages, raw, first: at + 1, entries: 1 };
                if runs.len() >= most || runs.push(run).is_err() {
                    let leaf = Leaf { addr: known.addr(raw), ..known.leaf };
                    self.ahead = Some((at + 1, raw, Entry::Leaf(leaf)));
                    break;
                }
                (at, latest) = (at + 1, raw);
                continue;
            }
            // Mostly there are more.
            latest = latest.wrapping_add(bytes);
            let most = known.more(latest).min(u64::from(last - at - 1));
            let expected = latest.wrapping_add(bytes);
            let more = chain.length(usize::from(at) + 2, index(most), expected, Ordering::Acquire);
            let more = u16::try_from(more).unwrap_or(u16::MAX);
            latest = latest.wrapping_add(u64::from(more) << leaf.shift.raw());
            at += 1 + more;
            if let Some(run) = runs.last_mut() {
                run.entries += 1 + more;
                run.pages = PageCount::new(u64::from(run.entries) << order);
            }
        }
        self.entries += u64::from(at - start) + u64::from(self.ahead.is_some());
        // The first leaf may begin before the range, and the last may reach beyond it.
        let taken = ((u64::from(at - start) + 1) << order) - skipped;
        let beyond = taken.saturating_sub(self.left);
        if let Some(run) = runs.first_mut() {
            run.pages = PageCount::new(run.pages.raw() - skipped);
        }
        if let Some(run) = runs.last_mut() {
            run.pages = PageCount::new(run.pages.raw() - beyond);
        }
        self.advance(taken - beyond, at - start);
    }
}
