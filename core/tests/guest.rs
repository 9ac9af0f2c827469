//! A guest's memory as real kernels had it, pinned for long and given back.
//!
//! The machine is made from each committed snapshot. What must move, what must stay and what must
//! be made is worked out from the kernel's own words, not from the machine.

use std::collections::{BTreeMap, BTreeSet};

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::MigrateError;
use pinfold::sync::Word;
use pinfold::{
    Access, AccountId, AddrRange, AnyFormat, Dirtied, Engine, Order, PageCount, PageShift, Pfn,
    PinFlags, PinRequest, PinTable, VirtAddr,
};
use pinfold_sim::model::Model;
use pinfold_sim::snapshot::Snapshot;
use pinfold_sim::{ContigError, Machine, Ram, Replica};

const STOCK: &[u8] = include_bytes!("snapshots/x86_64-6.12.snap");
const WITH_CMA: &[u8] = include_bytes!("snapshots/x86_64-6.1-cma.snap");

const PAGE: u64 = 4096;
const RW: Access = Access::all();

const KPF_DIRTY: u64 = 1 << 4;
const KPF_ANON: u64 = 1 << 12;
const KPF_HUGE: u64 = 1 << 17;
const KPF_THP: u64 = 1 << 22;
const KPF_ZERO_PAGE: u64 = 1 << 24;

/// What the kernel says about a page of the guest.
#[derive(Clone, Copy)]
struct Said {
    frame: u64,
    flags: u64,
    count: u64,
}

/// Every page of a range that the kernel names a frame for.
fn said(snapshot: &Snapshot, start: u64, pages: u64) -> BTreeMap<u64, Said> {
    let mut said = BTreeMap::new();
    for run in &snapshot.pages {
        let Some(frame) = run.frame() else { continue };
        for i in 0..run.count {
            let va = run.va + i * PAGE;
            if (start..start + pages * PAGE).contains(&va) {
                let (flags, count) = (run.kpageflags, run.kpagecount);
                said.insert(va, Said { frame: frame + i, flags, count });
            }
        }
    }
    said
}

/// Whether the kernel could want this frame back: in a CMA area or a movable zone.
fn must_move(snapshot: &Snapshot, frame: u64) -> bool {
    let inside = |start: u64, frames: u64| (start..start + frames).contains(&frame);
    let movable = snapshot.zones.iter().filter(|zone| zone.name == "Movable");
    snapshot.cma.iter().any(|area| inside(area.start_pfn, area.frames))
        || movable.into_iter().any(|zone| inside(zone.start_pfn, zone.spanned))
}

fn guest(snapshot: &Snapshot) -> (u64, u64, AddrRange) {
    let (start, pages) = snapshot.guest().unwrap();
    let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), PageShift::SIZE_4K);
    (start, pages, range.unwrap())
}

fn words(range: &AddrRange) -> Vec<Word> {
    let count = PinTable::words_for(range, range.base()).unwrap();
    (0..count).map(|_| Word::new(0)).collect()
}

/// References and pins behind every page of the guest that is present.
fn counts(
    machine: &Machine<'_, AnyFormat>,
    id: pinfold::host::SpaceId,
    start: u64,
    pages: u64,
) -> BTreeMap<u64, (u32, u32)> {
    let at = |i| start + i * PAGE;
    let counted = (0..pages).filter_map(|i| {
        let folio = machine.folio_at(id, at(i))?;
        let counts = machine.frames().counts_of(folio);
        Some((at(i), (counts.references(), counts.pins())))
    });
    counted.collect()
}

fn pin_the_guest(bytes: &[u8]) -> (usize, usize) {
    let snapshot = Snapshot::parse(bytes).unwrap();
    let ram = Ram::new(&Replica::layout(&snapshot).unwrap());
    let replica = Replica::new(&ram, &snapshot).unwrap();
    let (machine, space) = (replica.machine(), replica.space());
    let (start, pages, range) = guest(&snapshot);
    let said = said(&snapshot, start, pages);
    Model::new().check(machine).unwrap();

    let before = counts(machine, space.id(), start, pages);
    let words = words(&range);
    let table = PinTable::new(&words).unwrap();
    let engine = Engine::new(machine, machine.frames());
    let request = PinRequest::longterm(range, RW);
    let pinned = engine.pin(space, &table, &request).unwrap();
    assert_eq!(pinned.pages.raw(), pages);
    assert_eq!(machine.charged(AccountId(0)), pages);

    let (mut moved, mut stayed, mut made) = (BTreeSet::new(), 0, 0);
    for va in (0..pages).map(|i| start + i * PAGE) {
        let found = table.lookup(VirtAddr::new(va)).unwrap();
        assert_eq!(machine.translate(space.id(), va, RW), Some(found), "{va:#x}");
        let frame = found.raw() / PAGE;
        let folio = machine.frames().folio(Pfn::new(frame)).unwrap();
        assert!(!must_move(&snapshot, frame), "{va:#x} is pinned in frame {frame:#x}");
        match said.get(&va).filter(|said| said.flags & KPF_ZERO_PAGE == 0) {
            None => made += 1, // nothing or zeroes: a page of its own was made
            Some(said) => {
                assert_eq!(said.frame != frame, must_move(&snapshot, said.frame), "{va:#x}");
                if said.frame == frame {
                    stayed += 1;
                } else {
                    moved.insert(said.frame);
                }
                check_folio(said, folio.info(), va);
            }
        }
    }
    assert_eq!(moved.len() + stayed + made, usize::try_from(pages).unwrap());

    let unpinned = engine.unpin(&table, Dirtied::All).unwrap();
    Model::new().check(machine).unwrap();
    assert_eq!(unpinned.pages.raw(), pages);
    assert_eq!(machine.charged(AccountId(0)), 0);
    let after = counts(machine, space.id(), start, pages);
    assert_eq!(after.len() as u64, pages);
    for (va, old) in &before {
        let zero = said.get(va).is_some_and(|said| said.flags & KPF_ZERO_PAGE != 0);
        assert!(zero || after[va] == *old, "{va:#x}: {old:?} before, {:?} after", after[va]);
    }
    assert!(after.values().all(|(references, pins)| *references > 0 && *pins == 0));
    (moved.len(), made)
}

