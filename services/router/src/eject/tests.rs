use std::sync::Arc;

use futures_util::FutureExt as _;
use weft_client::{ChannelOptions, Record as Stored, ReplicaKey, Snapshot};
use weft_policy::eject::{Evidence, Method};
use weft_proto::weft::state::v1::{self as state, ReplicaState, Worker};
use weft_runtime::Tasks;
use weft_telemetry::Scope;
use weft_types::Deadline;

use super::*;
use crate::Options;
use crate::choose::choose;
use crate::endpoint::Ending;
use crate::table::{Connect, Replica};

fn stored<T>(value: T) -> Arc<Stored<T>> {
    Arc::new(Stored { value, create_revision: 1, mod_revision: 1 })
}

/// So many workers with a replica of each of two models.
fn table(workers: usize) -> Table {
    let mut snapshot = Snapshot::default();
    for number in 0..workers {
        let worker: weft_types::WorkerId = format!("w{number}").parse().expect("a name");
        let record = Worker { address: "127.0.0.1:1".to_owned(), ..Worker::default() };
        snapshot.workers.insert(worker.clone(), stored(record));
        for model in ["a", "b"] {
            let (model, version) = (model.parse().expect("a name"), Version::new(1).expect("not zero"));
            let replica = state::Replica { state: ReplicaState::Ready.into(), ..state::Replica::default() };
            snapshot.replicas.insert(ReplicaKey { worker: worker.clone(), model, version }, stored(replica));
        }
    }
    let (channel, tasks, scope) = (ChannelOptions::default(), Tasks::new(), Scope::disabled());
    let connect =
        Connect { channel: &channel, tasks: &tasks, scope: &scope, now: SystemClock::now(), zone: "", known: true };
    Table::build(&snapshot, &Table::default(), &connect)
}

fn outliers() -> Outliers {
    let options = Options::default();
    Outliers::new(options.replica_ejection, options.worker_ejection)
}

fn replica<'a>(table: &'a Table, model: &str, worker: usize) -> &'a Replica {
    &table.model(model).and_then(|model| model.ready(None)).expect("it is ready").1.replicas[worker]
}

fn look(outliers: &Outliers, table: &Table, is_sweep: bool) -> Vec<Found> {
    let look = Look { now: SystemClock::now(), is_sweep };
    pools(outliers, table).flat_map(|pool| pool.judge(look, &mut rand::rng())).collect()
}

/// The ejected replicas, by model and worker.
fn ejected(table: &Table) -> Vec<(&'static str, usize)> {
    let all = ["a", "b"].into_iter().flat_map(|model| (0..table.hosts.len()).map(move |worker| (model, worker)));
    all.filter(|(model, worker)| replica(table, model, *worker).is_ejected()).collect()
}

fn tell(outliers: &Outliers, replica: &Replica, evidence: Evidence, times: usize) {
    (0..times).for_each(|_| replica.enter().tell(outliers, evidence));
}

#[test]
fn a_replica_that_fails_takes_no_other_with_it() {
    let (outliers, table) = (outliers(), table(3));
    tell(&outliers, replica(&table, "a", 1), Evidence::Failure, 4);
    assert_eq!((look(&outliers, &table, false), ejected(&table)), (vec![], vec![]));
    tell(&outliers, replica(&table, "a", 1), Evidence::Failure, 1);
    let found = Found { index: 1, method: Method::ConsecutiveFailures, outcome: Outcome::Ejected };
    assert_eq!((look(&outliers, &table, false), ejected(&table)), (vec![found], vec![("a", 1)]));
    // Calls go to the others of the model, and to every replica of the other model.
    let taken = |model: &str| -> std::collections::BTreeSet<String> {
        let replicas = &table.model(model).and_then(|model| model.ready(None)).expect("it is ready").1.replicas;
        (0..200)
            .filter_map(|_| choose(replicas, &[], None))
            .map(|permit| permit.endpoint().worker.to_string())
            .collect()
    };
    assert_eq!((taken("a").len(), taken("a").contains("w1"), taken("b").len()), (2, false, 3));
}

