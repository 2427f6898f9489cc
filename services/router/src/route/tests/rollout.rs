//! Which version takes a call that names none, while a rollout is under way and after it.

use std::collections::BTreeMap;

use weft_proto::weft::control::v1::{Rollout, RolloutPhase, RolloutStatus, RolloutStrategy};

use super::*;

/// Versions 1 and 2 of model `m` as they are ready, its rollout from 1 to 2, and a route to it and to another model that is ready.
fn staged(status: RolloutStatus, ready: &[u64]) -> Table {
    let mut snapshot = Snapshot::default();
    let worker: weft_types::WorkerId = "w".parse().expect("a name");
    let at = Worker { address: "127.0.0.1:1".to_owned(), ..Worker::default() };
    snapshot.workers.insert(worker.clone(), record(at));
    for version in ready {
        let (worker, model) = (worker.clone(), "m".parse().expect("a name"));
        let key = ReplicaKey { worker, model, version: Version::new(*version).expect("not zero") };
        snapshot.replicas.insert(key, record(Replica { state: ReplicaState::Ready.into(), ..Replica::default() }));
    }
    let key = ReplicaKey {
        worker: worker.clone(),
        model: "other".parse().expect("a name"),
        version: Version::new(1).expect("not zero"),
    };
    snapshot.replicas.insert(key, record(Replica { state: ReplicaState::Ready.into(), ..Replica::default() }));
    for version in [1, 2] {
        let (worker, model) = (worker.clone(), "m".parse().expect("a name"));
        let key = ReplicaKey { worker, model, version: Version::new(version).expect("not zero") };
        snapshot.placements.insert(key, record(Default::default()));
    }
    let matches = target("m", 1, &[("user", Some("tester"))]).matches;
    let strategy = Some(RolloutStrategy { matches, ..RolloutStrategy::default() });
    let rollout =
        Rollout { stable: 1, canary: 2, strategy, status: Some(status), model: "m".to_owned(), ..Rollout::default() };
    snapshot.rollouts.insert("m".parse().expect("a name"), record(rollout));
    let targets = vec![target("m", 1, &[]), target("other", 1, &[])];
    snapshot.routes.insert("r".parse().expect("a name"), record(control::Route { targets, ..Default::default() }));
    let (tasks, scope, now) = (Tasks::new(), Scope::disabled(), SystemClock::now());
    let connect =
        Connect { channel: &ChannelOptions::default(), tasks: &tasks, scope: &scope, now, zone: "", known: true };
    Table::build(&snapshot, &Table::default(), &connect)
}

fn canary(percent: u32, header: bool) -> RolloutStatus {
    RolloutStatus { phase: RolloutPhase::Canary.into(), canary_percent: percent, header, ..RolloutStatus::default() }
}

/// The version that takes the call; 0 while it is coming.
fn version(table: &Table, (name, asked): (&str, u64), marks: &Marks<'_>) -> u64 {
    match route(table, name, Version::new(asked), marks, SystemClock::now()).expect("it is known") {
        Routed::Ready(target) => target.version.get(),
        Routed::Coming => 0,
    }
}

/// Of 100,000 calls to `m`, how many each version takes; 0 stands for those that are held.
fn drawn(table: &Table, name: &str) -> BTreeMap<u64, u32> {
    let mut taken = BTreeMap::new();
    // A sequence without pattern (the golden ratio), as good as drawn, and the same each time.
    let mut units = (0u32..).map(|call| (f64::from(call) * 0.618_033_988_749_894_9).fract());
    while taken.values().sum::<u32>() < 100_000 {
        let marks = Marks { unit: units.next().unwrap_or_default(), ..Marks::default() };
        let version = match route(table, name, None, &marks, SystemClock::now()).expect("it is known") {
            Routed::Ready(target) if target.model != "m" => continue,
            Routed::Ready(target) => target.version.get(),
            Routed::Coming => 0,
        };
        *taken.entry(version).or_default() += 1;
    }
    taken
}

#[test]
fn calls_are_split_by_the_stages_share() {
    for percent in [0, 1, 5, 50, 99] {
        for name in ["m", "r"] {
            let taken = drawn(&staged(canary(percent, true), &[1, 2]), name);
            let of_canary = taken.get(&2).copied().unwrap_or_default();
            assert!(of_canary.abs_diff(1000 * percent) <= 500, "{name} at {percent} %: {taken:?}");
            assert_eq!(of_canary + taken.get(&1).copied().unwrap_or_default(), 100_000);
        }
    }
}

#[test]
fn marked_calls_go_where_they_are_marked_for() {
    let cases: [(&[(&'static str, &str)], u64); 5] = [
        (&[], 1),
        (&[("weft-canary", "always")], 2),
        (&[("user", "tester")], 2),
        (&[("user", "tester"), ("weft-canary", "never")], 1),
        (&[("weft-canary", "perhaps")], 1),
    ];
    for (pairs, expected) in cases {
        let metadata = metadata(pairs);
        let marks = Marks { metadata: Some(&metadata), ..Marks::default() };
        assert_eq!(version(&staged(canary(0, true), &[1, 2]), ("m", 0), &marks), expected, "{pairs:?}");
        assert_eq!(version(&staged(canary(0, false), &[1, 2]), ("m", 0), &marks), 1, "{pairs:?} before its time");
        assert_eq!(version(&staged(canary(0, true), &[1]), ("m", 0), &marks), 1, "{pairs:?} to nobody");
    }
    let never = metadata(&[("weft-canary", "never")]);
    let marks = Marks { metadata: Some(&never), unit: 0.999_999_999, ..Marks::default() };
    assert_eq!(version(&staged(canary(99, true), &[1, 2]), ("m", 0), &marks), 1);
}

#[test]
fn the_stable_version_answers_before_and_the_winner_afterwards() {
    let over = |phase: RolloutPhase| RolloutStatus { phase: phase.into(), canary_percent: 50, ..canary(50, true) };
    for (status, expected) in
        [(RolloutStatus::default(), 1), (over(RolloutPhase::RolledBack), 1), (over(RolloutPhase::Promoted), 2)]
    {
        let table = staged(status.clone(), &[1, 2]);
        assert_eq!(drawn(&table, "m"), [(expected, 100_000)].into(), "{status:?}");
        assert_eq!(version(&table, ("m", 1), &Marks::default()), 1, "who names a version gets it");
        assert_eq!(version(&table, ("m", 2), &Marks::default()), 2, "who names a version gets it");
    }
}

/// An unproven version takes its share and no more, even where nothing else is there.
#[test]
fn a_lost_version_gives_its_calls_only_to_the_stable_one() {
    assert_eq!(drawn(&staged(canary(50, true), &[1]), "m"), [(1, 100_000)].into());
    let taken = drawn(&staged(canary(5, true), &[2]), "m");
    assert!(taken[&2].abs_diff(5_000) <= 200 && taken[&0] + taken[&2] == 100_000, "{taken:?}");
}
