//! Rights only narrow on the way down, in every format: what a walk finds is no more than what each
//! entry on the path grants.

use std::collections::BTreeMap;

use pinfold::host::{PhysMem, SpaceId, TableView};
use pinfold::sync::Word;
use pinfold::walk::translate;
use pinfold::{
    Aarch64, Aarch64Stage2, AddressSpace, AnyFormat, Granule, PageFormat, PageShift, PhysAddr,
    PowerRadix, Rights, S390x, Table, VirtAddr, X86_64,
};
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{Entry, Geometry, Leaf, LeafFlags};
use proptest::prelude::*;

/// Tables by address, of which only entry 0 is not absent.
#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<Word>>);

impl PhysMem for Memory {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        self.0.get(&base.raw())?.get(..entries).map(TableView::from_words)
    }
}

impl Memory {
    fn set(&mut self, format: &AnyFormat, at: &Table, raw: u64) {
        let order = |raw: u64| if format.big_endian() { raw.to_be() } else { raw.to_le() };
        let absent = order(format.encode(at, Entry::Absent).unwrap());
        let mut words: Vec<_> = (0..at.entries()).map(|_| Word::new(absent)).collect();
        words[0] = Word::new(order(raw));
        self.0.insert(at.base.raw(), words);
    }
}

fn formats() -> Vec<AnyFormat> {
    let arm = |granule, va, pa| Aarch64::new(granule, va, pa).unwrap();
    let power = PowerRadix::new(PageShift::new(16).unwrap()).unwrap();
    vec![
        X86_64::new(4, 46).unwrap().into(),
        X86_64::new(5, 52).unwrap().into(),
        arm(Granule::Size4K, 48, 48).into(),
        arm(Granule::Size16K, 52, 52).with_hardware_dirty(true).into(),
        arm(Granule::Size64K, 48, 48).with_table_rights(false).into(),
        Aarch64Stage2::new(Granule::Size4K, 40, 44).unwrap().into(),
        S390x::new(3, Facilities::all()).unwrap().into(),
        S390x::new(5, Facilities::empty()).unwrap().into(),
        power.into(),
    ]
}

/// An entry value with these rights, if the format can say them; with all of them otherwise.
fn encode(format: &AnyFormat, at: &Table, rights: Rights, entry: impl Fn(Rights) -> Entry) -> u64 {
    let raw = format.encode(at, entry(rights));
    raw.or_else(|_| format.encode(at, entry(Rights::all()))).unwrap()
}

/// How many levels of tables the format has.
fn levels(format: &AnyFormat) -> usize {
    let mut at = format.top(PhysAddr::new(0));
    let mut levels = 1;
    while let Some(below) = format.below(&at, PhysAddr::new(0)) {
        (at, levels) = (below, levels + 1);
    }
    levels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_walk_finds_what_all_of_the_path_grants(
        format in prop::sample::select(formats()),
        granted in prop::collection::vec((0..16_u8).prop_map(Rights::from_bits_retain), 8),
    ) {
        let mut memory = Memory::default();
        let mut path = Vec::new();
        let root = format.top(PhysAddr::new(0x10_0000));
        let mut at = root;
        for rights in &granted[..levels(&format) - 1] {
            let next = PhysAddr::new(at.base.raw() + 0x10_0000);
            let below = format.below(&at, next).unwrap();
            let raw = encode(&format, &at, *rights, |rights| Entry::Table(below, rights));
            memory.set(&format, &at, raw);
            let Entry::Table(_, rights) = format.decode(&at, raw) else { panic!("{raw:#x}") };
            path.push(rights);
            at = below;
        }
        let page = Leaf::new(PhysAddr::new(0x7000_0000), at.shift, Rights::empty());
        let page = Leaf { flags: LeafFlags::ACCESSED & format.flags(), ..page };
        let raw = encode(&format, &at, granted[7], |rights| Entry::Leaf(Leaf { rights, ..page }));
        memory.set(&format, &at, raw);
        let Entry::Leaf(leaf) = format.decode(&at, raw) else { panic!("{raw:#x}") };
        path.push(leaf.rights);

        let space = AddressSpace::new(SpaceId(0), format, root);
        let found = translate(&space, &memory, VirtAddr::new(0)).unwrap().unwrap();
        prop_assert_eq!(found.addr, page.addr);
        for rights in &path {
            prop_assert!(rights.contains(found.rights), "{:?} of {:?}", found.rights, path);
        }
        let all = path.iter().fold(Rights::all(), |all, rights| all & *rights);
        prop_assert_eq!(found.rights, all);
    }
}
