//! The tables of IOMMUs that are tables of CPUs too: an SMMU's are those of `aarch64-paging`, and VT-d's
//! second stage has those of the `x86_64` crate, bit for bit, where that sets no more than PRESENT, WRITABLE
//! and HUGE_PAGE.

#![expect(unsafe_code, reason = "the oracle's mapper takes its root by raw pointer")]

use ::x86_64::structures::paging::mapper::{MappedFrame, MappedPageTable, TranslateResult};
use ::x86_64::structures::paging::{
    Mapper, Page, PageSize, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB, Translate,
};
use aarch64_paging::paging::{El1And0, RootTable, Stage2, TranslationRegime, VaRange};
use pinfold::iopt::{IoPageTable, IoRun, UnmappedRun};
use pinfold::{Access, Granule, IovaRange, PageShift, PhysAddr};
use pinfold_arch::{IoFlags, IoFormat, Iova, Smmu, Vtd};
use proptest::prelude::*;

use crate::aarch64::{Mapping, lookup, mappings, stage1_flags, stage2_flags, theirs};
use crate::pool::{Pool, Tables};

/// Where an address leads: the byte in memory, the size of the leaf, what it grants, and what it is.
type Found = Option<(u64, PageShift, Access, IoFlags)>;

fn found<F: IoFormat>(table: &IoPageTable<F>, pool: &Pool, probes: &[u64]) -> Vec<Found> {
    let look = |at: &u64| table.translate(pool, Iova::new(*at)).unwrap();
    let found = probes.iter().map(look);
    found.map(|it| it.map(|it| (it.addr.raw(), it.shift, it.access, it.flags))).collect()
}

/// Maps it, as a device's registers where `marks` say that there is such a thing.
fn map<F: IoFormat>(table: &IoPageTable<F>, pool: &Pool, mapping: &Mapping, marks: IoFlags) {
    let run = IoRun { addr: PhysAddr::new(mapping.frame), bytes: mapping.bytes() };
    let flags = if mapping.attributes & 2 == 0 { IoFlags::empty() } else { marks };
    table.map(pool, Iova::new(mapping.start), [run], access(mapping), flags).unwrap();
}

fn access(mapping: &Mapping) -> Access {
    if mapping.attributes & 1 == 0 { Access::READ } else { Access::all() }
}

/// Those that come first where several want the same addresses, of those whose memory there can be.
fn apart(mappings: Vec<Mapping>) -> Vec<Mapping> {
    let end = |it: &Mapping| it.start + it.bytes();
    mappings.into_iter().fold(Vec::new(), |mut all, new| {
        let free = all.iter().all(|old| end(old) <= new.start || end(&new) <= old.start);
        if free && new.frame + new.bytes() <= 1 << 48 {
            all.push(new);
        }
        all
    })
}

/// The edges of all that is mapped, and any addresses beside them.
fn probes(mappings: &[Mapping], others: &[u64]) -> Vec<u64> {
    mappings.iter().flat_map(Mapping::edges).chain(others.iter().copied()).collect()
}

fn others() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..1_u64 << 38, 0..8)
}

fn vtd() -> Vtd {
    Vtd::new(4, 52).unwrap()
}

fn mapper<'p>(pool: &'p Pool, top: PhysAddr) -> MappedPageTable<'p, &'p Pool> {
    // SAFETY: a table of the pool, which no other mapper has.
    let root = unsafe { pool.root(top).as_mut() };
    // SAFETY: all tables that there are, and that will be, are the pool's.
    unsafe { MappedPageTable::new(root, pool) }
}

