//! Host pins: a host that counts by itself, honest or not, and what is left after each way to fail.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use pinfold::host::{Account, Flow, Host, NoTrace, OverLimit, Progress, SpaceId, Wait};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::sync::Word;
use pinfold::table::layout::HEADER_WORDS;
use pinfold::table::{Run, TableError, TooHard};
use pinfold::*;

const BASE: PageShift = PageShift::SIZE_4K;
const SPACE: SpaceId = SpaceId(3);
const ACCOUNT: AccountId = AccountId(9);

/// What the source does wrong, if anything, in its n-th pin call (from one).
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Nothing,
    /// Pins about half of the part, then fails.
    Fails(u64, SourceError),
    /// Leaves out the last page and says success.
    Short(u64),
    /// Reports one page more than asked, and then obeys or says success all the same.
    TooMany {
        call: u64,
        obeys: bool,
    },
    /// Reports this run instead of its own.
    Nonsense(u64, Pfn, PageCount),
}

/// A host: memory as folios (first page, first frame, pages), pin counts, charges, pauses.
struct Machine {
    folios: Vec<(u64, u64, u64)>,
    chunk: u8,
    charges_itself: bool,
    wrong: Wrong,
    limit: u64,
    stop_at: Option<u64>,
    pins: RefCell<BTreeMap<u64, u64>>,
    dirty: RefCell<BTreeSet<u64>>,
    charged: Cell<u64>,
    calls: Cell<u64>,
    pauses: Cell<u64>,
    pinning: Cell<bool>,
}

impl Machine {
    fn new(folios: &[(u64, u64, u64)]) -> Self {
        Self {
            folios: folios.to_vec(),
            chunk: 9,
            charges_itself: false,
            wrong: Wrong::Nothing,
            limit: u64::MAX,
            stop_at: None,
            pins: RefCell::default(),
            dirty: RefCell::default(),
            charged: Cell::new(0),
            calls: Cell::new(0),
            pauses: Cell::new(0),
            pinning: Cell::new(false),
        }
    }

    /// The frame behind a page, and how many pages of its folio there are from it on.
    fn frame(&self, page: u64) -> Option<(u64, u64)> {
        let at = self.folios.partition_point(|folio| folio.0 <= page).checked_sub(1)?;
        let (first, pfn, pages) = self.folios[at];
        (page - first < pages).then(|| (pfn + (page - first), pages - (page - first)))
    }

    fn count(&self, pfn: u64, pages: u64) {
        for frame in pfn..pfn + pages {
            *self.pins.borrow_mut().entry(frame).or_default() += 1;
        }
    }

    fn uncount(&self, pfn: u64, pages: u64) {
        let mut pins = self.pins.borrow_mut();
        for frame in pfn..pfn + pages {
            let left = pins.get_mut(&frame).unwrap_or_else(|| panic!("{frame:#x} is not pinned"));
            *left -= 1;
            if *left == 0 {
                pins.remove(&frame);
            }
        }
    }

    /// Nothing is pinned and nobody is charged.
    fn assert_clean(&self) {
        assert!(self.pins.borrow().is_empty(), "{} frames stay pinned", self.pins.borrow().len());
        assert_eq!(self.charged.get(), 0, "still charged");
    }
}

impl PinSource for &Machine {
    fn base(&self) -> PageShift {
        BASE
    }

    fn chunk(&self) -> Order {
        Order::new(self.chunk).unwrap()
    }

    fn charges(&self) -> bool {
        self.charges_itself
    }

    fn pin(
        &self,
        space: SpaceId,
        part: AddrRange,
        request: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        assert_eq!(space, SPACE);
        assert!(request.range.contains(part.start()) && request.range.contains(part.last()));
        let first = part.start().raw() >> 12;
        let end = first + part.pages().raw();
        assert_eq!(first >> self.chunk, (end - 1) >> self.chunk, "crosses a block");
        assert_eq!(runs.remaining(), part.pages());
        let paid = if self.charges_itself { 0 } else { request.range.pages().raw() };
        assert_eq!(self.charged.get(), paid, "not charged before the pin");
        let call = self.calls.get() + 1;
        self.calls.set(call);
        self.pinning.set(true);
        let answer = self.pin_pages(call, first, end, runs);
        self.pinning.set(false);
        answer
    }

