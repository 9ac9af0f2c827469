//! Registered regions under real threads: readers that map, translate and mark, while regions that share
//! chunks and blocks of the directory come and go, and their records, nodes and tables are used again.
//!
//! The numbers are the same each time, what meets what is not. Every answer is compared with what
//! the pinning side knows, at once; at the end nothing may be left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Barrier, Mutex};

use pinfold::host::SpinWait;
use pinfold::realmode::RealMode;
use pinfold::region::{Pinner, RegionError, Unregistered};
use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, Areas, Dirtied, PageCount, PageShift, PhysAddr, PinRequest, RegionId,
    Registry, VirtAddr,
};

mod engine;
mod source;

const BASE: PageShift = PageShift::SIZE_4K;
const READERS: usize = 3;
const WRITERS: u64 = 2;
/// How often a reader looks at least.
const LOOKS: u64 = 2000;
/// Words of a table, enough for every range here.
const TABLE: usize = 1100;
const TABLES: usize = 48;
/// Records: few, so that they are used again and again.
const RECORDS: u32 = 40;

fn va(page: u64) -> VirtAddr {
    VirtAddr::new(page << 12)
}

fn range(first: u64, pages: u64) -> AddrRange {
    AddrRange::new(va(first), PageCount::new(pages), BASE).unwrap()
}

/// Numbers that look like chance and are the same each time.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// The memory that a registry and its tables take.
struct Memory {
    own: Vec<Word>,
    tables: Vec<Word>,
    window: AddrRange,
}

impl Memory {
    fn new(window: AddrRange) -> Self {
        let own = Registry::words_for(&window, RECORDS).unwrap();
        let words = |n: usize| (0..n).map(|_| Word::new(0)).collect();
        Self { own: words(own), tables: words(TABLE * TABLES), window }
    }

    fn registry(&self) -> Registry<'_> {
        let areas = Areas::new(&[&self.own, &self.tables]).unwrap();
        Registry::new(areas, &self.own, &self.window, RECORDS).unwrap()
    }
}

/// What the pinning side knows.
trait Oracle: Sync {
    /// A value that all right addresses of one region in one block of 512 pages have in common, and
    /// others have not, if frames tell. Panics if the address is wrong for the page; if `held`, a reference is held, and
    /// the frame must be pinned.
    fn check(&self, page: u64, addr: PhysAddr, held: bool) -> Option<u64>;
}

/// A registry, whoever uses it, and where things happen.
struct Stress<'m, P> {
    registry: Registry<'m>,
    pinner: P,
    oracle: &'m dyn Oracle,
    pool: Mutex<Vec<&'m [Word]>>,
    /// Odd while a reader reads.
    reading: [AtomicU64; READERS],
    /// Whether writers wait for readers before they take memory back.
    patient: bool,
    done: AtomicBool,
    /// Regions that are there all the time: first page, and its name.
    stable: Vec<(u64, RegionId)>,
    /// Where all others come and go: first page and pages.
    zones: &'m [(u64, u64)],
}

/// What a reader saw.
#[derive(Default)]
struct Seen {
    /// What the oracle said of the frames of each region, by its blocks of 512 pages.
    frames: HashMap<(u64, u64), u64>,
    marked: Vec<(u64, PhysAddr)>,
    found: u64,
    mapped: u64,
}

/// A mapped reference, and what was read under it.
struct Held {
    region: RegionId,
    page: u64,
    addr: PhysAddr,
}

/// While it lives, somebody reads.
struct Section<'a>(&'a AtomicU64);

