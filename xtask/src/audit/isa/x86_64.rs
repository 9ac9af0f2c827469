//! x86_64, in the AT&T spelling: `operation source, destination`.

use super::{Atomic, Flow, Refusal, Stack, Step, When, Writes, listed, number, target};
use crate::audit::disassembly::Line;

/// With a size at the end (`b`, `w`, `l`, `q`); they set the condition, or may.
const ARITHMETIC: &[&str] = &[
    "add sub and or xor adc sbb inc dec neg shl shr sar sal rol ror shld shrd imul mul",
    "bt bts btr btc bsf bsr popcnt lzcnt tzcnt andn bextr blsi blsr blsmsk bzhi",
];
const COMPARE: &[&str] = &["cmp test bt"];
/// With a size at the end; they leave the condition alone.
const MOVE: &[&str] = &[
    "mov movabs lea not bswap push pop xchg shlx shrx sarx rorx",
    "movzb movzw movsb movsw movsl",
];
/// They write registers that they do not name.
const WIDEN: &[&str] = &["cltq cqto cltd cwtl cwtd"];
const NOTHING: &[&str] = &["nop nopw nopl endbr64 pause mfence lfence sfence"];
const CONDITIONS: &[&str] = &["o no b ae e ne be a s ns p np l ge le g"];
const IMPLICIT: &[&str] = &["mul xchg"];
const DIVISION: &[&str] = &["div idiv"];

/// No structure or frame is as large as this.
const SMALL: u64 = 0x1_0000;

/// What `line` does.
pub(super) fn step(line: &Line) -> Result<Step, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    if listed(NOTHING, mnemonic) {
        // Its operand is never used.
        return Ok(Step::plain());
    }
    if mnemonic.starts_with("rep") {
        return Err(Refusal::Unknown);
    }
    if let Some(flow) = flow(line)? {
        return Ok(Step::flow(flow));
    }
    let (locked, mnemonic) = match mnemonic.strip_prefix("lock-") {
        Some(rest) => (true, rest),
        None => (false, mnemonic),
    };
    let below = operands(line)?;
    let last = line.operands.last().map_or("", String::as_str);
    let base = without_size(mnemonic);
    if locked || (base == "xchg" && line.operands.iter().any(|text| is_memory(text))) {
        return match base {
            "cmpxchg" => Ok(Step::atomic(Atomic::CompareAndSwap)),
            "xadd" | "xchg" | "add" | "sub" | "and" | "or" | "xor" | "inc" | "dec" | "neg"
            | "not" | "bts" | "btr" | "btc" => Err(Refusal::Modifies),
            _ => Err(Refusal::Unknown),
        };
    }
    if listed(DIVISION, base) {
        return Err(Refusal::Trap);
    }
    let quiet = listed(MOVE, base) || listed(WIDEN, mnemonic) || is_conditional(mnemonic);
    if !quiet && !listed(ARITHMETIC, base) && !listed(COMPARE, base) {
        return Err(Refusal::Unknown);
    }
    let writes = if listed(COMPARE, base) || base == "push" || is_memory(last) {
        Writes::Nothing
    } else if listed(WIDEN, mnemonic) || writes_more(line, base) {
        Writes::Anything
    } else {
        Writes::Register(family(last.trim_start_matches('%'))?.to_owned())
    };
    let stack = stack(line, base, &writes)?;
    let reads = listed(COMPARE, base) || base == "push" || writes_more(line, base);
    let stores = is_memory(last) && !reads && !listed(WIDEN, mnemonic) && !last.ends_with("(%rsp)");
    Ok(Step { stores, stack, below, writes, sets_condition: !quiet, ..Step::plain() })
}

/// Whether it writes another register than its last operand.
fn writes_more(line: &Line, base: &str) -> bool {
    listed(IMPLICIT, base) || (base == "imul" && line.operands.len() == 1)
}

fn flow(line: &Line) -> Result<Option<Flow>, Refusal> {
    let operand = line.operand(0);
    Ok(Some(match line.mnemonic.as_str() {
        "ud2" | "int3" | "ud1" => return Err(Refusal::Trap),
        "jmp" | "jmpq" | "call" | "callq" if operand.starts_with('*') => {
            return Err(Refusal::Indirect);
        }
        "jmp" | "jmpq" => Flow::Jump(target(operand)?),
        "call" | "callq" => Flow::Call(target(operand)?),
        "ret" | "retq" if line.operands.is_empty() => Flow::Return,
        other => match other.strip_prefix('j') {
            Some("e") => Flow::Branch { to: target(operand)?, when: When::Equal },
            Some("ne") => Flow::Branch { to: target(operand)?, when: When::NotEqual },
            Some(condition) if listed(CONDITIONS, condition) => {
                Flow::Branch { to: target(operand)?, when: When::Other }
            }
            // Jumps that test a register instead of the condition, for one.
            Some(_) => return Err(Refusal::Unknown),
            None => return Ok(None),
        },
    }))
}

