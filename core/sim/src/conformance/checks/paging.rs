//! Page tables, mappings, faults, fork.

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::{Fault, FaultIn, GupHost, Mappings, PhysMem, WalkGuard};
use pinfold::{Access, PageCount, PageFormat, PhysAddr, PinCause, Table, VirtAddr};
use pinfold_arch::Entry;

use super::super::kit::{BOTH, Kit, Stop, Verdict, addresses, holds, longterm, no_pin};
use super::super::{Memory, Subject};

/// A table on the way to an address: where it lies, and its entries in host byte order.
type Seen = (Table, Vec<u64>);

/// The entries of a table; none where the host shows no such table.
fn entries<S: Subject>(kit: &Kit<'_, S>, space: &S::Space, table: &Table) -> Vec<u64> {
    let big = space.format().big_endian();
    let order = |raw: u64| if big { u64::from_be(raw) } else { u64::from_le(raw) };
    let view = kit.host().memory().table(table.base, table.entries());
    view.map_or_else(Vec::new, |view| {
        (0..view.len()).filter_map(|i| view.load(i)).map(order).collect()
    })
}

/// The tables on the way to `va`, from the root on. The caller holds the walk guard.
fn path<S: Subject>(kit: &Kit<'_, S>, space: &S::Space, va: VirtAddr) -> Vec<Seen> {
    let mut path = Vec::new();
    let mut table = space.root();
    loop {
        let found = entries(kit, space, &table);
        let raw = found.get(usize::from(table.index(va))).copied();
        path.push((table, found));
        match raw.map(|raw| space.format().decode(&table, raw)) {
            Some(Entry::Table(next, _)) => table = next,
            _ => return path,
        }
    }
}

pub(super) fn table_views<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let memory = kit.host().memory();
    let last = PhysAddr::new(u64::MAX - 0xfff);
    holds(memory.table(last, 512).is_none(), || {
        format!("a table is shown at {last}, where no memory can be")
    })?;
    let (space, range) = kit.present(Memory::Private, 2)?;
    let root = space.root();
    let shown = memory.table(root.base, root.entries()).map_or(0, |view| view.len());
    holds(shown >= root.entries(), || {
        format!("{shown} of the {} entries of the root table are shown", root.entries())
    })?;
    // A view is the memory itself: what changes afterwards shows in it. The second page keeps the
    // table in place while the first one goes.
    let saved = kit.host().guard().enter(space.id());
    let (table, _) = path(kit, &space, range.start()).pop().expect("the root at least");
    let view = memory.table(table.base, table.entries());
    kit.host().guard().leave(space.id(), saved);
    let Some(view) = view else {
        return Err(Stop::Broken(format!("the table at {} is shown only once", table.base)));
    };
    let at = usize::from(table.index(range.start()));
    let before = view.load(at);
    kit.unmap(&space, range.take(PageCount::ONE).expect("two pages"))?;
    holds(view.load(at) != before, || {
        format!("the page at {} was unmapped, and a view of its table shows it", range.start())
    })
}

pub(super) fn walk_guard<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let saved = kit.host().guard().enter(space.id());
    let before = path(kit, &space, range.start());
    let unmapped = kit.unmap_in_walk(&space, range);
    let after: Vec<_> = before.iter().map(|(table, _)| entries(kit, &space, table)).collect();
    kit.host().guard().leave(space.id(), saved);
    unmapped?;
    for ((table, before), after) in before.iter().zip(&after) {
        holds(after.len() >= before.len(), || {
            format!("the table at {} was taken away during a walk", table.base)
        })?;
        for (i, (old, new)) in before.iter().zip(after).enumerate() {
            let new_entry = space.format().decode(table, *new);
            let reused = old != new && matches!(new_entry, Entry::Leaf(_) | Entry::Table(..));
            holds(!reused, || {
                format!(
                    "the table at {} was used again during a walk: entry {i} became {new:#x}",
                    table.base
                )
            })?;
        }
    }
    Ok(())
}

pub(super) fn mapping_lookup<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let mappings = kit.host().mappings();
    kit.map(Memory::Private, 1)?;
    for memory in Memory::ALL {
        let Ok((space, range)) = kit.map(memory, 1) else { continue };
        for va in [range.start(), range.last()] {
            let Some(found) = mappings.mapping(space.id(), va) else {
                return Err(Stop::Broken(format!("no mapping is found at {va} of {memory:?}")));
            };
            let whole = found.range.contains(range.start()) && found.range.contains(range.last());
            holds(whole, || {
                format!("the mapping found at {va} is {:?}, not {range:?}", found.range)
            })?;
            let shared = memory != Memory::Private;
            let said = (found.kind, found.shared, found.access & BOTH, found.dirty_tracked);
            let truth = (memory.kind(), shared, BOTH, memory == Memory::TrackedFile);
            let device = memory == Memory::Device;
            holds(if device { said.0 == truth.0 } else { said == truth }, || {
                format!(
                    "{memory:?} is said to be (kind, shared, access, dirty-tracked) {said:?}, \
                     and is {truth:?}"
                )
            })?;
            holds(shared || found.may_write, || "writable memory may not be written".to_owned())?;
        }
        if kit.unmap(&space, range).is_ok() {
            let left = mappings.mapping(space.id(), range.start());
            holds(left.is_none_or(|left| !left.range.contains(range.start())), || {
                format!("{memory:?} at {} was unmapped and is still found", range.start())
            })?;
        }
    }
    Ok(())
}

