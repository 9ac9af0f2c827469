//! The skeleton of a kernel with a direct map: one impl of its own, the rest is ready-made.
#![expect(unsafe_code, reason = "only the kernel knows that its direct map is one")]
use pinfold::folio::{FolioFlags as Flags, FolioInfo, FolioKind};
use pinfold::host::{DirectMap, Mapping, MappingKind as Kind, Mappings, Parts, SpaceId};
use pinfold::{sync::Word, *};
use std::ptr::NonNull;

struct Vmas(AddrRange);
impl Mappings for Vmas {
    fn mapping(&self, _: SpaceId, va: VirtAddr) -> Option<Mapping> {
        let (range, kind, access) = (self.0, Kind::Anonymous, Access::all());
        let (shared, may_write, dirty_tracked) = (false, true, false);
        let map = Mapping { range, kind, shared, access, may_write, dirty_tracked };
        range.contains(va).then_some(map)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What a kernel has: memory (five frames: tables in 1, 2, 3 and 0, a page in 4) and a few words.
    let ram: Vec<Word> = (0..5 * 512).map(|_| Word::new(0)).collect();
    let words: Vec<Word> = (0..5 * 2 + 64).map(|_| Word::new(0)).collect();
    for (entry, raw) in [(0, 0x1007), (512, 0x2007), (1024, 0x3007), (1536, 0x4067)] {
        ram[entry].store(raw, sync::Ordering::Relaxed);
    }
    let range = AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_4K)?;
    let start = NonNull::from(&ram[..]).cast();
    // SAFETY: all of `ram` is mapped there, and it is made of atomics.
    let memory = unsafe { DirectMap::new(start, PhysAddr::new(0), 5 << 12) };
    let frames = FrameTable::new(&words[..10], Pfn::new(0), PageShift::SIZE_4K)?;
    let (order, kind, flags) = (Order::ZERO, FolioKind::Anonymous, Flags::EXCLUSIVE);
    frames.add_memory(Pfn::new(4), FolioInfo { order, kind, flags })?.unfreeze(1);

    let engine = Engine::new(Parts::new(memory, Vmas(range)), frames);
    let (format, table) = (X86_64::new(4, 40)?, PinTable::new(&words[10..])?);
    let space = AddressSpace::new(SpaceId(0), format, format.root(0)?);
    engine.pin(&space, &table, &PinRequest::longterm(range, Access::all()))?;
    assert_eq!(table.lookup(VirtAddr::new(0x123)), Ok(PhysAddr::new(0x4123)));
    engine.unpin(&table, Dirtied::All).map(|_| ()).map_err(Into::into)
}
