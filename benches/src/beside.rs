//! What another thread does meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Says to a thread when to be at its work, which it does over and over.
#[derive(Debug, Default)]
pub struct Beside {
    wanted: AtomicBool,
    at_it: AtomicBool,
    times: AtomicU64,
}

impl Beside {
    /// Runs `body` while there is a thread that does `job` when it is told to; see
    /// [`during`](Told::during). In between it sleeps.
    pub fn with<R>(&self, job: impl FnMut() + Send, body: impl FnOnce(Told<'_>) -> R) -> R {
        let (go, begin) = channel();
        thread::scope(|scope| {
            scope.spawn(|| self.repeat(begin, job));
            body(Told { beside: self, go })
        })
    }

    /// Whether it is to go on. What it waits for must not outlast this.
    pub fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// How often the job was done.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }

    fn repeat(&self, begin: Receiver<()>, mut job: impl FnMut()) {
        for () in begin {
            self.at_it.store(true, Ordering::Release);
            while self.wanted() {
                job();
                self.times.fetch_add(1, Ordering::Relaxed);
            }
            self.at_it.store(false, Ordering::Release);
        }
    }

    fn until(&self, at_it: bool) {
        while self.at_it.load(Ordering::Acquire) != at_it {
            thread::yield_now();
        }
    }
}

/// The one who tells the thread.
#[derive(Debug)]
pub struct Told<'a> {
    beside: &'a Beside,
    go: Sender<()>,
}

impl Told<'_> {
    /// Does `work` while the other thread is at its job.
    ///
    /// # Panics
    /// If the other thread has ended.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        self.beside.wanted.store(true, Ordering::Release);
        self.go.send(()).expect("the other thread waits for this");
        self.beside.until(true);
        let result = work();
        self.beside.wanted.store(false, Ordering::Release);
        self.beside.until(false);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_done_during_the_work_and_at_no_other_time() {
        let (beside, begun) = (Beside::default(), AtomicU64::new(0));
        let count = || begun.load(Ordering::Acquire);
        let job = || _ = begun.fetch_add(1, Ordering::AcqRel);
        beside.with(job, |told| {
            for _ in 0..3 {
                let before = count();
                told.during(|| {
                    while count() < before + 2 {
                        thread::yield_now();
                    }
                });
                assert_eq!(count(), beside.times());
            }
            assert!(count() >= 6);
        });
        assert!(!beside.wanted());
    }
}
