//! SMMUv3 tables and descriptors worked out by hand: descriptors by DDI 0487, D8.3, the rest by IHI 0070,
//! sections 5.2 and 5.4.

use pinfold_arch::{
    Access, EncodeError, FormatError, Granule, IoEntry, IoFlags, IoFormat, IoTable, Iova,
    PageShift, PhysAddr, Smmu, SmmuRoot,
};

use super::{NONE, R, RW, W, at, both, cleaned, leaf, table};

/// Nobody executes: UXN and PXN of stage 1, XN of stage 2.
const XN1: u64 = 3 << 53;
const XN2: u64 = 1 << 54;

fn stage1() -> Smmu {
    Smmu::stage1(Granule::Size4K, 48, 44).unwrap()
}

fn stage2() -> Smmu {
    Smmu::stage2(Granule::Size4K, 40, 44).unwrap()
}

#[test]
fn leaves_of_stage_1() {
    let f = stage1();
    // nG, AF, inner shareable, AP[1], attributes 1; AP[2] is read-only.
    both(f, &at(12, 9), XN1 | 0x1234_5f47, leaf(0x1234_5000, 12, RW, NONE));
    both(f, &at(12, 9), XN1 | 0x1234_5fc7, leaf(0x1234_5000, 12, R, NONE));
    both(f, &at(21, 9), XN1 | 0x1220_0f45, leaf(0x1220_0000, 21, RW, NONE));
    both(f, &at(30, 9), XN1 | 0x4000_0f45, leaf(0x4000_0000, 30, RW, NONE));
    both(f, &at(12, 9), XN1 | 0x1234_5f4b, leaf(0x1234_5000, 12, RW, IoFlags::DEVICE));
    // As Linux writes them, without a thought of execution: a page for reading, a block for both.
    assert_eq!(f.decode(&at(12, 9), 0x1234_5fc7), leaf(0x1234_5000, 12, R, NONE));
    assert_eq!(f.decode(&at(21, 9), 0x1220_0f45), leaf(0x1220_0000, 21, RW, NONE));
    // Not for devices: privileged. Not yet for anybody: no access flag.
    assert_eq!(f.decode(&at(12, 9), 0x1234_5f07), IoEntry::Absent);
    assert_eq!(f.decode(&at(12, 9), 0x1234_5b47), IoEntry::Absent);
    assert_eq!(f.decode(&at(12, 9), 0x1234_5f46), IoEntry::Absent);
    assert_eq!(f.decode(&at(12, 9), 0x1234_5f45), IoEntry::Malformed);
    assert_eq!(
        f.encode(&at(12, 9), 0, leaf(0x1000, 12, W, NONE)),
        Err(EncodeError::Access { access: W })
    );
}

#[test]
fn leaves_of_stage_2() {
    let f = stage2();
    // S2AP 7:6, MemAttr 15 in 5:2; only there can anybody write without reading.
    both(f, &at(12, 9), XN2 | 0x1234_57ff, leaf(0x1234_5000, 12, RW, NONE));
    both(f, &at(12, 9), XN2 | 0x1234_577f, leaf(0x1234_5000, 12, R, NONE));
    both(f, &at(12, 9), XN2 | 0x1234_57bf, leaf(0x1234_5000, 12, W, NONE));
    both(f, &at(21, 9), XN2 | 0x1220_07fd, leaf(0x1220_0000, 21, RW, NONE));
    both(f, &at(12, 9), XN2 | 0x1234_57c7, leaf(0x1234_5000, 12, RW, IoFlags::DEVICE));
    assert_eq!(f.decode(&at(12, 9), 0x1234_573f), IoEntry::Absent);
}

#[test]
fn tables() {
    both(stage1(), &at(21, 9), 0x20_3003, table(0x20_3000, 12, 9, RW));
    // APTable takes from those below: [1] writing, [0] devices, which are unprivileged.
    assert_eq!(stage1().decode(&at(21, 9), 0x4000_0000_0020_3003), table(0x20_3000, 12, 9, R));
    let nobody = table(0x20_3000, 12, 9, Access::empty());
    assert_eq!(stage1().decode(&at(21, 9), 0x2000_0000_0020_3003), nobody);
    both(stage2(), &at(30, 10), 0x20_3003, table(0x20_3000, 21, 9, RW));
    // Stage 2 with 40 bits begins with two concatenated tables of 1 GiB entries.
    assert_eq!(
        stage2().top(PhysAddr::new(0x2000)),
        IoTable { base: PhysAddr::new(0x2000), ..at(30, 10) }
    );
    assert_eq!(stage2().last(), Iova::new((1 << 40) - 1));
}

