//! Counts, what becomes of pinned pages, charges, waiting.

use pinfold::PageCount;
use pinfold::folio::FolioKind;
use pinfold::host::{Flow, Host, Progress, Wait};

use super::super::kit::{ACCOUNT, Kit, Stop, Verdict, addresses, holds, longterm};
use super::super::{Memory, Subject};

pub(super) fn fork_copies_pinned<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let va = range.start();
    kit.store(&space, va, 1)?;
    kit.pinned(&space, &longterm(range), |table, _| {
        let before = kit.load(&space, va)?;
        let child = kit.fork(&space)?;
        kit.device_store(kit.lookup(table, va)?, 2)?;
        let (mine, its) = (kit.load(&space, va)?, kit.load(&child, va)?);
        holds(its == before, || {
            "a forked child sees what a device writes to its parent".to_owned()
        })?;
        holds(mine == 2, || {
            "after a fork the parent does not see what its device writes".to_owned()
        })
    })
}

pub(super) fn clear_then_look<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    kit.present(Memory::Private, 1)?;
    for memory in [Memory::Private, Memory::Shared] {
        let Ok((space, range)) = kit.present(memory, 1) else { continue };
        kit.pinned(&space, &longterm(range), |table, _| {
            kit.shrink()?;
            let pinned = kit.lookup(table, range.start())?;
            let there = kit.translate(&space, range.start());
            holds(there.is_some_and(|there| there.addr == pinned), || {
                format!("memory was taken back, and with it a pinned page of {memory:?}")
            })
        })?;
    }
    Ok(())
}

pub(super) fn every_reference<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let va = range.start();
    let counted = |what: &str, least: u32, pins: u32| {
        let counts = kit.counts(kit.folio(&space, va)?);
        let right = counts.references() >= least && counts.pins() == pins;
        holds(right && !counts.is_frozen() && !counts.is_claimed(), || {
            format!("a page that is {what} has {counts:?}, expected {least} references or more")
        })
    };
    counted("mapped once", 1, 0)?;
    let once = kit.counts(kit.folio(&space, va)?);
    kit.pinned(&space, &longterm(range), |_, _| counted("mapped once and pinned", 2, 1))?;
    let now = kit.counts(kit.folio(&space, va)?);
    holds(now.pins() == 0, || format!("{once:?} before a pin and {now:?} after"))?;
    let child = kit.fork(&space)?;
    let (mine, its) = (kit.translate(&space, va), kit.translate(&child, va));
    if its.is_some() && mine.map(|mine| mine.addr) == its.map(|its| its.addr) {
        counted("mapped by two spaces", 2, 0)?;
    }
    Ok(())
}

pub(super) fn last_reference<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.pinned(&space, &longterm(range), |table, _| {
        let pinned = kit.lookup(table, range.start())?;
        kit.unmap(&space, range)?;
        let frames = kit.0.frames();
        let folio = frames.folio(pinned.pfn(frames.base()));
        let kept = folio.filter(|folio| folio.info().kind != FolioKind::Free);
        holds(kept.is_some(), || format!("the page at {pinned} is pinned, and free"))?;
        // Whoever takes memory now must not get it.
        let (other, taken) = kit.present(Memory::Private, 2)?;
        for va in addresses(&taken) {
            let given = kit.translate(&other, va).map(|given| given.addr);
            holds(given != Some(pinned), || {
                format!("the page at {pinned} is pinned, and was given to somebody else")
            })?;
        }
        Ok(())
    })
}

pub(super) fn reclaim<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let before = kit.pinned(&space, &longterm(range), |_, _| {
        kit.unmap(&space, range)?;
        kit.free_pages()
    })?;
    let after = kit.free_pages()?;
    let pages = range.pages().raw();
    holds(after >= before + pages, || {
        format!(
            "{pages} pages were unmapped while pinned; their unpin freed {}",
            after.saturating_sub(before)
        )
    })
}

pub(super) fn account<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let before = kit.charged(ACCOUNT)?;
    let pages = range.pages().raw();
    kit.pinned(&space, &longterm(range), |_, _| {
        let now = kit.charged(ACCOUNT)?;
        holds(now == before + pages, || {
            format!("{before} pages were charged, {pages} were pinned, and {now} are charged")
        })
    })?;
    let after = kit.charged(ACCOUNT)?;
    holds(after == before, || {
        format!("{before} pages were charged before a pin, {after} are after its unpin")
    })?;
    // A call that fails gives back what it charged: here nothing is mapped any more.
    kit.unmap(&space, range)?;
    let pinned = kit.try_pin(&space, &longterm(range), |_, _| Ok(()));
    holds(pinned.is_err(), || "memory was pinned that is not mapped".to_owned())?;
    let after = kit.charged(ACCOUNT)?;
    holds(after == before, || {
        format!("{before} pages were charged before a pin that failed, {after} are after it")
    })
}

pub(super) fn enter_leave<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let wait = kit.host().wait();
    let before = kit.masked()?;
    let outer = wait.enter();
    let first = kit.masked()?;
    let inner = wait.enter();
    wait.leave(inner);
    let still = kit.masked()?;
    wait.leave(outer);
    let after = kit.masked()?;
    holds(first, || "`enter` masks nothing".to_owned())?;
    holds(still, || "`leave` unmasks what was masked before its `enter`".to_owned())?;
    holds(after == before, || {
        format!("masked was {before} before `enter`, and is {after} after `leave`")
    })
}

pub(super) fn pause<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    /// More than one page of a busy folio may cost.
    const TIMES: u64 = 64;
    for done in 0..TIMES {
        let progress = Progress { done: PageCount::new(done), total: PageCount::new(TIMES) };
        if kit.host().wait().pause(progress) == Flow::Stop {
            return Err(Stop::Broken("`pause` stops a call that nobody asked to stop".to_owned()));
        }
    }
    Ok(())
}
