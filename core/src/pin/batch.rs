//! Accepting runs: look at each folio, ask the policy, take the count, *then* compare the page-table
//! entries again. Whoever changes a mapping clears the entry first and looks for counts
//! afterwards, so one of the two sees the other.

use pinfold_arch::{Order, PageCount, PageFormat, Pfn, Rights};

use super::Call;
use super::defer::Defer;
use super::permit::permitted;
use super::unpin::{pieces, put_pins};
use crate::folio::Folio;
use crate::frames::{CountError, FrameTable, Lost};
use crate::host::{GupHost, Mapping, Reclaim, Step};
use crate::space::Sequence;
use crate::table::fill::Filler;
use crate::walk::range::{Run, Source};

/// How many runs ahead frames are fetched: long enough for memory to answer, and few enough that
/// they do not drive each other out of the caches where folios of 1 GiB lie one behind the other.
pub(super) const AHEAD: usize = 16;
/// Runs that are counted before as many more are fetched.
const FETCHED: usize = 8;

/// How far a group of runs was pinned when nothing was in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    /// As much as may be done at once.
    Part,
}

/// What holds for all that is accepted under one walk guard.
pub(super) struct Batch {
    /// The mapping, and since when it is known.
    known: Option<(Mapping, Sequence)>,
    fork: Sequence,
    /// Work that may still be done: a folio counts for one, or for the words of the pin table
    /// that it may take.
    left: u64,
    /// The state of the single frame that the policy permitted last. Others in the same state are
    /// permitted too: nothing else that the policy looks at changes within a batch.
    alike: Option<u64>,
}

/// What was counted of a group of runs, from its start.
struct Counted {
    /// Runs that were counted wholly.
    runs: usize,
    /// Pages of the next one.
    part: u64,
    /// Whether each page is a folio.
    singles: bool,
}

impl Batch {
    pub(super) fn new(known: Option<(Mapping, Sequence)>, fork: Sequence, step: Step) -> Self {
        Self { known, fork, left: step.entries(), alike: None }
    }

    /// Pins runs of one table, in order: counts them, compares their entries again, and records
    /// them. The frames of the first [`AHEAD`] were fetched before; meanwhile those of others, and
    /// of the first in `ahead`, are.
    #[inline(never)]
    pub(super) fn accept<H: GupHost, F: PageFormat>(
        &mut self,
        call: &mut Call<'_, '_, H, F>,
        filler: &mut Filler<'_>,
        source: &Source<'_>,
        runs: &[Run],
        ahead: &[Run],
    ) -> Result<Taken, Defer> {
        let Some(first) = runs.first() else { return Ok(Taken::All) };
        let base = call.frames.base();
        let mut counted = Counted { runs: 0, part: 0, singles: true };
        let mut result = if source.rights.contains(Rights::needed(call.request.access)) {
            self.count(call, runs, ahead, &mut counted)
        } else {
            Err(Defer::Fault)
        };

        let mut intact = Ok(());
        if call.space.fork_sequence() != Some(self.fork) {
            // A fork that began meanwhile may have missed the counts and shared the pages.
            intact = Err(Defer::Fork);
        } else if self.known.is_some_and(|(_, sequence)| call.space.sequence() != Some(sequence)) {
            // What was allowed because of the mapping may not be allowed any more.
            intact = Err(Defer::Changed(first.pfn));
        } else if !source.parent_unchanged() {
            intact = Err(Defer::Changed(first.pfn));
        }
        if result.is_err()
            && intact.is_ok()
            && let Some(run) = runs.get(counted.runs)
        {
            // The frame that is in the way may have been moved and freed since its entry was read:
            // it counts only if it is still mapped.
            if !source.unchanged(run, PageCount::new(counted.part), PageCount::ONE, base) {
                result = Err(Defer::Changed(run.pfn));
            } else if let Err(Defer::Move { run: left, .. }) = &mut result {
                *left = PageCount::new(run.pages.raw() - counted.part);
            }
        }
        // What was counted wholly, and of that what is still mapped.
        let whole = runs.get(..counted.runs).unwrap_or_default();
        let mapped = whole.iter().take_while(|run| source.run_unchanged(run));
        let mapped = if intact.is_ok() { mapped.count() } else { 0 };
        let (mapped, gone) = whole.split_at(mapped);
        if let (Ok(()), Some(run)) = (intact, gone.first()) {
            intact = Err(Defer::Changed(run.pfn));
        }
        let before = filler.done();
        for run in mapped {
            if !(counted.singles && run.pages == PageCount::ONE && filler.place_single(run.pfn)) {
                record(call, filler, run.pfn, run.pages, counted.singles);
            }
        }
        for run in gone {
            give_up(call, run.pfn, run.pages);
        }
        if counted.part != 0
            && let Some(run) = runs.get(counted.runs)
        {
            let part = PageCount::new(counted.part);
            if intact.is_ok() && !source.unchanged(run, PageCount::ZERO, part, base) {
                intact = Err(Defer::Changed(run.pfn));
            }
            match intact {
                Ok(()) => record(call, filler, run.pfn, part, counted.singles),
                Err(_) => give_up(call, run.pfn, part),
            }
        }
        if counted.singles && filler.done() != before {
            call.report.runs += filler.done().raw() - before.raw();
            call.indivisible.add_base_pages();
        }
        intact.and(result)
    }

