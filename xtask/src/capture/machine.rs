//! The machine under QEMU: starts it, waits for init, stops it, reads registers and memory.
//!
//! QEMU's control protocol (QMP) runs over the child's standard input and output, one JSON object
//! a line. What we need of JSON is one string, so there is no JSON library here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk;
use super::kernel::missing;
use super::options::Options;

const QEMU: &str = "qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the machine is stopped until that is in user mode.
const STOPS: u32 = 20;
/// What init prints is here, the kernel's console there, and a table page passes through the last.
const OUTPUT: &str = "init.log";
const CONSOLE: &str = "console.log";
const TABLE: &str = "table.bin";
/// A line for init, and the port that it comes through.
const INPUT: &str = "go.txt";
const GO: &str = "go";
/// Same content, one for files and one for DAX; what the machine writes stays in its memory.
const DISKS: [&str; 2] = ["disk0", "disk1"];

/// A running or stopped machine; it ends with this value.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    work: PathBuf,
}

/// The registers that say how to walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    pub(super) root: u64,
    pub(super) la57: bool,
    pub(super) no_execute: bool,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    pub(super) fn start(
        options: &Options,
        kernel: &Path,
        initramfs: &Path,
        with_disk: bool,
        work: &Path,
    ) -> Result<Self, String> {
        for log in [OUTPUT, CONSOLE] {
            fs::write(work.join(log), "").map_err(|error| format!("{log}: {error}"))?;
        }
        let mut child = Command::new(QEMU)
            .args(arguments(options, with_disk))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .current_dir(work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| missing(QEMU, "qemu-system-x86", &error))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{QEMU} has no standard input or output"));
        };
        let work = work.to_owned();
        let mut machine = Self { child, to, from: BufReader::new(from), work };
        machine.command("qmp_capabilities", "{}")?;
        Ok(machine)
    }

    /// Waits until init has printed a line, with a sign of life each second.
    pub(super) fn wait_for(&mut self, line: &str, doing: &str) -> Result<(), String> {
        let begin = Instant::now();
        let mut shown = 0;
        loop {
            let output = self.output()?;
            if output.lines().any(|printed| printed == line) {
                println!("{doing:<9} took {:.1} s", begin.elapsed().as_secs_f32());
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{QEMU} ended: {status}; {}", self.last_line()));
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("no {line} in five minutes; {}", self.last_line()));
            }
            if begin.elapsed().as_secs() > shown {
                shown = begin.elapsed().as_secs();
                let answers = output.lines().filter(|printed| printed.starts_with("V ")).count();
                let answers =
                    if answers > 0 { format!(", {answers} answers") } else { String::new() };
                println!("{doing:<9} {shown} s{answers}");
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Lets the machine run again, and tells init to ask: one line on its third serial port, which
    /// was connected to nothing until now.
    pub(super) fn go_on(&mut self) -> Result<(), String> {
        fs::write(self.work.join(INPUT), "\n").map_err(|error| format!("{INPUT}: {error}"))?;
        self.command("cont", "{}")?;
        let file = format!("{{\"out\": \"/dev/null\", \"in\": \"{INPUT}\"}}");
        let backend = format!("{{\"type\": \"file\", \"data\": {file}}}");
        let arguments = format!("{{\"id\": \"{GO}\", \"backend\": {backend}}}");
        self.command("chardev-change", &arguments).map(drop)
    }

    /// Places in the kernel that complained of something, as it names them.
    pub(super) fn complaints(&self) -> Vec<String> {
        let console = fs::read(self.work.join(CONSOLE)).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let mut found: Vec<String> = ["WARNING: ", "BUG: "]
            .iter()
            .flat_map(|word| console.lines().filter_map(move |line| line.split_once(word)))
            .map(|(_, what)| what.trim().to_owned())
            .collect();
        found.dedup();
        found
    }

    fn last_line(&self) -> String {
        let console = fs::read(self.work.join(CONSOLE)).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let panic = console.lines().find(|line| line.contains("Kernel panic"));
        let last = panic.or(console.lines().last()).unwrap_or("the console is empty");
        format!("{last} ({})", self.work.join(CONSOLE).display())
    }

    /// What init has printed until now.
    pub(super) fn output(&self) -> Result<String, String> {
        let bytes = fs::read(self.work.join(OUTPUT)).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Stops the machine while init spins in user mode: the root register is then its own.
    pub(super) fn stop(&mut self) -> Result<Registers, String> {
        for _ in 0..STOPS {
            // Past the system call that wrote the last line, or past an interrupt.
            sleep(Duration::from_millis(300));
            self.command("stop", "{}")?;
            if let Some(registers) = self.registers()? {
                return Ok(registers);
            }
            self.command("cont", "{}")?;
        }
        Err(format!("stopped {STOPS} times, each time inside the kernel"))
    }

    /// `None` when the processor is not in user mode.
    fn registers(&mut self) -> Result<Option<Registers>, String> {
        let monitor = "{\"command-line\": \"info registers\"}";
        let text = unescape(&self.command("human-monitor-command", monitor)?);
        let register = |name: &str| {
            let value = text.split_whitespace().find_map(|word| word.strip_prefix(name));
            value
                .and_then(|value| u64::from_str_radix(value, 16).ok())
                .ok_or(format!("{QEMU} does not tell {name}"))
        };
        if register("CPL=")? != 3 {
            return Ok(None);
        }
        Ok(Some(Registers {
            root: register("CR3=")?,
            la57: register("CR4=")? & 1 << 12 != 0,
            no_execute: register("EFER=")? & 1 << 11 != 0,
        }))
    }

    /// The 512 entries of the table at a physical address.
    pub(super) fn read_table(&mut self, addr: u64) -> Result<Vec<u64>, String> {
        let size = 4096;
        let arguments = format!("{{\"val\": {addr}, \"size\": {size}, \"filename\": \"{TABLE}\"}}");
        self.command("pmemsave", &arguments)?;
        let bytes = fs::read(self.work.join(TABLE)).map_err(|error| error.to_string())?;
        if bytes.len() != size {
            return Err(format!("{QEMU} gave {} bytes of the table at {addr:#x}", bytes.len()));
        }
        let word =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        Ok(bytes.chunks(8).map(word).collect())
    }

    /// Sends a command and returns the line that answers it.
    fn command(&mut self, name: &str, arguments: &str) -> Result<String, String> {
        let line = format!("{{\"execute\": \"{name}\", \"arguments\": {arguments}}}\n");
        let failed = |error: std::io::Error| format!("{QEMU}: {error}");
        self.to.write_all(line.as_bytes()).map_err(failed)?;
        self.to.flush().map_err(failed)?;
        loop {
            let mut reply = String::new();
            if self.from.read_line(&mut reply).map_err(failed)? == 0 {
                return Err(format!("{QEMU} ended; {}", self.last_line()));
            }
            // Others are the greeting and events.
            if reply.starts_with("{\"return\"") {
                return Ok(reply);
            }
            if reply.starts_with("{\"error\"") {
                return Err(format!("{QEMU} refused {name}: {}", reply.trim()));
            }
        }
    }
}

/// The machine: one device with memory for the process, one behind the IOMMU to ask through.
fn arguments(options: &Options, with_disk: bool) -> Vec<String> {
    let cpu = if options.five_levels { "max" } else { "max,la57=off" };
    let (console, output) = (format!("file:{CONSOLE}"), format!("file:{OUTPUT}"));
    let (go, to_go) = (format!("null,id={GO}"), format!("chardev:{GO}"));
    let memory = format!("{},maxmem=4G", options.memory);
    let line = options.command_line();
    let mut all: Vec<String> = [
        ["-M", "q35", "-accel", "tcg", "-cpu", cpu, "-smp", "1", "-display", "none"].as_slice(),
        &["-no-reboot", "-qmp", "stdio", "-device", "intel-iommu"],
        &["-device", "edu,addr=5", "-device", "edu,addr=6"],
        &["-serial", &console, "-serial", &output, "-chardev", &go, "-serial", &to_go],
        &["-m", &memory, "-append", &line],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect();
    for name in DISKS.iter().filter(|_| with_disk) {
        let (path, size) = (disk::IMAGE, disk::BYTES);
        let memory = format!("memory-backend-file,id={name},mem-path={path},size={size},share=off");
        let device = format!("virtio-pmem-pci,memdev={name}");
        all.extend(["-object".to_owned(), memory, "-device".to_owned(), device]);
    }
    all
}

/// The text of a reply that is one JSON string; all its escapes are of white space here.
fn unescape(reply: &str) -> String {
    reply.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t")
}
