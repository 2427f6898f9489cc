//! What the mesh shows of a rollout's replicas.

use weft_client::{ReplicaKey, Snapshot};
use weft_policy::place::{self, FAIL_FAST_WORKERS};
use weft_policy::rollout::Seen;
use weft_proto::weft::state::v1::{ReplicaState, Worker};
use weft_types::{ModelName, SystemClock, Version, WorkerId};

use crate::Inner;
use crate::observe::offers;
use crate::scale::replicas;

/// The replicas of both versions, and why some are missing.
pub(super) struct Counted {
    wanted: usize,
    stable_ready: usize,
    canary_ready: usize,
    failed: Option<String>,
    lacking: Option<String>,
}

impl Counted {
    pub(super) fn of(
        inner: &Inner,
        snapshot: &Snapshot,
        (model, (stable, canary)): (&ModelName, (Version, Version)),
    ) -> Self {
        let (stable_ready, canary_ready) = (ready(snapshot, model, stable), ready(snapshot, model, canary));
        let failures = inner.note_failures(snapshot, SystemClock::now());
        let at_fault =
            canary_ready == 0 && is_at_fault(snapshot, (model, canary), &failed_on(&failures, model, canary));
        let reason = || inner.failures().reason(model, Some(canary)).unwrap_or_default().to_owned();
        // With the words that operators read of the model.
        let lacking = inner.unplaced(model, canary);
        // What nobody has asked for has one replica.
        let wanted = snapshot.models.get(model).map_or(1, |record| replicas(snapshot, model, &record.value));
        Self { wanted, stable_ready, canary_ready, failed: at_fault.then(reason), lacking }
    }

    pub(super) fn seen(&self) -> Seen<'_> {
        Seen {
            wanted: self.wanted,
            stable_ready: self.stable_ready,
            canary_ready: self.canary_ready,
            failed: self.failed.as_deref(),
            lacking: self.lacking.as_deref(),
            ..Seen::default()
        }
    }
}

/// Replicas that serve, on workers that are there.
fn ready(snapshot: &Snapshot, model: &ModelName, version: Version) -> usize {
    let of_version = |key: &ReplicaKey| key.model == *model && key.version == version;
    let ready = snapshot.replicas.iter().filter(|(key, record)| {
        of_version(key) && record.value.state() == ReplicaState::Ready && snapshot.workers.contains_key(&key.worker)
    });
    ready.count()
}

/// Where a version failed by itself: a worker without room, or a process that was lost, says nothing against it.
fn failed_on<'a>(failures: &'a [place::Failure], model: &ModelName, version: Version) -> Vec<&'a WorkerId> {
    let of_version = |failure: &&place::Failure| failure.key.model == *model && failure.key.version == version;
    failures.iter().filter(of_version).filter(|failure| failure.loads > 0).map(|failure| &failure.key.worker).collect()
}

/// As placement has it: a version that failed on so many workers is at fault itself, and so is one that failed on each that could take it.
fn is_at_fault(snapshot: &Snapshot, (model, version): (&ModelName, Version), failed: &[&WorkerId]) -> bool {
    let goes = |id: &WorkerId, worker: &Worker| {
        worker.draining || snapshot.cordons.get(id).is_some_and(|cordon| cordon.value.drain)
    };
    let workers = || snapshot.workers.iter().filter(|(id, record)| !goes(id, &record.value));
    let there = workers().filter(|(id, _)| failed.contains(id)).count();
    if there == 0 || there >= FAIL_FAST_WORKERS {
        return there > 0;
    }
    let selector = snapshot.models.get(model).map(|record| &record.value.selector);
    let suits = |worker: &Worker| {
        selector.into_iter().flatten().all(|(label, value)| worker.labels.get(label) == Some(value))
            && offers(&worker.offers).get(model).is_some_and(|versions| versions.contains_key(&version))
    };
    let could = workers().filter(|(id, record)| !snapshot.cordons.contains_key(*id) && suits(&record.value));
    let mut could = could.map(|(id, _)| id).peekable();
    could.peek().is_some() && could.all(|id| failed.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{record, snapshot, worker};
    use weft_proto::weft::control::v1::Model;
    use weft_proto::weft::state::v1::Cordon;

    /// Five workers that offer the version, of which the selector lets two take it.
    fn mesh() -> Snapshot {
        let labelled = |number: usize| {
            let mut worker = worker(&format!("w{number}"), 1, &[("m", 1), ("m", 2)]);
            worker.labels = [("disk".to_owned(), if number <= 2 { "fast" } else { "slow" }.to_owned())].into();
            worker
        };
        let mut mesh = snapshot(&(1..=5).map(labelled).collect::<Vec<_>>());
        let selector = [("disk".to_owned(), "fast".to_owned())].into();
        let model = Model { name: "m".to_owned(), replicas: 2, selector, ..Model::default() };
        mesh.models.insert("m".parse().expect("a name"), record(model, 1));
        mesh
    }

    fn at_fault(mesh: &Snapshot, failed: &[&str]) -> bool {
        let failed: Vec<WorkerId> = failed.iter().map(|id| id.parse().expect("an id")).collect();
        let (model, version) = ("m".parse().expect("a name"), Version::new(2).expect("not zero"));
        is_at_fault(mesh, (&model, version), &failed.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_worker_without_room_speaks_against_no_version() {
        let version = |number| Version::new(number).expect("not zero");
        let failure = |worker: &str, of: u64, loads: u32| place::Failure {
            key: crate::observe::place_key(&crate::fixture::key(worker, "m", of)),
            blocked: true,
            loads,
        };
        let failures = [failure("w1", 2, 0), failure("w2", 2, 1), failure("w3", 1, 1)];
        let found = failed_on(&failures, &"m".parse().expect("a name"), version(2));
        assert_eq!(found.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["w2"]);
    }

    #[test]
    fn a_version_that_failed_wherever_it_may_be_is_at_fault() {
        let mut mesh = mesh();
        assert!(!at_fault(&mesh, &[]) && !at_fault(&mesh, &["w1"]), "it may still load on the other one");
        assert!(at_fault(&mesh, &["w1", "w2"]), "the others do not suit");
        mesh.models = Default::default();
        assert!(!at_fault(&mesh, &["w1", "w2"]), "any of the others could take it");
        assert!(at_fault(&mesh, &["w1", "w2", "w3"]), "three are enough");
        for id in ["w3", "w4", "w5"] {
            mesh.cordons.insert(id.parse().expect("an id"), record(Cordon::default(), 1));
        }
        assert!(at_fault(&mesh, &["w1", "w2"]), "the others take nothing new");
        assert!(!at_fault(&mesh, &["w1", "w3"]), "one that could take it has not tried");
        for id in ["w1", "w2"] {
            mesh.cordons.insert(id.parse().expect("an id"), record(Cordon { drain: true, ..Cordon::default() }, 1));
        }
        assert!(!at_fault(&mesh, &["w1", "w2"]), "they go: what they say counts no more");
    }
}
