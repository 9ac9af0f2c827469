//! What must hold for every value of s390x: decoding is total, and encoding is its inverse.
//!
//! The sets of bits below are stated once more, so that a wrong mask in the format does not hide
//! behind itself.

use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{
    AddrRange, EncodeError, Entry, FormatError, Geometry, Leaf, LeafFlags, PageCount, PageFormat,
    PageShift, PhysAddr, Rights, S390x, Table, VirtAddr,
};
use proptest::prelude::*;

/// A format and the choices it was made from.
#[derive(Clone, Copy, Debug)]
struct Config {
    format: S390x,
    edat1: bool,
    edat2: bool,
    no_execute: bool,
    private: bool,
}

fn config() -> impl Strategy<Value = Config> {
    (0..4_u64, 0..3, any::<bool>(), any::<bool>()).prop_map(|(top, edat, no_execute, private)| {
        let mut facilities = Facilities::empty();
        if edat >= 1 {
            facilities |= Facilities::EDAT1;
        }
        if edat == 2 {
            facilities |= Facilities::EDAT2;
        }
        if no_execute {
            facilities |= Facilities::NO_EXECUTE;
        }
        let asce = top << 2 | u64::from(private) << 8;
        let (format, _) = S390x::from_asce(asce, facilities).unwrap();
        Config { format, edat1: edat >= 1, edat2: edat == 2, no_execute, private }
    })
}

fn bit(raw: u64, value: u64) -> bool {
    raw & value != 0
}

impl Config {
    fn leaf_sizes(&self) -> &'static [u8] {
        match (self.edat1, self.edat2) {
            (_, true) => &[12, 20, 31],
            (true, _) => &[12, 20],
            _ => &[12],
        }
    }

    /// What an entry says, by the manual's words.
    fn says(&self, shift: u8, raw: u64) -> Entry {
        let mut rights = Rights::READ | Rights::USER;
        rights.set(Rights::WRITE, !bit(raw, 0x200));
        let leaf_rights = if bit(raw, 0x100) { rights } else { rights | Rights::EXECUTE };
        if shift == 12 {
            return match raw {
                _ if bit(raw, 0x400) => Entry::Absent,
                _ if bit(raw, 0x800) || bit(raw, 0x100) && !self.no_execute => Entry::Malformed,
                _ => leaf(raw / 4096 * 4096, 12, leaf_rights),
            };
        }
        let Some(kind) = [20, 31, 42, 53].iter().position(|level| *level == shift) else {
            return Entry::Malformed;
        };
        let large = bit(raw, 0x400);
        if bit(raw, 0x20) {
            return Entry::Absent;
        }
        let wrong = raw >> 2 & 3 != kind as u64
            || large && !self.leaf_sizes().contains(&shift)
            || large && bit(raw, 0x100) && !self.no_execute
            || kind > 0 && bit(raw, 0x200) && !self.edat1
            || self.private && bit(raw, 0x10) && (kind == 0 || large);
        if wrong {
            return Entry::Malformed;
        }
        if large {
            return leaf(raw >> shift << shift, shift, leaf_rights);
        }
        let next = match kind {
            0 => table(raw / 2048 * 2048, 12, 8, 0, 255),
            _ => {
                let (offset, length) = (raw >> 6 & 3, raw & 3);
                let (first, last) = (offset * 512, length * 512 + 511);
                table(raw / 4096 * 4096, shift - 11, 11, first as u16, last as u16)
            }
        };
        Entry::Table(next, rights | Rights::EXECUTE)
    }

    /// Bits that nobody reads, in an entry that is neither absent nor malformed.
    fn unread(shift: u8, raw: u64) -> u64 {
        match (shift, bit(raw, 0x400)) {
            (12, _) => 0xff,
            (20, true) => 0xf_f8d3,
            (31, true) => 0x7fff_f8d3,
            (20, false) => 0x1d3,
            _ => 0x910,
        }
    }
}

fn leaf(addr: u64, shift: u8, rights: Rights) -> Entry {
    Entry::Leaf(Leaf::new(PhysAddr::new(addr), PageShift::new(shift).unwrap(), rights))
}

