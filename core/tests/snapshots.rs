//! Page tables of real kernels, compared page by page with what those kernels said themselves, and
//! their answers to long-term pins compared with pinfold's.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use pinfold::host::{PhysMem, SpaceId, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk, Translation, translate};
use pinfold::{
    AddrRange, AddressSpace, AnyFormat, PageCount, PageFormat, PageShift, PhysAddr, Rights, Table,
    VirtAddr,
};
use pinfold_arch::Entry;
use pinfold_sim::snapshot::{Mapping, PageRun, Snapshot, SnapshotArch, Verdict};
use pinfold_sim::verdict;

/// Every committed capture, with its name.
fn committed() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let snapshots = files.filter(|path| path.extension().is_some_and(|ending| ending == "snap"));
    let named = |path: PathBuf| (path.display().to_string(), std::fs::read(&path).unwrap());
    let mut all: Vec<_> = snapshots.map(named).collect();
    all.sort();
    assert!(all.len() >= 2, "{all:?}");
    all
}

/// kpageflags: a huge page of the pool, a transparent one, a shared zero page.
const KPF_HUGE: u64 = 1 << 17;
const KPF_THP: u64 = 1 << 22;
const KPF_ZERO_PAGE: u64 = 1 << 24;

/// What a capture must have for the comparison to be worth something.
struct Wanted {
    /// Leaves of each size at least, in base pages.
    leaves: &'static [(u8, u64)],
    /// Whether registers of a device are mapped.
    devices: bool,
    verdicts: usize,
}

impl Wanted {
    fn of(arch: SnapshotArch) -> Self {
        match arch {
            // No huge pages under QEMU's emulator, which lacks enhanced DAT, and no such device.
            SnapshotArch::S390x => Self { leaves: &[(12, 3000)], devices: false, verdicts: 80 },
            _ => Self { leaves: &[(12, 1000), (21, 10 * 512)], devices: true, verdicts: 200 },
        }
    }
}

struct Tables(BTreeMap<u64, Vec<Word>>);

impl PhysMem for Tables {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        Some(TableView::from_words(self.0.get(&base.raw())?.get(..entries)?))
    }
}

struct Captured {
    snapshot: Snapshot,
    memory: Tables,
    format: AnyFormat,
    root: Table,
}

fn load(snapshot: Snapshot) -> Captured {
    let (format, root) = snapshot.format().unwrap();
    let in_memory =
        |raw: &u64| Word::new(if format.big_endian() { raw.to_be() } else { raw.to_le() });
    let tables = snapshot.tables.iter();
    let memory = tables.map(|table| (table.addr, table.entries.iter().map(in_memory).collect()));
    let memory = Tables(memory.collect());
    Captured { snapshot, memory, format, root }
}

/// The mapping that holds an address, and every page of it with what the kernel said.
fn mapping_at(snapshot: &Snapshot, va: u64) -> &Mapping {
    let found = snapshot.mappings.iter().find(|map| map.start <= va && va < map.end);
    found.unwrap_or_else(|| panic!("the kernel listed no mapping at {va:#x}"))
}

/// What the walk should find at one page, by the kernel's own words; `None` for nothing.
fn expected(run: &PageRun, i: u64, mapping: &Mapping) -> Option<u64> {
    // PROT_NONE: the kernel has the page, but the CPU's entry is not present.
    if !mapping.readable && !mapping.writable && !mapping.executable {
        return None;
    }
    Some(run.frame()? + i)
}

/// How many pages of these addresses were compared, and in leaves of which size they are.
fn compare(captured: &Captured, within: &RangeInclusive<u64>) -> (u64, BTreeMap<u8, u64>) {
    let Captured { snapshot, memory, format, root } = captured;
    let space = AddressSpace::new(SpaceId(0), *format, *root);
    let (mut compared, mut devices) = (0, 0);
    let mut sizes = BTreeMap::new();
    for run in &snapshot.pages {
        let mapping = mapping_at(snapshot, run.va);
        for i in 0..run.count {
            let va = run.va + (i << snapshot.base_shift);
            if !within.contains(&va) {
                continue;
            }
            let found = translate(&space, memory, VirtAddr::new(va)).unwrap();
            let device = mapping.flags.iter().any(|flag| flag == "io" || flag == "pf");
            if device {
                // The kernel names no page for device registers, touched or not.
                assert_eq!(run.frame(), None, "{va:#x} {}", mapping.name);
                devices += u64::from(found.is_some());
                continue;
            }
            let frame = found.map(|found| found.addr.raw() >> snapshot.base_shift);
            assert_eq!(frame, expected(run, i, mapping), "{va:#x} in {}", mapping.name);
            if let Some(found) = found {
                check_leaf(&found, run, mapping, va, format.base());
                *sizes.entry(found.shift.raw()).or_default() += 1;
            }
            compared += 1;
        }
    }
    let wanted = Wanted::of(snapshot.mmu.arch()).devices && *within == ALL;
    assert!(devices > 0 || !wanted, "no page of device registers");
    (compared, sizes)
}

const ALL: RangeInclusive<u64> = 0..=u64::MAX;

/// Rights and size against the mapping's rights and the page's flags.
fn check_leaf(found: &Translation, run: &PageRun, mapping: &Mapping, va: u64, base: PageShift) {
    assert!(found.rights.contains(Rights::USER | Rights::READ), "{va:#x}");
    if found.rights.contains(Rights::WRITE) {
        assert!(mapping.writable, "{va:#x} may be written, {} may not", mapping.name);
        assert_eq!(run.kpageflags & KPF_ZERO_PAGE, 0, "the zero page at {va:#x} is writable");
    }
    assert_eq!(found.rights.contains(Rights::EXECUTE), mapping.executable, "{va:#x}");
    if found.shift > base {
        let huge = run.kpageflags & (KPF_HUGE | KPF_THP | KPF_ZERO_PAGE);
        assert_ne!(huge, 0, "{va:#x}: a large leaf, but the kernel names no huge page");
    }
    if run.kpageflags & KPF_HUGE != 0 {
        assert!(found.shift > base, "{va:#x}: a hugetlb page in small leaves");
    }
}

