//! The sections of the report, in order.

use std::collections::BTreeMap;

use pinfold::pin::{PinCause, PinError, Pinned, UnpinError, Unpinned};
use pinfold::table::{PinTable, TooHard};
use pinfold::{Access, AccountId, AddrRange, Dirtied, Engine, PageFormat, PinRequest, VirtAddr};
use pinfold_sim::TableFormat;
use pinfold_sim::model::Model;
use pinfold_sim::snapshot::Snapshot;

use crate::capture;
use crate::host::Observed;
use crate::output::{By, Output, plain, size};
use crate::scenario::Scenario;
use crate::scene::{self, Asked, Fallible, Page, Pages};
use crate::stage::{Machine, Part, Source, Stage};
use crate::survey::{Fate, Lies};

/// Where the guest is from.
pub(crate) fn origin(out: &mut Output, source: &Source, stage: &Stage<'_>) {
    let what = match source {
        Source::Captured(..) => "as a real kernel had it",
        Source::Built(_) => "one built in memory",
    };
    out.line(format!("Pinning a guest's memory for a device, {what}. Who says so:"));
    out.line("  [kernel]  the captured kernel       [machine] the simulated host: faults, moves");
    out.line("  [pinfold] computed by pinfold       [overlay] added by this example");
    out.section("Where this is from");
    match source {
        Source::Captured(snapshot, overlay) => captured(out, snapshot, &stage.guest, *overlay),
        Source::Built(scenario) => built(out, scenario, stage),
    }
    let parts: Vec<&str> = stage.parts.iter().map(|part| &*part.name).collect();
    out.more(format!("made of {}", parts.join(", ")));
}

fn built(out: &mut Output, scenario: &Scenario, stage: &Stage<'_>) {
    let (start, pages) = (stage.guest.start(), stage.guest.pages());
    out.say(By::Overlay, format!("{}: {}", scenario.name, scenario.about));
    out.say(By::Overlay, format!("expected: {}", scenario.expected));
    let bytes = size(pages.raw(), stage.guest.base());
    out.say(By::Machine, format!("guest: {bytes} at {start}, {pages} pages"));
}

fn captured(out: &mut Output, snapshot: &Snapshot, guest: &AddrRange, overlay: bool) {
    let size = |pages| size(pages, guest.base());
    let release = plain(&snapshot.kernel);
    let tables = snapshot.format().map_or_else(
        |error| error.to_string(),
        |(format, _)| format!("{}, {} levels of page tables", format.name(), format.levels()),
    );
    out.say(By::Kernel, format!("Linux {release}, {tables}"));
    out.say(By::Kernel, format!("command line: {}", plain(&snapshot.command_line)));
    let ram: u64 = snapshot.ram.iter().map(|part| part.frames).sum();
    out.say(By::Kernel, format!("{} of RAM in these zones:", size(ram)));
    for zone in snapshot.zones.iter().filter(|zone| zone.spanned > 0) {
        let (name, start, pages) = (plain(&zone.name), size(zone.start_pfn), size(zone.spanned));
        let (free, cma) = (size(zone.free), size(zone.free_cma));
        out.more(format!("{name:<8} from {start:>7} {pages:>9}, free {free:>9}, in CMA {cma:>9}"));
    }
    for area in &snapshot.cma {
        let (start, pages) = (size(area.start_pfn), size(area.frames));
        let by = if overlay { By::Overlay } else { By::Kernel };
        out.say(by, format!("CMA area \"{}\" from {start}, {pages}", plain(&area.name)));
    }
    if overlay {
        out.more(
            "This kernel was built without CMA. The area is declared over pages of the guest.",
        );
    }
    let (start, pages, tables) = (guest.start(), guest.pages(), snapshot.tables.len());
    let bytes = size(pages.raw());
    out.say(By::Kernel, format!("guest: {bytes} at {start}, {pages} pages; {tables} page tables"));
}

