//! The router's inference service, method by method: conversion only.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::inference::*;
use weft_proto::message::Message;
use weft_proto::raw::Inference;
use weft_proto::status_of;
use weft_proto::weft::router::v1::router_server::Router as RouterService;
use weft_proto::weft::router::v1::{
    Endpoint, ExplainRequest, ExplainResponse, GetSnapshotRequest, GetSnapshotResponse,
};
use weft_runtime::CallExt as _;
use weft_types::{BUILD, Error, Reason, SystemClock, WorkerId};

use crate::route::{Routed, route};
use crate::rules::Marks;
use crate::{Router, dispatch, explain, identify, stream};

/// Triton's extensions that are offered.
const EXTENSIONS: [&str; 5] =
    ["sequence", "model_repository", "model_configuration", "statistics", "binary_tensor_data"];

fn not_offered<T>() -> Result<Response<T>, Status> {
    let why = "not offered: memory is never shared with callers, traces and logs are set by configuration";
    Err(status_of(&Error::new(Reason::NotOffered, why)))
}

impl Router {
    /// One unary inference.
    pub(crate) async fn infer(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let call = request.call();
        let (metadata, _, message) = request.into_parts();
        let counted = self.inner.load.enter();
        let outcome = dispatch::infer(&self.inner, &call, &metadata, message).await;
        counted.end(outcome.as_ref().map_or_else(Status::code, |_| Code::Ok));
        outcome
    }
}

#[tonic::async_trait]
impl Inference for Router {
    type ModelStreamInferStream = BoxStream<'static, Result<Bytes, Status>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.inner.health.serving() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let request = request.get_ref();
        let (name, version) = identify::names(&request.name, &request.version).map_err(|error| status_of(&error))?;
        let table = self.inner.table.load();
        let ready = matches!(
            route(&table, name.as_str(), version, &Marks::default(), SystemClock::now()),
            Ok(Routed::Ready(_))
        );
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        let extensions = EXTENSIONS.map(str::to_owned).to_vec();
        Ok(Response::new(ServerMetadataResponse { name: "weft".into(), version: BUILD.into(), extensions }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        self.model_metadata_of(&request.call(), request.into_inner()).await.map(Response::new)
    }

    async fn model_infer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let answered = self.infer(request.map(Message::of)).await?;
        Ok(answered.map(Message::into_payload))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let call = request.call();
        let (metadata, _, requests) = request.into_parts();
        Ok(Response::new(stream::stream(&self.inner, call, metadata, requests).boxed()))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        self.model_config_of(&request.call(), request.into_inner()).await.map(Response::new)
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        self.model_statistics_of(&request.call(), request.into_inner()).await.map(Response::new)
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Ok(Response::new(self.index(request.get_ref())))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        self.load(&request.call(), request.get_ref()).await.map(Response::new)
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        self.unload(&request.call(), request.get_ref()).await.map(Response::new)
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        not_offered()
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        not_offered()
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        not_offered()
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<CudaSharedMemoryStatusResponse>, Status> {
        not_offered()
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<CudaSharedMemoryRegisterResponse>, Status> {
        not_offered()
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<CudaSharedMemoryUnregisterResponse>, Status> {
        not_offered()
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Result<Response<TraceSettingResponse>, Status> {
        not_offered()
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Result<Response<LogSettingsResponse>, Status> {
        not_offered()
    }
}

#[tonic::async_trait]
impl RouterService for Router {
    async fn get_snapshot(&self, _: Request<GetSnapshotRequest>) -> Result<Response<GetSnapshotResponse>, Status> {
        let snapshot = self.inner.mesh.snapshot();
        let table = self.inner.table.load();
        let mut ready: BTreeMap<&WorkerId, Vec<String>> = BTreeMap::new();
        let mut ejected: BTreeMap<&WorkerId, Vec<String>> = BTreeMap::new();
        for (name, model) in table.models() {
            for (version, ready_now) in &model.ready {
                for replica in &ready_now.replicas {
                    let worker = &replica.endpoint.worker;
                    ready.entry(worker).or_default().push(format!("{name}@{version}"));
                    if replica.is_ejected() {
                        ejected.entry(worker).or_default().push(format!("{name}@{version}"));
                    }
                }
            }
        }
        ready.values_mut().chain(ejected.values_mut()).for_each(|names| names.sort_unstable());
        let endpoints = table.hosts.iter().map(|(worker, host)| Endpoint {
            worker: worker.to_string(),
            address: host.endpoint.channel.address().to_owned(),
            draining: host.draining,
            connection: host.endpoint.channel.state().as_str().to_owned(),
            in_flight: host.endpoint.in_flight(),
            ready: ready.remove(worker).unwrap_or_default(),
            retained: snapshot.retained.contains(worker),
            zone: host.zone.clone(),
            ejected: ejected.remove(worker).unwrap_or_default(),
        });
        let age = snapshot.age(SystemClock::now());
        Ok(Response::new(GetSnapshotResponse {
            revision: snapshot.revision,
            age: age.map(weft_proto::duration),
            endpoints: endpoints.collect(),
            restored: snapshot.restored,
            zone: self.inner.options.zone.clone(),
        }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let call = request.call();
        let (metadata, _, request) = request.into_parts();
        let explained = explain::explain(&self.inner, call.deadline, &metadata, request);
        explained.map(Response::new).map_err(|error| status_of(&error))
    }
}
