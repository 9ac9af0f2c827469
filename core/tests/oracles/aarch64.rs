//! Another implementation reads and writes the same tables: the `aarch64-paging` crate.
//!
//! Tables that it builds are walked here, tables that are built here are walked by it, and both must
//! find the same page, of the same size and with the same rights, behind every address. It has 4 KiB
//! pages and 48 bits; other granules are for entries worked out by hand.

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{
    Constraints, El1And0, MemoryRegion, RootTable, Stage2, TranslationRegime, VaRange,
};
use bitflags::Flags;
use pinfold::host::SpaceId;
use pinfold::space::AddressSpace;
use pinfold::walk::translate;
use pinfold::{Aarch64, Aarch64Stage2, Granule, PageFormat, PageShift, PhysAddr, Rights, VirtAddr};
use pinfold_arch::{Entry, Geometry, Leaf, LeafFlags, Table};
use proptest::prelude::*;

use crate::pool::{Pool, Tables};

const PAGE: u64 = 1 << 12;
/// A page of the oracle's: first byte, size, and its attributes.
pub(crate) type Found = Option<(u64, PageShift, usize)>;

/// Where `va` leads, as the oracle has it.
pub(crate) fn lookup<R: TranslationRegime>(tables: &RootTable<R, Tables<'_>>, va: u64) -> Found {
    let page = usize::try_from(va).unwrap() & !0xfff;
    let mut found = None;
    let visited =
        tables.walk_range(&MemoryRegion::new(page, page + 0x1000), &mut |_, descriptor, level| {
            let is_leaf = level == 3 || !descriptor.is_table_or_page();
            if descriptor.is_valid() && is_leaf {
                let shift = PageShift::new(12 + 9 * (3 - u8::try_from(level).unwrap())).unwrap();
                // It keeps a block's low bits as they are; they are zero.
                let first = descriptor.output_address().0 as u64;
                found = Some((first, shift, descriptor.flags().bits()));
            }
            Ok(())
        });
    visited.unwrap();
    found
}

/// What both find behind these addresses: ours, and the oracle's before it.
fn agree<F: PageFormat>(
    space: &AddressSpace<F>,
    pool: &Pool,
    oracle: &[Found],
    rights: fn(usize) -> Rights,
    probes: &[u64],
) -> Result<(), TestCaseError> {
    for (&va, theirs) in probes.iter().zip(oracle) {
        let ours = translate(space, pool, VirtAddr::new(va)).unwrap();
        let ours = ours.map(|found| (found.addr.raw(), found.shift, found.rights));
        let theirs =
            theirs.map(|(first, shift, flags)| (first | va & shift.mask(), shift, rights(flags)));
        prop_assert_eq!(ours, theirs, "{:#x}", va);
    }
    Ok(())
}

fn stage1_rights(flags: usize) -> Rights {
    let flags = El1Attributes::from_bits_retain(flags);
    let user = flags.contains(El1Attributes::USER);
    let never = if user { El1Attributes::UXN } else { El1Attributes::PXN };
    let mut rights = Rights::READ;
    rights.set(Rights::USER, user);
    rights.set(Rights::WRITE, !flags.contains(El1Attributes::READ_ONLY));
    rights.set(Rights::EXECUTE, !flags.contains(never));
    rights
}

fn stage2_rights(flags: usize) -> Rights {
    let flags = Stage2Attributes::from_bits_retain(flags);
    let read = flags.contains(Stage2Attributes::S2AP_ACCESS_RO);
    let mut rights = Rights::empty();
    rights.set(Rights::READ, read);
    rights.set(Rights::WRITE, flags.contains(Stage2Attributes::S2AP_ACCESS_WO));
    rights.set(Rights::EXECUTE, read && !flags.contains(Stage2Attributes::XN));
    rights.set(Rights::USER, !rights.is_empty());
    rights
}

/// A range to map: where in a window of the address space, how long, to where, and how.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    /// From the first address that is translated.
    pub(crate) start: u64,
    pages: u64,
    pub(crate) frame: u64,
    pub(crate) attributes: usize,
}

impl Mapping {
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE
    }

    /// Addresses at which something changes.
    pub(crate) fn edges(&self) -> [u64; 5] {
        let end = self.start + self.bytes();
        let middle = self.start + self.pages / 2 * PAGE;
        [self.start.saturating_sub(PAGE), self.start, middle, end - PAGE, end]
    }
}

