//! Host pins: a source says what it never splits, and is not believed if that cannot be.

use pinfold::host::{NoAccount, NoTrace, SpaceId};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::table::Run;
use pinfold::{
    AddrRange, Dirtied, ErrorKind, Order, PageCount, PageShift, Pfn, PinCause, PinRequest, PinTable,
};

use super::{BASE, GIANT, HUGE, Step, order, request, words};

/// What lies behind one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    pub(super) pfn: u64,
    /// Its folio's order, and whether it stays whole.
    pub(super) order: u8,
    pub(super) whole: bool,
}

/// A host that counts pins itself, and reports what lies behind pages from `first` on.
pub(super) struct Source<'a> {
    pub(super) first: u64,
    pub(super) pages: &'a [Behind],
    /// Pages of one run at most.
    pub(super) longest: usize,
    pub(super) chunk: u8,
}

impl PinSource for Source<'_> {
    fn base(&self) -> PageShift {
        BASE
    }
    fn chunk(&self) -> Order {
        order(self.chunk)
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let from = ((part.start().raw() >> 12) - self.first) as usize;
        let mut rest = &self.pages[from..][..part.pages().raw() as usize];
        while let Some(first) = rest.first() {
            let follows = |(i, page): &(u64, &Behind)| {
                page.pfn == first.pfn + i && page.pfn >> first.order == first.pfn >> first.order
            };
            let run = (0..).zip(rest).take(self.longest).take_while(follows).count();
            let (pfn, pages) = (Pfn::new(first.pfn), PageCount::new(run as u64));
            if first.whole {
                runs.push_indivisible(pfn, pages, order(first.order))?;
            } else {
                runs.push(pfn, pages)?;
            }
            rest = &rest[run..];
        }
        Ok(())
    }
    fn unpin(&self, _: Run) {}
}

/// Waits in steps.
struct Host(Step);

impl pinfold::host::Host for Host {
    type Wait = Step;
    type Account = NoAccount;
    type Trace = NoTrace;
    fn wait(&self) -> &Step {
        &self.0
    }
    fn account(&self) -> &NoAccount {
        &NoAccount
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

impl Source<'_> {
    /// What a pin of all of it says.
    pub(super) fn indivisible(self, step: u64) -> u8 {
        let table_words = words(4096 + self.pages.len() as u64);
        let table = PinTable::new(&table_words).unwrap();
        let request = request(self.first, self.pages.len() as u64);
        let pins = HostPins::new(Host(Step(step)), self);
        let pinned = pins.pin(SpaceId(0), &table, &request).unwrap();
        pins.unpin(&table, Dirtied::No).unwrap();
        pinned.indivisible.raw()
    }
}

fn folio(pfn: u64, pages: u64, order: u8, whole: bool) -> Vec<Behind> {
    (pfn..pfn + pages).map(|pfn| Behind { pfn, order, whole }).collect()
}

#[test]
fn a_source_says_what_it_never_splits() {
    let huge = || folio(HUGE, HUGE, 9, true);
    let small = || folio(0x5000, HUGE, 9, false);
    for (pages, expected) in [
        (huge(), 9),
        (small(), 0),
        ([huge(), small()].concat(), 0),
        ([small(), huge()].concat(), 0),
        ([huge(), huge()].concat(), 9),
        ([huge(), folio(GIANT, HUGE, 18, true)].concat(), 9),
        (huge()[3..].to_vec(), 0),
        // Reported part by part, and only a part of it.
        (folio(GIANT, GIANT, 18, true), 18),
        (folio(GIANT, 3 * HUGE, 18, true), 18),
    ] {
        for (chunk, longest) in [(9, 512), (18, 512), (18, usize::MAX), (9, 100)] {
            let source = Source { first: GIANT, pages: &pages, longest, chunk };
            assert_eq!(source.indivisible(4096), expected, "{:?}", pages[0]);
        }
    }
}

/// Reports this run, and then a good one.
struct Liar(Pfn, PageCount, Order);

impl PinSource for &Liar {
    fn base(&self) -> PageShift {
        BASE
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        let answer = runs.push_indivisible(self.0, self.1, self.2);
        if answer.is_ok() {
            return runs.push(Pfn::new(0), PageCount::new(part.pages().raw() - self.1.raw()));
        }
        assert_eq!(runs.push(Pfn::new(0), PageCount::ONE), Err(SourceError::RunRefused));
        assert_eq!(runs.remaining(), part.pages(), "nothing was taken");
        answer
    }
    fn unpin(&self, _: Run) {}
}

#[test]
fn a_run_that_is_no_part_of_such_a_folio_is_refused() {
    let pin = |pfn, pages, raw| {
        let liar = Liar(Pfn::new(pfn), PageCount::new(pages), order(raw));
        let table_words = words(64);
        let table = PinTable::new(&table_words).unwrap();
        let pins = HostPins::new(Host(Step(4096)), &liar);
        pins.pin(SpaceId(0), &table, &request(0, 32)).map(|_| ())
    };
    let last = (1 << 52) - 1;
    for (pfn, pages, raw) in
        [(1, 2, 1), (0, 3, 1), (15, 2, 4), (31, 17, 4), (1, 16, 4), (0, 1, 53), (9, 1, 63)]
    {
        let error = pin(pfn, pages, raw).unwrap_err();
        let (pfn, pages, order) = (Pfn::new(pfn), PageCount::new(pages), order(raw));
        assert_eq!(error.cause, PinCause::Source(SourceError::NotOneFolio { pfn, pages, order }));
        assert_eq!((error.at.raw(), error.kind()), (0, ErrorKind::BadHost));
    }
    for (pfn, pages, raw) in
        [(0, 2, 1), (2, 2, 1), (15, 1, 4), (16, 16, 4), (last, 1, 1), (5, 20, 0), (5, 20, 52)]
    {
        assert_eq!(pin(pfn, pages, raw), Ok(()), "{pages} frames from {pfn} of order {raw}");
    }
}