/// The walk in one pass over each mapping finds what the page-by-page walk found.
fn one_pass(captured: &Captured) {
    let Captured { snapshot, memory, format, root } = captured;
    let space = AddressSpace::new(SpaceId(0), *format, *root);
    let base = snapshot.base_shift;
    for mapping in &snapshot.mappings {
        let pages = PageCount::new((mapping.end - mapping.start) >> base);
        let range = AddrRange::new(VirtAddr::new(mapping.start), pages, format.base()).unwrap();
        if !format.valid(&range) || range.last().raw() >> 63 != 0 {
            continue; // the kernel half (vsyscall) is not in the snapshot
        }
        let mut walk = RangeWalk::new(*format, *root, memory, range).unwrap();
        let mut next = mapping.start;
        while let Some(extent) = walk.next_extent().unwrap() {
            let (va, first, pages) = match extent {
                Extent::Hole { va, pages } => (va, None, pages.raw()),
                Extent::Leaf(run) => (run.va, Some(run.pfn.raw()), run.pages.raw()),
            };
            assert_eq!(va.raw(), next, "{}", mapping.name);
            for i in 0..pages {
                let at = VirtAddr::new(next + (i << base));
                let found = translate(&space, memory, at).unwrap();
                let frame = found.map(|found| found.addr.raw() >> base);
                assert_eq!(frame, first.map(|first| first + i), "{at}");
            }
            next += pages << base;
        }
        assert_eq!(next, mapping.end, "{}", mapping.name);
    }
}

#[test]
fn every_captured_kernel_agrees_on_every_page() {
    for (name, bytes) in committed() {
        let captured = load(Snapshot::parse(&bytes).unwrap());
        let (compared, sizes) = compare(&captured, &ALL);
        one_pass(&captured);
        assert!(compared > 20_000, "{name}: only {compared} pages were compared");
        for (size, least) in Wanted::of(captured.snapshot.mmu.arch()).leaves {
            assert!(sizes.get(size).is_some_and(|pages| pages > least), "{name}: {sizes:?}");
        }
    }
}

/// Long-term pins: pinfold answers as the kernel did when it was asked for real ones, but for
/// what is listed as an exception.
#[test]
fn every_captured_kernel_agrees_on_every_verdict() {
    for (name, bytes) in committed() {
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let wanted = Wanted::of(snapshot.mmu.arch()).verdicts;
        assert!(snapshot.verdicts.len() > wanted, "{name}: {} verdicts", snapshot.verdicts.len());
        let found = verdict::compare(&snapshot).unwrap();
        let wrong: Vec<String> = found.disagreements.iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        assert_eq!(found.agreed + found.exceptions(), snapshot.verdicts.len() as u64, "{name}");
    }
}

/// That comparison can fail: the other answer is noticed wherever the two agreed.
#[test]
fn a_flipped_verdict_is_noticed() {
    for (name, bytes) in committed() {
        let mut snapshot = Snapshot::parse(&bytes).unwrap();
        let excepted = verdict::compare(&snapshot).unwrap().excepted;
        snapshot.verdicts.retain(|one| excepted.iter().all(|(_, known)| !known.contains(one)));
        for verdict in &mut snapshot.verdicts {
            verdict.errno = if verdict.errno == 0 { Verdict::UNTOLD } else { 0 };
        }
        let found = verdict::compare(&snapshot).unwrap().disagreements;
        let noticed: Vec<&Verdict> = found.iter().map(|one| &one.verdict).collect();
        assert_eq!(noticed, snapshot.verdicts.iter().collect::<Vec<_>>(), "{name}");
    }
}

/// The first used entry of every table, with what it translates: which table in the file, which
/// index, which addresses.
fn used(captured: &Captured) -> Vec<(usize, usize, RangeInclusive<u64>)> {
    let Captured { snapshot, format, root, .. } = captured;
    let mut open = vec![(*root, 0)];
    let mut used = Vec::new();
    while let Some((table, start)) = open.pop() {
        let at = snapshot.tables.iter().position(|one| one.addr == table.base.raw()).unwrap();
        let mut first = None;
        for (index, raw) in snapshot.tables[at].entries.iter().enumerate() {
            let va = start + ((index as u64) << table.shift.raw());
            match format.decode(&table, *raw) {
                Entry::Table(next, _) => open.push((next, va)),
                Entry::Leaf(_) => {}
                Entry::Absent | Entry::Malformed => continue,
            }
            first = first.or(Some((at, index, va..=va + table.shift.mask())));
        }
        used.extend(first);
    }
    used
}

/// The comparison can fail: a used entry of any table, changed, is noticed.
#[test]
fn a_flipped_address_bit_is_noticed() {
    for (name, bytes) in committed() {
        let clean = load(Snapshot::parse(&bytes).unwrap());
        let used = used(&clean);
        // All but a few, which have nothing but pages without access.
        let tables = clean.snapshot.tables.len();
        assert!(tables > 10 && used.len() + 4 > tables, "{name}: {} of {tables}", used.len());
        for (at, index, addresses) in used {
            compare(&clean, &addresses);
            let mut snapshot = clean.snapshot.clone();
            snapshot.tables[at].entries[index] ^= 1 << 30;
            let noticed = std::panic::catch_unwind(|| compare(&load(snapshot), &addresses));
            assert!(noticed.is_err(), "{name}: table {at}, entry {index}, {addresses:x?}");
        }
    }
}
