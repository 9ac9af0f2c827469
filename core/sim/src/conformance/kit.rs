//! What the checks are made of.

use pinfold::folio::{Folio, FolioFlags};
use pinfold::frames::Counts;
use pinfold::host::{Fault, FaultIn, GupHost, WalkGuard};
use pinfold::sync::Word;
use pinfold::walk::{Translation, translate};
use pinfold::{
    Access, AccountId, AddrRange, Dirtied, Engine, PhysAddr, PinError, PinFlags, PinRequest,
    PinTable, Pinned, VirtAddr,
};

use super::{Memory, Subject};

/// Why a check ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The embedder has not what it takes.
    Needs(String),
    /// The duty is broken, and this was seen.
    Broken(String),
}

/// How a check ends.
pub(super) type Verdict<T = ()> = Result<T, Stop>;

/// The duty is broken unless this holds.
pub(super) fn holds(holds: bool, seen: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Stop::Broken(seen())) }
}

/// A pin failed, and why is the business of another check.
pub(super) fn no_pin(error: PinError) -> Stop {
    Stop::Needs(format!("the check needs a pin that succeeds: {error}"))
}

/// The account that checks charge.
pub(super) const ACCOUNT: AccountId = AccountId(0x70f0);

/// Places where nothing may be pinned for long.
pub(super) const MISPLACED: FolioFlags =
    FolioFlags::CMA.union(FolioFlags::MOVABLE).union(FolioFlags::ISOLATED);

pub(super) const BOTH: Access = Access::READ.union(Access::WRITE);

/// The subject's deeds, with "not to be had" as an early end.
pub(super) struct Kit<'a, S>(pub(super) &'a S);

/// Declares the deeds that are passed on: the subject answers, or the check is left out.
macro_rules! deeds {
    ($($deed:ident($($arg:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(pub(super) fn $deed(&self, $($arg: $kind),*) -> Verdict<$answer> {
            let answer = self.0.$deed($($arg),*);
            answer.ok_or_else(|| Stop::Needs(format!("the subject has no `{}`", stringify!($deed))))
        })*
    };
}

impl<'a, S: Subject> Kit<'a, S> {
    deeds! {
        unmap(space: &S::Space, range: AddrRange) -> ();
        unmap_in_walk(space: &S::Space, range: AddrRange) -> ();
        fork(space: &S::Space) -> S::Space;
        load(space: &S::Space, va: VirtAddr) -> u8;
        store(space: &S::Space, va: VirtAddr, byte: u8) -> ();
        device_load(at: PhysAddr) -> u8;
        device_store(at: PhysAddr, byte: u8) -> ();
        misplace(space: &S::Space, va: VirtAddr) -> ();
        cache_reference(space: &S::Space, va: VirtAddr) -> ();
        lock_held() -> bool;
        masked() -> bool;
        shrink() -> ();
        charged(account: AccountId) -> u64;
        free_pages() -> u64;
    }

    pub(super) fn host(&self) -> &'a S::Host {
        self.0.host()
    }

    pub(super) fn map(&self, memory: Memory, pages: u64) -> Verdict<(S::Space, AddrRange)> {
        let none = || Stop::Needs(format!("the subject maps no {pages} pages of {memory:?}"));
        self.0.map(memory, pages).ok_or_else(none)
    }

    /// Mapped memory whose pages are present, and writable where they can be.
    pub(super) fn present(&self, memory: Memory, pages: u64) -> Verdict<(S::Space, AddrRange)> {
        let (space, range) = self.map(memory, pages)?;
        let there = |va| self.translate(&space, va).is_some_and(|there| there.rights.allow(BOTH));
        for va in addresses(&range).filter(|va| !there(*va)) {
            let fault = Fault { access: BOTH, unshare: false, longterm: false };
            let made = self.host().fault().fault_in(space.id(), va, fault);
            if made.is_err() || !there(va) {
                let want = format!("the check needs a page of {memory:?} at {va}: {made:?}");
                return Err(Stop::Needs(want));
            }
        }
        Ok((space, range))
    }

    /// Where an address leads now.
    pub(super) fn translate(&self, space: &S::Space, va: VirtAddr) -> Option<Translation> {
        let guard = self.host().guard();
        let saved = guard.enter(space.id());
        let found = translate(space, self.host().memory(), va);
        guard.leave(space.id(), saved);
        found.ok().flatten()
    }

    /// The folio behind an address.
    pub(super) fn folio(&self, space: &S::Space, va: VirtAddr) -> Verdict<Folio> {
        let nothing = || Stop::Broken(format!("nothing is present at {va} any more"));
        let at = self.translate(space, va).ok_or_else(nothing)?.addr;
        let unknown = || Stop::Broken(format!("the frame table does not know the memory at {at}"));
        self.0.frames().folio(at.pfn(self.0.frames().base())).ok_or_else(unknown)
    }

    pub(super) fn counts(&self, folio: Folio) -> Counts {
        self.0.frames().counts_of(folio)
    }

    /// Pins, looks, and unpins whatever was seen.
    pub(super) fn pinned<T>(
        &self,
        space: &S::Space,
        request: &PinRequest,
        look: impl FnOnce(&PinTable<'_>, Pinned) -> Verdict<T>,
    ) -> Verdict<T> {
        self.try_pin(space, request, look).map_err(no_pin)?
    }

    /// As [`pinned`](Self::pinned), where the pin may fail.
    pub(super) fn try_pin<T>(
        &self,
        space: &S::Space,
        request: &PinRequest,
        look: impl FnOnce(&PinTable<'_>, Pinned) -> Verdict<T>,
    ) -> Result<Verdict<T>, PinError> {
        let engine = Engine::new(self.host(), self.0.frames());
        let words: Vec<Word> = (0..256).map(|_| Word::new(0)).collect();
        let table = PinTable::new(&words).expect("room for two pages and more");
        let pinned = engine.pin(space, &table, request)?;
        let seen = look(&table, pinned);
        let given = engine.unpin(&table, Dirtied::All);
        Ok(seen.and_then(|seen| match given {
            Ok(_) => Ok(seen),
            Err(error) => Err(Stop::Broken(format!("the unpin failed: {error}"))),
        }))
    }

    /// The address behind `va` in a table, which was just pinned.
    pub(super) fn lookup(&self, table: &PinTable<'_>, va: VirtAddr) -> Verdict<PhysAddr> {
        let lost = |_| Stop::Broken(format!("the pin table does not know {va}"));
        table.lookup(va).map_err(lost)
    }
}

/// A long-term pin to read and write.
pub(super) fn longterm(range: AddrRange) -> PinRequest {
    PinRequest { account: ACCOUNT, ..PinRequest::longterm(range, BOTH) }
}

/// The same for a short time.
pub(super) fn shortterm(range: AddrRange) -> PinRequest {
    PinRequest { flags: PinFlags::empty(), ..longterm(range) }
}

/// The first address of every page.
pub(super) fn addresses(range: &AddrRange) -> impl Iterator<Item = VirtAddr> {
    let (start, base) = (range.start().raw(), range.base().raw());
    (0..range.pages().raw()).map(move |page| VirtAddr::new(start + (page << base)))
}
