//! Which memory the machine has.

use pinfold::{PageCount, PageShift, Pfn};

/// Frames in a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FrameRange {
    /// The first one.
    pub start: Pfn,
    /// How many.
    pub pages: PageCount,
}

impl FrameRange {
    /// `pages` frames from `start`.
    #[must_use]
    pub const fn new(start: Pfn, pages: PageCount) -> Self {
        Self { start, pages }
    }

    /// The frame behind the last one.
    #[must_use]
    pub const fn end(&self) -> Pfn {
        Pfn::new(self.start.raw() + self.pages.raw())
    }

    /// Whether the frame is one of them.
    #[must_use]
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.start <= pfn && pfn < self.end()
    }

    /// Whether the two share a frame.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Pfn> + use<> {
        (self.start.raw()..self.end().raw()).map(Pfn::new)
    }
}

/// What a zone is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ZoneKind {
    /// Anything: the kernel's own memory, and what is pinned for long.
    Normal,
    /// User memory that can be moved away, so that the zone can be unplugged.
    Movable,
    /// Memory of a device that the CPU reaches coherently.
    Coherent,
    /// Persistent memory that a file system maps directly.
    FsDax,
    /// Memory of a PCI device that other devices may reach.
    PeerToPeer,
}

/// A zone: frames with the same use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneLayout {
    /// For people.
    pub name: &'static str,
    /// What it is for.
    pub kind: ZoneKind,
    /// How large it is.
    pub pages: PageCount,
}

/// Which memory the machine has: zones one after the other from `first`, and the CMA areas in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Frame number of the first frame.
    pub first: Pfn,
    /// The base page size.
    pub base: PageShift,
    /// The zones, in the order of their frames.
    pub zones: Vec<ZoneLayout>,
    /// Areas inside normal zones that somebody may want in one piece.
    pub cma: Vec<FrameRange>,
}

impl Layout {
    /// No memory yet, in 4 KiB pages from `first`.
    #[must_use]
    pub fn new(first: Pfn) -> Self {
        Self { first, base: PageShift::SIZE_4K, zones: Vec::new(), cma: Vec::new() }
    }

    /// 48 MiB normal, 16 MiB normal in one CMA area, 32 MiB movable.
    #[must_use]
    pub fn small() -> Self {
        Self::new(Pfn::new(0x1000)).normal(mib(48)).cma(mib(16)).movable(mib(32))
    }

    /// 6 MiB normal, 2 MiB CMA, 4 MiB movable: what a script fills in a few steps.
    #[must_use]
    pub fn tiny() -> Self {
        Self::new(Pfn::new(0x1000)).normal(mib(6)).cma(mib(2)).movable(mib(4))
    }

    /// Adds a normal zone, or enlarges the last one if it is normal.
    #[must_use]
    pub fn normal(self, pages: PageCount) -> Self {
        self.zone(ZoneLayout { name: "normal", kind: ZoneKind::Normal, pages })
    }

    /// Adds a normal zone, or enlarges the last one, by one CMA area.
    #[must_use]
    pub fn cma(mut self, pages: PageCount) -> Self {
        self.cma.push(FrameRange::new(self.end(), pages));
        self.normal(pages)
    }

    /// Adds a movable zone.
    #[must_use]
    pub fn movable(self, pages: PageCount) -> Self {
        self.zone(ZoneLayout { name: "movable", kind: ZoneKind::Movable, pages })
    }

    /// Adds a zone.
    #[must_use]
    pub fn zone(mut self, zone: ZoneLayout) -> Self {
        match self.zones.last_mut() {
            Some(last) if last.kind == zone.kind && last.name == zone.name => {
                last.pages = PageCount::new(last.pages.raw() + zone.pages.raw());
            }
            _ => self.zones.push(zone),
        }
        self
    }

    /// The frame behind the last one.
    #[must_use]
    pub fn end(&self) -> Pfn {
        Pfn::new(self.zones.iter().fold(self.first.raw(), |at, zone| at + zone.pages.raw()))
    }

    /// All frames.
    #[must_use]
    pub fn frames(&self) -> FrameRange {
        FrameRange::new(self.first, PageCount::new(self.end().raw() - self.first.raw()))
    }
}

/// That many MiB in 4 KiB pages.
#[must_use]
pub const fn mib(n: u64) -> PageCount {
    PageCount::new(n << (20 - PageShift::SIZE_4K.raw()))
}
