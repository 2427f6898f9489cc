//! How full the store is. What room is left belongs to jobs that end: they free it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who may still write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressure {
    /// All.
    None,
    /// Every job that there is; no new ones.
    NoNewJobs,
    /// Only what undoes or ends a job.
    OnlyEndings,
}

/// The store's size against its quota.
pub(crate) struct Quota {
    limit: u64,
    used: AtomicU64,
}

impl Quota {
    /// A store that is empty as far as is known; a limit of 0 is none.
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Takes note of the largest member's size in bytes.
    pub(crate) fn observe(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    pub(crate) fn pressure(&self) -> Pressure {
        let used = u128::from(self.used.load(Ordering::Relaxed)) * 100;
        let limit = u128::from(self.limit);
        match () {
            () if limit == 0 || used < limit * 75 => Pressure::None,
            () if used < limit * 90 => Pressure::NoNewJobs,
            () => Pressure::OnlyEndings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_with_the_size() {
        let quota = Quota::new(1000);
        for (used, pressure) in [
            (0, Pressure::None),
            (749, Pressure::None),
            (750, Pressure::NoNewJobs),
            (899, Pressure::NoNewJobs),
            (900, Pressure::OnlyEndings),
            (u64::MAX, Pressure::OnlyEndings),
        ] {
            quota.observe(used);
            assert_eq!(quota.pressure(), pressure, "{used}");
        }
        let endless = Quota::new(0);
        endless.observe(u64::MAX);
        assert_eq!(endless.pressure(), Pressure::None);
    }
}
