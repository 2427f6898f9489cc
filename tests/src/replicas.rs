//! Where a model's replicas are, and how many of them are wanted.

use anyhow::Result;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, GetModelRequest, Model};
use weft_proto::weft::state::v1::ReplicaState;

use crate::calls::{Caller, until};

/// Wants a model on so many workers, and waits until it is ready on them.
pub async fn replicate(caller: &Caller, model: &str, replicas: u32) -> Result<()> {
    let wanted = Model { name: model.into(), replicas, ..Default::default() };
    let mut models = ModelsClient::new(caller.channel.clone());
    until("the model to be applied", async || {
        models.apply_model(ApplyModelRequest { model: Some(wanted.clone()) }).await.is_ok()
    })
    .await?;
    until("its replicas to be ready", async || ready_on(caller, model).await.len() == replicas as usize).await
}

/// The workers that hold a ready replica of a model.
pub async fn ready_on(caller: &Caller, model: &str) -> Vec<String> {
    let mut models = ModelsClient::new(caller.channel.clone());
    let told = models.get_model(GetModelRequest { name: model.into() }).await;
    let view = told.ok().and_then(|answer| answer.into_inner().model).unwrap_or_default();
    let ready = view.replicas.into_iter().filter(|replica| replica.state() == ReplicaState::Ready);
    ready.map(|replica| replica.worker).collect()
}
