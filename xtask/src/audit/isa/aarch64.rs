//! aarch64: `operation destination, sources`.

use super::{Atomic, Flow, Refusal, Stack, Step, When, Writes, listed, number, target};
use crate::audit::disassembly::Line;

/// The first operand is what they write.
const ARITHMETIC: &[&str] = &[
    "add sub and orr eor bic orn eon mov movz movk movn mvn neg lsl lsr asr ror extr",
    "ubfx sbfx ubfiz sbfiz bfi bfxil bfc sxtb sxth sxtw uxtb uxth uxtw clz cls rbit rev rev16 rev32",
    "mul madd msub mneg smull umull smulh umulh umaddl smaddl udiv sdiv adc sbc ngc",
    "csel cset csetm csinc cinc csinv cinv csneg cneg",
    "adds subs ands bics adcs sbcs ngcs negs",
];
const COMPARE: &[&str] = &["cmp cmn tst ccmp ccmn"];
const LOAD: &[&str] = &[
    "ldr ldrb ldrh ldrsb ldrsh ldrsw ldur ldurb ldurh ldursb ldursh ldursw ldp ldpsw",
    "ldar ldarb ldarh ldapr ldaprb ldaprh",
];
const STORE: &[&str] = &["str strb strh stur sturb sturh stp stlr stlrb stlrh"];
const NOTHING: &[&str] = &["nop yield isb dmb dsb csdb sb clrex bti"];
const RESERVE: &[&str] = &["ldxr ldxrb ldxrh ldaxr ldaxrb ldaxrh"];
const CONDITIONAL: &[&str] = &["stxr stxrb stxrh stlxr stlxrb stlxrh"];
/// The large system extension, each with ordering and size behind it.
const SWAP: &[&str] = &["cas"];
const MODIFY: &[&str] = &[
    "ldadd ldclr ldeor ldset ldsmax ldsmin ldumax ldumin swp",
    "stadd stclr steor stset stsmax stsmin stumax stumin",
];
const PC_RELATIVE: &[&str] = &["adr adrp"];
const TRAPS: &[&str] = &["brk udf hlt bkpt svc hvc smc"];
const INDIRECT: &[&str] = &["br blr braa brab blraa blrab retaa retab"];
const CONDITIONS: &[&str] = &["eq ne hs cs lo cc mi pl vs vc hi ls ge lt gt le al"];
const MODIFIERS: &[&str] = &[
    "lsl lsr asr ror uxtb uxth uxtw uxtx sxtb sxth sxtw sxtx",
    "sy st ld ish ishst ishld nsh nshst nshld osh oshst oshld c j jc",
];

/// What `line` does.
pub(super) fn step(line: &Line) -> Result<Step, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    if listed(TRAPS, mnemonic) {
        return Err(Refusal::Trap);
    }
    if listed(INDIRECT, mnemonic) {
        return Err(Refusal::Indirect);
    }
    if listed(PC_RELATIVE, mnemonic) {
        return Err(Refusal::FixedAddress);
    }
    if let Some(flow) = flow(line)? {
        return Ok(Step::flow(flow));
    }
    for operand in &line.operands {
        check(operand)?;
    }
    if let Some(atomic) = atomic(line)? {
        return Ok(Step::atomic(atomic));
    }
    let load = listed(LOAD, mnemonic);
    if (load || listed(STORE, mnemonic)) && !line.operands.iter().any(|text| text.starts_with('['))
    {
        return Err(Refusal::FixedAddress);
    }
    let writes = if load {
        // Some write the address register as well.
        Writes::Anything
    } else if listed(ARITHMETIC, mnemonic) {
        let name = line.operand(0);
        let stack = matches!(name, "sp" | "wsp").then_some("sp");
        Writes::Register(register(name).or(stack).ok_or(Refusal::Unknown)?.to_owned())
    } else if [COMPARE, STORE, NOTHING].iter().any(|list| listed(list, mnemonic)) {
        Writes::Nothing
    } else {
        return Err(Refusal::Unknown);
    };
    let (stack, below) = stack(line)?;
    let own = |text: &String| text == "[sp]" || text.starts_with("[sp, #");
    let stores = listed(STORE, mnemonic) && !line.operands.iter().any(own);
    let sets_condition = listed(COMPARE, mnemonic) || mnemonic.ends_with('s');
    Ok(Step { stores, stack, below, writes, sets_condition, ..Step::plain() })
}

