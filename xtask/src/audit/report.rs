//! The table that a person reads.

use super::check::{Audit, Row};
use super::graph::Kind;
use super::rules::Bound;

/// Prints the rows and what breaks the contract.
pub(crate) fn print(title: &str, audit: &Audit) {
    println!("== {title}");
    println!(
        "{:<44}{:>6}{:>7}{:>7}{:>7}{:>8}{:>7}  loops",
        "function", "bytes", "in all", "stack", "steps", "atomics", "stores"
    );
    for row in &audit.rows {
        println!("{}", line(row));
    }
    for finding in &audit.findings {
        println!("BROKEN  {finding}");
    }
    if audit.findings.is_empty() {
        println!("keeps the contract\n");
    } else {
        println!("findings: {}\n", audit.findings.len());
    }
}

fn line(row: &Row) -> String {
    let name = row.name.strip_prefix("pinfold::").unwrap_or(&row.name);
    format!(
        "{name:<44}{:>6}{:>7}{:>7}{:>7}{:>8}{:>7}  {}",
        row.bytes,
        row.bytes_in_all,
        row.stack,
        row.steps,
        row.changes,
        row.stores,
        loops(row)
    )
}

/// `retry, 64 rounds (sync::TRIES)`.
fn loops(row: &Row) -> String {
    let spell = |(kind, bound): &(Kind, Option<Bound>)| match (kind, bound) {
        (Kind::Retry, _) => "retry".to_owned(),
        (_, Some(Bound { rounds, why })) => format!("{rounds} rounds ({why})"),
        (_, None) => "no bound".to_owned(),
    };
    let parts: Vec<String> = row.loops.iter().map(spell).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}
