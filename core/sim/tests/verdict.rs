//! Verdicts of a kernel against pinfold's, on captures with changes that a real machine could have
//! had. What the kernel would say was worked out from its rules, not from pinfold.

use pinfold_sim::snapshot::{FrameClass, FrameRun, Snapshot, Verdict};
use pinfold_sim::verdict::{CompareError, Comparison, EXCEPTIONS, compare};

/// A capture of Linux 6.1 with a CMA area, kept as it is: what is changed in it here relies on it.
const PLAIN: &[u8] = include_bytes!("plain.snap");

const ENOMEM: u16 = 12;
const EFAULT: u16 = 14;
const EOPNOTSUPP: u16 = 95;
/// File-system type of ext2, ext3 and ext4.
const EXT4: u64 = 0xef53;

/// Bits of kpageflags.
const ANON: u64 = 1 << 12;
const KSM: u64 = 1 << 21;

/// A region, the kernel's answers to a read pin and to a write pin.
type Answers = (&'static str, u16, u16);

const ANSWERS: [Answers; 20] = [
    ("text", 0, EFAULT),
    ("stack", 0, 0),
    ("cow_child", 0, 0),
    ("read_only", 0, EFAULT),
    ("no_access", EFAULT, EFAULT),
    ("executable", 0, EFAULT),
    ("locked", 0, 0),
    ("ksm", 0, 0),
    ("tmpfs_private", 0, 0),
    ("tmpfs_shared", 0, 0),
    ("tmpfs_read_only", 0, EFAULT),
    ("device", EFAULT, EFAULT),
    ("secret", EFAULT, EFAULT),
    ("no_access_thp", EFAULT, EFAULT),
    ("read_only_thp", 0, EFAULT),
    ("hugetlb_shared", 0, 0),
    ("hugetlb", 0, 0),
    ("memfd", 0, 0),
    ("untouched", 0, 0),
    ("zero_thp", 0, 0),
];

/// The capture, as one of this kernel.
fn capture(kernel: &str) -> Snapshot {
    Snapshot { kernel: kernel.into(), ..Snapshot::parse(PLAIN).unwrap() }
}

fn region(snapshot: &Snapshot, name: &str) -> (u64, u64) {
    let found = snapshot.regions.iter().find(|region| region.name == name);
    found.map(|region| (region.start, region.pages)).unwrap()
}

/// Puts the files of a region onto another file system.
fn put_on(snapshot: &mut Snapshot, name: &str, fs_type: u64) {
    let (start, _) = region(snapshot, name);
    let map = snapshot.mappings.iter_mut().find(|map| map.start == start);
    map.unwrap().fs_type = fs_type;
}

fn asked(snapshot: &Snapshot, asker: &str, name: &str, write: bool, errno: u16) -> Verdict {
    let (start, pages) = region(snapshot, name);
    Verdict { asker: asker.into(), write, whole: true, start, pages, errno }
}

fn all(snapshot: &Snapshot) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (name, read, write) in ANSWERS {
        for whole in [false, true] {
            for (write, errno) in [(false, read), (true, write)] {
                let verdict = asked(snapshot, "gup_test", name, write, errno);
                verdicts.push(Verdict { whole, ..verdict });
            }
        }
    }
    verdicts
}

fn compared(mut snapshot: Snapshot, verdicts: Vec<Verdict>) -> Comparison {
    snapshot.verdicts = verdicts;
    compare(&Snapshot::parse(&snapshot.to_bytes()).unwrap()).unwrap()
}

/// The reasons that explain one verdict; empty if it agrees, `None` if nothing does.
fn reason(snapshot: &Snapshot, verdict: Verdict) -> Option<Vec<&'static str>> {
    let found = compared(snapshot.clone(), vec![verdict]);
    assert_eq!(found.agreed + found.exceptions() + found.disagreements.len() as u64, 1);
    let reasons = found.excepted.iter().map(|(exception, _)| exception.reason).collect();
    found.disagreements.is_empty().then_some(reasons)
}

#[test]
fn pinfold_answers_as_the_kernel_does() {
    for kernel in ["6.1.0-56-amd64", "6.12.95+deb12-amd64", "7.1"] {
        let snapshot = capture(kernel);
        let verdicts = all(&snapshot);
        let asked = verdicts.len() as u64;
        let found = compared(snapshot, verdicts);
        assert!(found.disagreements.is_empty(), "{:#?}", found.disagreements);
        assert_eq!((found.agreed, found.exceptions()), (asked, 0));
    }
}

#[test]
fn every_flipped_verdict_is_noticed() {
    let snapshot = capture("7.1");
    let flipped = |verdict: &Verdict| {
        let errno = if verdict.errno == 0 { EFAULT } else { 0 };
        Verdict { errno, ..verdict.clone() }
    };
    let verdicts: Vec<Verdict> = all(&snapshot).iter().map(flipped).collect();
    let found = compared(snapshot.clone(), verdicts.clone());
    let noticed: Vec<&Verdict> = found.disagreements.iter().map(|one| &one.verdict).collect();
    assert_eq!(noticed, verdicts.iter().collect::<Vec<_>>());
    assert_eq!((found.agreed, found.exceptions()), (0, 0));
    // So is another error than the right one.
    for errno in [1, 12, EOPNOTSUPP] {
        assert_eq!(reason(&snapshot, asked(&snapshot, "gup_test", "secret", true, errno)), None);
    }
}

