//! What a kernel answered when it was asked for real long-term pins, against what pinfold answers.
//!
//! [`compare`] makes a [`Replica`], asks the engine there for every pin that the snapshot's kernel was
//! asked for, in the same order, gives each back at once as the kernel's asker did, and holds the two
//! answers against each other: pinned or refused, and the error number, if the asker told it. The kernel is
//! taken to be right, with the [`EXCEPTIONS`] that are listed one by one: rules of an asker's own, and
//! rules that the kernel did not have yet.
//!
//! ```
//! use pinfold_sim::snapshot::{Snapshot, Verdict};
//! use pinfold_sim::verdict::compare;
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/snapshots/x86_64-6.1-cma.snap");
//! let mut snapshot = Snapshot::parse(&std::fs::read(path)?)?;
//! let (start, _) = snapshot.guest().unwrap();
//! let (asker, write, whole) = ("gup_test".to_owned(), true, true);
//! // Say, the kernel refused the guest's first page with EFAULT.
//! snapshot.verdicts = vec![Verdict { asker, write, whole, start, pages: 1, errno: 14 }];
//!
//! let found = compare(&snapshot)?;
//! assert_eq!(found.agreed, 0);
//! assert!(found.disagreements[0].ours.is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use pinfold::folio::Why;
use pinfold::host::{FaultError, Mapping, MappingKind};
use pinfold::policy::Refusal;
use pinfold::sync::Word;
use pinfold::{
    Access, AddrRange, Dirtied, Engine, PageCount, PinCause, PinError, PinRequest, PinTable,
    UnpinError, VirtAddr,
};

use super::{Replica, ReplicaError};
use crate::ram::Ram;
use crate::snapshot::{Snapshot, Verdict};

mod exceptions;

pub use exceptions::{EXCEPTIONS, Exception};

/// Pages of all verdicts together, at most: every one may be a call of its own.
const PAGES: u64 = 1 << 20;

const ENOMEM: u16 = 12;
const EFAULT: u16 = 14;
const EBUSY: u16 = 16;
const EOPNOTSUPP: u16 = 95;

/// The answers of a kernel and pinfold's, held against each other. Verdicts are counted, not pages.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Verdicts with the same answer for every page.
    pub agreed: u64,
    /// Verdicts that differ for a reason that is known, by reason.
    pub excepted: Vec<(&'static Exception, Vec<Verdict>)>,
    /// The others, each with the first page that differs.
    pub disagreements: Vec<Disagreement>,
}

impl Comparison {
    /// How many verdicts differ for a known reason.
    #[must_use]
    pub fn exceptions(&self) -> u64 {
        self.excepted.iter().map(|(_, verdicts)| verdicts.len() as u64).sum()
    }

    fn except(&mut self, exception: &'static Exception, verdict: Verdict) {
        match self.excepted.iter_mut().find(|(known, _)| known.reason == exception.reason) {
            Some((_, verdicts)) => verdicts.push(verdict),
            None => self.excepted.push((exception, vec![verdict])),
        }
    }
}

/// A question to which pinfold has another answer than the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// The kernel's answer.
    pub verdict: Verdict,
    /// The first page of the call that differs.
    pub at: VirtAddr,
    /// Pinfold's answer.
    pub ours: Result<(), PinError>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { asker, write, whole, pages, errno, .. } = &self.verdict;
        let pages = if *whole { *pages } else { 1 };
        let access = if *write { "write" } else { "read" };
        write!(f, "{asker:?}, to {access}, {pages} pages at {}: the kernel ", self.at)?;
        match errno {
            0 => write!(f, "pinned them"),
            errno => write!(f, "refused with error {errno}"),
        }?;
        match &self.ours {
            Ok(()) => write!(f, ", pinfold pins them"),
            Err(error) => write!(f, ", pinfold says: {error}"),
        }
    }
}

/// Why the answers could not be compared.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// No machine can be made from the snapshot.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A verdict is not about pages.
    #[error("the verdict on {pages} pages at {start:#x} is not on a range of pages")]
    Range {
        /// The verdict's first address.
        start: u64,
        /// How many pages it is on.
        pages: u64,
    },
    /// The verdicts are on more pages than this is for.
    #[error("the verdicts are on more than {PAGES} pages")]
    TooMany,
    /// A pin could not be given back.
    #[error("giving back a pin: {0}")]
    Unpin(#[from] UnpinError),
}

/// Asks pinfold what the kernel was asked.
///
/// # Errors
/// [`CompareError`]: there is nothing to hold the verdicts against.
pub fn compare(snapshot: &Snapshot) -> Result<Comparison, CompareError> {
    let ram = Ram::new(&Replica::layout(snapshot)?);
    let replica = Replica::new(&ram, snapshot)?;
    let mut found = Comparison::default();
    let mut asked = 0u64;
    for verdict in &snapshot.verdicts {
        asked = asked.saturating_add(verdict.pages);
        if asked > PAGES {
            return Err(CompareError::TooMany);
        }
        one(&replica, snapshot, verdict, &mut found)?;
    }
    Ok(found)
}

/// What became of one call.
#[derive(Debug)]
pub(super) struct Case<'a> {
    /// The kernel that was asked, and what it said.
    pub(super) kernel: Option<(u32, u32)>,
    pub(super) verdict: &'a Verdict,
    /// The mapping of the page that pinfold refused, or all that were asked for.
    pub(super) mappings: &'a [Mapping],
    /// Pinfold's answer as an error number; `None` where the kernel has none for it.
    pub(super) ours: Option<u16>,
    /// Whether pinfold refused, and not the first page already.
    pub(super) later: bool,
    /// Whether any of the pages was captured in a movable zone or a CMA area.
    pub(super) kept: bool,
}

