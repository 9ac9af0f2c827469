//! Everything put in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinfold::folio::{Folio, FolioFlags, FolioKind};
use pinfold::frames::Frozen;
use pinfold::host::{MappingKind, SpaceId};
use pinfold::{AddressSpace, AnyFormat, Order, PageCount, Pfn, PhysAddr, Rights, VirtAddr};

use super::ReplicaError;
use super::folios::{Folios, Found};
use super::maps::{FileKey, Map};
use super::pages::Pages;
use super::tree::{Mapped, Tree};
use crate::format::TableFormat;
use crate::layout::{FrameRange, ZoneKind};
use crate::objects::{FileId, FileKind};
use crate::snapshot::{FrameClass, Snapshot};
use crate::space::Vma;
use crate::state::{SpaceState, State};
use crate::zones::align_up;
use crate::{MapSpec, Place, Want};

/// The most entries of the second space, which has what others map.
const OTHERS: u64 = 1 << 18;

pub(super) struct Builder<'a, 'm> {
    state: &'a mut State<'m, AnyFormat>,
    snapshot: &'a Snapshot,
    tree: &'a Tree,
    pages: &'a Pages,
}

impl<'a, 'm> Builder<'a, 'm> {
    pub(super) fn new(
        state: &'a mut State<'m, AnyFormat>,
        snapshot: &'a Snapshot,
        tree: &'a Tree,
        pages: &'a Pages,
    ) -> Self {
        Self { state, snapshot, tree, pages }
    }

    pub(super) fn build(
        mut self,
        maps: &[Map],
        folios: Folios,
    ) -> Result<Arc<AddressSpace<AnyFormat>>, ReplicaError> {
        // The machine's own zero page goes; the kernel's takes its place.
        let zero = self.state.zero;
        self.state.put(zero, 1);
        self.tables()?;
        let mut zeroes = Vec::new();
        for found in &folios.list {
            if self.folio(found)? {
                zeroes.push(found);
            }
        }
        let files = add_files(self.state, maps, &folios);
        let space = self.space(maps, &folios, &files);
        for mapped in &self.tree.leaves {
            self.leaf(space.id(), mapped, &maps[mapped.map].vma)?;
        }
        self.state.adopt_swapped(space.id(), &self.tree.away);
        self.reserved_huge(maps)?;
        self.classes()?;
        self.zero_page(&zeroes)?;
        self.hidden(&folios.list)?;
        for found in &folios.list {
            self.cache(found, &files)?;
        }
        Ok(space)
    }