/// Ranges of which some have the alignment of blocks, below `1 << 38`.
pub(crate) fn mappings() -> impl Strategy<Value = Vec<Mapping>> {
    let start = (0..3_u64, prop_oneof![Just(0_u64), 0..0x400_u64, Just(0x200)]);
    let pages = prop_oneof![1..20_u64, 500..530_u64, Just(1024), Just(0x4_0000), Just(0x4_0201)];
    let frame = (0..0x3_ffff_u64, prop_oneof![2 => Just(0), 1 => 0..0x4_0000_u64]);
    let mapping = (start, pages, frame, any::<usize>()).prop_map(
        |((window, page), pages, (gib, apart), attributes)| {
            let start = window * 0x1f_4000_0000 + page * PAGE;
            // The frame's low bits are those of the address, unless it is moved apart.
            let frame = ((gib << 30) + (start & 0x3fff_ffff) + apart * PAGE) & 0xffff_ffff_f000;
            Mapping { start, pages, frame, attributes }
        },
    );
    prop::collection::vec(mapping, 1..6)
}

/// All that these bits can say, and that the entry is there.
pub(crate) fn stage1_flags(any: usize) -> El1Attributes {
    let free = El1Attributes::ATTRIBUTE_INDEX_MASK
        | El1Attributes::SHAREABILITY_MASK
        | El1Attributes::USER
        | El1Attributes::READ_ONLY
        | El1Attributes::ACCESSED
        | El1Attributes::NON_GLOBAL
        | El1Attributes::PXN
        | El1Attributes::UXN
        | El1Attributes::SWFLAG_0;
    El1Attributes::from_bits_retain(any) & free | El1Attributes::VALID
}

pub(crate) fn stage2_flags(any: usize) -> Stage2Attributes {
    let free = Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
        | Stage2Attributes::MEMATTR_NORMAL_INNER_WB
        | Stage2Attributes::S2AP_ACCESS_RW
        | Stage2Attributes::SH_INNER
        | Stage2Attributes::ACCESS_FLAG
        | Stage2Attributes::XN;
    Stage2Attributes::from_bits_retain(any) & free | Stage2Attributes::VALID
}

/// Has the oracle map everything, and look where each address of `probes` leads.
pub(crate) fn theirs<R: TranslationRegime>(
    oracle: &mut RootTable<R, Tables<'_>>,
    first: u64,
    flags: fn(usize) -> R::Attributes,
    mappings: &[Mapping],
) -> (Vec<u64>, Vec<Found>) {
    let mut probes = Vec::new();
    for mapping in mappings {
        let start = usize::try_from(first + mapping.start).unwrap();
        let region = MemoryRegion::new(start, start + usize::try_from(mapping.bytes()).unwrap());
        let frame = PhysicalAddress(usize::try_from(mapping.frame).unwrap());
        let constraints = Constraints::from_bits_truncate(mapping.attributes >> 60);
        oracle.map_range(&region, frame, flags(mapping.attributes), constraints).unwrap();
        probes.extend(mapping.edges().map(|va| first + va));
    }
    let found = probes.iter().map(|&va| lookup(oracle, va)).collect();
    (probes, found)
}

/// Tables that are built here.
struct Built<'p, F> {
    format: F,
    root: Table,
    pool: &'p Pool,
}

impl<F: Geometry> Built<'_, F> {
    /// Maps a page, unless something stands in its way.
    fn map(&self, va: u64, leaf: Leaf) {
        let mut at = self.root;
        loop {
            let index = usize::from(at.index(VirtAddr::new(va)));
            let entry = match self.format.decode(&at, self.pool.load(at.base, index)) {
                Entry::Table(below, _) if leaf.shift < at.shift => {
                    at = below;
                    continue;
                }
                Entry::Absent if leaf.shift < at.shift => {
                    Entry::Table(self.format.below(&at, self.pool.take(1)).unwrap(), Rights::all())
                }
                Entry::Absent => Entry::Leaf(leaf),
                _ => return,
            };
            let raw = self.format.encode(&at, entry).unwrap();
            self.pool.store(at.base, index, raw);
            if let Entry::Leaf(_) = entry {
                return;
            }
        }
    }
}

