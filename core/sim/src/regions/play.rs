//! One script, step by step.

use pinfold::region::{Grace, RegionError};
use pinfold::sync::Word;
use pinfold::table::TooHard;
use pinfold::{AddrRange, Areas, PageShift, PhysAddr, RealMode, RegionId, Registry, VirtAddr};

use super::Outcome;
use super::garbage::{copied, poke, spoil};
use super::model::{BASE, Known, Model, NODE, Pages, range};
use crate::PinHost;

/// Nodes that a registry can grow to.
const MOST_NODES: u64 = 24;
/// Words of each table: enough for what is pinned here.
pub(super) const TABLE: usize = 2200;
/// Windows with root blocks of each order: how many pages they have, and the order.
const WINDOWS: [(u64, u32); 4] = [(500, 0), (1 << 16, 9), (1 << 26, 18), (1 << 36, 27)];
/// Where they begin; the last is the top of all addresses.
const STARTS: [u64; 4] = [0, 0x1ff, 0x4_0000_0321, 1 << 52];

pub(super) struct Play<'m> {
    pub(super) registry: Registry<'m>,
    pub(super) host: PinHost,
    pub(super) window: Pages,
    /// The registry's words, and those that it can have.
    own: &'m [Word],
    pub(super) have: usize,
    pub(super) fixed: usize,
    pub(super) tables: &'m [Word],
    pub(super) free_tables: Vec<usize>,
    pub(super) records: usize,
    pub(super) model: Model,
    graces: Vec<(Grace, u64)>,
    pub(super) dead: Vec<RegionId>,
    pub(super) outcome: Outcome,
}

