//! Zones and the page allocator.
//!
//! A free frame is a free folio of order 0 in the frame table, and a set bit here; the two always
//! agree. First fit from the lowest address, so that freed frames are used again soon and a
//! reference that was kept too long shows.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::{FrameTable, Frozen};
use pinfold::{Order, PageCount, Pfn};

use crate::layout::{FrameRange, Layout, ZoneKind, ZoneLayout};
use crate::ram::index;

/// Where an allocation may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Where it may be pinned for long: in a normal zone, outside CMA areas.
    Pinnable,
    /// Anywhere that user memory may be: movable zones first, CMA areas next, normal zones last.
    Movable,
    /// Only there.
    In(Place),
}

/// What kind of place a frame is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// In a zone, outside CMA areas.
    Zone(ZoneKind),
    /// In a CMA area.
    Cma,
}

/// Frames of one zone: all of them, and the free ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneCounts {
    /// The zone.
    pub zone: ZoneLayout,
    /// Its frames.
    pub frames: FrameRange,
    /// Those that are free.
    pub free: PageCount,
}

/// Frames in a row that are alike in every respect.
#[derive(Clone, Copy, Debug)]
struct Segment {
    frames: FrameRange,
    place: Place,
    /// No frame of it below this one is free.
    free_from: Pfn,
}

#[derive(Debug)]
pub(crate) struct Zones<'m> {
    frames: FrameTable<'m>,
    layout: Layout,
    all: FrameRange,
    segments: Vec<Segment>,
    free: Vec<bool>,
    /// Ranges that somebody is emptying: nothing is allocated there.
    pub(crate) isolated: Vec<FrameRange>,
}

impl<'m> Zones<'m> {
    /// Adds all memory of the layout to the frame table, free.
    pub(crate) fn new(frames: FrameTable<'m>, layout: &Layout) -> Self {
        let zones = Self {
            frames,
            layout: layout.clone(),
            all: layout.frames(),
            segments: segments(layout),
            free: vec![true; index(layout.frames().pages.raw())],
            isolated: Vec::new(),
        };
        for pfn in layout.frames().iter() {
            let info = zones.free_info(pfn);
            zones.frames.add_memory(pfn, info).expect("a new machine's memory is unknown").free();
        }
        zones
    }

