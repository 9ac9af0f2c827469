//! The sections of the report, in order.

use std::collections::BTreeMap;

use pinfold::host::MigrateError;
use pinfold::table::{PinTable, TooHard};
use pinfold::{Access, AccountId, AddrRange, Dirtied, Engine, PinFlags, PinRequest, VirtAddr};
use pinfold_sim::model::Model;
use pinfold_sim::snapshot::Snapshot;
use pinfold_sim::{ContigError, FrameRange, Machine, Ram, Replica};

use crate::host::Observed;
use crate::output::{By, Output, plain, size};
use crate::scene::{self, Fallible, Page};

type Pages = BTreeMap<u64, Page>;

/// Where the snapshot is from.
pub(crate) fn origin(out: &mut Output, snapshot: &Snapshot, guest: &AddrRange, overlay: bool) {
    out.line("Pinning a guest's memory for a device, as a real kernel had it. Who says so:");
    out.line("  [kernel]  the captured kernel       [machine] the simulated host: faults, moves");
    out.line("  [pinfold] computed by pinfold       [overlay] added by this example");
    out.section("Where this is from");
    let (release, levels) = (plain(&snapshot.kernel), snapshot.levels);
    out.say(By::Kernel, format!("Linux {release}, x86_64, {levels} levels of page tables"));
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
    let parts = snapshot.regions.iter().filter(|part| part.in_guest);
    let parts: Vec<String> = parts.map(|part| plain(&part.name)).collect();
    out.more(format!("made of {}", parts.join(", ")));
}