fn table(base: u64, shift: u8, bits: u8, first: u16, last: u16) -> Table {
    let shift = PageShift::new(shift).unwrap();
    Table { base: PhysAddr::new(base), shift, bits, first, last }
}

/// A table that the format has, or one whose fields are anything at all.
fn any_table() -> impl Strategy<Value = Table> {
    let shift = prop_oneof![
        8 => prop::sample::select(&[12, 20, 31, 42, 53_u8]),
        1 => 0..64_u8,
    ];
    let part = prop::sample::select(&[0, 511, 512, 1023, 1024, 1535, 1536, 2047, 255_u16]);
    let shape = prop_oneof![
        4 => (prop::sample::select(&[8, 11_u8]), part.clone(), part),
        1 => (any::<u8>(), any::<u16>(), any::<u16>()),
    ];
    (any::<u64>(), 9..14_u32, shift, shape).prop_map(|(base, align, shift, (bits, first, last))| {
        table(base >> align << align, shift, bits, first, last)
    })
}

/// Any value, and values that are an address and few flags.
fn any_raw() -> impl Strategy<Value = u64> {
    let shaped = (any::<u64>(), 11..=31_u32, any::<u16>(), any::<u16>());
    let shaped = shaped.prop_map(|(addr, align, some, fewer)| {
        addr >> align << align | u64::from(some & fewer & 0xfff)
    });
    prop_oneof![1 => any::<u64>(), 4 => shaped.clone(), 2 => shaped.prop_map(|raw| raw & !0x420)]
}

fn any_rights() -> impl Strategy<Value = Rights> {
    prop_oneof![4 => 0..16_u8, 4 => (8..16_u8).prop_map(|bits| bits | 1), 1 => any::<u8>()]
        .prop_map(Rights::from_bits_retain)
}