/// One pass over the guest's tables.
pub(crate) fn walk(
    out: &mut Output,
    source: &Source,
    stage: &Stage<'_>,
    before: &Pages,
) -> Fallible<scene::Walked> {
    out.section("One pass over the guest's page tables");
    let walked = scene::walk(stage)?;
    let (tables, entries, runs) = (walked.tables, walked.entries, walked.runs);
    out.say(By::Pinfold, format!("{tables} tables visited, {entries} entries decoded"));
    let (holes, absent) = (walked.holes, walked.absent);
    out.say(By::Pinfold, format!("{runs} runs of frames, {holes} holes with {absent} pages"));
    out.say(By::Pinfold, "folio size      runs     pages");
    for (order, (runs, pages)) in &walked.sizes {
        out.more(format!("{:>10} {runs:>9} {pages:>9}", size(1 << order, stage.guest.base())));
    }
    let seen: BTreeMap<u64, u64> = before.iter().map(|(va, page)| (*va, page.frame)).collect();
    out.check(
        "the walk finds the frames that the process sees, page by page",
        walked.frames == seen,
    );
    if let Source::Captured(snapshot, _) = source {
        let said = capture::said(snapshot, &stage.guest);
        out.check(
            "the tables lead to the frames that the kernel names, page by page",
            said == seen,
        );
    }
    Ok(walked)
}

/// All of the guest at once, where a part of it must be refused.
pub(crate) fn refusals(out: &mut Output, stage: &Stage<'_>) -> Fallible<()> {
    let Some(first) = stage.refused().next() else { return Ok(()) };
    out.section("Asked for all of it: refused, because of a part of it");
    let machine = stage.machine();
    let words = scene::words(&stage.guest)?;
    let table = PinTable::new(&words)?;
    let books = Model::books(machine);
    let engine = Engine::new(machine, machine.frames());
    let answer = engine.pin(stage.space(), &table, &scene::longterm(stage.guest));
    match answer {
        Ok(_) => out.say(By::Pinfold, "pinned"),
        Err(error) => {
            let part = stage.part(error.at).map_or("outside the guest", |part| &part.name);
            out.say(By::Pinfold, format!("{error} ({part})"));
        }
    }
    let expected = first.refused.map(PinCause::Refused);
    let named =
        answer.is_err_and(|error| error.at == first.range.start() && Some(error.cause) == expected);
    out.check("the call for all of it names the first page that must be refused", named);
    out.check("the refused call left no pin and no charge", Model::books(machine) == books);
    let refused = stage.refused().all(|part| {
        let expected = part.refused.map(PinCause::Refused);
        try_pin(stage, part, Access::READ | Access::WRITE).is_ok_and(|cause| cause == expected)
    });
    each(out, stage, &stage.parts)?;
    out.check("each part that must be refused is, for the reason that is expected", refused);
    Ok(())
}

