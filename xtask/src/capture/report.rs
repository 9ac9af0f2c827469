//! Reads what init printed; the head comment of `xtask/capture/init.c` lists the kinds of lines.

use std::collections::BTreeMap;

use pinfold_sim::snapshot::{PageRun, Region, Verdict};

/// What stands before is the kernel's.
pub(super) const BEGIN: &str = "BEGIN";
/// All was laid out and described.
pub(super) const READY: &str = "READY";
/// All was asked.
pub(super) const DONE: &str = "DONE";

/// The file behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MappedFile {
    /// File-system type, as in `statfs`.
    pub(super) fs_type: u64,
    /// Whether its pages are the disk's own memory.
    pub(super) dax: bool,
}

/// `STATX_ATTR_DAX`
const ATTR_DAX: u64 = 0x20_0000;

/// Everything that init said.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The kernel's base page size in bytes.
    page_size: u64,
    /// Address of the word that init waits for; 0 if it did not say.
    pub(super) go: u64,
    pub(super) regions: Vec<Region>,
    /// Sorted by address.
    pub(super) pages: Vec<PageRun>,
    /// What is behind a mapping, by its start.
    pub(super) files_mapped: BTreeMap<u64, MappedFile>,
    /// In the order of asking.
    pub(super) verdicts: Vec<Verdict>,
    /// First frame, number of frames and the masked kpageflags of each of them.
    pub(super) frames: Vec<[u64; 3]>,
    pub(super) warnings: Vec<String>,
    warnings_while_laying_out: usize,
    files: BTreeMap<String, String>,
}

impl Report {
    /// Reads all whole lines: init may be cut off while it asks.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut report = Self::default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        while let Some(line) = lines.next() {
            if line == READY {
                report.warnings_while_laying_out = report.warnings.len();
            }
            // The kernel says its very last words there all the same.
            if line == READY || line == DONE || line.is_empty() || line.starts_with('[') {
                continue;
            }
            if let Some(name) = line.strip_prefix("F ") {
                let end = format!("E {name}");
                let body: Vec<&str> = lines.by_ref().take_while(|&line| line != end).collect();
                report.files.insert(name.to_owned(), body.join("\n"));
            } else {
                report.line(line).ok_or(format!("init printed something else: {line}"))?;
            }
        }
        report.pages.sort_by_key(|run| run.va);
        report.regions.sort_by_key(|region| region.start);
        Ok(report)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "I" => [self.page_size, self.go] = numbers(rest)?,
            "W" => self.warnings.push(rest.to_owned()),
            "R" => {
                let (name, rest) = rest.split_once(' ')?;
                let [start, pages, in_guest] = numbers(rest)?;
                let name = name.to_owned();
                self.regions.push(Region { name, start, pages, in_guest: in_guest == 1 });
            }
            "P" => {
                let [va, pagemap, kpageflags, kpagecount, count] = numbers(rest)?;
                self.pages.push(PageRun { va, pagemap, kpageflags, kpagecount, count });
            }
            "T" => {
                let [start, fs_type, attributes] = numbers(rest)?;
                let dax = attributes & ATTR_DAX != 0;
                self.files_mapped.insert(start, MappedFile { fs_type, dax });
            }
            "K" => self.frames.push(numbers(rest)?),
            "V" => self.verdicts.push(verdict(rest)?),
            _ => return None,
        }
        Some(())
    }

    /// log2 of the kernel's base page size.
    pub(super) fn base_shift(&self) -> Result<u8, String> {
        let shift = self.page_size.checked_ilog2().filter(|_| self.page_size.is_power_of_two());
        let shift = shift.and_then(|shift| u8::try_from(shift).ok());
        shift.ok_or(format!("init tells of pages of {:#x} bytes", self.page_size))
    }

    /// Places in the kernel that complained of something, as it names them.
    pub(super) fn complaints(&self) -> Vec<String> {
        let log = self.files.get("kmsg_after").map_or("", String::as_str);
        let mut found: Vec<String> = ["WARNING: ", "BUG: "]
            .iter()
            .flat_map(|word| log.lines().filter_map(move |line| line.split_once(word)))
            .map(|(_, what)| what.trim().to_owned())
            .collect();
        found.dedup();
        found
    }

    /// Those that have to do with asking.
    pub(super) fn warnings_after_ready(&self) -> &[String] {
        &self.warnings[self.warnings_while_laying_out..]
    }

    /// A file of /proc that init printed whole.
    pub(super) fn file(&self, name: &str) -> Result<&str, String> {
        let text = self.files.get(name).map(String::as_str);
        text.ok_or(format!("init did not print {name}"))
    }
}

/// `asker access whole start pages errno`
fn verdict(text: &str) -> Option<Verdict> {
    let (asker, rest) = text.split_once(' ')?;
    let (access, rest) = rest.split_once(' ')?;
    let write = match access {
        "r" => false,
        "w" => true,
        _ => return None,
    };
    let [whole, start, pages, errno] = numbers(rest)?;
    let errno = u16::try_from(errno).ok()?;
    Some(Verdict { asker: asker.to_owned(), write, whole: whole == 1, start, pages, errno })
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let parse = |word| u64::from_str_radix(word, 16).ok();
    let numbers: Option<Vec<u64>> = text.split(' ').map(parse).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_verdict(line: &str) -> Option<Verdict> {
        Report::read(line).ok()?.verdicts.pop()
    }

    #[test]
    fn answers_before_and_after_the_capture() {
        let text = "W high c\nR small 1000 2 1\nF release\nREADY\nE release\nREADY\n\
                    V vfio r 1 1000 2 0\nV io_uring w 0 1000 1 5f\nDONE\nV vfi";
        let report = Report::read(text).expect("well formed");
        assert_eq!(report.file("release"), Ok("READY"));
        assert_eq!((report.warnings.len(), report.regions.len()), (1, 1));
        let [first, second] = report.verdicts.as_slice() else { panic!("{report:?}") };
        let asked = Verdict {
            asker: "vfio".into(),
            write: false,
            whole: true,
            start: 0x1000,
            pages: 2,
            errno: 0,
        };
        assert_eq!(*first, asked);
        assert_eq!((second.asker.as_str(), second.write, second.whole), ("io_uring", true, false));
        assert_eq!((second.pages, second.errno), (1, 95));
    }

    #[test]
    fn answers_that_are_none() {
        assert!(only_verdict("V vfio r 0 1000 1 0\n").is_some());
        for line in ["V vfio x 0 1000 1 0\n", "V vfio r 0 1000 1\n", "V vfio r 0 1000 1 10000\n"] {
            assert!(Report::read(line).is_err(), "{line}");
        }
        // Cut off in the middle.
        assert!(only_verdict("V vfio r 0 1000 1 0").is_none());
    }

    #[test]
    fn files_on_persistent_memory() {
        let report = Report::read("T 1000 ef53 200000\nT 3000 ef53 0\n").expect("well formed");
        let mapped = |start| report.files_mapped[&start];
        assert_eq!(mapped(0x1000), MappedFile { fs_type: 0xef53, dax: true });
        assert_eq!(mapped(0x3000), MappedFile { fs_type: 0xef53, dax: false });
    }
}
