//! The frame table: counts that cannot wrap, folios that change under a grab, and the two ways to
//! own one.

use pinfold::folio::{Folio, FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::{CountError, Counts, FrameError, FrameTable, FreezeError};
use pinfold::sync::Word;
use pinfold::{Order, PageCount, PageShift, Pfn};
use proptest::prelude::*;

const BASE: PageShift = PageShift::SIZE_4K;

fn words(frames: u64) -> Vec<Word> {
    let words = FrameTable::words_for(PageCount::new(frames)).unwrap();
    (0..words).map(|_| Word::new(0)).collect()
}

fn info(kind: FolioKind, order: u8) -> FolioInfo {
    FolioInfo { order: Order::new(order).unwrap(), kind, flags: FolioFlags::empty() }
}

/// Frames 0x100.. as free single frames.
fn free_frames(words: &[Word]) -> FrameTable<'_> {
    let frames = FrameTable::new(words, Pfn::new(0x100), BASE).unwrap();
    for i in 0..frames.frames().raw() {
        frames.add_memory(Pfn::new(0x100 + i), info(FolioKind::Free, 0)).unwrap().free();
    }
    frames
}

fn folio(frames: &FrameTable<'_>, pfn: u64) -> Folio {
    frames.folio(Pfn::new(pfn)).unwrap()
}

fn counts(frames: &FrameTable<'_>, pfn: u64) -> (u32, u32) {
    let counts = frames.counts_of(folio(frames, pfn));
    (counts.references(), counts.pins())
}

#[test]
fn a_frame_costs_sixteen_bytes() {
    let words = FrameTable::words_for(PageCount::new(1000)).unwrap();
    assert_eq!(words * size_of::<Word>(), 16_000);
}

#[test]
fn every_frame_of_a_folio_leads_to_its_head_and_a_run_is_one_count() {
    let words = words(64);
    let frames = free_frames(&words);
    let large = frames.assemble(Pfn::new(0x110), info(FolioKind::Anonymous, 4)).unwrap();
    large.unfreeze(1);
    for pfn in 0x110..0x120 {
        assert_eq!(folio(&frames, pfn).head(), Pfn::new(0x110));
    }
    frames.pin(folio(&frames, 0x11f), PageCount::new(16)).unwrap();
    assert_eq!(counts(&frames, 0x113), (17, 16));
    assert!(frames.unpin(folio(&frames, 0x110), PageCount::new(16)).unwrap().is_none());
    assert_eq!(counts(&frames, 0x113), (1, 0));
}

#[test]
fn a_folio_is_put_together_from_free_frames_only() {
    let words = words(32);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x104), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let refused = frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 3));
    assert_eq!(refused.err(), Some(FrameError::InUse { pfn: Pfn::new(0x104) }));
    // What had been taken is free again.
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 2)).unwrap().unfreeze(1);
    let unaligned = frames.assemble(Pfn::new(0x109), info(FolioKind::Anonymous, 2));
    assert_eq!(unaligned.err(), Some(FrameError::Unaligned { pfn: Pfn::new(0x109) }));
    let outside = frames.assemble(Pfn::new(0x120), info(FolioKind::Anonymous, 0));
    assert_eq!(outside.err(), Some(FrameError::Outside { pfn: Pfn::new(0x120) }));
}

#[test]
fn the_last_reference_hands_the_folio_over_once() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let this = folio(&frames, 0x100);
    frames.pin(this, PageCount::ONE).unwrap();
    assert!(frames.put(this, 1).unwrap().is_none(), "the pin keeps it");
    let last = frames.unpin(this, PageCount::ONE).unwrap().expect("nobody refers to it");
    assert_eq!(frames.pin(this, PageCount::ONE).unwrap_err().error, CountError::Gone);
    last.free();
    assert_eq!(frames.pin(this, PageCount::ONE).unwrap_err().error, CountError::Gone);
}

