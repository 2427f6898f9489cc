//! What failed to load of late, and when it may be tried again on the same worker.
//!
//! Every scheduler keeps this memory from the records it sees, so a new leader, too, knows what failed before. A version that failed to
//! load again and again and is ready nowhere is in quarantine: that is remembered until its model is applied anew, another rollout of it
//! begins, or what its worker offers has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_client::{Record, ReplicaKey, Snapshot};
use weft_policy::place::{self, FAIL_FAST_WORKERS};
use weft_proto::weft::state::v1::{FailureKind, Replica, ReplicaState, VersionOffer};
use weft_types::{ModelName, Version};

use crate::observe::place_key;
use crate::options::Options;

/// Remembered failures by worker, model and version.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    entries: BTreeMap<ReplicaKey, Failed>,
    applied: BTreeMap<ModelName, Applied>,
}

/// When a model was applied last. Jobs write its record as well, for as long as their steps hold it.
#[derive(Debug)]
struct Applied {
    seen: i64,
    is_held: bool,
    at: i64,
}

#[derive(Debug)]
struct Failed {
    /// The record that was counted last.
    revision: i64,
    /// Which run of the worker it failed on: a restart wipes the slate, because the operator may have mended it.
    epoch: Option<u64>,
    /// What that one offered of it.
    offer: Option<VersionOffer>,
    /// Failures in a row, and those of them that speak against the version.
    count: u32,
    loads: u32,
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
        self.look_at_models(snapshot);
        let (quarantined, applied) = (self.quarantined(snapshot), &self.applied);
        self.entries.retain(|key, failed| {
            let version = (key.model.clone(), key.version);
            let worker = snapshot.workers.get(&key.worker);
            let restarted = worker.is_some_and(|worker| failed.epoch.is_some_and(|then| then != worker.value.epoch));
            let mended = worker.is_some() && failed.offer != offer(snapshot, key);
            let anew = failed.revision <= asked_for(applied, snapshot, key);
            // Without anything that stands for it, it would be kept from whoever calls it for good.
            let stands = || snapshot.placements.contains_key(key) || is_replaced(snapshot, key);
            let lasts =
                worker.is_some() && (quarantined.contains(&version) && stands() || failure(snapshot, key).is_some());
            let lasts = lasts || now.saturating_duration_since(failed.at) < memory;
            lasts && !restarted && !mended && !anew
        });
        for (key, replica) in snapshot.replicas.iter() {
            match replica.value.state() {
                ReplicaState::Failed if replica.mod_revision > asked_for(&self.applied, snapshot, key) => {
                    self.note(snapshot, (key, replica), now);
                }
                ReplicaState::Ready => drop(self.entries.remove(key)),
                _ => {}
            }
        }
    }

    /// Tells what operators write from what jobs do: theirs begins and ends with a hold in the record.
    fn look_at_models(&mut self, snapshot: &Snapshot) {
        self.applied.retain(|model, _| snapshot.models.contains_key(model));
        for (model, record) in snapshot.models.iter() {
            let (seen, is_held) = (record.mod_revision, record.value.jobs.is_some());
            let at = if is_held { 0 } else { seen };
            let known = self.applied.entry(model.clone()).or_insert(Applied { seen, is_held, at });
            if known.seen != seen {
                let at = if is_held || known.is_held { known.at } else { seen };
                *known = Applied { seen, is_held, at };
            }
        }
    }

    /// Counts a failure, once.
    fn note(&mut self, snapshot: &Snapshot, (key, replica): (&ReplicaKey, &Record<Replica>), now: Instant) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Failed {
            revision: 0,
            epoch: snapshot.workers.get(&key.worker).map(|worker| worker.value.epoch),
            offer: offer(snapshot, key),
            count: 0,
            loads: 0,
            at: now,
            reason: String::new(),
        });
        if entry.revision != replica.mod_revision {
            entry.revision = replica.mod_revision;
            entry.count = entry.count.saturating_add(1);
            // A worker without room is no fault of the version, nor is an input that ends its process.
            let speaks_against = replica.value.failure() == FailureKind::Unspecified;
            entry.loads = entry.loads.saturating_add(u32::from(speaks_against));
            entry.at = now;
            entry.reason.clone_from(&replica.value.reason);
        }
    }

    /// Versions that failed to load as often as one fails that is at fault itself, and are ready nowhere.
    fn quarantined(&self, snapshot: &Snapshot) -> BTreeSet<(ModelName, Version)> {
        let mut loads: BTreeMap<(ModelName, Version), usize> = BTreeMap::new();
        for (key, failed) in &self.entries {
            *loads.entry((key.model.clone(), key.version)).or_default() += failed.loads as usize;
        }
        loads.retain(|_, loads| *loads >= FAIL_FAST_WORKERS);
        if !loads.is_empty() {
            let ready = snapshot.replicas.iter().filter(|(_, record)| record.value.state() == ReplicaState::Ready);
            ready.for_each(|(key, _)| {
                loads.remove(&(key.model.clone(), key.version));
            });
        }
        loads.into_keys().collect()
    }

    /// Placements of what its worker may have given up, and that is to be tried anew: since somebody has asked for it after that, or since the
    /// version is ready elsewhere and its failure has been remembered for long enough.
    pub(crate) fn renewed(&self, snapshot: &Snapshot, memory: Duration, now: Instant) -> Vec<place::Key> {
        let quarantined = self.quarantined(snapshot);
        let is_over = |key: &ReplicaKey| {
            let failed = self.entries.get(key);
            failed.is_some_and(|failed| now.saturating_duration_since(failed.at) >= memory)
                && !quarantined.contains(&(key.model.clone(), key.version))
        };
        let stands = snapshot.placements.keys().filter_map(|key| Some((key, failure(snapshot, key)?)));
        let renewed = stands
            .filter(|(key, record)| record.mod_revision <= asked_for(&self.applied, snapshot, key) || is_over(key));
        renewed.map(|(key, _)| place_key(key)).collect()
    }

    /// The failures for the placement policy.
    pub(crate) fn list(&self, options: &Options, now: Instant) -> Vec<place::Failure> {
        let failure = |(key, failed): (&ReplicaKey, &Failed)| place::Failure {
            key: place_key(key),
            blocked: failed.blocked(options, now),
            loads: failed.loads,
        };
        self.entries.iter().map(failure).collect()
    }

    /// Why a version failed last.
    pub(crate) fn reason(&self, model: &ModelName, version: Option<Version>) -> Option<&str> {
        let of_version = self.entries.iter().filter(|(key, _)| key.model == *model && Some(key.version) == version);
        of_version.max_by_key(|(_, failed)| failed.at).map(|(_, failed)| failed.reason.as_str())
    }
}

