//! What failed to load of late, and when it may be tried again on the same worker.
//!
//! Every scheduler keeps this memory from the records it sees, so a new leader, too, knows what failed before. A version that somebody
//! leads a model to is tried as if it had never failed: it may have been mended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_client::{ReplicaKey, Snapshot};
use weft_policy::place;
use weft_proto::weft::control::v1::Rollout;
use weft_proto::weft::state::v1::ReplicaState;
use weft_types::{ModelName, Version};

use crate::observe::place_key;
use crate::options::Options;

/// Remembered failures by worker, model and version.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    entries: BTreeMap<ReplicaKey, Failed>,
}

#[derive(Debug)]
struct Failed {
    /// The record that was counted last.
    revision: i64,
    /// Which run of the worker it failed on: a restart wipes the slate, because the operator may have mended it.
    epoch: Option<u64>,
    count: u32,
    at: Instant,
    reason: String,
}

impl Failed {
    fn blocked(&self, options: &Options, now: Instant) -> bool {
        let doubled = options.failure_backoff.saturating_mul(2u32.saturating_pow(self.count.saturating_sub(1)));
        now.saturating_duration_since(self.at) < doubled.min(options.failure_backoff_cap)
    }
}

impl Failures {
    /// Takes note of what the snapshot tells, and forgets what is over.
    pub(crate) fn observe(&mut self, snapshot: &Snapshot, memory: Duration, now: Instant) {
        let epoch = |key: &ReplicaKey| snapshot.workers.get(&key.worker).map(|worker| worker.value.epoch);
        // A rollout wipes the slate of the version that it leads to.
        let wiped = |key: &ReplicaKey, revision: i64| {
            let begun = |rollout: &Rollout| rollout.canary == key.version.get() && revision <= rollout.begin_revision;
            snapshot.rollouts.get(&key.model).is_some_and(|record| begun(&record.value))
        };
        self.entries.retain(|key, failed| {
            let restarted = epoch(key).is_some_and(|epoch| failed.epoch.is_some_and(|then| then != epoch));
            !restarted && !wiped(key, failed.revision) && now.saturating_duration_since(failed.at) < memory
        });
        for (key, replica) in snapshot.replicas.iter() {
            match replica.value.state() {
                ReplicaState::Failed if wiped(key, replica.mod_revision) => {}
                ReplicaState::Failed => {
                    let entry = self.entries.entry(key.clone()).or_insert_with(|| Failed {
                        revision: 0,
                        epoch: epoch(key),
                        count: 0,
                        at: now,
                        reason: String::new(),
                    });
                    if entry.revision != replica.mod_revision {
                        entry.revision = replica.mod_revision;
                        entry.count = entry.count.saturating_add(1);
                        entry.at = now;
                        entry.reason.clone_from(&replica.value.reason);
                    }
                }
                ReplicaState::Ready => drop(self.entries.remove(key)),
                ReplicaState::Unspecified | ReplicaState::Loading | ReplicaState::Draining => {}
            }
        }
    }

    /// The failures for the placement policy.
    pub(crate) fn list(&self, options: &Options, now: Instant) -> Vec<place::Failure> {
        let failure = |(key, failed): (&ReplicaKey, &Failed)| place::Failure {
            key: place_key(key),
            blocked: failed.blocked(options, now),
        };
        self.entries.iter().map(failure).collect()
    }

    /// Why a version failed last.
    pub(crate) fn reason(&self, model: &ModelName, version: Option<Version>) -> Option<&str> {
        let of_version = self.entries.iter().filter(|(key, _)| key.model == *model && Some(key.version) == version);
        of_version.max_by_key(|(_, failed)| failed.at).map(|(_, failed)| failed.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{key, replica, snapshot, worker};
    use weft_types::SystemClock;

    #[test]
    fn backs_off_longer_each_time_and_forgets() {
        let (options, start) = (Options::default(), SystemClock::now());
        let mut failures = Failures::default();
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        let blocked =
            |failures: &Failures, at: Instant| failures.list(&options, at).first().map(|failure| failure.blocked);
        replica(&mut mesh, &key("w1", "m", 1), ReplicaState::Failed, 5);
        failures.observe(&mesh, options.failure_memory, start);
        assert_eq!(blocked(&failures, start + options.failure_backoff - Duration::from_millis(1)), Some(true));
        assert_eq!(blocked(&failures, start + options.failure_backoff), Some(false));
        // The same record again is no new failure; a newer one is.
        failures.observe(&mesh, options.failure_memory, start + options.failure_backoff);
        assert_eq!(blocked(&failures, start + options.failure_backoff), Some(false));
        replica(&mut mesh, &key("w1", "m", 1), ReplicaState::Failed, 6);
        failures.observe(&mesh, options.failure_memory, start);
        assert_eq!(blocked(&failures, start + options.failure_backoff), Some(true));
        assert_eq!(blocked(&failures, start + 2 * options.failure_backoff), Some(false));
        failures.observe(&snapshot(&[]), options.failure_memory, start + options.failure_memory);
        assert_eq!(blocked(&failures, start), None);
    }

    #[test]
    fn a_rollout_to_a_version_wipes_its_slate() {
        let (options, now) = (Options::default(), SystemClock::now());
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        let mut failures = Failures::default();
        let mut left = |mesh: &Snapshot| {
            failures.observe(mesh, options.failure_memory, now);
            failures.list(&options, now).into_iter().map(|failure| failure.key.version.get()).collect::<Vec<_>>()
        };
        for version in [1, 2] {
            replica(&mut mesh, &key("w1", "m", version), ReplicaState::Failed, 5);
        }
        assert_eq!(left(&mesh), [1, 2]);
        let rollout = Rollout { stable: 1, canary: 2, begin_revision: 5, ..Rollout::default() };
        mesh.rollouts.insert("m".parse().expect("a name"), crate::fixture::record(rollout, 6));
        assert_eq!(left(&mesh), [1], "its record may still stand");
        replica(&mut mesh, &key("w1", "m", 2), ReplicaState::Failed, 7);
        assert_eq!(left(&mesh), [1, 2], "it has failed since");
    }

    #[test]
    fn success_and_a_restart_wipe_the_slate() {
        let (options, now) = (Options::default(), SystemClock::now());
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        replica(&mut mesh, &key("w1", "m", 1), ReplicaState::Failed, 5);
        let mut failures = Failures::default();
        failures.observe(&mesh, options.failure_memory, now);
        assert_eq!(failures.reason(&"m".parse().expect("a name"), Version::new(1)), Some("told by the worker"));
        failures.observe(&snapshot(&[worker("w1", 2, &[])]), options.failure_memory, now);
        assert_eq!(failures.list(&options, now), []);
        failures.observe(&mesh, options.failure_memory, now);
        replica(&mut mesh, &key("w1", "m", 1), ReplicaState::Ready, 7);
        failures.observe(&mesh, options.failure_memory, now);
        assert_eq!(failures.list(&options, now), []);
    }
}
