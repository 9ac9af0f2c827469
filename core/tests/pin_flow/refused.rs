//! What is not pinned, and why.

use pinfold::policy::{Refusal, RequestError};
use pinfold::{
    Access, AddrRange, Order, PageCount, PageShift, Pfn, PinCause, PinFlags, PinRequest, VirtAddr,
};
use pinfold_sim::{FileKind, HostCall, Layout, MapSpec, ZoneKind, ZoneLayout, mib};

use super::{AT, BOTH, coherent, nothing_misplaced, request};

/// D13: long-term write pins of write-back files corrupted file systems. D10: secret memory was
/// recognised by a flag that is not always there. The fast and the slow way say the same.
#[test]
fn what_may_be_pinned_by_backing_sharing_and_access() {
    let ok = None;
    for (kind, shared_write, shared_read, private_write, private_read) in [
        (FileKind::Shmem, ok, ok, ok, ok),
        (FileKind::Disk, Some(Refusal::DirtyTracked), ok, ok, ok),
        (
            FileKind::FsDax,
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
            Some(Refusal::FsDax),
        ),
    ] {
        // Memory that must move first is looked up on the way; the fast way meets the rest alone.
        let plain = Layout::new(Pfn::new(0x1000)).normal(mib(8));
        let layouts = [(false, Layout::small()), (true, Layout::small()), (true, plain)];
        for (touched, layout) in layouts {
            scene!(
                machine,
                bench,
                layout.zone(ZoneLayout { name: "pmem", kind: ZoneKind::FsDax, pages: mib(2) })
            );
            let file = machine.add_file(kind, 8, Order::ZERO);
            bench.map(MapSpec::shared(AT, 8, file));
            bench.map(MapSpec::private(AT + 0x10_0000, 8, file));
            if touched {
                bench.touch(AT, 8, BOTH);
                bench.touch(AT + 0x10_0000, 8, Access::READ);
            }
            for (at, access, refusal) in [
                (AT, BOTH, shared_write),
                (AT, Access::READ, shared_read),
                (AT + 0x10_0000, BOTH, private_write),
                (AT + 0x10_0000, Access::READ, private_read),
            ] {
                let result = bench.while_pinned(&request(at, 8, access), |table, _| {
                    nothing_misplaced(&bench, table);
                    // A shared read-only pin sees the file, any other the process.
                    if access == BOTH {
                        coherent(&bench, table, at + 0x1000);
                    }
                });
                let cause = result.err().map(|error| error.cause);
                let label = format!("{kind:?} {access:?} at {at:#x}, touched: {touched}");
                assert_eq!(cause, refusal.map(PinCause::Refused), "{label}");
            }
        }
    }
}

#[test]
fn secret_and_device_memory_are_refused_touched_or_not() {
    scene!(machine, bench, Layout::small());
    let secret = machine.add_file(FileKind::Secret, 4, Order::ZERO);
    bench.map(MapSpec::shared(AT, 4, secret));
    bench.map(MapSpec::device(AT + 0x10_0000, 4, Pfn::new(0xf_e000)));
    for _ in 0..2 {
        for access in [Access::READ, BOTH] {
            let cause = bench.refused(&request(AT, 4, access));
            assert_eq!(cause, PinCause::Refused(Refusal::Secret));
            let cause = bench.refused(&request(AT + 0x10_0000, 4, access));
            assert_eq!(cause, PinCause::Refused(Refusal::Device));
        }
        bench.touch(AT, 4, BOTH);
        bench.touch(AT + 0x10_0000, 4, BOTH);
    }
}

/// D2: a forced write took a dirty bit for a private copy. There is no forced write here: what the
/// process may not write, no pin makes writable.
#[test]
fn a_mapping_that_may_not_be_written_is_not_written() {
    scene!(machine, bench, Layout::small());
    let file = machine.add_file(FileKind::Disk, 4, Order::ZERO);
    bench.map(MapSpec::private(AT, 4, file).read_only(true));
    bench.touch(AT, 4, Access::READ);
    let cause = bench.refused(&request(AT, 4, BOTH));
    assert_eq!(cause, PinCause::Refused(Refusal::NotWritable));
    assert_eq!(PinFlags::from_name("FORCE"), None);
}

/// D50, D58, D75: sums of address and length wrapped.
#[test]
fn ranges_that_are_none_are_refused_before_anything_is_looked_at() {
    scene!(machine, bench, Layout::small());
    for (at, pages) in [
        (0x8000_0000_0000, 1),
        (0x7fff_ffff_f000, 2),
        (0xffff_7fff_ffff_f000, 2),
        (0x1000, 1 << 50),
        (0, 1 << 52),
    ] {
        let cause = bench.refused(&request(at, pages, BOTH));
        assert_eq!(cause, PinCause::NotTranslatable, "{pages} pages at {at:#x}");
    }
    let huge = AddrRange::new(VirtAddr::new(0), PageCount::ONE, PageShift::SIZE_2M).unwrap();
    let cause = bench.refused(&PinRequest { range: huge, ..request(AT, 1, BOTH) });
    assert_eq!(cause, PinCause::BaseMismatch);
    for call in HostCall::ALL {
        assert_eq!(machine.calls(call), 0, "{call:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_before_anything_is_looked_at() {
    scene!(machine, bench, Layout::small());
    let sane = request(AT, 1, BOTH);
    let unknown = PinFlags::from_bits_retain(1 << 31) | PinFlags::LONGTERM;
    let peer = PinFlags::LONGTERM | PinFlags::PEER_TO_PEER;
    for (request, error) in [
        (PinRequest { access: Access::empty(), ..sane }, RequestError::NoAccess),
        (PinRequest { flags: unknown, ..sane }, RequestError::UnknownBits),
        (PinRequest { flags: peer, ..sane }, RequestError::LongtermPeerToPeer),
        (
            PinRequest { flags: PinFlags::empty(), revocable: true, ..sane },
            RequestError::RevocableShortterm,
        ),
    ] {
        assert_eq!(bench.refused(&request), PinCause::Request(error));
    }
    assert_eq!(machine.calls(HostCall::Charge), 0);
}

#[test]
fn flags_that_narrow_what_is_pinned() {
    scene!(machine, bench, Layout::small());
    let shmem = machine.add_file(FileKind::Shmem, 4, Order::ZERO);
    bench.map(MapSpec::anonymous(AT, 4));
    bench.map(MapSpec::shared(AT + 0x10_0000, 4, shmem));
    bench.touch(AT + 0x10_0000, 4, BOTH);
    let with = |at, flags| PinRequest { flags, ..request(at, 4, BOTH) };
    let nofault = PinFlags::LONGTERM | PinFlags::NOFAULT;
    assert_eq!(bench.refused(&with(AT, nofault)), PinCause::NotPresent);
    bench.touch(AT, 4, BOTH);
    bench.while_pinned(&with(AT, nofault), |_, pinned| assert_eq!(pinned.faults, 0)).unwrap();
    let anonymous = PinFlags::LONGTERM | PinFlags::ANONYMOUS;
    bench.while_pinned(&with(AT, anonymous), |_, _| ()).unwrap();
    let cause = bench.refused(&with(AT + 0x10_0000, anonymous));
    assert_eq!(cause, PinCause::Refused(Refusal::NotAnonymous));
}
