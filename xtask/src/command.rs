//! Runs a program and keeps what it says until somebody wants to read it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::counts::{Counts, Outcome, Stop};

/// When a program's output is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// Whole, after it failed.
    OnFailure,
    /// Line by line, while it runs.
    Always,
}

/// The workspace's root: every command runs there.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `program` with these arguments, in the workspace's root.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    // The cargo that started us, not whichever comes first in PATH.
    let program = match program {
        "cargo" => std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")),
        other => OsString::from(other),
    };
    let mut command = Command::new(program);
    // Colours would hide the counts; a question would wait for nobody.
    command.args(args).current_dir(root()).env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
    command
}

/// Runs `command`; a failure dumps its output and ends the tier.
pub(crate) fn check(command: Command, show: Show) -> Outcome {
    check_code(command, show, 0)
}

/// The same for a program that ends with `code` if all is well; but not if it counts failures.
pub(crate) fn check_code(command: Command, show: Show, code: i32) -> Outcome {
    let line = spell(&command);
    let failed = |counts, why| Err(Stop::Failed { counts, why });
    let (status, output) = match capture(command, show) {
        Ok(ran) => ran,
        Err(error) => return failed(Counts::default(), format!("`{line}`: {error}")),
    };
    let counts = Counts::read(&output);
    if status.code() == Some(code) && counts.failed == 0 {
        return Ok(counts);
    }
    if show == Show::OnFailure {
        print!("$ {line}\n{output}");
    }
    failed(counts, format!("`{line}`: {status}"))
}

/// Runs `command` to its end. Both its streams go through one pipe, so that they stay in order.
fn capture(mut command: Command, show: Show) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // It holds the writing ends: the reader would never see the end.
    drop(command);
    let mut reader = BufReader::new(reader);
    let (mut output, mut line) = (String::new(), Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if show == Show::Always {
            print!("{text}");
            io::stdout().flush()?;
        }
        output.push_str(&text);
        line.clear();
    }
    Ok((child.wait()?, output))
}

fn spell(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
