//! Row A1: calls of the allocator in pin, lookup and unpin. A count: any call fails.

use std::process::ExitCode;

use pinfold_benches::allocator::Counting;
use pinfold_benches::rows::Options;
use pinfold_benches::scene::{Layout, allocator_calls};

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> ExitCode {
    let about = "Counts calls of the allocator in pin, lookup and unpin. Fails if there are any.";
    let options = match Options::parse(about, &["A1"]) {
        Ok(options) => options,
        Err(code) => return code,
    };
    if !options.wants("A1") {
        return ExitCode::SUCCESS;
    }
    let calls: u64 = Layout::samples().into_iter().map(allocator_calls).sum();
    println!("A1   allocator calls in pin, lookup, unpin: {calls}; goal: 0");
    if calls == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