fn any_leaf() -> impl Strategy<Value = Leaf> {
    let shift = prop::sample::select(&[12, 20, 31, 42, 13_u8]);
    let extra = prop_oneof![9 => Just(0), 1 => 0..4_u8];
    (any::<u64>(), 11..=32_u32, shift, any_rights(), extra).prop_map(
        |(addr, align, shift, rights, extra)| {
            let addr = PhysAddr::new(addr >> align << align);
            let leaf = Leaf::new(addr, PageShift::new(shift).unwrap(), rights);
            match extra {
                0 => leaf,
                1 => Leaf { flags: LeafFlags::DIRTY, ..leaf },
                2 => Leaf { memory: 1, ..leaf },
                _ => Leaf { key: 1, ..leaf },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is decoded is what the manual says the bits are, in every table; and all of it but
    /// what nobody reads comes back.
    #[test]
    fn decode_is_total_and_says_what_the_bits_say(c in config(), at in any_table(), raw in any_raw()) {
        let entry = c.format.decode(&at, raw);
        let shift = at.shift.raw();
        prop_assert_eq!(entry, c.says(shift, raw), "{:#x}", raw);
        let kind = u64::from(shift.saturating_sub(20) / 11);
        match (entry, c.format.encode(&at, entry)) {
            (Entry::Absent, encoded) => {
                let absent = if shift == 12 { 0x400 } else { 0x20 | kind << 2 };
                prop_assert_eq!(encoded, Ok(absent));
            }
            (Entry::Malformed, encoded) => prop_assert_eq!(encoded, Err(EncodeError::Malformed)),
            (_, encoded) => prop_assert_eq!(encoded, Ok(raw & !Config::unread(shift, raw))),
        }
        if let Entry::Table(next, _) = entry {
            prop_assert!(next.shift < at.shift);
        }
    }

    /// A leaf is encoded exactly when every field of it has a place, and comes back whole.
    #[test]
    fn leaves_come_back(c in config(), at in any_table(), leaf in any_leaf(), same in any::<bool>()) {
        let at = if same { Table { shift: leaf.shift, ..at } } else { at };
        let raw = c.format.encode(&at, Entry::Leaf(leaf));
        let plain = leaf.flags.is_empty() && (leaf.memory, leaf.key) == (0, 0);
        let can_grant = leaf.rights.bits() & !6 == 9
            && (leaf.rights.contains(Rights::EXECUTE) || c.no_execute);
        let can_say = leaf.shift == at.shift
            && c.leaf_sizes().contains(&at.shift.raw())
            && leaf.addr.raw() % leaf.shift.bytes() == 0
            && can_grant
            && plain;
        prop_assert_eq!(raw.is_ok(), can_say, "{:?}", raw);
        if let Ok(raw) = raw {
            prop_assert_eq!(c.format.decode(&at, raw), Entry::Leaf(leaf));
        }
    }

    /// So is an entry that points to a table.
    #[test]
    fn tables_come_back(
        c in config(), at in any_table(), next in any_table(), rights in any_rights(), fit in any::<bool>(),
    ) {
        let below = match at.shift.raw() {
            20 => Some(12),
            31 | 42 | 53 => Some(at.shift.raw() - 11),
            _ => None,
        };
        let next = match below.filter(|_| fit) {
            Some(12) => table(next.base.raw(), 12, 8, 0, 255),
            Some(below) => table(next.base.raw(), below, 11, next.first, next.last),
            None => next,
        };
        let small = next.shift.raw() == 12;
        let whole = if small {
            (next.bits, next.first, next.last) == (8, 0, 255)
        } else {
            next.bits == 11
                && next.first % 512 == 0 && next.first < 2048
                && next.last % 512 == 511 && next.last < 2048
        };
        let can_say = below == Some(next.shift.raw())
            && whole
            && next.base.raw() % (if small { 2048 } else { 4096 }) == 0
            && rights.bits() & !2 == 13
            && (small || c.edat1 || rights.contains(Rights::WRITE));
        let raw = c.format.encode(&at, Entry::Table(next, rights));
        prop_assert_eq!(raw.is_ok(), can_say, "{:?}", raw);
        if let Ok(raw) = raw {
            prop_assert_eq!(c.format.decode(&at, raw), Entry::Table(next, rights));
        }
    }

    /// Address bits are what they are said to be.
    #[test]
    fn address_bits_are_only_that(c in config(), at in any_table(), raw in any_raw(), other in any::<u64>()) {
        let bits = c.format.address_bits(&at);
        prop_assert_eq!(bits != 0, c.leaf_sizes().contains(&at.shift.raw()));
        if let Entry::Leaf(leaf) = c.format.decode(&at, raw) {
            let addr = PhysAddr::new(leaf.addr.raw() & !bits | other & bits);
            let entry = c.format.decode(&at, raw & !bits | other & bits);
            prop_assert_eq!(entry, Entry::Leaf(Leaf { addr, ..leaf }));
        }
    }

    /// Every ASCE gives a table of the right size, or designates a real space.
    #[test]
    fn a_root_is_where_the_asce_says(asce in any_raw(), levels in 2..=5_u8) {
        let asce = asce & !0xc | u64::from(levels - 2) << 2;
        let found = S390x::from_asce(asce, Facilities::all());
        if bit(asce, 0x20) {
            prop_assert_eq!(found, Err(FormatError::RealSpace { asce }));
        } else {
            let (format, root) = found.unwrap();
            let shift = 20 + 11 * (levels - 2);
            let last = (asce & 3) * 512 + 511;
            prop_assert_eq!(root, table(asce / 4096 * 4096, shift, 11, 0, last as u16));
            let top = format.top(root.base);
            prop_assert_eq!(Table { last: root.last, ..top }, root);
            prop_assert_eq!(top.last, 2047);
        }
    }

    /// A range is valid when the top table's index reaches it.
    #[test]
    fn valid_is_below_the_top(levels in 2..=5_u8, start in any::<u64>(), shift in 0..53_u32, pages in 1..9_u64) {
        let start = start >> shift >> 12 << 12;
        let format = S390x::new(levels, Facilities::empty()).unwrap();
        let range = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), format.base());
        if let Ok(range) = range {
            let end = u128::from(start) + u128::from(pages) * 4096;
            prop_assert_eq!(format.valid(&range), end <= 1 << (11 * u32::from(levels) + 9));
        }
    }
}