#[test]
fn a_worker_that_does_not_answer_is_ejected_with_all_its_replicas() {
    let (outliers, table) = (outliers(), table(3));
    tell(&outliers, replica(&table, "a", 2), Evidence::Lost, 3);
    tell(&outliers, replica(&table, "b", 2), Evidence::Lost, 1);
    // A single answer, to whatever call and whatever it says, shows that it lives.
    tell(&outliers, replica(&table, "b", 2), Evidence::Doubtful, 1);
    tell(&outliers, replica(&table, "a", 2), Evidence::Lost, 4);
    assert_eq!((look(&outliers, &table, false), ejected(&table)), (vec![], vec![]));
    tell(&outliers, replica(&table, "b", 2), Evidence::Lost, 1);
    look(&outliers, &table, false);
    assert_eq!(ejected(&table), [("a", 2), ("b", 2)]);
    // Its time alone does not bring it back: it has to answer.
    end(&outliers, &table, SystemClock::now() + Duration::from_secs(3600));
    assert_eq!(ejected(&table), [("a", 2), ("b", 2)]);
}

#[test]
fn an_ejection_ends_with_its_time_and_the_replica_starts_slowly() {
    let (outliers, table) = (outliers(), table(2));
    let one = replica(&table, "a", 0);
    tell(&outliers, one, Evidence::Failure, 5);
    look(&outliers, &table, false);
    let later = |seconds| SystemClock::now() + Duration::from_secs(seconds);
    end(&outliers, &table, later(29));
    assert_eq!(ejected(&table), [("a", 0)]);
    let back = later(31);
    assert!(one.pace.there_for(back) >= Duration::from_secs(31));
    end(&outliers, &table, back);
    assert_eq!((ejected(&table), one.pace.there_for(back)), (vec![], Duration::ZERO));
    // What it was ejected for does not count again.
    tell(&outliers, one, Evidence::Failure, 4);
    assert_eq!((look(&outliers, &table, false), ejected(&table)), (vec![], vec![]));
}

/// Counts are of one interval each: calls of the last one are not judged again.
#[test]
fn a_sweep_judges_what_came_since_the_last_one() {
    let (outliers, table) = (outliers(), table(6));
    let calls = |good: usize, bad: usize| {
        (0..5).for_each(|worker| tell(&outliers, replica(&table, "a", worker), Evidence::Success, 100));
        tell(&outliers, replica(&table, "a", 5), Evidence::Doubtful, bad);
        tell(&outliers, replica(&table, "a", 5), Evidence::Success, good);
    };
    calls(100, 0);
    assert_eq!(look(&outliers, &table, true), []);
    calls(50, 49);
    assert_eq!(look(&outliers, &table, true), [], "99 calls in this interval");
    calls(50, 50);
    let found = Found { index: 5, method: Method::SuccessRate, outcome: Outcome::Ejected };
    assert_eq!((look(&outliers, &table, true), ejected(&table)), (vec![found], vec![("a", 5)]));
}

#[test]
fn one_that_stays_for_the_cap_is_not_found_with_every_failure() {
    let (outliers, table) = (outliers(), table(3));
    tell(&outliers, replica(&table, "a", 0), Evidence::Failure, 5);
    look(&outliers, &table, false);
    tell(&outliers, replica(&table, "a", 1), Evidence::Failure, 5);
    let found = Found { index: 1, method: Method::ConsecutiveFailures, outcome: Outcome::MaxEjectionOverflow };
    assert_eq!(look(&outliers, &table, false), [found]);
    tell(&outliers, replica(&table, "a", 1), Evidence::Failure, 4);
    assert_eq!((look(&outliers, &table, false), ejected(&table)), (vec![], vec![("a", 0)]));
}

/// With every replica ejected, be it by itself or with its worker, all are taken again.
#[test]
fn when_all_are_ejected_nobody_is_passed_over() {
    let (outliers, table) = (outliers(), table(2));
    tell(&outliers, replica(&table, "a", 0), Evidence::Failure, 5);
    tell(&outliers, replica(&table, "a", 1), Evidence::Lost, 5);
    look(&outliers, &table, false);
    assert_eq!(ejected(&table), [("a", 0), ("a", 1), ("b", 1)]);
    let replicas = &table.model("a").and_then(|model| model.ready(None)).expect("it is ready").1.replicas;
    let taken: std::collections::BTreeSet<String> =
        (0..200).filter_map(|_| choose(replicas, &[], None)).map(|one| one.endpoint().worker.to_string()).collect();
    assert_eq!(taken.len(), 2);
}