/// What happened before there was a policy for long pins, on a machine of its own.
pub(crate) fn without_policy(
    out: &mut Output,
    snapshot: &Snapshot,
    guest: &AddrRange,
) -> Fallible<()> {
    out.section("Without the long-term policy");
    let ram = Ram::new(&Replica::layout(snapshot)?);
    let replica = Replica::new(&ram, snapshot)?;
    let machine = replica.machine();
    let (area, pages) = scene::hpt_pages(machine);
    let (area, pages) = (size(area), size(pages));
    out.say(
        By::Overlay,
        format!(
            "Another guest starts on this host and needs a hash page table (HPT): a power of two in \
             one piece, at a multiple of 256 KiB, from the CMA area. POWER's rule is 1/128 of a \
             guest's RAM; here it is as large as the area allows: {pages} of {area}."
        ),
    );
    let words = scene::words(guest)?;
    let table = PinTable::new(&words)?;
    let engine = Engine::new(Observed::new(machine, "pinning"), machine.frames());
    let request = PinRequest { flags: PinFlags::empty(), ..scene::longterm(*guest) };
    let pinned = engine.pin(replica.space(), &table, &request);
    engine.host().done();
    let pinned = pinned?;
    let (pages, runs, moved) = (pinned.pages, pinned.runs, pinned.migrated);
    out.say(By::Pinfold, format!("{pages} pages pinned in {runs} runs, {moved} folios moved"));
    let hpt = scene::allocate_hpt(machine);
    match &hpt {
        Ok(range) => out.say(By::Machine, format!("the HPT is allocated at frame {}", range.start)),
        Err(error) => out.say(By::Machine, format!("the HPT cannot be allocated: {error}")),
    }
    let blamed = hpt.is_err_and(|error| blames_a_pin(machine, &table, error));
    out.check("without the policy the HPT cannot be had, and a pin of the guest is why", blamed);
    engine.unpin(&table, Dirtied::All)?;
    Ok(())
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

/// One pass over the guest's tables.
pub(crate) fn walk(
    out: &mut Output,
    snapshot: &Snapshot,
    replica: &Replica<'_>,
    guest: &AddrRange,
) -> Fallible<scene::Walked> {
    out.section("One pass over the guest's page tables");
    let walked = scene::walk(replica, guest)?;
    let (tables, entries, runs) = (walked.tables, walked.entries, walked.runs);
    out.say(By::Pinfold, format!("{tables} tables visited, {entries} entries decoded"));
    let (holes, absent) = (walked.holes, walked.absent);
    out.say(By::Pinfold, format!("{runs} runs of frames, {holes} holes with {absent} pages"));
    out.say(By::Pinfold, "folio size      runs     pages");
    for (order, (runs, pages)) in &walked.sizes {
        out.more(format!("{:>10} {runs:>9} {pages:>9}", size(1 << order)));
    }
    let said = scene::said(snapshot, guest);
    let found: BTreeMap<u64, u64> =
        scene::pages(replica, guest).iter().map(|(va, page)| (*va, page.frame)).collect();
    out.check("the tables lead to the frames that the kernel names, page by page", said == found);
    Ok(walked)
}

/// The one call.
pub(crate) fn pin(
    out: &mut Output,
    snapshot: &Snapshot,
    replica: &Replica<'_>,
    table: &PinTable<'_>,
    guest: &AddrRange,
    before: &Pages,
) -> Fallible<()> {
    out.section("The call: pin all of it for long, to read and write");
    let machine = replica.machine();
    let host = Observed::new(machine, "pinning");
    let pinned =
        Engine::new(&host, machine.frames()).pin(replica.space(), table, &scene::longterm(*guest));
    let tally = host.done();
    let pinned = pinned?;
    let (pages, runs, tables, entries) = (pinned.pages, pinned.runs, pinned.tables, pinned.entries);
    out.say(By::Pinfold, format!("{pages} pages pinned in {runs} runs"));
    out.more(format!(
        "{tables} visits to tables, {entries} entries: it looks again after each fault and move"
    ));
    let absent = tally.faulted.iter().filter(|va| !before.contains_key(va)).count();
    let zero = |va: &&u64| before.get(va).is_some_and(|page| page.zero);
    let zero = tally.faulted.iter().filter(zero).count();
    let other = tally.faulted.len() - zero - absent;
    out.say(By::Machine, format!("{} faults, each with memory that may be pinned:", pinned.faults));
    out.more(format!("{absent:>6} where nothing had been touched"));
    out.more(format!("{zero:>6} where the page was shared zeroes"));
    if other > 0 {
        out.more(format!("{other:>6} where a write was not allowed yet"));
    }
    out.say(
        By::Machine,
        format!("{} folios moved, by size and by where they were:", pinned.migrated),
    );
    for ((why, order), folios) in &tally.moved {
        out.more(format!("{folios:>6} of {:>6}, {why}", size(1 << order)));
    }
    if tally.failed > 0 {
        out.more(format!("{:>6} attempts failed at first", tally.failed));
    }
    let now = scene::pages(replica, guest);
    let kept = |page: &Page| scene::is_kept(snapshot, page.frame);
    out.check("no pinned page lies in a CMA area or a movable zone", !now.values().any(kept));
    let exact = before
        .iter()
        .filter(|(_, old)| !old.zero)
        .all(|(va, old)| now.get(va).is_some_and(|new| (new.frame != old.frame) == kept(old)));
    out.check("what moved is what lay there, and nothing else", exact);
    let charged = machine.charged(AccountId(0)) == guest.pages().raw();
    out.check("the account is charged every page of the range", charged);
    Ok(())
}

/// The pin table and a few look-ups in it.
pub(crate) fn look_up(
    out: &mut Output,
    snapshot: &Snapshot,
    table: &PinTable<'_>,
    pinned: &Pages,
    before: &Pages,
) -> Fallible<()> {
    out.section("The pin table");
    let (words, pages) = (table.used_words(), pinned.len());
    let (bytes, linux, percent) = (words * 8, pages * 8, words * 100 / pages.max(1));
    out.say(By::Pinfold, format!("{words} words in use: {bytes} bytes for {pages} pages"));
    out.more(format!(
        "8 bytes a page, as in Linux's registry, are {linux}: this is {percent}% of it"
    ));
    out.say(By::Pinfold, "address         frame then  physical address now");
    for part in snapshot.regions.iter().filter(|part| part.in_guest) {
        let now = table.lookup(VirtAddr::new(part.start))?;
        let (frame, note) = match before.get(&part.start) {
            None => (None, "made"),
            Some(page) if page.zero => (Some(page.frame), "was zeroes"),
            Some(page) if page.frame == now.raw() >> 12 => (Some(page.frame), "stayed"),
            Some(page) => (Some(page.frame), "moved"),
        };
        let frame = frame.map_or("none".into(), |frame| format!("{frame:#x}"));
        let now = now.to_string();
        let name = plain(&part.name);
        out.more(format!("{:#x}  {frame:<10}  {now:<20}  {note:<10}  {name}", part.start));
    }
    let says = |(va, page): (&u64, &Page)| {
        table.lookup(VirtAddr::new(*va)).is_ok_and(|at| at.raw() == page.frame << 12)
    };
    out.check("the table says for every page what the process sees", pinned.iter().all(says));
    Ok(())
}

/// Everything else that the process has, one region at a time.
pub(crate) fn other_regions(
    out: &mut Output,
    snapshot: &Snapshot,
    replica: &Replica<'_>,
) -> Fallible<()> {
    out.section("The other regions of the process, pinned for long, if they may be");
    let machine = replica.machine();
    let engine = Engine::new(machine, machine.frames());
    let books = Model::books(machine);
    let mut all_back = true;
    for region in snapshot.regions.iter().filter(|region| !region.in_guest) {
        let range = scene::range(region.start, region.pages)?;
        let words = scene::words(&range)?;
        let table = PinTable::new(&words)?;
        let [write, read] = [Access::READ | Access::WRITE, Access::READ].map(|access| match engine
            .pin(replica.space(), &table, &PinRequest::longterm(range, access))
        {
            Ok(_) => {
                all_back &= engine.unpin(&table, Dirtied::No).is_ok();
                "yes".to_owned()
            }
            Err(error) => format!("no, {}", error.cause),
        });
        let name = format!("{:<21}", plain(&region.name));
        if write == read {
            out.say(By::Pinfold, format!("{name} {write}"));
        } else {
            out.say(By::Pinfold, format!("{name} read {read}; write {write}"));
        }
    }
    let same = all_back && books == Model::books(machine);
    out.check("these pins and refusals left no pin and no charge", same);
    Ok(())
}

/// The allocation that failed before, with the guest pinned.
pub(crate) fn allocate_at_last(out: &mut Output, machine: &Machine<'_>) -> Option<FrameRange> {
    out.section("With the long-term policy");
    let hpt = scene::allocate_hpt(machine);
    match &hpt {
        Ok(range) => {
            let (start, pages) = (range.start, size(range.pages.raw()));
            out.say(By::Machine, format!("the HPT is allocated: {pages} from frame {start}"));
        }
        Err(error) => out.say(By::Machine, format!("the HPT cannot be allocated: {error}")),
    }
    out.check("the HPT is allocated while the guest is pinned", hpt.is_ok());
    hpt.ok()
}

/// Gives it all back.
pub(crate) fn unpin(out: &mut Output, machine: &Machine<'_>, table: &PinTable<'_>) -> Fallible<()> {
    out.section("Unpin");
    let start = table.range().map(|range| range.start()).ok_or("the table is not live")?;
    let host = Observed::new(machine, "unpinning");
    let unpinned = Engine::new(&host, machine.frames()).unpin(table, Dirtied::All);
    host.done();
    let unpinned = unpinned?;
    let (pages, runs, dirtied) = (unpinned.pages, unpinned.runs, unpinned.dirtied);
    out.say(
        By::Pinfold,
        format!("{pages} pages given back in {runs} runs, {dirtied} marked dirty"),
    );
    out.check("the account is charged nothing", machine.charged(AccountId(0)) == 0);
    out.check("the pin table is empty", table.lookup(start) == Err(TooHard));
    Ok(())
}

/// Counts of the guest's folios, by address: moved ones have moved with their address.
pub(crate) fn compare(out: &mut Output, before: &Pages, after: &Pages) {
    let none = after.values().all(|page| page.pins == 0);
    out.check("no pin is left on the guest", none);
    let own = || before.iter().filter(|(_, page)| !page.zero);
    let same = own().all(|(va, old)| {
        after.get(va).is_some_and(|new| (new.references, new.order) == (old.references, old.order))
    });
    out.check("every folio has the references and the size that it had", same);
    let dirty = after.values().all(|page| page.dirty);
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