#[test]
fn groups_are_larger_leaves() {
    let hint = XN1 | 1 << 52;
    let f = stage1();
    for (granule, level, bits, group, low) in [
        (Granule::Size4K, 12, 9, 16, 0xf47_u64),
        (Granule::Size4K, 21, 9, 25, 0xf45),
        (Granule::Size16K, 14, 11, 21, 0xf47),
        (Granule::Size16K, 25, 11, 30, 0xf45),
        (Granule::Size64K, 16, 13, 21, 0xf47),
        (Granule::Size64K, 29, 13, 34, 0xf45),
    ] {
        let f = Smmu::stage1(granule, 48, 44).unwrap();
        let (at, addr) = (at(level, bits), 1 << 40);
        let page = leaf(addr, group, RW, NONE);
        for number in [0, 1, (1_u64 << (group - level)) - 1] {
            // Each entry has its own part of the page, and says all of it.
            let raw = hint | addr | number << level | low;
            let index = u32::try_from(number).unwrap() + (1 << (group - level));
            assert_eq!(f.encode(&at, index, page), Ok(raw), "{granule:?} {number}");
            assert_eq!(f.decode(&at, raw), page, "{granule:?} {number}");
        }
    }
    // A block of 512 GiB has no group.
    let wide = Smmu::stage1(Granule::Size4K, 52, 52).unwrap();
    let none = wide.leaf_sizes(&at(39, 9));
    assert!(
        none.contains(PageShift::new(39).unwrap())
            && none.above(PageShift::new(39).unwrap()).is_none()
    );
    // Nor has a top table with fewer entries than the group.
    assert_eq!(f.decode(&at(30, 2), hint | 0x4000_0f45), leaf(0x4000_0000, 30, RW, NONE));
    let addr = PhysAddr::new(0x1000);
    assert_eq!(
        f.encode(&at(12, 9), 0, leaf(0x1000, 16, RW, NONE)),
        Err(EncodeError::Address { addr })
    );
    let shift = PageShift::new(13).unwrap();
    assert_eq!(
        f.encode(&at(12, 9), 0, leaf(0x2000, 13, RW, NONE)),
        Err(EncodeError::Size { shift })
    );
}

#[test]
fn marks_where_hardware_keeps_them() {
    let f = stage1().with_marks(true).unwrap();
    let (used, written) = (IoFlags::ACCESSED, IoFlags::ACCESSED | IoFlags::DIRTY);
    // DBM, and AP[2] until something is written.
    both(f, &at(12, 9), XN1 | 1 << 51 | 0x1234_5bc7, leaf(0x1234_5000, 12, RW, NONE));
    both(f, &at(12, 9), XN1 | 1 << 51 | 0x1234_5fc7, leaf(0x1234_5000, 12, RW, used));
    both(f, &at(12, 9), XN1 | 1 << 51 | 0x1234_5f47, leaf(0x1234_5000, 12, RW, written));
    both(f, &at(12, 9), XN1 | 0x1234_5fc7, leaf(0x1234_5000, 12, R, used));
    let said = stage1().encode(&at(12, 9), 0, leaf(0x1000, 12, RW, IoFlags::DIRTY));
    assert_eq!(said, Err(EncodeError::Attributes));
    cleaned(f, &at(12, 9), XN1 | 1 << 51 | 0x1234_5f47, XN1 | 1 << 51 | 0x1234_5fc7);
    // Mapped before anybody kept marks: from now on there are some.
    cleaned(f, &at(12, 9), XN1 | 0x1234_5f47, XN1 | 1 << 51 | 0x1234_5fc7);
    // In stage 2 the mark is S2AP[1], and a page may be written and not read.
    let f = stage2().with_marks(true).unwrap();
    both(f, &at(12, 9), XN2 | 1 << 51 | 0x1234_577f, leaf(0x1234_5000, 12, RW, used));
    both(f, &at(12, 9), XN2 | 1 << 51 | 0x1234_57ff, leaf(0x1234_5000, 12, RW, written));
    both(f, &at(12, 9), XN2 | 0x1234_577f, leaf(0x1234_5000, 12, R, used));
    cleaned(f, &at(12, 9), XN2 | 1 << 51 | 0x1234_57ff, XN2 | 1 << 51 | 0x1234_577f);
    cleaned(f, &at(21, 9), XN2 | 1 << 51 | 0x1220_07bd, XN2 | 1 << 51 | 0x1220_073d);
}

