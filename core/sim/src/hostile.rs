//! Page tables that somebody else wrote: arbitrary bytes as memory, walked and pinned.
//!
//! What the fuzz target `walk` and the replay of its corpus run.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{Mapping, MappingKind, Mappings, Parts, PhysMem, SpaceId, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{
    Access, AddrRange, AddressSpace, Dirtied, Engine, FrameTable, Order, PageCount, PageFormat,
    PageShift, Pfn, PhysAddr, PinRequest, PinTable, VirtAddr, X86_64,
};

/// Frames of memory; page tables may lie in any of them.
const FRAMES: u64 = 16;
/// Most pages that one input walks.
const PAGES: u64 = 2048;
/// Bytes in front of the memory's contents: flags, start and length of the range.
const HEADER: usize = 16;
const BASE: PageShift = PageShift::SIZE_4K;

struct Ram(Vec<Word>);

impl PhysMem for Ram {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

/// Everything is mapped, readable and writable.
struct Everything;

impl Mappings for Everything {
    fn mapping(&self, _: SpaceId, va: VirtAddr) -> Option<Mapping> {
        let range = AddrRange::new(va.align_down(BASE), PageCount::ONE, BASE).ok()?;
        Some(Mapping {
            range,
            kind: MappingKind::Anonymous,
            shared: false,
            access: Access::all(),
            may_write: true,
            dirty_tracked: false,
        })
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Takes `input` for memory with page tables in it, walks a range and pins it.
///
/// Input: byte 0 bit 0: five levels; bytes 1..8: start of the range; 8..10: its length; from 16 on:
/// memory, as (place, value) pairs of 2 and 8 bytes.
///
/// Returns whether the pin succeeded.
///
/// # Panics
/// If what must hold does not: the walk covers the range in order, without a gap, in bounded steps;
/// a pin succeeds or changes nothing; after the unpin every count is back.
pub fn walk_and_pin(input: &[u8]) -> bool {
    let Some((header, contents)) = input.split_at_checked(HEADER) else { return false };
    let levels = if header[0] & 1 == 0 { 4 } else { 5 };
    // Sign-extended from wherever it says, so that both halves and the hole come up.
    let start = (word(&header[1..8]) << 8).cast_signed() >> (header[0] >> 4);
    let pages = word(&header[8..10]) % PAGES;
    let ram = Ram((0..FRAMES * 512).map(|_| Word::new(0)).collect());
    for pair in contents.chunks_exact(10) {
        let place = usize::try_from(word(&pair[..2])).unwrap_or(0) % ram.0.len();
        ram.0[place].store(word(&pair[2..]).to_le(), pinfold::sync::Ordering::Relaxed);
    }
    let Ok(format) = X86_64::new(levels, 40) else { return false };
    let Ok(root) = format.root(0) else { return false };
    let start = VirtAddr::new(start.cast_unsigned()).align_down(BASE);
    let Ok(range) = AddrRange::new(start, PageCount::new(pages), BASE) else { return false };
    walk(format, &ram, root, range);
    pin(format, ram, root, range)
}

fn walk(format: X86_64, ram: &Ram, root: pinfold::Table, range: AddrRange) {
    let Ok(mut walk) = RangeWalk::new(format, root, ram, range) else {
        assert!(!format.valid(&range), "the root is in memory, so only the range can be wrong");
        return;
    };
    let mut next = range.start().raw();
    loop {
        let (va, pages) = match walk.next_extent() {
            Ok(Some(Extent::Hole { va, pages })) => (va, pages),
            Ok(Some(Extent::Leaf(run))) => {
                assert!(run.unchanged(PageCount::ZERO, run.pages, BASE));
                (run.va, run.pages)
            }
            Ok(None) => break,
            Err(_) => return,
        };
        assert_eq!(va.raw(), next, "a gap or an overlap");
        assert_ne!(pages, PageCount::ZERO, "a step that leads nowhere");
        next = next.wrapping_add(pages.raw() << BASE.raw());
    }
    assert_eq!(next.wrapping_sub(1), range.last().raw(), "the range was not covered");
    assert!(walk.entries() <= 6 * (range.pages().raw() + 1), "entries were decoded twice");
}

fn pin(format: X86_64, ram: Ram, root: pinfold::Table, range: AddrRange) -> bool {
    let words: Vec<Word> = (0..FRAMES * 2).map(|_| Word::new(0)).collect();
    let Ok(frames) = FrameTable::new(&words, Pfn::new(0), BASE) else { return false };
    // Half of the frames are the user's: one large folio and small ones.
    let user =
        |order| FolioInfo { order, kind: FolioKind::Anonymous, flags: FolioFlags::EXCLUSIVE };
    let large = Order::new(2).unwrap_or(Order::ZERO);
    for (pfn, order) in [(8, large), (12, Order::ZERO), (13, Order::ZERO), (14, Order::ZERO)] {
        match frames.add_memory(Pfn::new(pfn), user(order)) {
            Ok(folio) => folio.unfreeze(1),
            Err(error) => panic!("{error}"),
        }
    }
    let counts = || words.iter().map(|word| word.load(pinfold::sync::Ordering::Relaxed));
    let before: Vec<u64> = counts().collect();
    let engine = Engine::new(Parts::new(ram, Everything), frames);
    let space = AddressSpace::new(SpaceId(0), format, root);
    let memory: Vec<Word> = (0..PAGES + 64).map(|_| Word::new(0)).collect();
    let Ok(table) = PinTable::new(&memory) else { return false };
    let pinned = engine.pin(&space, &table, &PinRequest::longterm(range, Access::READ)).is_ok();
    if pinned {
        for run in table.runs() {
            assert!((8..15).contains(&run.pfn.raw()), "pinned what is not the user's");
            assert_eq!(table.lookup(run.va).ok(), run.pfn.addr(BASE));
        }
        assert!(engine.unpin(&table, Dirtied::No).is_ok());
    }
    assert!(counts().eq(before), "a count was not given back");
    pinned
}

#[cfg(test)]
mod tests {
    use super::walk_and_pin;

    #[test]
    fn short_and_empty_inputs_are_nothing() {
        for length in 0..40 {
            assert!(!walk_and_pin(&vec![0xff; length]));
        }
    }
}
