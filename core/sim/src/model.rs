//! What must hold after every step, worked out without the engine.
//!
//! A [`Model`] is told what was pinned and what was given back. [`Model::check`] then looks at the
//! machine from outside: it walks the page tables, adds up what every folio must be counted,
//! and compares. An error is one sentence for a person.
//!
//! | checked | invariant |
//! |---|---|
//! | pins of a folio = pages of it in live tables | I1 |
//! | references = mappings + file + pins + those taken by hand | I1 |
//! | the allocator, the frame table and the zone totals agree | I1 |
//! | what is pinned for long lies where it may | I6 |
//! | accounts are charged what live tables cover | I11 |
//! | a pinned page is the one that the process sees | coherence |
//! | a pinned anonymous page belongs to one process | coherence |

use std::collections::BTreeMap;

use pinfold::folio::{Folio, FolioFlags, FolioKind};
use pinfold::host::SpaceId;
use pinfold::table::Run;
use pinfold::{Access, AddrRange, Order, Pfn, PhysAddr, PinFlags, PinRequest, Rights, VirtAddr};
use pinfold_arch::{Entry, Leaf};

use crate::format::{TableFormat, reachable};
use crate::layout::ZoneKind;
use crate::machine::Machine;
use crate::state::State;
use crate::zones::Place;

/// A pinned page.
#[derive(Clone, Copy, Debug)]
struct Page {
    pfn: Pfn,
    /// Whether the process must go on seeing this frame at the address.
    attached: bool,
}

/// What one live pin table holds.
#[derive(Clone, Debug)]
struct Held {
    space: SpaceId,
    request: PinRequest,
    pages: Vec<Page>,
}

/// What was pinned, and what must follow from it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    held: BTreeMap<u64, Held>,
}

/// Everything that a failed call must leave as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Books {
    pins: BTreeMap<Pfn, u32>,
    foreign: u64,
    charged: BTreeMap<u32, u64>,
}

impl Books {
    /// Whether they agree; with `others`, only in what is the engine's.
    #[must_use]
    pub fn same(&self, other: &Self, others: bool) -> bool {
        let engine = self.pins == other.pins && self.charged == other.charged;
        engine && (others || self.foreign == other.foreign)
    }
}

/// What a pin table says about an address.
pub type Lookup<'a> = &'a dyn Fn(VirtAddr) -> Option<PhysAddr>;

/// `Err` with what is wrong.
pub type Verdict = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

impl Model {
    /// Nothing is pinned.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A pin call has succeeded. `table` names its pin table until [`unpinned`](Self::unpinned).
    ///
    /// What was pinned is what the page tables say now. If mappings were changed during the call,
    /// they say nothing about what was pinned then: `disturbed` asks the pin table instead, and
    /// what was unmapped is told to [`detached`](Self::detached) afterwards.
    ///
    /// # Errors
    /// If a page is not mapped, not as asked, or lies where it must not be pinned.
    pub fn pinned<F: TableFormat>(
        &mut self,
        machine: &Machine<'_, F>,
        table: u64,
        space: SpaceId,
        request: &PinRequest,
        disturbed: Option<Lookup<'_>>,
    ) -> Verdict {
        let state = machine.state();
        let mut pages = Vec::new();
        for va in addresses(&request.range) {
            let page = match disturbed {
                None => undisturbed(&state, space, va, request)?,
                Some(lookup) => {
                    let at = lookup(va).ok_or_else(|| format!("{va} is not in its table"))?;
                    let pfn = at.pfn(state.base());
                    Page { pfn, attached: stays(&state, space, va, pfn, request) }
                }
            };
            pages.push(page);
        }
        drop(state);
        let held = Held { space, request: *request, pages };
        ensure(self.held.insert(table, held).is_none(), || format!("table {table} is in use"))
    }

    /// The pages of a table were given back.
    ///
    /// # Errors
    /// If nothing was pinned there.
    pub fn unpinned(&mut self, table: u64) -> Verdict {
        let held = self.held.remove(&table);
        ensure(held.is_some(), || format!("table {table} held nothing"))
    }

    /// The process has unmapped a range, or its file was cut: pins in it stay, but the process
    /// may see something else there from now on.
    pub fn detached(&mut self, space: SpaceId, range: &AddrRange) {
        for held in self.held.values_mut().filter(|held| held.space == space) {
            for (va, page) in addresses(&held.request.range).zip(&mut held.pages) {
                page.attached &= !range.contains(va);
            }
        }
    }