/// Sets everything up and plays.
pub(super) fn with<R>(head: &[u8; 4], act: impl FnOnce(Play<'_>) -> R) -> R {
    let (pages, order) = WINDOWS[usize::from(head[0]) % 4];
    let first = STARTS[usize::from(head[0] >> 2) % 4].min((1 << 52) - pages);
    let records = 1 + head[1] % 12;
    let window = window((first, first + pages));
    let fixed = Registry::words_for(&window, u32::from(records)).unwrap_or(0)
        - 2 * usize::from(records) * (order as usize / 9) * NODE as usize;
    let have = fixed + usize::from(head[2] % 16) * NODE as usize + usize::from(head[2] >> 4);
    let most = fixed + (MOST_NODES * NODE) as usize;
    let tables = usize::from(records) + 1;
    let memory: Vec<Word> = (0..most + tables * TABLE).map(|_| Word::new(0x5a5a_5a5a)).collect();
    let (own, table_words) = memory.split_at(most);
    let areas = Areas::new(&[own, table_words]).expect("two parts of one");
    let registry = Registry::new(areas, &own[..have], &window, u32::from(records));
    let host = PinHost::new(BASE);
    host.set_step([4096, 1, 7, 300][usize::from(head[3] % 4)]);
    act(Play {
        registry: registry.expect("there is room for records and root"),
        host,
        window: (first, first + pages),
        own,
        have,
        fixed,
        tables: table_words,
        free_tables: (0..tables).collect(),
        records: usize::from(records),
        model: Model { order, ..Model::default() },
        graces: Vec::new(),
        dead: Vec::new(),
        outcome: Outcome::default(),
    })
}

fn window(pages: Pages) -> AddrRange {
    range(pages).expect("windows have addresses")
}

impl<'m> Play<'m> {
    fn view(&self) -> RealMode<'m> {
        self.registry.realmode()
    }

    /// Pages near the borders of blocks of all sizes.
    fn pages(&self, [a, b, c]: [u8; 3]) -> Pages {
        let place =
            u64::from(a & 3) << 9 | u64::from(a >> 2 & 3) << 18 | u64::from(a >> 4 & 3) << 27;
        let near = if b < 128 { u64::from(b) } else { 511 - u64::from(b - 128) };
        let first = (self.window.0 >> 27 << 27) + place + near;
        let inside = (self.window.0..self.window.1).contains(&first);
        let first = if inside { first } else { self.window.0 + near };
        let operand = u64::from(c & 63);
        let pages = match c >> 6 {
            0 => 1 + operand % 8,
            1 => 1 << (operand % 30),
            2 => 512 * (1 + operand % 4),
            _ => 1 + operand * 37,
        };
        (first, first + pages)
    }

    pub(super) fn known(&mut self, which: u8) -> Option<&mut Known> {
        let count = self.model.regions.len();
        self.model.regions.values_mut().nth(usize::from(which).checked_rem(count)?)
    }

    pub(super) fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        match what & 15 {
            0..4 => self.register(self.pages([a, b, c]), a >> 6 & 1 != 0, u64::from(what >> 4)),
            4 | 5 => {
                let at = PhysAddr::new(u64::from(a >> 6) << 40 | u64::from(b & 7) << 12);
                self.register_device(self.pages([a, b, c]), at);
            }
            6 | 7 => self.unregister(a, b & 1 != 0),
            8 => self.map(a, b % 4),
            9 => self.unmap(a),
            10 => self.translate(a, b, c),
            11 => {
                if let Some(Known { pages, device, .. }) = self.known(a).cloned() {
                    match device {
                        Some(at) => self.register_device(pages, at),
                        None => self.register(pages, b & 1 != 0, 0),
                    }
                }
            }
            12 => self.graces.push((self.registry.retired(&self.host), self.model.time)),
            13 if !self.graces.is_empty() => {
                let (grace, time) = self.graces.remove(usize::from(a) % self.graces.len());
                self.reclaim(grace, time);
            }
            14 => self.grow(usize::from(a) * 4 + usize::from(b & 1)),
            15 => self.elsewhere([a, b, c]),
            _ => {}
        }
        if what & 15 == 12 {
            self.model.time += 1;
        }
        self.check();
    }

    fn map(&mut self, which: u8, times: u8) {
        let view = self.view();
        if let Some(known) = self.known(which) {
            for _ in 0..times {
                assert_eq!(view.map_get(known.id), Ok(()));
                known.mapped += 1;
            }
        }
    }

    fn unmap(&mut self, which: u8) {
        let view = self.view();
        if let Some(known) = self.known(which) {
            let expected = if known.mapped == 0 { Err(TooHard) } else { Ok(()) };
            assert_eq!(view.map_put(known.id), expected);
            known.mapped = known.mapped.saturating_sub(1);
        }
    }

    fn translate(&mut self, which: u8, where_to: u8, shift: u8) {
        let (view, distance) = (self.view(), PinHost::DISTANCE << 12);
        let Some(known) = self.known(which) else { return };
        let count = known.pages.1 - known.pages.0;
        // Sometimes just outside, at either end.
        let page = (known.pages.0 + u64::from(where_to).wrapping_mul(0x1_0003) % (count + 1))
            .wrapping_sub(u64::from(where_to & 1));
        let va = VirtAddr::new(page << 12 | u64::from(where_to));
        let inside = (known.pages.0..known.pages.1).contains(&page);
        let start = known.pages.0 << 12;
        let addr = match known.device {
            Some(at) => at.raw().wrapping_add(va.raw().wrapping_sub(start)),
            None => va.raw().wrapping_add(distance),
        };
        let shift = PageShift::new(12 + shift % 24).unwrap_or(BASE);
        let fits = inside && shift <= known.usable();
        let found = view.translate(known.id, va, shift).ok();
        assert_eq!(found, fits.then_some(PhysAddr::new(addr)));
        let marked = view.mark_dirty(known.id, va).is_ok();
        assert_eq!(marked, inside && known.mapped != 0);
        if marked && known.device.is_none() {
            known.marked.push(page);
        }
    }

    fn reclaim(&mut self, grace: Grace, time: u64) {
        let mut tables = Vec::new();
        let begin = self.tables.as_ptr().addr();
        self.registry.reclaim(&self.host, grace, |words| {
            assert_eq!(words.len(), TABLE);
            tables.push((words.as_ptr().addr() - begin) / size_of::<Word>() / TABLE);
        });
        assert_eq!(tables, self.model.reclaim(time), "each table once, and in order");
        self.free_tables.extend(tables);
    }

    pub(super) fn reclaim_all(&mut self) {
        let grace = self.registry.retired(&self.host);
        let time = self.model.time;
        self.model.time += 1;
        self.reclaim(grace, time);
    }

    fn grow(&mut self, words: usize) {
        let more = &self.own[self.have..self.own.len().min(self.have + words)];
        let expected = if more.is_empty() { Err(RegionError::Unreachable) } else { Ok(()) };
        assert_eq!(self.registry.grow(&self.host, more), expected);
        self.have += more.len();
    }

    /// The same words at other addresses say the same; with others among them they do no harm.
    fn elsewhere(&self, [a, b, c]: [u8; 3]) {
        let (own, tables) = (copied(self.own), copied(self.tables));
        let areas = Areas::new(&[&own, &tables]).expect("apart");
        let view = RealMode::open(areas, &own[..8]).expect("a registry");
        self.model.check(&view);
        for n in 0..u64::from(c & 7) {
            // Header, records, root and nodes; now and then a table.
            let place = u64::from(a) << 3 ^ u64::from(b) ^ n.wrapping_mul(0x11);
            let words = if c >> 6 == 3 { &tables } else { &own };
            spoil(words, place % if c & 8 == 0 { 64 } else { u64::MAX }, b, a ^ c);
        }
        let mut regions: Vec<RegionId> = self.dead.iter().copied().rev().take(2).collect();
        regions.extend(self.model.regions.values().map(|known| known.id).take(4));
        regions.extend([0, u64::MAX, 1 << 32, 1 << 32 | 3].map(RegionId::from_raw));
        let borders = self.model.regions.values().flat_map(|known| [known.pages.0, known.pages.1]);
        let mut at: Vec<VirtAddr> = borders.take(8).map(|page| VirtAddr::new(page << 12)).collect();
        at.extend([0, u64::MAX, self.window.0 << 12].map(VirtAddr::new));
        poke(areas, &own, &regions, &at);
    }

    fn check(&self) {
        self.model.check(&self.view());
        self.model.check_each(|id| self.registry.region(id));
        for id in self.dead.iter().rev().take(4) {
            assert_eq!(self.registry.region(*id), None);
            assert_eq!(self.view().map_get(*id), Err(TooHard));
        }
        let records = self.model.regions.len() + self.model.retired.len();
        assert_eq!(self.registry.len(&self.host), records as u64);
        let pinned = self.model.regions.values().filter(|known| known.device.is_none());
        let pages: u64 = pinned.map(|known| known.pages.1 - known.pages.0).sum();
        assert_eq!((self.host.held(), self.host.charged()), (pages, pages));
    }

    /// Everything goes; then the same regions fit into exactly as many words as they must.
    pub(super) fn end(mut self) -> Outcome {
        let regions: Vec<Pages> = self.model.regions.values().map(|known| known.pages).collect();
        let nodes = self.model.nodes(None);
        let view = self.view();
        while let Some(known) = self.known(0) {
            (0..known.mapped).for_each(|_| assert_eq!(view.map_put(known.id), Ok(())));
            known.mapped = 0;
            self.unregister(0, false);
        }
        self.reclaim_all();
        self.check();
        assert!(self.host.is_clean() && self.registry.is_empty(&self.host));
        assert_eq!(self.free_tables.len(), self.records + 1, "every table came back");
        let need = self.fixed + (nodes * NODE) as usize;
        let again = |words: usize| {
            let areas = Areas::new(&[self.own])?;
            let window = window(self.window);
            let made = Registry::new(areas, self.own.get(..words)?, &window, self.records as u32);
            let again = made.ok()?;
            let each = regions.iter().rev().map(|pages| {
                again.register_device(&self.host, &range(*pages).expect("pages"), PhysAddr::new(0))
            });
            Some(each.filter_map(Result::err).collect::<Vec<_>>())
        };
        assert_eq!(again(need), Some(Vec::new()));
        if nodes != 0 {
            assert_ne!(again(need - 1), Some(Vec::new()));
        }
        self.outcome
    }
}
