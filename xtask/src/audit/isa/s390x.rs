//! s390x: `operation destination, source`, stores the other way round.

use super::{Atomic, Flow, Refusal, Stack, Step, When, Writes, listed, number, target};
use crate::audit::disassembly::Line;

/// The first operand is what they write.
const MOVE: &[&str] = &[
    "lgr lr lghi lhi lgfi llgfr llgf llghr llgh llgcr llgc llhr llh llcr llc llill llilh llihl llihh",
    "llilf llihf lgfr lgf lgbr lgb lghr lgh lbr lb lhr lh lhy lg l ly la lay iilf iihf iill iilh iihl",
    "iihh lrv lrvg lrvr lrvgr sll sllg sllk srl srlg srlk rll rllg msgr msgfi ms msr msg mghi mhi",
    "msgrkc msgc mlgr mlg dlgr dlg dsgr dsg risbgn risbgnz ic icy",
];
const ARITHMETIC: &[&str] = &[
    "lt ltg ltr ltgr ltgfr ltgf lcr lcgr lngr lpgr ar agr a ag ay ahi aghi afi agfi ahik aghik ark",
    "agrk algr alr alg al algfr algfi alfi algrk alcgr alcg alghsik ah agh agf agfr sr sgr s sg srk",
    "sgrk slgr slr slg slgfi slfi slgrk slgfr slbgr sgfr sgf nr ngr ng n nilf nihf nill nilh nihl nihh",
    "nrk ngrk or ogr og o oilf oihf oill oilh oihl oihh ork ogrk xr xgr xg x xilf xihf xrk xgrk",
    "sra srag srak risbg risbgz rosbg rnsbg rxsbg flogr ipm",
];
/// Neither writes a general register.
const COMPARE: &[&str] = &[
    "cr cgr c cg cy chi cghi cfi cgfi ch cgh clr clgr cl clg cly clfi clgfi cgfr cgf clgfr clgf clm",
    "cli cliy clc chsi cghsi clhhsi clghsi clfhsi tm tmy tmll tmlh tmhl tmhh",
];
const STORE: &[&str] =
    &["st stg sty stc stcy sth sthy stmg mvi mviy mvghi mvhi mvhhi mvc strv strvg strvh"];
/// Plain changes of memory, in no single piece.
const CHANGE: &[&str] = &["xc nc oc ni oi xi niy oiy xiy agsi asi algsi"];
const NOTHING: &[&str] = &["nop nopr jnop jgnop"];
const SWAP: &[&str] = &["cs csy csg"];
const INTERLOCKED: &[&str] = &["laa laag laal laalg lan lang lao laog lax laxg"];
const PC_RELATIVE: &[&str] =
    &["larl lrl lgrl lgfrl lghrl lhrl llgfrl llghrl llhrl strl stgrl sthrl cgrl crl clgrl clrl"];
const INDIRECT: &[&str] = &["basr balr bassm bsm b bi"];
/// After a compare-and-swap: the first list is taken when it stored, the second when it did not.
const STORED: &[&str] = &["e z"];
const NOT_STORED: &[&str] = &["ne l lh nz m"];
const CONDITIONS: &[&str] = &["o h nle l nhe lh ne e nlh he nl le nh no p m z nz np nm"];
const COMPARE_AND_BRANCH: &[&str] = &["crj cgrj cij cgij clrj clgrj clij clgij"];

/// What `line` does.
pub(super) fn step(line: &Line) -> Result<Step, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    if listed(NOTHING, mnemonic) || is_barrier(line) {
        return Ok(Step::plain());
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
    let mut below = 0;
    for operand in &line.operands {
        below = below.max(check(operand)?);
    }
    if listed(SWAP, mnemonic) {
        let expected = line.operand(0).to_owned();
        return Ok(Step::atomic(Atomic::CompareAndSwap { expected }));
    }
    if listed(INTERLOCKED, mnemonic) {
        return Ok(Step::atomic(Atomic::Modify));
    }
    if listed(&["la lay"], mnemonic) {
        below = 0;
    }
    if mnemonic == "lmg" {
        let stack = restored(line)?;
        return Ok(Step { stack, below, writes: Writes::Anything, ..Step::plain() });
    }
    let sets_condition = [ARITHMETIC, COMPARE, CHANGE].iter().any(|list| listed(list, mnemonic));
    let writes =
        if listed(MOVE, mnemonic) || listed(ARITHMETIC, mnemonic) || is_conditional(mnemonic) {
            // Long division and multiplication write a pair of registers.
            let pair = listed(&["mlgr mlg dlgr dlg dsgr dsg flogr"], mnemonic);
            if pair { Writes::Anything } else { Writes::Register(line.operand(0).to_owned()) }
        } else if sets_condition || listed(STORE, mnemonic) {
            Writes::Nothing
        } else {
            return Err(Refusal::Unknown);
        };
    let mut stack = Stack::Stays;
    if writes == Writes::Register("%r15".to_owned()) {
        stack = grown(line)?;
    }
    // `agsi` and the like change memory that their first operand names.
    Ok(Step { stack, below, writes, sets_condition, ..Step::plain() })
}

