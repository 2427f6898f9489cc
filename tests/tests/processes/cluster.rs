//! Services of one cluster, each a process of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use weft_store::etcd::Options;
use weft_store::{EtcdStore, Store};
use weft_tests::etcd::Etcd;
use weft_tests::process::Weft;
pub(crate) use weft_tests::replicas::{ready_on, replicate};

/// What every call of these tests gets: enough for a model to be placed anew after a lease has run out.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The cluster's name in the store when no flag gives another one.
pub(crate) const CLUSTER: &str = "default";

/// An etcd and the processes that share it.
pub(crate) struct Cluster {
    pub(crate) etcd: Etcd,
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self { etcd: Etcd::start().await? })
    }

    /// Starts one more process.
    pub(crate) fn weft(&self, command: &str, id: &str) -> Result<Weft> {
        let id = format!("{command}-{id}");
        Weft::start(command, &["--etcd", &self.etcd.client_url, "--lease-ttl", "2s", "--id", &id])
    }

    /// The records, for what tests do behind the mesh's back.
    pub(crate) async fn store(&self) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(EtcdStore::connect(Options::new(vec![self.etcd.client_url.clone()])).await?))
    }
}
