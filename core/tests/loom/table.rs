//! Two callers at one pin table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::thread;
use pinfold::host::{Host, NoAccount, NoTrace, SpaceId, SpinWait};
use pinfold::source::{HostPins, PinSource, RunSink, SourceError};
use pinfold::sync::Word;
use pinfold::table::Run;
use pinfold::{
    Access, AddrRange, Dirtied, PageCount, PageShift, Pfn, PinRequest, PinTable, VirtAddr,
};

struct Plain;

impl Host for Plain {
    type Wait = SpinWait;
    type Account = NoAccount;
    type Trace = NoTrace;

    fn wait(&self) -> &SpinWait {
        &SpinWait
    }
    fn account(&self) -> &NoAccount {
        &NoAccount
    }
    fn trace(&self) -> &NoTrace {
        &NoTrace
    }
}

/// Counts the pages that are pinned; no part of the model.
#[derive(Default)]
struct Source(AtomicU64);

impl PinSource for &Source {
    fn base(&self) -> PageShift {
        PageShift::SIZE_4K
    }
    fn pin(
        &self,
        _: SpaceId,
        part: AddrRange,
        _: &PinRequest,
        runs: &mut RunSink<'_>,
    ) -> Result<(), SourceError> {
        self.0.fetch_add(part.pages().raw(), Ordering::SeqCst);
        runs.push(Pfn::new(part.start().raw() >> 12), part.pages())
    }
    fn unpin(&self, run: Run) {
        self.0.fetch_sub(run.pages.raw(), Ordering::SeqCst);
    }
}

fn request(first: u64, pages: u64) -> PinRequest {
    let start = VirtAddr::new(first << 12);
    let range = AddrRange::new(start, PageCount::new(pages), PageShift::SIZE_4K).unwrap();
    PinRequest::longterm(range, Access::READ)
}

/// Of two who give a table back one does; if it is filled anew before the other comes, that one
/// gives back what it holds by then, not what it held.
#[test]
fn what_is_given_back_is_what_the_table_holds_by_then() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let shared: Arc<(Vec<Word>, Source)> =
            Arc::new(((0..12).map(|_| Word::new(0)).collect(), Source::default()));
        let (words, source) = &*shared;
        let table = PinTable::new(words).unwrap();
        let pins = HostPins::new(Plain, source);
        pins.pin(SpaceId(0), &table, &request(0, 1)).unwrap();
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (words, source) = &*shared;
                let table = PinTable::open(words).unwrap();
                let given = HostPins::new(Plain, source).unpin(&table, Dirtied::No);
                given.map_or(0, |given| given.pages.raw())
            })
        };
        let mut given = pins.unpin(&table, Dirtied::No).map_or(0, |given| given.pages.raw());
        let again = pins.pin(SpaceId(0), &table, &request(5, 3)).is_ok();
        given += other.join().unwrap();
        given += pins.unpin(&table, Dirtied::No).map_or(0, |given| given.pages.raw());
        assert_eq!(given, if again { 4 } else { 1 });
        assert_eq!(source.0.load(Ordering::SeqCst), 0, "pages stay pinned");
    });
}
