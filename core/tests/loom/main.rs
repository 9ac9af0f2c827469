//! Models of the engine's races, run by loom over every interleaving and every weak ordering that
//! the code allows: `cargo xtask test loom`.
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::frames::{FrameTable, Frozen};
use pinfold::sync::{Ordering, Word};
use pinfold::{Order, PageCount, PageShift, Pfn};

mod domain;
mod engine;
mod iopt;
mod region;
mod source;
mod table;

/// Every interleaving with so many preemptions at most.
fn model(preemptions: usize, race: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(race);
}

const PFN: Pfn = Pfn::new(1);

struct Shared {
    frames: Vec<Word>,
    /// A page-table entry: 1 while the folio is mapped.
    entry: Word,
}

fn info(kind: FolioKind) -> FolioInfo {
    FolioInfo { order: Order::ZERO, kind, flags: FolioFlags::empty() }
}

impl Shared {
    /// One anonymous folio, mapped once.
    fn new() -> Arc<Self> {
        let this =
            Arc::new(Self { frames: (0..2).map(|_| Word::new(0)).collect(), entry: Word::new(1) });
        this.table().add_memory(PFN, info(FolioKind::Anonymous)).unwrap().unfreeze(1);
        this
    }

    fn table(&self) -> FrameTable<'_> {
        FrameTable::new(&self.frames, PFN, PageShift::SIZE_4K).unwrap()
    }

    /// The lockless pin: look up, count, compare again. Whether it is pinned.
    fn pin(&self) -> bool {
        if self.entry.load(Ordering::Acquire) == 0 {
            return false;
        }
        let Some(folio) = self.table().folio(PFN) else { return false };
        if self.table().pin(folio, PageCount::ONE).is_err() {
            return false;
        }
        // As `TableView` loads for the comparison.
        if self.entry.load(Ordering::SeqCst) == 1 {
            return true;
        }
        let _last = self.table().unpin(folio, PageCount::ONE).unwrap();
        false
    }
}

/// "Pin, then compare the entry again" against "clear the entry, then look for pins": a folio is
/// never moved under a pin.
#[test]
fn a_pin_and_a_migration_never_both_succeed() {
    loom::model(|| {
        let shared = Shared::new();
        let pinner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.pin())
        };
        let table = shared.table();
        let folio = table.folio(PFN).unwrap();
        // As `TableView::swap`.
        shared.entry.swap(0, Ordering::SeqCst);
        let moved = match table.freeze(folio, 1) {
            Ok(frozen) => {
                frozen.unfreeze(0);
                true
            }
            Err(_) => {
                shared.entry.store(1, Ordering::Release);
                false
            }
        };
        let pinned = pinner.join().unwrap();
        assert!(!(moved && pinned), "the folio was moved under a pin");
    });
}

/// A count that lands on what has become another folio is taken back, and nobody loses one.
#[test]
fn a_count_never_stays_on_another_folio() {
    loom::model(|| {
        let shared = Shared::new();
        let pinner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let folio = shared.table().folio(PFN);
                folio.is_some_and(|folio| {
                    let anonymous = folio.info().kind == FolioKind::Anonymous;
                    shared.table().pin(folio, PageCount::ONE).is_ok() && anonymous
                })
            })
        };
        let table = shared.table();
        let mut changed = false;
        if let Ok(mut frozen) = table.freeze(table.folio(PFN).unwrap(), 1) {
            frozen.reshape(info(FolioKind::Shmem), |_: Frozen<'_>| ()).unwrap();
            frozen.unfreeze(1);
            changed = true;
        }
        let pinned_as_anonymous = pinner.join().unwrap();
        let counts = table.counts_of(table.folio(PFN).unwrap());
        assert!(!(changed && pinned_as_anonymous), "it was pinned as what it no longer is");
        assert!(counts.pins() <= 1 && counts.references() == 1 + counts.pins());
        if pinned_as_anonymous {
            assert_eq!(counts.pins(), 1);
        }
    });
}

