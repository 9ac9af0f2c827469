//! What the names in a script stand for.

use std::collections::VecDeque;

use pinfold::host::SpaceId;
use pinfold::{Access, AddrRange, Order, PageCount, PageShift, Pfn, VirtAddr};

use super::{Deed, Part, What};
use crate::format::TableFormat;
use crate::layout::{FrameRange, ZoneKind};
use crate::machine::Machine;
use crate::map::{MapSpec, Thp};
use crate::objects::{FileId, FileKind};
use crate::zones::{Place, Want};

/// Where the first window of a space begins.
const WINDOWS: u64 = 0x4000_0000;
/// Windows of a space.
const COUNT: u64 = 4;
/// They all lie below this address, also those of large base pages.
const EVERYTHING: u64 = 1 << 40;
/// The most spaces there are at a time.
const SPACES: usize = 3;
const FILE_PAGES: u64 = 1024;
/// A frame outside memory.
const DEVICE: Pfn = Pfn::new(0x80_0000);

/// Spaces, files and what is held of them.
#[derive(Debug)]
pub(super) struct World {
    spaces: Vec<SpaceId>,
    files: Vec<FileId>,
    /// Spaces whose fork has begun.
    begun: Vec<SpaceId>,
    foreign: VecDeque<Pfn>,
    pieces: VecDeque<FrameRange>,
    stamp: u8,
    /// Ranges that were unmapped since somebody last looked.
    pub(super) gone: Vec<(SpaceId, AddrRange)>,
    /// Whether any deed was tried since then.
    pub(super) disturbed: bool,
    /// Deeds inside calls: those that were done, and those that could not be done.
    pub(super) done: u64,
    pub(super) idle: u64,
}

fn huge() -> Order {
    Order::new(9).expect("an order")
}

impl World {
    pub(super) fn new<F: TableFormat>(machine: &Machine<'_, F>) -> Self {
        let kinds = [
            (FileKind::Shmem, Order::ZERO),
            (FileKind::Shmem, huge()),
            (FileKind::Disk, Order::ZERO),
            (FileKind::Disk, Order::new(4).expect("an order")),
            (FileKind::FsDax, Order::ZERO),
            (FileKind::Secret, Order::ZERO),
            (FileKind::Hugetlb(huge()), huge()),
        ];
        let files = kinds.map(|(kind, order)| machine.add_file(kind, FILE_PAGES, order));
        for want in [Want::Pinnable, Want::Pinnable, Want::In(Place::Zone(ZoneKind::Movable))] {
            machine.reserve_huge(huge(), want).expect("a new machine has room");
        }
        Self {
            spaces: vec![machine.add_space().id()],
            files: files.to_vec(),
            begun: Vec::new(),
            foreign: VecDeque::new(),
            pieces: VecDeque::new(),
            stamp: 0,
            gone: Vec::new(),
            disturbed: false,
            done: 0,
            idle: 0,
        }
    }

    fn space(&self, name: u8) -> SpaceId {
        self.spaces[usize::from(name) % self.spaces.len()]
    }

    fn file(&self, name: u8) -> FileId {
        self.files[usize::from(name) % self.files.len()]
    }

    /// The space, first address and length of a part of a mapping.
    pub(super) fn part<F: TableFormat>(
        &self,
        machine: &Machine<'_, F>,
        part: &Part,
    ) -> (SpaceId, u64, u64) {
        let id = self.space(part.space);
        let mappings = machine.mappings(id);
        if mappings.is_empty() {
            return self.window(machine, part);
        }
        let range = mappings[usize::from(part.window) % mappings.len()].range;
        let page = Part::scale(part.page) % range.pages().raw();
        let left = range.pages().raw() - page;
        let pages = Part::scale(part.pages) + 1;
        let beyond = part.pages < 128 && part.pages & Part::BEYOND != 0;
        let at = range.start().raw() + (page << range.base().raw());
        (id, at, if beyond { pages } else { pages.min(left) })
    }

    /// The space, first address and length of a part of a window.
    fn window<F: TableFormat>(&self, machine: &Machine<'_, F>, part: &Part) -> (SpaceId, u64, u64) {
        let base = machine.ram().base().raw();
        let window = WINDOWS + u64::from(part.window) % COUNT * (Part::WINDOW << base);
        let page = Part::scale(part.page) % Part::WINDOW;
        let pages = (Part::scale(part.pages) + 1).min(Part::WINDOW - page);
        (self.space(part.space), window + (page << base), pages)
    }