/// Of pages that were asked for one by one, the one that differs is named.
#[test]
fn the_page_that_differs_is_named() {
    let snapshot = capture("7.1");
    let (start, pages) = region(&snapshot, "read_only");
    // Behind it there is nothing.
    let verdict = asked(&snapshot, "gup_test", "read_only", false, 0);
    let verdict = Verdict { whole: false, pages: pages + 1, ..verdict };
    let found = compared(snapshot, vec![verdict]);
    let [one] = found.disagreements.as_slice() else { panic!("{found:?}") };
    assert_eq!(one.at.raw(), start + pages * 4096);
    let text = one.to_string();
    assert!(text.contains("nothing is mapped") && text.contains("pinned them"), "{text}");
}

#[test]
fn shared_files_that_track_dirty_pages_are_refused_to_writers() {
    let mut new = capture("6.12.0");
    put_on(&mut new, "file_shared", EXT4);
    put_on(&mut new, "file_private", EXT4);
    for asker in ["io_uring", "vfio", "gup_test"] {
        for (name, write, errno) in [
            ("file_shared", true, EFAULT),
            ("file_shared", false, 0),
            ("file_private", true, 0),
            ("file_private", false, 0),
        ] {
            let verdict = asked(&new, asker, name, write, errno);
            assert_eq!(reason(&new, verdict), Some(vec![]), "{asker} {name} {write}");
        }
        assert_eq!(reason(&new, asked(&new, asker, "file_shared", true, 0)), None);
    }
}

/// Every exception is used, and holds for nothing else. (Those of fsdax files are in `replica.rs`.)
#[test]
fn exceptions_are_narrow() {
    let mut old = capture("6.1.0-56-amd64");
    put_on(&mut old, "file_shared", EXT4);
    put_on(&mut old, "file_private", EXT4);
    // A part of the file that may only be read.
    let (start, _) = region(&old, "text");
    let text = old.mappings.iter_mut().find(|map| map.start == start).unwrap();
    text.fs_type = EXT4;
    old.regions.iter_mut().find(|region| region.start == start).unwrap().name =
        "file_read_only".into();
    let [io_uring, _short, device, lax, hugetlb, _copies] = EXCEPTIONS else {
        panic!("another exception: test it here")
    };
    let explains = |(asker, name, write, errno): (&str, &str, bool, u16)| {
        reason(&old, asked(&old, asker, name, write, errno))
    };
    for (question, exception) in [
        (("io_uring", "file_shared", true, EOPNOTSUPP), io_uring),
        (("io_uring", "file_private", true, EOPNOTSUPP), io_uring),
        (("vfio", "file_shared", true, 0), lax),
        (("gup_test", "file_shared", true, 0), lax),
        (("vfio", "device", true, 0), device),
        (("vfio", "device", false, 0), device),
        (("vfio", "hugetlb", false, ENOMEM), hugetlb),
        (("io_uring", "hugetlb", true, ENOMEM), hugetlb),
        (("gup_test", "hugetlb", true, Verdict::UNTOLD), hugetlb),
    ] {
        assert_eq!(explains(question), Some(vec![exception.reason]), "{question:?}");
    }
    for question in [
        ("vfio", "file_shared", true, EOPNOTSUPP),
        ("io_uring", "file_shared", false, EOPNOTSUPP),
        ("io_uring", "tmpfs_shared", true, EOPNOTSUPP),
        ("io_uring", "file_read_only", true, EOPNOTSUPP),
        ("io_uring", "hugetlb", true, EOPNOTSUPP),
        ("io_uring", "locked", true, EOPNOTSUPP),
        ("io_uring", "file_private", true, EFAULT),
        ("io_uring", "locked", true, EFAULT),
        ("vfio", "file_private", true, EFAULT),
        ("vfio", "file_shared", false, EFAULT),
        ("io_uring", "device", true, 0),
        ("vfio", "secret", true, 0),
        ("vfio", "no_access", true, 0),
        ("vfio", "hugetlb", true, EFAULT),
        ("vfio", "thp", true, ENOMEM),
        ("vfio", "memfd", true, ENOMEM),
    ] {
        assert_eq!(explains(question), None, "{question:?}");
    }
    // Where huge pages may stay.
    let mut plain = old.clone();
    plain.cma.clear();
    plain.zones.iter_mut().for_each(|zone| zone.name = "Normal".into());
    assert_eq!(reason(&plain, asked(&plain, "vfio", "hugetlb", true, 0)), Some(vec![]));
    assert_eq!(reason(&plain, asked(&plain, "vfio", "hugetlb", true, ENOMEM)), None);
    // Registers further on do not explain why pinfold refuses what comes before them.
    let (start, _) = region(&old, "tmpfs_read_only");
    let (end, _) = region(&old, "secret");
    let verdict = asked(&old, "vfio", "device", true, 0);
    let verdict = Verdict { start, pages: (end - start) >> 12, ..verdict };
    assert_eq!(reason(&old, verdict), None);
    for later in ["6.12.0", "7.1", "no version"] {
        old.kernel = later.into();
        for (asker, name, errno) in [
            ("io_uring", "file_shared", EOPNOTSUPP),
            ("vfio", "file_shared", 0),
            ("vfio", "hugetlb", ENOMEM),
        ] {
            assert_eq!(
                reason(&old, asked(&old, asker, name, true, errno)),
                None,
                "{later} {asker}"
            );
        }
    }
}

