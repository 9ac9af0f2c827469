//! Rounds in which two sides take turns, and what they say together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Times of one step of both sides, a pair for each round, in nanoseconds a unit of work.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    pairs: Vec<(f64, f64)>,
}

impl Compared {
    /// The median of the rounds' ratios.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        median(self.pairs.iter().map(|(ours, floor)| ours / floor))
    }

    /// Smallest and median time of our side.
    #[must_use]
    pub fn ours(&self) -> (f64, f64) {
        smallest_and_median(self.pairs.iter().map(|pair| pair.0))
    }

    /// Smallest and median time of the floor.
    #[must_use]
    pub fn floor(&self) -> (f64, f64) {
        smallest_and_median(self.pairs.iter().map(|pair| pair.1))
    }
}

/// Runs both sides `rounds` times and once before to warm up, taking turns at being first. Each
/// run of a side times `N` steps; a step does `units` units of work.
pub fn alternate<const N: usize>(
    rounds: usize,
    units: u64,
    mut ours: impl FnMut() -> [Duration; N],
    mut floor: impl FnMut() -> [Duration; N],
) -> [Compared; N] {
    let mut compared = [const { Compared { pairs: Vec::new() } }; N];
    for round in 0..=rounds {
        let (a, b) = if round % 2 == 0 {
            let a = ours();
            (a, floor())
        } else {
            let b = floor();
            (ours(), b)
        };
        if round == 0 {
            continue;
        }
        for (step, (a, b)) in compared.iter_mut().zip(a.into_iter().zip(b)) {
            step.pairs.push((per_unit(a, units), per_unit(b, units)));
        }
    }
    compared
}

/// How long `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// How long two threads take that start at the same time, until both are done. Starting the second
/// thread is not counted.
pub fn timed_together(one: impl FnOnce() + Send, other: impl FnOnce()) -> Duration {
    let ready = AtomicU32::new(0);
    let meet = |all| {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < all {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            meet(2);
            one();
            meet(4);
        });
        meet(2);
        timed(|| {
            other();
            meet(4);
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_unit(time: Duration, units: u64) -> f64 {
    time.as_nanos() as f64 / units as f64
}

fn smallest_and_median(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), median(values))
}

/// The middle value, the lower one of two; not a number if there is none.
#[must_use]
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() {
        // A spell that slows both sides of one round leaves its ratio alone.
        let pairs = vec![(2.0, 1.0), (200.0, 100.0), (4.0, 2.0), (9.0, 3.0), (2.0, 2.0)];
        let compared = Compared { pairs };
        assert!((compared.ratio() - 2.0).abs() < 1e-9);
        assert!((compared.ours().0 - 2.0).abs() < 1e-9);
        assert!((compared.floor().1 - 2.0).abs() < 1e-9);
    }

    #[test]
    fn warming_up_is_not_counted_and_the_sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name| {
            order.borrow_mut().push(name);
            [Duration::from_nanos(10)]
        };
        let [compared] = alternate(3, 10, || side('a'), || side('b'));
        assert_eq!(compared.pairs, vec![(1.0, 1.0); 3]);
        assert_eq!(*order.borrow(), "abbaabba");
    }

    #[test]
    fn no_values_have_no_median() {
        assert!(median(std::iter::empty()).is_nan());
    }
}