/// Who fails too often in a row is looked at now, and not with the next tick.
#[test]
fn the_alarm_comes_with_the_failure_that_is_one_too_many() {
    let is_alarmed = |outliers: &Outliers| outliers.alarm.notified().now_or_never().is_some();
    for (evidence, settled) in [(Evidence::Failure, Evidence::Success), (Evidence::Lost, Evidence::Neutral)] {
        let (outliers, table) = (outliers(), table(2));
        let one = replica(&table, "a", 0);
        tell(&outliers, one, evidence, 4);
        tell(&outliers, one, settled, 1);
        tell(&outliers, one, evidence, 4);
        assert!(!is_alarmed(&outliers), "{evidence:?}");
        tell(&outliers, one, evidence, 1);
        assert!(is_alarmed(&outliers), "{evidence:?}");
    }
}

/// Calls that end without an answer: after `waited`, `left` before their deadline, with `answers` to others meanwhile.
fn silent(waited: Duration, left: Duration, answers: usize) -> bool {
    let (outliers, table) = (outliers(), table(2));
    let (one, other) = (replica(&table, "a", 0), replica(&table, "b", 0));
    for _ in 0..5 {
        let permit = one.enter();
        let mut timed = permit.time(&outliers, Deadline::after(SystemClock::now(), left));
        timed.began = before(timed.began, waited);
        tell(&outliers, other, Evidence::Neutral, answers);
        drop(timed);
    }
    look(&outliers, &table, false);
    one.is_ejected()
}

fn before(instant: Instant, by: Duration) -> Instant {
    instant.checked_sub(by).expect("the machine has run for longer")
}

#[test]
fn silence_counts_when_a_fair_deadline_passes_and_nobody_is_answered() {
    let (second, none) = (Duration::from_secs(1), Duration::ZERO);
    assert!(silent(second, none, 0));
    assert!(silent(second * 60, second * 5, 0), "its callers' own timers were a little earlier");
    assert!(!silent(second * 60, second * 30, 0), "the callers went away");
    assert!(!silent(second, none, 1), "it answered others");
    assert!(!silent(second, second * 3600, 0), "the callers went away");
    assert!(!silent(second / 100, none, 0), "too little time for any answer");
}

/// A call that the worker might have answered, having answered others, is no sign of life itself.
#[test]
fn silence_is_never_taken_for_an_answer() {
    let (outliers, table) = (outliers(), table(2));
    let one = replica(&table, "a", 0);
    let permit = one.enter();
    let mut timed = permit.time(&outliers, Deadline::after(SystemClock::now(), Duration::ZERO));
    timed.began = before(timed.began, Duration::from_secs(1));
    tell(&outliers, one, Evidence::Success, 1);
    tell(&outliers, one, Evidence::Lost, 4);
    drop(timed);
    assert_eq!(one.endpoint.record.answers(), 1);
    tell(&outliers, one, Evidence::Lost, 1);
    look(&outliers, &table, false);
    assert!(one.is_ejected());
}

#[test]
fn an_answer_is_told_once() {
    let (outliers, table) = (outliers(), table(1));
    let one = replica(&table, "a", 0);
    let permit = one.enter();
    let _ = permit
        .time(&outliers, Deadline::after(SystemClock::now(), Duration::ZERO))
        .end(Ending::Answered, Evidence::Success);
    assert_eq!((one.endpoint.record.answers(), one.pace.record.answers()), (1, 1));
}

/// A sequence begins elsewhere while its replica is ejected; one that is not known there is looked for where it began.
#[test]
fn a_sequence_is_looked_for_where_it_began() {
    let (outliers, table) = (outliers(), table(9));
    let replicas = &table.model("a").and_then(|model| model.ready(None)).expect("it is ready").1.replicas;
    let affinity = Some(weft_policy::Affinity::of("a", "one"));
    let began = choose(replicas, &[], affinity).expect("one is there").endpoint().clone();
    let held = replicas.iter().find(|one| Arc::ptr_eq(&one.endpoint, &began)).expect("it is one of them");
    tell(&outliers, held, Evidence::Failure, 5);
    look(&outliers, &table, false);
    let next = choose(replicas, &[], affinity).expect("one is there").endpoint().clone();
    assert_ne!(next.worker, began.worker);
    let searched = choose(replicas, &[next], affinity).expect("one is there").endpoint().clone();
    assert_eq!(searched.worker, began.worker);
}