/// D4: unlimited references wrapped the page counter.
#[test]
fn a_count_near_its_limit_refuses_without_a_change() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let this = folio(&frames, 0x100);
    frames.pin(this, PageCount::new(u64::from(Counts::MAX) - 1)).unwrap();
    let full = counts(&frames, 0x100);
    for pages in [1, 2, 1 << 31, 1 << 32, u64::MAX] {
        let lost = frames.pin(this, PageCount::new(pages)).unwrap_err();
        assert_eq!(lost.error, CountError::Overflow);
        assert_eq!(counts(&frames, 0x100), full);
    }
    assert_eq!(frames.get(this, 1).unwrap_err().error, CountError::Overflow);
    assert_eq!(counts(&frames, 0x100), full);
}

/// D7: a head was looked up, the folio was split, and the count landed on an unrelated one.
#[test]
fn a_folio_that_was_split_or_replaced_is_not_pinned() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 2)).unwrap().unfreeze(1);
    let looked_up = folio(&frames, 0x103);
    let mut whole = frames.freeze(looked_up, 1).unwrap();
    whole.reshape(info(FolioKind::Anonymous, 0), |part| part.unfreeze(1)).unwrap();
    whole.unfreeze(1);
    let lost = frames.pin(looked_up, PageCount::new(4)).unwrap_err();
    assert_eq!(lost.error, CountError::Changed);
    for pfn in 0x100..0x104 {
        assert_eq!(counts(&frames, pfn), (1, 0), "no count stayed behind on {pfn:#x}");
    }
}

#[test]
fn a_count_on_what_is_another_folio_by_now_is_taken_back() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let looked_up = folio(&frames, 0x100);
    let mut frozen = frames.freeze(looked_up, 1).unwrap();
    frozen.reshape(info(FolioKind::Shmem, 0), |_| ()).unwrap();
    frozen.unfreeze(1);
    let lost = frames.pin(looked_up, PageCount::ONE).unwrap_err();
    assert!(lost.last.is_none(), "its owner still refers to it");
    assert_eq!(counts(&frames, 0x100), (1, 0));
}

#[test]
fn a_pinned_folio_cannot_be_frozen_and_the_refusal_says_what_was_found() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 1)).unwrap().unfreeze(3);
    let this = folio(&frames, 0x100);
    frames.pin(this, PageCount::new(2)).unwrap();
    assert_eq!(frames.freeze(this, 5).unwrap_err(), FreezeError { found: 5, pins: 2 });
    assert_eq!(frames.freeze(this, 3).unwrap_err(), FreezeError { found: 5, pins: 2 });
    assert!(frames.unpin(this, PageCount::new(2)).unwrap().is_none());
    assert_eq!(frames.freeze(this, 2).unwrap_err(), FreezeError { found: 3, pins: 0 });
    frames.freeze(this, 3).unwrap().unfreeze(3);
}

#[test]
fn there_is_one_claim_and_nobody_pins_under_it() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let this = folio(&frames, 0x100);
    let claim = frames.claim(this).unwrap();
    assert_eq!(frames.claim(this).unwrap_err().error, CountError::Claimed);
    assert_eq!(frames.pin(this, PageCount::ONE).unwrap_err().error, CountError::Claimed);
    frames.get(this, 1).unwrap();
    assert!(frames.put(this, 1).unwrap().is_none());
    // It moves: frozen, unmapped, and given back with the claim's reference alone.
    frames.freeze(this, 2).unwrap().unfreeze(1);
    let last = claim.release().expect("the claim held the last reference");
    last.free();
    assert_eq!(counts(&frames, 0x100), (0, 0));
    assert!(!frames.counts_of(this).is_claimed());
}

