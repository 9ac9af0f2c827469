//! Machines made from captures with kinds of memory that were put into them by hand.

use pinfold::folio::{FolioFlags, FolioKind};
use pinfold::host::{MappingKind, SpaceId};
use pinfold::{Access, AnyFormat};
use pinfold_sim::model::Model;
use pinfold_sim::snapshot::{
    FrameClass, FrameRun, Mapping, Mmu, PAGEMAP_FRAME, PageRun, Snapshot, TablePage, Verdict, Zone,
};
use pinfold_sim::verdict::compare;
use pinfold_sim::{Machine, Ram, Replica, ReplicaError};

/// A capture of Linux 6.1 with a CMA area, kept as it is: what is changed in it here relies on it.
const PLAIN: &[u8] = include_bytes!("plain.snap");
const PAGE: u64 = 4096;
const SWAPPED: u64 = 1 << 62;
/// A bit of kpageflags.
const ANON: u64 = 1 << 12;
/// A frame that no zone has.
const BEYOND: u64 = 4 << 18;

fn real() -> Snapshot {
    Snapshot::parse(PLAIN).unwrap()
}

fn region(snapshot: &Snapshot, name: &str) -> (u64, u64) {
    let found = snapshot.regions.iter().find(|region| region.name == name);
    found.map(|region| (region.start, region.pages)).unwrap()
}

/// Address and levels of the tables.
fn root(snapshot: &Snapshot) -> (u64, u8) {
    let Mmu::X86_64 { cr3, levels, .. } = snapshot.mmu else { panic!("an x86_64 snapshot") };
    (cr3 & 0x000f_ffff_ffff_f000, levels)
}

/// The last-level entry for an address.
fn entry(snapshot: &mut Snapshot, va: u64) -> &mut u64 {
    let address = |raw: u64| raw & 0x000f_ffff_ffff_f000;
    let (mut at, levels) = root(snapshot);
    let mut shift = 12 + 9 * (u32::from(levels) - 1);
    loop {
        let table = snapshot.tables.binary_search_by_key(&at, |table| table.addr).unwrap();
        let index = usize::try_from(va >> shift & 511).unwrap();
        if shift == 12 {
            return &mut snapshot.tables[table].entries[index];
        }
        at = address(snapshot.tables[table].entries[index]);
        shift -= 9;
    }
}

/// Says something else about some pages; the rest of their runs stays. Returns the old runs of one
/// page each.
fn say(snapshot: &mut Snapshot, from: u64, pages: u64, new: impl Fn(&mut PageRun)) -> Vec<PageRun> {
    let singles = |run: &PageRun| {
        let run = *run;
        (0..run.count).map(move |i| PageRun {
            va: run.va + i * PAGE,
            pagemap: run.pagemap + if run.frame().is_some() { i } else { 0 },
            count: 1,
            ..run
        })
    };
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    for run in std::mem::take(&mut snapshot.pages) {
        if run.va >= from + pages * PAGE || run.va + run.count * PAGE <= from {
            kept.push(run);
            continue;
        }
        for mut single in singles(&run) {
            if (from..from + pages * PAGE).contains(&single.va) {
                old.push(single);
                new(&mut single);
            }
            kept.push(single);
        }
    }
    snapshot.pages = kept;
    old
}

/// Says something else about the use of a frame.
fn use_frame(snapshot: &mut Snapshot, pfn: u64, class: FrameClass) {
    let holds = |run: &FrameRun| (run.start_pfn..run.start_pfn + run.frames).contains(&pfn);
    let at = snapshot.memory.iter().position(holds).unwrap();
    let FrameRun { start_pfn, frames, class: old } = snapshot.memory[at];
    let parts = [
        FrameRun { start_pfn, frames: pfn - start_pfn, class: old },
        FrameRun { start_pfn: pfn, frames: 1, class },
        FrameRun { start_pfn: pfn + 1, frames: start_pfn + frames - pfn - 1, class: old },
    ];
    snapshot.memory.splice(at..=at, parts.into_iter().filter(|run| run.frames > 0));
}

