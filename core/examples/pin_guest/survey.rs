//! Where each page of the guest lay before, where it lies now, and what became of it.

use std::collections::BTreeMap;

use pinfold::Pfn;
use pinfold_sim::{Place, ZoneKind};

use crate::output::{By, Output};
use crate::scene::{Page, Pages};
use crate::stage::{Machine, Stage};

/// Where a page lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lies {
    Ordinary,
    Cma,
    Movable,
    /// In memory of a device.
    Device,
    /// It is the zero page that everybody shares.
    Zero,
    /// Nowhere: it was never touched, or is swapped out.
    Absent,
    /// Wherever it may lie: it must not be pinned.
    Refused,
}

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fate {
    Stayed,
    Moved,
    /// The guest's own copy of a page of a file.
    Copied,
    Made,
    Refused,
}

impl Lies {
    pub(crate) const ALL: [Self; 7] = [
        Self::Ordinary,
        Self::Cma,
        Self::Movable,
        Self::Device,
        Self::Zero,
        Self::Absent,
        Self::Refused,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary memory",
            Self::Cma => "CMA area",
            Self::Movable => "movable zone",
            Self::Device => "persistent memory",
            Self::Zero => "shared zero page",
            Self::Absent => "not present",
            Self::Refused => "refused",
        }
    }

    /// Of a frame that is somebody's.
    pub(crate) fn at(machine: &Machine<'_>, pfn: Pfn) -> Self {
        match machine.place(pfn) {
            Some(Place::Cma) => Self::Cma,
            Some(Place::Zone(ZoneKind::Movable)) => Self::Movable,
            Some(Place::Zone(ZoneKind::Normal)) => Self::Ordinary,
            _ => Self::Device,
        }
    }

    pub(crate) fn of(machine: &Machine<'_>, page: Option<&Page>) -> Self {
        match page {
            None => Self::Absent,
            Some(page) if page.zero => Self::Zero,
            Some(page) => Self::at(machine, Pfn::new(page.frame)),
        }
    }
}

impl Fate {
    pub(crate) const ALL: [Self; 5] =
        [Self::Stayed, Self::Moved, Self::Copied, Self::Made, Self::Refused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stayed => "stayed",
            Self::Moved => "moved",
            Self::Copied => "copied",
            Self::Made => "made",
            Self::Refused => "refused",
        }
    }

    pub(crate) fn of(before: Option<&Page>, now: Option<&Page>) -> Self {
        match (before, now) {
            (Some(old), Some(new)) if old.frame == new.frame => Self::Stayed,
            (Some(old), Some(new)) if !old.zero && old.kind == new.kind => Self::Moved,
            (Some(old), Some(_)) if !old.zero => Self::Copied,
            (_, Some(_)) => Self::Made,
            (_, None) => Self::Refused,
        }
    }
}

/// One page of the guest.
#[derive(Clone, Copy)]
pub(crate) struct Surveyed {
    pub(crate) before: Lies,
    pub(crate) after: Lies,
    pub(crate) fate: Fate,
    /// Order of the folio that it is pinned in.
    pub(crate) order: Option<u8>,
}

/// All pages of the guest, in order.
pub(crate) struct Survey(pub(crate) Vec<Surveyed>);

impl Survey {
    /// From the pages as they were and as they are pinned.
    pub(crate) fn new(stage: &Stage<'_>, before: &Pages, pinned: &Pages) -> Self {
        let machine = stage.machine();
        let mut survey = Vec::new();
        for part in &stage.parts {
            let start = part.range.start().raw();
            let base = part.range.base().raw();
            for va in (0..part.range.pages().raw()).map(|page| start + (page << base)) {
                let (old, new) = (before.get(&va), pinned.get(&va));
                let was = Lies::of(machine, old);
                survey.push(if part.refused.is_some() {
                    let (after, fate) = (Lies::Refused, Fate::Refused);
                    Surveyed { before: was, after, fate, order: None }
                } else {
                    let (after, fate) = (Lies::of(machine, new), Fate::of(old, new));
                    Surveyed { before: was, after, fate, order: new.map(|page| page.order) }
                });
            }
        }
        Self(survey)
    }

    /// Pages by where they lay before and where they lie now; places where none ever was are left
    /// out.
    pub(crate) fn places(&self) -> Vec<(Lies, u64, u64)> {
        let count = |at: &dyn Fn(&Surveyed) -> bool| self.0.iter().filter(|page| at(page)).count();
        let counts = Lies::ALL.map(|lies| {
            let (before, after) =
                (count(&|page| page.before == lies), count(&|page| page.after == lies));
            (lies, before as u64, after as u64)
        });
        counts.into_iter().filter(|(_, before, after)| before + after > 0).collect()
    }

    /// Pages that this became of.
    pub(crate) fn pages(&self, fate: Fate) -> u64 {
        self.0.iter().filter(|page| page.fate == fate).count() as u64
    }

    /// Pages by what became of them.
    pub(crate) fn fates(&self) -> Vec<(Fate, u64)> {
        let counts = Fate::ALL.map(|fate| (fate, self.pages(fate)));
        counts.into_iter().filter(|(_, pages)| *pages > 0).collect()
    }

    /// Pinned pages by the order of their folios.
    pub(crate) fn orders(&self) -> BTreeMap<u8, u64> {
        let mut orders = BTreeMap::new();
        for order in self.0.iter().filter_map(|page| page.order) {
            *orders.entry(order).or_default() += 1;
        }
        orders
    }

    /// The counts, as lines.
    pub(crate) fn print(&self, out: &mut Output) {
        out.section("Where the guest's pages lie");
        out.say(By::Machine, "                      before     pinned");
        for (lies, before, after) in self.places() {
            out.more(format!("{:<18} {before:>9}  {after:>9}", lies.name()));
        }
        let fates = self.fates().into_iter().map(|(fate, n)| format!("{n} {}", fate.name()));
        out.more(format!("pages: {}", fates.collect::<Vec<_>>().join(", ")));
        let kept = self.0.iter().any(|page| matches!(page.after, Lies::Cma | Lies::Movable));
        out.check("no pinned page lies in a CMA area or a movable zone", !kept);
    }
}
