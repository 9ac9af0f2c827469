//! What others may do at any moment: all of it lawful.

use pinfold::host::SpaceId;
use pinfold::sync::Word;
use pinfold::{Access, AddrRange, Engine, PageCount, PageShift, PinRequest, PinTable, VirtAddr};
use pinfold_sim::{FileId, Machine, Want};

use super::run::Aftermath;
use super::scenes::{AT, BOTH};

/// Who does it, to what.
pub(crate) struct Victim<'a, 'm> {
    pub(crate) machine: &'a Machine<'m>,
    pub(crate) space: SpaceId,
    pub(crate) files: &'a [FileId],
    pub(crate) request: PinRequest,
    /// Memory for another table.
    pub(crate) words: &'a [Word],
}

impl Victim<'_, '_> {
    fn pages(&self) -> u64 {
        self.request.range.pages().raw()
    }

    /// Every page, or every so many of a large range.
    fn each<R>(&self, act: impl Fn(&Machine<'_>, SpaceId, u64) -> R) -> Vec<R> {
        let step = if self.pages() > 64 { 128 } else { 1 };
        let pages = (0..self.pages()).step_by(step);
        pages.map(|page| act(self.machine, self.space, AT + (page << 12))).collect()
    }

    fn unmap(&self, from: u64, after: &mut Aftermath) {
        let start = VirtAddr::new(AT + (from << 12));
        let pages = PageCount::new(self.pages() - from);
        let range = AddrRange::new(start, pages, PageShift::SIZE_4K).unwrap();
        if self.machine.unmap(self.space, start.raw(), pages.raw()).is_ok() {
            after.gone.push((self.space, range));
        }
    }

    /// A second pinner of the same range, in a thread of its own. It may come too early.
    fn pin(&self) {
        let engine = Engine::new(self.machine, self.machine.frames());
        let space = self.machine.space(self.space).unwrap();
        let table = PinTable::open(self.words).unwrap();
        let pin = || engine.pin(&space, &table, &self.request).is_ok();
        std::thread::scope(|scope| scope.spawn(pin).join()).unwrap();
    }
}

type Act = fn(&Victim<'_, '_>, &mut Aftermath);

/// One thing that may happen.
pub(crate) struct Change {
    pub(crate) name: &'static str,
    /// Whether a pin may fail because of it.
    pub(crate) spoils: bool,
    pub(crate) act: Act,
}

/// The pin has to take more trouble.
const fn hinders(name: &'static str, act: Act) -> Change {
    Change { name, spoils: false, act }
}

/// The pin may fail.
const fn spoils(name: &'static str, act: Act) -> Change {
    Change { name, spoils: true, act }
}

pub(crate) static CHANGES: [Change; 15] = [
    hinders("fork", |v, _| drop(v.machine.fork(v.space))),
    spoils("unmap all", |v, after| v.unmap(0, after)),
    spoils("unmap half", |v, after| v.unmap(v.pages() / 2, after)),
    spoils("truncate", |v, after| {
        for file in v.files {
            after.gone.extend(v.machine.file_ranges(*file, 0));
            v.machine.truncate(*file, 0).unwrap();
        }
    }),
    spoils("protect", |v, _| {
        let _ = v.machine.protect(v.space, AT, v.pages(), Access::READ);
    }),
    hinders("split", |v, _| drop(v.each(|machine, id, at| machine.split_folio(id, at)))),
    hinders("collapse", |v, _| drop(v.each(|machine, id, at| machine.collapse(id, at)))),
    hinders("move", |v, _| {
        v.each(|machine, id, at| machine.move_page(id, at, Want::Movable));
    }),
    hinders("move away and use again", |v, _| {
        v.each(|machine, id, at| machine.move_page(id, at, Want::Pinnable));
        let _ = v.machine.touch(v.space, AT, v.pages().min(64), BOTH);
    }),
    hinders("swap out", |v, _| drop(v.each(|machine, id, at| machine.swap_out(id, at)))),
    spoils("references", |v, after| {
        let taken = v.each(|machine, id, at| machine.get_page(id, at));
        after.references.extend(taken.into_iter().flatten());
    }),
    spoils("another pin", |v, _| v.pin()),
    spoils("no memory", |v, _| {
        v.machine.hog(u64::MAX);
    }),
    spoils("contiguous memory", |v, _| {
        if let Ok(piece) = v.machine.alloc_contig(0, 16) {
            v.machine.free_contig(&piece);
        }
    }),
    hinders("batches", |v, _| v.machine.batch_new_pages(3)),
];