fn flow(line: &Line) -> Result<Option<Flow>, Refusal> {
    let register = || register(line.operand(0)).map(str::to_owned).ok_or(Refusal::Unknown);
    Ok(Some(match line.mnemonic.as_str() {
        "b" => Flow::Jump(target(line.operand(0))?),
        "bl" => Flow::Call(target(line.operand(0))?),
        "ret" if line.operands.is_empty() => Flow::Return,
        "ret" => return Err(Refusal::Indirect),
        "cbz" => Flow::Branch { to: target(line.operand(1))?, when: When::Zero(register()?) },
        "cbnz" => Flow::Branch { to: target(line.operand(1))?, when: When::NotZero(register()?) },
        "tbz" | "tbnz" => Flow::Branch { to: target(line.operand(2))?, when: When::Other },
        other => match other.strip_prefix("b.") {
            Some(condition) if listed(CONDITIONS, condition) => {
                Flow::Branch { to: target(line.operand(0))?, when: When::Other }
            }
            _ => return Ok(None),
        },
    }))
}

fn atomic(line: &Line) -> Result<Option<Atomic>, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    let address = || line.operands.last().cloned().unwrap_or_default();
    if listed(RESERVE, mnemonic) {
        return Ok(Some(Atomic::LoadReserved { address: address() }));
    }
    if listed(CONDITIONAL, mnemonic) {
        let status = register(line.operand(0)).map(str::to_owned);
        return Ok(status
            .map(|status| Atomic::StoreConditional { address: address(), status: Some(status) }));
    }
    let size = mnemonic.trim_end_matches(['b', 'h']);
    let bare = [size.strip_suffix("al"), size.strip_suffix('a'), size.strip_suffix('l')];
    let is = |list| bare.into_iter().flatten().chain([size]).any(|name| listed(list, name));
    if is(MODIFY) {
        return Err(Refusal::Modifies);
    }
    Ok(is(SWAP).then_some(Atomic::CompareAndSwap))
}

/// Every word of an operand is a general register, a number or a known modifier.
fn check(operand: &str) -> Result<(), Refusal> {
    let words = operand.split(|c: char| c.is_whitespace() || "[],!".contains(c));
    for word in words.filter(|word| !word.is_empty()) {
        let value = word.strip_prefix('#');
        let known = match value {
            Some(value) => number(value).is_some(),
            None => {
                register(word).is_some()
                    || matches!(word, "sp" | "wsp")
                    || listed(CONDITIONS, word)
                    || listed(MODIFIERS, word)
            }
        };
        if known {
            continue;
        }
        let kind = word.starts_with(['v', 'q', 'd', 's', 'h', 'b', 'z', 'p', '{']);
        let numbered = word.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
        let float = word.starts_with('{') || (kind && numbered);
        return Err(if float { Refusal::FloatOrVector } else { Refusal::Unknown });
    }
    Ok(())
}

/// The number of a general register, whichever width it is named in.
fn register(word: &str) -> Option<&str> {
    let number = word.strip_prefix(['x', 'w'])?;
    (number == "zr" || matches!(number.parse(), Ok(0..=30_u8))).then_some(number).or(None)
}

