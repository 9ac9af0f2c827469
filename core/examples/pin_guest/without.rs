//! Why long pins have a policy: what goes wrong without it, and no longer with it.

use pinfold::host::MigrateError;
use pinfold::policy::Refusal;
use pinfold::table::PinTable;
use pinfold::{Dirtied, Engine, PinFlags, PinRequest};
use pinfold_sim::{ContigError, FileId, FrameRange, Place, TruncateError, Want, ZoneKind};

use crate::host::Observed;
use crate::output::{By, Output, size};
use crate::scene::{self, Fallible};
use crate::stage::{Machine, Source, Stage};

/// Who needs the memory that a pin holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A guest that needs a hash page table out of the CMA area.
    Hpt,
    /// A file system that wants persistent memory back.
    FileSystem,
    /// Who unplugs the movable zone.
    Unplug,
}

impl Owner {
    pub(crate) fn of(stage: &Stage<'_>) -> Option<Self> {
        let machine = stage.machine();
        let dax = |part: &&crate::stage::Part| part.refused == Some(Refusal::FsDax);
        if !machine.ram().layout().cma.is_empty() {
            Some(Self::Hpt)
        } else if stage.refused().any(|part| dax(&part)) {
            Some(Self::FileSystem)
        } else {
            movable(machine).map(|_| Self::Unplug)
        }
    }
}

/// The frames of the movable zone, and how many of them are in use.
fn movable(machine: &Machine<'_>) -> Option<(FrameRange, u64)> {
    let zones = machine.zones();
    let zone = zones.iter().find(|zone| zone.zone.kind == ZoneKind::Movable)?;
    Some((zone.frames, zone.frames.pages.raw() - zone.free.raw()))
}

/// Pins the guest as if it were for a moment, and shows whom that stops.
pub(crate) fn before(out: &mut Output, source: &Source) -> Fallible<()> {
    source.rehearse(|stage| {
        let machine = stage.machine();
        let Some(owner) = Owner::of(stage) else { return Ok(()) };
        out.section("Without the long-term policy");
        out.say(By::Overlay, wish(owner, machine));
        let words = scene::words(&stage.guest)?;
        let table = PinTable::new(&words)?;
        let engine = Engine::new(Observed::new(machine, "pinning"), machine.frames());
        let request = PinRequest { flags: PinFlags::empty(), ..scene::longterm(stage.guest) };
        let pinned = engine.pin(stage.space(), &table, &request);
        engine.host().done();
        let pinned = pinned?;
        let (pages, runs, moved) = (pinned.pages, pinned.runs, pinned.migrated);
        out.say(By::Pinfold, format!("{pages} pages pinned in {runs} runs, {moved} folios moved"));
        match owner {
            Owner::Hpt => hpt_in_the_way(out, machine, &table),
            Owner::FileSystem => file_in_use(out, stage)?,
            Owner::Unplug => zone_in_use(out, stage),
        }
        engine.unpin(&table, Dirtied::All)?;
        Ok(())
    })
}

fn wish(owner: Owner, machine: &Machine<'_>) -> String {
    match owner {
        Owner::Hpt => {
            let (area, pages) = scene::hpt_pages(machine);
            let base = machine.ram().base();
            let (area, pages) = (size(area, base), size(pages, base));
            format!(
                "Another guest starts on this host and needs a hash page table (HPT): a power of two in \
                 one piece, at a multiple of 256 KiB, from the CMA area. POWER's rule is 1/128 of a \
                 guest's RAM; here it is as large as the area allows: {pages} of {area}."
            )
        }
        Owner::FileSystem => {
            "The file on persistent memory is cut: the file system takes its memory \
                              back, and a device must not go on writing to it."
                .into()
        }
        Owner::Unplug => {
            "The movable zone is to be unplugged: every page in it has to move out.".into()
        }
    }
}

fn hpt_in_the_way(out: &mut Output, machine: &Machine<'_>, table: &PinTable<'_>) {
    match scene::allocate_hpt(machine) {
        // A capture may have so much room.
        Ok(FrameRange { start, .. }) => {
            out.say(
                By::Machine,
                format!("beside the guest's pins the HPT has room at frame {start}"),
            );
        }
        Err(error) => {
            out.say(By::Machine, format!("the HPT cannot be allocated: {error}"));
            let blamed = blames_a_pin(machine, table, error);
            out.check(
                "without the policy the HPT cannot be had, and a pin of the guest is why",
                blamed,
            );
        }
    }
}

/// Whether the error names a folio of the table, and its pins as what was not expected.
fn blames_a_pin(machine: &Machine<'_>, table: &PinTable<'_>, error: ContigError) -> bool {
    let ContigError::Blocked { blocker, error } = error else { return false };
    let MigrateError::Busy { expected, found } = error else { return false };
    let Some(folio) = machine.frames().folio(blocker) else { return false };
    let frames = FrameRange::new(blocker, folio.order().pages());
    let held = table.runs().any(|run| frames.overlaps(&FrameRange::new(run.pfn, run.pages)));
    held && machine.frames().counts_of(folio).pins() == found - expected
}