/// When somebody has asked for a version last, by applying its model or by a rollout of it; 0 where nobody has. What failed before that may
/// have been mended.
fn asked_for(applied: &BTreeMap<ModelName, Applied>, snapshot: &Snapshot, key: &ReplicaKey) -> i64 {
    let applied = applied.get(&key.model).map_or(0, |applied| applied.at);
    let rollout = snapshot.rollouts.get(&key.model).filter(|record| record.value.canary == key.version.get());
    rollout.map_or(applied, |record| applied.max(record.value.begin_revision))
}

/// Whether another version of the model serves.
fn is_replaced(snapshot: &Snapshot, key: &ReplicaKey) -> bool {
    let other = |of: &ReplicaKey| of.model == key.model && of.version != key.version;
    snapshot.replicas.iter().any(|(of, record)| other(of) && record.value.state() == ReplicaState::Ready)
}

/// The record of a replica that has failed.
fn failure<'a>(snapshot: &'a Snapshot, key: &ReplicaKey) -> Option<&'a Record<Replica>> {
    snapshot.replicas.get(key).map(|record| &**record).filter(|record| record.value.state() == ReplicaState::Failed)
}

/// What a worker offers of a version.
fn offer(snapshot: &Snapshot, key: &ReplicaKey) -> Option<VersionOffer> {
    let worker = snapshot.workers.get(&key.worker)?;
    let model = worker.value.offers.iter().find(|offer| offer.name == key.model.as_str())?;
    model.versions.iter().find(|offer| offer.version == key.version.get()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{apply, key, placement, record, replica, snapshot, worker};
    use weft_proto::weft::control::v1::{Model, Rollout};
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

    /// Three loads that failed, and nothing is ready: time alone does not bring it back.
    #[test]
    fn a_version_stays_in_quarantine_until_somebody_asks_for_it_anew() {
        let (options, start) = (Options::default(), SystemClock::now());
        let later = start + 100 * options.failure_memory;
        let one = key("w1", "m", 1);
        let quarantined = |loads: i64| {
            let (mut failures, mut mesh) = (Failures::default(), snapshot(&[worker("w1", 1, &[("m", 1)])]));
            apply(&mut mesh, "m", 1);
            replica(&mut mesh, &key("w3", "m", 2), ReplicaState::Ready, 3);
            for revision in 5..5 + loads {
                replica(&mut mesh, &one, ReplicaState::Failed, revision);
                failures.observe(&mesh, options.failure_memory, start);
            }
            mesh.replicas.remove(&one);
            (failures, mesh)
        };
        let remembered = |loads: i64, change: &dyn Fn(&mut Snapshot)| {
            let (mut failures, mut mesh) = quarantined(loads);
            change(&mut mesh);
            failures.observe(&mesh, options.failure_memory, later);
            failures.list(&options, later).first().map(|failure| failure.loads)
        };
        assert_eq!([2, 3].map(|loads| remembered(loads, &|_| {})), [None, Some(3)]);
        assert_eq!(remembered(3, &|mesh| apply_at(mesh, "m", 4)), Some(3), "applied before it failed");
        assert_eq!(remembered(3, &|mesh| held_at(mesh, "m", 9)), Some(3), "a job holds it");
        assert_eq!(
            remembered(3, &|mesh| drop(mesh.replicas.remove(&key("w3", "m", 2)))),
            None,
            "nothing stands for it"
        );
        assert_eq!(remembered(3, &|mesh| apply_at(mesh, "m", 9)), None);
        assert_eq!(remembered(3, &|mesh| replica(mesh, &key("w2", "m", 1), ReplicaState::Ready, 9)), None);
        let other = |mesh: &mut Snapshot, change: &dyn Fn(&mut weft_proto::weft::state::v1::Worker)| {
            let mut told = worker("w1", 1, &[("m", 1)]);
            change(&mut told);
            mesh.workers.insert("w1".parse().expect("an id"), record(told, 9));
        };
        assert_eq!(remembered(3, &|mesh| other(mesh, &|told| told.offers[0].versions[0].size_bytes = 11)), None);
        assert_eq!(remembered(3, &|mesh| other(mesh, &|told| told.epoch = 2)), None);
        assert_eq!(remembered(3, &|mesh| other(mesh, &|told| told.draining = true)), Some(3));
        let rollout = |mesh: &mut Snapshot| {
            let rollout =
                Rollout { model: "m".to_owned(), stable: 2, canary: 1, begin_revision: 8, ..Rollout::default() };
            mesh.rollouts.insert("m".parse().expect("a name"), record(rollout, 9));
        };
        assert_eq!(remembered(3, &rollout), None, "a rollout of it begins");
    }

    #[test]
    fn what_speaks_against_the_worker_alone_does_not_count_against_the_version() {
        let (options, now) = (Options::default(), SystemClock::now());
        let (mut failures, mut mesh) = (Failures::default(), snapshot(&[worker("w1", 1, &[("m", 1)])]));
        let kinds = [FailureKind::NoRoom, FailureKind::Lost, FailureKind::Unspecified];
        for (revision, kind) in (5..).zip(kinds) {
            let failed = Replica { state: ReplicaState::Failed.into(), failure: kind.into(), ..Replica::default() };
            mesh.replicas.insert(key("w1", "m", 1), record(failed, revision));
            failures.observe(&mesh, options.failure_memory, now);
            let loads = u32::from(kind == FailureKind::Unspecified);
            let expected = place::Failure { key: place_key(&key("w1", "m", 1)), blocked: true, loads };
            assert_eq!(failures.list(&options, now), [expected], "{kind:?}");
        }
    }

    #[test]
    fn what_its_worker_may_have_given_up_is_renewed_in_time() {
        let (options, start) = (Options::default(), SystemClock::now());
        let (mut failures, one) = (Failures::default(), key("w1", "m", 1));
        let mut mesh = snapshot(&[worker("w1", 1, &[("m", 1)]), worker("w2", 1, &[("m", 1)])]);
        let mut renewed = |mesh: &Snapshot, at: Instant| {
            failures.observe(mesh, options.failure_memory, at);
            failures.renewed(mesh, options.failure_memory, at)
        };
        placement(&mut mesh, &one, 3);
        for revision in 5..8 {
            replica(&mut mesh, &one, ReplicaState::Failed, revision);
            assert_eq!(renewed(&mesh, start), []);
        }
        let later = start + options.failure_memory;
        assert_eq!(renewed(&mesh, later), [], "it is in quarantine");
        replica(&mut mesh, &key("w2", "m", 1), ReplicaState::Ready, 8);
        assert_eq!(renewed(&mesh, later), [place_key(&one)], "it is ready elsewhere");
        assert_eq!(renewed(&mesh, start), []);
        apply_at(&mut mesh, "m", 9);
        assert_eq!(renewed(&mesh, start), [place_key(&one)], "applied after it failed");
        assert_eq!(failures.list(&options, start), [], "and what was before no longer counts");
    }

    /// A job's step takes hold of a model and gives it back.
    #[test]
    fn what_jobs_write_is_not_applied() {
        let (options, now) = (Options::default(), SystemClock::now());
        let mut mesh = snapshot(&[worker("w1", 1, &[("m", 1)])]);
        let mut failures = Failures::default();
        let mut left = |mesh: &Snapshot| {
            failures.observe(mesh, options.failure_memory, now);
            failures.list(&options, now).len()
        };
        apply_at(&mut mesh, "m", 3);
        replica(&mut mesh, &key("w1", "m", 1), ReplicaState::Failed, 5);
        assert_eq!(left(&mesh), 1);
        held_at(&mut mesh, "m", 6);
        assert_eq!(left(&mesh), 1, "held");
        apply_at(&mut mesh, "m", 7);
        assert_eq!(left(&mesh), 1, "given back");
        apply_at(&mut mesh, "m", 8);
        assert_eq!(left(&mesh), 0, "applied");
    }

    fn held_at(mesh: &mut Snapshot, name: &str, revision: i64) {
        let jobs = Some(weft_proto::weft::control::v1::JobHolds::default());
        let model = Model { name: name.to_owned(), replicas: 1, jobs, ..Model::default() };
        mesh.models.insert(name.parse().expect("a name"), record(model, revision));
    }

    fn apply_at(mesh: &mut Snapshot, name: &str, revision: i64) {
        let model = Model { name: name.to_owned(), replicas: 1, ..Model::default() };
        mesh.models.insert(name.parse().expect("a name"), record(model, revision));
    }
}