    fn unpin(&self, run: Run) {
        assert!(!self.pinning.get(), "unpin from inside pin");
        assert_ne!(run.pages, PageCount::ZERO);
        assert!(run.pages.raw() <= 1 << self.chunk);
        let (pfn, _) = self.frame(run.va.raw() >> 12).unwrap();
        assert_eq!(run.pfn.raw(), pfn, "the run's address is not that of its frames");
        if run.dirty {
            self.dirty.borrow_mut().extend(run.pfn.raw()..run.pfn.raw() + run.pages.raw());
        }
        self.uncount(run.pfn.raw(), run.pages.raw());
    }
}

impl Machine {
    fn pin_pages(
        &self,
        call: u64,
        first: u64,
        end: u64,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let (mut stop, mut extra, mut answer) = (end, 0, Ok(()));
        match self.wrong {
            Wrong::Fails(n, error) if n == call => {
                stop = first + (end - first) / 2;
                answer = Err(error);
            }
            Wrong::Short(n) if n == call => stop = end - 1,
            Wrong::TooMany { call: n, .. } if n == call => extra = 1,
            Wrong::Nonsense(n, pfn, pages) if n == call => return runs.push(pfn, pages),
            _ => {}
        }
        let mut page = first;
        while page < stop {
            let (pfn, left) = self.frame(page).ok_or(SourceError::NotMapped)?;
            let mut pages = left.min(stop - page);
            if page + pages == end {
                pages += extra;
            }
            self.count(pfn, pages);
            if let Err(refused) = runs.push(Pfn::new(pfn), PageCount::new(pages)) {
                self.uncount(pfn, pages);
                let obeys = !matches!(self.wrong, Wrong::TooMany { obeys: false, .. });
                return if obeys { Err(refused) } else { Ok(()) };
            }
            page += pages;
        }
        answer
    }
}

impl Wait for Machine {
    fn pause(&self, progress: Progress) -> Flow {
        assert!(progress.done <= progress.total);
        self.pauses.set(self.pauses.get() + 1);
        if self.stop_at == Some(self.pauses.get()) { Flow::Stop } else { Flow::Continue }
    }
}

impl Account for Machine {
    fn charge(&self, account: AccountId, pages: PageCount) -> Result<(), OverLimit> {
        assert_eq!(account, ACCOUNT);
        let sum = self.charged.get() + pages.raw();
        if sum > self.limit {
            return Err(OverLimit);
        }
        self.charged.set(sum);
        Ok(())
    }

    fn uncharge(&self, account: AccountId, pages: PageCount) {
        assert_eq!(account, ACCOUNT);
        assert!(self.pins.borrow().is_empty(), "uncharged before the last unpin");
        self.charged.set(self.charged.get().checked_sub(pages.raw()).expect("below zero"));
    }
}

impl Host for &Machine {
    type Wait = Machine;
    type Account = Machine;
    type Trace = NoTrace;

