//! What must hold for every value: decoding is total, and encoding is its inverse.
//!
//! The sets of bits below are stated once more, so that a wrong mask in the format does not hide
//! behind itself.

use pinfold_arch::format::MAX_LEVELS;
use pinfold_arch::{
    AddrRange, EncodeError, Entry, Leaf, LeafFlags, PageCount, PageFormat, PageShift, PhysAddr,
    Rights, Table, VirtAddr, X86_64,
};
use proptest::prelude::*;

/// An [`X86_64`] and the choices it was made from.
#[derive(Clone, Copy, Debug)]
struct Config {
    format: X86_64,
    levels: u8,
    no_execute: bool,
    gib_pages: bool,
    /// Bits of an entry that are an address.
    address: u64,
    encryption: u64,
    protection_keys: bool,
    shadow_stacks: bool,
}

impl Config {
    fn root(&self) -> Table {
        self.format.root(0).unwrap()
    }

    fn leaf_sizes(&self) -> &'static [u8] {
        if self.gib_pages { &[12, 21, 30] } else { &[12, 21] }
    }

    /// Whether the format can say it, by the definition of each field.
    fn can_say(&self, at: &Table, leaf: &Leaf) -> bool {
        leaf.shift == at.shift
            && self.leaf_sizes().contains(&at.shift.raw())
            && leaf.addr.is_aligned(leaf.shift)
            && leaf.addr.raw() & !self.address == 0
            && self.can_grant(leaf.rights)
            && leaf.flags.difference(LeafFlags::SHADOW_STACK).bits() < 8
            && leaf.flags.contains(LeafFlags::SHADOW_STACK) == self.is_shadow_stack(leaf)
            && leaf.memory < 8
            && leaf.key < if self.protection_keys { 16 } else { 1 }
            && u64::from(leaf.encryption) < 1 << self.encryption.count_ones()
    }

    fn is_shadow_stack(&self, leaf: &Leaf) -> bool {
        let written = leaf.flags.contains(LeafFlags::DIRTY);
        self.shadow_stacks && written && !leaf.rights.contains(Rights::WRITE)
    }

    fn can_grant(&self, rights: Rights) -> bool {
        let execute = rights.contains(Rights::EXECUTE);
        rights.bits() < 16 && rights.contains(Rights::READ) && (execute || self.no_execute)
    }
}

fn config() -> impl Strategy<Value = Config> {
    let encryption = prop_oneof![
        Just(0),
        (32..52_u32).prop_map(|bit| 1 << bit),
        (32..46_u32, 1..=15_u32).prop_map(|(low, bits)| ((1 << bits) - 1) << low & ((1 << 52) - 1)),
    ];
    (4..=5_u8, 32..=52_u8, any::<[bool; 4]>(), encryption).prop_map(
        |(levels, width, [no_execute, gib_pages, protection_keys, shadow_stacks], encryption)| {
            let format = X86_64::new(levels, width).unwrap();
            let format = format.with_no_execute(no_execute).with_gib_pages(gib_pages);
            let format = format.with_protection_keys(protection_keys);
            let format = format.with_shadow_stacks(shadow_stacks);
            let format = format.with_encryption(encryption).unwrap();
            let address = ((1 << width) - 0x1000) & !encryption;
            Config {
                format,
                levels,
                no_execute,
                gib_pages,
                address,
                encryption,
                protection_keys,
                shadow_stacks,
            }
        },
    )
}

/// A table that the format has, or one whose fields are anything at all.
fn table() -> impl Strategy<Value = Table> {
    let shift = prop_oneof![
        6 => prop::sample::select(&[12, 21, 30, 39, 48_u8]),
        1 => 0..64_u8,
        1 => prop::sample::select(&[0, 9, 11, 13, 20, 22, 57, 63_u8]),
    ];
    let shape = prop_oneof![
        2 => Just((9, 0, 511)),
        1 => (0..=16_u8, any::<u16>(), any::<u16>()),
        1 => (any::<u8>(), any::<u16>(), any::<u16>()),
    ];
    (any::<u64>(), shift, shape).prop_map(|(base, shift, (bits, first, last))| {
        let shift = PageShift::new(shift).unwrap();
        Table { base: PhysAddr::new(base), shift, bits, first, last }
    })
}