fn map_leaf<S>(mapper: &mut MappedPageTable<'_, &Pool>, mut pool: &Pool, to: (u64, u64, Access))
where
    S: PageSize + core::fmt::Debug,
    for<'m, 'p> MappedPageTable<'m, &'p Pool>: Mapper<S>,
{
    let (at, frame, access) = to;
    let page = Page::<S>::containing_address(::x86_64::VirtAddr::new(at));
    let frame = PhysFrame::containing_address(::x86_64::PhysAddr::new(frame));
    let all = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    let flags = if access == Access::all() { all } else { PageTableFlags::PRESENT };
    // SAFETY: no CPU uses these tables, so no mapping in them can alias anything.
    let done = unsafe { mapper.map_to_with_table_flags(page, frame, flags, all, &mut pool) };
    done.unwrap().ignore();
}

/// Has the oracle map all of it, each piece by the largest leaf that fits.
fn map_theirs(mapper: &mut MappedPageTable<'_, &Pool>, pool: &Pool, mapping: &Mapping) {
    let (mut at, mut frame) = (mapping.start, mapping.frame);
    let end = at + mapping.bytes();
    while at != end {
        let fits =
            |shift: &PageShift| (at | frame) & shift.mask() == 0 && end - at >= shift.bytes();
        let sizes = [PageShift::SIZE_1G, PageShift::SIZE_2M, PageShift::SIZE_4K];
        let shift = sizes.into_iter().find(fits).unwrap();
        let to = (at, frame, access(mapping));
        match shift {
            PageShift::SIZE_1G => map_leaf::<Size1GiB>(mapper, pool, to),
            PageShift::SIZE_2M => map_leaf::<Size2MiB>(mapper, pool, to),
            _ => map_leaf::<Size4KiB>(mapper, pool, to),
        }
        (at, frame) = (at + shift.bytes(), frame + shift.bytes());
    }
}

fn found_by_mapper(mapper: &MappedPageTable<'_, &Pool>, probes: &[u64]) -> Vec<Found> {
    let look = |at: &u64| match mapper.translate(::x86_64::VirtAddr::new(*at)) {
        TranslateResult::Mapped { frame, offset, flags } => {
            let shift = match frame {
                MappedFrame::Size4KiB(_) => PageShift::SIZE_4K,
                MappedFrame::Size2MiB(_) => PageShift::SIZE_2M,
                MappedFrame::Size1GiB(_) => PageShift::SIZE_1G,
            };
            let write = flags.contains(PageTableFlags::WRITABLE);
            let access = if write { Access::all() } else { Access::READ };
            Some((frame.start_address().as_u64() + offset, shift, access, IoFlags::empty()))
        }
        TranslateResult::NotMapped => None,
        TranslateResult::InvalidFrameAddress(addr) => panic!("{addr:?}"),
    };
    probes.iter().map(look).collect()
}

/// The address of the next table in an entry, and what is not that address.
fn link(raw: u64) -> (PhysAddr, u64) {
    let address = raw & 0x000f_ffff_ffff_f000;
    (PhysAddr::new(address), raw ^ address)
}

/// Both trees have the same entries, but that their tables are elsewhere.
fn same(
    ours: (&Pool, PhysAddr),
    theirs: (&Pool, PhysAddr),
    level: u8,
) -> Result<(), TestCaseError> {
    for index in 0..512 {
        let (a, b) = (ours.0.load(ours.1, index), theirs.0.load(theirs.1, index));
        if level == 1 || a & 0x80 != 0 || a & 1 == 0 {
            prop_assert_eq!(a, b, "entry {} of a table of level {}", index, level);
            continue;
        }
        let ((a, a_flags), (b, b_flags)) = (link(a), link(b));
        prop_assert_eq!(a_flags, b_flags);
        same((ours.0, a), (theirs.0, b), level - 1)?;
    }
    Ok(())
}

/// Takes it out again.
fn unmap<F: IoFormat>(table: &IoPageTable<F>, pool: &Pool, mapping: &Mapping) {
    let range = IovaRange::new(Iova::new(mapping.start), mapping.bytes()).unwrap();
    let mut unmap = table.unmap(pool, range).unwrap();
    let mut runs = heapless::Vec::<UnmappedRun, 8>::new();
    while let Some(unmapped) = unmap.step(pool, &mut runs).unwrap() {
        unmapped.flushed(pool);
    }
}

/// What both say of the tables that the oracle builds for an SMMU.
fn smmu_reads<R: TranslationRegime>(
    format: Smmu,
    make: for<'p> fn(Tables<'p>) -> RootTable<R, Tables<'p>>,
    flags: fn(usize) -> R::Attributes,
    said: fn(usize) -> (Access, IoFlags),
    mappings: &[Mapping],
) -> Result<(), TestCaseError> {
    let pool = Pool::new();
    let mut oracle = make(Tables { pool: &pool, root: None });
    let top = PhysAddr::new(oracle.to_physical().0 as u64);
    let (probes, want) = theirs(&mut oracle, 0, flags, mappings);
    drop(oracle);
    pool.hand_over();
    let table = IoPageTable::open(format, &pool, top).unwrap();
    let got = found(&table, &pool, &probes);
    for (at, (ours, theirs)) in probes.iter().zip(got.into_iter().zip(want)) {
        let theirs = theirs.map(|(first, shift, bits)| {
            let (access, flags) = said(bits);
            (first | at & shift.mask(), shift, access, flags)
        });
        // What grants nothing is nothing.
        let theirs = theirs.filter(|(.., access, _)| !access.is_empty());
        prop_assert_eq!(ours, theirs, "{:#x}", at);
    }
    Ok(())
}

