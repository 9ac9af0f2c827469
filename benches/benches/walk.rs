//! Rows W1 to W5: one pass over the page tables of 1 GiB, in each format, for each entry that maps it.

use std::hint::black_box;
use std::process::ExitCode;

use pinfold::{AddrRange, AnyFormat, PageCount, PageShift, PhysAddr, VirtAddr, X86_64};
use pinfold_arch::addr::index;
use pinfold_arch::format::s390x::Facilities;
use pinfold_arch::{Aarch64, Geometry, Granule, PowerRadix, S390x};
use pinfold_benches::random::Random;
use pinfold_benches::rounds::{alternate, timed};
use pinfold_benches::rows::{self, Goal, Options, Row};
use pinfold_benches::scene::BASE;
use pinfold_benches::tables::PageTables;
#[cfg(target_arch = "x86_64")]
use pinfold_benches::walkers::Multiarch;
use pinfold_benches::walkers::{self, Aarch64Paging, Mapped, Peer};

const ROWS: [&str; 5] = ["W1", "W2", "W3", "W4", "W5"];
/// Where the memory is mapped.
const START: VirtAddr = VirtAddr::new(0x10_0000_0000);

fn main() -> ExitCode {
    let about = "Walks page tables in one pass, against a bare loop and other crates.";
    let options = match Options::parse(about, &ROWS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    rows::head(&options, "entry");
    let x86 = X86_64::new(4, 46).expect("four levels");
    if options.wants("W1") {
        let names = ["x86_64 / floor", "x86_64, shuffled / floor"];
        against_floor(&options, "W1", names, x86);
        against_peer(&options, "W1", "crate x86_64 / pinfold", x86, Mapped::new);
        #[cfg(target_arch = "x86_64")]
        against_peer(&options, "W1", "page_table_multiarch / pinfold", x86, Multiarch::new);
    }
    if options.wants("W2") {
        let aarch64 = Aarch64::new(Granule::Size4K, 48, 48).expect("a granule");
        let names = ["aarch64 / floor", "aarch64, shuffled / floor"];
        against_floor(&options, "W2", names, aarch64);
        let what = "crate aarch64-paging / pinfold";
        against_peer(&options, "W2", what, aarch64, Aarch64Paging::new);
    }
    if options.wants("W3") {
        let s390x = S390x::new(3, Facilities::all()).expect("three levels");
        let names = ["s390x / floor", "s390x, shuffled / floor"];
        against_floor(&options, "W3", names, s390x);
    }
    if options.wants("W4") {
        let radix = |base| PowerRadix::new(base).expect("a base page of POWER");
        let names = ["POWER, 4 KiB / floor", "POWER, 4 KiB, shuffled / floor"];
        against_floor(&options, "W4", names, radix(BASE));
        let names = ["POWER, 64 KiB / floor", "POWER, 64 KiB, shuffled / floor"];
        against_floor(&options, "W4", names, radix(PageShift::new(16).expect("a shift")));
    }
    if options.wants("W5") {
        any_format(&options, x86);
    }
    ExitCode::SUCCESS
}

/// 1 GiB, in pages of the format's own size.
fn range(options: &Options, base: PageShift) -> AddrRange {
    let bytes: u64 = if options.quick { 64 << 20 } else { 1 << 30 };
    AddrRange::new(START, PageCount::new(bytes >> base.raw()), base).expect("a range")
}

fn tables<F: Geometry>(format: F, range: &AddrRange, shuffled: bool) -> PageTables<F> {
    let base = format.base();
    let mut order: Vec<u64> = (0..range.pages().raw()).collect();
    if shuffled {
        Random::new().shuffle(&mut order);
    }
    let first = range.start().raw();
    PageTables::new(format, range, base, |page| {
        PhysAddr::new(first + (order[index(page)] << base.raw()))
    })
}

/// Frames one behind the other, and in no order: then each entry is a run of its own.
fn against_floor<F: Geometry>(
    options: &Options,
    id: &'static str,
    names: [&'static str; 2],
    format: F,
) {
    let range = range(options, format.base());
    for (what, shuffled) in names.into_iter().zip([false, true]) {
        let tables = tables(format, &range, shuffled);
        let mask = format.address_bits(&tables.last());
        let floor = || walkers::floor(tables.leaves(), format.big_endian(), mask);
        assert_eq!(walkers::pinfold(&tables, &range), floor(), "{what}");
        // Tables of 32 entries are more tables than entries of others.
        let goal =
            if shuffled || tables.last().bits < 8 { Goal::Report } else { Goal::AtMost(2.5, 2.0) };
        let runs = (0..options.runs()).map(|_| {
            let [run] = alternate(
                options.rounds(),
                range.pages().raw(),
                || [timed(|| _ = black_box(walkers::pinfold(&tables, &range)))],
                || [timed(|| _ = black_box(floor()))],
            );
            run
        });
        rows::print(&Row { id, what, goal }, size(options), runs.collect());
    }
}

/// The same frames in a peer's own tables.
fn against_peer<F: Geometry, P: Peer>(
    options: &Options,
    id: &'static str,
    what: &'static str,
    format: F,
    peer: impl Fn(&AddrRange) -> P,
) {
    let range = range(options, BASE);
    let (tables, peer) = (tables(format, &range, false), peer(&range));
    assert_eq!(walkers::pinfold(&tables, &range), peer.pass(), "{what}");
    let runs = (0..options.runs()).map(|_| {
        let [run] = alternate(
            options.rounds(),
            range.pages().raw(),
            || [timed(|| _ = black_box(peer.pass()))],
            || [timed(|| _ = black_box(walkers::pinfold(&tables, &range)))],
        );
        run
    });
    rows::print(&Row { id, what, goal: Goal::AtLeast(2.0, 4.0) }, size(options), runs.collect());
}

/// What it costs to learn the format at run time.
fn any_format(options: &Options, format: X86_64) {
    let range = range(options, BASE);
    for (what, shuffled) in
        [("any format / x86_64", false), ("any format / x86_64, shuffled", true)]
    {
        let known = tables(format, &range, shuffled);
        let any = tables(AnyFormat::from(format), &range, shuffled);
        let runs = (0..options.runs()).map(|_| {
            let [run] = alternate(
                options.rounds(),
                range.pages().raw(),
                || [timed(|| _ = black_box(walkers::pinfold(&any, &range)))],
                || [timed(|| _ = black_box(walkers::pinfold(&known, &range)))],
            );
            run
        });
        let goal = Goal::AtMost(1.5, 1.1);
        rows::print(&Row { id: "W5", what, goal }, size(options), runs.collect());
    }
}

fn size(options: &Options) -> &'static str {
    if options.quick { "64 MiB" } else { "1 GiB" }
}
