//! Page tables that lie, one lie at a time.

use std::sync::atomic::Ordering;

use pinfold::policy::Refusal;
use pinfold::sync::Word;
use pinfold::table::PinTable;
use pinfold::walk::WalkError;
use pinfold::{
    Engine, PageCount, PageFormat, PageShift, Pfn, PhysAddr, PinCause, PinError, VirtAddr,
};
use pinfold_arch::Entry;
use pinfold_sim::HostCall;
use pinfold_sim::model::Model;

use crate::output::{By, Output};
use crate::scene::{self, Fallible};
use crate::stage::Stage;

/// Marks of an entry that leads to a table or a page, and of one that maps a large page.
const PRESENT: u64 = 0x67;
const LARGE: u64 = 0xe7;

/// An entry that is not what the machine wrote.
struct Lie {
    about: &'static str,
    /// What the entry maps, as a power of two.
    level: u8,
    raw: u64,
    answer: PinCause,
}

/// Tells each lie, asks for a pin, compares the answer, and puts the entry right again.
pub(crate) fn tell(out: &mut Output, stage: &Stage<'_>) -> Fallible<()> {
    out.section("Page tables that lie");
    let machine = stage.machine();
    let second = stage.guest.skip(PageCount::ONE).ok_or("a guest has many pages")?;
    let books = Model::books(machine);
    let host = [HostCall::Fault, HostCall::Migrate].map(|call| machine.calls(call));
    let (mut precise, mut told, mut most) = (0, 0, 0);
    for lie in lies(stage, second.start())? {
        let words = scene::words(&second)?;
        let table = PinTable::new(&words)?;
        let word = entry(stage, second.start(), lie.level)?;
        let truth = word.swap(lie.raw.to_le(), Ordering::SeqCst);
        let before = machine.calls(HostCall::Table);
        let answer = Engine::new(machine, machine.frames()).pin(
            stage.space(),
            &table,
            &scene::longterm(second),
        );
        most = most.max(machine.calls(HostCall::Table) - before);
        word.store(truth, Ordering::SeqCst);
        let expected = Err(PinError { at: second.start(), cause: lie.answer });
        told += 1;
        precise += u32::from(answer == expected);
        let answer = answer.err().map_or("pinned".into(), |error| error.cause.to_string());
        out.say(By::Pinfold, format!("{}:", lie.about));
        out.more(answer);
    }
    out.say(
        By::Pinfold,
        format!("{told} lies, each answered after {most} reads of a table at most"),
    );
    out.check(
        "every lie is answered with the error that names it, at its address",
        precise == told,
    );
    out.check("each answer took no more than a few looks at tables", most <= 8);
    let asked = [HostCall::Fault, HostCall::Migrate].map(|call| machine.calls(call));
    out.check("the host was not asked to mend or to move anything", asked == host);
    out.check("no lie left a pin or a charge", Model::books(machine) == books);
    Ok(())
}

/// The entry on the way to `va` that maps so much.
fn entry<'a>(stage: &'a Stage<'_>, va: VirtAddr, level: u8) -> Fallible<&'a Word> {
    let (ram, space) = (stage.machine().ram(), stage.space());
    let mut table = space.root();
    loop {
        let words = ram.words(table.base, table.entries());
        let word = words.and_then(|words| words.get(usize::from(table.index(va))));
        let word = word.ok_or("a table of the machine lies in its memory")?;
        match space.format().decode(&table, u64::from_le(word.load(Ordering::SeqCst))) {
            _ if table.shift.raw() == level => return Ok(word),
            Entry::Table(next, _) => table = next,
            _ => return Err("the way to the guest is shorter than that".into()),
        }
    }
}

/// What can be wrong with the way to `at`, from the root down.
fn lies(stage: &Stage<'_>, at: VirtAddr) -> Fallible<Vec<Lie>> {
    let frames = stage.machine().ram().frames();
    let ordinary = stage.machine().zones().first().ok_or("a machine has memory")?.frames;
    let behind = frames.end().raw() << 12;
    let table = |level| -> Fallible<u64> {
        Ok(u64::from_le(entry(stage, at, level)?.load(Ordering::SeqCst)) & !0xfff & ((1 << 46) - 1))
    };
    let root = stage.space().root().base.raw();
    let (upper, middle, last) = (table(39)?, table(30)?, table(21)?);
    let outside = |about, level| Lie {
        about,
        level,
        raw: behind | PRESENT,
        answer: PinCause::Walk(WalkError::OutsideMemory { at, table: PhysAddr::new(behind) }),
    };
    let malformed = |about, level, raw| -> Fallible<Lie> {
        let level_shift = PageShift::new(level).ok_or("a level has a size")?;
        let answer = PinCause::Walk(WalkError::Malformed { at, raw, level: level_shift });
        Ok(Lie { about, level, raw, answer })
    };
    let not_the_guests = |about, level, addr: u64| Lie {
        about,
        level,
        raw: addr | PRESENT,
        answer: PinCause::Refused(Refusal::NotUserMemory),
    };
    let no_memory = |about, level, addr: u64, marks, inside| Lie {
        about,
        level,
        raw: addr | marks,
        answer: PinCause::NotMemory { pfn: Pfn::new((addr >> 12) + inside) },
    };
    Ok(vec![
        outside("the top entry leads to a table behind the end of memory", 39),
        outside("so does an entry of the second level", 30),
        outside("so does an entry of the third level", 21),
        malformed("the top entry claims to be a page", 39, upper | LARGE)?,
        malformed("a page of 1 GiB does not begin at a multiple of it", 30, (1 << 21) | LARGE)?,
        malformed("a page of 2 MiB does not begin at a multiple of it", 21, (1 << 13) | LARGE)?,
        malformed("a page lies where the CPU has no address bits", 12, (1 << 50) | PRESENT)?,
        not_the_guests("the root leads back to itself, at every level", 39, root),
        not_the_guests("a table of the second level leads back to itself", 30, upper),
        not_the_guests("a table of the third level leads back to itself", 21, middle),
        not_the_guests("the guest's page is the table that maps it", 12, last),
        not_the_guests("the guest's page is the root of its own tables", 12, root),
        not_the_guests("the guest's page is nobody's", 12, (ordinary.end().raw() - 1) << 12),
        no_memory("the guest's page lies in front of memory", 12, 0, PRESENT, 0),
        no_memory("the guest's page lies behind the end of memory", 12, behind, PRESENT, 0),
        no_memory(
            "so does a page of 2 MiB, of which the second page is asked for",
            21,
            behind,
            LARGE,
            1,
        ),
    ])
}