/// D20: pins of the zero page were counted and never given back, until the counter wrapped.
#[test]
fn zero_frames_are_never_counted_and_the_huge_zero_folio_is() {
    let words = words(32);
    let frames = free_frames(&words);
    let zero = |order| FolioInfo { flags: FolioFlags::ZERO, ..info(FolioKind::Anonymous, order) };
    for pfn in [0x101, 0x102] {
        frames.assemble(Pfn::new(pfn), zero(0)).unwrap().unfreeze(1);
        for _ in 0..10_000_000u32 / 1000 {
            frames.pin(folio(&frames, pfn), PageCount::new(1000)).unwrap();
        }
        assert!(frames.unpin(folio(&frames, pfn), PageCount::new(7)).unwrap().is_none());
        assert_eq!(counts(&frames, pfn), (1, 0));
    }
    frames.assemble(Pfn::new(0x110), zero(4)).unwrap().unfreeze(1);
    frames.pin(folio(&frames, 0x115), PageCount::new(3)).unwrap();
    assert_eq!(counts(&frames, 0x110), (4, 3));
}

#[test]
fn marks_that_may_change_at_any_time_are_seen_and_others_stay() {
    let words = words(16);
    let frames = free_frames(&words);
    frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 0)).unwrap().unfreeze(1);
    let before = folio(&frames, 0x100);
    frames.set_flags(before, FolioFlags::DIRTY | FolioFlags::MOVABLE, true);
    assert_eq!(folio(&frames, 0x100).info().flags, FolioFlags::DIRTY, "MOVABLE needs a freeze");
    frames.pin(before, PageCount::ONE).expect("dirtiness does not make it another folio");
    frames.set_flags(before, FolioFlags::ISOLATED, true);
    let lost = frames.pin(before, PageCount::ONE).unwrap_err();
    assert_eq!(lost.error, CountError::Changed, "who isolates looks for pins after the mark");
    assert_eq!(counts(&frames, 0x100), (2, 1));
}

#[test]
fn frames_outside_the_table_have_no_folio() {
    let words = words(16);
    let frames = free_frames(&words);
    for pfn in [0, 0xff, 0x110, u64::MAX] {
        assert!(frames.folio(Pfn::new(pfn)).is_none());
        assert!(!frames.has_memory(Pfn::new(pfn)));
    }
    assert!(FrameTable::new(&words, Pfn::new((1 << 52) - 15), BASE).is_err());
    assert!(FrameTable::new(&words, Pfn::new(u64::MAX), BASE).is_err());
    assert_eq!(FrameTable::words_for(PageCount::new(u64::MAX)), None);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Pin(u64),
    Unpin(u64),
    Get(u32),
    Put(u32),
}

proptest! {
    /// Against plain arithmetic: an operation succeeds exactly when the sums allow it, and changes
    /// what it should or nothing.
    #[test]
    fn counts_are_sums(ops in prop::collection::vec(prop_oneof![
        (0u64..6).prop_map(Op::Pin), (0u64..6).prop_map(Op::Unpin),
        (0u32..6).prop_map(Op::Get), (0u32..6).prop_map(Op::Put),
    ], 0..60)) {
        let words = words(16);
        let frames = free_frames(&words);
        frames.assemble(Pfn::new(0x100), info(FolioKind::Anonymous, 3)).unwrap().unfreeze(1);
        let this = folio(&frames, 0x100);
        let (mut plain, mut pins) = (1u64, 0u64);
        for op in ops {
            let (ok, expected) = match op {
                Op::Pin(n) => (frames.pin(this, PageCount::new(n)).is_ok(), plain + pins > 0),
                Op::Unpin(n) => (frames.unpin(this, PageCount::new(n)).is_ok(), n <= pins),
                Op::Get(n) => (frames.get(this, n).is_ok(), plain + pins > 0),
                Op::Put(n) => (frames.put(this, n).is_ok(), u64::from(n) <= plain),
            };
            prop_assert_eq!(ok, expected, "{:?} with {} and {}", op, plain, pins);
            if ok {
                match op {
                    Op::Pin(n) => pins += n,
                    Op::Unpin(n) => pins -= n,
                    Op::Get(n) => plain += u64::from(n),
                    Op::Put(n) => plain -= u64::from(n),
                }
            }
            let counts = frames.counts_of(this);
            prop_assert_eq!(u64::from(counts.pins()), pins);
            prop_assert_eq!(u64::from(counts.references()), pins + plain);
            if plain + pins == 0 {
                break;
            }
        }
    }
}