/// Checks every operand; returns the bytes below the stack pointer that they reach.
fn operands(line: &Line) -> Result<u64, Refusal> {
    let mut below = 0;
    for text in &line.operands {
        for name in registers(text) {
            family(name)?;
        }
        if let Some(value) = text.strip_prefix('$') {
            number(value).ok_or(Refusal::Unknown)?;
        } else if let Some((displacement, rest)) = text.split_once('(') {
            let displacement = match displacement {
                "" => 0,
                text => number(text).ok_or(Refusal::Unknown)?,
            };
            // Only arithmetic: it touches no memory.
            if line.mnemonic.starts_with("lea") {
                continue;
            }
            // In a linked image a static may stand there as a number.
            if !rest.contains('%') || displacement.unsigned_abs() >= SMALL {
                return Err(Refusal::FixedAddress);
            }
            if rest.starts_with("%rsp") && displacement < 0 {
                below = below.max(displacement.unsigned_abs());
            }
        } else if !text.starts_with('%') {
            return Err(Refusal::FixedAddress);
        }
    }
    Ok(below)
}

fn stack(line: &Line, base: &str, writes: &Writes) -> Result<Stack, Refusal> {
    let moves = matches!(writes, Writes::Register(name) if name == "rsp");
    let first = line.operand(0);
    let bytes = match base {
        "push" => Some(8),
        "pop" if !moves => Some(-8),
        "sub" if moves => first.strip_prefix('$').and_then(number),
        "add" if moves => first.strip_prefix('$').and_then(number).map(|bytes| -bytes),
        "lea" if moves => {
            let displacement = first.strip_suffix("(%rsp)").ok_or(Refusal::StackPointer)?;
            number(displacement).map(|bytes| -bytes)
        }
        _ if moves => None,
        _ => return Ok(Stack::Stays),
    };
    bytes.map(Stack::Grows).ok_or(Refusal::StackPointer)
}

fn is_memory(operand: &str) -> bool {
    !operand.starts_with(['$', '%'])
}

/// `cmovneq` or `setne`.
fn is_conditional(mnemonic: &str) -> bool {
    let set = mnemonic.strip_prefix("set");
    let moved = mnemonic.strip_prefix("cmov").map(|rest| rest.trim_end_matches(['w', 'q']));
    // `cmovll` is `l` of size `l`, `cmovl` does not occur: the disassembler prints the size.
    let sized = mnemonic.strip_prefix("cmov").and_then(|rest| rest.strip_suffix('l'));
    [set, moved, sized].into_iter().flatten().any(|condition| listed(CONDITIONS, condition))
}

fn without_size(mnemonic: &str) -> &str {
    mnemonic.strip_suffix(['b', 'w', 'l', 'q']).unwrap_or(mnemonic)
}

fn registers(operand: &str) -> impl Iterator<Item = &str> {
    operand
        .split('%')
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default())
}

