//! The engine's regions: a fixed number of slots, named by slot and generation.
//!
//! A slot is taken, filled and freed under the lock. Readers take no lock: they look at the state
//! word, read, and look again.

#![expect(unsafe_code, reason = "reads the table memory that C gives")]

use pinfold::host::{Wait, locked};
use pinfold::sync::{AtomicPtr, Lock, Ordering, Word, fence};
use pinfold::table::PinTable;

use crate::memory::Words;
use crate::status::{
    PINFOLD_ERR_BUSY, PINFOLD_ERR_CORRUPT, PINFOLD_ERR_NOT_FOUND, PINFOLD_ERR_OVERFLOW,
    PINFOLD_ERR_TOO_HARD, Status,
};

/// Slots; as many as the bits of the set of used ones.
pub(crate) const SLOTS: usize = u64::BITS as usize;
/// Bits of an id that name the slot, and of a state word that hold the state.
const LOW_BITS: u32 = 8;
const LOW: u64 = (1 << LOW_BITS) - 1;

/// What a slot is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
enum State {
    Free = 0,
    /// Its memory is being pinned; nobody has the id yet.
    Filling = 1,
    Live = 2,
    /// Its memory is being unpinned.
    Closing = 3,
}

#[derive(Debug)]
struct Slot {
    /// Generation above, state below. Written under the lock; read by anybody.
    state: Word,
    /// The table memory. Written under the lock, only while the state is not live, each time after
    /// the state was stored; so a reader that finds the same live state before and after has read
    /// two halves that belong together.
    first: AtomicPtr<Word>,
    words: Word,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: Word::new(0),
            first: AtomicPtr::new(core::ptr::null_mut()),
            words: Word::new(0),
        }
    }

    fn memory(&self) -> Words {
        // Acquire: pairs with the fence in `take`, so that a reader who sees a new half also sees the
        // state that was stored before it.
        let words = pinfold_arch::addr::index(self.words.load(Ordering::Acquire));
        Words::at(self.first.load(Ordering::Acquire), words)
    }

    /// Stores a state. Release: whoever finds it live finds the table complete.
    fn set(&self, generation: u64, state: State) {
        self.state.store(generation << LOW_BITS | state as u64, Ordering::Release);
    }
}

/// The name of a region: its slot, and which of the slot's regions it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name(pub(crate) u64);

impl Name {
    fn slot(self) -> usize {
        pinfold_arch::addr::index(self.0 & LOW)
    }

