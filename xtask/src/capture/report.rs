//! Reads what `xtask/capture/init.c` printed; its head comment lists the kinds of lines.

use std::collections::BTreeMap;

use pinfold_sim::snapshot::{PageRun, Region};

/// Everything that init said.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) regions: Vec<Region>,
    /// Sorted by address.
    pub(super) pages: Vec<PageRun>,
    /// File-system type by the start of the mapping.
    pub(super) fs_types: BTreeMap<u64, u64>,
    /// First frame, number of frames and the masked kpageflags of each of them.
    pub(super) frames: Vec<[u64; 3]>,
    pub(super) warnings: Vec<String>,
    files: BTreeMap<String, String>,
}

impl Report {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut report = Self::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == "READY" {
                break;
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
                let [start, magic] = numbers(rest)?;
                self.fs_types.insert(start, magic);
            }
            "K" => self.frames.push(numbers(rest)?),
            _ => return None,
        }
        Some(())
    }

    /// A file of /proc that init printed whole.
    pub(super) fn file(&self, name: &str) -> Result<&str, String> {
        let text = self.files.get(name).map(String::as_str);
        text.ok_or(format!("init did not print {name}"))
    }
}

fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let parse = |word| u64::from_str_radix(word, 16).ok();
    let numbers: Option<Vec<u64>> = text.split(' ').map(parse).collect();
    numbers?.try_into().ok()
}