    /// Takes a block that must still be free.
    fn take(
        &mut self,
        pfn: Pfn,
        order: Order,
        kind: FolioKind,
        flags: FolioFlags,
    ) -> Result<Frozen<'m>, ReplicaError> {
        let what = "it is used twice, or its folio leaves memory";
        let taken = self.state.zones.take(pfn, order, kind, flags);
        taken.ok_or(ReplicaError::Frame { pfn: pfn.raw(), what })
    }

    /// Table pages first: the map of frames was read a moment before and may call them anything.
    fn tables(&mut self) -> Result<(), ReplicaError> {
        for table in &self.snapshot.tables {
            let addr = PhysAddr::new(table.addr);
            self.table_memory(addr, table.entries.len() as u64 * 8)?;
            let words = self.state.tables.view(addr, table.entries.len());
            let words = words.ok_or(ReplicaError::Table { addr: table.addr, what: "no memory" })?;
            for (index, raw) in table.entries.iter().enumerate() {
                words.store(index, self.state.tables.in_memory(*raw));
            }
        }
        Ok(())
    }

    /// What a table lies in: frames of its own, or one that it shares with others, which then has a
    /// reference for each.
    fn table_memory(&mut self, addr: PhysAddr, bytes: u64) -> Result<(), ReplicaError> {
        let (base, none) = (self.state.base(), FolioFlags::empty());
        let pfn = addr.pfn(base);
        // Tables come first: only another one can be there.
        if bytes < base.bytes() && !self.state.zones.is_free(pfn) {
            return self.reference(self.folio_of(pfn)?);
        }
        let pages = bytes.div_ceil(base.bytes()).next_power_of_two();
        let order = u8::try_from(pages.trailing_zeros()).ok().and_then(Order::new);
        let order = order.unwrap_or(Order::ZERO);
        self.take(pfn, order, FolioKind::Kernel, none)?.unfreeze(1);
        Ok(())
    }

    /// A folio of the process, with one reference that is given up or handed on at the end.
    /// Returns whether it is a shared zero page.
    fn folio(&mut self, found: &Found) -> Result<bool, ReplicaError> {
        let zero = found.flags.contains(FolioFlags::ZERO);
        let frames = found.head.raw()..found.head.raw() + found.order.pages().raw();
        let said = |pfn: &u64| self.pages.frames.contains_key(pfn);
        let foreign = |pfn: &u64| self.pages.class(*pfn) != FrameClass::Process;
        if let Some(pfn) = frames.filter(said).find(|pfn| !zero && foreign(pfn)) {
            let what = "it is a page of the process and used for something else";
            return Err(ReplicaError::Frame { pfn, what });
        }
        self.take(found.head, found.order, found.kind, found.flags)?.unfreeze(1);
        Ok(zero)
    }

    fn space(
        &mut self,
        maps: &[Map],
        folios: &Folios,
        files: &[FileId],
    ) -> Arc<AddressSpace<AnyFormat>> {
        let id = self.state.next_space;
        self.state.next_space += 1;
        let handle = Arc::new(AddressSpace::new(SpaceId(id), self.tree.format, self.tree.root));
        let mut vmas = BTreeMap::new();
        for (map, file) in maps.iter().zip(&folios.file_of) {
            let mut vma = map.vma;
            vma.spec.file = file.map(|file| files[file]);
            vmas.insert(vma.range.start().raw(), vma);
        }
        self.state.spaces.insert(id, SpaceState { handle: Arc::clone(&handle), vmas });
        handle
    }

    /// One entry of the process: a reference of the folio that it maps.
    fn leaf(&mut self, id: SpaceId, mapped: &Mapped, vma: &Vma) -> Result<(), ReplicaError> {
        let Mapped { va, leaf, .. } = *mapped;
        let wrong = |what| Err(ReplicaError::Page { at: va, what });
        let pfn = self.state.pfn_of(&leaf);
        let Some(mut folio) = self.state.folio(pfn) else { return Ok(()) };
        let device = vma.spec.kind == MappingKind::Device;
        if device && folio.info().kind == FolioKind::Free {
            self.hold(pfn)?;
            folio = self.folio_of(pfn)?;
        }
        if device && folio.info().kind != FolioKind::Kernel {
            return wrong("device registers where there is user memory");
        }
        let end = folio.head().raw() + folio.order().pages().raw();
        if pfn.raw() + leaf.shift.pages(self.state.base()).raw() > end {
            return wrong("its entry is larger than its folio");
        }
        let alone = folio.info().flags.contains(FolioFlags::EXCLUSIVE);
        if leaf.rights.contains(Rights::WRITE) && !vma.spec.shared && !alone {
            return wrong("a private mapping may write to a page that is shared");
        }
        if !folio.is_zero_frame() {
            self.mapped(folio, id, va)?;
        }
        Ok(())
    }

    fn folio_of(&self, pfn: Pfn) -> Result<Folio, ReplicaError> {
        let what = "it is in no folio";
        self.state.folio(pfn).ok_or(ReplicaError::Frame { pfn: pfn.raw(), what })
    }

    fn reference(&self, folio: Folio) -> Result<(), ReplicaError> {
        let (pfn, what) = (folio.head().raw(), "too many references");
        self.state.frames.get(folio, 1).map_err(|_| ReplicaError::Frame { pfn, what })
    }

    fn mapped(&mut self, folio: Folio, id: SpaceId, va: VirtAddr) -> Result<(), ReplicaError> {
        self.reference(folio)?;
        self.state.rmap.entry(folio.head()).or_default().insert((id.0, va));
        Ok(())
    }

    /// A frame that somebody has and nobody can move.
    fn hold(&mut self, pfn: Pfn) -> Result<(), ReplicaError> {
        let page = self.take(pfn, Order::ZERO, FolioKind::Kernel, FolioFlags::empty())?;
        page.unfreeze(1);
        self.state.foreign.insert(pfn, 1);
        Ok(())
    }

    /// Huge pages that mappings have reserved and nobody has touched yet. The kernel's words do not
    /// tell them from its own memory; whole blocks of that are taken to be these.
    fn reserved_huge(&mut self, maps: &[Map]) -> Result<(), ReplicaError> {
        let mut idle = BTreeMap::new();
        for map in maps.iter().filter(|map| map.reserved) {
            let (order, range) = (map.vma.spec.hugetlb, &map.vma.range);
            let absent = (0..range.pages().raw() >> order.raw()).filter(|page| {
                let at = range.start().raw() + ((page << order.raw()) << range.base().raw());
                self.tree.leaf(VirtAddr::new(at)).is_none()
            });
            let all = crate::ram::index(self.state.ram.frames().pages.raw());
            for _ in 0..absent.take(all).count() {
                let blocks = idle.entry(order).or_insert_with(|| self.idle_blocks(order));
                let Some(head) = blocks.pop() else { break };
                let none = FolioFlags::empty();
                let folio = self.take(head, order, FolioKind::Hugetlb, none)?;
                self.state.free(folio);
            }
        }
        Ok(())
    }

    /// Whole blocks of kernel memory. Those come last that cannot be anything else: where what cannot
    /// be moved is never allocated.
    fn idle_blocks(&self, order: Order) -> Vec<Pfn> {
        let all = self.state.ram.frames();
        let mut at = align_up(all.start, order);
        let mut blocks = Vec::new();
        loop {
            let block = FrameRange::new(at, order.pages());
            if block.end() > all.end() {
                break;
            }
            let idle = |pfn: Pfn| {
                self.pages.class(pfn.raw()) == FrameClass::Kernel && self.state.zones.is_free(pfn)
            };
            if block.iter().all(idle) {
                blocks.push(at);
            }
            at = block.end();
        }
        blocks.sort_by_key(|head| {
            (self.state.zones.place(*head) != NORMAL, std::cmp::Reverse(*head))
        });
        blocks
    }

    /// The use of all frames that are left.
    fn classes(&mut self) -> Result<(), ReplicaError> {
        let mut others = Vec::new();
        for pfn in self.state.ram.frames().iter() {
            if !self.state.zones.is_free(pfn) {
                continue;
            }
            match self.pages.class(pfn.raw()) {
                FrameClass::Free => {}
                FrameClass::Movable => others.push(pfn),
                FrameClass::Process => {
                    let what = "the process has it, but no page of the process is there";
                    return Err(ReplicaError::Frame { pfn: pfn.raw(), what });
                }
                // What cannot be moved is never allocated there.
                FrameClass::Kernel if self.state.zones.place(pfn) != NORMAL => {}
                FrameClass::Kernel | FrameClass::Reserved | FrameClass::Absent => self.hold(pfn)?,
            }
        }
        let file = self.state.add_file(FileKind::Shmem, others.len() as u64, Order::ZERO);
        for (page, pfn) in others.into_iter().enumerate() {
            let none = FolioFlags::empty();
            self.take(pfn, Order::ZERO, FolioKind::Shmem, none)?.unfreeze(1);
            self.state.cached.insert(pfn, file);
            let known = self.state.files.get_mut(&file).expect("just added");
            known.cache.insert(page as u64, (pfn, Order::ZERO));
        }
        Ok(())
    }

    /// The kernel's zero pages, or a new one where the process shows none.
    fn zero_page(&mut self, zeroes: &[&Found]) -> Result<(), ReplicaError> {
        let mut base = None;
        for found in zeroes {
            let known =
                if found.order == Order::ZERO { &mut base } else { &mut self.state.huge_zero };
            if known.is_none() {
                *known = Some(found.head);
            } else {
                // One of several, which some CPUs use by the address. It stays for ever, too.
                self.state.foreign.insert(found.head, 1);
            }
        }
        self.state.zero = match base {
            Some(zero) => zero,
            None => {
                let (normal, kind) = (Want::Pinnable, FolioKind::Anonymous);
                self.state.new_folio(Order::ZERO, normal, kind, FolioFlags::ZERO)?
            }
        };
        Ok(())
    }

    /// Mappings that the process's tables do not show are those of a second space.
    fn hidden(&mut self, folios: &[Found]) -> Result<(), ReplicaError> {
        let zero = |found: &&Found| found.flags.contains(FolioFlags::ZERO);
        let list: Vec<&Found> =
            folios.iter().filter(|found| !found.hidden.is_empty() && !zero(found)).collect();
        if list.is_empty() {
            return Ok(());
        }
        let id = self.state.add_space()?.id();
        let (base, huge) = (self.state.base(), self.tree.format.huge());
        // Base pages in one place, huge ones behind them.
        let end = self.tree.format.end().raw();
        let limits = [(end / 4, end / 2), (end / 2, end)];
        let mut next = limits.map(|(start, _)| start);
        let mut budget = OTHERS;
        for found in list {
            if found.flags.contains(FolioFlags::EXCLUSIVE) && found.shown {
                // A part of it is the process's without access: nobody else may have an entry.
                let held = u32::try_from(found.hidden.len()).unwrap_or(u32::MAX);
                let folio = self.folio_of(found.head)?;
                let what = "too many references";
                let error = ReplicaError::Frame { pfn: found.head.raw(), what };
                self.state.frames.get(folio, held).map_err(|_| error)?;
                self.state.foreign.insert(found.head, held);
                continue;
            }
            let times = found.hidden[0].1;
            let whole = found.order >= huge.order(base)
                && found.hidden.len() as u64 == found.order.pages().raw()
                && found.hidden.iter().all(|(_, other)| *other == times);
            let step = if whole { huge } else { base };
            let parts = found.hidden.iter().step_by(crate::ram::index(step.pages(base).raw()));
            for (pfn, times) in parts {
                let what = "others map too many pages of the process";
                let error = || ReplicaError::Frame { pfn: *pfn, what };
                budget = budget.checked_sub(*times).ok_or_else(error)?;
                for _ in 0..*times {
                    let (next, (_, end)) =
                        (&mut next[usize::from(whole)], limits[usize::from(whole)]);
                    let va = VirtAddr::new(*next);
                    *next += step.bytes();
                    if *next > end {
                        return Err(error());
                    }
                    let rights = Rights::READ | Rights::USER;
                    self.state.map_leaf(id, va, step, Pfn::new(*pfn), rights)?;
                }
            }
        }
        for ((start, _), end) in limits.into_iter().zip(next) {
            let pages = (end - start) >> base.raw();
            let spec = MapSpec::anonymous(start, pages).read_only(false);
            if let Ok(range) = self.state.range(spec.at, PageCount::new(pages)) {
                let space = self.state.spaces.get_mut(&id.0).expect("just added");
                space.vmas.insert(start, Vma { spec, range });
            }
        }
        Ok(())
    }

    /// Hands a folio's first reference to its file, or gives it up.
    fn cache(&mut self, found: &Found, files: &[FileId]) -> Result<(), ReplicaError> {
        let (head, order) = (found.head, found.order);
        if found.flags.contains(FolioFlags::ZERO) {
            return Ok(());
        }
        let Some((file, start)) = found.cached else {
            self.state.put(head, 1);
            return Ok(());
        };
        let id = files[file];
        let file = self.state.files.get_mut(&id).expect("added before");
        let end = start.saturating_add(order.pages().raw());
        if file.cached(start).is_some() || file.cache.range(start..end).next().is_some() {
            let what = "its file has another folio there";
            return Err(ReplicaError::Frame { pfn: head.raw(), what });
        }
        file.pages = file.pages.max(end);
        file.cache.insert(start, (head, order));
        self.state.cached.insert(head, id);
        Ok(())
    }
}

const NORMAL: Option<Place> = Some(Place::Zone(ZoneKind::Normal));

/// Adds the files, each as long as its mappings show.
fn add_files(state: &mut State<'_, AnyFormat>, maps: &[Map], folios: &Folios) -> Vec<FileId> {
    let add = |(index, key): (usize, &FileKey)| {
        let of = |(map, file): (&Map, &Option<usize>)| {
            (*file == Some(index)).then_some((map.vma.spec, map.vma.range.pages()))
        };
        let specs = || maps.iter().zip(&folios.file_of).filter_map(of);
        let pages = specs().map(|(spec, pages)| spec.offset + pages.raw()).max().unwrap_or(0);
        let huge = key.kind == FileKind::Shmem && specs().any(|(spec, _)| spec.huge_zero);
        let order =
            if huge { state.tables.format().huge().order(state.base()) } else { Order::ZERO };
        state.add_file(key.kind, pages, order)
    };
    folios.files.iter().enumerate().map(add).collect()
}