    pub(super) fn range<F: TableFormat>(
        &self,
        machine: &Machine<'_, F>,
        part: &Part,
    ) -> (SpaceId, AddrRange) {
        let (id, at, pages) = self.part(machine, part);
        let base = machine.ram().base();
        let range = AddrRange::new(VirtAddr::new(at), PageCount::new(pages), base);
        (id, range.expect("a part has pages and is aligned"))
    }

    /// Does one thing and says whether it was done. What the machine refuses is left undone.
    pub(super) fn apply<F: TableFormat>(
        &mut self,
        machine: &Machine<'_, F>,
        deed: &Deed,
        during: bool,
    ) -> bool {
        self.disturbed = true;
        match deed {
            Deed::Map(part, what) => self.map(machine, part, what),
            Deed::Unmap(part) => {
                let (id, range) = self.range(machine, part);
                let (at, pages) = (range.start().raw(), range.pages().raw());
                let done = machine.unmap(id, at, pages).is_ok();
                if done {
                    self.gone.push((id, range));
                }
                done
            }
            Deed::Protect(part, rights) => {
                let (id, at, pages) = self.part(machine, part);
                let access = match rights {
                    0 => Access::empty(),
                    1 => Access::READ,
                    _ => Access::all(),
                };
                machine.protect(id, at, pages, access).is_ok()
            }
            Deed::Read(part) => self.touch(machine, part, false),
            Deed::Write(part) => self.touch(machine, part, true),
            Deed::Fill(part) => {
                let (id, at, _) = self.part(machine, part);
                self.stamp = self.stamp.wrapping_add(1);
                let base = machine.ram().base();
                let start = block(at, base);
                let pages = (0..huge().pages().raw()).map(|page| start + (page << base.raw()));
                // Pages outside the mapping stay as they are.
                pages.filter(|va| machine.write(id, *va, &[self.stamp]).is_ok()).count() > 0
            }
            Deed::Fork(name) => {
                let room = self.spaces.len() + self.begun.len() < SPACES;
                let child = room.then(|| machine.fork(self.space(*name)).ok()).flatten();
                self.spaces.extend(child.as_ref().map(|child| child.id()));
                child.is_some()
            }
            Deed::ForkSlowly(name) => {
                let id = self.space(*name);
                let room = self.spaces.len() + self.begun.len() < SPACES;
                let begun = room && !self.begun.contains(&id) && machine.begin_fork(id).is_ok();
                self.begun.extend(begun.then_some(id));
                begun
            }
            Deed::Exit(name) => {
                let done = !during && self.spaces.len() > 1;
                if done {
                    let id = self.space(*name);
                    self.spaces.retain(|space| *space != id);
                    machine.drop_space(id).expect("it is there");
                    self.gone.push((id, everything(machine.ram().base())));
                }
                done
            }
            Deed::Truncate(name, pages) => {
                let pages = Part::scale(*pages).min(FILE_PAGES);
                let file = self.file(*name);
                self.gone.extend(machine.file_ranges(file, pages));
                machine.truncate(file, pages).is_ok()
            }
            Deed::Shrink => machine.shrink() > 0,
            Deed::Get(part) => {
                let (id, at, _) = self.part(machine, part);
                let taken = machine.get_page(id, at);
                self.foreign.extend(taken);
                taken.is_some()
            }
            Deed::Put => match self.foreign.pop_front() {
                Some(head) => machine.put_page(head),
                None => false,
            },
            Deed::Move(part, to) => {
                let (id, at, _) = self.part(machine, part);
                let want = match to % 4 {
                    0 => Want::Pinnable,
                    1 => Want::Movable,
                    2 => Want::In(Place::Cma),
                    _ => Want::In(Place::Zone(ZoneKind::Coherent)),
                };
                machine.move_page(id, at, want).is_ok()
            }
            Deed::SplitMapping(part) => {
                let (id, at, _) = self.part(machine, part);
                let hugetlb = machine.mapping_at(id, at).map(|mapping| mapping.kind);
                hugetlb != Some(pinfold::host::MappingKind::Hugetlb)
                    && machine.split_mapping(id, at).is_ok()
            }
            Deed::SplitFolio(part) => {
                let (id, at, _) = self.part(machine, part);
                machine.split_folio(id, at).is_ok()
            }
            Deed::Contig(pages) => {
                let piece = machine.alloc_contig(0, u64::from(*pages) + 1).ok();
                self.pieces.extend(piece);
                piece.is_some()
            }
            Deed::FreeContig => match self.pieces.pop_front() {
                Some(piece) => machine.free_contig(&piece),
                None => false,
            },
            Deed::Hog(pages) => {
                let all = *pages == u8::MAX;
                machine.hog(if all { u64::MAX } else { Part::scale(*pages) }) > 0
            }
            Deed::Release => machine.release_hog() > 0,
            Deed::Collapse(part) => {
                let (id, at, _) = self.part(machine, part);
                machine.collapse(id, at).is_ok()
            }
            Deed::SwapOut(part) => {
                let (id, at, _) = self.part(machine, part);
                machine.swap_out(id, at).is_ok()
            }
            Deed::Batch(size) => {
                machine.batch_new_pages(usize::from(*size));
                true
            }
        }
    }

