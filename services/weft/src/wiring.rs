//! The only place that names concrete adapters.

mod access;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_runtime::Tasks;
use weft_store::{Error, EtcdStore, Maintain, MemoryStore, Store, etcd};
use weft_types::{Backoff, SystemClock};

use crate::settings::Common;

/// The state store, from each side that a process needs.
#[derive(Clone)]
pub struct State {
    /// For records.
    pub store: Arc<dyn Store>,
    /// For its own health.
    pub maintenance: Arc<dyn Maintain>,
    /// `None` for the embedded store, which is always there.
    etcd: Option<EtcdStore>,
    endpoints: Vec<String>,
}

/// Opens the state store: etcd when endpoints are given, else the embedded one. Nothing is asked of it yet.
pub async fn state(common: &Common, tasks: &Tasks) -> Result<State> {
    let options = access::options(common)?;
    let endpoints = options.endpoints.clone();
    if endpoints.is_empty() {
        let store = MemoryStore::new(Arc::new(SystemClock));
        tasks.spawn("embedded store", store.clone().run(tasks.finishing()));
        return Ok(State { maintenance: Arc::new(store.clone()), store: Arc::new(store), etcd: None, endpoints });
    }
    let shown = endpoints.join(",");
    let told = || format!("cannot use the state store at {shown}");
    let maintenance = etcd::Maintenance::try_new(&options).with_context(told)?;
    let store = EtcdStore::open(options).await.with_context(told)?;
    Ok(State { store: Arc::new(store.clone()), maintenance: Arc::new(maintenance), etcd: Some(store), endpoints })
}

impl State {
    /// Whether it ends with this process, so that there is nothing to be saved from it.
    pub const fn is_embedded(&self) -> bool {
        self.etcd.is_none()
    }

    /// Looks whether the store can be worked with. One that does not answer is no obstacle for a process that has something to
    /// serve from (`is_known`); one that answers and cannot be used always is.
    pub async fn check(&self, is_known: bool, tasks: &Tasks) -> Result<()> {
        let Some(etcd) = &self.etcd else { return Ok(()) };
        let attempts = if is_known { 1 } else { self.endpoints.len() };
        let mut outcome = etcd.check().await;
        for _ in 1..attempts {
            // The failed check has moved on to the next endpoint.
            if let Err(Error::Unavailable(_)) = outcome {
                outcome = etcd.check().await;
            }
        }
        let endpoints = self.endpoints.join(",");
        match outcome {
            Err(Error::Unavailable(error)) if is_known => {
                tracing::warn!(endpoints, error, "the state store does not answer: starting from the saved snapshot");
                tasks.spawn("store check", check_later(etcd.clone(), tasks.stopping()));
                Ok(())
            }
            outcome => outcome.with_context(|| format!("cannot use the state store at {endpoints}")),
        }
    }
}

/// Checks again until the store answers. By then the process serves, and must not end because of the answer.
async fn check_later(etcd: EtcdStore, stopping: tokio_util::sync::CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let check = async {
        while let Err(error) = etcd.check().await {
            if let Error::Unsupported(_) = error {
                return tracing::error!(%error, "the state store answers again and cannot be used: serving on without it");
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    };
    // Only reads are under way when this is cut off.
    let _: Option<()> = stopping.run_until_cancelled(check).await;
}