/// Any value, and values in which an address of some width and alignment stands between flags.
fn raw() -> impl Strategy<Value = u64> {
    let shaped = (any::<u64>(), 32..=52_u32, 12..=31_u32, 0..0x2000_u64, 0..0x1000_u64).prop_map(
        |(addr, width, align, low, high)| {
            let addr = addr & ((1 << width) - 1) & !((1 << align) - 1);
            addr | low | high << 52
        },
    );
    prop_oneof![1 => any::<u64>(), 4 => shaped.prop_map(|raw| raw | 1)]
}

fn rights() -> impl Strategy<Value = Rights> {
    prop_oneof![9 => 0..16_u8, 1 => any::<u8>()].prop_map(Rights::from_bits_retain)
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let flags = prop_oneof![6 => 0..8_u8, 3 => 0..32_u8, 1 => any::<u8>()];
    let flags = flags.prop_map(LeafFlags::from_bits_retain);
    let keys = prop_oneof![2 => Just((0, 0)), 1 => (0..=16_u8, 0..=2_u16), 1 => any::<(u8, u16)>()];
    let shift = prop::sample::select(&[12, 21, 30, 30, 39, 13_u8]);
    (any::<u64>(), 32..=64_u32, 11..=31_u32, shift, rights(), flags, 0..=8_u8, keys).prop_map(
        |(addr, width, align, shift, rights, flags, memory, (key, encryption))| {
            let addr = addr & (u64::MAX >> (64 - width)) & !((1 << align) - 1);
            let shift = PageShift::new(shift).unwrap();
            Leaf { addr: PhysAddr::new(addr), shift, rights, flags, memory, key, encryption }
        },
    )
}

/// Addresses next to where something changes, and any other.
fn address() -> impl Strategy<Value = u64> {
    let edges = vec![0_u64, 1 << 47, 1 << 56, 3 << 47, !0 << 56, !0 << 47, 1 << 63];
    let near = (prop::sample::select(edges), -3..=3_i64);
    prop_oneof![
        3 => near.prop_map(|(edge, pages)| edge.wrapping_add_signed(pages << 12)),
        1 => any::<u64>().prop_map(|va| va & !0xfff),
        1 => any::<u64>().prop_map(|va| va >> 16 & !0xfff),
    ]
}

/// The SDM's words (volume 1, section 3.3.7.1): bits 63 down to the top one are equal.
fn canonical(va: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    (va.cast_signed() << unused >> unused).cast_unsigned() == va
}