/// `bcr 14, 0` and `bcr 15, 0` wait for earlier stores; they branch nowhere.
fn is_barrier(line: &Line) -> bool {
    line.mnemonic == "bcr"
        && matches!(line.operand(0), "14" | "15")
        && matches!(line.operand(1), "0" | "%r0")
}

fn flow(line: &Line) -> Result<Option<Flow>, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    let last = line.operands.last().map_or("", String::as_str);
    let when = |condition: &str| {
        if listed(STORED, condition) {
            When::Equal
        } else if listed(NOT_STORED, condition) {
            When::NotEqual
        } else {
            When::Other
        }
    };
    let branch = |when| {
        let to = target(last)?;
        // Compilers trap by jumping to the zero bytes in the middle of the jump itself.
        if to == line.address + 2 { Err(Refusal::Trap) } else { Ok(Flow::Branch { to, when }) }
    };
    let condition = |prefix| mnemonic.strip_prefix(prefix).filter(|rest| listed(CONDITIONS, rest));
    Ok(Some(match mnemonic {
        "br" => match last {
            "%r14" => Flow::Return,
            _ => return Err(Refusal::Indirect),
        },
        "brasl" | "bras" if line.operand(0) == "%r14" => Flow::Call(target(last)?),
        "j" | "jg" | "jlu" => match branch(When::Other)? {
            Flow::Branch { to, .. } => Flow::Jump(to),
            other => other,
        },
        "brct" | "brctg" => branch(When::Other)?,
        _ => {
            if let Some(condition) = condition("j").or_else(|| condition("jg")) {
                branch(when(condition))?
            } else if COMPARE_AND_BRANCH[0].split(' ').any(|prefix| condition(prefix).is_some()) {
                branch(When::Other)?
            } else if let Some(returns) =
                mnemonic.strip_prefix('b').and_then(|rest| rest.strip_suffix('r'))
                && listed(CONDITIONS, returns)
            {
                match last {
                    "%r14" => Flow::ReturnOrNext,
                    _ => return Err(Refusal::Indirect),
                }
            } else {
                return Ok(None);
            }
        }
    }))
}

/// `locgre` or `locghie`.
fn is_conditional(mnemonic: &str) -> bool {
    ["locgr", "locr", "locg", "loc", "locghi", "lochi"].iter().any(|prefix| {
        mnemonic.strip_prefix(prefix).is_some_and(|condition| listed(CONDITIONS, condition))
    })
}

/// Every register is a general one. Returns the bytes below the stack pointer that it reaches.
fn check(operand: &str) -> Result<u64, Refusal> {
    for name in operand.split('%').skip(1) {
        let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let numbered = |kind| name.strip_prefix(kind).and_then(|rest: &str| rest.parse().ok());
        if numbered('f').or(numbered('v')).is_some_and(|number: u8| number < 32) {
            return Err(Refusal::FloatOrVector);
        }
        if numbered('a').is_some() {
            return Err(Refusal::FixedAddress);
        }
        if numbered('r').is_none_or(|number| number >= 16) {
            return Err(Refusal::Unknown);
        }
    }
    if operand.starts_with('%') || number(operand).is_some_and(|_| !operand.contains('(')) {
        return Ok(0);
    }
    let (displacement, inside) = operand.split_once('(').ok_or(Refusal::Unknown)?;
    let displacement = number(displacement).ok_or(Refusal::Unknown)?;
    if !inside.contains('%') {
        return Err(Refusal::FixedAddress);
    }
    let on_stack = inside.ends_with("%r15)");
    Ok(if on_stack { displacement.min(0).unsigned_abs() } else { 0 })
}

/// `aghi %r15, -160` or `la %r15, 160(%r15)`.
fn grown(line: &Line) -> Result<Stack, Refusal> {
    let last = line.operands.last().map_or("", String::as_str);
    let bytes = match line.mnemonic.as_str() {
        "aghi" | "agfi" => number(last),
        "la" | "lay" => last.strip_suffix("(%r15)").and_then(number),
        _ => None,
    };
    bytes.map(|bytes| Stack::Grows(-bytes)).ok_or(Refusal::StackPointer)
}

