//! From the disassembly of one function to the graph of its ways, with everything that may not stand
//! in it named.

use std::collections::BTreeMap;

use super::disassembly::Line;
use super::elf::{Function, Image, Meaning};
use super::graph::{Graph, Node};
use super::isa::{Flow, Isa, Refusal, Step};
use super::name::readable;

/// One function, taken apart.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) graph: Graph,
    /// To the end of the last instruction that can be reached.
    pub(crate) bytes: u64,
    /// What breaks the contract, one line each.
    pub(crate) findings: Vec<String>,
}

struct Decoder<'a> {
    image: &'a Image,
    function: &'a Function,
    lines: &'a [Line],
    /// May this function be called, by number?
    allowed: &'a dyn Fn(usize) -> bool,
    findings: Vec<String>,
}

/// Follows every way from the first of `lines`. What no way reaches is not run, and not judged: it
/// pads, or describes the function to debuggers.
pub(crate) fn decode(
    image: &Image,
    function: &Function,
    lines: &[Line],
    allowed: &dyn Fn(usize) -> bool,
) -> Decoded {
    let mut decoder = Decoder { image, function, lines, allowed, findings: Vec::new() };
    if lines.first().map(|line| line.address) != Some(function.start) {
        decoder.findings.push("its code does not start where its symbol does".to_owned());
    }
    let mut nodes: BTreeMap<usize, (Node, Vec<usize>)> = BTreeMap::new();
    let mut open = vec![0];
    while let Some(index) = open.pop() {
        if nodes.contains_key(&index) {
            continue;
        }
        let Some(line) = lines.get(index) else { continue };
        let (node, next) = decoder.node(line, index);
        open.extend(&next);
        nodes.insert(index, (node, next));
    }
    decoder.unreached(&nodes);
    let numbers: BTreeMap<usize, usize> =
        nodes.keys().enumerate().map(|(number, &index)| (index, number)).collect();
    let last = nodes.keys().next_back().map_or(function.start, |&index| decoder.end(index));
    let nodes = nodes.into_values().map(|(node, next)| {
        let next = next.iter().filter_map(|index| numbers.get(index).copied()).collect();
        Node { next, ..node }
    });
    Decoded {
        graph: Graph { nodes: nodes.collect(), entry: 0 },
        bytes: last - function.start,
        findings: decoder.findings,
    }
}

impl Decoder<'_> {
    fn end(&self, index: usize) -> u64 {
        self.lines.get(index + 1).map_or(self.function.end, |line| line.address)
    }

    fn finding(&mut self, line: &Line, what: &str) {
        let offset = line.address.saturating_sub(self.function.start);
        self.findings.push(format!("+{offset:#x} `{}`: {what}", line.text()));
    }

    /// The instruction, and the lines that may come next: the branch's target last.
    fn node(&mut self, line: &Line, index: usize) -> (Node, Vec<usize>) {
        let offset = line.address.saturating_sub(self.function.start);
        let isa = self.image.isa;
        let step = match isa.step(line) {
            Ok(step) => step,
            Err(refusal) => {
                self.finding(line, &refusal.to_string());
                // A call comes back, perhaps; what follows is worth a look in any case.
                let goes_on = refusal != Refusal::Trap && index + 1 < self.lines.len();
                let next = if goes_on { vec![index + 1] } else { Vec::new() };
                return (
                    Node { offset, step: Step::refused(), next: Vec::new(), calls: None },
                    next,
                );
            }
        };
        let meanings: Vec<Meaning> = self
            .image
            .relocations(self.function, line.address, self.end(index))
            .filter(|meaning| !is_own_table(isa, meaning))
            .cloned()
            .collect();
        let mut next = Vec::new();
        let mut calls = None;
        match step.flow {
            Flow::Next => self.refuse(line, &meanings),
            Flow::Return => {}
            Flow::ReturnOrNext => {}
            Flow::Call(to) => calls = self.callee(line, to, &meanings),
            Flow::Jump(to) | Flow::Branch { to, .. } => {
                match self.lines.iter().position(|line| line.address == to) {
                    Some(target) if meanings.is_empty() => next.push(target),
                    _ => calls = self.callee(line, to, &meanings),
                }
            }
        }
        if !matches!(step.flow, Flow::Return | Flow::Jump(_)) {
            if index + 1 < self.lines.len() {
                next.insert(0, index + 1);
            } else if calls.is_some() || !matches!(step.flow, Flow::Call(_)) {
                self.finding(line, "runs on behind the end of the function");
            }
        }
        (Node { offset, step, next: Vec::new(), calls }, next)
    }

    /// The function behind a call, or a jump out of this one.
    fn callee(&mut self, line: &Line, to: u64, meanings: &[Meaning]) -> Option<usize> {
        let (found, name) = match meanings {
            [] => (self.image.at(self.function, to), format!("{to:#x}")),
            [meaning] => (self.image.resolve(self.function, meaning), spell(meaning)),
            _ => (None, "several symbols".to_owned()),
        };
        match found {
            Some(function) if (self.allowed)(function) => Some(function),
            Some(function) => {
                let symbol = self.image.functions.get(function).map(|other| other.symbol.as_str());
                self.finding(line, &format!("leaves for {}", symbol.unwrap_or_default()));
                None
            }
            None => {
                self.finding(line, &format!("leaves for {name}"));
                None
            }
        }
    }

    fn refuse(&mut self, line: &Line, meanings: &[Meaning]) {
        for meaning in meanings {
            self.finding(line, &format!("refers to {}", spell(meaning)));
        }
    }

    /// Bytes that no way reaches may not need a linker either: it could be a way that was missed.
    fn unreached(&mut self, nodes: &BTreeMap<usize, (Node, Vec<usize>)>) {
        for (index, line) in self.lines.iter().enumerate() {
            if nodes.contains_key(&index) {
                continue;
            }
            let end = self.end(index);
            let meanings: Vec<Meaning> =
                self.image.relocations(self.function, line.address, end).cloned().collect();
            self.refuse(line, &meanings);
        }
    }
}

