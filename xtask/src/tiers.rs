//! The test tiers: what they are, which ones a command line means, running them one by one.

mod boot;
mod extra;
mod foreign;
mod hosted;

use std::process::ExitCode;
use std::time::Instant;

use crate::capture::arch;
use crate::counts::{Outcome, Stop};
use crate::need::{self, Need};
use crate::report::{self, Row};

/// A set of checks that stands or falls together.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// From a clean tree on two cores.
    pub(crate) minutes: &'static str,
    pub(crate) needs: &'static [&'static Need],
    run: fn() -> Outcome,
}

impl Tier {
    const fn new(
        name: &'static str,
        what: &'static str,
        minutes: &'static str,
        needs: &'static [&'static Need],
        run: fn() -> Outcome,
    ) -> Self {
        Self { name, what, minutes, needs, run }
    }

    fn outcome(&self) -> Outcome {
        match self.needs.iter().find(|need| !need.present()) {
            Some(need) => Err(Stop::Skipped(need.missing())),
            None => (self.run)(),
        }
    }
}

/// Plain `cargo xtask test`: stable Rust is enough. What fails soonest comes first.
pub(crate) const HOSTED: &[Tier] = &[
    Tier::new("fmt", "rustfmt agrees", "0.1", &[&need::RUSTFMT], hosted::fmt),
    Tier::new("clippy", "no warning, all targets", "1.5", &[&need::CLIPPY], hosted::clippy),
    Tier::new("test", "unit and integration tests", "5.5", &[], hosted::test),
    Tier::new("doctest", "examples in the docs", "0.5", &[], hosted::doctest),
    Tier::new("doc", "the docs build without warning", "0.3", &[], hosted::doc),
    Tier::new("example", "the pin_guest example ends well", "0.7", &[], hosted::example),
    Tier::new("fuzz-build", "fuzz targets compile", "0.2", &[&need::CXX], hosted::fuzz_build),
    Tier::new("no-std", "the C library without std", "0.2", &[], hosted::no_std),
];

/// What `test all` adds.
pub(crate) const EXTRA: &[Tier] = &[
    Tier::new("model", "400000 calls in random scripts", "3", &[], extra::model),
    Tier::new("loom", "every interleaving of the small races", "1", &[], extra::loom),
    Tier::new(
        "c",
        "C tests that need a tool, such as valgrind",
        "0.5",
        &[&need::CC, &need::LIBC, &need::VALGRIND],
        extra::c,
    ),
    Tier::new(
        "audit",
        "real-mode object code keeps its contract",
        "4",
        &[&need::OBJDUMP, &need::BARE_RUST],
        extra::audit,
    ),
    Tier::new(
        "fuzz",
        "each fuzz target for 5000 runs",
        "6",
        &[&need::NIGHTLY, &need::CARGO_FUZZ, &need::CXX],
        extra::fuzz,
    ),
    Tier::new(
        "capture:x86_64",
        "a fresh kernel's tables, pinned by pin_guest",
        "0.5",
        need::CAPTURE_X86_64,
        || extra::capture(&arch::X86_64, Some(5)),
    ),
    Tier::new("capture:aarch64", "the same on Arm", "0.5", need::CAPTURE_AARCH64, || {
        extra::capture(&arch::AARCH64, None)
    }),
    Tier::new("capture:s390x", "the same on s390", "0.5", need::CAPTURE_S390X, || {
        extra::capture(&arch::S390X, None)
    }),
    Tier::new("capture:powerpc64le", "the same on POWER", "0.5", need::CAPTURE_POWERPC64LE, || {
        extra::capture(&arch::POWERPC64LE, None)
    }),
    Tier::new("boot:x86_64", "DMA through VT-d and AMD-Vi", "1", need::BOOT_X86_64, boot::x86_64),
    Tier::new("boot:aarch64", "DMA through SMMUv3", "0.5", need::BOOT_AARCH64, boot::aarch64),
    Tier::new(
        "boot:powerpc64",
        "DMA through PHB4's TCEs",
        "2",
        need::BOOT_POWERPC64,
        boot::powerpc64,
    ),
    Tier::new("boot:s390x", "DMA through zPCI's tables", "0.5", need::BOOT_S390X, boot::s390x),
    Tier::new("s390x", "the tests on a big-endian CPU", "9", need::S390X, foreign::s390x),
    Tier::new("powerpc64le", "the tests on POWER", "6", need::POWERPC64LE, foreign::powerpc64le),
    Tier::new("aarch64", "the tests on Arm", "6", need::AARCH64, foreign::aarch64),
    Tier::new("deny", "licences, bans, sources", "0.1", &[&need::CARGO_DENY], extra::deny),
    Tier::new("package", "what would be published builds", "1", &[], extra::package),
    Tier::new("bench", "the benches run, briefly", "1", &[], extra::bench),
    Tier::new("counts", "atomic changes of words, counted", "0.5", &[], extra::counts),
];