/// What both say of the tables that are built here for an SMMU.
fn smmu_is_read<R: TranslationRegime>(
    format: Smmu,
    make: for<'p> fn(Tables<'p>) -> RootTable<R, Tables<'p>>,
    said: fn(usize) -> (Access, IoFlags),
    mappings: &[Mapping],
    probes: &[u64],
) -> Result<(), TestCaseError> {
    let pool = Pool::new();
    let table = IoPageTable::new(format, &pool).unwrap();
    for mapping in mappings {
        map(&table, &pool, mapping, IoFlags::DEVICE);
    }
    for mapping in mappings.iter().step_by(2) {
        unmap(&table, &pool, mapping);
    }
    let got = found(&table, &pool, probes);
    pool.hand_over();
    let oracle = make(Tables { pool: &pool, root: Some(table.root().base) });
    for (&at, ours) in probes.iter().zip(got) {
        let theirs = lookup(&oracle, at).map(|(first, shift, bits)| {
            // A group of entries with the contiguous hint is a leaf here and sixteen there.
            let more = if bits >> 52 & 1 == 0 { 0 } else { 4 };
            let whole = PageShift::new(shift.raw() + more).unwrap();
            let (access, flags) = said(bits);
            (first | at & shift.mask(), whole, access, flags)
        });
        prop_assert_eq!(ours, theirs, "{:#x}", at);
    }
    Ok(())
}

/// What a leaf's bits grant a device, by DDI 0487: AP, the access flag, and the index of an attribute.
fn stage1_said(bits: usize) -> (Access, IoFlags) {
    let granted = bits >> 6 & 1 != 0 && bits >> 10 & 1 != 0;
    let access = match (granted, bits >> 7 & 1) {
        (false, _) => Access::empty(),
        (true, 0) => Access::all(),
        (true, _) => Access::READ,
    };
    (access, if bits >> 2 & 7 == 2 { IoFlags::DEVICE } else { IoFlags::empty() })
}

/// The same in stage 2: S2AP and MemAttr.
fn stage2_said(bits: usize) -> (Access, IoFlags) {
    let mut access = Access::empty();
    if bits >> 10 & 1 != 0 {
        access.set(Access::READ, bits >> 6 & 1 != 0);
        access.set(Access::WRITE, bits >> 7 & 1 != 0);
    }
    (access, if bits >> 2 & 0xf == 1 { IoFlags::DEVICE } else { IoFlags::empty() })
}

fn stage1() -> Smmu {
    Smmu::stage1(Granule::Size4K, 48, 48).unwrap()
}

fn stage2() -> Smmu {
    Smmu::stage2(Granule::Size4K, 39, 48).unwrap()
}

fn make_stage1(tables: Tables<'_>) -> RootTable<El1And0, Tables<'_>> {
    RootTable::with_va_range(tables, 0, El1And0, VaRange::Lower)
}

fn make_stage2(tables: Tables<'_>) -> RootTable<Stage2, Tables<'_>> {
    RootTable::new(tables, 1, Stage2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tables_of_the_oracle_are_read_for_devices(all in mappings()) {
        smmu_reads(stage1(), make_stage1, stage1_flags, stage1_said, &all)?;
        smmu_reads(stage2(), make_stage2, stage2_flags, stage2_said, &all)?;
    }

    #[test]
    fn tables_for_devices_are_read_by_the_oracle(all in mappings(), others in others()) {
        let probes = probes(&all, &others);
        let all = apart(all);
        smmu_is_read(stage1(), make_stage1, stage1_said, &all, &probes)?;
        smmu_is_read(stage2(), make_stage2, stage2_said, &all, &probes)?;
    }

    /// What both build is the same; each reads the other's, and finds no more what is unmapped here.
    #[test]
    fn tables_of_the_mapper_are_those_of_vtd(all in mappings(), others in others()) {
        let (a, b) = (Pool::new(), Pool::new());
        let probes = probes(&all, &others);
        let ours = IoPageTable::new(vtd(), &a).unwrap();
        let top = b.take(1);
        let mut theirs = mapper(&b, top);
        let all = apart(all);
        for mapping in &all {
            map(&ours, &a, mapping, IoFlags::empty());
            map_theirs(&mut theirs, &b, mapping);
        }
        let want = found_by_mapper(&theirs, &probes);
        b.hand_over();
        same((&a, ours.root().base), (&b, top), 4)?;
        let opened = IoPageTable::open(vtd(), &b, top).unwrap();
        prop_assert_eq!(opened.tables(), ours.tables());
        prop_assert_eq!(found(&ours, &a, &probes), &want[..]);
        prop_assert_eq!(found(&opened, &b, &probes), &want[..]);

        a.hand_over();
        prop_assert_eq!(found_by_mapper(&mapper(&a, ours.root().base), &probes), &want[..]);
        for mapping in all.iter().step_by(2) {
            unmap(&opened, &b, mapping);
        }
        let left = found(&opened, &b, &probes);
        let gone = |at: u64| all.iter().step_by(2).any(|it| at.wrapping_sub(it.start) < it.bytes());
        for (&at, (left, before)) in probes.iter().zip(left.iter().zip(&want)) {
            prop_assert_eq!(left.is_some(), before.is_some() && !gone(at), "{:#x}", at);
        }
        b.hand_over();
        prop_assert_eq!(found_by_mapper(&mapper(&b, top), &probes), left);
    }
}