    /// Counts runs, as far as they may be pinned.
    fn count<H: GupHost, F: PageFormat>(
        &mut self,
        call: &Call<'_, '_, H, F>,
        runs: &[Run],
        ahead: &[Run],
        counted: &mut Counted,
    ) -> Result<Taken, Defer> {
        let mut coming = runs.iter().skip(AHEAD).chain(ahead.iter().take(AHEAD));
        for runs in runs.chunks(FETCHED) {
            fetch(&call.frames, coming.by_ref().take(runs.len()));
            let mut rest = runs;
            while let Some(run) = rest.first() {
                // Mostly all are like what came before.
                let (alike, lost) = self.count_alike(&call.frames, rest, counted);
                if let Some(lost) = lost {
                    let stopped = rest.get(alike).unwrap_or(run).pfn.raw() + counted.part;
                    return Err(not_counted(call, Pfn::new(stopped), lost));
                }
                rest = rest.get(alike..).unwrap_or_default();
                let Some((run, others)) = rest.split_first() else { break };
                if self.count_rest(call, run, counted)? == Taken::Part {
                    return Ok(Taken::Part);
                }
                (counted.runs, counted.part) = (counted.runs + 1, 0);
                rest = others;
            }
        }
        fetch(&call.frames, coming);
        Ok(Taken::All)
    }