/// A free huge page where it must not be pinned is no use for a long-term pin.
#[test]
fn an_empty_pool_is_a_bus_error() {
    let mut snapshot = capture("6.12.0");
    // The second page of it was never touched.
    let (start, _) = region(&snapshot, "hugetlb_shared");
    let second = |snapshot: &Snapshot, errno| {
        let verdict = asked(snapshot, "vfio", "hugetlb_shared", true, errno);
        reason(snapshot, Verdict { start: start + (2 << 20), pages: 512, ..verdict })
    };
    assert_eq!(second(&snapshot, 0), Some(vec![]));
    // A whole block of kernel memory in the CMA area: nothing but a huge page.
    let area = snapshot.cma[0].clone();
    let free = |run: &&FrameRun| run.class == FrameClass::Free && run.frames > 1024;
    let inside =
        |run: &&FrameRun| (area.start_pfn..area.start_pfn + area.frames).contains(&run.start_pfn);
    let run = *snapshot.memory.iter().find(|run| free(run) && inside(run)).unwrap();
    let at = snapshot.memory.iter().position(|other| *other == run).unwrap();
    let head = run.start_pfn.next_multiple_of(512);
    let end = run.start_pfn + run.frames;
    let part = |from: u64, to: u64, class| FrameRun { start_pfn: from, frames: to - from, class };
    let parts = [
        part(run.start_pfn, head, FrameClass::Free),
        part(head, head + 512, FrameClass::Kernel),
        part(head + 512, end, FrameClass::Free),
    ];
    snapshot.memory.splice(at..=at, parts.into_iter().filter(|run| run.frames > 0));
    assert_eq!(second(&snapshot, EFAULT), Some(vec![]));
    assert_eq!(second(&snapshot, ENOMEM), None);
    // A kernel that does not move huge pages is stopped by the first one already.
    snapshot.kernel = "6.1.0".into();
    let whole = asked(&snapshot, "vfio", "hugetlb_shared", true, ENOMEM);
    assert_eq!(reason(&snapshot, whole.clone()).map(|reasons| reasons.len()), Some(1));
    assert_eq!(second(&snapshot, ENOMEM), None);
    snapshot.kernel = "6.12.0".into();
    assert_eq!(reason(&snapshot, whole), None);
}

/// Linux 6.12 takes all anonymous memory for merged; only what may be merged is.
#[test]
fn a_kernel_that_calls_everything_merged_is_not_believed() {
    let mut snapshot = capture("6.12.117");
    for run in snapshot.pages.iter_mut().filter(|run| run.kpageflags & ANON != 0) {
        run.kpageflags |= KSM;
    }
    let verdicts = all(&snapshot);
    let asked = verdicts.len() as u64;
    assert_eq!(compared(snapshot, verdicts).agreed, asked);
}

#[test]
fn a_refusal_without_a_number_is_any_refusal() {
    let snapshot = capture("7.1");
    let untold = |name| asked(&snapshot, "gup_test", name, true, Verdict::UNTOLD);
    assert_eq!(reason(&snapshot, untold("secret")), Some(vec![]));
    assert_eq!(reason(&snapshot, untold("read_only")), Some(vec![]));
    assert_eq!(reason(&snapshot, untold("locked")), None);
}

#[test]
fn verdicts_on_no_pages_or_on_too_many_are_errors() {
    let mut snapshot = capture("7.1");
    let right = asked(&snapshot, "vfio", "locked", true, 0);
    let crooked = Verdict { start: right.start + 8, ..right.clone() };
    let long = Verdict { pages: 1 << 19, ..right };
    snapshot.verdicts = vec![crooked.clone()];
    let (start, pages) = (crooked.start, crooked.pages);
    assert_eq!(compare(&snapshot).unwrap_err(), CompareError::Range { start, pages });
    snapshot.verdicts = vec![long.clone(), long.clone()];
    assert_eq!(compare(&snapshot).unwrap().disagreements.len(), 2);
    snapshot.verdicts = vec![long.clone(), long.clone(), long];
    assert_eq!(compare(&snapshot).unwrap_err(), CompareError::TooMany);
}
