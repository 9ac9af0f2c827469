//! One run of a scene: a machine, a pin, what happens meanwhile, and what must be true afterwards.

use std::sync::{Arc, Mutex};

use pinfold::host::SpaceId;
use pinfold::sync::Word;
use pinfold::table::layout::HEADER_WORDS;
use pinfold::{
    AccountId, AddrRange, Dirtied, Engine, Pfn, PinError, PinRequest, PinTable, Pinned, VirtAddr,
};
use pinfold_sim::model::{Books, Model};
use pinfold_sim::{HostCall, Machine, Ram};

use super::changes::{Change, Victim};
use super::scenes::{Scene, Stage};

const TABLE: u64 = 0;
const OTHER: u64 = 1;
const ACCOUNT: AccountId = AccountId(1);

/// What a change left behind.
#[derive(Default)]
pub(crate) struct Aftermath {
    happened: bool,
    /// What was unmapped.
    pub(crate) gone: Vec<(SpaceId, AddrRange)>,
    /// References to drop in the end.
    pub(crate) references: Vec<Pfn>,
}

pub(crate) struct Run<'a, 'm> {
    pub(crate) machine: &'a Machine<'m>,
    stage: Stage,
    request: PinRequest,
    model: Model,
    before: Books,
    /// Memory of the table, and of somebody else's.
    words: &'m [Word],
    other: &'m [Word],
    /// How many words the table is given.
    size: usize,
    after: Arc<Mutex<Aftermath>>,
    /// What this run is about, for messages.
    pub(crate) about: String,
}

/// Plays a scene once.
pub(crate) fn once<R>(scene: &Scene, about: String, act: impl FnOnce(Run<'_, '_>) -> R) -> R {
    let size = scene.words();
    let memory: Vec<Word> = (0..2 * size).map(|_| Word::new(0x5a5a_5a5a_5a5a_5a5a)).collect();
    let (words, other) = memory.split_at(size);
    let ram = Ram::new(&(scene.layout)());
    let machine = Machine::new(&ram);
    let stage = (scene.build)(&machine);
    for words in [words, other] {
        PinTable::new(words).unwrap();
    }
    act(Run {
        machine: &machine,
        before: Model::books(&machine),
        request: PinRequest { account: ACCOUNT, ..scene.request() },
        stage,
        model: Model::new(),
        words,
        other,
        size,
        after: Arc::default(),
        about,
    })
}

impl<'m> Run<'_, 'm> {
    pub(crate) fn table(&self) -> PinTable<'m> {
        PinTable::open(&self.words[..self.size]).unwrap()
    }

    /// Gives the table so many words.
    pub(crate) fn shrink_table(&mut self, size: usize) {
        self.size = size;
    }

    /// Pins; if something may happen as entries are read, in a space that is watched.
    pub(crate) fn pin(&self, call: Option<HostCall>) -> Result<Pinned, PinError> {
        let engine = Engine::new(self.machine, self.machine.frames());
        let space = self.machine.space(self.stage.space).unwrap();
        let table = self.table();
        if call == Some(HostCall::Entry) {
            return self.machine.watching(&space, |space| engine.pin(space, &table, &self.request));
        }
        engine.pin(&space, &table, &self.request)
    }

    pub(crate) fn unpin(&mut self) {
        let engine = Engine::new(self.machine, self.machine.frames());
        let report = engine.unpin(&self.table(), Dirtied::No);
        let report = report.unwrap_or_else(|error| panic!("{}: {error}", self.about));
        assert_eq!(report.pages, self.request.range.pages(), "{}", self.about);
        self.model.unpinned(TABLE).unwrap();
    }

    /// Unmaps the range. Returns what went.
    pub(crate) fn unmap(&self) -> Vec<(SpaceId, AddrRange)> {
        let range = self.request.range;
        let (start, pages) = (range.start().raw(), range.pages().raw());
        self.machine.unmap(self.stage.space, start, pages).unwrap();
        vec![(self.stage.space, range)]
    }

    /// Has something happen at the n-th call of one kind from now on.
    pub(crate) fn schedule(&self, call: HostCall, nth: u64, change: &Change) {
        let (space, files) = (self.stage.space, self.stage.files.clone());
        let (request, words) = (self.request, self.other);
        let (act, after) = (change.act, Arc::clone(&self.after));
        self.machine.during(call, nth, move |machine| {
            let mut aftermath = Aftermath { happened: true, ..Aftermath::default() };
            act(&Victim { machine, space, files: &files, request, words }, &mut aftermath);
            *after.lock().unwrap() = aftermath;
        });
    }

    pub(crate) fn happened(&self) -> bool {
        self.after.lock().unwrap().happened
    }

    pub(crate) fn gone(&self) -> Vec<(SpaceId, AddrRange)> {
        self.after.lock().unwrap().gone.clone()
    }

    fn tell(&mut self, name: u64, lookup: &dyn Fn(VirtAddr) -> Option<pinfold::PhysAddr>) {
        let space = self.stage.space;
        let told = self.model.pinned(self.machine, name, space, &self.request, Some(lookup));
        told.unwrap_or_else(|wrong| panic!("{}: {wrong}", self.about));
    }

    /// Tells the model what was pinned, as the table has it.
    pub(crate) fn pinned(&mut self, gone: &[(SpaceId, AddrRange)]) {
        let table = self.table();
        self.tell(TABLE, &|va| table.lookup(va).ok());
        gone.iter().for_each(|(id, range)| self.model.detached(*id, range));
    }

    /// Somebody else may have pinned the same.
    pub(crate) fn other_pinned(&mut self) {
        let table = PinTable::open(self.other).unwrap();
        if table.range().is_some() {
            self.tell(OTHER, &|va| table.lookup(va).ok());
        }
    }

    pub(crate) fn other_unpinned(&mut self) {
        let table = PinTable::open(self.other).unwrap();
        if table.range().is_some() {
            let engine = Engine::new(self.machine, self.machine.frames());
            engine.unpin(&table, Dirtied::No).unwrap();
            self.model.unpinned(OTHER).unwrap();
        }
    }

    pub(crate) fn check(&self) {
        self.model.check(self.machine).unwrap_or_else(|wrong| panic!("{}: {wrong}", self.about));
    }

    /// The call has failed: nothing that is counted has changed, and the table is empty.
    pub(crate) fn nothing_left(&self, error: &PinError, others: bool) {
        let after = Model::books(self.machine);
        assert!(self.before.same(&after, others), "{}: {error} left {after:?}", self.about);
        let table = self.table();
        assert_eq!((table.range(), table.used_words()), (None, HEADER_WORDS), "{}", self.about);
        assert!(self.request.range.contains(error.at), "{}: at {}", self.about, error.at);
        self.check();
    }

    /// Everything is given back, and all memory is free.
    pub(crate) fn end(self) {
        self.machine.disarm();
        self.check();
        self.machine.batch_new_pages(0);
        let references = std::mem::take(&mut self.after.lock().unwrap().references);
        references.into_iter().for_each(|head| assert!(self.machine.put_page(head)));
        self.stage.end(self.machine);
        self.check();
        let free = self.machine.free_frames().raw() + self.machine.kept_frames();
        assert_eq!(free, self.machine.ram().frames().pages.raw(), "{}", self.about);
    }
}