const SOFTWARE: u64 = 0x7ff0_0000_0000_0e00;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is decoded shows what the raw bits say and no more, and is encoded as the same bits.
    #[test]
    fn decode_is_total_and_says_what_the_bits_say(c in config(), at in table(), raw in raw()) {
        let entry = c.format.decode(&at, raw);
        let encoded = c.format.encode(&at, entry);
        match entry {
            Entry::Absent => {
                prop_assert_eq!(raw & 1, 0);
                prop_assert_eq!(encoded, Ok(0));
            }
            Entry::Malformed => {
                prop_assert_eq!(raw & 1, 1);
                prop_assert_eq!(encoded, Err(EncodeError::Malformed));
            }
            Entry::Table(next, rights) => {
                prop_assert!(next.shift < at.shift);
                prop_assert_eq!(next.base.raw(), raw & c.address);
                prop_assert_eq!((next.bits, next.first, next.last), (9, 0, 511));
                prop_assert_eq!(rights, rights_in(raw));
                // Beyond software's bits: G, D, A, PCD, PWT and the encryption bit.
                prop_assert_eq!(encoded, Ok(raw & !SOFTWARE & !0x178 & !c.encryption));
            }
            Entry::Leaf(leaf) => {
                prop_assert_eq!(leaf.shift, at.shift);
                prop_assert!(c.leaf_sizes().contains(&leaf.shift.raw()));
                prop_assert_eq!(leaf.addr.raw(), raw & c.address & !leaf.shift.mask());
                prop_assert_eq!(leaf.rights, rights_in(raw));
                let keys = if c.protection_keys { 0xf << 59 } else { 0 };
                prop_assert_eq!(encoded, Ok(raw & (!SOFTWARE | keys)));
            }
        }
    }

    /// Address bits are what they are said to be: others in their place give another address and
    /// nothing else.
    #[test]
    fn address_bits_are_only_that(c in config(), at in table(), raw in raw(), other in any::<u64>()) {
        let bits = c.format.address_bits(&at);
        if let Entry::Leaf(leaf) = c.format.decode(&at, raw) {
            let addr = PhysAddr::new(leaf.addr.raw() & !bits | other & bits);
            let entry = c.format.decode(&at, raw & !bits | other & bits);
            prop_assert_eq!(entry, Entry::Leaf(Leaf { addr, ..leaf }));
        }
        prop_assert_eq!(bits & c.format.volatile_bits(), 0);
    }

    /// A present entry is malformed for a reason that the manual has, and only then.
    #[test]
    fn malformed_is_exact(
        c in config(),
        level in prop::sample::select(&[12, 21, 30, 39, 48_u8]),
        raw in raw(),
    ) {
        let at = Table { shift: PageShift::new(level).unwrap(), ..c.root() };
        let no_leaf = level > 12 && raw & 0x80 != 0 && !c.leaf_sizes().contains(&level);
        let low = match level {
            21 if raw & 0x80 != 0 => raw & 0x001f_e000,
            30 if raw & 0x80 != 0 => raw & 0x3fff_e000,
            _ => 0,
        };
        let high = raw & 0x000f_ffff_ffff_f000 & !c.address & !c.encryption;
        let bad = low | high != 0 || no_leaf || (raw >> 63 == 1 && !c.no_execute);
        let malformed = c.format.decode(&at, raw) == Entry::Malformed;
        prop_assert_eq!(malformed, raw & 1 == 1 && bad);
    }

    /// A leaf is encoded exactly when every field of it has a place, and comes back whole.
    #[test]
    fn leaves_come_back(c in config(), at in table(), leaf in leaf(), same in any::<bool>()) {
        let at = if same { Table { shift: leaf.shift, ..at } } else { at };
        let raw = c.format.encode(&at, Entry::Leaf(leaf));
        prop_assert_eq!(raw.is_ok(), c.can_say(&at, &leaf), "{:?}", raw);
        if let Ok(raw) = raw {
            prop_assert_eq!(c.format.decode(&at, raw), Entry::Leaf(leaf));
        }
    }

    /// So is an entry that points to a table.
    #[test]
    fn tables_come_back(c in config(), at in table(), next in table(), rights in rights()) {
        // Half of the time one that can be: the right size, and a base inside the width.
        for next in [next, Table {
            shift: PageShift::new(at.shift.raw().saturating_sub(9)).unwrap(),
            base: PhysAddr::new(next.base.raw() & c.address),
            ..c.root()
        }] {
            let fits = next.shift.raw() >= 12
                && next.shift.raw() + 9 == at.shift.raw()
                && next.base.raw() & !c.address == 0
                && (next.bits, next.first, next.last) == (9, 0, 511);
            let raw = c.format.encode(&at, Entry::Table(next, rights));
            prop_assert_eq!(raw.is_ok(), fits && c.can_grant(rights), "{:?}", raw);
            if let Ok(raw) = raw {
                prop_assert_eq!(c.format.decode(&at, raw), Entry::Table(next, rights));
            }
        }
    }

    /// The bits that hardware sets by itself change nothing but those two marks.
    #[test]
    fn volatile_bits_are_only_marks(c in config(), raw in raw()) {
        let at = Table { shift: PageShift::SIZE_4K, ..c.root() };
        let marks = LeafFlags::ACCESSED | LeafFlags::DIRTY;
        let volatile = c.format.volatile_bits();
        match (c.format.decode(&at, raw & !volatile), c.format.decode(&at, raw | volatile)) {
            (Entry::Leaf(clean), Entry::Leaf(marked)) => {
                prop_assert!(!clean.flags.intersects(marks) && marked.flags.contains(marks));
                // A shadow stack is told by its dirty bit, which hardware does not set by itself there.
                let flags = marked.flags.difference(LeafFlags::SHADOW_STACK);
                prop_assert_eq!(marked.flags == flags, !c.is_shadow_stack(&marked));
                prop_assert_eq!(
                    Leaf { flags: clean.flags | marks, ..clean },
                    Leaf { flags, ..marked }
                );
            }
            (clean, marked) => prop_assert_eq!(clean, marked),
        }
    }

    /// CR3 gives a root inside the width, whatever it holds, and the level that was configured.
    #[test]
    fn a_root_is_inside_the_width(c in config(), cr3 in prop_oneof![any::<u64>(), raw()]) {
        let wide = cr3 & 0x1fff_ffff_ffff_f000 & !c.encryption & !c.address;
        let root = c.format.root(cr3);
        prop_assert_eq!(root.is_ok(), wide == 0);
        if let Ok(root) = root {
            prop_assert_eq!(root.base.raw(), cr3 & c.address);
            prop_assert_eq!(root.shift.raw(), if c.levels == 5 { 48 } else { 39 });
        }
    }

    /// A range is valid when both its ends are canonical and it does not run into the hole.
    #[test]
    fn valid_is_canonical(c in config(), start in address(), pages in pages()) {
        let bits = if c.levels == 5 { 57 } else { 48 };
        let hole = VirtAddr::new(1 << (bits - 1));
        let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), c.format.base());
        if let Ok(range) = range {
            let (first, last) = (range.start().raw(), range.last().raw());
            let good = canonical(first, bits) && canonical(last, bits) && !range.contains(hole);
            prop_assert_eq!(c.format.valid(&range), good);
        }
    }

    /// No table makes its own arithmetic overflow, and an index is never beyond its bits.
    #[test]
    fn geometry_is_total(at in table(), va in any::<u64>()) {
        let index = u64::from(at.index(VirtAddr::new(va)));
        let full = if at.bits >= 16 { 1 << 16 } else { 1 << at.bits };
        prop_assert_eq!(index, (va >> at.shift.raw()) % full);
        prop_assert_eq!(at.entries(), usize::from(at.last) + 1);
    }

    /// A walk ends, even where every entry leads to another table.
    #[test]
    fn a_walk_is_bounded(c in config(), start in table(), raw in raw()) {
        let mut at = start;
        for _ in 0..MAX_LEVELS {
            let Entry::Table(next, _) = c.format.decode(&at, raw & c.address | 1) else { break };
            prop_assert!(next.shift < at.shift);
            at = next;
        }
        let end = c.format.decode(&at, raw & c.address | 1);
        prop_assert!(!matches!(end, Entry::Table(..)), "{:?} from {:?}", end, start);
    }
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..8_u64, 1 => (0..53_u32).prop_map(|bits| 1 << bits), 1 => any::<u64>()]
}

