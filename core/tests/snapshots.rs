//! Page tables of real kernels, compared page by page with what those kernels said themselves, and
//! their answers to long-term pins compared with pinfold's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pinfold::host::{PhysMem, SpaceId, TableView};
use pinfold::sync::{Ordering, Word};
use pinfold::walk::{Extent, RangeWalk, Translation, translate};
use pinfold::{
    Access, AddrRange, AddressSpace, AnyFormat, PageCount, PageFormat, PageShift, PhysAddr, Rights,
    Table, VirtAddr,
};
use pinfold_arch::{Entry, Leaf};
use pinfold_sim::snapshot::{Mapping, PageRun, Region, Snapshot, SnapshotArch, TablePage, Verdict};
use pinfold_sim::{TableFormat, verdict};

/// The capture with the fewest pages.
const SMALLEST: &[u8] = include_bytes!("snapshots/powerpc64le-6.1.snap");

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

struct Tables(BTreeMap<u64, Vec<Word>>);

impl PhysMem for Tables {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        Some(TableView::from_words(self.0.get(&base.raw())?.get(..entries)?))
    }
}

struct Captured {
    snapshot: Snapshot,
    memory: Tables,
    space: AddressSpace<AnyFormat>,
}

fn load(bytes: &[u8]) -> Captured {
    let snapshot = Snapshot::parse(bytes).unwrap();
    let (format, root) = snapshot.format().unwrap();
    // A value whose bytes stand in this host's memory as they stood in that machine's.
    let word = |raw: &u64| Word::new(if format.big_endian() { raw.to_be() } else { raw.to_le() });
    let words = |table: &TablePage| (table.addr, table.entries.iter().map(word).collect());
    let memory = Tables(snapshot.tables.iter().map(words).collect());
    Captured { snapshot, memory, space: AddressSpace::new(SpaceId(0), format, root) }
}

/// The mapping that holds an address, and every page of it with what the kernel said.
fn mapping_at(snapshot: &Snapshot, va: u64) -> &Mapping {
    let found = snapshot.mappings.iter().find(|map| map.start <= va && va < map.end);
    found.unwrap_or_else(|| panic!("the kernel listed no mapping at {va:#x}"))
}

/// What is known of the kernels of an architecture, and of their captures.
struct Known {
    /// A page without access stays in the tables, for the kernel alone. Elsewhere its entry says
    /// nothing to the CPU.
    keeps_hidden: bool,
    /// More pages and verdicts than these, for the comparison to be worth something.
    pages: u64,
    verdicts: usize,
}

impl Known {
    fn of(arch: SnapshotArch) -> Self {
        match arch {
            SnapshotArch::X86_64 => Self { keeps_hidden: false, pages: 20_000, verdicts: 200 },
            SnapshotArch::Aarch64 => Self { keeps_hidden: false, pages: 1000, verdicts: 80 },
            SnapshotArch::S390x => Self { keeps_hidden: false, pages: 20_000, verdicts: 80 },
            SnapshotArch::PowerRadix => Self { keeps_hidden: true, pages: 1000, verdicts: 80 },
            other => panic!("nothing is known of {other:?}"),
        }
    }
}

/// What was compared: pages, pages of device registers, and pages by the size of their leaf.
#[derive(Default, Debug)]
struct Compared {
    pages: u64,
    devices: u64,
    sizes: BTreeMap<u8, u64>,
}

/// Holds the walk against the kernel's words for every page that begins in `range`; the first
/// difference.
fn compare(captured: &Captured, range: Range<u64>) -> Result<Compared, String> {
    let Captured { snapshot, memory, space } = captured;
    let base = space.format().base().raw();
    let keeps_hidden = Known::of(snapshot.mmu.arch()).keeps_hidden;
    let mut compared = Compared::default();
    for run in &snapshot.pages {
        let end = run.va + (run.count << base);
        if end <= range.start || range.end <= run.va {
            continue;
        }
        let mapping = mapping_at(snapshot, run.va);
        let skipped = range.start.saturating_sub(run.va) >> base;
        for i in skipped..run.count.min((range.end - run.va).div_ceil(1 << base)) {
            let va = run.va + (i << base);
            let about = |what: String| format!("{va:#x} in {}: {what}", mapping.name);
            let found = translate(space, memory, VirtAddr::new(va));
            let found = found.map_err(|error| about(error.to_string()))?;
            let said = run.frame().map(|frame| frame + i);
            if mapping.flags.iter().any(|flag| flag == "io" || flag == "pf") {
                // The kernel names no page for device registers, touched or not.
                assert_eq!(said, None, "{va:#x} {}", mapping.name);
                compared.devices += u64::from(found.is_some());
                continue;
            }
            let hidden = !mapping.readable && !mapping.writable && !mapping.executable;
            let expected = said.filter(|_| !hidden || keeps_hidden);
            let frame = found.map(|found| found.addr.raw() >> base);
            if frame != expected {
                return Err(about(format!("frame {frame:x?}, the kernel says {expected:x?}")));
            }
            if let Some(found) = found {
                check_leaf(&space.format(), &found, run, mapping).map_err(about)?;
                *compared.sizes.entry(found.shift.raw()).or_default() += 1;
            }
            compared.pages += 1;
        }
    }
    Ok(compared)
}