/// Power computes the address of its table of contents at the start of a function. That reads
/// nothing; the use of the table is refused where it occurs.
fn is_own_table(isa: Isa, meaning: &Meaning) -> bool {
    isa == Isa::Power && *meaning == Meaning::Name(".TOC.".to_owned())
}

fn spell(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Place(_, _, name) | Meaning::Name(name) => readable(name),
    }
}

#[cfg(test)]
mod tests {
    use super::decode;
    use crate::audit::disassembly::parse;
    use crate::audit::elf::Image;
    use crate::audit::isa::Isa;

    /// What is found in the function that this text lists, and its bytes.
    fn findings(isa: Isa, end: u64, listing: &str) -> (Vec<String>, u64) {
        let lines = parse(isa, listing).expect("a listing");
        let image = Image::of_one(isa, 0, end);
        let decoded = decode(&image, &image.functions[0], &lines, &|_| true);
        (decoded.findings, decoded.bytes)
    }

    #[test]
    fn what_no_way_reaches_is_not_judged() {
        let listing = "0: mr 3, 4\n4: blr\n8: <unknown>\nc: <unknown>\n";
        assert_eq!(findings(Isa::Power, 16, listing), (vec![], 8));
        let reached = "0: mr 3, 4\n4: btlr 2\n8: <unknown>\n";
        let (found, _) = findings(Isa::Power, 12, reached);
        let unknown = "instruction or operand that the audit does not know";
        assert_eq!(found[0], format!("+0x8 `<unknown>`: {unknown}"));
    }

    #[test]
    fn the_end_is_a_way_out_as_well() {
        let (found, _) = findings(Isa::X86_64, 3, "0: incq %rax\n");
        assert_eq!(found, ["+0x0 `incq %rax`: runs on behind the end of the function"]);
    }

    #[test]
    fn ways_out() {
        let (found, _) = findings(Isa::X86_64, 5, "0: je 0x40 <g>\n2: jmp 0x80 <h>\n");
        assert_eq!(found, ["+0x0 `je 0x40`: leaves for 0x40", "+0x2 `jmp 0x80`: leaves for 0x80"]);
        // Into the middle of an instruction.
        let (found, _) = findings(Isa::X86_64, 3, "0: jmp 0x1 <f+0x1>\n2: retq\n");
        assert_eq!(found, ["+0x0 `jmp 0x1`: leaves for 0x1"]);
    }

    #[test]
    fn a_trap_counts_where_it_is_reached() {
        let (found, _) = findings(Isa::Aarch64, 12, "0: cbz x0, 0x8\n4: ret\n8: brk #0x1\n");
        assert_eq!(found, ["+0x8 `brk #0x1`: trap"]);
        let (found, _) = findings(Isa::Aarch64, 8, "0: ret\n4: brk #0x1\n");
        assert!(found.is_empty());
    }
}
