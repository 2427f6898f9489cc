//! Services of one cluster, each a process of its own.

use std::time::Duration;

use anyhow::Result;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, GetModelRequest, Model};
use weft_proto::weft::state::v1::ReplicaState;
use weft_tests::calls::{Caller, until};
use weft_tests::etcd::Etcd;
use weft_tests::process::Weft;

/// What every call of these tests gets: enough for a model to be placed anew after a lease has run out.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

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
}

/// Wants a model on so many workers, and waits until it is ready on them.
pub(crate) async fn replicate(caller: &Caller, model: &str, replicas: u32) -> Result<()> {
    let wanted = Model { name: model.into(), replicas, ..Default::default() };
    let mut models = ModelsClient::new(caller.channel.clone());
    until("the model to be applied", async || {
        models.apply_model(ApplyModelRequest { model: Some(wanted.clone()) }).await.is_ok()
    })
    .await?;
    until("its replicas to be ready", async || ready_on(caller, model).await.len() == replicas as usize).await
}

/// The workers that hold a ready replica of a model.
pub(crate) async fn ready_on(caller: &Caller, model: &str) -> Vec<String> {
    let mut models = ModelsClient::new(caller.channel.clone());
    let told = models.get_model(GetModelRequest { name: model.into() }).await;
    let view = told.ok().and_then(|answer| answer.into_inner().model).unwrap_or_default();
    let ready = view.replicas.into_iter().filter(|replica| replica.state() == ReplicaState::Ready);
    ready.map(|replica| replica.worker).collect()
}