/// Takes pages out of memory, as the kernel would.
fn swap_out(snapshot: &mut Snapshot, from: u64, pages: u64) {
    for old in say(snapshot, from, pages, |run| {
        *run = PageRun { pagemap: SWAPPED, kpageflags: 0, kpagecount: 0, ..*run };
    }) {
        assert_eq!(old.kpagecount, 1, "only this process has it");
        *entry(snapshot, old.va) = !(7 << 14) & !1;
        use_frame(snapshot, old.frame().unwrap(), FrameClass::Free);
    }
}

fn with<R>(snapshot: &Snapshot, use_it: impl FnOnce(&Machine<'_, AnyFormat>, SpaceId) -> R) -> R {
    let snapshot = Snapshot::parse(&snapshot.to_bytes()).unwrap();
    let ram = Ram::new(&Replica::layout(&snapshot).unwrap());
    let replica = Replica::new(&ram, &snapshot).unwrap();
    let (machine, id) = (replica.machine(), replica.space().id());
    Model::new().check(machine).unwrap();
    let result = use_it(machine, id);
    Model::new().check(machine).unwrap();
    for space in machine.spaces() {
        machine.drop_space(space.id()).unwrap();
    }
    Model::new().check(machine).unwrap();
    result
}

fn refused(snapshot: &Snapshot) -> ReplicaError {
    let ram = Ram::new(&Replica::layout(snapshot).unwrap());
    Replica::new(&ram, snapshot).map(|_| ()).unwrap_err()
}

#[test]
fn swapped_out_pages_come_back_by_a_touch() {
    let mut snapshot = real();
    let (start, _) = region(&snapshot, "locked");
    swap_out(&mut snapshot, start + PAGE, 2);
    with(&snapshot, |machine, id| {
        assert_eq!(machine.swapped(), 2);
        assert_eq!(machine.translate(id, start + PAGE, Access::READ), None);
        machine.touch(id, start, 4, Access::READ).unwrap();
        let folio = machine.folio_at(id, start + PAGE).unwrap();
        assert_eq!(folio.info().kind, FolioKind::Anonymous);
        assert!(folio.info().flags.contains(FolioFlags::EXCLUSIVE));
        assert_eq!(machine.swapped(), 0);
    });
}

#[test]
fn what_is_away_must_be_swapped_by_the_kernels_words_too() {
    let mut snapshot = real();
    let (start, _) = region(&snapshot, "locked");
    swap_out(&mut snapshot, start, 1);
    let mut silent = snapshot.clone();
    say(&mut silent, start, 1, |run| run.pagemap = 0);
    let error = refused(&silent).to_string();
    assert!(error.contains("not swapped out either"), "{error}");
    let mut empty = snapshot;
    *entry(&mut empty, start) = 0;
    let error = refused(&empty).to_string();
    assert!(error.contains("the tables do not say so"), "{error}");
    // Shared memory has no such entries.
    let mut shared = real();
    let (start, _) = region(&shared, "tmpfs_shared");
    *entry(&mut shared, start) = 0x2e;
    let error = refused(&shared).to_string();
    assert!(error.contains("on its way"), "{error}");
}

/// Takes pages away from the process, entries and all.
fn forget(snapshot: &mut Snapshot, from: u64, pages: u64) {
    for old in say(snapshot, from, pages, |run| {
        *run = PageRun { pagemap: 0, kpageflags: 0, kpagecount: 0, ..*run };
    }) {
        *entry(snapshot, old.va) = 0;
        use_frame(snapshot, old.frame().unwrap(), FrameClass::Free);
    }
}

/// Newer kernels have folios of all sizes, and a process may have copies of some pages of one.
#[test]
fn a_folio_is_put_together_from_what_is_left_of_it() {
    let order_at = |snapshot: &Snapshot, va| {
        with(snapshot, |machine, id| {
            let folio = machine.folio_at(id, va).unwrap();
            let said = snapshot.pages.iter().find(|run| run.va == va).unwrap();
            (folio.order().raw(), said.frame().unwrap() - folio.head().raw())
        })
    };
    let mut snapshot = real();
    // A huge page in small entries.
    let (start, _) = region(&snapshot, "thp_split");
    forget(&mut snapshot, start + 8 * PAGE, 504);
    assert_eq!(order_at(&snapshot, start), (3, 0));
    let mut holed = snapshot.clone();
    forget(&mut holed, start + PAGE, 2);
    assert_eq!(order_at(&holed, start + 7 * PAGE), (3, 7));
    let mut tails = snapshot.clone();
    forget(&mut tails, start, 3);
    assert_eq!(order_at(&tails, start + 3 * PAGE), (3, 3));
    let mut one = snapshot;
    forget(&mut one, start, 6);
    forget(&mut one, start + 7 * PAGE, 1);
    assert_eq!(order_at(&one, start + 6 * PAGE), (2, 2));
}

/// Puts a file's pages into persistent memory, from frame [`BEYOND`] on. Returns where it is mapped.
fn direct(snapshot: &mut Snapshot, name: &str) -> u64 {
    let (start, pages) = region(snapshot, name);
    let map = snapshot.mappings.iter_mut().find(|map| map.start == start).unwrap();
    map.fs_type = 0xef53;
    map.flags.push("dax".into());
    let there = |run: &mut PageRun| {
        if run.frame().is_some() && run.kpageflags & ANON == 0 {
            let frame = BEYOND + (run.va - start) / PAGE;
            let (kpageflags, kpagecount) = (1 << 20, 0);
            let pagemap = run.pagemap & !PAGEMAP_FRAME | frame;
            *run = PageRun { pagemap, kpageflags, kpagecount, ..*run };
        }
    };
    for old in say(snapshot, start, pages, there) {
        let Some(pfn) = old.frame().filter(|_| old.kpageflags & ANON == 0) else { continue };
        *entry(snapshot, old.va) = (*entry(snapshot, old.va) & !(PAGEMAP_FRAME << 12))
            | (BEYOND + (old.va - start) / PAGE) << 12;
        use_frame(snapshot, pfn, FrameClass::Movable);
    }
    let new = |run: &&PageRun| run.frame().is_some_and(|frame| frame >= BEYOND);
    let (first, last) = (
        snapshot.pages.iter().find(new).unwrap().frame().unwrap(),
        snapshot.pages.iter().rfind(new).unwrap().frame().unwrap(),
    );
    snapshot.memory.push(FrameRun {
        start_pfn: first,
        frames: last - first + 1,
        class: FrameClass::Process,
    });
    start
}

#[test]
fn files_on_persistent_memory_are_known_by_their_mapping() {
    let mut snapshot = real();
    let shared = direct(&mut snapshot, "file_shared");
    let zone = snapshot.zones[0].clone();
    let device = "Device".to_owned();
    snapshot.zones.push(Zone { name: device, present: 0, ..zone });
    with(&snapshot, |machine, id| {
        let mapping = machine.mapping_at(id, shared).unwrap();
        assert_eq!(mapping.kind, MappingKind::FsDax);
        let at = machine.translate(id, shared, Access::READ).unwrap();
        assert_eq!((at.raw() / PAGE, machine.folio_at(id, shared)), (BEYOND, None));
    });
    let asked = |write| Verdict {
        asker: "vfio".into(),
        write,
        whole: true,
        start: shared,
        pages: 8,
        errno: 95,
    };
    let found =
        compare(&Snapshot { verdicts: vec![asked(false), asked(true)], ..snapshot.clone() });
    assert_eq!(found.unwrap().agreed, 2, "refused as fsdax memory");
    // The tables must say the same.
    let mut other = snapshot.clone();
    *entry(&mut other, shared) ^= 1 << 30;
    let error = refused(&other).to_string();
    assert!(error.contains("another frame"), "{error}");
    // Ordinary memory is not a disk's.
    let mut inside = real();
    let (start, _) = region(&inside, "file_shared");
    let map = inside.mappings.iter_mut().find(|map| map.start == start).unwrap();
    map.flags.push("dax".into());
    let error = refused(&inside).to_string();
    assert!(error.contains("inside a zone"), "{error}");
    // Nobody else has memory out there.
    let mut more = snapshot;
    more.memory.last_mut().unwrap().frames += 1;
    let error = refused(&more).to_string();
    assert!(error.contains("in no zone"), "{error}");
}

/// Linux pins the process's own copies of such pages by its fast way, if they need not move, and
/// refuses them by its slow way.
#[test]
fn own_copies_of_pages_on_persistent_memory_are_pinned() {
    let mut snapshot = real();
    let start = direct(&mut snapshot, "file_private_written");
    let asked = |asker: &str, whole, from, pages, errno| Verdict {
        asker: asker.into(),
        write: true,
        whole,
        start: start + from * PAGE,
        pages,
        errno,
    };
    let explained = |verdict| {
        let found = compare(&Snapshot { verdicts: vec![verdict], ..snapshot.clone() }).unwrap();
        let reasons: Vec<_> = found.excepted.iter().map(|(known, _)| known.reason).collect();
        found.disagreements.is_empty().then(|| reasons.concat())
    };
    let copies = explained(asked("vfio", false, 0, 3, 95)).unwrap();
    assert!(copies.contains("own copies"), "{copies}");
    let short = explained(asked("io_uring", true, 0, 8, 14)).unwrap();
    assert!(short.contains("only the first of its pages"), "{short}");
    for agrees in [
        asked("io_uring", false, 0, 3, 0),
        asked("vfio", true, 0, 8, 95),
        asked("vfio", false, 3, 5, 95),
    ] {
        assert_eq!(explained(agrees), Some(String::new()));
    }
    for wrong in [
        asked("vfio", false, 0, 3, 14),
        asked("vfio", true, 0, 8, 14),
        asked("vfio", true, 0, 8, 0),
        asked("io_uring", true, 3, 5, 14),
        asked("io_uring", false, 3, 5, 14),
        asked("vfio", false, 3, 5, 0),
    ] {
        assert_eq!(explained(wrong.clone()), None, "{wrong:?}");
    }
}

#[test]
fn five_levels_reach_further() {
    let mut snapshot = real();
    // The old root is the first entry of a new one, in a frame of the kernel's.
    let tables: Vec<u64> = snapshot.tables.iter().map(|table| table.addr / PAGE).collect();
    let free = |run: &&FrameRun| run.class == FrameClass::Kernel && run.frames > 64;
    let run = snapshot.memory.iter().find(free).unwrap();
    let mut kernel = run.start_pfn..run.start_pfn + run.frames;
    let addr = kernel.find(|pfn| !tables.contains(pfn)).unwrap() * PAGE;
    let mut entries = vec![0; 512];
    entries[0] = root(&snapshot).0 | 0x67;
    snapshot.tables.push(TablePage { addr, entries });
    snapshot.tables.sort_by_key(|table| table.addr);
    if let Mmu::X86_64 { cr3, levels, .. } = &mut snapshot.mmu {
        (*cr3, *levels) = (addr, 5);
    }
    // A page of the process above what four levels reach.
    let high = 1 << 50;
    let (start, _) = region(&snapshot, "locked");
    let map = snapshot.mappings.iter().find(|map| map.start == start).unwrap().clone();
    snapshot.mappings.push(Mapping { start: high, end: high + 4 * PAGE, ..map });
    snapshot.mappings.sort_by_key(|map| map.start);
    with(&snapshot, |machine, id| {
        let before = machine.translate(id, start, Access::READ).unwrap();
        let said = real().pages.into_iter().find(|run| run.va == start).unwrap();
        assert_eq!(Some(before.raw() / PAGE), said.frame());
        machine.touch(id, high, 4, Access::WRITE).unwrap();
        assert!(machine.translate(id, high + PAGE, Access::WRITE).is_some());
    });
}
