//! Holds every real-mode function of an image against the rules.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::{Decoded, decode};
use super::disassembly::{Objdump, Place};
use super::elf::{Function, Image};
use super::graph::{Kind, Longest, Loop};
use super::isa::Isa;
use super::name::{is_realmode, readable};
use super::rules::{self, Bound, Changes, Loops, SECTION, SERVICES};

/// What was found out about one function.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Bytes of code: its own, and with everything that it calls.
    pub(crate) bytes: u64,
    pub(crate) bytes_in_all: u64,
    /// Bytes of stack, callees included.
    pub(crate) stack: u64,
    /// Instructions on the longest way, callees included.
    pub(crate) steps: u64,
    /// Atomic changes of memory in the code, callees included.
    pub(crate) changes: u64,
    /// Instructions that write memory without asking what is there, callees included; none is counted
    /// that writes to the frame.
    pub(crate) stores: u64,
    /// Its own, with their bounds.
    pub(crate) loops: Vec<(Kind, Option<Bound>)>,
}

/// All of one image.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) rows: Vec<Row>,
    /// What breaks the contract; empty is good.
    pub(crate) findings: Vec<String>,
}

/// Which names must be there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected<'a> {
    /// Every service under its C name.
    Library,
    /// Every service under its C or its Rust name, and these symbols.
    Embedder(&'a [String]),
}

struct Checker<'a> {
    image: &'a Image,
    objdump: &'a Objdump,
    done: BTreeMap<usize, Summary>,
    /// Functions on the way from the root to the one at hand.
    callers: Vec<usize>,
    audit: Audit,
}

#[derive(Clone, Debug, Default)]
struct Summary {
    stack: u64,
    steps: u64,
    bytes: u64,
    changes: u64,
    stores: u64,
    /// Everything that it calls, itself included.
    closure: BTreeSet<usize>,
}

/// Checks every function of the section, and those that are named as real-mode functions elsewhere.
pub(crate) fn check(
    image: &Image,
    objdump: &Objdump,
    expected: Expected<'_>,
) -> Result<Audit, String> {
    let mut checker = Checker {
        image,
        objdump,
        done: BTreeMap::new(),
        callers: Vec::new(),
        audit: Audit::default(),
    };
    let names: Vec<String> =
        image.functions.iter().map(|function| readable(&function.symbol)).collect();
    let mut roots: BTreeSet<usize> =
        (0..names.len()).filter(|&at| checker.in_section(at)).collect();
    let mut wanted: Vec<Vec<&str>> = SERVICES
        .iter()
        .map(|service| match expected {
            Expected::Library => vec![service.c],
            Expected::Embedder(_) => vec![service.c, service.rust],
        })
        .collect();
    if let Expected::Embedder(symbols) = expected {
        wanted.extend(symbols.iter().map(|symbol| vec![symbol.as_str()]));
    }
    for spellings in wanted {
        let found =
            |at: &usize| names.get(*at).is_some_and(|name| spellings.contains(&name.as_str()));
        let found: Vec<usize> = (0..names.len()).filter(found).collect();
        if found.is_empty() {
            checker.audit.findings.push(format!("{}: missing", spellings.join(" or ")));
        }
        roots.extend(found);
    }
    for root in roots {
        checker.visit(root)?;
    }
    Ok(checker.audit)
}

