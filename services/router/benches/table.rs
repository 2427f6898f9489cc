//! What a change of the mesh costs a router: the table of 10,000 workers with three replicas each.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use weft_client::{ChannelOptions, Record, ReplicaKey, Snapshot};
use weft_proto::weft::state::v1::{ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker};
use weft_runtime::Tasks;
use weft_telemetry::Scope;
use weft_types::{SystemClock, Version};

#[path = "../src/endpoint.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod endpoint;
#[path = "../src/gate.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod gate;
#[path = "../src/latencies.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod latencies;
#[path = "../src/leading.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod leading;
#[path = "../src/outlier.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod outlier;
#[path = "../src/rollout.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod rollout;
#[path = "../src/room.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod room;
#[path = "../src/rules.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod rules;
#[path = "../src/table.rs"]
#[expect(dead_code, reason = "only the building of the table is measured, not its use")]
mod table;

use table::{Connect, Table};

const WORKERS: usize = 10_000;
const MODELS: [&str; 3] = ["digits", "embeddings", "gemma-3-270m"];

fn record<T>(value: T) -> Arc<Record<T>> {
    Arc::new(Record { value, create_revision: 1, mod_revision: 1 })
}

fn worker(number: usize) -> Worker {
    let versions = vec![VersionOffer { version: 1, size_bytes: 1 << 30, ..VersionOffer::default() }];
    let offer = |name: &&str| ModelOffer { name: (*name).into(), engine: "tract".into(), versions: versions.clone() };
    Worker {
        id: format!("worker-{number}"),
        address: format!("10.0.{}.{}:8001", number / 250, number % 250),
        offers: MODELS.iter().map(offer).collect(),
        ..Worker::default()
    }
}

fn mesh() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..WORKERS {
        let worker = worker(number);
        let Ok(id) = worker.id.parse::<weft_types::WorkerId>() else { continue };
        snapshot.workers.insert(id.clone(), record(worker));
        for model in MODELS {
            let (Ok(model), Some(version)) = (model.parse(), Version::new(1)) else { continue };
            let key = ReplicaKey { worker: id.clone(), model, version };
            snapshot.placements.insert(key.clone(), record(Placement { epoch: 1, ..Placement::default() }));
            let replica = Replica { state: ReplicaState::Ready.into(), ..Replica::default() };
            snapshot.replicas.insert(key, record(replica));
        }
    }
    snapshot
}

fn build(criterion: &mut Criterion) {
    let (mesh, tasks, scope) = (mesh(), Tasks::new(), Scope::disabled());
    let connect = Connect {
        channel: &ChannelOptions::default(),
        tasks: &tasks,
        scope: &scope,
        now: SystemClock::now(),
        zone: "",
        known: true,
    };
    let first = Table::build(&mesh, &Table::default(), &connect);
    criterion.bench_function("table/anew from 10,000 workers x 3 replicas", |bencher| {
        bencher.iter(|| black_box(Table::build(&mesh, &Table::default(), &connect)));
    });
    criterion.bench_function("table/again from 10,000 workers x 3 replicas", |bencher| {
        bencher.iter(|| black_box(Table::build(&mesh, &first, &connect)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = build
}
criterion_main!(benches);
