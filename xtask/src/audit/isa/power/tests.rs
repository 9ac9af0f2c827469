use crate::audit::isa::tests::step;
use crate::audit::isa::{Atomic, Flow, Isa, Refusal, Stack, Step, When, Writes};

fn power(text: &str) -> Result<Step, Refusal> {
    step(Isa::Power, text)
}

#[test]
fn where_it_goes() {
    let flow = |text| power(text).map(|step| step.flow);
    let branch = |to, when| Ok(Flow::Branch { to, when });
    assert_eq!(flow("rldicl. 6, 6, 32, 32"), Ok(Flow::Next));
    assert_eq!(flow("b 0x68 <f+0x68>"), Ok(Flow::Jump(0x68)));
    assert_eq!(flow("bf- 2, 0x3c0 <f+0x88>"), branch(0x3c0, When::NotEqual));
    assert_eq!(flow("bt+ 2, 0x3c0 <f+0x88>"), branch(0x3c0, When::Equal));
    assert_eq!(flow("bf 20, 0x3c0 <f>"), branch(0x3c0, When::Other));
    assert_eq!(flow("bne- 0x3c0 <f>"), branch(0x3c0, When::NotEqual));
    assert_eq!(flow("beq 7, 0x3c0 <f>"), branch(0x3c0, When::Other));
    assert_eq!(flow("bdnz 0xf8 <f>"), branch(0xf8, When::Other));
    assert_eq!(flow("bl 0x0 <g>"), Ok(Flow::Call(0)));
    assert_eq!(flow("blr"), Ok(Flow::Return));
    assert_eq!(flow("btlr 2"), Ok(Flow::ReturnOrNext));
    assert_eq!(flow("bnelr 0"), Ok(Flow::ReturnOrNext));
    assert_eq!(flow("bclr 12, 20"), Ok(Flow::ReturnOrNext));
    assert_eq!(flow("bc 4, 2, 0x3c0 <f>"), branch(0x3c0, When::NotEqual));
}

#[test]
fn what_is_refused() {
    for (text, why) in [
        ("bctr", Refusal::Indirect),
        ("bctrl", Refusal::Indirect),
        ("bclr 20, 20", Refusal::Unknown),
        ("trap", Refusal::Trap),
        ("tdi 31, 3, 0", Refusal::Trap),
        ("tweq 3, 4", Refusal::Trap),
        ("lfd 0, 0(4)", Refusal::FloatOrVector),
        ("fadd 1, 1, 0", Refusal::FloatOrVector),
        ("lxvd2x 0, 0, 4", Refusal::FloatOrVector),
        ("vspltisw 2, 0", Refusal::FloatOrVector),
        ("mtvsrd 0, 3", Refusal::FloatOrVector),
        ("addis 3, 2, 0", Refusal::FixedAddress),
        ("ld 3, 8(2)", Refusal::FixedAddress),
        ("ld 3, 8(13)", Refusal::FixedAddress),
        ("ld 3, 8(0)", Refusal::FixedAddress),
        ("std 3, -8(0)", Refusal::FixedAddress),
        ("ldx 3, 13, 4", Refusal::FixedAddress),
        ("mr 1, 31", Refusal::StackPointer),
        ("ld 1, 0(1)", Refusal::StackPointer),
        ("stdux 1, 1, 0", Refusal::Unknown),
        ("mfmsr 3", Refusal::Unknown),
        ("sc", Refusal::Unknown),
        ("ld 3, 4", Refusal::Unknown),
        ("<unknown>", Refusal::Unknown),
    ] {
        assert_eq!(power(text), Err(why), "{text}");
    }
}

#[test]
fn the_stack() {
    let stack = |text| power(text).map(|step| (step.stack, step.below));
    assert_eq!(stack("stdu 1, -896(1)"), Ok((Stack::Grows(896), 0)));
    assert_eq!(stack("addi 1, 1, 896"), Ok((Stack::Grows(-896), 0)));
    assert_eq!(stack("std 27, -40(1)"), Ok((Stack::Stays, 40)));
    assert_eq!(stack("stdu 4, 8(3)"), Ok((Stack::Stays, 0)));
    assert_eq!(stack("addi 3, 1, 24"), Ok((Stack::Stays, 0)));
}

#[test]
fn the_table_of_contents_may_be_found_but_not_used() {
    assert_eq!(power("addis 2, 12, 0"), Ok(Step::plain()));
    assert_eq!(power("addi 2, 2, 0"), Ok(Step::plain()));
    // A number that is no register.
    assert!(power("sldi 4, 5, 2").is_ok());
    assert!(power("addi 4, 5, 13").is_ok());
}

#[test]
fn atomics() {
    let atomic = |text| power(text).map(|step| step.atomic);
    let address = || "0, 3".to_owned();
    let store = Atomic::StoreConditional { address: address(), status: None };
    assert_eq!(atomic("ldarx 6, 0, 3"), Ok(Some(Atomic::LoadReserved { address: address() })));
    assert_eq!(atomic("stdcx. 7, 0, 3"), Ok(Some(store)));
    assert_eq!(atomic("std 7, 0(3)"), Ok(None));
}

#[test]
fn stores() {
    let stores = |text| power(text).map(|step| step.stores);
    for text in ["std 4, 0(30)", "stdu 4, 8(3)", "stdx 4, 1, 5"] {
        assert_eq!(stores(text), Ok(true), "{text}");
    }
    for text in ["ld 4, 0(30)", "std 27, -40(1)", "stdu 1, -48(1)", "stdcx. 7, 0, 3"] {
        assert_eq!(stores(text), Ok(false), "{text}");
    }
}

#[test]
fn what_it_writes() {
    let writes = |text| power(text).map(|step| (step.writes, step.sets_condition));
    assert_eq!(writes("li 3, -1"), Ok((Writes::Register("3".to_owned()), false)));
    assert_eq!(writes("andi. 3, 4, 1"), Ok((Writes::Register("3".to_owned()), true)));
    assert_eq!(writes("cmpd 7, 4, 4"), Ok((Writes::Nothing, true)));
    assert_eq!(writes("lwsync"), Ok((Writes::Nothing, false)));
    assert_eq!(writes("crset 20"), Ok((Writes::Nothing, true)));
}