/// The call, for each range that may be pinned.
pub(crate) fn pin(
    out: &mut Output,
    stage: &Stage<'_>,
    asked: &[Asked<'_>],
    before: &Pages,
) -> Fallible<()> {
    out.section(match asked {
        [_] => "The call: pin all of it for long, to read and write",
        _ => "The calls: pin each range that may be, for long, to read and write",
    });
    let machine = stage.machine();
    let host = Observed::new(machine, "pinning");
    let engine = Engine::new(&host, machine.frames());
    let pin =
        |(range, table): &Asked<'_>| engine.pin(stage.space(), table, &scene::longterm(*range));
    let pinned: Result<Vec<Pinned>, PinError> = asked.iter().map(pin).collect();
    let tally = host.done();
    let pinned = pinned?;
    let sum = |of: fn(&Pinned) -> u64| pinned.iter().map(of).sum::<u64>();
    let (pages, runs) = (sum(|pinned| pinned.pages.raw()), sum(|pinned| pinned.runs));
    let (tables, entries) = (sum(|pinned| pinned.tables), sum(|pinned| pinned.entries));
    let (faults, migrated) = (sum(|pinned| pinned.faults), sum(|pinned| pinned.migrated));
    out.say(By::Pinfold, format!("{pages} pages pinned in {runs} runs"));
    out.more(format!(
        "{tables} visits to tables, {entries} entries: it looks again after each fault and move"
    ));
    let absent = tally.faulted.iter().filter(|va| !before.contains_key(va)).count();
    let zero = |va: &&u64| before.get(va).is_some_and(|page| page.zero);
    let zero = tally.faulted.iter().filter(zero).count();
    let other = tally.faulted.len() - zero - absent;
    out.say(By::Machine, format!("{faults} faults, each with memory that may be pinned:"));
    out.more(format!("{absent:>6} where nothing had been touched"));
    out.more(format!("{zero:>6} where the page was shared zeroes"));
    if other > 0 {
        out.more(format!("{other:>6} where a write was not allowed yet"));
    }
    out.say(By::Machine, format!("{migrated} folios moved, by size and by where they were:"));
    for ((why, order), folios) in &tally.moved {
        out.more(format!("{folios:>6} of {:>6}, {why}", size(1 << order, stage.guest.base())));
    }
    if tally.failed > 0 {
        out.more(format!("{:>6} attempts failed at first", tally.failed));
    }
    let now = scene::pinnable(stage, scene::pages(stage));
    let exact = scene::pinnable(stage, before.clone()).iter().all(|(va, old)| {
        let kept = matches!(Lies::of(machine, Some(old)), Lies::Cma | Lies::Movable);
        match Fate::of(Some(old), now.get(va)) {
            Fate::Stayed => !kept,
            Fate::Moved => kept,
            // A page of a file or of zeroes, where the guest has now one of its own.
            Fate::Copied | Fate::Made => true,
            Fate::Refused => false,
        }
    });
    out.check("what moved is what lay there, and nothing else", exact);
    let charged = machine.charged(AccountId(0)) == pages && pages == sum_of(asked);
    out.check("the account is charged every page of the range", charged);
    Ok(())
}

fn sum_of(asked: &[Asked<'_>]) -> u64 {
    asked.iter().map(|(range, _)| range.pages().raw()).sum()
}

/// The pin table and a few look-ups in it.
pub(crate) fn look_up(
    out: &mut Output,
    stage: &Stage<'_>,
    asked: &[Asked<'_>],
    pinned: &Pages,
    before: &Pages,
) -> Fallible<()> {
    out.section(if asked.len() == 1 { "The pin table" } else { "The pin tables" });
    let words: usize = asked.iter().map(|(_, table)| table.used_words()).sum();
    let pages = pinned.len();
    let (bytes, linux, percent) = (words * 8, pages * 8, words * 100 / pages.max(1));
    out.say(By::Pinfold, format!("{words} words in use: {bytes} bytes for {pages} pages"));
    out.more(format!(
        "8 bytes a page, as in Linux's registry, are {linux}: this is {percent}% of it"
    ));
    let look = |va: u64| {
        let va = VirtAddr::new(va);
        let holds = asked.iter().find(|(range, _)| range.contains(va));
        holds.and_then(|(_, table)| table.lookup(va).ok())
    };
    out.say(By::Pinfold, "address         frame then  physical address now");
    for part in stage.parts.iter().filter(|part| part.refused.is_none()) {
        let start = part.range.start().raw();
        let now = look(start).ok_or("a pinned page is not in its table")?;
        let old = before.get(&start);
        let note = match Fate::of(old, pinned.get(&start)) {
            Fate::Made if old.is_some() => "was zeroes",
            fate => fate.name(),
        };
        let frame = old.map_or("none".into(), |page| format!("{:#x}", page.frame));
        let (now, name) = (now.to_string(), &part.name);
        out.more(format!("{start:#x}  {frame:<10}  {now:<20}  {note:<10}  {name}"));
    }
    let base = stage.guest.base().raw();
    let says =
        |(va, page): (&u64, &Page)| look(*va).is_some_and(|at| at.raw() == page.frame << base);
    out.check("the table says for every page what the process sees", pinned.iter().all(says));
    Ok(())
}

/// Everything else that the process has, one region at a time.
pub(crate) fn other_regions(out: &mut Output, stage: &Stage<'_>) -> Fallible<()> {
    if stage.others.is_empty() {
        return Ok(());
    }
    out.section("The other regions of the process, pinned for long, if they may be");
    each(out, stage, &stage.others)
}

/// Whether each may be pinned by itself, to read and to write.
fn each(out: &mut Output, stage: &Stage<'_>, parts: &[Part]) -> Fallible<()> {
    let books = Model::books(stage.machine());
    for part in parts {
        let answer = |access| -> Fallible<String> {
            let refused = try_pin(stage, part, access)?;
            Ok(refused.map_or("yes".into(), |cause| format!("no, {cause}")))
        };
        let (write, read) = (answer(Access::READ | Access::WRITE)?, answer(Access::READ)?);
        let name = format!("{:<21}", part.name);
        if write == read {
            out.say(By::Pinfold, format!("{name} {write}"));
        } else {
            out.say(By::Pinfold, format!("{name} read {read}; write {write}"));
        }
    }
    let same = books == Model::books(stage.machine());
    out.check("these pins and refusals left no pin and no charge", same);
    Ok(())
}

/// Pins a part for long and lets it go. Returns why that could not be.
fn try_pin(stage: &Stage<'_>, part: &Part, access: Access) -> Fallible<Option<PinCause>> {
    let engine = Engine::new(stage.machine(), stage.machine().frames());
    let words = scene::words(&part.range)?;
    let table = PinTable::new(&words)?;
    match engine.pin(stage.space(), &table, &PinRequest::longterm(part.range, access)) {
        Ok(_) => engine.unpin(&table, Dirtied::No).map(|_| None).map_err(Into::into),
        Err(error) => Ok(Some(error.cause)),
    }
}

/// Gives it all back.
pub(crate) fn unpin(out: &mut Output, stage: &Stage<'_>, asked: &[Asked<'_>]) -> Fallible<()> {
    out.section("Unpin");
    let machine = stage.machine();
    let host = Observed::new(machine, "unpinning");
    let engine = Engine::new(&host, machine.frames());
    let unpinned: Result<Vec<Unpinned>, UnpinError> =
        asked.iter().map(|(_, table)| engine.unpin(table, Dirtied::All)).collect();
    host.done();
    let unpinned = unpinned?;
    let sum = |of: fn(&Unpinned) -> u64| unpinned.iter().map(of).sum::<u64>();
    let (pages, runs) = (sum(|unpinned| unpinned.pages.raw()), sum(|unpinned| unpinned.runs));
    let dirtied = sum(|unpinned| unpinned.dirtied);
    out.say(
        By::Pinfold,
        format!("{pages} pages given back in {runs} runs, {dirtied} marked dirty"),
    );
    out.check("the account is charged nothing", machine.charged(AccountId(0)) == 0);
    let empty = asked.iter().all(|(range, table)| table.lookup(range.start()) == Err(TooHard));
    out.check("the pin table is empty", empty);
    Ok(())
}

/// Counts of the guest's folios, by address: moved ones have moved with their address.
pub(crate) fn compare(out: &mut Output, stage: &Stage<'_>, before: &Pages, after: &Pages) {
    let none = after.values().all(|page| page.pins == 0);
    out.check("no pin is left on the guest", none);
    let copied = |va| Fate::of(before.get(va), after.get(va)) == Fate::Copied;
    let own = || before.iter().filter(|(va, page)| !page.zero && !copied(*va));
    let same = own().all(|(va, old)| {
        after.get(va).is_some_and(|new| (new.references, new.order) == (old.references, old.order))
    });
    out.check("every folio has the references and the size that it had", same);
    let dirty = scene::pinnable(stage, after.clone()).values().all(|page| page.dirty);
    out.check("every folio that the device could write is dirty", dirty);
    let known = own().count();
    out.say(By::Pinfold, format!("references compared on {known} pages, address by address"));
}

/// All memory of the machine, from outside.
pub(crate) fn recount(out: &mut Output, machine: &Machine<'_>, free: u64, used: [u64; 3]) {
    let (now, [made, tables, others]) = (machine.free_frames().raw(), used);
    out.say(By::Machine, format!("free frames: {free} before, {now} now. What is gone:"));
    out.more(format!("{made:>6} new pages of the guest"));
    out.more(format!("{tables:>6} new page tables"));
    out.more(format!("{others:>6} new pages of the other regions"));
    out.check("free frames add up", free == now + used.iter().sum::<u64>());
    let recount = Model::new().check(machine);
    let why = recount.err().map(|error| format!(": {error}"));
    let claim = "a recount of every folio of the machine, without the engine, agrees";
    out.check(format!("{claim}{}", why.as_deref().unwrap_or_default()), why.is_none());
}