    fn segment(&self, pfn: Pfn) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.frames.contains(pfn))
    }

    /// The place of a frame; `None` outside memory.
    pub(crate) fn place(&self, pfn: Pfn) -> Option<Place> {
        self.segment(pfn).map(|segment| segment.place)
    }

    /// The flags that a folio has for where it lies.
    pub(crate) fn place_flags(&self, pfn: Pfn) -> FolioFlags {
        let mut flags = match self.place(pfn) {
            Some(Place::Cma) => FolioFlags::CMA,
            Some(Place::Zone(ZoneKind::Movable)) => FolioFlags::MOVABLE,
            _ => FolioFlags::empty(),
        };
        flags.set(FolioFlags::ISOLATED, self.is_isolated(&FrameRange::new(pfn, PageCount::ONE)));
        flags
    }

    fn free_info(&self, pfn: Pfn) -> FolioInfo {
        FolioInfo { order: Order::ZERO, kind: FolioKind::Free, flags: self.place_flags(pfn) }
    }

    fn is_isolated(&self, range: &FrameRange) -> bool {
        self.isolated.iter().any(|isolated| isolated.overlaps(range))
    }

    fn slot(&self, pfn: Pfn) -> usize {
        index(pfn.raw() - self.all.start.raw())
    }

    /// Whether the frame is in the allocator.
    pub(crate) fn is_free(&self, pfn: Pfn) -> bool {
        self.all.contains(pfn) && self.free[self.slot(pfn)]
    }

    /// A folio of that order, frozen, with undefined contents; `kind` and `flags` beside those of
    /// the place.
    pub(crate) fn alloc(
        &mut self,
        order: Order,
        want: Want,
        kind: FolioKind,
        flags: FolioFlags,
    ) -> Option<Frozen<'m>> {
        let places: &[Place] = match want {
            Want::Pinnable => &[Place::Zone(ZoneKind::Normal)],
            Want::Movable => {
                &[Place::Zone(ZoneKind::Movable), Place::Cma, Place::Zone(ZoneKind::Normal)]
            }
            Want::In(ref place) => std::slice::from_ref(place),
        };
        let block = places.iter().find_map(|place| self.find(order, *place))?;
        self.take(block, order, kind, flags)
    }

    /// The lowest free block of that order in such a place.
    fn find(&self, order: Order, place: Place) -> Option<Pfn> {
        let pages = order.pages();
        self.segments.iter().filter(|segment| segment.place == place).find_map(|segment| {
            let mut at = align_up(segment.free_from, order);
            while at.raw() + pages.raw() <= segment.frames.end().raw() {
                let block = FrameRange::new(at, pages);
                let slots = self.slot(at)..self.slot(at) + index(pages.raw());
                if self.free[slots].iter().all(|free| *free) && !self.is_isolated(&block) {
                    return Some(at);
                }
                at = block.end();
            }
            None
        })
    }

    /// Exactly this block, if it is free.
    pub(crate) fn take(
        &mut self,
        block: Pfn,
        order: Order,
        kind: FolioKind,
        flags: FolioFlags,
    ) -> Option<Frozen<'m>> {
        let info = FolioInfo { order, kind, flags: flags | self.place_flags(block) };
        let frozen = self.frames.assemble(block, info).ok()?;
        self.mark(block, order, false);
        Some(frozen)
    }

    /// Takes a folio apart and makes its frames free.
    pub(crate) fn release(&mut self, mut folio: Frozen<'_>) {
        let (head, order) = (folio.head(), folio.order());
        let mut parts = vec![];
        folio
            .reshape(self.free_info(head), |part| parts.push(part))
            .expect("order 0 is not larger than any");
        self.mark(head, order, true);
        folio.free();
        for mut part in parts {
            // The border of an area may run through the folio.
            let info = self.free_info(part.head());
            part.reshape(info, |_| {}).expect("a single frame stays one");
            part.free();
        }
        if order > Order::ZERO && !self.isolated.is_empty() {
            self.refresh_isolated(&FrameRange::new(head, order.pages()));
        }
    }

    fn mark(&mut self, block: Pfn, order: Order, free: bool) {
        let from = self.slot(block);
        for bit in &mut self.free[from..from + index(order.pages().raw())] {
            debug_assert_ne!(*bit, free, "allocated or freed twice");
            *bit = free;
        }
        let behind = FrameRange::new(block, order.pages()).end();
        for segment in self.segments.iter_mut().filter(|s| s.frames.contains(block)) {
            if free {
                segment.free_from = segment.free_from.min(block);
            } else if segment.free_from == block {
                segment.free_from = behind;
            }
        }
    }

    /// Makes the isolated flag of every folio in the range say what the isolated ranges say.
    pub(crate) fn refresh_isolated(&self, range: &FrameRange) {
        let mut at = range.start;
        while at < range.end() {
            let Some(folio) = self.frames.folio(at) else {
                at = Pfn::new(at.raw() + 1);
                continue;
            };
            let whole = FrameRange::new(folio.head(), folio.order().pages());
            self.frames.set_flags(folio, FolioFlags::ISOLATED, self.is_isolated(&whole));
            at = whole.end();
        }
    }

    /// Every zone with its frames.
    pub(crate) fn counts(&self) -> Vec<ZoneCounts> {
        let mut start = self.layout.first;
        let zones = self.layout.zones.iter().map(|zone| {
            let frames = FrameRange::new(start, zone.pages);
            start = frames.end();
            let slots = self.slot(frames.start)..self.slot(frames.start) + index(zone.pages.raw());
            let free = self.free[slots].iter().filter(|free| **free).count() as u64;
            ZoneCounts { zone: *zone, frames, free: PageCount::new(free) }
        });
        zones.collect()
    }

    /// The CMA areas.
    pub(crate) fn cma(&self) -> &[FrameRange] {
        &self.layout.cma
    }
}