    fn generation(self) -> u64 {
        self.0 >> LOW_BITS
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Slots {
    /// A bit for each slot that is not free.
    used: Lock<u64>,
    slots: [Slot; SLOTS],
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self { used: Lock::new(0), slots: [const { Slot::new() }; SLOTS] }
    }

    /// The slot that `name` means, if it was not given to another region since.
    fn find(&self, name: Name) -> Result<(&Slot, u64), Status> {
        let slot = self.slots.get(name.slot()).ok_or(PINFOLD_ERR_NOT_FOUND)?;
        // Acquire: pairs with `set`.
        let state = slot.state.load(Ordering::Acquire);
        let free = state & LOW == State::Free as u64;
        if free || state >> LOW_BITS != name.generation() {
            return Err(PINFOLD_ERR_NOT_FOUND);
        }
        Ok((slot, state))
    }

    /// Takes a free slot for a region with this table memory.
    pub(crate) fn take(&self, wait: &impl Wait, memory: Words) -> Result<Name, Status> {
        locked(wait, &self.used, |used| {
            let shared = self
                .slots
                .iter()
                .enumerate()
                .any(|(at, slot)| *used >> at & 1 != 0 && slot.memory().overlaps_words(memory));
            if shared {
                return Err(PINFOLD_ERR_BUSY);
            }
            let at = u64::from(used.trailing_ones());
            let slot = self.slots.get(pinfold_arch::addr::index(at)).ok_or(PINFOLD_ERR_OVERFLOW)?;
            let generation = (slot.state.load(Ordering::Relaxed) >> LOW_BITS) + 1;
            slot.set(generation, State::Filling);
            // Whatever this thread writes from here on, the two halves and later the table's words,
            // a reader that sees it also sees that the slot's last region is gone: the fence pairs
            // with the reader's acquire loads.
            fence(Ordering::Release);
            slot.first.store(memory.first(), Ordering::Relaxed);
            slot.words.store(memory.count() as u64, Ordering::Relaxed);
            *used |= 1 << at;
            Ok(Name(generation << LOW_BITS | at))
        })
    }

    /// Opens the region to readers.
    pub(crate) fn publish(&self, wait: &impl Wait, name: Name) {
        locked(wait, &self.used, |_| {
            if let Some(slot) = self.slots.get(name.slot()) {
                slot.set(name.generation(), State::Live);
            }
        });
    }

    /// Closes a live region to readers; its table memory.
    pub(crate) fn close(&self, wait: &impl Wait, name: Name) -> Result<Words, Status> {
        locked(wait, &self.used, |_| {
            let (slot, state) = self.find(name)?;
            if state & LOW != State::Live as u64 {
                return Err(PINFOLD_ERR_BUSY);
            }
            slot.set(name.generation(), State::Closing);
            Ok(slot.memory())
        })
    }

    /// Frees the slot. The name means nothing from now on.
    pub(crate) fn free(&self, wait: &impl Wait, name: Name) {
        locked(wait, &self.used, |used| {
            if let Some(slot) = self.slots.get(name.slot()) {
                slot.set(name.generation(), State::Free);
                *used &= !(1 << (name.0 & LOW));
            }
        });
    }

    /// Whether no slot is used.
    pub(crate) fn is_empty(&self, wait: &impl Wait) -> bool {
        locked(wait, &self.used, |used| *used == 0)
    }

    /// Reads a live region's table without a lock.
    pub(crate) fn read<R>(
        &self,
        name: Name,
        read: impl FnOnce(PinTable<'_>) -> Result<R, Status>,
    ) -> Result<R, Status> {
        let (slot, state) = self.find(name)?;
        if state & LOW != State::Live as u64 {
            return Err(PINFOLD_ERR_TOO_HARD);
        }
        // It comes after the loads before it, which are acquire loads, here and in the table.
        let unchanged = || slot.state.load(Ordering::Acquire) == state;
        let memory = slot.memory();
        if !unchanged() {
            return Err(PINFOLD_ERR_TOO_HARD);
        }
        // SAFETY: both halves are those that the live region was registered with, whose words are the
        // library's until readers that began before its end have ended.
        let words = unsafe { memory.words() };
        let result = PinTable::open(words).map_err(|_| PINFOLD_ERR_CORRUPT).and_then(read);
        if unchanged() { result } else { Err(PINFOLD_ERR_TOO_HARD) }
    }

    /// Works on a live region's table under the lock: it cannot be closed meanwhile.
    pub(crate) fn hold<R>(
        &self,
        wait: &impl Wait,
        name: Name,
        work: impl FnOnce(PinTable<'_>) -> Result<R, Status>,
    ) -> Result<R, Status> {
        locked(wait, &self.used, |_| self.read(name, work))
    }
}

#[cfg(test)]
mod tests {
    use pinfold::host::SpinWait;

    use super::*;

    const WORDS: usize = 16;

    fn memory(words: &[Word; WORDS]) -> Words {
        assert!(PinTable::new(words).is_ok());
        Words::at(words.as_ptr().cast_mut(), WORDS)
    }

    fn live(slots: &Slots, words: &[Word; WORDS]) -> Name {
        let name = slots.take(&SpinWait, memory(words)).unwrap();
        slots.publish(&SpinWait, name);
        name
    }

    fn read(slots: &Slots, name: Name, meanwhile: impl FnOnce()) -> Result<(), Status> {
        slots.read(name, |_| {
            meanwhile();
            Ok(())
        })
    }

    #[test]
    fn a_region_that_goes_while_it_is_read_was_not_read() {
        let (slots, words) = (Slots::new(), [const { Word::new(0) }; WORDS]);
        let name = live(&slots, &words);
        assert_eq!(read(&slots, name, || ()), Ok(()));
        let close = || assert!(slots.close(&SpinWait, name).is_ok());
        assert_eq!(read(&slots, name, close), Err(PINFOLD_ERR_TOO_HARD));
        assert_eq!(read(&slots, name, || ()), Err(PINFOLD_ERR_TOO_HARD));
        slots.free(&SpinWait, name);
        assert_eq!(read(&slots, name, || ()), Err(PINFOLD_ERR_NOT_FOUND));
    }

    #[test]
    fn nor_was_it_if_another_has_its_slot_and_table_by_then() {
        let (slots, words) = (Slots::new(), [const { Word::new(0) }; WORDS]);
        let old = live(&slots, &words);
        let replace = || {
            assert!(slots.close(&SpinWait, old).is_ok());
            slots.free(&SpinWait, old);
            let new = live(&slots, &words);
            assert_eq!(new.slot(), old.slot());
            assert_eq!(read(&slots, new, || ()), Ok(()));
        };
        assert_eq!(read(&slots, old, replace), Err(PINFOLD_ERR_TOO_HARD));
        assert_eq!(read(&slots, old, || ()), Err(PINFOLD_ERR_NOT_FOUND));
    }
}
