//! When a version that failed or was lost is loaded again. Pure: it takes `now`.

use std::time::{Duration, Instant, SystemTime};

use weft_types::Backoff;

/// Between attempts at a load that failed: the first soon, as the file may still be arriving.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Loads in a row that may fail, over some minutes: what cannot be loaded is then left alone, until it is placed anew or the repository has
/// changed.
pub(super) const LOADS: u32 = 10;
/// A version that has run for so long begins anew: its next loss is its first, and is mended as fast.
const UNDISTURBED: Duration = Duration::from_secs(60);

/// How often the process of a version was lost since it last ran undisturbed for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) count: u32,
    /// Of the last one, safe to show.
    pub(super) reason: String,
    /// When the last one was.
    pub(super) at: Option<SystemTime>,
}

/// What a version's failures of late come to.
pub(super) struct Recovery {
    backoff: Backoff,
    losses: Losses,
    /// Loads in a row that failed.
    failed: u32,
    /// When it will have run undisturbed for long enough that what was before no longer counts.
    settled_at: Option<Instant>,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { backoff: Backoff::new(RETRY.0, RETRY.1), losses: Losses::default(), failed: 0, settled_at: None }
    }
}

impl Recovery {
    pub(super) const fn losses(&self) -> &Losses {
        &self.losses
    }

    /// It runs. That alone mends nothing: what ends a model's process comes after its load.
    pub(super) fn loaded(&mut self, now: Instant) {
        self.failed = 0;
        self.settled_at = now.checked_add(UNDISTURBED);
    }

    pub(super) fn lost(&mut self, reason: &str, at: SystemTime) {
        self.losses = Losses { count: self.losses.count.saturating_add(1), reason: reason.to_owned(), at: Some(at) };
    }

    /// A load has failed.
    pub(super) const fn failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// When to load it again, if ever; `unit` is drawn from `[0, 1)`. At least half of the ceiling, so that a broken model is not tried
    /// again at once.
    pub(super) fn retry_at(&mut self, now: Instant, unit: f64) -> Option<Instant> {
        self.settled_at = None;
        (self.failed < LOADS).then(|| now + self.backoff.next(0.5 + unit / 2.0))
    }

    /// What it is loaded from may be another now.
    pub(super) fn anew(&mut self) {
        self.failed = 0;
        self.backoff.reset();
    }

    /// When [`Self::forgive`] is next worth a call.
    pub(super) const fn settled_at(&self) -> Option<Instant> {
        self.settled_at
    }

    /// Forgets what was before, if it has run undisturbed since; says whether there were losses.
    pub(super) fn forgive(&mut self, now: Instant) -> bool {
        if self.settled_at.is_none_or(|settled| settled > now) {
            return false;
        }
        self.settled_at = None;
        self.backoff.reset();
        std::mem::take(&mut self.losses) != Losses::default()
    }
}

#[cfg(test)]
mod tests {
    use weft_types::SystemClock;

    use super::*;

    #[test]
    fn only_an_undisturbed_run_begins_anew() {
        let began = SystemClock::now();
        let (mut recovery, mut now) = (Recovery::default(), began);
        let mut waits = Vec::new();
        // Each load succeeds, and is lost a little before it counts as undisturbed.
        for _ in 0..8 {
            recovery.loaded(now);
            now += UNDISTURBED - Duration::from_millis(1);
            assert!(!recovery.forgive(now));
            recovery.lost("signal 11", SystemTime::UNIX_EPOCH + (now - began));
            let again = recovery.retry_at(now, 1.0).expect("losses are no failed loads");
            waits.push((again - now).as_secs());
            now = again;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let Losses { count, reason, at } = recovery.losses();
        // Eight runs of almost a minute, and what was waited between them.
        let last = SystemTime::UNIX_EPOCH + 8 * (UNDISTURBED - Duration::from_millis(1)) + Duration::from_secs(123);
        assert_eq!((*count, reason.as_str(), *at), (8, "signal 11", Some(last)));
        assert!(!recovery.forgive(now + UNDISTURBED), "it did not run");
        recovery.loaded(now);
        now += UNDISTURBED;
        assert!(recovery.forgive(now) && !recovery.forgive(now));
        assert_eq!((recovery.losses(), recovery.settled_at()), (&Losses::default(), None));
        assert_eq!(recovery.retry_at(now, 0.0), Some(now + RETRY.0 / 2));
    }

    #[test]
    fn what_cannot_be_loaded_is_left_alone_in_the_end() {
        let (mut recovery, now) = (Recovery::default(), SystemClock::now());
        let mut waits = Vec::new();
        let mut fails = |recovery: &mut Recovery| {
            recovery.failed();
            let again = recovery.retry_at(now, 1.0);
            waits.extend(again.map(|again| (again - now).as_secs()));
            again.is_some()
        };
        assert_eq!((0..LOADS + 3).filter(|_| fails(&mut recovery)).count(), LOADS as usize - 1);
        recovery.anew();
        assert!(fails(&mut recovery));
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60, 1]);
        // One that comes to run begins anew as well.
        (1..LOADS).for_each(|_| recovery.failed());
        recovery.loaded(now);
        recovery.failed();
        assert!(recovery.retry_at(now, 1.0).is_some());
    }
}
