//! 64-bit Power, either byte order. Operands are bare numbers, so each instruction comes with the
//! roles of its operands: `r` general register, `i` number, `m` displacement and base register, `b`
//! bit of the condition register, `c` field of it, `t` branch target.

use super::{Atomic, Flow, Refusal, Stack, Step, When, Writes, listed, number, target};
use crate::audit::disassembly::Line;

/// The first operand is what they write; a dot behind the name sets the condition.
const WRITING: &[(&str, &[&str])] = &[
    (
        "rri",
        &[
            "addi addis addic subfic mulli ori oris xori xoris andi andis",
            "sldi srdi slwi srwi rotldi rotlwi clrldi clrlwi sradi srawi",
        ],
    ),
    ("rrii", &["rldicl rldicr rldic rldimi clrlsldi clrlslwi rldcl"]),
    ("rriii", &["rlwinm rlwimi"]),
    ("rrri", &["rldcl rldcr"]),
    ("rrrb", &["isel"]),
    ("ri", &["li lis mfocrf"]),
    ("r", &["mflr mfctr mfcr"]),
    ("rb", &["setbc setbcr setnbc setnbcr"]),
    (
        "rr",
        &["mr not neg extsb extsh extsw cntlzd cntlzw cnttzd cnttzw popcntd addze addme subfze"],
    ),
    (
        "rrr",
        &[
            "add sub subf subc subfc addc adde subfe and andc or orc xor nor nand eqv sld srd srad slw",
            "srw sraw rotld rotlw mulld mullw mulhd mulhdu mulhw mulhwu divd divdu divw divwu cmpb",
            "iselgt isellt iseleq ldx lwzx lbzx lhzx lwax lhax ldbrx lwbrx lhbrx",
        ],
    ),
    ("rm", &["ld lwz lbz lhz lha lwa"]),
];
/// They write memory, the address register, the condition or nothing.
const OTHERS: &[(&str, &[&str])] = &[
    ("rm", &["std stw stb sth stdu stwu ldu lwzu"]),
    ("rrr", &["stdx stwx stbx sthx stdbrx stwbrx sthbrx"]),
    ("rr", &["cmpd cmpw cmpld cmplw"]),
    ("crr", &["cmpd cmpw cmpld cmplw"]),
    ("ri", &["cmpdi cmpwi cmpldi cmplwi"]),
    ("cri", &["cmpdi cmpwi cmpldi cmplwi"]),
    ("b", &["crclr crset"]),
    ("bb", &["crnot crmove"]),
    ("bbb", &["cror crorc crand crandc crxor crnor crnand creqv"]),
    ("cc", &["mcrf"]),
    ("ir", &["mtocrf"]),
    ("r", &["mtlr mtctr"]),
    ("", &["nop sync lwsync hwsync ptesync isync eieio"]),
];
const INDIRECT: &[&str] = &["bctr bctrl bcctr bcctrl blrl btctr bfctr btctrl bfctrl"];
const CONDITIONS: &[&str] = &["beq bne blt bgt ble bge bso bns bun bnu"];
/// Where compilers put address and context of the running system.
const TABLE_OF_CONTENTS: &str = "2";
const THREAD: &str = "13";
/// As a base register it means no register.
const ZERO: &str = "0";
const STACK: &str = "1";

