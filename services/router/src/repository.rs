//! The repository calls of Triton's and KServe's clients, in terms of desired state.

use tonic::Status;
use weft_client::{outgoing, within};
use weft_proto::inference::repository_index_response::ModelIndex;
use weft_proto::inference::*;
use weft_proto::status_of;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, Model};
use weft_runtime::Call;
use weft_types::{Error, ModelName, Reason, Result};

use crate::Router;
use crate::forward::SCHEDULER;

impl Router {
    pub(crate) fn index(&self, request: &RepositoryIndexRequest) -> RepositoryIndexResponse {
        let table = self.inner.table.load();
        let mut models = Vec::new();
        for (name, model) in table.models() {
            let entry = |version: String, state: &str, reason: String| ModelIndex {
                name: name.to_string(),
                version,
                state: state.to_owned(),
                reason,
            };
            models.extend(model.ready.keys().map(|version| entry(version.to_string(), "READY", String::new())));
            if request.ready {
                continue;
            }
            let waiting = model.coming.iter().filter(|(version, _)| !model.ready.contains_key(version));
            models.extend(waiting.map(|(version, coming)| {
                let (state, reason) = match (&coming.failure, model.unloaded, coming.placed) {
                    (_, false, true) => ("LOADING", String::new()),
                    (Some(failure), _, _) => ("UNAVAILABLE", failure.clone()),
                    (None, true, _) => ("UNAVAILABLE", "unloaded".to_owned()),
                    (None, false, false) => ("UNAVAILABLE", "not placed".to_owned()),
                };
                entry(version.to_string(), state, reason)
            }));
        }
        models.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        RepositoryIndexResponse { models }
    }

    /// Wants at least one replica and waits until one is ready.
    pub(crate) async fn load(
        &self,
        call: &Call,
        request: &RepositoryModelLoadRequest,
    ) -> Result<RepositoryModelLoadResponse, Status> {
        if !request.parameters.is_empty() {
            let override_ = Error::invalid("parameters", "models are configured in the repository, not by callers");
            return Err(status_of(&override_));
        }
        let name = either(&request.model_name, &request.repository_name)?;
        // Where demand decides, being asked for is demand enough.
        let asking = self.inner.wake_model(&name);
        if asking.is_none() {
            self.apply(call, &name, |model| model.replicas = model.replicas.max(1)).await?;
        }
        self.wait_for(call, &name, true).await?;
        Ok(RepositoryModelLoadResponse::default())
    }

    /// Wants no replica and waits until none is ready.
    pub(crate) async fn unload(
        &self,
        call: &Call,
        request: &RepositoryModelUnloadRequest,
    ) -> Result<RepositoryModelUnloadResponse, Status> {
        let name = either(&request.model_name, &request.repository_name)?;
        // Otherwise the next call would bring it back.
        self.apply(call, &name, |model| (model.replicas, model.autoscaling) = (0, None)).await?;
        self.wait_for(call, &name, false).await?;
        Ok(RepositoryModelUnloadResponse::default())
    }

    async fn apply(&self, call: &Call, name: &ModelName, change: impl FnOnce(&mut Model)) -> Result<(), Status> {
        let router = &*self.inner;
        let snapshot = router.mesh.snapshot();
        if router.table.load().model(name.as_str()).is_none() {
            let unknown = format!("model_name: no model '{name}' in any worker's repository");
            return Err(status_of(&Error::new(Reason::NotFound, unknown)));
        }
        let mut model = snapshot.models.get(name).map(|record| record.value.clone()).unwrap_or_default();
        model.name = name.to_string();
        change(&mut model);
        let channel = router.peers.channel(SCHEDULER, &snapshot, &router.tasks).map_err(|error| status_of(&error))?;
        let request = ApplyModelRequest { model: Some(model) };
        let request = outgoing(request, call.deadline, &call.trace).map_err(|error| status_of(&error))?;
        within(call.deadline, ModelsClient::new(channel).apply_model(request)).await?;
        Ok(())
    }

    async fn wait_for(&self, call: &Call, name: &ModelName, ready: bool) -> Result<(), Status> {
        let mut swaps = self.inner.swapped.subscribe();
        let wait = async {
            loop {
                swaps.borrow_and_update();
                let table = self.inner.table.load_full();
                let Some(model) = table.model(name.as_str()) else { return Ok(()) };
                if model.is_ready() == ready {
                    return Ok(());
                }
                // A failure counts only while nothing is being tried: the scheduler may have found another worker.
                let given_up = model.coming.values().filter(|coming| ready && !coming.placed);
                let failure = given_up.filter_map(|coming| coming.failure.clone()).next();
                if let Some(failure) = failure {
                    let failed = format!("model '{name}' failed to load: {failure}");
                    return Err(status_of(&Error::new(Reason::ModelFailed, failed)));
                }
                if swaps.changed().await.is_err() {
                    return Err(status_of(&Error::new(Reason::Draining, "the router is shutting down")));
                }
            }
        };
        within(call.deadline, wait).await
    }
}

/// The model's name where Triton puts it (field 2) or where KServe does (field 1).
fn either(triton: &str, kserve: &str) -> Result<ModelName, Status> {
    let name = if triton.is_empty() { kserve } else { triton };
    name.parse().map_err(|problem| status_of(&Error::invalid("model_name", problem)))
}