/// Rights and size against the mapping's rights and the page's flags.
fn check_leaf(
    format: &AnyFormat,
    found: &Translation,
    run: &PageRun,
    mapping: &Mapping,
) -> Result<(), String> {
    let Translation { rights, shift, .. } = *found;
    let check =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {found:?}")) };
    let [read, write] = [Access::READ, Access::WRITE].map(|access| rights.allow(access));
    let execute = rights.contains(Rights::EXECUTE | Rights::USER);
    let any = mapping.readable || mapping.writable || mapping.executable;
    check(read || !mapping.readable, "it cannot be read")?;
    check(!read || any, "it can be read")?;
    check(!write || mapping.writable, "it can be written")?;
    check(!write || run.kpageflags & KPF_ZERO_PAGE == 0, "the zero page is writable")?;
    check(execute || !mapping.executable, "it cannot be executed")?;
    check(!execute || mapping.executable || !can_forbid(format), "it can be executed")?;
    let huge = run.kpageflags & (KPF_HUGE | KPF_THP | KPF_ZERO_PAGE) != 0;
    check(huge || shift == format.base(), "a large leaf, but the kernel names no huge page")?;
    if run.kpageflags & KPF_HUGE != 0 {
        let size = PageShift::new(10 + u8::try_from(mapping.page_size_kib.ilog2()).unwrap());
        check(Some(shift) == size.map(|size| format.unit(size)), "a hugetlb page in other leaves")?;
    }
    Ok(())
}

/// Whether the tables can keep code from being run.
fn can_forbid(format: &AnyFormat) -> bool {
    let last = format.way().last().unwrap();
    let leaf = Leaf::new(PhysAddr::new(0), format.base(), Rights::READ | Rights::USER);
    format.closest(&last, &leaf).is_some_and(|leaf| !leaf.rights.contains(Rights::EXECUTE))
}

/// The walk in one pass over each mapping finds what the page-by-page walk found.
fn one_pass(captured: &Captured) {
    let Captured { snapshot, memory, space } = captured;
    let (format, root) = (space.format(), space.root());
    let base = format.base();
    for mapping in &snapshot.mappings {
        let pages = PageCount::new((mapping.end - mapping.start) >> base.raw());
        let range = AddrRange::new(VirtAddr::new(mapping.start), pages, base).unwrap();
        if !format.valid(&range) || range.last().raw() >> 63 != 0 {
            continue; // the kernel half (vsyscall) is not in the snapshot
        }
        let mut walk = RangeWalk::new(format, root, memory, range).unwrap();
        let mut next = mapping.start;
        while let Some(extent) = walk.next_extent().unwrap() {
            let (va, first, pages) = match extent {
                Extent::Hole { va, pages } => (va, None, pages.raw()),
                Extent::Leaf(run) => (run.va, Some(run.pfn.raw()), run.pages.raw()),
            };
            assert_eq!(va.raw(), next, "{}", mapping.name);
            for i in 0..pages {
                let at = VirtAddr::new(next + (i << base.raw()));
                let found = translate(space, memory, at).unwrap();
                let frame = found.map(|found| found.addr.raw() >> base.raw());
                assert_eq!(frame, first.map(|first| first + i), "{at}");
            }
            next += pages << base.raw();
        }
        assert_eq!(next, mapping.end, "{}", mapping.name);
    }
}

#[test]
fn every_captured_kernel_agrees_on_every_page() {
    for (name, bytes) in committed() {
        let captured = load(&bytes);
        let found = compare(&captured, 0..u64::MAX).unwrap_or_else(|why| panic!("{name}: {why}"));
        one_pass(&captured);
        let snapshot = &captured.snapshot;
        assert!(found.pages > Known::of(snapshot.mmu.arch()).pages, "{name}: {found:?}");
        let named = |region: &Region| region.name == "device";
        assert!(found.devices > 0 || !snapshot.regions.iter().any(named), "{name}: {found:?}");
        // Whatever sizes of pages the kernel names, the leaves have.
        let huge = snapshot.pages.iter().any(|run| run.kpageflags & (KPF_HUGE | KPF_THP) != 0);
        assert!(!huge || found.sizes.len() > 1, "{name}: {found:?}");
    }
}

