//! Random scripts against the model, on every CPU, until enough operations were done.
//!
//! ```text
//! cargo run --release --package pinfold-sim --example storm -- [--operations N] [--seed S] [--scripts K]
//! ```
//!
//! Script `i` is made from seed `S + i`, so a failure is repeated by `--seed` with its own number and
//! `--scripts 1`. A script that fails is reduced to the steps that are to blame.

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pinfold_sim::script::{Failure, Outcome, Script, reduced, run, run_checking};

/// Steps of a script.
const STEPS: usize = 300;
/// The model is asked after so many steps; after each, once something was found.
const EVERY: usize = 16;
/// A script takes milliseconds. One that takes as long as this does not end.
const HANGS: Duration = Duration::from_secs(120);

struct Options {
    operations: u64,
    seed: u64,
    scripts: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { operations: 1_000_000, seed: 1, scripts: u64::MAX };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let field = match name.as_str() {
            "--operations" => &mut options.operations,
            "--seed" => &mut options.seed,
            "--scripts" => &mut options.scripts,
            _ => return Err(format!("there is no option `{name}`")),
        };
        let value = args.next().ok_or_else(|| format!("`{name}` wants a number"))?;
        *field = value.parse().map_err(|error| format!("`{name} {value}`: {error}"))?;
    }
    Ok(options)
}

thread_local! {
    /// The seed of the script that this thread runs, for the message of a panic.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// What the threads share.
struct Storm {
    options: Options,
    next: AtomicU64,
    done: AtomicU64,
    over: AtomicBool,
    sum: Mutex<(u64, Outcome)>,
    failed: Mutex<Option<(u64, Failure)>>,
}

impl Storm {
    /// Runs scripts until it is over. `current` is the seed and the start of the one under way.
    fn work(&self, current: &Mutex<Option<(u64, Instant)>>) {
        while !self.over.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.options.scripts {
                break;
            }
            let seed = self.options.seed.wrapping_add(index);
            *lock(current) = Some((seed, Instant::now()));
            SEED.set(seed);
            match run_checking(&Script::random(seed, STEPS), EVERY) {
                Ok(outcome) => {
                    let mut sum = lock(&self.sum);
                    sum.0 += 1;
                    sum.1 += outcome;
                    let done = self.done.fetch_add(outcome.calls(), Ordering::Relaxed);
                    if done + outcome.calls() >= self.options.operations {
                        self.over.store(true, Ordering::Relaxed);
                    }
                }
                Err(failure) => {
                    *lock(&self.failed) = Some((seed, failure));
                    self.over.store(true, Ordering::Relaxed);
                }
            }
            *lock(current) = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        println!("FAILED: a panic in the script of seed {}", SEED.get());
        report(panic);
    }));
    println!("seed {}: {} calls of the engine wanted", options.seed, options.operations);
    let storm = Storm {
        options,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        over: AtomicBool::new(false),
        sum: Mutex::default(),
        failed: Mutex::default(),
    };
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let current: Vec<_> = (0..threads).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            current.iter().map(|current| scope.spawn(|| storm.work(current))).collect();
        let mut told = Instant::now();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::park_timeout(Duration::from_millis(50));
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let (done, took) = (storm.done.load(Ordering::Relaxed), start.elapsed().as_secs());
                println!("{done} calls of the engine after {took} s");
            }
            let under_way = current.iter().filter_map(|current| *lock(current));
            if let Some((seed, _)) =
                under_way.into_iter().find(|(_, since)| since.elapsed() > HANGS)
            {
                println!("FAILED: the script of seed {seed} does not end");
                // Its thread cannot be joined.
                std::process::exit(1);
            }
        }
    });
    let (scripts, outcome) = *lock(&storm.sum);
    println!(
        "{scripts} scripts from seed {} in {} s",
        storm.options.seed,
        start.elapsed().as_secs()
    );
    println!("{outcome}");
    match lock(&storm.failed).take() {
        None => ExitCode::SUCCESS,
        Some((seed, failure)) => {
            explain(seed, &failure);
            ExitCode::FAILURE
        }
    }
}

/// Shows a failure in few steps, and how to repeat it.
fn explain(seed: u64, found: &Failure) {
    let script = Script::random(seed, STEPS);
    let few = reduced(&script, |script| run(script).is_err());
    match run(&few) {
        Err(failure) => {
            println!("FAILED: seed {seed}, {failure}");
            println!("in {} steps of {}:", few.0.len(), script.0.len());
            few.0.iter().for_each(|op| println!("    {op:?},"));
        }
        // Looking more often hides it.
        Ok(_) => println!("FAILED: seed {seed}, looking every {EVERY} steps: {found}"),
    }
    println!(
        "again: cargo run --release -p pinfold-sim --example storm -- --seed {seed} --scripts 1"
    );
}
