//! What a replica is, in the protocol's words.

use std::borrow::Cow;

use weft_engine::{Port, Signature};
use weft_proto::inference::model_metadata_response::TensorMetadata;
use weft_proto::inference::repository_index_response::ModelIndex;
use weft_proto::inference::{
    DataType, ModelConfig, ModelInput, ModelMetadataResponse, ModelOutput, ModelTransactionPolicy,
};
use weft_proto::weft::state::v1::ReplicaState;
use weft_types::{ModelName, Version};

use crate::Shared;
use crate::converge::config_type;
use crate::generate;
use crate::replica::Replica;
use crate::replicas::Held;

/// What callers see of a model.
fn signature(replica: &Replica) -> Cow<'_, Signature> {
    match replica.model.language() {
        Some(_) => generate::signature(&*replica.model),
        None => Cow::Borrowed(replica.face.signature()),
    }
}

/// `ModelMetadata`: `versions` are those that are ready here.
pub(super) fn metadata(replica: &Replica, versions: Vec<String>) -> ModelMetadataResponse {
    let signature = signature(replica);
    ModelMetadataResponse {
        name: replica.identity.name.to_string(),
        versions,
        platform: signature.platform.clone(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    }
}

/// The protocol has no word for "any": an empty type and one free axis come closest.
fn tensor(port: &Port) -> TensorMetadata {
    TensorMetadata {
        name: port.name.clone(),
        datatype: port.datatype.map(|datatype| datatype.to_string()).unwrap_or_default(),
        shape: port.shape.clone().unwrap_or_else(|| vec![-1]),
    }
}

/// `ModelConfig`: what the repository says, completed with what the loaded model knows.
pub(super) fn config(replica: &Replica) -> ModelConfig {
    let signature = signature(replica);
    let mut config = replica.identity.config.clone();
    config.name = replica.identity.name.to_string();
    config.max_batch_size = i32::try_from(signature.max_batch_size).unwrap_or(i32::MAX);
    if config.platform.is_empty() {
        config.platform.clone_from(&signature.platform);
    }
    if config.backend.is_empty() {
        config.backend.clone_from(&signature.platform);
    }
    if config.input.is_empty() {
        let input = |port: &Port| ModelInput { optional: port.optional, ..input(port, signature.max_batch_size) };
        config.input = signature.inputs.iter().map(input).collect();
    }
    if config.output.is_empty() {
        config.output = signature.outputs.iter().map(|port| output(port, signature.max_batch_size)).collect();
    }
    if replica.model.language().is_some() {
        // A request may have many responses, so Triton's clients ask for it by stream.
        config.model_transaction_policy = Some(ModelTransactionPolicy { decoupled: true });
    }
    config
}

fn input(port: &Port, max_batch_size: usize) -> ModelInput {
    ModelInput {
        name: port.name.clone(),
        data_type: type_of(port).into(),
        dims: dims(port, max_batch_size),
        ..ModelInput::default()
    }
}

fn output(port: &Port, max_batch_size: usize) -> ModelOutput {
    ModelOutput {
        name: port.name.clone(),
        data_type: type_of(port).into(),
        dims: dims(port, max_batch_size),
        ..ModelOutput::default()
    }
}

fn type_of(port: &Port) -> DataType {
    port.datatype.map_or(DataType::TypeInvalid, config_type)
}

/// A configuration leaves the batch axis out when the model batches.
fn dims(port: &Port, max_batch_size: usize) -> Vec<i64> {
    let shape = port.shape.as_deref().unwrap_or(&[-1]);
    let skip = usize::from(max_batch_size > 0);
    shape.get(skip..).unwrap_or_default().to_vec()
}

/// `RepositoryIndex` of this worker: what its repository holds, and where each version stands here.
pub(super) fn index(shared: &Shared, ready_only: bool) -> Vec<ModelIndex> {
    let table = shared.replicas.all();
    let held = |name: &ModelName, version: &Version| table.get(name).and_then(|versions| versions.get(version));
    let repository = shared.repository();
    let offered = repository.models().flat_map(|offer| {
        offer.versions.keys().map(move |version| entry(&offer.name, *version, held(&offer.name, version)))
    });
    let broken = repository.problems().iter().map(|problem| ModelIndex {
        name: problem.model.to_string(),
        version: String::new(),
        state: "UNAVAILABLE".to_owned(),
        reason: problem.problem.to_string(),
    });
    offered.chain(broken).filter(|index| !ready_only || index.state == "READY").collect()
}

fn entry(name: &ModelName, version: Version, held: Option<&Held>) -> ModelIndex {
    let (state, reason) = match held {
        None => ("UNAVAILABLE", "not placed on this worker"),
        Some(held) => {
            let state = match held.state() {
                ReplicaState::Ready => "READY",
                ReplicaState::Loading => "LOADING",
                ReplicaState::Draining => "UNLOADING",
                ReplicaState::Failed | ReplicaState::Unspecified => "UNAVAILABLE",
            };
            (state, held.reason())
        }
    };
    ModelIndex {
        name: name.to_string(),
        version: version.to_string(),
        state: state.to_owned(),
        reason: reason.to_owned(),
    }
}
