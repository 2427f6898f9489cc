//! What a change of the mesh costs: 10,000 workers with three replicas each.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use prost::Message;
use weft_client::Snapshot;
use weft_proto::weft::state::v1::{ModelOffer, Placement, Replica, ReplicaState, VersionOffer, Worker};
use weft_store::{Change, Entry};

const ROOT: &str = "/weft/v1/bench/";
const WORKERS: usize = 10_000;
const MODELS: [&str; 3] = ["digits", "embeddings", "gemma-3-270m"];

fn put(key: &str, value: &impl Message, revision: i64) -> Change {
    let (value, create_revision) = (value.encode_to_vec().into(), revision);
    let key = format!("{ROOT}{key}");
    Change::Put(Entry { key, value, create_revision, mod_revision: revision, version: 1, lease: None })
}

fn worker(number: usize) -> Worker {
    let versions = vec![VersionOffer { version: 1, size_bytes: 1 << 30, ..VersionOffer::default() }];
    let offer = |name: &&str| ModelOffer { name: (*name).into(), engine: "tract".into(), versions: versions.clone() };
    Worker {
        id: format!("worker-{number}"),
        address: format!("10.0.{}.{}:8001", number / 250, number % 250),
        zone: format!("zone-{}", number % 3),
        labels: [("rack".to_owned(), format!("r{}", number % 100))].into(),
        memory_bytes: 64 << 30,
        threads: 16,
        offers: MODELS.iter().map(offer).collect(),
        build: "0.1.0".into(),
        epoch: 1_700_000_000_000,
        ..Worker::default()
    }
}

fn replica(number: usize, model: &str, revision: i64) -> Change {
    let value = Replica { state: ReplicaState::Ready.into(), size_bytes: 1 << 30, ..Replica::default() };
    put(&format!("replicas/worker-{number}/{model}@1"), &value, revision)
}

/// A listing of the whole mesh, in the order of its keys' kinds.
fn listing() -> Vec<Change> {
    let workers = (0..WORKERS).map(|number| put(&format!("workers/worker-{number}"), &worker(number), 1));
    let each = || (0..WORKERS).flat_map(|number| MODELS.map(|model| (number, model)));
    let placements = each().map(|(number, model)| {
        put(&format!("placements/worker-{number}/{model}@1"), &Placement { epoch: 1, ..Placement::default() }, 1)
    });
    let replicas = each().map(|(number, model)| replica(number, model, 1));
    workers.chain(placements).chain(replicas).collect()
}

/// The next snapshot, made as a running mesh makes it: from one that readers hold.
fn next(last: &Snapshot, changes: &[Change]) -> Arc<Snapshot> {
    let mut next = last.clone();
    for change in changes {
        next.apply(ROOT, change);
    }
    Arc::new(next)
}

/// This process's memory in bytes; zero where `/proc` does not tell.
fn resident() -> usize {
    let told = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    told.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

fn snapshot(criterion: &mut Criterion) {
    let listing = listing();
    let before = resident();
    let full = next(&Snapshot::default(), &listing);
    let taken = resident().saturating_sub(before);
    let records = full.workers.len() + full.replicas.len() + full.placements.len();
    criterion.bench_function("snapshot/from a listing of 10,000 workers x 3 replicas", |bencher| {
        bencher.iter_batched(Snapshot::default, |empty| next(&empty, &listing), BatchSize::PerIteration);
    });
    let one = [replica(5_000, MODELS[1], 2)];
    criterion.bench_function("snapshot/one change", |bencher| bencher.iter(|| next(&full, &one)));
    let hundred: Vec<Change> = (0..100).map(|number| replica(number * 97, MODELS[number % 3], 2)).collect();
    criterion.bench_function("snapshot/a batch of 100 changes", |bencher| bencher.iter(|| next(&full, &hundred)));
    criterion.bench_function("snapshot/a walk over all replicas", |bencher| {
        bencher.iter(|| full.replicas.iter().map(|(_, record)| black_box(record).value.size_bytes).max());
    });
    criterion.bench_function("snapshot/30,000 look-ups", |bencher| {
        bencher.iter(|| full.placements.keys().filter(|key| full.replicas.contains_key(*key)).count());
    });
    let mib = taken as f64 / f64::from(1 << 20);
    // Standard output may be closed; the measured times are told by then.
    let _ = writeln!(std::io::stdout(), "snapshot of {records} records: {mib:.1} MiB resident");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = snapshot
}
criterion_main!(benches);