fn stack(line: &Line) -> Result<(Stack, u64), Refusal> {
    let first = line.operand(0);
    let last = line.operands.last().map_or("", String::as_str);
    let value = |text: &str| text.strip_prefix('#').and_then(number);
    let Some(place) = line.operands.iter().position(|text| text.starts_with("[sp")) else {
        // No base register but sp can change it by write-back.
        if !matches!(first, "sp" | "wsp") || listed(COMPARE, &line.mnemonic) {
            return Ok((Stack::Stays, 0));
        }
        let bytes = value(line.operand(2)).filter(|_| {
            line.operand(0) == "sp" && line.operand(1) == "sp" && line.operands.len() == 3
        });
        return match (line.mnemonic.as_str(), bytes) {
            ("sub", Some(bytes)) => Ok((Stack::Grows(bytes), 0)),
            ("add", Some(bytes)) => Ok((Stack::Grows(-bytes), 0)),
            _ => Err(Refusal::StackPointer),
        };
    };
    let inside = line.operand(place).trim_start_matches("[sp").trim_start_matches(',').trim();
    if let Some(before) = inside.strip_suffix("]!") {
        let bytes = value(before.trim()).ok_or(Refusal::StackPointer)?;
        return Ok((Stack::Grows(-bytes), 0));
    }
    if place + 2 == line.operands.len() {
        let bytes = value(last).ok_or(Refusal::StackPointer)?;
        return Ok((Stack::Grows(-bytes), 0));
    }
    let offset = value(inside.trim_end_matches(']')).unwrap_or(0);
    Ok((Stack::Stays, offset.min(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::super::{Atomic, Flow, Isa, Refusal, Stack, Step, When, Writes};

    fn arm(text: &str) -> Result<Step, Refusal> {
        step(Isa::Aarch64, text)
    }

    #[test]
    fn where_it_goes() {
        let flow = |text| arm(text).map(|step| step.flow);
        let branch = |to, when| Ok(Flow::Branch { to, when });
        assert_eq!(flow("add x1, x9, x8, lsr #1"), Ok(Flow::Next));
        assert_eq!(flow("b.lo 0x24 <f+0x24>"), branch(0x24, When::Other));
        assert_eq!(flow("cbnz w13, 0x24 <f>"), branch(0x24, When::NotZero("13".to_owned())));
        assert_eq!(flow("cbz x0, 0x220 <f>"), branch(0x220, When::Zero("0".to_owned())));
        assert_eq!(flow("tbnz w8, #0x0, 0x190 <f>"), branch(0x190, When::Other));
        assert_eq!(flow("bl 0x0 <g>"), Ok(Flow::Call(0)));
        assert_eq!(flow("ret"), Ok(Flow::Return));
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("br x8", Refusal::Indirect),
            ("blr x22", Refusal::Indirect),
            ("ret x3", Refusal::Indirect),
            ("brk #0x1", Refusal::Trap),
            ("udf #0x0", Refusal::Trap),
            ("ldsetal x8, x9, [x0]", Refusal::Modifies),
            ("staddlb w8, [x0]", Refusal::Modifies),
            ("swpa x8, x9, [x0]", Refusal::Modifies),
            ("fadd d0, d1, d2", Refusal::FloatOrVector),
            ("ldr q0, [x1]", Refusal::FloatOrVector),
            ("movi v0.2d, #0000000000000000", Refusal::FloatOrVector),
            ("ld1 { v0.16b }, [x0]", Refusal::FloatOrVector),
            ("adrp x2, 0x0 <f>", Refusal::FixedAddress),
            ("ldr x0, 0x40 <f+0x40>", Refusal::Unknown),
            ("mov sp, x29", Refusal::StackPointer),
            ("sub sp, sp, x8", Refusal::StackPointer),
            ("sub sp, sp, #0x1, lsl #12", Refusal::StackPointer),
            ("mrs x8, TPIDR_EL1", Refusal::Unknown),
            ("wfe", Refusal::Unknown),
        ] {
            assert_eq!(arm(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_stack() {
        let stack = |text| arm(text).map(|step| (step.stack, step.below));
        assert_eq!(stack("stp x30, x19, [sp, #-0x10]!"), Ok((Stack::Grows(16), 0)));
        assert_eq!(stack("ldp x30, x19, [sp], #0x10"), Ok((Stack::Grows(-16), 0)));
        assert_eq!(stack("sub sp, sp, #0x320"), Ok((Stack::Grows(0x320), 0)));
        assert_eq!(stack("add sp, sp, #0x320"), Ok((Stack::Grows(-0x320), 0)));
        assert_eq!(stack("stp x20, x19, [sp, #0x20]"), Ok((Stack::Stays, 0)));
        assert_eq!(stack("str x0, [sp, #-0x8]"), Ok((Stack::Stays, 8)));
        assert_eq!(stack("mov x9, sp"), Ok((Stack::Stays, 0)));
        assert_eq!(stack("ldr x9, [x0, #0x30]!"), Ok((Stack::Stays, 0)));
    }

    #[test]
    fn atomics() {
        let atomic = |text| arm(text).map(|step| step.atomic);
        let store =
            Atomic::StoreConditional { address: "[x0]".to_owned(), status: Some("13".to_owned()) };
        assert_eq!(
            atomic("ldaxr x12, [x0]"),
            Ok(Some(Atomic::LoadReserved { address: "[x0]".to_owned() }))
        );
        assert_eq!(atomic("stlxr w13, x10, [x0]"), Ok(Some(store)));
        assert_eq!(atomic("casalb w8, w9, [x0]"), Ok(Some(Atomic::CompareAndSwap)));
        assert_eq!(atomic("ldar x8, [x0]"), Ok(None));
    }

    #[test]
    fn stores() {
        let stores = |text| arm(text).map(|step| step.stores);
        for text in ["str x8, [x19]", "stp x1, x2, [x0, #0x8]", "str x0, [sp, x1]", "stlr x0, [x1]"]
        {
            assert_eq!(stores(text), Ok(true), "{text}");
        }
        for text in ["ldr x8, [x19]", "str x0, [sp]", "stp x30, x19, [sp, #-0x10]!"] {
            assert_eq!(stores(text), Ok(false), "{text}");
        }
    }

    #[test]
    fn what_it_writes() {
        let writes = |text| arm(text).map(|step| (step.writes, step.sets_condition));
        let register = |name: &str| Writes::Register(name.to_owned());
        assert_eq!(writes("mov x10, x12"), Ok((register("10"), false)));
        assert_eq!(writes("subs x24, x24, #0x8"), Ok((register("24"), true)));
        assert_eq!(writes("ccmp x12, x9, #0x0, eq"), Ok((Writes::Nothing, true)));
        assert_eq!(writes("str x8, [x19]"), Ok((Writes::Nothing, false)));
        assert_eq!(writes("ldr x8, [x19]"), Ok((Writes::Anything, false)));
    }
}
