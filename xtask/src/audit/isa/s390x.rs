//! s390x: `operation destination, source`, stores the other way round.

use super::{Atomic, Flow, Refusal, Stack, Step, When, Writes, listed, number, target};
use crate::audit::disassembly::Line;

/// The first operand is what they write.
const MOVE: &[&str] = &[
    "lgr lr lghi lhi lgfi llgfr llgf llghr llgh llgcr llgc llhr llh llcr llc llill llilh llihl llihh",
    "llilf llihf lgfr lgf lgbr lgb lghr lgh lbr lb lhr lh lhy lg l ly la lay iilf iihf iill iilh iihl",
    "iihh lrv lrvg lrvr lrvgr sll sllg sllk srl srlg srlk rll rllg msgr msgfi ms msr msg mghi mhi",
    "msgrkc msgc mlgr mlg risbgn risbgnz ic icy",
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
    "cr cgr c cg cy chi cghi cfi cgfi ch cgh clr clgr cl clg cly clfi clgfi cgfr cgf clgfr clgf",
    "cli cliy clc chsi cghsi clhhsi clghsi clfhsi tm tmy tmll tmlh tmhl tmhh",
];
const STORE: &[&str] =
    &["st stg sty stc stcy sth sthy stmg mvi mviy mvghi mvhi mvhhi mvc strv strvg strvh"];
/// Plain changes of memory, in no single piece.
const CHANGE: &[&str] = &["xc nc oc ni oi xi niy oiy xiy agsi asi algsi"];
/// Their first operand names memory that they write.
const WRITTEN_FIRST: &[&str] = &["mvi mviy mvghi mvhi mvhhi mvc"];
/// By zero, or with a result that is too large, they interrupt.
const DIVISION: &[&str] = &["d dr dl dlr dlg dlgr dsg dsgr dsgf dsgfr"];
/// Behind the first operand a bare number is a value. To any other instruction it is an address that
/// no register has a part in.
const IMMEDIATE: &[&str] = &[
    "lghi lhi lgfi llill llilh llihl llihh llilf llihf iilf iihf iill iilh iihl iihh mghi mhi msgfi",
    "sll sllg sllk srl srlg srlk sra srag srak rll rllg risbgn risbgnz risbg risbgz rosbg rnsbg rxsbg",
    "ahi aghi afi agfi ahik aghik algfi alfi alghsik slgfi slfi",
    "nilf nihf nill nilh nihl nihh oilf oihf oill oilh oihl oihh xilf xihf",
    "chi cghi cfi cgfi clfi clgfi cli cliy chsi cghsi clhhsi clghsi clfhsi tm tmy tmll tmlh tmhl tmhh",
    "mvi mviy mvghi mvhi mvhhi ni oi xi niy oiy xiy agsi asi algsi",
];
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
    if listed(DIVISION, mnemonic) {
        return Err(Refusal::Trap);
    }
    let step = computes(line)?;
    if names_no_register(line) { Err(Refusal::FixedAddress) } else { Ok(step) }
}

/// What `line` does if it goes on to the next.
fn computes(line: &Line) -> Result<Step, Refusal> {
    let mnemonic = line.mnemonic.as_str();
    let mut below = 0;
    for operand in &line.operands {
        below = below.max(check(operand)?);
    }
    if listed(SWAP, mnemonic) {
        return Ok(Step::atomic(Atomic::CompareAndSwap));
    }
    if listed(INTERLOCKED, mnemonic) {
        return Err(Refusal::Modifies);
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
            // Long multiplication writes a pair of registers.
            let pair = listed(&["mlgr mlg flogr"], mnemonic);
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
    Ok(Step { stores: stores(line), stack, below, writes, sets_condition, ..Step::plain() })
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

/// Whether an operand is an address as a bare number.
fn names_no_register(line: &Line) -> bool {
    let mnemonic = line.mnemonic.as_str();
    let takes_value = listed(IMMEDIATE, mnemonic)
        || (is_conditional(mnemonic)
            && (mnemonic.starts_with("locghi") || mnemonic.starts_with("lochi")));
    let bare = |text: &String| number(text).is_some();
    line.operands.iter().enumerate().any(|(at, text)| bare(text) && !(takes_value && at > 0))
}

/// Whether it writes memory outside of its frame.
fn stores(line: &Line) -> bool {
    let first = listed(CHANGE, &line.mnemonic) || listed(WRITTEN_FIRST, &line.mnemonic);
    if !first && !listed(STORE, &line.mnemonic) {
        return false;
    }
    let place = if first { line.operands.first() } else { line.operands.last() };
    let inside = place.and_then(|text| text.split_once('(')).map_or("", |(_, inside)| inside);
    // A length may stand in front, but no index.
    let own = inside.strip_suffix("%r15)").is_some_and(|before| !before.contains('%'));
    !own
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
mod tests;