pub(crate) fn align_up(pfn: Pfn, order: Order) -> Pfn {
    let pages = order.pages().raw();
    Pfn::new(pfn.raw().next_multiple_of(pages))
}

/// Cuts zones at the borders of CMA areas.
fn segments(layout: &Layout) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut at = layout.first;
    for zone in &layout.zones {
        let end = Pfn::new(at.raw() + zone.pages.raw());
        while at < end {
            let inside = layout.cma.iter().find(|area| area.contains(at));
            let next = layout.cma.iter().map(|area| area.start).filter(|start| *start > at).min();
            let stop = match (inside, next) {
                (Some(area), _) => area.end().min(end),
                (None, Some(next)) => next.min(end),
                (None, None) => end,
            };
            let place = if inside.is_some() { Place::Cma } else { Place::Zone(zone.kind) };
            let pages = PageCount::new(stop.raw() - at.raw());
            let frames = FrameRange::new(at, pages);
            segments.push(Segment { frames, place, free_from: at });
            at = stop;
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::mib;
    use crate::ram::Ram;

    fn order(n: u8) -> Order {
        Order::new(n).unwrap()
    }

    #[test]
    fn blocks_are_aligned_and_come_back_as_single_free_frames() {
        let ram = Ram::new(&Layout::new(Pfn::new(5)).normal(mib(4)).movable(mib(2)));
        let frames = ram.frame_table();
        let mut zones = Zones::new(frames, ram.layout());
        let none = FolioFlags::empty();
        let small = zones.alloc(Order::ZERO, Want::Pinnable, FolioKind::Kernel, none).unwrap();
        assert_eq!(small.head(), Pfn::new(5));
        let huge = zones.alloc(order(9), Want::Pinnable, FolioKind::Anonymous, none).unwrap();
        assert_eq!(huge.head(), Pfn::new(512));
        assert!(zones.alloc(order(9), Want::Pinnable, FolioKind::Anonymous, none).is_none());
        assert!(!zones.is_free(Pfn::new(1023)) && zones.is_free(Pfn::new(511)));
        zones.release(huge);
        zones.release(small);
        for pfn in ram.frames().iter() {
            let folio = frames.folio(pfn).unwrap();
            assert_eq!((folio.head(), folio.info().kind), (pfn, FolioKind::Free));
            assert_eq!(frames.counts_of(folio).references(), 0);
        }
        assert!(zones.counts().iter().all(|zone| zone.free == zone.zone.pages));
    }

    #[test]
    fn a_folio_across_the_border_of_an_area_leaves_each_frame_its_own_flags() {
        let mut layout = Layout::new(Pfn::new(0)).normal(mib(4));
        layout.cma.push(FrameRange::new(Pfn::new(3), PageCount::new(256)));
        let ram = Ram::new(&layout);
        let frames = ram.frame_table();
        let mut zones = Zones::new(frames, ram.layout());
        let none = FolioFlags::empty();
        let huge = zones.take(Pfn::new(0), order(9), FolioKind::Anonymous, none).unwrap();
        zones.release(huge);
        for pfn in ram.frames().iter() {
            let folio = frames.folio(pfn).unwrap();
            assert_eq!(folio.info().flags, zones.place_flags(pfn), "frame {pfn}");
        }
    }

    #[test]
    fn movable_memory_prefers_the_movable_zone_and_then_cma() {
        let ram = Ram::new(&Layout::new(Pfn::new(0)).normal(mib(2)).cma(mib(2)).movable(mib(2)));
        let mut zones = Zones::new(ram.frame_table(), ram.layout());
        let mut places = Vec::new();
        let none = FolioFlags::empty();
        while let Some(frozen) = zones.alloc(order(9), Want::Movable, FolioKind::Anonymous, none) {
            places.push(zones.place(frozen.head()).unwrap());
        }
        let zone = Place::Zone;
        assert_eq!(places, [zone(ZoneKind::Movable), Place::Cma, zone(ZoneKind::Normal)]);
    }
}