    /// Every address of a table is the frame that was pinned for it.
    ///
    /// # Errors
    /// With the first that is not.
    pub fn table_says(&self, table: u64, lookup: impl Fn(VirtAddr) -> Option<PhysAddr>) -> Verdict {
        let held = self.held.get(&table).ok_or_else(|| format!("table {table} holds nothing"))?;
        let base = held.request.range.base();
        for (va, page) in addresses(&held.request.range).zip(&held.pages) {
            let said = lookup(va);
            ensure(said == page.pfn.addr(base), || {
                format!("table {table} says {said:?} for {va}, pinned was {}", page.pfn)
            })?;
        }
        Ok(())
    }

    /// The tables with pins in a space.
    #[must_use]
    pub fn tables(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// Frames pinned by a table, with their addresses, where the process must see the same.
    #[must_use]
    pub fn attached(&self, table: u64) -> Vec<(SpaceId, VirtAddr, Pfn)> {
        let Some(held) = self.held.get(&table) else { return Vec::new() };
        let pages = addresses(&held.request.range).zip(&held.pages);
        let attached = pages.filter(|(_, page)| page.attached);
        attached.map(|(va, page)| (held.space, va, page.pfn)).collect()
    }

    /// Pins and charges of the machine as they are.
    #[must_use]
    pub fn books<F: TableFormat>(machine: &Machine<'_, F>) -> Books {
        let state = machine.state();
        let used = folios(&state).into_iter().filter(|f| f.info().kind != FolioKind::Free);
        let counts = used.map(|folio| (folio.head(), state.frames.counts_of(folio).pins()));
        Books {
            pins: counts.filter(|(_, pins)| *pins != 0).collect(),
            foreign: state.foreign.values().map(|held| u64::from(*held)).sum(),
            charged: machine.accounts.charged(),
        }
    }

    /// Looks at everything. No engine code may be running.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn check<F: TableFormat>(&self, machine: &Machine<'_, F>) -> Verdict {
        let breaches = machine.breaches();
        ensure(breaches.is_empty(), || format!("the engine broke a rule: {breaches:?}"))?;
        let state = machine.state();
        let owed = self.owed(&state, &machine.guards.waiting())?;
        let mut free = Vec::new();
        for folio in folios(&state) {
            let head = folio.head();
            if folio.info().kind == FolioKind::Free {
                check_free(&state, folio)?;
                free.push(head);
            } else {
                check_folio(&state, folio, owed.get(&head).copied().unwrap_or_default())?;
            }
        }
        check_zones(&state, &free)?;
        self.held.iter().try_for_each(|(table, held)| check_held(&state, *table, held))?;
        let charged = machine.accounts.charged();
        let due = self.due();
        ensure(charged == due, || format!("accounts are charged {charged:?}, due is {due:?}"))
    }

    /// What accounts owe.
    fn due(&self) -> BTreeMap<u32, u64> {
        let mut due = BTreeMap::new();
        for held in self.held.values() {
            *due.entry(held.request.account.0).or_default() += held.request.range.pages().raw();
        }
        due
    }

    /// Adds up what every folio must be counted.
    fn owed<F: TableFormat>(
        &self,
        state: &State<'_, F>,
        waiting: &[pinfold::Table],
    ) -> Result<BTreeMap<Pfn, Owed>, String> {
        let mut owed = BTreeMap::<Pfn, Owed>::new();
        let base = state.base();
        for (id, space) in &state.spaces {
            let root = space.handle.root();
            for table in state.tables.all(root) {
                owed.entry(table.base.pfn(base)).or_default().own += 1;
            }
            for (va, _, leaf) in state.tables.leaves(root) {
                let vma = state.vma(SpaceId(*id), va);
                let vma = vma.ok_or_else(|| format!("{va} of space {id} is in no mapping"))?;
                let write = vma.spec.access.contains(Access::WRITE);
                let run = Rights::EXECUTE; // whether code may run there is not a pin's business
                ensure(
                    !reachable(leaf.rights) || (vma.rights(write) | run).contains(leaf.rights),
                    || format!("{va} of space {id} grants {:?}", leaf.rights),
                )?;
                let Some(folio) = state.folio(state.pfn_of(&leaf)) else { continue };
                let entry = owed.entry(folio.head()).or_default();
                if !folio.is_zero_frame() {
                    entry.mappings += 1;
                    let known = state.rmap.get(&folio.head());
                    ensure(known.is_some_and(|entries| entries.contains(&(*id, va))), || {
                        format!("the mapping of {} at {va} is not recorded", folio.head())
                    })?;
                }
                let foreign = entry.space.is_some_and(|other| other != *id);
                entry.many |= foreign;
                entry.space = Some(*id);
                entry.writable |= !vma.spec.shared && leaf.rights.allow(Access::WRITE);
            }
        }
        for table in waiting {
            owed.entry(table.base.pfn(base)).or_default().own += 1;
        }
        for file in state.files.values() {
            for (head, _) in file.cache.values() {
                owed.entry(*head).or_default().own += 1;
            }
        }
        for (head, held) in &state.foreign {
            owed.entry(*head).or_default().own += held;
        }
        let pieces = state.pieces.iter().flat_map(|piece| piece.iter());
        let owned = pieces.chain(state.hogged.iter().copied());
        for pfn in owned.chain([state.zero]).chain(state.huge_zero) {
            owed.entry(pfn).or_default().own += 1;
        }
        for head in state.batches.waiting() {
            owed.entry(head).or_default().own += 1;
        }
        for page in self.held.values().flat_map(|held| &held.pages) {
            let folio = state.folio(page.pfn);
            let folio = folio.ok_or_else(|| format!("pinned frame {} is no memory", page.pfn))?;
            if !folio.is_zero_frame() {
                owed.entry(folio.head()).or_default().pins += 1;
            }
        }
        Ok(owed)
    }

