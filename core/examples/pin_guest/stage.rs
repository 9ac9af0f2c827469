//! What the story is about: a machine with a guest on it, captured or built.

use std::sync::Arc;

use pinfold::policy::Refusal;
use pinfold::{AddrRange, AddressSpace, AnyFormat, VirtAddr};
use pinfold_sim::snapshot::Snapshot;
use pinfold_sim::{Layout, Ram, Replica};

use crate::capture;
use crate::options::From;
use crate::output::plain;
use crate::scenario::Scenario;
use crate::scene::{Fallible, range};

/// Captured page tables may be in any format.
pub(crate) type Machine<'m> = pinfold_sim::Machine<'m, AnyFormat>;

/// Where the guest comes from. As many machines as one likes can be made of it, all alike.
pub(crate) enum Source {
    /// A kernel, and whether a CMA area was added to it.
    Captured(Box<Snapshot>, bool),
    Built(&'static Scenario),
}

impl Source {
    pub(crate) fn open(from: &From) -> Fallible<Self> {
        Ok(match from {
            From::Snapshot(file) => {
                let (snapshot, overlay) = capture::load(file)?;
                Self::Captured(Box::new(snapshot), overlay)
            }
            From::Scenario(scenario) => Self::Built(scenario),
        })
    }

    /// In a few words.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Captured(snapshot, _) => format!("Linux {}", plain(&snapshot.kernel)),
            Self::Built(scenario) => format!("Scenario “{}”", scenario.name),
        }
    }

    /// Whether somebody writes to the guest's page tables who must not.
    pub(crate) fn lies(&self) -> bool {
        matches!(self, Self::Built(scenario) if scenario.lies)
    }

    pub(crate) fn layout(&self) -> Fallible<Layout> {
        match self {
            Self::Captured(snapshot, _) => Ok(Replica::layout(snapshot)?),
            Self::Built(scenario) => Ok((scenario.layout)()),
        }
    }

    /// A machine in this memory.
    pub(crate) fn stage<'m>(&self, ram: &'m Ram) -> Fallible<Stage<'m>> {
        match self {
            Self::Captured(snapshot, _) => Stage::captured(ram, snapshot),
            Self::Built(scenario) => scenario.build(ram),
        }
    }

    /// What would happen, on a machine of its own.
    pub(crate) fn rehearse<T>(&self, act: impl FnOnce(&Stage<'_>) -> Fallible<T>) -> Fallible<T> {
        let ram = Ram::new(&self.layout()?);
        act(&self.stage(&ram)?)
    }
}

/// Memory that the process mapped in one go.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) range: AddrRange,
    /// Why it must not be pinned for a device that writes, where that is so.
    pub(crate) refused: Option<Refusal>,
}

enum World<'m> {
    Captured(Box<Replica<'m>>),
    Built(Box<Machine<'m>>, Arc<AddressSpace<AnyFormat>>),
}

/// A machine with a guest.
pub(crate) struct Stage<'m> {
    world: World<'m>,
    /// The guest's memory.
    pub(crate) guest: AddrRange,
    /// What it is made of, in order and without a gap.
    pub(crate) parts: Vec<Part>,
    /// What else the process has.
    pub(crate) others: Vec<Part>,
}

impl<'m> Stage<'m> {
    fn captured(ram: &'m Ram, snapshot: &Snapshot) -> Fallible<Self> {
        let guest = capture::guest(snapshot)?;
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        for region in &snapshot.regions {
            let range = range(region.start, region.pages, guest.base())?;
            let part = Part { name: plain(&region.name), range, refused: None };
            if region.in_guest { parts.push(part) } else { others.push(part) }
        }
        parts.sort_by_key(|part| part.range.start());
        let world = World::Captured(Box::new(Replica::new(ram, snapshot)?));
        Ok(Self { world, guest, parts, others })
    }

    /// The parts lie one behind the other, without a gap.
    pub(crate) fn built(
        machine: Machine<'m>,
        space: Arc<AddressSpace<AnyFormat>>,
        parts: Vec<Part>,
    ) -> Fallible<Self> {
        let first = parts.first().ok_or("a guest has memory")?.range;
        let pages = parts.iter().map(|part| part.range.pages().raw()).sum();
        let guest = range(first.start().raw(), pages, first.base())?;
        let world = World::Built(Box::new(machine), space);
        Ok(Self { world, guest, parts, others: Vec::new() })
    }

    pub(crate) fn machine(&self) -> &Machine<'m> {
        match &self.world {
            World::Captured(replica) => replica.machine(),
            World::Built(machine, _) => machine,
        }
    }

    pub(crate) fn space(&self) -> &AddressSpace<AnyFormat> {
        match &self.world {
            World::Captured(replica) => replica.space(),
            World::Built(_, space) => space,
        }
    }

    /// The part that holds an address of the guest.
    pub(crate) fn part(&self, va: VirtAddr) -> Option<&Part> {
        self.parts.iter().find(|part| part.range.contains(va))
    }

    /// The parts that must not be pinned.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.refused.is_some())
    }

    /// What may be pinned: the whole guest in one range, or the ranges between what is refused, as
    /// a hypervisor maps each memory slot by itself.
    pub(crate) fn pinnable(&self) -> Fallible<Vec<AddrRange>> {
        let (base, mut ranges) = (self.guest.base(), Vec::<(u64, u64)>::new());
        if self.refused().next().is_none() {
            return Ok(vec![self.guest]);
        }
        for part in self.parts.iter().filter(|part| part.refused.is_none()) {
            let (start, pages) = (part.range.start().raw(), part.range.pages().raw());
            match ranges.last_mut() {
                Some((first, count)) if *first + (*count << base.raw()) == start => *count += pages,
                _ => ranges.push((start, pages)),
            }
        }
        ranges.into_iter().map(|(start, pages)| range(start, pages, base)).collect()
    }
}