fn one(
    replica: &Replica<'_>,
    snapshot: &Snapshot,
    verdict: &Verdict,
    found: &mut Comparison,
) -> Result<(), CompareError> {
    let Verdict { start, pages, .. } = *verdict;
    let base = replica.machine().ram().base();
    let whole = AddrRange::new(VirtAddr::new(start), PageCount::new(pages), base)
        .map_err(|_| CompareError::Range { start, pages })?;
    let mappings = replica.machine().mappings(replica.space().id());
    let mut exception = None;
    let mut rest = Some(whole);
    while let Some(left) = rest {
        let count = if verdict.whole { left.pages() } else { PageCount::ONE };
        let range = left.take(count).unwrap_or(left);
        rest = left.skip(count);
        let answer = ask(replica, range, verdict.write)?;
        let ours = match &answer {
            Ok(()) => Some(0),
            Err(error) => {
                errno(&error.cause, mappings.iter().find(|map| map.range.contains(error.at)))
            }
        };
        if ours == Some(verdict.errno) || verdict.errno == Verdict::UNTOLD && answer.is_err() {
            continue;
        }
        // Where pinfold refused it is about one page, else about all that was asked for.
        let reached = |mapping: &&Mapping| match &answer {
            Ok(()) => mapping.range.overlaps(&range),
            Err(error) => mapping.range.contains(error.at),
        };
        let reached: Vec<Mapping> = mappings.iter().filter(reached).copied().collect();
        let case = Case {
            kernel: version(&snapshot.kernel),
            verdict,
            mappings: &reached,
            ours,
            later: answer.is_err_and(|error| error.at != range.start()),
            kept: kept(snapshot, &range),
        };
        let Some(known) = EXCEPTIONS.iter().find(|exception| exception.explains(&case)) else {
            let (verdict, at) = (verdict.clone(), range.start());
            found.disagreements.push(Disagreement { verdict, at, ours: answer });
            return Ok(());
        };
        exception = Some(known);
    }
    match exception {
        Some(known) => found.except(known, verdict.clone()),
        None => found.agreed += 1,
    }
    Ok(())
}

/// One long-term pin, given back at once.
fn ask(
    replica: &Replica<'_>,
    range: AddrRange,
    write: bool,
) -> Result<Result<(), PinError>, CompareError> {
    let machine = replica.machine();
    let engine = Engine::new(machine, machine.frames());
    // A write pin needs no right to read, for the kernel.
    let access = if write { Access::WRITE } else { Access::READ };
    let words = PinTable::words_for(&range, range.base()).ok_or(CompareError::TooMany)?;
    let words: Vec<Word> = (0..words).map(|_| Word::new(0)).collect();
    let pinned = PinTable::new(&words)
        .map_err(|error| PinError { at: range.start(), cause: error.into() })
        .and_then(|table| {
            engine.pin(replica.space(), &table, &PinRequest::longterm(range, access))?;
            Ok(table)
        });
    match pinned {
        Ok(table) => Ok(Ok(engine.unpin(&table, Dirtied::No).map(|_| ())?)),
        Err(error) => Ok(Err(error)),
    }
}

/// Whether a page of the range was captured where nothing may be pinned for long.
fn kept(snapshot: &Snapshot, range: &AddrRange) -> bool {
    let movable = snapshot.zones.iter().filter(|zone| zone.name == "Movable");
    let places = movable.map(|zone| (zone.start_pfn, zone.spanned));
    let places = places.chain(snapshot.cma.iter().map(|area| (area.start_pfn, area.frames)));
    let places: Vec<(u64, u64)> = places.collect();
    snapshot.pages.iter().any(|run| {
        let Some(first) = run.frame() else { return false };
        let from = range.start().raw().saturating_sub(run.va) >> range.base().raw();
        let behind = (range.last().raw() + 1).saturating_sub(run.va) >> range.base().raw();
        let (from, behind) = (first + from.min(run.count), first + behind.min(run.count));
        places.iter().any(|(start, frames)| {
            from < behind && from < start.saturating_add(*frames) && *start < behind
        })
    })
}

/// The kernel's number for what stood in the way, where it has one for it.
fn errno(cause: &PinCause, mapping: Option<&Mapping>) -> Option<u16> {
    match cause {
        PinCause::Refused(Refusal::FsDax) => Some(EOPNOTSUPP),
        // An empty pool is a bus error.
        PinCause::Fault(FaultError::NoMemory)
            if mapping.is_some_and(|mapping| mapping.kind == MappingKind::Hugetlb) =>
        {
            Some(EFAULT)
        }
        PinCause::Fault(FaultError::NoMemory)
        | PinCause::OverLimit(_)
        | PinCause::Overflow { .. } => Some(ENOMEM),
        PinCause::Refused(_)
        | PinCause::NotMapped
        | PinCause::NotTranslatable
        | PinCause::NotMemory { .. }
        | PinCause::Fault(_) => Some(EFAULT),
        PinCause::Unmovable { why: Why::Coherent, .. } => Some(EBUSY),
        PinCause::Unmovable { .. } => Some(ENOMEM),
        _ => None,
    }
}

/// Major and minor number of a release such as `6.1.0-56-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
