//! The example that a newcomer runs first, as a program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Cargo builds examples beside the tests, unless it was told to build some tests only.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).expect("a test is in deps/ of its profile");
    let program =
        profile.join("examples/pin_guest").with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        let release = (profile.file_name() == Some("release".as_ref())).then_some("--release");
        let build = Command::new(env!("CARGO"))
            .args(["build", "--offline", "-p", "pinfold", "--example", "pin_guest"])
            .args(release)
            .arg("--target-dir")
            .arg(profile.parent().expect("a profile is in a target directory"))
            .output();
        assert!(program.exists(), "no {}: {build:?}", program.display());
    }
    program
}

fn run(args: &[&str]) -> Output {
    // An emulator's programs do not start others of its CPU by themselves.
    let emulator = std::env::var("PINFOLD_RUNNER").unwrap_or_default();
    let mut line: Vec<OsString> = emulator.split_whitespace().map(OsString::from).collect();
    line.push(program().into());
    Command::new(&line[0]).args(&line[1..]).args(args).output().unwrap()
}

fn snapshot(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Every check holds, nothing but plain lines for any terminal.
fn is_a_good_report(output: &Output) -> String {
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
    assert!(!report.contains("FAILED") && report.matches("\n  ok ").count() > 12, "{report}");
    assert!(report.chars().all(|char| char == '\n' || !char.is_control()), "control characters");
    for line in report.lines() {
        assert!(line.chars().count() <= 100, "too long: {line}");
    }
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    report.to_owned()
}

#[test]
fn it_pins_the_guest_of_a_kernel_with_cma() {
    let report = is_a_good_report(&run(&[]));
    assert!(report.contains("24576 pages pinned"), "{report}");
    assert!(report.contains("the HPT cannot be allocated: the folio at frame"), "{report}");
    assert!(!report.contains("CMA area is declared"), "{report}");
    assert_eq!(report, is_a_good_report(&run(&[])), "two runs differ");
}

#[test]
fn a_kernel_without_cma_gets_an_area_that_is_marked() {
    let file = snapshot("x86_64-6.12.snap");
    let report = is_a_good_report(&run(&["--snapshot", file.to_str().unwrap()]));
    assert!(report.contains("[overlay] CMA area"), "{report}");
}

#[test]
fn help_is_help_and_wrong_options_are_told() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--snapshot FILE"));
    for args in [
        &["--frobnicate"][..],
        &["--snapshot"],
        &["file"],
        &["--scenario"],
        &["--scenario", "nonesuch"],
        &["--scenario="],
        &["--scenario=cma", "--snapshot=file"],
        &["--scenario=cma", "--scenario=cma"],
        &["--svg"],
        &["--svg", "-"],
    ] {
        let wrong = run(args);
        assert_eq!(wrong.status.code(), Some(2), "{args:?}");
        assert!(wrong.stdout.is_empty() && text(&wrong.stderr).contains("Usage:"), "{args:?}");
    }
}