    /// Looks at what one table holds: it lies where it may and is what the process sees.
    ///
    /// # Errors
    /// With the first page for which that is not so.
    pub fn check_pins<F: TableFormat>(&self, machine: &Machine<'_, F>, table: u64) -> Verdict {
        let state = machine.state();
        self.held.get(&table).map_or(Ok(()), |held| check_held(&state, table, held))
    }

    /// Looks whether folios that were given back dirty are marked, unless they went with that.
    ///
    /// # Errors
    /// With the first that is not.
    pub fn check_dirty<F: TableFormat>(machine: &Machine<'_, F>, run: &Run) -> Verdict {
        let state = machine.state();
        for i in 0..run.pages.raw() {
            let Some(folio) = state.folio(Pfn::new(run.pfn.raw() + i)) else { continue };
            let used = state.frames.counts_of(folio).references() > 0;
            let marked = folio.info().flags.contains(FolioFlags::DIRTY);
            ensure(marked || !used || folio.is_zero_frame(), || {
                format!("{folio:?} was written by a device and is not marked")
            })?;
        }
        Ok(())
    }
}

/// What a table holds lies where it may and is what the process sees.
fn check_held<F: TableFormat>(state: &State<'_, F>, table: u64, held: &Held) -> Verdict {
    for (va, page) in addresses(&held.request.range).zip(&held.pages) {
        let pfn = page.pfn;
        if held.request.flags.contains(PinFlags::LONGTERM) {
            check_place(state, pfn)?;
        }
        if !page.attached {
            continue;
        }
        let now = mapped(state, held.space, va).map(|(_, pfn)| pfn);
        ensure(now == Some(pfn), || {
            format!("table {table} holds frame {pfn} for {va}, the process sees {now:?}")
        })?;
    }
    Ok(())
}

/// What a folio must be counted, and by whom it is mapped.
#[derive(Clone, Copy, Default, Debug)]
struct Owed {
    mappings: u32,
    /// Files, references by hand, the machine itself.
    own: u32,
    pins: u32,
    space: Option<u64>,
    /// Mapped by more than one space.
    many: bool,
    /// Writable in a private mapping.
    writable: bool,
}

fn addresses(range: &AddrRange) -> impl Iterator<Item = VirtAddr> + use<> {
    let (start, base) = (range.start().raw(), range.base().raw());
    (0..range.pages().raw()).map(move |i| VirtAddr::new(start + (i << base)))
}

/// The leaf and the frame at an address, whatever the leaf grants.
fn mapped<F: TableFormat>(
    state: &State<'_, F>,
    space: SpaceId,
    va: VirtAddr,
) -> Option<(Leaf, Pfn)> {
    let Entry::Leaf(leaf) = state.spot(space, va)?.entry else { return None };
    Some((leaf, state.page_pfn(va, &leaf)))
}

/// The page at `va` after a pin call during which nothing else happened.
fn undisturbed<F: TableFormat>(
    state: &State<'_, F>,
    space: SpaceId,
    va: VirtAddr,
    request: &PinRequest,
) -> Result<Page, String> {
    let (leaf, pfn) =
        mapped(state, space, va).ok_or_else(|| format!("{va} was pinned and is not mapped"))?;
    ensure(leaf.rights.allow(request.access), || {
        format!("{va} was pinned for {:?} and grants {:?}", request.access, leaf.rights)
    })?;
    let folio = state.folio(pfn).ok_or_else(|| format!("{pfn} was pinned and is no memory"))?;
    let vma = state.vma(space, va).ok_or_else(|| format!("{va} is in no mapping"))?;
    let info = folio.info();
    let longterm = request.flags.contains(PinFlags::LONGTERM);
    let write = request.access.contains(Access::WRITE);
    let isolated = info.flags.contains(FolioFlags::ISOLATED);
    ensure(!(longterm && isolated), || format!("{pfn} is being emptied and was pinned"))?;
    ensure(info.kind != FolioKind::Secret, || format!("{pfn} is secret and was pinned"))?;
    let tracked = vma.mapping().dirty_tracked && write && longterm;
    ensure(!tracked, || format!("{va} needs dirty tracking and was pinned for long writes"))?;
    Ok(Page { pfn, attached: stays(state, space, va, pfn, request) })
}