/// What `line` does.
pub(super) fn step(line: &Line) -> Result<Step, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    if listed(INDIRECT, mnemonic.trim_end_matches(['+', '-'])) {
        return Err(Refusal::Indirect);
    }
    if is_trap(mnemonic) {
        return Err(Refusal::Trap);
    }
    if let Some(flow) = flow(line)? {
        return Ok(Step::flow(flow));
    }
    if let Some(atomic) = atomic(line) {
        general(line)?;
        return Ok(Step::atomic(atomic));
    }
    let plain = mnemonic.strip_suffix('.').unwrap_or(mnemonic);
    let sets_condition =
        plain != mnemonic || ["c", "mt", "mc"].iter().any(|start| plain.starts_with(start));
    if has_shape(line, plain, WRITING) {
        if is_own_table(line) {
            // The address of the table of contents; using it is what is refused.
            return Ok(Step::plain());
        }
        general(line)?;
        let stack = stack_of_write(line, plain)?;
        let writes = Writes::Register(line.operand(0).to_owned());
        return Ok(Step { stack, below: below(line), writes, sets_condition, ..Step::plain() });
    }
    if has_shape(line, plain, OTHERS) {
        general(line)?;
        let updates = listed(&["stdu stwu ldu lwzu"], plain);
        let stack = if updates { stack_of_update(line)? } else { Stack::Stays };
        let writes = if updates { Writes::Anything } else { Writes::Nothing };
        let below = if updates { 0 } else { below(line) };
        let own = memory(line.operand(1)).is_some_and(|(_, base)| base == STACK);
        let stores = plain.starts_with("st") && !own;
        return Ok(Step { stores, stack, below, writes, sets_condition, ..Step::plain() });
    }
    Err(if is_float(mnemonic) { Refusal::FloatOrVector } else { Refusal::Unknown })
}

fn flow(line: &Line) -> Result<Option<Flow>, Refusal> {
    let mnemonic = line.mnemonic.trim_end_matches(['+', '-']);
    let last = line.operands.last().map_or("", String::as_str);
    let count = line.operands.len();
    let when = |bit: &str, set: bool| match (bit, set) {
        ("2", true) => When::Equal,
        ("2", false) => When::NotEqual,
        _ => When::Other,
    };
    Ok(Some(match (mnemonic, count) {
        ("b", 1) => Flow::Jump(target(last)?),
        ("bl", 1) => Flow::Call(target(last)?),
        ("blr", 0) => Flow::Return,
        ("bdnz" | "bdz", 1) => Flow::Branch { to: target(last)?, when: When::Other },
        ("bt" | "bf", 2) => {
            let when = when(line.operand(0), mnemonic == "bt");
            Flow::Branch { to: target(last)?, when }
        }
        ("btlr" | "bflr", 1) => Flow::ReturnOrNext,
        ("bclr", 2) if tests_bit(line.operand(0)).is_some() => Flow::ReturnOrNext,
        ("bc", 3) => {
            let set = tests_bit(line.operand(0)).ok_or(Refusal::Unknown)?;
            Flow::Branch { to: target(last)?, when: when(line.operand(1), set) }
        }
        (name, 1 | 2) if listed(CONDITIONS, name) => {
            let when = match (name, count) {
                ("beq", 1) => When::Equal,
                ("bne", 1) => When::NotEqual,
                _ => When::Other,
            };
            Flow::Branch { to: target(last)?, when }
        }
        (name, 0 | 1) if name.strip_suffix("lr").is_some_and(|name| listed(CONDITIONS, name)) => {
            Flow::ReturnOrNext
        }
        _ => return Ok(None),
    }))
}

/// For the branch option of `bc`: taken if the bit is set, or clear. Others count down as well.
fn tests_bit(option: &str) -> Option<bool> {
    match number(option)? {
        12..=15 => Some(true),
        4..=7 => Some(false),
        _ => None,
    }
}

fn atomic(line: &Line) -> Option<Atomic> {
    let address = format!("{}, {}", line.operand(1), line.operand(2));
    match (line.mnemonic.as_str(), line.operands.len()) {
        ("ldarx" | "lwarx" | "lharx" | "lbarx", 3 | 4) => Some(Atomic::LoadReserved { address }),
        ("stdcx." | "stwcx." | "sthcx." | "stbcx.", 3) => {
            Some(Atomic::StoreConditional { address, status: None })
        }
        _ => None,
    }
}