/// Rights by the three bits: P reads, R/W writes, U/S is for users, XD takes execution away.
fn rights_in(raw: u64) -> Rights {
    let mut rights = Rights::empty();
    for (bit, value, right) in [
        (0, 1, Rights::READ),
        (1, 1, Rights::WRITE),
        (2, 1, Rights::USER),
        (63, 0, Rights::EXECUTE),
    ] {
        rights.set(right, raw >> bit & 1 == value);
    }
    rights
}

#[test]
fn the_edges_of_the_halves() {
    let valid = |levels, start, pages| {
        let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), PageShift::SIZE_4K);
        X86_64::new(levels, 46).unwrap().valid(&range.unwrap())
    };
    // The last page of the lower half with 4 levels: alone, and with the first of the hole.
    assert!(valid(4, 0x0000_7fff_ffff_f000, 1));
    assert!(!valid(4, 0x0000_7fff_ffff_f000, 2));
    assert!(!valid(4, 0x0000_8000_0000_0000, 1));
    assert!(!valid(4, 0xffff_7fff_ffff_f000, 1));
    assert!(!valid(4, 0xffff_7fff_ffff_f000, 2));
    assert!(valid(4, 0xffff_8000_0000_0000, 1));
    // The whole of each half, of everything, and the last page of all.
    assert!(valid(4, 0, 1 << 35));
    assert!(!valid(4, 0, (1 << 35) + 1));
    assert!(valid(4, 0xffff_8000_0000_0000, 1 << 35));
    assert!(!valid(4, 0, 1 << 52));
    assert!(valid(4, 0xffff_ffff_ffff_f000, 1));
    // With 5 levels the hole is smaller: what was in it is valid now.
    assert!(valid(5, 0x0000_7fff_ffff_f000, 2));
    assert!(valid(5, 0x00ff_ffff_ffff_f000, 1));
    assert!(!valid(5, 0x00ff_ffff_ffff_f000, 2));
    assert!(!valid(5, 0x0100_0000_0000_0000, 1));
    assert!(!valid(5, 0xfeff_ffff_ffff_f000, 1));
    assert!(valid(5, 0xff00_0000_0000_0000, 1 << 44));
    assert!(!valid(5, 0, 1 << 52));
}