    /// Counts runs of single frames as long as their state is the one that is known to be permitted.
    /// Returns how many runs, and the count behind them that was lost.
    // Once for many runs: its loop needs the registers more than it needs to be inline.
    #[inline(never)]
    fn count_alike<'m>(
        &mut self,
        frames: &FrameTable<'m>,
        runs: &[Run],
        counted: &mut Counted,
    ) -> (usize, Option<Lost<'m>>) {
        let Some(raw) = self.alike else { return (0, None) };
        let mut left = self.left;
        let (mut done, mut lost) = (0, None);
        for run in runs {
            let (pages, changed) = frames.pin_alike(raw, run.pfn, run.pages.raw().min(left));
            left -= pages;
            if pages != run.pages.raw() {
                let head = Pfn::new(run.pfn.raw() + pages);
                lost = changed.then(|| frames.take_back(Folio { head, raw }, PageCount::ONE));
                counted.part = pages;
                break;
            }
            done += 1;
        }
        self.left = left;
        counted.runs += done;
        (done, lost)
    }

    /// Counts what is left of a run, folio by folio.
    #[inline(never)]
    fn count_rest<H: GupHost, F: PageFormat>(
        &mut self,
        call: &Call<'_, '_, H, F>,
        run: &Run,
        counted: &mut Counted,
    ) -> Result<Taken, Defer> {
        while counted.part != run.pages.raw() {
            if self.left == 0 {
                return Ok(Taken::Part);
            }
            let pfn = run.pfn.checked_add(PageCount::new(counted.part));
            let pfn = pfn.ok_or(Defer::NotMemory(run.pfn))?;
            let left = run.pages.raw() - counted.part;
            if let Some(raw) = self.alike {
                let (pages, changed) = call.frames.pin_alike(raw, pfn, left.min(self.left));
                counted.part += pages;
                self.left -= pages;
                if changed {
                    let head = Pfn::new(pfn.raw() + pages);
                    let lost = call.frames.take_back(Folio { head, raw }, PageCount::ONE);
                    return Err(not_counted(call, head, lost));
                }
                if pages != 0 {
                    continue;
                }
            }
            let folio = permitted(call, pfn, self.known.map(|(mapping, _)| mapping))?;
            call.frames.prefetch_behind(folio);
            let in_folio = folio.order().pages().raw() - (pfn.raw() - folio.head().raw());
            let pages = PageCount::new(in_folio.min(left));
            call.frames.pin(folio, pages).map_err(|lost| not_counted(call, folio.head(), lost))?;
            counted.part += pages.raw();
            counted.singles &= folio.order() == Order::ZERO;
            self.left = self.left.saturating_sub(Filler::most_words(pages));
            self.alike = folio.is_single().then_some(folio.raw).or(self.alike);
        }
        Ok(Taken::All)
    }
}

/// Brings the first frame of each run close.
pub(super) fn fetch<'a>(frames: &FrameTable<'_>, runs: impl Iterator<Item = &'a Run>) {
    runs.for_each(|run| frames.prefetch(run.pfn));
}

/// What to do about a folio at `pfn` that was not counted.
#[cold]
fn not_counted<H: GupHost, F>(call: &Call<'_, '_, H, F>, pfn: Pfn, lost: Lost<'_>) -> Defer {
    if let Some(last) = lost.last {
        call.host.reclaim().reclaim(last);
    }
    match lost.error {
        CountError::Overflow => Defer::Overflow(pfn),
        _ => Defer::Changed(pfn),
    }
}

/// Records pages that were counted; `singles` if each is a folio.
#[inline]
fn record<H: GupHost, F: PageFormat>(
    call: &mut Call<'_, '_, H, F>,
    filler: &mut Filler<'_>,
    pfn: Pfn,
    pages: PageCount,
    singles: bool,
) {
    let recorded = if singles {
        filler.place_singles(pfn, pages)
    } else {
        let mut recorded = PageCount::ZERO;
        let first = call.request.range.start().raw() >> call.request.range.base().raw();
        for (folio, pfn, pages) in pieces(&call.frames, pfn, pages) {
            call.report.runs += 1;
            let page = first + filler.done().raw();
            call.indivisible.add_folio(page, pfn, folio);
            let more = filler.place(pfn, pages);
            recorded = PageCount::new(recorded.raw() + more.raw());
        }
        recorded
    };
    if recorded != pages
        && let Some(pfn) = pfn.checked_add(recorded)
    {
        // No words left: what is not recorded is given back here, the rest by the caller.
        give_up(call, pfn, PageCount::new(pages.raw() - recorded.raw()));
    }
}

/// Takes back pins that this batch took.
#[cold]
fn give_up<H: GupHost, F>(call: &Call<'_, '_, H, F>, pfn: Pfn, pages: PageCount) {
    for (folio, _, pages) in pieces(&call.frames, pfn, pages) {
        let given = put_pins(call.host, &call.frames, folio, pages);
        debug_assert!(given.is_ok(), "pins of this batch are missing");
    }
}