/// One of the lists has the instruction with operands of these kinds.
fn has_shape(line: &Line, plain: &str, lists: &[(&str, &[&str])]) -> bool {
    lists.iter().any(|(roles, names)| {
        listed(names, plain)
            && roles.len() == line.operands.len()
            && roles.chars().zip(&line.operands).all(|(role, text)| fits(role, text))
    })
}

fn fits(role: char, text: &str) -> bool {
    let within = |limit| matches!(number(text), Some(value) if (0..limit).contains(&value));
    match role {
        'r' | 'b' => within(32),
        'c' => within(8),
        'i' => number(text).is_some(),
        'm' => memory(text).is_some(),
        _ => false,
    }
}

/// `-40(1)`.
fn memory(text: &str) -> Option<(i64, &str)> {
    let (displacement, base) = text.strip_suffix(')')?.split_once('(')?;
    fits('r', base).then_some((number(displacement)?, base))
}

/// Neither the table of contents nor the thread's data is an argument, nor is an absolute address. Numbers of other kinds that
/// look the same are let pass: `names` are the operands that can be registers.
fn general(line: &Line) -> Result<(), Refusal> {
    let lists = WRITING.iter().chain(OTHERS);
    let plain = line.mnemonic.strip_suffix('.').unwrap_or(&line.mnemonic);
    let roles = lists
        .filter(|(roles, names)| listed(names, plain) && roles.len() == line.operands.len())
        .map(|(roles, _)| *roles)
        .next()
        .unwrap_or("rrr");
    for (role, text) in roles.chars().zip(&line.operands) {
        let register = match role {
            'r' => text.as_str(),
            'm' => memory(text).map_or("", |(_, base)| base),
            _ => continue,
        };
        let no_base = role == 'm' && register == ZERO;
        if no_base || register == TABLE_OF_CONTENTS || register == THREAD {
            return Err(Refusal::FixedAddress);
        }
    }
    Ok(())
}

/// `addis 2, 12, ..` and `addi 2, 2, ..`, or `lis 2, ..` in a program at a fixed address.
fn is_own_table(line: &Line) -> bool {
    let mut words = line.operands.iter().map(String::as_str);
    matches!(
        (line.mnemonic.as_str(), words.next(), words.next()),
        ("addis", Some("2"), Some("12")) | ("addi", Some("2"), Some("2")) | ("lis", Some("2"), _)
    )
}

fn stack_of_write(line: &Line, plain: &str) -> Result<Stack, Refusal> {
    if line.operand(0) != "1" {
        return Ok(Stack::Stays);
    }
    let bytes = number(line.operand(2)).filter(|_| plain == "addi" && line.operand(1) == "1");
    bytes.map(|bytes| Stack::Grows(-bytes)).ok_or(Refusal::StackPointer)
}

fn stack_of_update(line: &Line) -> Result<Stack, Refusal> {
    match memory(line.operand(1)) {
        Some((displacement, "1")) if line.mnemonic == "stdu" => Ok(Stack::Grows(-displacement)),
        Some((_, "1")) => Err(Refusal::StackPointer),
        _ => Ok(Stack::Stays),
    }
}

fn below(line: &Line) -> u64 {
    match memory(line.operand(1)) {
        Some((displacement, "1")) => displacement.min(0).unsigned_abs(),
        _ => 0,
    }
}

/// `trap` and the conditional ones: `twi`, `tdnei`, `tweq`.
fn is_trap(mnemonic: &str) -> bool {
    mnemonic == "trap" || mnemonic.starts_with("tw") || mnemonic.starts_with("td")
}

fn is_float(mnemonic: &str) -> bool {
    let starts =
        ["f", "lf", "stf", "v", "lv", "stv", "lxv", "stxv", "lxs", "stxs", "xs", "xv", "xx"];
    let moves = ["mtvsr", "mfvsr", "mffs", "mtfs"];
    starts.iter().chain(&moves).any(|start| mnemonic.starts_with(start))
}

#[cfg(test)]
mod tests;