    fn wait(&self) -> &Machine {
        self
    }
    fn account(&self) -> &Machine {
        self
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

fn request(first: u64, pages: u64) -> PinRequest {
    let start = VirtAddr::new(first << 12);
    PinRequest {
        range: AddrRange::new(start, PageCount::new(pages), BASE).unwrap(),
        access: Access::READ | Access::WRITE,
        flags: PinFlags::LONGTERM,
        holder: HolderId(7),
        account: ACCOUNT,
        revocable: false,
    }
}

fn words(n: usize) -> Vec<Word> {
    (0..n).map(|_| Word::new(0x5a5a_5a5a_5a5a_5a5a)).collect()
}

fn pin(machine: &Machine, table: &PinTable<'_>, request: &PinRequest) -> Result<Pinned, PinError> {
    HostPins::new(machine, machine).pin(SPACE, table, request)
}

fn unpin(machine: &Machine, table: &PinTable<'_>, dirtied: Dirtied) -> Unpinned {
    HostPins::new(machine, machine).unpin(table, dirtied).unwrap()
}

const FIRST: u64 = 0x3f0;
const PAGES: u64 = 1300;

/// Every kind of folio: 16 pages before a block, a 2 MiB one, hundreds of single pages in no order,
/// 32-page ones off their alignment.
fn mixed() -> Vec<(u64, u64, u64)> {
    let mut folios = vec![(0x3f0, 0x7010, 16), (0x400, 0x2_0000, 512)];
    folios.extend((0..300).map(|i| (0x600 + i, 0x5_0000 + i * 7 % 300, 1)));
    let mut page = 0x600 + 300;
    while page < FIRST + PAGES {
        folios.push((page, 0x8_0000 + page, 32.min(FIRST + PAGES - page)));
        page += 32;
    }
    folios
}

/// As `mixed`, pinned once in ample memory: the words it takes.
fn need(machine: &Machine) -> usize {
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    pin(machine, &table, &request(FIRST, PAGES)).unwrap();
    let need = table.used_words();
    unpin(machine, &table, Dirtied::No);
    machine.assert_clean();
    need
}

#[test]
fn every_page_is_found_and_everything_comes_back() {
    for chunk in [0, 3, 9, 10, 18, 63] {
        let machine = Machine { chunk, ..Machine::new(&mixed()) };
        let words = words(4000);
        let table = PinTable::new(&words).unwrap();
        let report = pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
        assert_eq!(report.pages.raw(), PAGES);
        assert_eq!(machine.charged.get(), PAGES);
        assert_eq!((table.holder(), table.account()), (HolderId(7), ACCOUNT));
        for page in FIRST..FIRST + PAGES {
            let expected = PhysAddr::new(machine.frame(page).unwrap().0 << 12 | 0x7c);
            assert_eq!(table.lookup(VirtAddr::new(page << 12 | 0x7c)), Ok(expected));
        }
        let report = unpin(&machine, &table, Dirtied::No);
        assert_eq!((report.pages.raw(), report.dirtied), (PAGES, 0));
        machine.assert_clean();
        assert!(machine.dirty.borrow().is_empty());
        assert_eq!(table.lookup(VirtAddr::new(FIRST << 12)), Err(TooHard));
    }
}

/// Page numbers have up to 52 bits, and what the table says of its own words goes by them.
#[test]
fn pages_at_any_height_are_found_and_come_back() {
    for up in [1 << 35, 1 << 46, 1 << 47, 1 << 48, (1 << 51) - 0x200, (1 << 52) - 0x1000] {
        let folios: Vec<_> = mixed().iter().map(|f| (f.0 + up, f.1, f.2)).collect();
        let machine = Machine::new(&folios);
        let words = words(4000);
        let table = PinTable::new(&words).unwrap();
        pin(&machine, &table, &request(FIRST + up, PAGES)).unwrap();
        for page in FIRST + up..FIRST + up + PAGES {
            let expected = PhysAddr::new(machine.frame(page).unwrap().0 << 12);
            assert_eq!(table.lookup(VirtAddr::new(page << 12)), Ok(expected), "{page:#x}");
        }
        assert_eq!(unpin(&machine, &table, Dirtied::No).pages.raw(), PAGES);
        machine.assert_clean();
    }
}

#[test]
fn a_folio_as_large_as_the_source_takes_at_once_is_one_entry() {
    let folios = [(1 << 18, 1 << 18, 1 << 18)];
    for (chunk, entries) in [(18, 1), (9, 513)] {
        let machine = Machine { chunk, ..Machine::new(&folios) };
        let words = words(HEADER_WORDS + entries);
        let table = PinTable::new(&words).unwrap();
        pin(&machine, &table, &request(1 << 18, 1 << 18)).unwrap();
        assert_eq!(table.used_words(), HEADER_WORDS + entries);
        unpin(&machine, &table, Dirtied::No);
        machine.assert_clean();
    }
}

#[test]
fn a_mark_dirties_its_run_and_no_other() {
    let machine = Machine::new(&mixed());
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
    table.mark_dirty(VirtAddr::new(0x4ff << 12)).unwrap();
    table.mark_dirty(VirtAddr::new(0x601 << 12)).unwrap();
    unpin(&machine, &table, Dirtied::No);
    let dirty: Vec<u64> = machine.dirty.borrow().iter().copied().collect();
    let expected: Vec<u64> = (0x2_0000..0x2_0200).chain([0x5_0007]).collect();
    assert_eq!(dirty, expected);

    pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
    let report = unpin(&machine, &table, Dirtied::All);
    assert_eq!(report.dirtied, report.runs);
    assert_eq!(machine.dirty.borrow().len() as u64, PAGES);
    machine.assert_clean();
}

/// Pins with every call wrong in turn; checks that each gives the expected error and no leak.
fn each_call(wrong: impl Fn(u64) -> Wrong, check: impl Fn(PinError)) {
    let honest = Machine::new(&mixed());
    need(&honest);
    assert_eq!(honest.calls.get(), 4);
    for call in 1..=honest.calls.get() {
        let machine = Machine { wrong: wrong(call), ..Machine::new(&mixed()) };
        let words = words(4000);
        let table = PinTable::new(&words).unwrap();
        check(pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err());
        machine.assert_clean();
        assert_eq!(table.range(), None);
        // The table can be used at once.
        machine.calls.set(100);
        pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
        unpin(&machine, &table, Dirtied::No);
        machine.assert_clean();
    }
}

#[test]
fn the_nth_call_fails() {
    for error in [
        SourceError::NotMapped,
        SourceError::Refused,
        SourceError::Unmovable,
        SourceError::Busy,
        SourceError::NoMemory,
        SourceError::OverLimit,
        SourceError::Overflow,
        SourceError::Interrupted,
        SourceError::Unknown { code: 77 },
    ] {
        each_call(
            |call| Wrong::Fails(call, error),
            |got| {
                assert_eq!(got.cause, PinCause::Source(error));
                assert_eq!(got.kind(), error.kind());
            },
        );
    }
}

#[test]
fn the_error_names_the_first_page_that_was_not_pinned() {
    for (call, page) in [(1, FIRST + 8), (2, 0x500), (3, 0x700), (4, 0x882)] {
        let machine =
            Machine { wrong: Wrong::Fails(call, SourceError::NotMapped), ..Machine::new(&mixed()) };
        let words = words(4000);
        let table = PinTable::new(&words).unwrap();
        let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
        assert_eq!(error.at, VirtAddr::new(page << 12));
    }
}

#[test]
fn a_short_success_is_an_error() {
    each_call(Wrong::Short, |got| {
        let PinCause::Source(SourceError::Short { asked, got: pages }) = got.cause else {
            panic!("{got}")
        };
        assert_eq!(pages.raw() + 1, asked.raw());
        assert_eq!(got.kind(), ErrorKind::BadHost);
    });
}

#[test]
fn more_than_asked_is_an_error_even_if_the_source_calls_it_success() {
    for obeys in [true, false] {
        each_call(
            |call| Wrong::TooMany { call, obeys },
            |got| {
                let PinCause::Source(SourceError::TooMany { asked, got: pages }) = got.cause else {
                    panic!("{got}")
                };
                assert_eq!(pages.raw(), asked.raw() + 1);
                assert_eq!(got.kind(), ErrorKind::BadHost);
            },
        );
    }
}

#[test]
fn runs_that_cannot_be_are_refused() {
    let last = (1 << 52) - 1;
    for (pfn, pages, expected) in [
        (5, 0, SourceError::Empty { pfn: Pfn::new(5) }),
        (last, 2, no_such_frames(last, 2)),
        (1 << 52, 1, no_such_frames(1 << 52, 1)),
        (u64::MAX, 1, no_such_frames(u64::MAX, 1)),
        (u64::MAX - 1, 3, no_such_frames(u64::MAX - 1, 3)),
        (
            1,
            u64::MAX,
            SourceError::TooMany { asked: PageCount::new(16), got: PageCount::new(u64::MAX) },
        ),
    ] {
        let wrong = Wrong::Nonsense(1, Pfn::new(pfn), PageCount::new(pages));
        let machine = Machine { wrong, ..Machine::new(&mixed()) };
        let words = words(4000);
        let table = PinTable::new(&words).unwrap();
        let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
        assert_eq!(error.cause, PinCause::Source(expected));
        assert_eq!(error.kind(), ErrorKind::BadHost);
        machine.assert_clean();
    }
}

fn no_such_frames(pfn: u64, pages: u64) -> SourceError {
    SourceError::NoSuchFrames { pfn: Pfn::new(pfn), pages: PageCount::new(pages) }
}

#[test]
fn the_first_and_the_last_frame_can_be_pinned() {
    let machine = Machine::new(&[(1, 0, 1), (2, (1 << 52) - 1, 1)]);
    let words = words(64);
    let table = PinTable::new(&words).unwrap();
    pin(&machine, &table, &request(1, 2)).unwrap();
    assert_eq!(table.lookup(VirtAddr::new(0x1008)), Ok(PhysAddr::new(8)));
    assert_eq!(table.lookup(VirtAddr::new(0x2008)), Ok(PhysAddr::new(u64::MAX - 0xff7)));
    unpin(&machine, &table, Dirtied::No);
    machine.assert_clean();
}

#[test]
fn stopped_at_every_pause() {
    let honest = Machine::new(&mixed());
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    pin(&honest, &table, &request(FIRST, PAGES)).unwrap();
    assert_eq!(honest.pauses.get(), 4);
    for stop in 1..=honest.pauses.get() {
        let machine = Machine { stop_at: Some(stop), ..Machine::new(&mixed()) };
        let table = PinTable::new(&words).unwrap();
        let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
        assert_eq!((error.cause, error.kind()), (PinCause::Interrupted, ErrorKind::Interrupted));
        machine.assert_clean();
    }
    // An unpin cannot be stopped.
    let machine = Machine { stop_at: Some(honest.pauses.get() + 1), ..Machine::new(&mixed()) };
    let table = PinTable::new(&words).unwrap();
    pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
    unpin(&machine, &table, Dirtied::No);
    assert!(machine.pauses.get() > honest.pauses.get());
    machine.assert_clean();
}

#[test]
fn stopped_between_conversion_steps() {
    // More words than are converted in one step.
    let folios: Vec<_> = (0..6000).map(|i| (0x1000 + i, 0x9000 + i * 11 % 6000, 1)).collect();
    let words = words(7000);
    let table = PinTable::new(&words).unwrap();
    let honest = Machine::new(&folios);
    pin(&honest, &table, &request(0x1000, 6000)).unwrap();
    let machine = Machine { stop_at: Some(honest.pauses.get()), ..Machine::new(&folios) };
    let table = PinTable::new(&words).unwrap();
    let error = pin(&machine, &table, &request(0x1000, 6000)).unwrap_err();
    assert_eq!((error.cause, error.at.raw()), (PinCause::Interrupted, 0x100_0000));
    machine.assert_clean();
}

#[test]
fn every_table_size_from_none_to_enough() {
    for chunk in [3, 9, 12] {
        let machine = Machine { chunk, ..Machine::new(&mixed()) };
        let need = need(&machine);
        assert_eq!(
            PinTable::new(&words(0)).err(),
            Some(TableError::NoSpace { need: HEADER_WORDS + 1 })
        );
        for size in (HEADER_WORDS..need).step_by(3) {
            let words = words(size);
            let table = PinTable::new(&words).unwrap();
            let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
            assert_eq!(error.cause, PinCause::Table(TableError::NoSpace { need }), "{size} words");
            assert_eq!((error.kind(), error.at.raw()), (ErrorKind::NoSpace, FIRST << 12));
            machine.assert_clean();
        }
        let words = words(need);
        let table = PinTable::new(&words).unwrap();
        pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
        unpin(&machine, &table, Dirtied::No);
        machine.assert_clean();
    }
}

#[test]
fn a_measurement_that_fails_gives_a_bound() {
    let range = request(FIRST, PAGES).range;
    let bound = PinTable::words_for(&range, BASE).unwrap();
    for size in [HEADER_WORDS, 40, 200] {
        let mut failures = 0;
        for call in 1..40 {
            let wrong = Wrong::Fails(call, SourceError::Busy);
            let machine = Machine { wrong, ..Machine::new(&mixed()) };
            let words = words(size);
            let table = PinTable::new(&words).unwrap();
            let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
            match error.cause {
                PinCause::Source(SourceError::Busy) => failures += 1,
                PinCause::Table(TableError::NoSpace { need }) => assert!(need <= bound),
                _ => panic!("{error}"),
            }
            machine.assert_clean();
        }
        assert!(failures < 4, "the measurement's failure hides what is missing");
    }
}

#[test]
fn a_measurement_can_be_stopped() {
    for stop in 1..20 {
        let machine = Machine { stop_at: Some(stop), ..Machine::new(&mixed()) };
        let words = words(40);
        let table = PinTable::new(&words).unwrap();
        let error = pin(&machine, &table, &request(FIRST, PAGES)).unwrap_err();
        let kind = error.kind();
        assert!(kind == ErrorKind::Interrupted || kind == ErrorKind::NoSpace, "{error}");
        machine.assert_clean();
    }
}

#[test]
fn who_charges() {
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    let poor = Machine { limit: PAGES - 1, ..Machine::new(&mixed()) };
    let error = pin(&poor, &table, &request(FIRST, PAGES)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverLimit);
    assert_eq!(poor.calls.get(), 0, "nothing is pinned before the charge");
    poor.assert_clean();

    let itself = Machine { limit: 0, charges_itself: true, ..Machine::new(&mixed()) };
    pin(&itself, &table, &request(FIRST, PAGES)).unwrap();
    unpin(&itself, &table, Dirtied::No);
    itself.assert_clean();
}

#[test]
fn requests_that_make_no_sense_reach_nobody() {
    let machine = Machine { limit: 0, ..Machine::new(&mixed()) };
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    let good = request(FIRST, PAGES);
    let no_access = PinRequest { access: Access::empty(), ..good };
    let revocable = PinRequest { flags: PinFlags::empty(), revocable: true, ..good };
    let other_base = PinRequest {
        range: AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_2M).unwrap(),
        ..good
    };
    for wrong in [no_access, revocable, other_base] {
        let error = pin(&machine, &table, &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!((machine.calls.get(), machine.pauses.get()), (0, 0));
    machine.assert_clean();
}

#[test]
fn a_table_in_use_stays_as_it_is() {
    let machine = Machine::new(&mixed());
    let words = words(4000);
    let table = PinTable::new(&words).unwrap();
    let pins = HostPins::new(&machine, &machine);
    let empty = UnpinError::Table(TableError::Empty);
    assert_eq!(pins.unpin(&table, Dirtied::No), Err(empty));
    pin(&machine, &table, &request(FIRST, PAGES)).unwrap();
    let error = pin(&machine, &table, &request(FIRST, 1)).unwrap_err();
    assert_eq!(error.cause, PinCause::Table(TableError::InUse));
    assert_eq!((machine.charged.get(), error.kind()), (PAGES, ErrorKind::Busy));
    unpin(&machine, &table, Dirtied::No);
    machine.assert_clean();
}
