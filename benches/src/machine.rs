//! The machine that the figures are from, in a line.

use std::fs;

/// Kernel, CPU, page size, huge pages. What cannot be found out is a question mark.
#[must_use]
pub fn describe() -> String {
    let kernel = read("/proc/sys/kernel/osrelease");
    let info = read("/proc/cpuinfo");
    let cpu = info
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("cpu\t"))
        .and_then(|line| line.split_once(':'))
        .map_or("?", |(_, name)| name.trim());
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = huge.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let huge = chosen.map_or("?", |(chosen, _)| chosen);
    format!(
        "kernel {kernel}; {cpus} x {cpu}; pages of {} KiB; transparent huge pages: {huge}",
        page_size() / 1024
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".into(), |text| text.trim().into())
}

/// The page size in bytes; 0 where it is not known.
fn page_size() -> u64 {
    read("/proc/self/smaps")
        .lines()
        .find_map(|line| line.strip_prefix("KernelPageSize:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
