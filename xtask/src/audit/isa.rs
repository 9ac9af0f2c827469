//! What the checks must know of one instruction, whatever the machine: where it may go next, what it
//! does to the stack pointer, and what a retry loop depends on. The machines are in `isa/`; each is
//! a list of the instructions that it knows, and one that it does not know is an error.

mod aarch64;
mod power;
mod s390x;
mod x86_64;

use std::fmt;

use super::disassembly::Line;

/// A machine whose instructions are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    X86_64,
    Aarch64,
    /// 64-bit, either byte order.
    Power,
    S390x,
}

/// One instruction, as far as the checks care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) flow: Flow,
    pub(crate) atomic: Option<Atomic>,
    /// It writes memory that is not its own frame, and does not ask what is there.
    pub(crate) stores: bool,
    pub(crate) stack: Stack,
    /// Bytes below the stack pointer that it touches.
    pub(crate) below: u64,
    pub(crate) writes: Writes,
    /// It may change the condition that a conditional branch tests.
    pub(crate) sets_condition: bool,
}

/// Where an instruction may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    Jump(u64),
    Branch { to: u64, when: When },
    Call(u64),
    Return,
    ReturnOrNext,
}

/// What must hold for a branch to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// The condition that an atomic instruction leaves when it has stored.
    Equal,
    NotEqual,
    /// This register is zero.
    Zero(String),
    NotZero(String),
    Other,
}

/// How it changes memory in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    LoadReserved {
        /// As the instruction spells it.
        address: String,
    },
    /// Stores if the reservation stands; says so in a register, or else in the condition.
    StoreConditional { address: String, status: Option<String> },
    /// Stores if memory is what a register holds.
    CompareAndSwap,
}

impl Atomic {
    /// Whether it may write: a load with reservation does not.
    pub(crate) fn changes_memory(&self) -> bool {
        !matches!(self, Self::LoadReserved { .. })
    }
}

/// What becomes of the stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    Stays,
    /// The frame grows by so many bytes; below zero it shrinks.
    Grows(i64),
}

/// The general register that an instruction writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    Nothing,
    Register(String),
    /// Not worked out: assume the worst.
    Anything,
}

/// Why an instruction may not stand in a real-mode function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Where it goes depends on data.
    Indirect,
    /// A panic, an abort, a breakpoint, or a division that may be by zero.
    Trap,
    FloatOrVector,
    /// It changes memory in one piece, whatever is there.
    Modifies,
    /// It reads or makes an address that no argument gave.
    FixedAddress,
    /// The stack pointer changes by an amount that cannot be read off the instruction.
    StackPointer,
    Unknown,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Indirect => "indirect branch or call",
            Self::Trap => "trap",
            Self::FloatOrVector => "floating point or vector register",
            Self::Modifies => "changes memory other than by compare-and-swap",
            Self::FixedAddress => "address that comes from no argument",
            Self::StackPointer => "stack pointer changes by an unknown amount",
            Self::Unknown => "instruction or operand that the audit does not know",
        })
    }
}

impl Step {
    /// Goes on to the next instruction and changes nothing that a loop depends on.
    const fn plain() -> Self {
        Self {
            flow: Flow::Next,
            atomic: None,
            stores: false,
            stack: Stack::Stays,
            below: 0,
            writes: Writes::Nothing,
            sets_condition: false,
        }
    }

    /// Stands for an instruction that was refused.
    pub(crate) fn refused() -> Self {
        Self { writes: Writes::Anything, sets_condition: true, ..Self::plain() }
    }

    fn flow(flow: Flow) -> Self {
        Self { flow, ..Self::plain() }
    }

    fn atomic(atomic: Atomic) -> Self {
        Self {
            atomic: Some(atomic),
            writes: Writes::Anything,
            sets_condition: true,
            ..Self::plain()
        }
    }
}

impl Isa {
    /// What `line` does.
    pub(crate) fn step(self, line: &Line) -> Result<Step, Refusal> {
        match self {
            Self::X86_64 => x86_64::step(line),
            Self::Aarch64 => aarch64::step(line),
            Self::Power => power::step(line),
            Self::S390x => s390x::step(line),
        }
    }

    /// What starts a remark of the disassembler.
    pub(crate) const fn remark(self) -> &'static str {
        match self {
            Self::Aarch64 => "//",
            Self::X86_64 | Self::Power | Self::S390x => "#",
        }
    }

    /// Bytes of stack that a call itself takes.
    pub(crate) const fn call_bytes(self) -> u64 {
        match self {
            Self::X86_64 => 8,
            Self::Aarch64 | Self::Power | Self::S390x => 0,
        }
    }

    /// Makes the disassembler know every instruction of the machine.
    pub(crate) const fn objdump_flags(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 | Self::Aarch64 => &[],
            Self::Power => &["--mcpu=pwr10"],
            Self::S390x => &["--mcpu=z16"],
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Power => "powerpc64",
            Self::S390x => "s390x",
        })
    }
}

/// The address in `0x1e <name+0x1e>`.
fn target(operand: &str) -> Result<u64, Refusal> {
    let address = operand.split_whitespace().next().unwrap_or_default();
    number(address).map(i64::cast_unsigned).ok_or(Refusal::Unknown)
}

/// A number as the disassembler prints it: decimal or `0x`, with or without a sign. One of 64 bits
/// without a sign keeps its bits.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    let value = value.cast_signed();
    Some(if negative { value.wrapping_neg() } else { value })
}

/// Words in quotes would drown the lists of mnemonics.
fn listed(words: &[&str], word: &str) -> bool {
    words.iter().any(|line| line.split(' ').any(|known| known == word))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Isa, Refusal, Step, number};
    use crate::audit::disassembly::Line;

    /// The step of an instruction at address 0x100.
    pub(crate) fn step(isa: Isa, text: &str) -> Result<Step, Refusal> {
        isa.step(&Line::new(isa, 0x100, text))
    }

    #[test]
    fn numbers() {
        assert_eq!(number("-0x10"), Some(-16));
        assert_eq!(number("160"), Some(160));
        assert_eq!(number("r3"), None);
        assert_eq!(number("--1"), None);
        assert_eq!(number("0xffffffff00000000"), Some(-0x1_0000_0000));
    }
}