#[test]
fn walks_past_the_caches_bring_no_marks() {
    let (top, context) = (PhysAddr::new(0x4123_4000), PhysAddr::new(0x4123_4040));
    let (one, two) = (stage1().with_coherent_walks(false), stage2().with_coherent_walks(false));
    // IR and OR 0, SH 2: (0x20 << 8), (0x20 << 40), and for the context (0x20 << 2).
    let want = [0x1234_6204_c000_2010, 0x4123_4000, 0, 0x0004_ff44, 0, 0, 0, 0];
    assert_eq!(one.root(top, 0x1234), Ok(SmmuRoot::Context(want)));
    let want = [0x4123_404b, 0x1000_0000_0080, 0, 0, 0, 0, 0, 0];
    assert_eq!(one.stream_of_context(context), Ok(want));
    let want = [0xd, 0x1000_0000_0000, 0x040c_2058_0000_0007, 0x4123_4000, 0, 0, 0, 0];
    assert_eq!(two.root(top, 7), Ok(SmmuRoot::Stream(want)));
    for (plain, past) in [(stage1(), one), (stage2(), two)] {
        assert_eq!(past.with_marks(true), Err(FormatError::IncoherentMarks));
        assert_eq!(past.with_marks(false), Ok(past));
        assert_eq!(plain.with_marks(true).unwrap().with_coherent_walks(false), past);
        assert_eq!(past.with_coherent_walks(true), plain);
    }
}

#[test]
fn contexts_and_streams() {
    let top = PhysAddr::new(0x4123_4000);
    // T0SZ 16, 4K, walks write-back and inner shareable (0x35 << 8), EPD1, V; IPS 4 (44 bits), AA64, R, A, ASID.
    let context = stage1().root(top, 0x1234);
    let want = [0x1234_6204_c000_3510, 0x4123_4000, 0, 0x0004_ff44, 0, 0, 0, 0];
    assert_eq!(context, Ok(SmmuRoot::Context(want)));
    // 16K is granule 2; HA and HD.
    let f = Smmu::stage1(Granule::Size16K, 47, 48).unwrap().with_marks(true).unwrap();
    let want = [0x0001_6e05_c000_3591, 0x4123_4000, 0, 0x0004_ff44, 0, 0, 0, 0];
    assert_eq!(f.root(top, 1), Ok(SmmuRoot::Context(want)));
    // V, configuration 5, where the context is; its caches, SHCFG 1; EATS.
    let stream = stage1().stream_of_context(PhysAddr::new(0x4123_4040));
    assert_eq!(stream, Ok([0x4123_404b, 0x1000_0000_00d4, 0, 0, 0, 0, 0, 0]));
    let stream = stage1().with_ats(true).stream_of_context(PhysAddr::new(0x4123_4040));
    assert_eq!(stream, Ok([0x4123_404b, 0x1000_1000_00d4, 0, 0, 0, 0, 0, 0]));
    // Configuration 6; VMID, T0SZ 24, SL0 1, 0x35 << 40, 4K, PS 4, AA64, R.
    let want = [0xd, 0x1000_0000_0000, 0x040c_3558_0000_0007, 0x4123_4000, 0, 0, 0, 0];
    assert_eq!(stage2().root(top, 7), Ok(SmmuRoot::Stream(want)));
    // 64K is granule 1 and counts its levels from below: SL0 1 begins at level 2.
    let f = Smmu::stage2(Granule::Size64K, 42, 48).unwrap().with_marks(true).unwrap();
    let want = [0xd, 0x1000_0000_0000, 0x058d_7556_0000_0007, 0x4123_0000, 0, 0, 0, 0];
    assert_eq!(f.root(PhysAddr::new(0x4123_0000), 7), Ok(SmmuRoot::Stream(want)));
    assert_eq!(Smmu::BLOCKED, [1, 0, 0, 0, 0, 0, 0, 0]);
    // More than 48 bits: DS in bit 186 of a context, S2DS in bit 195 of a stream; never with 64K.
    let wide = |root: Result<SmmuRoot, _>| match root.unwrap() {
        SmmuRoot::Context(words) => words[2],
        SmmuRoot::Stream(words) => words[3],
    };
    let top = PhysAddr::new(0x4124_0000);
    for (bits, host_bits) in [(48, 52), (52, 52)] {
        let one = Smmu::stage1(Granule::Size4K, bits, host_bits).unwrap();
        assert_eq!(wide(one.root(top, 1)), 1 << 58);
        let two = Smmu::stage2(Granule::Size16K, bits, host_bits).unwrap();
        assert_eq!(wide(two.root(top, 1)), 0x4124_0008);
    }
    let one = Smmu::stage1(Granule::Size64K, 52, 52).unwrap();
    assert_eq!(wide(one.root(top, 1)), 0);
}

#[test]
fn roots_that_hardware_would_not_take() {
    for addr in [0x4123_4800, 1 << 44].map(PhysAddr::new) {
        assert_eq!(stage1().root(addr, 0), Err(EncodeError::Address { addr }));
    }
    // Two concatenated tables are aligned to both.
    let addr = PhysAddr::new(0x4123_5000);
    assert_eq!(stage2().root(addr, 0), Err(EncodeError::Address { addr }));
    let addr = PhysAddr::new(0x4123_4020);
    assert_eq!(stage1().stream_of_context(addr), Err(EncodeError::Address { addr }));
    assert_eq!(Smmu::stage1(Granule::Size4K, 15, 44), Err(FormatError::AddressBits { bits: 15 }));
}