/// Long-term pins: pinfold answers as the kernel did when it was asked for real ones, but for
/// what is listed as an exception.
#[test]
fn every_captured_kernel_agrees_on_every_verdict() {
    for (name, bytes) in committed() {
        let snapshot = Snapshot::parse(&bytes).unwrap();
        let (asked, least) = (snapshot.verdicts.len(), Known::of(snapshot.mmu.arch()).verdicts);
        assert!(asked > least, "{name}: {asked} verdicts");
        let found = verdict::compare(&snapshot).unwrap();
        let wrong: Vec<String> = found.disagreements.iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        assert_eq!(found.agreed + found.exceptions(), snapshot.verdicts.len() as u64, "{name}");
    }
}

/// That comparison can fail: the other answer is noticed wherever the two agreed. One capture will
/// do: what compares knows no architecture.
#[test]
fn a_flipped_verdict_is_noticed() {
    let mut snapshot = Snapshot::parse(SMALLEST).unwrap();
    let excepted = verdict::compare(&snapshot).unwrap().excepted;
    snapshot.verdicts.retain(|one| excepted.iter().all(|(_, known)| !known.contains(one)));
    assert!(snapshot.verdicts.len() > 50);
    for verdict in &mut snapshot.verdicts {
        verdict.errno = if verdict.errno == 0 { Verdict::UNTOLD } else { 0 };
    }
    let found = verdict::compare(&snapshot).unwrap().disagreements;
    let noticed: Vec<&Verdict> = found.iter().map(|one| &one.verdict).collect();
    assert_eq!(noticed, snapshot.verdicts.iter().collect::<Vec<_>>());
}

/// The comparison can fail: a flipped bit of the address in any used entry of any table is noticed.
#[test]
fn a_flipped_address_bit_is_noticed() {
    for (name, bytes) in committed() {
        let mut captured = load(&bytes);
        let (mut tried, mut tables) = (0u64, 0);
        for (table, start) in reached(&captured) {
            let before = tried;
            for index in table.first..=table.last {
                let va = start + (u64::from(index) << table.shift.raw());
                tried += u64::from(flip(&mut captured, &table, index, va, &name));
            }
            tables += u64::from(tried > before);
        }
        // Some tables have nothing but registers of devices, or what is swapped out.
        assert!(tables + 4 >= captured.snapshot.tables.len() as u64, "{name}: {tables} tables");
        assert!(tried > 500, "{name}: {tried} entries");
    }
}

/// Every table, with the first address that it is for.
fn reached(captured: &Captured) -> Vec<(Table, u64)> {
    let format = captured.space.format();
    let mut found = vec![(captured.space.root(), 0)];
    let mut at = 0;
    while let Some((table, start)) = found.get(at).copied() {
        for index in table.first..=table.last {
            if let Entry::Table(next, _) = format.decode(&table, raw(captured, &table, index)) {
                found.push((next, start + (u64::from(index) << table.shift.raw())));
            }
        }
        at += 1;
    }
    found
}

fn word<'a>(captured: &'a Captured, table: &Table, index: u16) -> &'a Word {
    &captured.memory.0[&table.base.raw()][usize::from(index)]
}

fn raw(captured: &Captured, table: &Table, index: u16) -> u64 {
    let value = word(captured, table, index).load(Ordering::Relaxed);
    if captured.space.format().big_endian() { u64::from_be(value) } else { u64::from_le(value) }
}

/// Changes one entry and looks whether anybody notices, if it leads to anything that is compared.
fn flip(captured: &mut Captured, table: &Table, index: u16, va: u64, name: &str) -> bool {
    let format = captured.space.format();
    let bit = match format.decode(table, raw(captured, table, index)) {
        Entry::Absent | Entry::Malformed => return false,
        Entry::Table(..) => 1 << 30,
        // The lowest of the address.
        Entry::Leaf(_) => 1 << format.address_bits(table).trailing_zeros().max(30),
    };
    let range = va..va + table.shift.bytes();
    if compare(captured, range.clone()).unwrap().pages == 0 {
        return false;
    }
    let bit: u64 = if format.big_endian() { u64::to_be(bit) } else { u64::to_le(bit) };
    word(captured, table, index).fetch_xor(bit, Ordering::Relaxed);
    let noticed = compare(captured, range).is_err();
    word(captured, table, index).fetch_xor(bit, Ordering::Relaxed);
    assert!(noticed, "{name}: entry {index} of the table at {}", table.base);
    true
}