pub(super) fn folio_kinds<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let hidden = [Memory::TrackedFile, Memory::FsDax, Memory::Secret, Memory::Device];
    let mut any = false;
    for memory in hidden {
        let Ok((space, range)) = kit.map(memory, 1) else { continue };
        let va = range.start();
        let fault = Fault { access: Access::READ, unshare: false, longterm: false };
        // A refusal is an answer too: nothing is there then.
        let _ = kit.host().fault().fault_in(space.id(), va, fault);
        let Some(there) = kit.translate(&space, va) else { continue };
        any = true;
        let frames = kit.0.frames();
        let kind = frames.folio(there.addr.pfn(frames.base())).map(|folio| folio.info().kind);
        let right = match memory {
            Memory::TrackedFile => kind == Some(FolioKind::File),
            Memory::FsDax => kind == Some(FolioKind::FsDax),
            Memory::Secret => kind == Some(FolioKind::Secret),
            _ => matches!(kind, None | Some(FolioKind::NoMemory | FolioKind::PeerToPeer)),
        };
        holds(right, || format!("the folio behind {memory:?} is of kind {kind:?}"))?;
    }
    let none = || Stop::Needs(format!("the subject has no page of {hidden:?}"));
    any.then_some(()).ok_or_else(none)
}

pub(super) fn invalidate_brackets<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let before = space.sequence();
    holds(before.is_some(), || "an invalidation was begun and not ended".to_owned())?;
    kit.unmap(&space, range)?;
    let after = space.sequence();
    holds(after.is_some(), || "unmapping began an invalidation and did not end it".to_owned())?;
    holds(after != before, || "unmapping did not move the space's invalidation sequence".to_owned())
}

pub(super) fn fault_in<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    // A fault that changes nothing makes the call give up.
    let (space, range) = kit.map(Memory::Private, 1)?;
    let pinned = kit.try_pin(&space, &longterm(range), |_, _| Ok(()));
    pinned.unwrap_or_else(|error| match error.cause {
        PinCause::FaultLoop | PinCause::Fault(_) | PinCause::NotMemory { .. } => {
            Err(Stop::Broken(format!("private memory cannot be pinned: {error}")))
        }
        _ => Err(no_pin(error)),
    })?;
    let (space, range) = kit.present(Memory::Private, 2)?;
    let fault = |space: &S::Space, va, access, unshare| {
        let fault = Fault { access, unshare, longterm: true };
        let failed = |error| Stop::Broken(format!("the fault at {va} failed: {error}"));
        kit.host().fault().fault_in(space.id(), va, fault).map_err(failed)
    };
    let child = kit.fork(&space)?;
    // The first page is written by the parent, the second made private for a pin to read.
    for (va, (access, unshare)) in addresses(&range).zip([(BOTH, false), (Access::READ, true)]) {
        fault(&space, va, access, unshare)?;
        let (mine, its) = (kit.folio(&space, va)?, kit.translate(&child, va));
        let base = kit.0.frames().base();
        let its = its.and_then(|its| kit.0.frames().folio(its.addr.pfn(base)));
        holds(its.is_none_or(|its| its.head() != mine.head()), || {
            let why = if unshare { "made private" } else { "made writable" };
            format!(
                "the page at {va} was {why}, and a forked child has the same frame {}",
                mine.head()
            )
        })?;
        holds(mine.info().flags.contains(FolioFlags::EXCLUSIVE), || {
            format!("the page at {va} is its space's own and not marked exclusive")
        })?;
    }
    Ok(())
}

pub(super) fn fault_locks<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    kit.lock_held()?;
    let dropped = |hook: &str| {
        let held = kit.lock_held()?;
        holds(!held, || format!("`{hook}` has returned, and a lock of yours is held"))
    };
    let (space, range) = kit.map(Memory::Private, 1)?;
    let va = range.start();
    let fault = Fault { access: BOTH, unshare: false, longterm: false };
    let _ = kit.host().fault().fault_in(space.id(), va, fault);
    dropped("fault_in")?;
    let _ = kit.host().mappings().mapping(space.id(), va);
    dropped("mapping")?;
    kit.misplace(&space, va)?;
    kit.pinned(&space, &longterm(range), |_, _| dropped("migrate"))
}

pub(super) fn fork_brackets<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, _) = kit.present(Memory::Private, 1)?;
    let before = space.fork_sequence();
    holds(before.is_some(), || "a fork was begun and not ended".to_owned())?;
    kit.fork(&space)?;
    let after = space.fork_sequence();
    holds(after.is_some(), || "the fork was begun and not ended".to_owned())?;
    holds(after != before, || "the fork did not move the space's fork sequence".to_owned())
}

pub(super) fn exclusive_mark<S: Subject>(kit: &Kit<'_, S>) -> Verdict {
    let (space, range) = kit.present(Memory::Private, 1)?;
    let va = range.start();
    let alone = kit.folio(&space, va)?.info().flags;
    holds(alone.contains(FolioFlags::EXCLUSIVE), || {
        "a private page that was just written is not marked exclusive".to_owned()
    })?;
    let child = kit.fork(&space)?;
    let (Some(mine), Some(its)) = (kit.translate(&space, va), kit.translate(&child, va)) else {
        return Ok(());
    };
    if mine.addr != its.addr {
        return Ok(());
    }
    let shared = kit.folio(&space, va)?.info().flags;
    holds(!shared.contains(FolioFlags::EXCLUSIVE), || {
        format!("the page at {va} is shared with a forked child and still marked exclusive")
    })?;
    let writable = mine.rights.allow(Access::WRITE) || its.rights.allow(Access::WRITE);
    holds(!writable, || format!("the page at {va} is shared with a forked child and writable"))
}
