//! The only place that names concrete adapters.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use weft_runtime::Tasks;
use weft_store::{EtcdStore, MemoryStore, Store, etcd};
use weft_types::SystemClock;

/// The state store: etcd when endpoints are given, else the embedded one.
pub async fn store(endpoints: &[String], tasks: &Tasks) -> Result<Arc<dyn Store>> {
    if endpoints.is_empty() {
        let store = MemoryStore::new(Arc::new(SystemClock));
        tasks.spawn("embedded store", store.clone().run(tasks.finishing()));
        return Ok(Arc::new(store));
    }
    let options = etcd::Options::new(endpoints.to_vec());
    let shown = endpoints.join(",");
    let store = EtcdStore::connect(options).await.with_context(|| format!("cannot use the state store at {shown}"))?;
    Ok(Arc::new(store))
}
