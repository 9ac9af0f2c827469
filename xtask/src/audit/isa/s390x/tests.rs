use crate::audit::isa::tests::step;
use crate::audit::isa::{Atomic, Flow, Isa, Refusal, Stack, Step, When, Writes};

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
        ("lg %r1, 640", Refusal::FixedAddress),
        ("stmg %r6, %r14, 48", Refusal::FixedAddress),
        ("csg %r1, %r0, 640", Refusal::FixedAddress),
        ("mvc 0(8,%r1), 640", Refusal::FixedAddress),
        ("mvi 640, 1", Refusal::FixedAddress),
        ("tm 640, 1", Refusal::FixedAddress),
        ("dlgr %r2, %r4", Refusal::Trap),
        ("dsg %r2, 0(%r4)", Refusal::Trap),
        ("laog %r1, %r4, 0(%r2)", Refusal::Modifies),
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
    assert_eq!(atomic("csg %r1, %r4, 0(%r2)"), Ok(Some(Atomic::CompareAndSwap)));
    assert_eq!(atomic("og %r1, 0(%r2)"), Ok(None));
}

#[test]
fn stores() {
    let stores = |text| z(text).map(|step| step.stores);
    for text in ["stg %r3, 0(%r13)", "mvghi 0(%r2), 1", "agsi 8(%r2), 1", "mvc 0(8,%r2), 0(%r15)"] {
        assert_eq!(stores(text), Ok(true), "{text}");
    }
    assert_eq!(stores("stg %r3, 0(%r1,%r15)"), Ok(true));
    for text in ["lg %r3, 0(%r13)", "tm 0(%r2), 1", "mvghi 160(%r15), 64"] {
        assert_eq!(stores(text), Ok(false), "{text}");
    }
    assert_eq!(stores("mvc 160(8,%r15), 0(%r2)"), Ok(false));
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
