//! Rows L3 and L4, and reports: others against pinfold.

use pinfold_benches::peers::{Guest, List, Ranges, Sorted, Tlb, Tree};
use pinfold_benches::queries::Locate;
use pinfold_benches::rows::{Goal, Options, Row};

use crate::case::{Case, Cases, Turns, compare};

/// Somebody who answers the queries of a case, and what is hoped for.
struct Other<'a, L> {
    locate: &'a L,
    /// What is printed for queries all over the memory, and for those that stay together.
    names: [&'static str; 2],
    goals: [Goal; 2],
    /// Whether it looks at each region.
    slow: bool,
}

/// All others, with each number of regions.
pub(crate) fn others(options: &Options, cases: &Cases) {
    if !options.wants("L3") && !options.wants("L4") {
        return;
    }
    for case in [&cases.one, &cases.some, &cases.many] {
        list(options, case);
        let (regions, pages) = (case.layout.ranges(), case.pages());
        let (tree, sorted) = (Tree::new(&regions, pages), Sorted::new(&regions, pages));
        let ranges = Ranges::new(&regions, pages);
        case.check(&tree, &case.spread);
        case.check(&sorted, &case.spread);
        case.check(&ranges, &case.spread);
        report(options, case, &tree, ["BTreeMap, spread", "BTreeMap, confined"]);
        report(options, case, &sorted, ["sorted array, spread", "sorted array, confined"]);
        report(options, case, &ranges, ["rangemap, spread", "rangemap, confined"]);
        report(options, case, &Guest::new(&regions), ["vm-memory, spread", "vm-memory, confined"]);
        report(options, case, &Tlb::new(&regions), ["its Iotlb, spread", "its Iotlb, confined"]);
    }
}

fn list(options: &Options, case: &Case) {
    let locate = &List::new(&case.layout.ranges(), case.pages());
    case.check(locate, Turns::by_regions(&case.spread, case.layout.regions).next());
    let goals = match case.layout.regions {
        1 => [Goal::Report, Goal::AtLeast(0.5, 0.8)],
        64 => [Goal::AtLeast(12.0, 16.0), Goal::Report],
        _ => [Goal::AtLeast(300.0, 600.0), Goal::Report],
    };
    both(
        options,
        case,
        &Other { locate, names: ["list, spread", "list, confined"], goals, slow: true },
    );
}

fn report(options: &Options, case: &Case, locate: &impl Locate, names: [&'static str; 2]) {
    let goals = [Goal::Report; 2];
    both(options, case, &Other { locate, names, goals, slow: false });
}

/// Spread queries are row L3, confined ones L4.
fn both<L: Locate>(options: &Options, case: &Case, other: &Other<'_, L>) {
    let ids = ["L3", "L4"].into_iter();
    for (((id, what), goal), queries) in
        ids.zip(other.names).zip(other.goals).zip([&case.spread, &case.confined])
    {
        let reader = case.engine.reader();
        let regions = if other.slow { case.layout.regions } else { 1 };
        let (theirs, ours) = (Turns::by_regions(queries, regions), Turns::new(queries));
        let row = Row { id, what, goal };
        compare(options, &row, case, || theirs.asked(other.locate), || ours.asked(&reader));
    }
}
