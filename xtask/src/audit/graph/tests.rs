use super::{Kind, Loop};
use crate::audit::decode::{Decoded, decode};
use crate::audit::disassembly::parse;
use crate::audit::elf::Image;
use crate::audit::isa::Isa;

/// The function that this text lists: an address and an instruction in each line, from 0 on.
fn decoded(isa: Isa, end: u64, listing: &str) -> Decoded {
    let lines = parse(isa, listing).expect("a listing");
    let image = Image::of_one(isa, 0, end);
    let decoded = decode(&image, &image.functions[0], &lines, &|_| true);
    assert_eq!(decoded.findings, Vec::<String>::new(), "{listing}");
    decoded
}

/// Its loops, and instructions on the longest way if a counted loop runs ten times.
fn longest(isa: Isa, end: u64, listing: &str) -> (Vec<Loop>, u64) {
    let longest = decoded(isa, end, listing).graph.longest(&|_| 10, |_| 0);
    (longest.loops, longest.steps)
}

fn retry(at: u64) -> Vec<Loop> {
    vec![Loop { at, kind: Kind::Retry }]
}

fn counted(at: u64, changes: bool) -> Vec<Loop> {
    vec![Loop { at, kind: Kind::Counted { changes } }]
}

#[test]
fn a_way_back_is_no_loop() {
    let listing = "0: jmp 0x8\n2: incq %rax\n5: retq\n6: nop\n8: decq %rax\nb: jmp 0x2\n";
    assert_eq!(longest(Isa::X86_64, 13, listing), (vec![], 5));
}

#[test]
fn a_loop_costs_its_longest_round() {
    let listing = "0: xorl %eax, %eax\n2: incq %rax\n5: je 0xa\n7: addq %rax, %rcx\n\
        a: cmpq %rdi, %rax\nd: jb 0x2\nf: retq\n";
    assert_eq!(longest(Isa::X86_64, 16, listing), (counted(2, false), 1 + 10 * 5 + 1));
}

#[test]
fn loops_in_loops_multiply() {
    let listing = "0: incq %rax\n3: decq %rcx\n6: jb 0x3\n8: cmpq %rdi, %rax\nb: jb 0x0\nd: retq\n";
    let (loops, steps) = longest(Isa::X86_64, 14, listing);
    assert_eq!(loops.len(), 2);
    assert_eq!(steps, 10 * (1 + 10 * 2 + 2) + 1);
}

#[test]
fn compare_and_swap_is_counted_also_of_what_was_found() {
    let listing = "0: movq (%rcx), %rax\n3: movq %rax, %r8\n6: incq %r8\n9: lock\n\
        a: cmpxchgq %r8, (%rcx)\ne: jne 0x3\n10: retq\n";
    assert_eq!(longest(Isa::X86_64, 17, listing), (counted(3, true), 1 + 10 * 4 + 1));
    let listing = "0: lg %r0, 0(%r2)\n6: lgr %r1, %r0\na: oill %r1, 8\ne: csg %r0, %r1, 0(%r2)\n\
        14: jl 0x6\n18: br %r14\n";
    assert_eq!(longest(Isa::S390x, 26, listing), (counted(6, true), 1 + 10 * 4 + 1));
}

#[test]
fn compare_and_swap_of_a_wish_is_a_spin_lock() {
    let listing = "0: movl $0x1, %ecx\n5: pause\n7: xorl %eax, %eax\n9: lock\n\
        a: cmpxchgq %rcx, (%rdi)\ne: jne 0x5\n10: retq\n";
    assert_eq!(longest(Isa::X86_64, 17, listing).0, counted(5, true));
    let listing = "0: lghi %r0, 1\n4: lghi %r1, 0\n8: csg %r1, %r0, 0(%r2)\ne: jl 0x4\n\
        12: br %r14\n";
    assert_eq!(longest(Isa::S390x, 20, listing).0, counted(4, true));
}

#[test]
fn reservations() {
    let listing = "0: ldxr x8, [x0]\n4: orr x8, x8, #0x8\n8: stlxr w9, x8, [x0]\n\
        c: cbnz w9, 0x0\n10: ret\n";
    assert_eq!(longest(Isa::Aarch64, 20, listing), (retry(0), 5));
    let listing = "0: ldarx 4, 0, 3\n4: ori 4, 4, 8\n8: stdcx. 4, 0, 3\nc: bf- 2, 0x0\n10: blr\n";
    assert_eq!(longest(Isa::Power, 20, listing), (retry(0), 5));
}