pub(crate) fn every() -> impl Iterator<Item = &'static Tier> {
    HOSTED.iter().chain(EXTRA)
}

/// `cargo xtask test ARGS`.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match choose(&args) {
        Ok(tiers) => run_all(&tiers),
        Err(Choice::List) => {
            report::list();
            ExitCode::SUCCESS
        }
        Err(Choice::Unknown(name)) => {
            let code = crate::usage(&format!("there is no tier `{name}`"));
            report::list();
            code
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    List,
    Unknown(&'a str),
}

/// A name before a colon means all tiers that begin so.
fn choose<'a>(args: &[&'a str]) -> Result<Vec<&'static Tier>, Choice<'a>> {
    let means = |name: &str, tier: &Tier| {
        tier.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    match args {
        [] => Ok(HOSTED.iter().collect()),
        ["all"] => Ok(every().collect()),
        ["rest"] => Ok(EXTRA.iter().collect()),
        ["--list"] => Err(Choice::List),
        names => {
            let mut chosen = Vec::new();
            for &name in names {
                let before = chosen.len();
                chosen.extend(every().filter(|tier| means(name, tier)));
                if chosen.len() == before {
                    return Err(Choice::Unknown(name));
                }
            }
            Ok(chosen)
        }
    }
}

fn run_all(tiers: &[&'static Tier]) -> ExitCode {
    let mut rows = Vec::with_capacity(tiers.len());
    for &tier in tiers {
        println!("== {}: {}", tier.name, tier.what);
        let start = Instant::now();
        let outcome = tier.outcome();
        let row = Row { tier, outcome, took: start.elapsed() };
        println!("   {}", row.line());
        rows.push(row);
    }
    report::summary(&rows)
}

#[cfg(test)]
mod tests {
    use super::arch;
    use super::{Choice, EXTRA, HOSTED, choose, every};

    fn names(args: &[&str]) -> Vec<&'static str> {
        choose(args).expect("a choice of tiers").iter().map(|tier| tier.name).collect()
    }

    #[test]
    fn nothing_means_hosted_and_all_means_all() {
        assert!(names(&[]).contains(&"clippy"));
        assert!(!names(&[]).contains(&"fuzz"));
        assert_eq!(names(&["all"]).len(), HOSTED.len() + EXTRA.len());
        assert_eq!([names(&[]), names(&["rest"])].concat(), names(&["all"]));
    }

    #[test]
    fn tiers_by_name() {
        assert_eq!(names(&["loom", "fmt"]), ["loom", "fmt"]);
        assert_eq!(choose(&["fmt", "nope"]).err(), Some(Choice::Unknown("nope")));
        assert_eq!(names(&["capture:aarch64", "fuzz"]), ["capture:aarch64", "fuzz"]);
        assert_eq!(names(&["capture"]).len(), arch::ALL.len());
        assert_eq!(choose(&["--list"]).err(), Some(Choice::List));
    }

    #[test]
    fn names_are_unique() {
        for tier in every() {
            assert_eq!(every().filter(|other| other.name == tier.name).count(), 1, "{}", tier.name);
        }
    }
}