/// `lmg %r9, %r15, 232(%r15)` loads what was saved at 72: the frame shrinks by the difference.
fn restored(line: &Line) -> Result<Stack, Refusal> {
    let register =
        |index| line.operand(index).strip_prefix("%r").and_then(number).ok_or(Refusal::Unknown);
    let (first, last) = (register(0)?, register(1)?);
    if first > last {
        return Err(Refusal::StackPointer);
    }
    if last != 15 {
        return Ok(Stack::Stays);
    }
    let from = line.operand(2).strip_suffix("(%r15)").and_then(number);
    from.map(|from| Stack::Grows(8 * first - from)).ok_or(Refusal::StackPointer)
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::super::{Atomic, Flow, Isa, Refusal, Stack, Step, When, Writes};

    fn z(text: &str) -> Result<Step, Refusal> {
        step(Isa::S390x, text)
    }

    #[test]
    fn where_it_goes() {
        let flow = |text| z(text).map(|step| step.flow);
        let branch = |to, when| Ok(Flow::Branch { to, when });
        assert_eq!(flow("risbgz %r3, %r3, 55, 63, 28"), Ok(Flow::Next));
        assert_eq!(flow("j 0x66"), Ok(Flow::Jump(0x66)));
        assert_eq!(flow("jg 0x66 <f+0x66>"), Ok(Flow::Jump(0x66)));
        assert_eq!(flow("jl 0x59c"), branch(0x59c, When::NotEqual));
        assert_eq!(flow("jne 0x59c"), branch(0x59c, When::NotEqual));
        assert_eq!(flow("je 0x59c"), branch(0x59c, When::Equal));
        assert_eq!(flow("jghe 0x59c"), branch(0x59c, When::Other));
        assert_eq!(flow("cgije %r2, 0, 0x2ea"), branch(0x2ea, When::Other));
        assert_eq!(flow("clgrjhe %r13, %r3, 0x1a6"), branch(0x1a6, When::Other));
        assert_eq!(flow("brctg %r3, 0x10"), branch(0x10, When::Other));
        assert_eq!(flow("brasl %r14, 0x1e6"), Ok(Flow::Call(0x1e6)));
        assert_eq!(flow("br %r14"), Ok(Flow::Return));
        assert_eq!(flow("bher %r14"), Ok(Flow::ReturnOrNext));
        assert_eq!(flow("bcr 14, %r0"), Ok(Flow::Next));
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("br %r1", Refusal::Indirect),
            ("ber %r1", Refusal::Indirect),
            ("basr %r14, %r3", Refusal::Indirect),
            ("j 0x102", Refusal::Trap),
            ("jne 0x102", Refusal::Trap),
            ("ldr %f0, %f2", Refusal::FloatOrVector),
            ("vl %v0, 0(%r1)", Refusal::FloatOrVector),
            ("ear %r1, %a0", Refusal::FixedAddress),
            ("larl %r4, 0x1a6", Refusal::FixedAddress),
            ("lg %r1, 640(0)", Refusal::FixedAddress),
            ("lgr %r15, %r11", Refusal::StackPointer),
            ("lg %r15, 280(%r15)", Refusal::StackPointer),
            ("lctlg %c1, %c1, 0(%r2)", Refusal::Unknown),
            ("exrl %r1, 0x40", Refusal::Unknown),
            ("svc 1", Refusal::Unknown),
            ("<unknown>", Refusal::Unknown),
        ] {
            assert_eq!(z(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_stack() {
        let stack = |text| z(text).map(|step| (step.stack, step.below));
        assert_eq!(stack("aghi %r15, -160"), Ok((Stack::Grows(160), 0)));
        assert_eq!(stack("la %r15, 160(%r15)"), Ok((Stack::Grows(-160), 0)));
        assert_eq!(stack("stmg %r9, %r15, 72(%r15)"), Ok((Stack::Stays, 0)));
        assert_eq!(stack("lmg %r9, %r15, 232(%r15)"), Ok((Stack::Grows(-160), 0)));
        assert_eq!(stack("lmg %r6, %r9, 48(%r15)"), Ok((Stack::Stays, 0)));
        assert_eq!(stack("stg %r0, -8(%r15)"), Ok((Stack::Stays, 8)));
        assert_eq!(stack("xc 160(256,%r15), 160(%r15)"), Ok((Stack::Stays, 0)));
    }

    #[test]
    fn atomics() {
        let atomic = |text| z(text).map(|step| step.atomic);
        let cas = Atomic::CompareAndSwap { expected: "%r1".to_owned() };
        assert_eq!(atomic("csg %r1, %r4, 0(%r2)"), Ok(Some(cas)));
        assert_eq!(atomic("laog %r1, %r4, 0(%r2)"), Ok(Some(Atomic::Modify)));
        assert_eq!(atomic("og %r1, 0(%r2)"), Ok(None));
    }

    #[test]
    fn what_it_writes() {
        let writes = |text| z(text).map(|step| (step.writes, step.sets_condition));
        let register = |name: &str| Writes::Register(name.to_owned());
        assert_eq!(writes("lgr %r1, %r0"), Ok((register("%r1"), false)));
        assert_eq!(writes("oill %r1, 8"), Ok((register("%r1"), true)));
        assert_eq!(writes("clg %r0, 8(%r2)"), Ok((Writes::Nothing, true)));
        assert_eq!(writes("stg %r0, 0(%r13)"), Ok((Writes::Nothing, false)));
        assert_eq!(writes("locghie %r2, 1"), Ok((register("%r2"), false)));
    }
}