/// A strong compare-and-swap of Power loads again only after the store failed.
#[test]
fn a_reservation_that_is_entered_behind_its_load() {
    let listing = "0: ldarx 4, 0, 3\n4: cmpld 4, 5\n8: bf- 2, 0x28\nc: lwsync\n\
        10: stdcx. 6, 0, 3\n14: bt+ 2, 0x28\n18: ldarx 4, 0, 3\n1c: cmpld 4, 5\n\
        20: bt+ 2, 0x10\n24: b 0x28\n28: blr\n";
    assert_eq!(longest(Isa::Power, 44, listing).0, retry(0x10));
}

#[test]
fn reservations_that_wait_for_a_value() {
    let listing = "0: mov w9, #0x1\n4: ldaxr x10, [x8]\n8: cbnz x10, 0x18\nc: stxr w10, x9, [x8]\n\
        10: cbnz w10, 0x4\n14: ret\n18: clrex\n1c: b 0x4\n";
    assert_eq!(longest(Isa::Aarch64, 32, listing).0, counted(4, true));
    let listing = "0: ldarx 6, 0, 3\n4: crclr 20\n8: cmpldi 6, 0\nc: bf- 2, 0x18\n\
        10: stdcx. 5, 0, 3\n14: bf- 2, 0x18\n18: bf 20, 0x0\n1c: blr\n";
    assert_eq!(longest(Isa::Power, 32, listing).0, counted(0, true));
}

#[test]
fn reservations_of_another_word() {
    let listing = "0: ldxr x8, [x1]\n4: stxr w9, x8, [x0]\n8: cbnz w9, 0x0\nc: ret\n";
    assert_eq!(longest(Isa::Aarch64, 16, listing).0, counted(0, true));
    let listing = "0: ldarx 4, 0, 5\n4: stdcx. 4, 0, 3\n8: bf- 2, 0x0\nc: blr\n";
    assert_eq!(longest(Isa::Power, 16, listing).0, counted(0, true));
}

/// The branch asks another register, or goes on after success.
#[test]
fn reservations_with_the_wrong_branch() {
    for branch in ["cbnz w8, 0x0", "cbz w9, 0x0", "tbnz w9, #0x0, 0x0"] {
        let listing = format!("0: ldxr x8, [x0]\n4: stxr w9, x8, [x0]\n8: {branch}\nc: ret\n");
        assert_eq!(longest(Isa::Aarch64, 16, &listing).0, counted(0, true), "{branch}");
    }
    let lost = "0: ldxr x8, [x0]\n4: stxr w9, x8, [x0]\n8: mov w9, w8\nc: cbnz w9, 0x0\n10: ret\n";
    assert_eq!(longest(Isa::Aarch64, 20, lost).0, counted(0, true));
    let lost = "0: ldarx 4, 0, 3\n4: stdcx. 4, 0, 3\n8: cmpdi 4, 0\nc: bf- 2, 0x0\n10: blr\n";
    assert_eq!(longest(Isa::Power, 20, lost).0, counted(0, true));
}

#[test]
fn a_loop_with_two_entries_is_tangled() {
    let listing = "0: je 0x5\n2: incq %rax\n5: decq %rcx\n8: jb 0x2\na: retq\n";
    let (loops, _) = longest(Isa::X86_64, 11, listing);
    assert_eq!(loops, [Loop { at: 2, kind: Kind::Tangled }]);
}

#[test]
fn stack() {
    let stack = |isa, end, listing| decoded(isa, end, listing).graph.stack(|_| 0);
    let balanced =
        "0: pushq %rbx\n1: subq $0x10, %rsp\n5: addq $0x10, %rsp\n9: popq %rbx\na: retq\n";
    assert_eq!(stack(Isa::X86_64, 11, balanced), Ok(24));
    let left = "0: pushq %rbx\n1: retq\n";
    assert!(stack(Isa::X86_64, 2, left).is_err());
    let grows = "0: pushq %rbx\n1: jne 0x0\n3: popq %rbx\n4: retq\n";
    assert!(stack(Isa::X86_64, 5, grows).is_err());
    let z = "0: stmg %r9, %r15, 72(%r15)\n6: aghi %r15, -160\na: lmg %r9, %r15, 232(%r15)\n\
        10: br %r14\n";
    assert_eq!(stack(Isa::S390x, 18, z), Ok(160));
    let power = "0: std 30, -16(1)\n4: stdu 1, -48(1)\n8: addi 1, 1, 48\nc: blr\n";
    assert_eq!(stack(Isa::Power, 16, power), Ok(48));
}