/// Where a count landed on a folio of another size and the last reference went meanwhile, the folio
/// is handed over whole, and nothing of its neighbours with it.
#[test]
fn a_folio_whose_last_reference_was_a_stray_count_is_handed_over_in_its_own_size() {
    loom::model(|| {
        let words: Arc<Vec<Word>> = Arc::new((0..4).map(|_| Word::new(0)).collect());
        let table = FrameTable::new(&words, Pfn::new(2), PageShift::SIZE_4K).unwrap();
        let two = FolioInfo { order: Order::new(1).unwrap(), ..info(FolioKind::Anonymous) };
        let mut frozen = table.add_memory(Pfn::new(2), two).unwrap();
        // Looked up as a folio of two frames, and split before it is counted.
        let stale = table.folio(Pfn::new(2)).unwrap();
        frozen.reshape(info(FolioKind::Anonymous), |other| other.unfreeze(1)).unwrap();
        frozen.unfreeze(1);
        let pinner = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let table = FrameTable::new(&words, Pfn::new(2), PageShift::SIZE_4K).unwrap();
                let lost = table.pin(stale, PageCount::ONE).unwrap_err();
                lost.last.map(|last| last.order())
            })
        };
        let now = table.folio(Pfn::new(2)).unwrap();
        let by_owner = table.put(now, 1).unwrap().map(|last| last.order());
        let by_pinner = pinner.join().unwrap();
        assert_eq!(by_owner.or(by_pinner), Some(Order::ZERO));
        assert!(by_owner.is_none() || by_pinner.is_none(), "two owners");
    });
}

/// Of two callers who want to move the same folio one has the claim, and while it has, nobody pins.
#[test]
fn there_is_one_claim_at_a_time() {
    loom::model(|| {
        let shared = Shared::new();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let table = shared.table();
                let claim = table.claim(table.folio(PFN).unwrap());
                claim.is_ok_and(|claim| {
                    assert!(!shared.pin(), "pinned under a claim");
                    drop(claim.release());
                    true
                })
            })
        };
        let table = shared.table();
        let folio = table.folio(PFN).unwrap();
        let claimed = table.claim(folio).is_ok_and(|claim| {
            drop(claim.release());
            true
        });
        let other = other.join().unwrap();
        assert!(claimed || other, "neither got it");
        let counts = table.counts_of(folio);
        assert_eq!((counts.references(), counts.pins()), (1, 0));
        assert!(!counts.is_claimed());
    });
}

/// "Mark, then look for pins" against "pin, then look for the mark": they cannot both miss the
/// other, so an isolated folio is never pinned unseen.
#[test]
fn a_mark_and_a_pin_see_each_other() {
    loom::model(|| {
        let shared = Shared::new();
        let pinner = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let table = shared.table();
                table.folio(PFN).is_some_and(|folio| {
                    let marked = folio.info().flags.contains(FolioFlags::ISOLATED);
                    !marked && table.pin(folio, PageCount::ONE).is_ok()
                })
            })
        };
        let table = shared.table();
        let folio = table.folio(PFN).unwrap();
        table.set_flags(folio, FolioFlags::ISOLATED, true);
        let seen = table.counts_of(folio).pins();
        let pinned_unmarked = pinner.join().unwrap();
        assert!(!(pinned_unmarked && seen == 0), "the mark and the pin missed each other");
    });
}

/// Why `counts_of` has a barrier, and a pin is sequentially consistent: with acquire and release
/// alone the mover misses the pin and the pin misses the mover.
#[test]
#[should_panic(expected = "the folio was moved under a pin")]
fn without_the_barrier_a_pin_and_a_migration_miss_each_other() {
    loom::model(|| {
        let words = Arc::new((Word::new(1), Word::new(0)));
        let pinner = {
            let words = Arc::clone(&words);
            thread::spawn(move || {
                let (entry, pins) = &*words;
                pins.fetch_add(1, Ordering::AcqRel);
                entry.load(Ordering::Acquire) == 1
            })
        };
        let (entry, pins) = &*words;
        entry.swap(0, Ordering::AcqRel);
        let moved = pins.load(Ordering::Acquire) == 0;
        let pinned = pinner.join().unwrap();
        assert!(!(moved && pinned), "the folio was moved under a pin");
    });
}

/// Whoever has a folio to itself has it alone: no reference is added meanwhile, and none that is
/// there is overlooked.
#[test]
fn a_frozen_folio_gets_no_reference() {
    loom::model(|| {
        let shared = Shared::new();
        let inside = Arc::new(Word::new(0));
        let other = {
            let (shared, inside) = (Arc::clone(&shared), Arc::clone(&inside));
            thread::spawn(move || {
                let table = shared.table();
                let folio = table.folio(PFN).unwrap();
                if table.get(folio, 1).is_ok() {
                    assert_eq!(inside.load(Ordering::SeqCst), 0, "a reference to a frozen folio");
                    assert!(table.put(folio, 1).unwrap().is_none());
                }
            })
        };
        let table = shared.table();
        if let Ok(frozen) = table.freeze(table.folio(PFN).unwrap(), 1) {
            inside.store(1, Ordering::SeqCst);
            inside.store(0, Ordering::SeqCst);
            frozen.unfreeze(1);
        }
        other.join().unwrap();
        let counts = table.counts_of(table.folio(PFN).unwrap());
        assert_eq!((counts.references(), counts.pins()), (1, 0));
    });
}