    /// The second half of every fork that has begun.
    pub(super) fn complete_forks<F: TableFormat>(&mut self, machine: &Machine<'_, F>) {
        self.disturbed = true;
        for id in std::mem::take(&mut self.begun) {
            self.spaces.extend(machine.fork(id).ok().map(|child| child.id()));
        }
    }

    fn map<F: TableFormat>(&self, machine: &Machine<'_, F>, part: &Part, what: &What) -> bool {
        let (id, at, pages) = self.window(machine, part);
        let anonymous = MapSpec::anonymous(at, pages);
        let spec = match what {
            What::Small => anonymous,
            What::ReadOnly => anonymous.read_only(false),
            What::Huge => anonymous.with_thp(Thp::Whole),
            What::HugeSplit => anonymous.with_thp(Thp::Split),
            What::HugeZero => anonymous.with_huge_zero().with_thp(Thp::Whole),
            What::Hugetlb => {
                let round = pages.next_multiple_of(huge().pages().raw());
                let at = block(at, machine.ram().base());
                MapSpec::hugetlb(at, round, huge())
            }
            What::Shared(file) => {
                let spec = MapSpec::shared(at, pages, self.file(*file));
                let round = pages.next_multiple_of(huge().pages().raw());
                let whole =
                    MapSpec::shared(block(at, machine.ram().base()), round, self.file(*file));
                if machine.map(id, spec).is_ok() { return true } else { whole }
            }
            What::Private(file) => MapSpec::private(at, pages, self.file(*file)),
            What::Device => MapSpec::device(at, pages.min(4), DEVICE),
        };
        machine.map(id, spec).is_ok()
    }

    /// Whether any page could be touched.
    fn touch<F: TableFormat>(
        &mut self,
        machine: &Machine<'_, F>,
        part: &Part,
        write: bool,
    ) -> bool {
        let (id, at, pages) = self.part(machine, part);
        let touch = |page| {
            let va = at + (page << machine.ram().base().raw());
            self.stamp = self.stamp.wrapping_add(1);
            match write {
                true => machine.write(id, va, &[self.stamp]),
                false => machine.read(id, va, &mut [0]),
            }
        };
        (0..pages).map(touch).take_while(Result::is_ok).count() > 0
    }

    /// Lets go of everything. Returns how many frames must be free then.
    pub(super) fn end<F: TableFormat>(&mut self, machine: &Machine<'_, F>) -> Result<(), String> {
        machine.disarm();
        machine.release_hog();
        machine.batch_new_pages(0);
        while let Some(head) = self.foreign.pop_front() {
            machine.put_page(head);
        }
        while let Some(piece) = self.pieces.pop_front() {
            machine.free_contig(&piece);
        }
        for id in std::mem::take(&mut self.spaces) {
            machine.drop_space(id).map_err(|error| format!("{id:?}: {error}"))?;
        }
        for file in std::mem::take(&mut self.files) {
            machine.close_file(file).map_err(|error| format!("{file:?}: {error}"))?;
        }
        Ok(())
    }

    pub(super) fn handle<F: TableFormat>(
        &self,
        machine: &Machine<'_, F>,
        id: SpaceId,
    ) -> std::sync::Arc<pinfold::AddressSpace<F>> {
        machine.space(id).expect("a space of the script")
    }
}

/// Where the block of a huge page's size begins that an address is in.
fn block(at: u64, base: PageShift) -> u64 {
    at & !((huge().pages().raw() << base.raw()) - 1)
}

/// All that a script maps.
fn everything(base: PageShift) -> AddrRange {
    let pages = PageCount::new(EVERYTHING >> base.raw());
    AddrRange::new(VirtAddr::new(0), pages, base).expect("whole pages from 0 on")
}