/// Size and kind as the kernel told them.
fn check_folio(said: &Said, info: pinfold::folio::FolioInfo, va: u64) {
    let huge = said.flags & (KPF_HUGE | KPF_THP) != 0;
    assert_eq!(info.order.raw(), if huge { 9 } else { 0 }, "{va:#x}");
    let anonymous = said.flags & KPF_ANON != 0;
    let kind = match (said.flags & KPF_HUGE != 0, anonymous) {
        (true, _) => FolioKind::Hugetlb,
        (false, true) => FolioKind::Anonymous,
        (false, false) => FolioKind::Shmem,
    };
    assert_eq!(info.kind, kind, "{va:#x}");
    let exclusive = anonymous && said.count == 1;
    assert_eq!(info.flags.contains(FolioFlags::EXCLUSIVE), exclusive, "{va:#x}");
    let dirty = said.flags & KPF_DIRTY != 0;
    assert!(!dirty || info.flags.contains(FolioFlags::DIRTY), "{va:#x}");
}

#[test]
fn a_guest_of_a_stock_kernel_leaves_the_movable_zone() {
    let (moved, made) = pin_the_guest(STOCK);
    assert!(moved > 5000 && made > 1000, "{moved} pages moved, {made} were made");
}

#[test]
fn a_guest_of_a_kernel_with_cma_leaves_its_area_too() {
    let (moved, made) = pin_the_guest(WITH_CMA);
    assert!(moved > 15_000 && made > 1000, "{moved} pages moved, {made} were made");
}

/// A guest's hash page table: a power of two, at a multiple of 256 KiB, most of the CMA area.
fn allocate_hpt(machine: &Machine<'_, AnyFormat>) -> Result<u64, ContigError> {
    let pages = 128 << 20 >> 12;
    let block = machine.alloc_contig_aligned(0, pages, Order::new(6).unwrap())?;
    assert!(machine.free_contig(&block));
    Ok(block.start.raw())
}

#[test]
fn a_pin_without_the_longterm_policy_keeps_the_area_from_its_owner() {
    let snapshot = Snapshot::parse(WITH_CMA).unwrap();
    let (.., range) = guest(&snapshot);
    let longterm = PinRequest::longterm(range, RW);
    let shortterm = PinRequest { flags: PinFlags::empty(), ..longterm };
    for request in [shortterm, longterm] {
        let ram = Ram::new(&Replica::layout(&snapshot).unwrap());
        let replica = Replica::new(&ram, &snapshot).unwrap();
        let machine = replica.machine();
        let words = words(&range);
        let table = PinTable::new(&words).unwrap();
        let engine = Engine::new(machine, machine.frames());
        engine.pin(replica.space(), &table, &request).unwrap();
        match allocate_hpt(machine) {
            Ok(_) => assert_eq!(request, longterm),
            Err(ContigError::Blocked { blocker, error }) => {
                assert_eq!(request, shortterm);
                let held = table.runs().any(|run| {
                    (run.pfn.raw()..run.pfn.raw() + run.pages.raw()).contains(&blocker.raw())
                });
                assert!(held, "frame {blocker} is not the guest's");
                let MigrateError::Busy { expected, found } = error else { panic!("{error}") };
                let counts = machine.frames().counts_of(machine.frames().folio(blocker).unwrap());
                // The one who tried to move it held a reference of its own, in both figures.
                assert_eq!((expected + counts.pins(), counts.references() + 1), (found, found));
            }
            Err(error) => panic!("{error}"),
        }
        engine.unpin(&table, Dirtied::All).unwrap();
        allocate_hpt(machine).unwrap();
        Model::new().check(machine).unwrap();
    }
}
