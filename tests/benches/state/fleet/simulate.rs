//! The simulated workers: what of a worker talks to etcd, and nothing else of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use prost::Message as _;
use weft_client::{Keys, Mesh, ReplicaKey};
use weft_proto::weft::state::v1::{ModelOffer, Replica, ReplicaState, VersionOffer, Worker};
use weft_runtime::Tasks;
use weft_store::{EtcdStore, Presence, etcd};
use weft_types::{Version, WorkerId};

use super::{CLUSTER, LEASE, descriptors, until_orphaned};

/// Workers come up over this long, as machines do.
const ARRIVAL: Duration = Duration::from_secs(10);

const MODELS: [&str; 3] = ["digits", "identity", "sleep"];

/// Runs `count` workers until the observer is gone.
pub(super) async fn workers(endpoint: &str, count: usize) -> Result<()> {
    descriptors::allow(count)?;
    let tasks = Tasks::new();
    for index in 0..count {
        let (endpoint, tasks_of_worker) = (endpoint.to_owned(), tasks.clone());
        tasks.spawn("worker", async move {
            if let Err(error) = worker(endpoint, index, tasks_of_worker.clone()).await {
                // A fleet that is not whole must not look like one.
                tracing::error!(%error, "a simulated worker failed");
                tasks_of_worker.fail();
            }
        });
    }
    // The workers are not asked to leave: a machine that loses power does not deregister either.
    tokio::select! {
        _ = tokio::task::spawn_blocking(until_orphaned) => Ok(()),
        () = tasks.stopping().cancelled_owned() => anyhow::bail!("a simulated worker failed"),
    }
}

async fn worker(endpoint: String, index: usize, tasks: Tasks) -> Result<()> {
    tokio::time::sleep(ARRIVAL.mul_f64(rand::random())).await;
    let (keys, id) = (Keys::new(CLUSTER), format!("w-{index}").parse::<WorkerId>()?);
    let store = Arc::new(EtcdStore::open(etcd::Options::new(vec![endpoint])).await?);
    let _mesh = Mesh::follow_worker(store.clone(), &keys, &id, &tasks, None);
    let (presence, driver) = Presence::new(store, LEASE);
    presence.set(keys.worker(&id), record(&id, index).encode_to_vec())?;
    for model in MODELS {
        let version = Version::new(1).ok_or_else(|| anyhow::anyhow!("1 is a version"))?;
        let key = ReplicaKey { worker: id.clone(), model: model.parse()?, version };
        let ready = Replica { state: ReplicaState::Ready.into(), size_bytes: 1 << 20, ..Replica::default() };
        presence.set(keys.replica(&key), ready.encode_to_vec())?;
    }
    driver.run(tasks.stopping()).await;
    drop(presence);
    Ok(())
}

fn record(id: &WorkerId, index: usize) -> Worker {
    let offers = MODELS.map(|name| ModelOffer {
        name: name.to_owned(),
        engine: "builtin".to_owned(),
        versions: vec![VersionOffer { version: 1, size_bytes: 1 << 20, ..VersionOffer::default() }],
    });
    Worker {
        id: id.to_string(),
        // Nothing calls it: the fleet only registers.
        address: format!("127.0.0.1:{}", 20_000 + index),
        zone: format!("zone-{}", index % 3),
        labels: [("rack".to_owned(), format!("r{}", index % 40))].into(),
        memory_bytes: 64 << 30,
        threads: 32,
        offers: offers.into(),
        build: "fleet".to_owned(),
        epoch: 1,
        ..Worker::default()
    }
}