/// The 64-bit register that `name` is, or is part of.
fn family(name: &str) -> Result<&str, Refusal> {
    const NAMED: &[&str] = &[
        "rax eax ax al ah",
        "rbx ebx bx bl bh",
        "rcx ecx cx cl ch",
        "rdx edx dx dl dh",
        "rsi esi si sil",
        "rdi edi di dil",
        "rbp ebp bp bpl",
        "rsp esp sp spl",
    ];
    if let Some(names) = NAMED.iter().find(|names| listed(&[**names], name)) {
        return Ok(&names[..3]);
    }
    if let Some(rest) = name.strip_prefix('r') {
        let number = rest.trim_end_matches(['d', 'w', 'b']);
        if matches!(number.parse(), Ok(8..=15_u8)) && rest.len() <= number.len() + 1 {
            return Ok(&name[..=number.len()]);
        }
    }
    let float = ["xmm", "ymm", "zmm", "mm", "st", "k"];
    if float.iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.parse::<u8>().is_ok() || rest.is_empty())
    }) {
        return Err(Refusal::FloatOrVector);
    }
    match name {
        "rip" | "fs" | "gs" => Err(Refusal::FixedAddress),
        _ => Err(Refusal::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::super::{Atomic, Flow, Isa, Refusal, Stack, Step, When, Writes};

    fn x86(text: &str) -> Result<Step, Refusal> {
        step(Isa::X86_64, text)
    }

    #[test]
    fn where_it_goes() {
        let flow = |text| x86(text).map(|step| step.flow);
        assert_eq!(flow("movq %rsi, %rax"), Ok(Flow::Next));
        assert_eq!(flow("leaq 0x8(,%r9,8), %rdx"), Ok(Flow::Next));
        assert_eq!(flow("jmp 0x257 <f+0x137>"), Ok(Flow::Jump(0x257)));
        assert_eq!(flow("jae 0x26 <f+0x26>"), Ok(Flow::Branch { to: 0x26, when: When::Other }));
        assert_eq!(flow("jne 0x26 <f>"), Ok(Flow::Branch { to: 0x26, when: When::NotEqual }));
        assert_eq!(flow("callq 0x0 <g>"), Ok(Flow::Call(0)));
        assert_eq!(flow("retq"), Ok(Flow::Return));
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("callq *%r12", Refusal::Indirect),
            ("jmpq *(%rax,%rcx,8)", Refusal::Indirect),
            ("callq *(%rip)", Refusal::Indirect),
            ("ud2", Refusal::Trap),
            ("divq %rcx", Refusal::Trap),
            ("idivl 0x8(%rdi)", Refusal::Trap),
            ("lock-orq $0x8, (%rax)", Refusal::Modifies),
            ("lock-xaddq %rcx, (%rax)", Refusal::Modifies),
            ("xchgq %rax, (%rdi)", Refusal::Modifies),
            ("addsd %xmm1, %xmm0", Refusal::FloatOrVector),
            ("movups (%rsi), %xmm0", Refusal::FloatOrVector),
            ("leaq (%rip), %rdx  # 0x111 <f+0xb1>", Refusal::FixedAddress),
            ("movq %fs:0x28, %rax", Refusal::FixedAddress),
            ("movq 0x1234, %rax", Refusal::FixedAddress),
            ("movq 0x404040(,%rax,8), %rax", Refusal::FixedAddress),
            ("andq $-0x20, %rsp", Refusal::StackPointer),
            ("movq %rbp, %rsp", Refusal::StackPointer),
            ("rep stosq %rax, %es:(%rdi)", Refusal::Unknown),
            ("syscall", Refusal::Unknown),
            ("jrcxz 0x10 <f>", Refusal::Unknown),
            ("cli", Refusal::Unknown),
            ("movq %cr3, %rax", Refusal::Unknown),
        ] {
            assert_eq!(x86(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_stack() {
        let stack = |text| x86(text).map(|step| (step.stack, step.below));
        assert_eq!(stack("pushq %rbx"), Ok((Stack::Grows(8), 0)));
        assert_eq!(stack("popq %rbx"), Ok((Stack::Grows(-8), 0)));
        assert_eq!(stack("subq $0x328, %rsp  # imm = 0x328"), Ok((Stack::Grows(0x328), 0)));
        assert_eq!(stack("addq $0x8, %rsp"), Ok((Stack::Grows(-8), 0)));
        assert_eq!(stack("leaq -0x20(%rsp), %rsp"), Ok((Stack::Grows(0x20), 0)));
        assert_eq!(stack("movq %rax, -0x10(%rsp)"), Ok((Stack::Stays, 0x10)));
    }

    #[test]
    fn atomics() {
        let atomic = |text| x86(text).map(|step| step.atomic);
        assert_eq!(atomic("lock-cmpxchgq %r8, (%rcx)"), Ok(Some(Atomic::CompareAndSwap)));
        assert_eq!(atomic("xchgq %rax, %rdi"), Ok(None));
        assert_eq!(atomic("orq $0x8, (%rax)"), Ok(None));
    }

    #[test]
    fn stores() {
        let stores = |text| x86(text).map(|step| step.stores);
        for text in ["movq %rdx, (%rbx)", "orq $0x8, (%rax)", "incl 0x8(%rdi)", "setb (%rdi)"] {
            assert_eq!(stores(text), Ok(true), "{text}");
        }
        assert_eq!(stores("movq %rdx, 0x8(%rsp,%rax,8)"), Ok(true));
        for text in ["movq (%rbx), %rdx", "cmpq $0x1, (%rbx)", "pushq (%rax)", "mulq (%rax)"] {
            assert_eq!(stores(text), Ok(false), "{text}");
        }
        assert_eq!(stores("movq %rax, -0x10(%rsp)"), Ok(false));
        assert_eq!(stores("lock-cmpxchgq %r8, (%rcx)"), Ok(false));
    }

    #[test]
    fn what_it_writes() {
        let writes = |text| x86(text).map(|step| (step.writes, step.sets_condition));
        let register = |name: &str| Writes::Register(name.to_owned());
        assert_eq!(writes("xorl %eax, %eax"), Ok((register("rax"), true)));
        assert_eq!(writes("leaq 0x1(%rdx), %r8"), Ok((register("r8"), false)));
        assert_eq!(writes("movb %al, %r10b"), Ok((register("r10"), false)));
        assert_eq!(writes("movzbl %dil, %eax"), Ok((register("rax"), false)));
        assert_eq!(writes("cmovneq %rcx, %rdx"), Ok((register("rdx"), false)));
        assert_eq!(writes("cmovll %ecx, %edx"), Ok((register("rdx"), false)));
        assert_eq!(writes("setb %dil"), Ok((register("rdi"), false)));
        assert_eq!(writes("cmpq %rax, %rcx"), Ok((Writes::Nothing, true)));
        assert_eq!(writes("movq %rdx, (%rbx)"), Ok((Writes::Nothing, false)));
        assert_eq!(writes("mulq %rcx"), Ok((Writes::Anything, true)));
    }
}
