//! What calls tell of replicas and workers.
//!
//! Every call leaves its mark in a [`Record`] of its replica and one of its worker, both counters without a lock. A task of `eject` judges
//! them: at each interval, and at once when one has failed several times in a row.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use weft_policy::eject::{Counts, Ejection, Evidence, Host, Settings};

/// When outliers are ejected, and the way to have them looked at.
pub(crate) struct Outliers {
    /// For the replicas of a model's version, against each other.
    pub(crate) replicas: Settings,
    /// For workers, against each other.
    pub(crate) workers: Settings,
    /// Somebody has failed often enough in a row.
    pub(crate) alarm: Notify,
}

impl Outliers {
    pub(crate) fn new(replicas: Settings, workers: Settings) -> Self {
        Self { replicas, workers, alarm: Notify::new() }
    }

    /// Notes how a call to a replica on a worker ended.
    pub(crate) fn tell(&self, replica: &Record, worker: &Record, evidence: Evidence) {
        // A worker answers, whatever it says.
        if !matches!(evidence, Evidence::Lost | Evidence::Unanswered) {
            worker.succeed();
        }
        let is_alarming = match evidence {
            Evidence::Lost => worker.fail(&self.workers),
            Evidence::Failure => replica.fail(&self.replicas),
            Evidence::Success => replica.succeed(),
            Evidence::Doubtful | Evidence::Unanswered => replica.doubt(),
            Evidence::Neutral => false,
        };
        if is_alarming {
            self.alarm.notify_one();
        }
    }
}

/// Counters that calls add to, and what came of them.
#[derive(Default)]
pub(crate) struct Record {
    successes: AtomicU64,
    failures: AtomicU64,
    doubtful: AtomicU64,
    /// Failures since the last success.
    in_a_row: AtomicU32,
    /// What calls look at; follows `standing`.
    is_ejected: AtomicBool,
    /// Calls never take this lock.
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    ejection: Ejection,
    /// The counters at the last sweep.
    swept: Counts,
}

impl Record {
    /// Whether it is ejected.
    pub(crate) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }

    /// How often it has answered, for comparison with later.
    pub(crate) fn answers(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Counts a success, which alarms nobody.
    fn succeed(&self) -> bool {
        self.successes.fetch_add(1, Ordering::Relaxed);
        // Written only when there is something to write: other threads read it with every call.
        if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        false
    }

    /// Counts a doubtful failure, which alarms nobody either.
    fn doubt(&self) -> bool {
        self.doubtful.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Counts a failure; returns whether that is one too many in a row.
    fn fail(&self, settings: &Settings) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        in_a_row >= settings.consecutive_failures && !self.is_ejected()
    }

    /// Whether it has to be looked at before the next sweep.
    pub(crate) fn is_alarming(&self, settings: &Settings) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= settings.consecutive_failures && !self.is_ejected()
    }

    /// What is known of it, with its counts since the last sweep; `is_sweep` begins the next ones.
    pub(crate) fn host(&self, is_sweep: bool) -> Host {
        let total = Counts {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            doubtful: self.doubtful.load(Ordering::Relaxed),
        };
        let mut standing = self.lock();
        let swept = standing.swept;
        let counts = Counts {
            successes: total.successes.wrapping_sub(swept.successes),
            failures: total.failures.wrapping_sub(swept.failures),
            doubtful: total.doubtful.wrapping_sub(swept.doubtful),
        };
        if is_sweep {
            standing.swept = total;
        }
        Host { counts, consecutive_failures: self.in_a_row.load(Ordering::Relaxed), ejection: standing.ejection }
    }

    /// Takes over what was decided.
    pub(crate) fn decide(&self, ejection: Ejection) {
        self.lock().ejection = ejection;
        self.is_ejected.store(ejection.is_ejected(), Ordering::Relaxed);
    }

    /// Begins to count failures in a row anew.
    pub(crate) fn forgive(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    /// Whether its ejection has lasted long enough.
    pub(crate) fn is_over(&self, settings: &Settings, now: Instant) -> bool {
        self.is_ejected() && self.lock().ejection.is_over(settings, now)
    }

    /// Ends its ejection.
    pub(crate) fn end(&self) {
        self.forgive();
        let mut standing = self.lock();
        standing.ejection.end();
        self.is_ejected.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        // Numbers that are each right by themselves: a panic elsewhere cannot have left them half changed.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