impl Checker<'_> {
    fn in_section(&self, at: usize) -> bool {
        self.image.functions.get(at).is_some_and(|function| is_ours(&function.section))
    }

    /// May a real-mode function call this one?
    fn callable(&self, at: usize) -> bool {
        let Some(function) = self.image.functions.get(at) else { return false };
        let named =
            is_realmode(&function.symbol) || rules::service_named(&function.symbol).is_some();
        is_ours(&function.section) || (self.image.is_linked(function) && named)
    }

    /// Checks one function after those that it calls.
    fn visit(&mut self, at: usize) -> Result<(), String> {
        if self.done.contains_key(&at) {
            return Ok(());
        }
        let image = self.image;
        let Some(function) = image.functions.get(at) else { return Ok(()) };
        let name = readable(&function.symbol);
        if !is_ours(&function.section) && !image.is_linked(function) {
            self.say(&name, &format!("stands in {}, not in {SECTION}", function.section));
        }
        let decoded = self.decode(function)?;
        for finding in &decoded.findings {
            self.say(&name, finding);
        }
        self.callers.push(at);
        let called: BTreeSet<usize> =
            decoded.graph.nodes.iter().filter_map(|node| node.calls).collect();
        for &callee in &called {
            if self.callers.contains(&callee) {
                let back = image.functions.get(callee).map(|other| readable(&other.symbol));
                self.say(&name, &format!("recursion through {}", back.unwrap_or_default()));
            } else {
                self.visit(callee)?;
            }
        }
        self.callers.pop();
        self.judge(at, &name, &decoded, &called);
        Ok(())
    }

    fn decode(&self, function: &Function) -> Result<Decoded, String> {
        let place = Place {
            file: self.image.path(function),
            section: &function.section,
            start: function.start,
            end: function.end,
        };
        let lines = self.objdump.lines(self.image.isa, place)?;
        Ok(decode(self.image, function, &lines, &|at| self.callable(at)))
    }

    fn judge(&mut self, at: usize, name: &str, decoded: &Decoded, called: &BTreeSet<usize>) {
        let isa = self.image.isa;
        let allowed = rules::loops(name);
        let bound = |changes| allowed.bound(changes).map_or(1, |bound| bound.rounds);
        let of = |callee: usize| self.done.get(&callee).cloned().unwrap_or_default();
        let Longest { steps, loops } = decoded.graph.longest(&bound, |callee| of(callee).steps);
        let stack = decoded.graph.stack(|callee| of(callee).stack + isa.call_bytes());
        let mut closure = BTreeSet::from([at]);
        for &callee in called {
            closure.extend(of(callee).closure);
        }
        let own = Summary {
            bytes: decoded.bytes,
            changes: decoded.graph.all_changes() as u64,
            stores: decoded.graph.all_stores() as u64,
            ..Summary::default()
        };
        self.done.insert(at, own.clone());
        let sum = |what: fn(&Summary) -> u64| {
            closure.iter().filter_map(|other| self.done.get(other)).map(what).sum::<u64>()
        };
        let bytes_in_all = sum(|summary| summary.bytes);
        let changes = sum(|summary| summary.changes);
        let stores = sum(|summary| summary.stores);
        self.judge_loops(name, &loops, allowed);
        let stack = stack.unwrap_or_else(|why| {
            self.say(name, &why);
            0
        });
        let limit = rules::stack_limit(isa);
        if stack > limit {
            self.say(name, &format!("{stack} bytes of stack, at most {limit} are allowed"));
        }
        let row = Row {
            name: name.to_owned(),
            bytes: decoded.bytes,
            bytes_in_all,
            stack,
            steps,
            changes,
            stores,
            loops: loops.iter().map(|found| (found.kind, bounds_of(*found, allowed))).collect(),
        };
        let callees = called.iter().filter_map(|&at| self.image.functions.get(at));
        let callees: Vec<String> = callees.map(|other| readable(&other.symbol)).collect();
        for finding in costs(isa, &row, &callees) {
            self.say(name, &finding);
        }
        self.audit.rows.push(row);
        self.done.insert(at, Summary { stack, steps, closure, ..own });
    }

    fn judge_loops(&mut self, name: &str, loops: &[Loop], allowed: Loops) {
        for found in loops.iter().filter(|found| found.kind == Kind::Tangled) {
            self.say(name, &format!("+{:#x}: a loop with several entries", found.at));
        }
        for (changes, what) in [(false, "that only read"), (true, "that change memory")] {
            let known = usize::from(allowed.bound(changes).is_some());
            let places: Vec<String> = loops
                .iter()
                .filter(|found| found.kind == Kind::Counted { changes })
                .map(|found| format!("+{:#x}", found.at))
                .collect();
            if places.len() > known {
                let (count, places) = (places.len(), places.join(", "));
                let why = format!("{count} loops {what} ({places}), {known} with a stated bound");
                self.say(name, &why);
            }
        }
    }

    fn say(&mut self, name: &str, what: &str) {
        self.audit.findings.push(format!("{name}: {what}"));
    }
}

/// What a service costs too much: changes of memory, stores, and bytes on x86_64.
fn costs(isa: Isa, row: &Row, callees: &[String]) -> Vec<String> {
    let Some(service) = rules::service_named(&row.name) else { return Vec::new() };
    let x86 = isa == Isa::X86_64;
    let mut findings = Vec::new();
    let wrong = match service.changes {
        Changes::None => row.changes != 0,
        Changes::One => row.changes == 0 || (x86 && row.changes != 1),
    };
    if wrong {
        let right = u64::from(service.changes == Changes::One);
        findings.push(format!("{} atomic changes of memory in the code, not {right}", row.changes));
    }
    let most = service.stores(&row.name);
    if row.stores > most {
        findings
            .push(format!("{} plain stores in the code, at most {most} are allowed", row.stores));
    }
    let wraps = callees.iter().any(|name| name == service.rust);
    let (bytes, most) = if wraps {
        (row.bytes, Some(rules::WRAPPER_BYTES))
    } else {
        (row.bytes_in_all, service.bytes)
    };
    if let Some(most) = most.filter(|&most| x86 && bytes > most) {
        findings.push(format!("{bytes} bytes of code, at most {most} are allowed"));
    }
    findings
}

fn bounds_of(found: Loop, allowed: Loops) -> Option<Bound> {
    match found.kind {
        Kind::Counted { changes } => allowed.bound(changes),
        Kind::Retry | Kind::Tangled => None,
    }
}

/// `.text.realmode`, or one that a compiler made of it by adding a name.
fn is_ours(section: &str) -> bool {
    section.strip_prefix(SECTION).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests;
