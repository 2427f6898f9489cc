//! The methods as gRPC has them: conversion, no decisions.

mod rollouts;

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};
use weft_proto::status_of;
use weft_proto::weft::control::v1::events_server::Events;
use weft_proto::weft::control::v1::models_server::Models;
use weft_proto::weft::control::v1::routes_server::Routes;
use weft_proto::weft::control::v1::workers_server::Workers;
use weft_proto::weft::control::v1::*;
use weft_proto::weft::scheduler::v1::{
    GetStatusRequest, GetStatusResponse, WakeModelRequest, WakeModelResponse, scheduler_server,
};
use weft_runtime::CallExt as _;
use weft_types::Result;

use crate::Inner;
use crate::control::Wish;
use crate::events::EventStream;

/// The scheduler as its callers see it.
#[derive(Clone)]
pub(crate) struct Surface(pub(crate) Arc<Inner>);

fn answer<T, M>(outcome: Result<T>, message: impl FnOnce(T) -> M) -> Result<Response<M>, Status> {
    outcome.map(|value| Response::new(message(value))).map_err(|error| status_of(&error))
}

#[async_trait]
impl Models for Surface {
    async fn apply_model(&self, request: Request<ApplyModelRequest>) -> Result<Response<ApplyModelResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.apply_model(request.into_inner().model, deadline).await;
        answer(outcome, |model| ApplyModelResponse { model: Some(model) })
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        answer(self.0.get_model(&request.get_ref().name), |model| GetModelResponse { model: Some(model) })
    }

    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        answer(self.0.list_models(), |models| ListModelsResponse { models })
    }

    async fn delete_model(
        &self,
        request: Request<DeleteModelRequest>,
    ) -> Result<Response<DeleteModelResponse>, Status> {
        let outcome = self.0.delete_model(&request.get_ref().name, request.call().deadline).await;
        answer(outcome, |()| DeleteModelResponse {})
    }
}

#[async_trait]
impl Routes for Surface {
    async fn apply_route(&self, request: Request<ApplyRouteRequest>) -> Result<Response<ApplyRouteResponse>, Status> {
        let deadline = request.call().deadline;
        let outcome = self.0.apply_route(request.into_inner().route, deadline).await;
        answer(outcome, |route| ApplyRouteResponse { route: Some(route) })
    }

    async fn get_route(&self, request: Request<GetRouteRequest>) -> Result<Response<GetRouteResponse>, Status> {
        answer(self.0.get_route(&request.get_ref().name), |route| GetRouteResponse { route: Some(route) })
    }

    async fn list_routes(&self, _: Request<ListRoutesRequest>) -> Result<Response<ListRoutesResponse>, Status> {
        answer(self.0.list_routes(), |routes| ListRoutesResponse { routes })
    }

    async fn delete_route(
        &self,
        request: Request<DeleteRouteRequest>,
    ) -> Result<Response<DeleteRouteResponse>, Status> {
        let outcome = self.0.delete_route(&request.get_ref().name, request.call().deadline).await;
        answer(outcome, |()| DeleteRouteResponse {})
    }
}

#[async_trait]
impl Workers for Surface {
    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        answer(self.0.list_workers(), |workers| ListWorkersResponse { workers })
    }

    async fn cordon_worker(
        &self,
        request: Request<CordonWorkerRequest>,
    ) -> Result<Response<CordonWorkerResponse>, Status> {
        let deadline = request.call().deadline;
        let CordonWorkerRequest { id, reason, by } = request.into_inner();
        let outcome = self.0.cordon(Wish { id, reason, by, drain: false }, deadline).await;
        answer(outcome, |worker| CordonWorkerResponse { worker: Some(worker) })
    }

    async fn uncordon_worker(
        &self,
        request: Request<UncordonWorkerRequest>,
    ) -> Result<Response<UncordonWorkerResponse>, Status> {
        let outcome = self.0.uncordon(&request.get_ref().id, request.call().deadline).await;
        answer(outcome, |worker| UncordonWorkerResponse { worker })
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let deadline = request.call().deadline;
        let DrainWorkerRequest { id, reason, by } = request.into_inner();
        let outcome = self.0.cordon(Wish { id, reason, by, drain: true }, deadline).await;
        answer(outcome, |worker| DrainWorkerResponse { worker: Some(worker) })
    }
}

#[async_trait]
impl Events for Surface {
    type WatchEventsStream = EventStream;

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Result<Response<ListEventsResponse>, Status> {
        let outcome = self.0.list_events(request.get_ref().limit, request.call().deadline).await;
        answer(outcome, |(events, resume_token)| ListEventsResponse { events, resume_token })
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let deadline = request.call().deadline;
        answer(self.0.watch_events(request.into_inner(), deadline).await, |watch| watch)
    }
}

#[async_trait]
impl scheduler_server::Scheduler for Surface {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        answer(self.0.status().await, |status| status)
    }

    async fn wake_model(&self, request: Request<WakeModelRequest>) -> Result<Response<WakeModelResponse>, Status> {
        let call = request.call();
        answer(self.0.wake_model(request.into_inner(), &call).await, |()| WakeModelResponse {})
    }
}