/// The first page of the guest in the movable zone cannot be moved out.
fn zone_in_use(out: &mut Output, stage: &Stage<'_>) {
    let (machine, start) = (stage.machine(), stage.guest.start().raw());
    let moves = (0..stage.guest.pages().raw())
        .map(|page| start + (page << machine.ram().base().raw()))
        .find_map(|va| {
            let folio = machine.folio_at(stage.space().id(), va)?;
            let movable = machine.place(folio.head()) == Some(Place::Zone(ZoneKind::Movable));
            movable.then(|| machine.move_page(stage.space().id(), va, Want::Pinnable))
        });
    let busy =
        matches!(moves, Some(Err(MigrateError::Busy { expected, found })) if found > expected);
    if let Some(Err(error)) = moves {
        out.say(By::Machine, format!("a page of the guest cannot be moved out: {error}"));
    }
    out.check("without the policy the zone cannot be emptied, and a pin of the guest is why", busy);
}

/// Truncate waits for the pin, and has its way when it is gone. With the policy it never waits.
fn file_in_use(out: &mut Output, stage: &Stage<'_>) -> Fallible<()> {
    let cut = stage.machine().truncate(dax_file(stage)?, 0);
    if let Err(error) = &cut {
        out.say(By::Machine, format!("the file cannot be cut: {error}"));
    }
    let busy = matches!(cut, Err(TruncateError::Busy { expected, found, .. }) if found > expected);
    out.check("without the policy the file cannot be cut, and a pin of the guest is why", busy);
    Ok(())
}

/// The file behind the part that is refused because it lies on persistent memory.
fn dax_file(stage: &Stage<'_>) -> Fallible<FileId> {
    let part = stage.refused().find(|part| part.refused == Some(Refusal::FsDax));
    let start = part.ok_or("the guest has a DAX file")?.range.start();
    let holds = |file: &FileId| {
        stage.machine().file_ranges(*file, 0).iter().any(|(_, range)| range.contains(start))
    };
    Ok((0..64).map(FileId).find(holds).ok_or("the DAX file is mapped")?)
}

/// What was impossible before, with the guest pinned. Returns what was allocated.
pub(crate) fn after(
    out: &mut Output,
    source: &Source,
    stage: &Stage<'_>,
) -> Fallible<Option<FrameRange>> {
    let machine = stage.machine();
    let Some(owner) = Owner::of(stage) else { return Ok(None) };
    out.section("With the long-term policy");
    match owner {
        Owner::Hpt => {
            let hpt = scene::allocate_hpt(machine);
            match &hpt {
                Ok(range) => {
                    let (start, pages) =
                        (range.start, size(range.pages.raw(), machine.ram().base()));
                    let text = format!("the HPT is allocated: {pages} from frame {start}");
                    out.say(By::Machine, text);
                }
                Err(error) => {
                    out.say(By::Machine, format!("the HPT cannot be allocated: {error}"));
                }
            }
            out.check("the HPT is allocated while the guest is pinned", hpt.is_ok());
            return Ok(hpt.ok());
        }
        Owner::FileSystem => cut_at_last(out, source)?,
        Owner::Unplug => {
            let (zone, used) = movable(machine).ok_or("there is a movable zone")?;
            let base = machine.ram().base();
            let (used, all) = (size(used, base), size(zone.pages.raw(), base));
            out.say(By::Machine, format!("{used} of {all} of the movable zone are in use"));
            let pinned = |pfn| {
                machine
                    .frames()
                    .folio(pfn)
                    .map_or(0, |folio| machine.frames().counts_of(folio).pins())
            };
            let none = zone.iter().all(|pfn| pinned(pfn) == 0);
            out.check("nobody pins anything in the movable zone", none);
        }
    }
    Ok(None)
}

/// On a machine of its own, because the guest loses the file.
fn cut_at_last(out: &mut Output, source: &Source) -> Fallible<()> {
    source.rehearse(|stage| {
        let machine = stage.machine();
        let engine = Engine::new(machine, machine.frames());
        let ranges = stage.pinnable()?;
        let words = ranges.iter().map(scene::words).collect::<Fallible<Vec<_>>>()?;
        for (range, words) in ranges.iter().zip(&words) {
            engine.pin(stage.space(), &PinTable::new(words)?, &scene::longterm(*range))?;
        }
        let cut = machine.truncate(dax_file(stage)?, 0);
        match &cut {
            Ok(()) => out.say(By::Machine, "the file is cut while the rest of the guest is pinned"),
            Err(error) => out.say(By::Machine, format!("the file cannot be cut: {error}")),
        }
        out.check("the file is cut while the rest of the guest is pinned", cut.is_ok());
        for words in &words {
            engine.unpin(&PinTable::open(words)?, Dirtied::All)?;
        }
        Ok(())
    })
}