/// One clear line, exit code 1.
fn is_refused(file: &Path, why: &str) {
    let output = run(&[&format!("--snapshot={}", file.display())]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(error.contains(why) && error.lines().count() == 1, "{error}");
}

#[test]
fn files_that_cannot_be_used_are_told_in_one_line() {
    is_refused(Path::new("/nonexistent.snap"), "cannot read /nonexistent.snap");
    let mut bytes = std::fs::read(snapshot("x86_64-6.12.snap")).unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("damaged.snap");
    bytes[1000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    is_refused(&file, "checksum");
    std::fs::write(&file, "what is this").unwrap();
    is_refused(&file, "not a snapshot");

    let mut snapshot = pinfold_sim::snapshot::Snapshot::parse(
        &std::fs::read(snapshot("x86_64-6.12.snap")).unwrap(),
    )
    .unwrap();
    snapshot.tables[3].addr ^= 1 << 36;
    snapshot.tables.sort_by_key(|table| table.addr);
    std::fs::write(&file, snapshot.to_bytes()).unwrap();
    is_refused(&file, "it was not captured");
}

/// Names and first lines of the scenarios, as the example lists them.
fn listed() -> Vec<String> {
    let output = run(&["--scenario", "list"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let names = text(&output.stdout).lines().map(|line| {
        let (name, about) = line.trim().split_once(' ').expect("a name and a line about it");
        assert!(!about.trim().is_empty() && line.len() <= 100, "{line}");
        name.to_owned()
    });
    names.collect()
}

#[test]
fn scenarios_are_listed_and_an_unknown_one_is_told_their_names() {
    let names = listed();
    assert_eq!(names, ["cma", "movable", "fsdax", "file-backed", "mixed", "hostile"]);
    let help = run(&["--help"]);
    assert!(text(&help.stdout).contains(text(&run(&["--scenario=list"]).stdout)));
    let unknown = run(&["--scenario", "nonesuch"]);
    let error = text(&unknown.stderr).lines().next().unwrap();
    assert!(error.contains("nonesuch") && error.contains(&names.join(", ")), "{error}");
    let both = run(&["--snapshot", "x", "--scenario", "cma"]);
    assert!(text(&both.stderr).contains("--snapshot and --scenario exclude each other"));
}

/// What a scenario must say, beside that all its checks hold.
#[test]
fn every_scenario_comes_out_as_it_is_expected() {
    let expected: [(&str, &[&str]); 6] = [
        (
            "cma",
            &[
                "the HPT cannot be allocated: the folio at frame",
                "8192 pages pinned",
                "1 where nothing had been touched",
                "1536 of  4 KiB, in the CMA area",
                "8 of  2 MiB, in the CMA area",
                "pages: 2048 stayed, 5632 moved, 512 made",
                "the HPT is allocated: 32 MiB from frame 0x8000",
            ],
        ),
        (
            "movable",
            &[
                "a page of the guest cannot be moved out: expected 2 references, found 3",
                "8192 pages pinned",
                "512 where the page was shared zeroes",
                "8 of  2 MiB, in a movable zone",
                "pages: 1024 stayed, 6656 moved, 512 made",
                "0 KiB of 32 MiB of the movable zone are in use",
            ],
        ),
        (
            "fsdax",
            &[
                "the file cannot be cut: the folio at frame 0x9000 has 2 references, expected 1",
                "cannot pin at 0x8040a00000: file-system DAX memory must not be pinned for long",
                "DAX file              no, file-system DAX memory must not be pinned for long",
                "3072 pages pinned",
                "pages: 3072 moved, 3072 refused",
                "the file is cut while the rest of the guest is pinned",
            ],
        ),
        (
            "file-backed",
            &[
                "cannot pin at 0x8040e00000: a device must not write for long to a shared file",
                "private file          yes",
                "shared file           read yes; write no, a device must not write for long",
                "4096 pages pinned",
                "pages: 256 stayed, 2816 moved, 1024 copied, 1536 refused",
            ],
        ),
        (
            "mixed",
            &[
                "cannot pin at 0x8042400000: a device must not write for long to a shared file",
                "DAX file              no, file-system DAX memory must not be pinned for long",
                "10240 pages pinned",
                "pages: 1536 stayed, 6144 moved, 512 copied, 2048 made, 2560 refused",
                "the HPT is allocated: 16 MiB from frame 0x8000",
            ],
        ),
        (
            "hostile",
            &[
                "the table at 0x9800000 on the way to 0x8040201000 is outside memory",
                "entry 0x20e7 on the way to 0x8040201000 is malformed",
                "the root leads back to itself, at every level:\n            not user memory",
                "frame 0x9800 is not known memory",
                "16 lies, each answered after",
                "4096 pages pinned",
                "pages: 4096 moved",
            ],
        ),
    ];
    assert_eq!(expected.map(|(name, _)| name).as_slice(), listed());
    for (name, lines) in expected {
        let report = is_a_good_report(&run(&["--scenario", name]));
        assert!(report.contains("[overlay] expected: "), "{report}");
        for line in lines {
            assert!(report.contains(line), "{name}: no \"{line}\" in\n{report}");
        }
    }
}

/// The number in the first line of the report that begins so.
fn number(report: &str, line: &str, column: usize) -> u64 {
    let found = report.lines().find_map(|text| text.trim_start().strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no line \"{line}\" in\n{report}"));
    let word = found.split_whitespace().nth(column).unwrap_or_default();
    word.trim_end_matches(',').parse().unwrap_or_else(|_| panic!("{line}{found}"))
}

/// Draws, and holds the picture against the report.
fn draws(args: &[&str], file: &str, places: &[&str]) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let path = file.to_str().unwrap();
    let draw = || {
        let output = run(&[args, &["--svg", path]].concat());
        let report = text(&output.stdout).to_owned();
        assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
        (report, std::fs::read_to_string(&file).unwrap())
    };
    let (report, svg) = draw();
    assert_eq!(draw().1, svg, "two pictures differ");
    assert!(svg.len() < 100_000, "{} bytes", svg.len());
    assert!(report.contains(&format!("drawn in {path}")), "{report}");

    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{error}"));
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let elements = || root.descendants().filter(|node| node.is_element());
    let named = |id: &str| {
        let node = elements().find(|node| node.attribute("id") == Some(id));
        node.and_then(|node| node.text()).unwrap_or_else(|| panic!("no {id}"))
    };
    assert!(
        named("title").contains("pinned for a device")
            && named("desc").contains("refused") == report.contains(" refused\n")
    );
    // Nothing that runs, and nothing from elsewhere.
    for element in elements() {
        assert!(
            !["script", "image", "use", "foreignObject", "a"].contains(&element.tag_name().name())
        );
        for attribute in element.attributes() {
            assert!(!attribute.name().starts_with("on") && attribute.name() != "href");
            assert!(!attribute.value().contains("http"), "{}", attribute.value());
        }
    }
    assert!(
        !svg.contains("@import") && svg.matches("url(").count() == svg.matches("url(#").count()
    );

    let value = |id: &str| named(id).parse::<u64>().unwrap();
    for place in places {
        let id = place.to_lowercase().replace(' ', "-");
        assert_eq!(value(&format!("before-{id}")), number(&report, place, 0), "{place}");
        assert_eq!(value(&format!("pinned-{id}")), number(&report, place, 1), "{place}");
    }
    let fates = report.lines().find_map(|line| line.trim().strip_prefix("pages: ")).unwrap();
    let mut pages = 0;
    for fate in fates.split(", ") {
        let (count, name) = fate.split_once(' ').unwrap();
        assert_eq!(value(&format!("fate-{name}")), count.parse().unwrap());
        pages += value(&format!("fate-{name}"));
    }
    let ids = |prefix: &'static str| {
        let ids = elements().filter_map(|node| node.attribute("id"));
        ids.filter(move |id| id.starts_with(prefix)).map(value).sum::<u64>()
    };
    assert_eq!((ids("before-"), ids("pinned-")), (pages, pages), "each page is somewhere, once");
    let words = report.lines().find_map(|line| line.split_once(" words in use")).unwrap().0;
    assert!(words.ends_with(&format!(" {}", value("table-words"))), "{words}");
    svg
}

#[test]
fn the_picture_is_well_formed_and_says_what_the_report_says() {
    let places = ["ordinary memory", "CMA area", "movable zone", "shared zero page", "not present"];
    let svg = draws(&[], "captured.svg", &places);
    for name in ["small", "thp_split", "hugetlb", "zone DMA32", "0x4ffffd800000"] {
        assert!(svg.contains(name), "no {name}");
    }
    let places = ["ordinary memory", "CMA area", "movable zone", "persistent memory", "refused"];
    let svg = draws(&["--scenario", "mixed"], "mixed.svg", &places);
    for name in ["DAX file", "class=\"refused\"", "class=\"copied\"", "class=\"table\""] {
        assert!(svg.contains(name), "no {name}");
    }
}

/// Whatever a capture calls its parts, the picture stays XML of that meaning.
#[test]
fn names_in_the_picture_are_escaped() {
    let mut snapshot = pinfold_sim::snapshot::Snapshot::parse(
        &std::fs::read(snapshot("x86_64-6.1-cma.snap")).unwrap(),
    )
    .unwrap();
    let name = "</g><script>&\"'\u{7}\u{ffff}";
    let part = snapshot.regions.iter_mut().find(|region| region.in_guest).unwrap();
    part.name = name.into();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("names.snap");
    std::fs::write(&file, snapshot.to_bytes()).unwrap();
    let svg = draws(&["--snapshot", file.to_str().unwrap()], "names.svg", &["ordinary memory"]);
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
    assert!(texts.contains(&"</g><script>&\"'?\u{fffd}"), "{texts:?}");
}

#[test]
fn a_picture_that_cannot_be_written_is_told() {
    let output = run(&["--scenario=cma", "--svg", "/nonexistent/picture.svg"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("cannot write /nonexistent/picture.svg"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");

    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kept.snap");
    std::fs::copy(snapshot("x86_64-6.12.snap"), &file).unwrap();
    let path = file.to_str().unwrap();
    let output = run(&["--snapshot", path, "--svg", path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    let same =
        std::fs::read(&file).unwrap() == std::fs::read(snapshot("x86_64-6.12.snap")).unwrap();
    assert!(same, "the snapshot was overwritten");
}

/// What the kernel answered is compared, and another answer than pinfold's is told and is a failure.
#[test]
fn the_kernels_own_verdicts_are_compared() {
    let bytes = std::fs::read(snapshot("x86_64-6.1-cma.snap")).unwrap();
    let mut captured = pinfold_sim::snapshot::Snapshot::parse(&bytes).unwrap();
    let verdict = |name: &str, errno| {
        let region = captured.regions.iter().find(|region| region.name == name).unwrap();
        let (start, pages) = (region.start, region.pages);
        let (asker, write, whole) = ("vfio".to_owned(), true, true);
        pinfold_sim::snapshot::Verdict { asker, write, whole, start, pages, errno }
    };
    let right = [verdict("locked", 0), verdict("secret", 14), verdict("device", 0)];
    let wrong = verdict("read_only", 0);
    captured.verdicts = right.to_vec();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verdicts.snap");
    std::fs::write(&file, captured.to_bytes()).unwrap();
    let asked = format!("--snapshot={}", file.display());
    let report = is_a_good_report(&run(&[&asked]));
    assert!(report.contains("verdicts 2 agreed, 1 exceptions (listed)"), "{report}");
    assert!(report.contains("1 vfio maps device registers"), "{report}");

    captured.verdicts.push(wrong);
    std::fs::write(&file, captured.to_bytes()).unwrap();
    let output = run(&[&asked]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("verdicts 2 agreed, 1 exceptions (listed)"), "{report}");
    assert!(report.contains("the mapping is not writable"), "{report}");
    assert!(report.contains("FAILED  pinfold answers as the kernel did, but for 1"), "{report}");
}
