//! Random calls over some pages, held against a plain list of what each page leads to. After each call the
//! device is sent to the edges of what the call was about, and elsewhere.

use core::ops::Range;

use pinfold::iopt::{IoRun, IoptError};
use pinfold_arch::addr::index;
use pinfold_arch::{Access, IoFormat, Iova, PhysAddr};

use super::probe::Said;
use super::space::Space;
use crate::dma::TRANSFER;
use crate::iommu::Iommu;

/// Pages: more than most tables have entries.
const PAGES: usize = 2048;
/// Between the two halves of them: a boundary of tables of all levels that matter.
const MIDDLE: u64 = 0x5_0000_0000;
/// Memory that begins where large leaves can begin has as many pages before it as a multiple of this.
const ALIKE: u64 = 512;

/// Places where memory does not go on that are looked at.
const SEAMS: usize = 8;

/// What a page leads to: the number of a page of memory, and what the device may do.
type Page = Option<(u64, Access)>;

/// What the calls are about.
struct Field<'f, 's, 'm, 'c, U: Iommu> {
    space: &'f mut Space<'s, 'm, 'c, U>,
    pages: [Page; PAGES],
    /// Bytes of a page.
    page: u64,
    memory: PhysAddr,
    /// Pages of memory.
    count: u64,
}

/// So many calls.
pub(super) fn calls<U: Iommu>(space: &mut Space<'_, '_, '_, U>, calls: u32) {
    let page = space.format().base().bytes();
    let (memory, bytes) = space.probe.stage.memory.data();
    let mut field = Field { space, pages: [None; PAGES], page, memory, count: bytes / page };
    for call in 0..calls {
        let [kind, length, place, access, more, ..] = field.space.probe.stage.fresh();
        let range = some(length, place);
        let seams = field.seams(&range);
        // What the device has seen must be forgotten.
        let seen = seams.iter().all(|place| field.is_as_said(*place));
        let holds = if kind % 8 == 0 || field.mapped(&range) == 0 {
            field.map(&range, if access % 4 == 0 { Access::READ } else { Access::all() })
        } else {
            field.take(&range)
        };
        let edges = [range.start.wrapping_sub(1), range.start, range.end - 1, range.end];
        let others = [more, more >> 32].map(|place| index(place) % PAGES);
        let mut places =
            edges.into_iter().chain(others).chain(seams).filter(|place| *place < PAGES);
        let right = places.all(|place| field.is_as_said(place));
        let report = &mut field.space.probe.stage.report;
        report.check(seen && holds && right, format_args!("random call {call}: pages {range:?}"));
    }
    let last = field.take(&(0..PAGES));
    field.space.probe.stage.report.check(last, format_args!("the rest comes back"));
}

/// Pages in a row: a power of two at a multiple of it, or any.
fn some(length: u64, place: u64) -> Range<usize> {
    let (odd, length) = (length % 2 == 1, length >> 8);
    let pages = if odd { 1 + index(length % 40) } else { 1 << (length % 11) };
    let place = index(place) % PAGES;
    let start = if odd { place.min(PAGES - pages) } else { place & !(pages - 1) };
    start..start + pages
}

impl<U: Iommu> Field<'_, '_, '_, '_, U> {
    fn at(&self, place: usize) -> Iova {
        Iova::new(MIDDLE - (PAGES as u64 / 2) * self.page + place as u64 * self.page)
    }

    fn addr(&self, number: u64) -> PhysAddr {
        PhysAddr::new(self.memory.raw() + number * self.page)
    }

    fn mapped(&self, range: &Range<usize>) -> u64 {
        self.pages[range.clone()].iter().flatten().count() as u64
    }

    /// The first places of a range where memory does not go on behind that of the page before: where one call's
    /// end may be.
    fn seams(&self, range: &Range<usize>) -> heapless::Vec<usize, SEAMS> {
        let mut seams = heapless::Vec::new();
        for place in range.clone().skip(1) {
            let before = self.pages[place - 1].map(|(number, access)| (number + 1, access));
            if self.pages[place] != before {
                // Further ones are left out.
                let _ = seams.push(place - 1).and_then(|()| seams.push(place));
            }
        }
        seams
    }

    /// Maps two runs of memory one behind the other; refused where something is mapped.
    fn map(&mut self, range: &Range<usize>, access: Access) -> bool {
        let [cut, first, second, ..] = self.space.probe.stage.fresh();
        let cut = range.start + index(cut) % range.len();
        let (first, second) = (self.some_memory(range.start, first), self.some_memory(cut, second));
        let run = |number: u64, pages: usize| IoRun {
            addr: self.addr(number),
            bytes: pages as u64 * self.page,
        };
        let runs = [run(first, cut - range.start), run(second, range.end - cut)];
        let runs = if cut == range.start { &runs[1..] } else { &runs[..] };
        let free = self.mapped(range) == 0;
        match self.space.map(self.at(range.start), runs, access) {
            Ok(()) => {
                for place in range.clone() {
                    let (number, from) =
                        if place < cut { (first, range.start) } else { (second, cut) };
                    self.pages[place] = Some((number + (place - from) as u64, access));
                }
                free
            }
            Err(IoptError::Mapped { .. }) => !free,
            Err(_) => false,
        }
    }

    /// Memory with room for all pages, half of the time such as large leaves can have.
    fn some_memory(&self, place: usize, random: u64) -> u64 {
        let room = self.count.saturating_sub(PAGES as u64).max(1);
        let number = (random >> 1) % room;
        if random % 2 == 1 { number } else { number / ALIKE * ALIKE + place as u64 % ALIKE }
    }

    /// Unmaps, or finds that a leaf would have to be cut that cannot be.
    fn take(&mut self, range: &Range<usize>) -> bool {
        let (at, bytes) = (self.at(range.start), range.len() as u64 * self.page);
        let mut back = self.space.take(at, bytes);
        if matches!(back, Err(IoptError::InsideLeaf { .. })) {
            match self.space.split(at, bytes) {
                Ok(()) => back = self.space.take(at, bytes),
                Err(error) => return matches!(error, IoptError::Indivisible { .. }),
            }
        }
        let holds = back == Ok(self.mapped(range) * self.page);
        self.pages[range.clone()].fill(None);
        holds
    }

    /// Whether the device finds at a page what the list says: at one of its ends.
    fn is_as_said(&mut self, place: usize) -> bool {
        let offset = if place.is_multiple_of(2) { 0 } else { self.page - TRANSFER };
        let at = Iova::new(self.at(place).raw() + offset);
        let page = self.pages[place];
        let addr = self.addr(page.map_or(0, |(number, _)| number));
        let addr = PhysAddr::new(addr.raw() + offset);
        let probe = &mut self.space.probe;
        match page {
            None => {
                probe.cannot_write(at, addr, Said::Must) && probe.cannot_read(at, addr, Said::Must)
            }
            Some((_, Access::READ)) => {
                probe.can_read(at, addr) && probe.cannot_write(at, addr, Said::May)
            }
            Some(_) => probe.can_write(at, addr) && probe.can_read(at, addr),
        }
    }
}