/// Whether the process must go on seeing the frame that was pinned: not what a short read pinned
/// of a page that a write would replace.
fn stays<F: TableFormat>(
    state: &State<'_, F>,
    space: SpaceId,
    va: VirtAddr,
    pfn: Pfn,
    request: &PinRequest,
) -> bool {
    let own = state.folio(pfn).map(|folio| folio.info().flags.contains(FolioFlags::EXCLUSIVE));
    let shared = state.vma(space, va).is_some_and(|vma| vma.spec.shared);
    let longterm = request.flags.contains(PinFlags::LONGTERM);
    request.access.contains(Access::WRITE) || longterm || shared || own == Some(true)
}

/// Every folio of the machine.
fn folios<F: TableFormat>(state: &State<'_, F>) -> Vec<Folio> {
    let frames = state.ram.frames();
    let mut found = Vec::new();
    let mut at = frames.start;
    while at < frames.end() {
        let folio = state.folio(at).filter(|folio| folio.head() == at);
        let folio = folio.unwrap_or_else(|| panic!("frame {at} is in no folio"));
        at = at.checked_add(folio.order().pages()).expect("inside memory");
        found.push(folio);
    }
    found
}

fn check_free<F: TableFormat>(state: &State<'_, F>, folio: Folio) -> Verdict {
    let counts = state.frames.counts_of(folio);
    let idle = counts.references() == 0 && counts.pins() == 0 && !counts.is_frozen();
    let small = folio.order() == Order::ZERO;
    let plain = folio.info().flags == state.zones.place_flags(folio.head());
    ensure(small && idle && plain && state.zones.is_free(folio.head()), || {
        format!("{folio:?} is free and has {counts:?}, marks, or the allocator disagrees")
    })
}

fn check_folio<F: TableFormat>(state: &State<'_, F>, folio: Folio, owed: Owed) -> Verdict {
    let (head, info) = (folio.head(), folio.info());
    let counts = state.frames.counts_of(folio);
    let about = |what: &str| format!("frame {head}, {info:?}, {counts:?}: {what}, due is {owed:?}");
    ensure(!counts.is_frozen() && !counts.is_claimed(), || about("left frozen or claimed"))?;
    ensure(counts.pins() == owed.pins, || about("wrong pins"))?;
    let references = owed.mappings + owed.own + owed.pins;
    ensure(counts.references() == references, || about("wrong references"))?;
    ensure(!state.zones.is_free(head), || about("the allocator takes it for free"))?;
    let idle = state.pool.contains(&head);
    ensure(idle == (references == 0), || about("used without references, or idle with some"))?;
    let place = FolioFlags::CMA | FolioFlags::MOVABLE;
    let due = state.zones.place_flags(head) & place;
    ensure(info.flags & place == due, || about("not the flags of its place"))?;
    let anonymous = matches!(info.kind, FolioKind::Anonymous | FolioKind::DeviceCoherent)
        && !info.flags.contains(FolioFlags::ZERO);
    let exclusive = info.flags.contains(FolioFlags::EXCLUSIVE);
    ensure(!(exclusive && owed.many), || about("exclusive to several spaces"))?;
    ensure(!anonymous || exclusive || !owed.writable, || about("writable and shared"))?;
    ensure(!anonymous || exclusive || owed.pins == 0, || about("pinned and shared"))
}

/// Every zone has as many free frames as the allocator says.
fn check_zones<F: TableFormat>(state: &State<'_, F>, free: &[Pfn]) -> Verdict {
    for zone in state.zones.counts() {
        let found = free.iter().filter(|pfn| zone.frames.contains(**pfn)).count() as u64;
        ensure(found == zone.free.raw(), || format!("{found} frames are free, {zone:?} differs"))?;
    }
    Ok(())
}

/// A frame that is pinned for long must not lie where somebody will want it back.
fn check_place<F: TableFormat>(state: &State<'_, F>, pfn: Pfn) -> Verdict {
    let folio = state.folio(pfn).ok_or_else(|| format!("pinned frame {pfn} is no memory"))?;
    let place = state.zones.place(pfn);
    let zero = folio.is_zero_frame() && place != Some(Place::Cma);
    ensure(zero || place == Some(Place::Zone(ZoneKind::Normal)), || {
        format!("frame {pfn} is pinned for long in {place:?}")
    })
}
