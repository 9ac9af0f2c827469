//! Finds `llvm-objdump`, runs it over one function and reads what it prints. A line that is not
//! understood is an error: nothing is skipped.

use std::path::Path;
use std::process::{Command, Stdio};

use super::isa::Isa;

/// The oldest release whose text the machines in `isa` were checked against.
const OLDEST: u32 = 19;

/// One instruction as the disassembler spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) address: u64,
    pub(crate) mnemonic: String,
    pub(crate) operands: Vec<String>,
}

impl Line {
    /// Splits `movq 0x8(%rdi), %rax  # remark`.
    pub(crate) fn new(isa: Isa, address: u64, text: &str) -> Self {
        let text = text.split(isa.remark()).next().unwrap_or_default().trim();
        let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Self { address, mnemonic: mnemonic.to_owned(), operands: split(operands) }
    }

    pub(crate) fn operand(&self, index: usize) -> &str {
        self.operands.get(index).map_or("", String::as_str)
    }

    /// As one reads it in a listing, without the names of addresses.
    pub(crate) fn text(&self) -> String {
        let bare = |operand: &String| operand.split(" <").next().unwrap_or_default().to_owned();
        let operands: Vec<String> = self.operands.iter().map(bare).collect();
        format!("{} {}", self.mnemonic, operands.join(", ")).trim_end().to_owned()
    }
}

/// At the commas that are in no brackets.
fn split(operands: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let mut parts = vec![String::new()];
    for c in operands.trim().chars() {
        match c {
            '(' | '[' | '<' => depth += 1,
            ')' | ']' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// Where the bytes of a function stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Path,
    pub(crate) section: &'a str,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// A usable `llvm-objdump`.
#[derive(Debug)]
pub(crate) struct Objdump {
    program: &'static str,
}

impl Objdump {
    /// Debian's, or one without a number in its name that is new enough.
    pub(crate) fn find() -> Option<Self> {
        ["llvm-objdump-19", "llvm-objdump"]
            .into_iter()
            .find(|name| usable(name))
            .map(|program| Self { program })
    }

    /// The instructions between the two addresses of `place`.
    pub(crate) fn lines(&self, isa: Isa, place: Place<'_>) -> Result<Vec<Line>, String> {
        let mut command = Command::new(self.program);
        command.args(["--disassemble", "--disassemble-zeroes", "--no-show-raw-insn"]);
        command.args(isa.objdump_flags()).arg(format!("--section={}", place.section));
        command.arg(format!("--start-address={:#x}", place.start));
        command.arg(format!("--stop-address={:#x}", place.end)).arg(place.file);
        let ran = command.stdin(Stdio::null()).output();
        let output = ran.map_err(|error| format!("{}: {error}", self.program))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", self.program, text.trim()));
        }
        parse(isa, &String::from_utf8_lossy(&output.stdout))
    }
}

fn usable(program: &str) -> bool {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        release(&text).is_some_and(|release| release >= OLDEST)
    })
}

/// `19` in `Debian LLVM version 19.1.7`.
fn release(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("LLVM version ")?;
    rest.split('.').next()?.trim().parse().ok()
}

/// The instructions in what `llvm-objdump` printed.
pub(crate) fn parse(isa: Isa, text: &str) -> Result<Vec<Line>, String> {
    let mut lines: Vec<Line> = Vec::new();
    // x86's prefix is printed as an instruction of its own.
    let mut prefix: Option<u64> = None;
    for text in text.lines() {
        let Some((address, instruction)) = instruction(text) else {
            if is_heading(text) {
                continue;
            }
            return Err(format!("unexpected line of llvm-objdump: {text:?}"));
        };
        if instruction == "lock" {
            prefix = Some(address);
            continue;
        }
        let line = match prefix.take() {
            Some(start) => Line::new(isa, start, &format!("lock-{instruction}")),
            None => match instruction
                .strip_prefix("lock")
                .filter(|rest| rest.starts_with(char::is_whitespace))
            {
                Some(rest) => Line::new(isa, address, &format!("lock-{}", rest.trim())),
                None => Line::new(isa, address, instruction),
            },
        };
        lines.push(line);
    }
    match prefix {
        Some(address) => Err(format!("a prefix without instruction at {address:#x}")),
        None => Ok(lines),
    }
}

/// `  1e:  movq  %rax, %rcx`.
fn instruction(text: &str) -> Option<(u64, &str)> {
    let (address, rest) = text.split_once(':')?;
    let address = u64::from_str_radix(address.trim_start(), 16).ok()?;
    let rest = rest.trim();
    (!rest.is_empty()).then_some((address, rest))
}

fn is_heading(text: &str) -> bool {
    text.is_empty()
        || text.contains("file format ")
        || text.starts_with("Disassembly of section ")
        || (text.ends_with(">:") && text.contains(" <"))
}

#[cfg(test)]
mod tests {
    use super::{Line, parse, release, split};
    use crate::audit::isa::Isa;

    #[test]
    fn commas_in_brackets_do_not_split() {
        assert_eq!(split("160(256,%r15), 160(%r15)"), ["160(256,%r15)", "160(%r15)"]);
        assert_eq!(split("x0, [x1, #0x8]!"), ["x0", "[x1, #0x8]!"]);
        assert!(split("").is_empty());
    }

    #[test]
    fn headings_are_no_instructions() {
        let text = "\nx.o:\tfile format elf64-s390\n\nDisassembly of section .text.realmode:\n\n\
            0000000000000010 <f>:\n      10:      \tlgr\t%r0, %r3\n";
        let lines = parse(Isa::S390x, text).expect("a listing");
        assert_eq!(lines, [Line::new(Isa::S390x, 0x10, "lgr %r0, %r3")]);
        assert!(parse(Isa::S390x, "something else\n").is_err());
    }

    #[test]
    fn a_prefix_belongs_to_the_next_instruction() {
        let text = "     2c5:      \tlock\n     2c6:      \tcmpxchgq\t%r8, (%rcx)\n";
        let lines = parse(Isa::X86_64, text).expect("a listing");
        assert_eq!(lines, [Line::new(Isa::X86_64, 0x2c5, "lock-cmpxchgq %r8, (%rcx)")]);
        let one_line = "     2c5:      \tlock\t\torq\t$0x8, (%rax)\n";
        let lines = parse(Isa::X86_64, one_line).expect("a listing");
        assert_eq!(lines, [Line::new(Isa::X86_64, 0x2c5, "lock-orq $0x8, (%rax)")]);
        assert!(parse(Isa::X86_64, "     2c5:      \tlock\n").is_err());
    }

    #[test]
    fn releases() {
        assert_eq!(release("Debian LLVM version 19.1.7\n  Optimized"), Some(19));
        assert_eq!(release("GNU objdump 2.40"), None);
    }
}
