//! The kernel's own answers to long-term pins, where the capture has them, against pinfold's.

use pinfold_sim::snapshot::Snapshot;
use pinfold_sim::verdict::compare;

use crate::output::{By, Output, plain};
use crate::scene::Fallible;

/// Disagreements that are printed one by one.
const SHOWN: usize = 20;

/// Asks pinfold what the kernel was asked, on a machine of its own.
pub(crate) fn check(out: &mut Output, snapshot: &Snapshot) -> Fallible<()> {
    let found = compare(snapshot)?;
    out.section("Long-term pins that the kernel itself was asked for");
    let (agreed, exceptions) = (found.agreed, found.exceptions());
    out.say(By::Kernel, format!("verdicts {agreed} agreed, {exceptions} exceptions (listed)"));
    for (exception, verdicts) in &found.excepted {
        out.more(format!("{:>6} {}", verdicts.len(), exception.reason));
    }
    for one in found.disagreements.iter().take(SHOWN) {
        out.say(By::Pinfold, plain(&one.to_string()));
    }
    let wrong = found.disagreements.len();
    if wrong > 0 {
        out.check(format!("pinfold answers as the kernel did, but for {wrong} verdicts"), false);
    } else if agreed > 0 {
        out.check("pinfold answers as the kernel did", true);
    }
    Ok(())
}
