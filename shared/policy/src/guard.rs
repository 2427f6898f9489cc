//! Whether workers that vanish from the store have ended, or only their registrations have.
//!
//! Workers that end do so one after the other, and most say so first. When many vanish within seconds, the likelier cause is
//! the store or the way to it: leases that could not be renewed, a restore from an old backup. Their registrations are then
//! doubted, and each worker is asked itself (Envoy's panic threshold and Eureka's self-preservation mode have the same idea).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_types::WorkerId;

/// When departures are doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Departures this close together count as one.
    pub window: Duration,
    /// The share of the workers, in percent, that may leave within the window and be believed.
    pub believed_percent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        // Leases that end for one cause do so within a few lease times of each other.
        Self { window: Duration::from_secs(10), believed_percent: 30 }
    }
}

impl Settings {
    /// For workers whose registrations outlive them by as much as `lease_ttl`: those that were cut off at one moment vanish
    /// over up to that time.
    pub fn for_leases(lease_ttl: Duration) -> Self {
        let default = Self::default();
        Self { window: default.window.max(lease_ttl), ..default }
    }
}

/// Remembers who left within the window.
#[derive(Clone, Debug)]
pub struct Guard {
    settings: Settings,
    left: BTreeMap<WorkerId, Instant>,
}

impl Guard {
    /// A guard that has seen nobody leave.
    pub const fn new(settings: Settings) -> Self {
        Self { settings, left: BTreeMap::new() }
    }

    /// A worker's registration vanished. One that was `draining` had said that it would go: it counts for nothing.
    pub fn leave(&mut self, worker: WorkerId, draining: bool, now: Instant) {
        if !draining {
            self.left.insert(worker, now);
        }
    }

    /// A worker is registered again.
    pub fn join(&mut self, worker: &WorkerId) {
        self.left.remove(worker);
    }

    /// Whether too many left within the window to be believed, with `present` workers registered now.
    pub fn doubts(&mut self, present: usize, now: Instant) -> bool {
        let window = self.settings.window;
        self.left.retain(|_, at| now.saturating_duration_since(*at) < window);
        let left = self.left.len();
        left.saturating_mul(100) > present.saturating_add(left).saturating_mul(self.settings.believed_percent)
    }

    /// Whether a worker is among those who left within the window, as of the last look.
    pub fn has_left(&self, worker: &WorkerId) -> bool {
        self.left.contains_key(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Instant {
        weft_types::SystemClock::now()
    }

    fn worker(number: usize) -> WorkerId {
        format!("w{number}").parse().expect("a name")
    }

    #[test]
    fn more_than_thirty_percent_at_once_are_doubted() {
        // Left without a word, left after draining, still there, doubted?
        for (left, drained, present, doubted) in [
            (0, 0, 0, false),
            (0, 5, 5, false),
            (1, 0, 0, true),
            (1, 0, 1, true),
            (1, 0, 2, true),
            (1, 0, 3, false),
            (3, 0, 7, false),
            (4, 0, 6, true),
            // Those who said that they would go make the others no more suspicious.
            (3, 4, 7, false),
            (30, 0, 70, false),
            (31, 0, 69, true),
            (5_000, 0, 0, true),
        ] {
            let (mut guard, now) = (Guard::new(Settings::default()), now());
            (0..left).for_each(|number| guard.leave(worker(number), false, now));
            (0..drained).for_each(|number| guard.leave(worker(left + number), true, now));
            assert_eq!(guard.doubts(present, now), doubted, "{left} left, {drained} drained, {present} are there");
        }
    }

    #[test]
    fn departures_far_apart_are_believed() {
        let (mut guard, start) = (Guard::new(Settings::default()), now());
        for number in 0..8 {
            let now = start + Duration::from_secs(10) * u32::try_from(number).expect("small");
            guard.leave(worker(number), false, now);
            assert!(!guard.doubts(10 - number, now), "{number}");
            assert!(!guard.has_left(&worker(number.wrapping_sub(1))));
        }
    }

    #[test]
    fn long_leases_that_end_for_one_cause_count_as_one() {
        let seconds = Duration::from_secs;
        for (lease_ttl, apart, doubted) in [(5, 9, true), (5, 10, false), (60, 59, true), (60, 60, false)] {
            let (mut guard, now) = (Guard::new(Settings::for_leases(seconds(lease_ttl))), now());
            guard.leave(worker(1), false, now);
            guard.leave(worker(2), false, now + seconds(apart));
            assert_eq!(guard.doubts(3, now + seconds(apart)), doubted, "{apart} s apart under leases of {lease_ttl} s");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Leave(usize, bool),
        Join(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..20, any::<bool>()).prop_map(|(worker, draining)| Step::Leave(worker, draining)),
            2 => (0usize..20).prop_map(Step::Join),
            2 => (0u64..6_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// It says what the definition says, whatever came before.
        #[test]
        fn agrees_with_the_definition(steps in proptest::collection::vec(step(), 1..80), present in 0usize..60) {
            let (settings, mut now) = (Settings::default(), now());
            let mut guard = Guard::new(settings);
            let mut departures: Vec<(usize, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Leave(number, draining) => {
                        guard.leave(worker(number), draining, now);
                        if !draining { departures.push((number, now)); }
                    }
                    Step::Join(number) => {
                        guard.join(&worker(number));
                        departures.retain(|(left, _)| *left != number);
                    }
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                let recent = departures.iter().filter(|(_, at)| now.duration_since(*at) < settings.window);
                let left: std::collections::BTreeSet<usize> = recent.map(|(number, _)| *number).collect();
                let doubted = 10 * left.len() > 3 * (left.len() + present);
                prop_assert_eq!(guard.doubts(present, now), doubted, "{} of {}", left.len(), left.len() + present);
                prop_assert!((0..20).all(|number| guard.has_left(&worker(number)) == left.contains(&number)));
            }
        }

        /// One more departure never makes the guard more trusting, one more worker never less.
        #[test]
        fn is_monotonic(left in 0usize..50, present in 0usize..50) {
            let now = now();
            let doubts = |left: usize, present: usize| {
                let mut guard = Guard::new(Settings::default());
                (0..left).for_each(|number| guard.leave(worker(number), false, now));
                guard.doubts(present, now)
            };
            prop_assert!(!doubts(left, present) || doubts(left + 1, present));
            prop_assert!(doubts(left, present) || !doubts(left, present + 1));
        }
    }
}
