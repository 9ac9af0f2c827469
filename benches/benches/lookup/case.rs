//! Regions to ask for, and how to ask.

use std::cell::Cell;
use std::time::Duration;

use pinfold::{AddrRange, PageCount};
use pinfold_benches::memory::Flat;
use pinfold_benches::peers::{OneLoad, Pages};
use pinfold_benches::queries::{Locate, dependent, independent, within};
use pinfold_benches::regions::{Layout, Registered};
use pinfold_benches::rounds::{alternate, timed};
use pinfold_benches::rows::{self, Options, Row};

/// Pages that confined queries stay in: 8 MiB.
const CONFINED: u64 = 2048;
/// Rounds until queries are repeated.
const PARTS: usize = 32;

/// Some regions, all of them registered.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layout: Layout,
    pub(crate) engine: Registered,
    /// The address of each page once more, for those who need an array of them.
    slots: Flat,
    /// Addresses all over the memory.
    pub(crate) spread: Vec<u64>,
    /// Addresses in a small part of it.
    pub(crate) confined: Vec<u64>,
}

impl Case {
    fn new(options: &Options, name: &'static str, layout: Layout) -> Self {
        let span = layout.span();
        let engine = Registered::new(layout);
        let slots = engine.addresses();
        let (spread, confined) = (queries(options, &span), queries(options, &part(&span)));
        let case = Self { name, layout, engine, slots, spread, confined };
        for queries in [&case.spread, &case.confined] {
            case.check(&case.engine.reader(), queries);
        }
        case
    }

    /// The floor.
    pub(crate) fn one_load(&self) -> OneLoad<'_> {
        OneLoad(self.pages())
    }

    /// The physical addresses of all pages.
    pub(crate) fn pages(&self) -> Pages<'_> {
        Pages::new(self.layout.span().start().raw(), self.slots.words())
    }

    /// Whether the answers are the ones that the array of addresses gives.
    pub(crate) fn check(&self, locate: &impl Locate, queries: &[u64]) {
        let expected = independent(&self.one_load(), queries);
        assert_eq!(independent(locate, queries), expected, "{}", self.name);
        assert_eq!(dependent(locate, queries), expected, "{}", self.name);
    }
}

/// Addresses inside the range, for several rounds.
pub(crate) fn queries(options: &Options, range: &AddrRange) -> Vec<u64> {
    within(range, PARTS << if options.quick { 9 } else { 14 })
}

/// 8 MiB inside, or all if that is less. Not in the very middle: there everything lies at multiples
/// of large powers of two, and some CPUs' first cache takes such addresses for one another.
fn part(span: &AddrRange) -> AddrRange {
    let first = span.pages().raw().saturating_sub(CONFINED) * 3 / 7;
    let rest = span.skip(PageCount::new(first));
    rest.and_then(|rest| rest.take(PageCount::new(CONFINED))).unwrap_or(*span)
}

/// All that are looked at.
pub(crate) struct Cases {
    pub(crate) one: Case,
    pub(crate) some: Case,
    pub(crate) many: Case,
    /// The ends of neighbours share a block of 2 MiB.
    pub(crate) askew: Case,
    /// All of them share a block of 1 GiB.
    pub(crate) small: Case,
}

impl Cases {
    pub(crate) fn new(options: &Options) -> Self {
        let case = |name, layout| Case::new(options, name, layout);
        let small = Layout { regions: 4096, pages: 1, ..Layout::whole(16, 1) };
        Self {
            one: case("1 region", Layout::whole(16, 1)),
            some: case("64 regions", Layout::whole(16, 64)),
            many: case("4096 regions", Layout::whole(16, 4096)),
            askew: case("4096 askew", Layout { skew: 257, ..Layout::whole(16, 4096) }),
            small: case("4096 of a page", small),
        }
    }

    pub(crate) fn all(&self) -> [&Case; 5] {
        [&self.one, &self.some, &self.many, &self.askew, &self.small]
    }
}

/// Queries of which each round asks another part, so that no cache holds the answers from the last
/// time, and a round is short: where others are at work too, a long one is interrupted.
pub(crate) struct Turns<'a> {
    queries: &'a [u64],
    /// What a part is less than the others', for those who are slow.
    less: u32,
    turn: Cell<usize>,
}

impl<'a> Turns<'a> {
    pub(crate) fn new(queries: &'a [u64]) -> Self {
        Self { queries, less: 1, turn: Cell::new(0) }
    }

    /// For one who looks at each region: the more there are, the fewer queries.
    pub(crate) fn by_regions(queries: &'a [u64], regions: u64) -> Self {
        let less = u32::try_from(regions / 16).unwrap_or(u32::MAX).max(1);
        Self { less, ..Self::new(queries) }
    }

    /// The next part.
    pub(crate) fn next(&self) -> &'a [u64] {
        let turn = self.turn.replace(self.turn.get() + 1);
        let each = per_round(self.queries) / self.less as usize;
        let parts = self.queries.len() / each;
        &self.queries[turn % parts * each..][..each]
    }

    /// How long it takes to ask them, the CPU being free to be at several questions.
    pub(crate) fn asked(&self, locate: &impl Locate) -> Duration {
        let queries = self.next();
        timed(|| assert_eq!(independent(locate, queries).missed, 0)) * self.less
    }

    /// How long it takes to ask one after the other.
    pub(crate) fn followed(&self, locate: &impl Locate) -> Duration {
        let queries = self.next();
        timed(|| assert_eq!(dependent(locate, queries).missed, 0)) * self.less
    }
}

/// Queries in a round.
pub(crate) fn per_round(queries: &[u64]) -> usize {
    queries.len() / PARTS
}

/// Prints a row: two sides that each answer a round's queries of the case.
pub(crate) fn compare(
    options: &Options,
    row: &Row,
    case: &Case,
    ours: impl Fn() -> Duration,
    theirs: impl Fn() -> Duration,
) {
    if !options.wants(row.id) {
        return;
    }
    let queries = per_round(&case.spread) as u64;
    let run = |_| {
        let [compared] = alternate(options.rounds(), queries, || [ours()], || [theirs()]);
        compared
    };
    rows::print(row, case.name, (0..options.runs()).map(run).collect());
}
