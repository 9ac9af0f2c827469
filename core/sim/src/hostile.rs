//! Page tables that somebody else wrote: arbitrary bytes as memory, walked and pinned.
//!
//! What the fuzz target `walk` and the replay of its corpus run.

use pinfold::folio::{FolioFlags, FolioInfo, FolioKind};
use pinfold::host::{Mapping, MappingKind, Mappings, Parts, PhysMem, SpaceId, TableView};
use pinfold::sync::Word;
use pinfold::walk::{Extent, RangeWalk};
use pinfold::{
    Aarch64, Aarch64Stage2, Access, AddrRange, AddressSpace, AnyFormat, Dirtied, Engine,
    FrameTable, Granule, Order, PageCount, PageFormat, PageShift, Pfn, PhysAddr, PinRequest,
    PinTable, PowerRadix, S390x, VirtAddr, X86_64,
};
use pinfold_arch::format::FormatError;
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{Geometry, Table};

/// Frames of memory; page tables may lie in any of them.
const FRAMES: u64 = 16;
/// Most pages that one input walks.
const PAGES: u64 = 2048;
/// Bytes in front of the memory's contents: flags, start and length of the range.
const HEADER: usize = 16;

struct Ram(Vec<Word>);

impl PhysMem for Ram {
    fn table(&self, base: PhysAddr, entries: usize) -> Option<TableView<'_>> {
        let first = usize::try_from(base.raw()).ok()? / 8;
        Some(TableView::from_words(self.0.get(first..first.checked_add(entries)?)?))
    }
}

/// The format with a number, as inputs name it.
fn format(number: u8) -> Result<Option<AnyFormat>, FormatError> {
    let large = PageShift::new(16).unwrap_or(PageShift::SIZE_4K);
    let tracked = Aarch64::new(Granule::Size4K, 52, 52)?.with_hardware_dirty(true);
    let faulting = Aarch64::new(Granule::Size64K, 52, 52)?.with_hardware_access(false);
    Ok(Some(match number {
        0 => X86_64::new(4, 40)?.into(),
        1 => X86_64::new(5, 40)?.into(),
        2 => Aarch64::new(Granule::Size4K, 48, 40)?.into(),
        3 => tracked.into(),
        4 => Aarch64::new(Granule::Size16K, 47, 40)?.into(),
        5 => Aarch64::new(Granule::Size64K, 48, 48)?.into(),
        6 => faulting.into(),
        7 => Aarch64Stage2::new(Granule::Size4K, 40, 40)?.into(),
        8 => S390x::new(2, Facilities::empty())?.into(),
        9 => S390x::new(3, Facilities::empty())?.into(),
        10 => S390x::new(5, Facilities::all())?.into(),
        11 => PowerRadix::new(PageShift::SIZE_4K)?.into(),
        12 => PowerRadix::new(large)?.into(),
        _ => return Ok(None),
    }))
}

/// Everything is mapped, readable and writable, in base pages of this size.
struct Everything(PageShift);

impl Mappings for Everything {
    fn mapping(&self, _: SpaceId, va: VirtAddr) -> Option<Mapping> {
        let range = AddrRange::new(va.align_down(self.0), PageCount::ONE, self.0).ok()?;
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
/// Input: byte 0, low half: the format, 0 and 1 are x86_64 with four and five levels, 2 to 7 are
/// aarch64's, 8 to 10 s390x's, 11 and 12 POWER's, others are none; high half: how far the start is
/// shifted down; bytes 1..8: start of the range; 8..10: its length; from 16 on: memory, as (place,
/// value) pairs of 2 and 8 bytes. The top table begins at address 0.
///
/// Returns whether the pin succeeded.
///
/// # Panics
/// If what must hold does not: the walk covers the range in order, without a gap, in bounded steps;
/// a pin succeeds or changes nothing; after the unpin every count is back.
pub fn walk_and_pin(input: &[u8]) -> bool {
    let Some((header, contents)) = input.split_at_checked(HEADER) else { return false };
    let Ok(Some(format)) = format(header[0] & 0xf) else { return false };
    let base = format.base();
    // Sign-extended from wherever it says, so that both halves and the hole come up.
    let start = (word(&header[1..8]) << 8).cast_signed() >> (header[0] >> 4);
    let pages = word(&header[8..10]) % PAGES;
    let ram = Ram((0..FRAMES << base.raw() >> 3).map(|_| Word::new(0)).collect());
    for pair in contents.chunks_exact(10) {
        let place = usize::try_from(word(&pair[..2])).unwrap_or(0) % ram.0.len();
        let value = word(&pair[2..]);
        let value = if format.big_endian() { value.to_be() } else { value.to_le() };
        ram.0[place].store(value, pinfold::sync::Ordering::Relaxed);
    }
    let root = format.top(PhysAddr::new(0));
    let start = VirtAddr::new(start.cast_unsigned()).align_down(base);
    let Ok(range) = AddrRange::new(start, PageCount::new(pages), base) else { return false };
    walk(format, &ram, root, range);
    pin(format, ram, root, range)
}

fn walk(format: AnyFormat, ram: &Ram, root: Table, range: AddrRange) {
    let base = format.base();
    let Ok(mut walk) = RangeWalk::new(format, root, ram, range) else {
        assert!(!format.valid(&range), "the root is in memory, so only the range can be wrong");
        return;
    };
    let mut next = range.start().raw();
    loop {
        let (va, pages) = match walk.next_extent() {
            Ok(Some(Extent::Hole { va, pages })) => (va, pages),
            Ok(Some(Extent::Leaf(run))) => {
                assert!(run.unchanged(PageCount::ZERO, run.pages, base));
                (run.va, run.pages)
            }
            Ok(None) => break,
            Err(_) => return,
        };
        assert_eq!(va.raw(), next, "a gap or an overlap");
        assert_ne!(pages, PageCount::ZERO, "a step that leads nowhere");
        next = next.wrapping_add(pages.raw() << base.raw());
    }
    assert_eq!(next.wrapping_sub(1), range.last().raw(), "the range was not covered");
    assert!(walk.entries() <= 6 * (range.pages().raw() + 1), "entries were decoded twice");
}

fn pin(format: AnyFormat, ram: Ram, root: Table, range: AddrRange) -> bool {
    let base = format.base();
    let words: Vec<Word> = (0..FRAMES * 2).map(|_| Word::new(0)).collect();
    let Ok(frames) = FrameTable::new(&words, Pfn::new(0), base) else { return false };
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
    let engine = Engine::new(Parts::new(ram, Everything(base)), frames);
    let space = AddressSpace::new(SpaceId(0), format, root);
    let memory: Vec<Word> = (0..PAGES + 64).map(|_| Word::new(0)).collect();
    let Ok(table) = PinTable::new(&memory) else { return false };
    let pinned = engine.pin(&space, &table, &PinRequest::longterm(range, Access::READ)).is_ok();
    if pinned {
        for run in table.runs() {
            assert!((8..15).contains(&run.pfn.raw()), "pinned what is not the user's");
            assert_eq!(table.lookup(run.va).ok(), run.pfn.addr(base));
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
