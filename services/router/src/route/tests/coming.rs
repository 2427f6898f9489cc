//! Whether a call waits for a model that is not ready.

use std::time::{Duration, Instant};

use weft_proto::weft::state::v1::{FailureKind, ModelOffer, Placement, VersionOffer};

use super::*;

/// A mesh in which each of so many workers offers version 1 of `m`.
struct Stand {
    snapshot: Snapshot,
    table: Table,
    start: Instant,
}

fn key(worker: usize) -> ReplicaKey {
    let worker = format!("w{worker}").parse().expect("a name");
    ReplicaKey { worker, model: "m".parse().expect("a name"), version: Version::new(1).expect("not zero") }
}

impl Stand {
    fn new(workers: usize) -> Self {
        let mut snapshot = Snapshot::default();
        for worker in 0..workers {
            let versions = vec![VersionOffer { version: 1, ..VersionOffer::default() }];
            let offers = vec![ModelOffer { name: "m".to_owned(), versions, ..ModelOffer::default() }];
            let told = Worker { address: "127.0.0.1:1".to_owned(), offers, ..Worker::default() };
            snapshot.workers.insert(key(worker).worker, record(told));
        }
        Self { snapshot, table: Table::default(), start: SystemClock::now() }
    }

    /// Shows the router the mesh after so many seconds; whether a call is held.
    fn holds(&mut self, seconds: u64) -> bool {
        let (tasks, scope, now) = (Tasks::new(), Scope::disabled(), self.start + Duration::from_secs(seconds));
        let connect =
            Connect { channel: &ChannelOptions::default(), tasks: &tasks, scope: &scope, now, zone: "", known: true };
        self.table = Table::build(&self.snapshot, &self.table, &connect);
        self.still_holds(seconds)
    }

    /// The same, while nothing changes.
    fn still_holds(&self, seconds: u64) -> bool {
        let now = self.start + Duration::from_secs(seconds);
        match route(&self.table, "m", None, &Marks::default(), now) {
            Ok(Routed::Ready(_)) => panic!("nothing is ready"),
            Ok(Routed::Coming) => true,
            Err(error) => {
                assert_eq!(error.message(), "model 'm' failed to load: planted");
                false
            }
        }
    }

    fn place(&mut self, worker: usize) {
        self.snapshot.placements.insert(key(worker), record(Placement::default()));
    }

    fn fail(&mut self, worker: usize, kind: FailureKind) {
        let (state, failure) = (ReplicaState::Failed.into(), kind.into());
        let failed = Replica { state, failure, reason: "planted".to_owned(), ..Replica::default() };
        self.snapshot.replicas.insert(key(worker), record(failed));
    }

    fn forget(&mut self, worker: usize) {
        self.snapshot.placements.remove(&key(worker));
        self.snapshot.replicas.remove(&key(worker));
    }
}

#[test]
fn a_call_is_held_while_others_could_load_what_one_could_not() {
    let mut mesh = Stand::new(2);
    mesh.place(0);
    assert!(mesh.holds(0));
    mesh.fail(0, FailureKind::Unspecified);
    assert!(mesh.holds(1), "the scheduler has not decided yet");
    mesh.place(1);
    assert!(mesh.holds(9), "another one loads it");
    mesh.fail(1, FailureKind::Unspecified);
    assert!(!mesh.holds(10), "it failed everywhere");
    mesh.forget(0);
    assert!(mesh.holds(11), "it could be tried there again");
    assert!(mesh.still_holds(14) && mesh.holds(14));
    assert!(!mesh.still_holds(15) && !mesh.holds(15), "nobody does");
}

#[test]
fn a_call_is_held_while_a_process_that_was_lost_is_started_again() {
    let mut mesh = Stand::new(1);
    mesh.place(0);
    mesh.fail(0, FailureKind::Lost);
    assert!(mesh.holds(0) && mesh.still_holds(100));
    mesh.fail(0, FailureKind::Unspecified);
    assert!(!mesh.holds(101), "it cannot be loaded any more");
}

/// The newest one that there is need not be the one that is to come.
#[test]
fn a_call_is_held_for_the_version_before_a_broken_one() {
    let mut mesh = Stand::new(1);
    let second = Version::new(2).expect("not zero");
    mesh.place(0);
    mesh.snapshot.placements.insert(ReplicaKey { version: second, ..key(0) }, record(Placement::default()));
    let failed = Replica { state: ReplicaState::Failed.into(), reason: "planted".to_owned(), ..Replica::default() };
    mesh.snapshot.replicas.insert(ReplicaKey { version: second, ..key(0) }, record(failed));
    assert!(mesh.holds(0));
    mesh.forget(0);
    assert!(!mesh.holds(1));
}