impl<'a> Section<'a> {
    fn enter(reading: &'a AtomicU64) -> Self {
        reading.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Self(reading)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl<'m, P: Pinner + Sync> Stress<'m, P> {
    fn new(
        memory: &'m Memory,
        pinner: P,
        oracle: &'m dyn Oracle,
        stable: &[u64],
        zones: &'m [(u64, u64)],
        patient: bool,
    ) -> Self {
        let mut this = Self {
            registry: memory.registry(),
            pinner,
            oracle,
            pool: Mutex::new(memory.tables.chunks(TABLE).collect()),
            reading: [const { AtomicU64::new(0) }; READERS],
            patient,
            done: AtomicBool::new(false),
            stable: Vec::new(),
            zones,
        };
        this.stable = stable.iter().map(|&page| (page, this.register(page, 1).unwrap())).collect();
        this
    }

    fn register(&self, first: u64, pages: u64) -> Result<RegionId, RegionError> {
        let table = self.pool.lock().unwrap().pop().ok_or(RegionError::Full)?;
        let request = PinRequest::longterm(range(first, pages), Access::READ | Access::WRITE);
        let result = self.registry.register(&self.pinner, &request, table);
        if result.is_err() || result.is_ok_and(|registered| registered.pinned.is_none()) {
            self.pool.lock().unwrap().push(table);
        }
        result.map(|registered| registered.region)
    }

    /// Takes retired memory back, and spoils it. Somebody else may read what was taken too early.
    fn reclaim(&self) {
        let grace = self.registry.retired(&SpinWait);
        fence(Ordering::SeqCst);
        for reading in self.reading.iter().filter(|_| self.patient) {
            let now = reading.load(Ordering::SeqCst);
            while now % 2 == 1 && reading.load(Ordering::SeqCst) == now {
                std::thread::yield_now();
            }
        }
        self.registry.reclaim(&SpinWait, grace, |table| {
            // Each word an address that is nobody's.
            table.iter().for_each(|word| word.store(0xbad << 40 | 2, Ordering::Relaxed));
            self.pool.lock().unwrap().push(table);
        });
    }

    /// Registers and unregisters; what is left over. How often each went well.
    fn write(&self, rounds: u64, mut seed: u64) -> (Vec<RegionId>, [u64; 2]) {
        let mut own = Vec::new();
        let mut went = [0, 0];
        for _ in 0..rounds {
            if own.len() < 12 && next(&mut seed) % 5 < 3 {
                let (zone, length) = self.zones[next(&mut seed) as usize % self.zones.len()];
                let first = next(&mut seed) % (length / 16) * 16;
                let sizes = [1, 1, 3, 16, 40, 512, 600];
                let pages = sizes[next(&mut seed) as usize % sizes.len()].min(length - first);
                match self.register(zone + first, pages) {
                    Ok(region) => {
                        own.push(region);
                        went[0] += 1;
                    }
                    Err(RegionError::Overlap { .. } | RegionError::Busy) => {}
                    Err(RegionError::Full | RegionError::NoSpace { .. }) => self.reclaim(),
                    Err(error) => panic!("registering {pages} pages: {error:?}"),
                }
            } else if !own.is_empty() {
                let region = own.swap_remove(next(&mut seed) as usize % own.len());
                match self.registry.unregister(&self.pinner, region, Dirtied::No) {
                    Ok(Unregistered::StillUsed(_) | Unregistered::Gone(_)) => went[1] += 1,
                    Err(RegionError::Mapped { .. }) => own.push(region),
                    Err(error) => panic!("unregistering: {error:?}"),
                }
            }
            if next(&mut seed).is_multiple_of(8) {
                self.reclaim();
            }
        }
        (own, went)
    }

    fn checked(&self, seen: &mut Seen, held: bool, at: &Held) {
        if let Some(frames) = self.oracle.check(at.page, at.addr, held) {
            let before = *seen.frames.entry((at.region.raw(), at.page >> 9)).or_insert(frames);
            assert_eq!(before, frames, "two fillings under one name");
        }
    }

    /// One look at a page: found or not, mapped or not, marked or not.
    fn look(&self, view: &RealMode<'_>, page: u64, mark: bool, seen: &mut Seen) -> Option<Held> {
        let region = view.lookup(va(page), 1).ok()?;
        seen.found += 1;
        if let Some(known) = self.registry.region(region) {
            let first = known.range.start().raw() >> 12;
            assert!(page - first < known.range.pages().raw(), "{known:?} holds no page {page}");
        }
        if let Ok(addr) = view.translate(region, va(page), BASE) {
            self.checked(seen, false, &Held { region, page, addr });
        }
        view.map_get(region).ok()?;
        seen.mapped += 1;
        let addr = view.translate(region, va(page), BASE).expect("a reference is held");
        let held = Held { region, page, addr };
        self.checked(seen, true, &held);
        if mark {
            view.mark_dirty(region, va(page)).expect("a reference is held");
            seen.marked.push((page, addr));
        }
        Some(held)
    }

    fn let_go(&self, view: &RealMode<'_>, held: &Held, seen: &mut Seen) {
        let again = view.translate(held.region, va(held.page), BASE);
        assert_eq!(again, Ok(held.addr), "what is mapped has moved");
        self.checked(seen, true, held);
        // Others may change the count at every try of a call, but not for ever.
        let put = (0..1_000_000).any(|_| view.map_put(held.region).is_ok());
        assert!(put, "a reference that is held cannot be given back");
    }

    fn read(&self, number: usize) -> Seen {
        let mut seed = 1000 + number as u64;
        let view = self.registry.realmode();
        let mut seen = Seen::default();
        let mut held: Vec<Held> = Vec::new();
        let mut looks = 0;
        while looks < LOOKS || !self.done.load(Ordering::Acquire) {
            looks += 1;
            let _section = Section::enter(&self.reading[number]);
            let (zone, length) = self.zones[next(&mut seed) as usize % self.zones.len()];
            let page = zone + next(&mut seed) % length;
            let mark = next(&mut seed).is_multiple_of(4);
            held.extend(self.look(&view, page, mark, &mut seen));
            let (page, name) = self.stable[next(&mut seed) as usize % self.stable.len()];
            match view.lookup(va(page), 1 << 12) {
                Ok(region) => assert_eq!(region, name),
                Err(_) => assert!(!self.patient, "a region that is there was not found"),
            }
            held.extend(self.look(&view, page, false, &mut seen));
            while held.len() > (looks % 4) as usize {
                let one = held.swap_remove(next(&mut seed) as usize % held.len());
                self.let_go(&view, &one, &mut seen);
            }
        }
        held.iter().for_each(|held| self.let_go(&view, held, &mut seen));
        seen
    }

    /// Everybody at once, each writer so many times, and then all of it away; what was marked dirty.
    fn run(self, rounds: u64) -> Vec<(u64, PhysAddr)> {
        let start = Barrier::new(READERS + WRITERS as usize);
        let (left, seen) = std::thread::scope(|scope| {
            let (this, start) = (&self, &start);
            let reader = |number| {
                scope.spawn(move || {
                    start.wait();
                    this.read(number)
                })
            };
            let writer = |seed| {
                scope.spawn(move || {
                    start.wait();
                    this.write(rounds, seed)
                })
            };
            let readers: Vec<_> = (0..READERS).map(reader).collect();
            let writers: Vec<_> = (1..=WRITERS).map(writer).collect();
            let left: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            self.done.store(true, Ordering::Release);
            let seen: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
            (left.into_iter().map(Result::unwrap).collect::<Vec<_>>(), seen)
        });
        let mut names: HashMap<u64, (u64, u64)> = HashMap::new();
        for (&region, &frames) in seen.iter().flat_map(|seen| &seen.frames) {
            assert_eq!(*names.entry(frames).or_insert(region), region, "one filling, two names");
        }
        for (own, [registered, removed]) in left {
            assert!(registered > 0 && removed > 0);
            for region in own {
                self.registry.unregister(&self.pinner, region, Dirtied::No).unwrap();
            }
        }
        for (_, region) in &self.stable {
            self.registry.unregister(&self.pinner, *region, Dirtied::No).unwrap();
        }
        self.reclaim();
        assert!(self.registry.is_empty(&SpinWait));
        assert_eq!(self.pool.lock().unwrap().len(), TABLES);
        assert!(seen.iter().all(|seen| seen.found > 0 && seen.mapped > 0));
        seen.into_iter().flat_map(|seen| seen.marked).collect()
    }
}
