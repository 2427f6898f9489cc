//! The methods of the Open Inference Protocol, with Triton's extensions.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use weft_client::tenant;
use weft_proto::inference::grpc_inference_service_server::GrpcInferenceService;
use weft_proto::inference::*;
use weft_proto::status_of;
use weft_runtime::{CallExt as _, told};
use weft_types::{BUILD, Error, ModelName, Reason, SystemClock};

use super::describe;
use super::stream::{Answers, Source};
use crate::Shared;
use crate::answer::{Asked, answer};
use crate::error::Failure;
use crate::load;
use crate::replica::Replica;
use crate::replicas::Held;

/// What of Triton's extensions a worker understands.
const EXTENSIONS: [&str; 6] =
    ["sequence", "model_repository", "model_configuration", "schedule_policy", "parameters", "statistics"];

/// The inference service.
#[derive(Clone)]
pub(crate) struct Inference {
    pub(super) shared: Arc<Shared>,
}

/// The model that a router has resolved the caller's name to, empty when a caller came directly; and who the call is for.
#[derive(Clone, Default)]
pub(super) struct Resolved {
    pub(super) tenant: u64,
    model: Option<String>,
    version: Option<String>,
}

impl Resolved {
    fn of(metadata: &MetadataMap) -> Self {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { tenant: tenant::of(metadata), model: text("weft-model"), version: text("weft-version") }
    }
}

impl Inference {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The replica that a request is for.
    pub(super) fn find(&self, resolved: &Resolved, request: &ModelInferRequest) -> Result<Arc<Replica>, Failure> {
        let name = resolved.model.as_deref().unwrap_or(&request.model_name);
        let version = resolved.version.as_deref().unwrap_or(&request.model_version);
        Ok(self.shared.find("model_", name, version)?)
    }

    fn ready_versions(&self, name: &ModelName) -> Vec<String> {
        let table = self.shared.replicas.all();
        let ready = |held: &Held| matches!(held, Held::Ready(_));
        let versions = table.get(name).into_iter().flatten();
        versions.filter(|(_, held)| ready(held)).map(|(version, _)| version.to_string()).collect()
    }
}

fn refused<T>(error: &Error) -> Result<T, Status> {
    Err(status_of(error))
}

/// What a worker does not do although the protocol has a method for it.
fn not_offered<T>(what: &'static str) -> Result<T, Status> {
    refused(&Error::new(Reason::NotOffered, what))
}

const SHARED_MEMORY: &str = "shared memory with callers is not offered";
const PLACEMENT: &str = "a worker does not decide what it holds: ask a router";

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: !*self.shared.draining.borrow() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let request = request.into_inner();
        match self.shared.find("", &request.name, &request.version) {
            Err(error) if error.reason() == Reason::InvalidRequest => refused(&error),
            found => Ok(Response::new(ModelReadyResponse { ready: found.is_ok() })),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "weft".to_owned(),
            version: BUILD.to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let replica = self.shared.find("", &request.name, &request.version).or_else(|error| refused(&error))?;
        let versions = self.ready_versions(&replica.identity.name);
        Ok(Response::new(describe::metadata(&replica, versions)))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let (call, resolved) = (request.call(), Resolved::of(request.metadata()));
        let request = request.into_inner();
        let replica = self.find(&resolved, &request).map_err(|failure| failure.status())?;
        let asked = Asked { tenant: resolved.tenant, on_stream: false, request };
        let response = answer(Arc::clone(&replica), &self.shared.scope, &call, asked).await;
        let response = response.map(Response::new).map_err(|failure| failure.status());
        told(response, &load::of_replica(&replica, SystemClock::now()))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let (call, resolved) = (request.call(), Resolved::of(request.metadata()));
        let source = Source { inference: self.clone(), call, resolved };
        Ok(Response::new(Box::pin(Answers::new(source, request.into_inner()))))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let request = request.into_inner();
        let replica = self.shared.find("", &request.name, &request.version).or_else(|error| refused(&error))?;
        Ok(Response::new(ModelConfigResponse { config: Some(describe::config(&replica)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let request = request.into_inner();
        if !request.name.is_empty() {
            self.shared.find("", &request.name, &request.version).or_else(|error| refused(&error))?;
        }
        let table = self.shared.replicas.all();
        let asked = |asked: &str, own: String| asked.is_empty() || asked == own;
        let model_stats = table
            .iter()
            .flat_map(|(name, versions)| versions.iter().map(move |(version, held)| (name, version, held)))
            .filter(|(name, version, _)| {
                asked(&request.name, name.to_string()) && asked(&request.version, version.to_string())
            })
            .filter_map(|(name, version, held)| Some(held.replica()?.stats.report(name.as_str(), &version.to_string())))
            .collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Ok(Response::new(RepositoryIndexResponse { models: describe::index(&self.shared, request.get_ref().ready) }))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        not_offered(PLACEMENT)
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        not_offered(PLACEMENT)
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<CudaSharedMemoryStatusResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<CudaSharedMemoryRegisterResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<CudaSharedMemoryUnregisterResponse>, Status> {
        not_offered(SHARED_MEMORY)
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Result<Response<TraceSettingResponse>, Status> {
        not_offered("trace settings are not offered")
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Result<Response<LogSettingsResponse>, Status> {
        not_offered("log settings are not offered")
    }
}
