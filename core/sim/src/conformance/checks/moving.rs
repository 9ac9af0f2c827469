//! Where pages lie, and moving them.

use pinfold::PinCause;
use pinfold::folio::{Folio, FolioKind};
use pinfold::host::MigrateError;

use super::super::kit::{
    Kit, MISPLACED, Stop, Verdict, addresses, holds, longterm, no_pin, shortterm,
};
use super::super::{Memory, Subject};

/// Whether the frame table says that a folio must not be pinned for long where it is.
fn misplaced(folio: Folio) -> bool {
    let info = folio.info();
    info.flags.intersects(MISPLACED) || info.kind == FolioKind::DeviceCoherent
}

pub(super) fn folio_flags<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.misplace(&space, range.start())?;
    let folio = kit.folio(&space, range.start())?;
    holds(misplaced(folio), || {
        format!(
            "the page at {} must be movable, and its folio does not say so: {:?}",
            range.start(),
            folio.info()
        )
    })
}

pub(super) fn migrate_place<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.misplace(&space, range.start())?;
    let pinned = kit.try_pin(&space, &longterm(range), |table, _| {
        for va in addresses(&range) {
            let folio = kit.folio(&space, va)?;
            holds(!misplaced(folio), || {
                format!("the page at {va} was pinned where it must be movable")
            })?;
            let there = kit.translate(&space, va).map(|there| there.addr);
            let pinned = kit.lookup(table, va)?;
            holds(there == Some(pinned), || {
                format!("the page at {va} is pinned at {pinned} and mapped at {there:?}")
            })?;
        }
        Ok(())
    });
    pinned.unwrap_or_else(|error| match error.cause {
        // A host that moves nothing says so. Whoever was told to stop did not fail to move.
        PinCause::Unmovable { error: MigrateError::Unmovable, .. } | PinCause::Interrupted => {
            Err(no_pin(error))
        }
        _ => Err(Stop::Broken(format!("a page was not moved to where it may stay: {error}"))),
    })
}

pub(super) fn migrate_contents<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let va = range.start();
    kit.misplace(&space, va)?;
    kit.store(&space, va, 0xa5)?;
    kit.pinned(&space, &longterm(range), |table, _| {
        let (mine, its) = (kit.load(&space, va)?, kit.device_load(kit.lookup(table, va)?)?);
        holds((mine, its) == (0xa5, 0xa5), || {
            format!("0xa5 was written before a move; process and device read {mine:#x}, {its:#x}")
        })
    })
}

pub(super) fn migrate_never_pinned<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.misplace(&space, range.start())?;
    // Short-term pins are allowed anywhere; the page must not move under this one.
    kit.pinned(&space, &shortterm(range), |table, _| {
        let pinned = kit.lookup(table, range.start())?;
        let second = kit.try_pin(&space, &longterm(range), |_, _| Ok(()));
        let there = kit.translate(&space, range.start()).map(|there| there.addr);
        holds(there == Some(pinned), || {
            format!("the page at {pinned} is pinned, and its mapping was moved to {there:?}")
        })?;
        match second {
            Err(error) if matches!(error.cause, PinCause::Unmovable { .. }) => Ok(()),
            Err(error) => Err(no_pin(error)),
            // It is where it was, and seems to be right there.
            Ok(_) => Err(Stop::Needs("the check needs a page that must be movable".to_owned())),
        }
    })
}

pub(super) fn migrate_drain<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.misplace(&space, range.start())?;
    kit.cache_reference(&space, range.start())?;
    let pinned = kit.try_pin(&space, &longterm(range), |_, _| Ok(()));
    pinned.unwrap_or_else(|error| match error.cause {
        PinCause::Unmovable { error: MigrateError::Busy { .. }, .. } => Err(Stop::Broken(format!(
            "a reference in your own caches keeps a page from moving: {error}"
        ))),
        _ => Err(no_pin(error)),
    })
}

pub(super) fn migrate_gives_back<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    kit.misplace(&space, range.start())?;
    let before = kit.free_pages()?;
    let (migrated, after) =
        kit.pinned(&space, &longterm(range), |_, pinned| Ok((pinned.migrated, kit.free_pages()?)))?;
    holds(after >= before, || {
        format!("{migrated} pages were moved, and {} pages are gone", before.saturating_sub(after))
    })
}