/// Maps everything page by page, in the largest size up to 1 GiB that fits, then has the oracle look.
fn ours<F: Geometry>(
    built: &Built<'_, F>,
    first: u64,
    rights: fn(usize) -> Rights,
    mappings: &[Mapping],
) -> Vec<u64> {
    let mut probes = Vec::new();
    for mapping in mappings {
        let (mut va, mut frame) = (mapping.start, mapping.frame);
        let end = va + mapping.pages.min(0x600) * PAGE;
        while va < end {
            let fits = |shift: &PageShift| (va | frame) & shift.mask() == 0;
            let sizes = [PageShift::SIZE_1G, PageShift::SIZE_2M, PageShift::SIZE_4K];
            let shift = sizes.into_iter().find(fits).unwrap();
            let rights = rights(mapping.attributes);
            let flags =
                built.format.flags() & LeafFlags::from_bits_truncate(mapping.attributes as u8);
            built.map(first + va, Leaf { flags, ..Leaf::new(PhysAddr::new(frame), shift, rights) });
            va += shift.bytes();
            frame = (frame + shift.bytes()) & 0xffff_ffff_ffff;
        }
        probes.extend(mapping.edges().map(|va| first + va));
    }
    probes
}

/// Both halves, from the level that has 512 GiB entries and from the one below it.
fn halves() -> impl Strategy<Value = (Aarch64, u64, usize, VaRange)> {
    prop::sample::select(vec![(48_u8, 0_usize), (39, 1)]).prop_flat_map(|(bits, level)| {
        let format = Aarch64::new(Granule::Size4K, bits, 48).unwrap();
        prop::sample::select(vec![
            (format, 0, level, VaRange::Lower),
            (format.with_upper(true), !0 << bits, level, VaRange::Upper),
        ])
    })
}

fn guest() -> Aarch64Stage2 {
    // VTCR: 39 bits, from level 1, hardware sets the access flag.
    Aarch64Stage2::from_vtcr(25 | 1 << 6 | 5 << 16 | 1 << 21, 48).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn tables_of_the_oracle_are_read((format, first, level, half) in halves(), all in mappings()) {
        let pool = Pool::new();
        let tables = Tables { pool: &pool, root: None };
        let mut oracle = RootTable::with_va_range(tables, level, El1And0, half);
        let root = format.root(oracle.to_physical().0 as u64).unwrap();
        let (probes, found) = theirs(&mut oracle, first, stage1_flags, &all);
        drop(oracle);
        pool.hand_over();
        let space = AddressSpace::new(SpaceId(1), format, root);
        agree(&space, &pool, &found, stage1_rights, &probes)?;
    }

    #[test]
    fn tables_of_the_oracle_for_guests_are_read(all in mappings()) {
        let pool = Pool::new();
        let mut oracle = RootTable::new(Tables { pool: &pool, root: None }, 1, Stage2);
        let root = guest().root(oracle.to_physical().0 as u64).unwrap();
        let (probes, found) = theirs(&mut oracle, 0, stage2_flags, &all);
        drop(oracle);
        pool.hand_over();
        let space = AddressSpace::new(SpaceId(1), guest(), root);
        agree(&space, &pool, &found, stage2_rights, &probes)?;
    }

    #[test]
    fn tables_are_read_by_the_oracle((format, first, level, half) in halves(), all in mappings()) {
        let pool = Pool::new();
        let top = pool.take(1);
        let root = format.root(top.raw()).unwrap();
        let probes = ours(&Built { format, root, pool: &pool }, first, stage1_rights, &all);
        pool.hand_over();
        let tables = Tables { pool: &pool, root: Some(top) };
        let oracle = RootTable::with_va_range(tables, level, El1And0, half);
        let found: Vec<_> = probes.iter().map(|&va| lookup(&oracle, va)).collect();
        drop(oracle);
        pool.hand_over();
        let space = AddressSpace::new(SpaceId(1), format, root);
        agree(&space, &pool, &found, stage1_rights, &probes)?;
    }

    #[test]
    fn tables_for_guests_are_read_by_the_oracle(all in mappings()) {
        let pool = Pool::new();
        let top = pool.take(1);
        let root = guest().root(top.raw()).unwrap();
        let probes = ours(&Built { format: guest(), root, pool: &pool }, 0, stage2_rights, &all);
        pool.hand_over();
        let oracle = RootTable::new(Tables { pool: &pool, root: Some(top) }, 1, Stage2);
        let found: Vec<_> = probes.iter().map(|&va| lookup(&oracle, va)).collect();
        drop(oracle);
        pool.hand_over();
        let space = AddressSpace::new(SpaceId(1), guest(), root);
        agree(&space, &pool, &found, stage2_rights, &probes)?;
    }
}
