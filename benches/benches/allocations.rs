//! Row A1: calls of the allocator in pin, lookup, unpin, map and unmap. A count: any call fails.

use std::process::ExitCode;

use pinfold_arch::Vtd;
use pinfold_benches::allocator::Counting;
use pinfold_benches::mappers::{self, Job};
use pinfold_benches::rows::Options;
use pinfold_benches::scene::{BASE, Layout, allocator_calls};

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> ExitCode {
    let about =
        "Counts calls of the allocator in pin, lookup, unpin, map, unmap. Fails if there are any.";
    let options = match Options::parse(about, &["A1"]) {
        Ok(options) => options,
        Err(code) => return code,
    };
    if !options.wants("A1") {
        return ExitCode::SUCCESS;
    }
    let calls: u64 = Layout::samples().into_iter().map(allocator_calls).sum();
    let vtd = Vtd::new(4, 48).expect("four levels");
    let mapping = mappers::allocator_calls(vtd, Job::new(64 << 20, BASE));
    println!("A1   allocator calls in pin, lookup, unpin: {calls}; goal: 0");
    println!("A1   allocator calls in map, unmap: {mapping}; goal: 0");
    if calls + mapping == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
