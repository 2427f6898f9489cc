//! `weft.jobs.v1.Jobs` as gRPC has it: conversion, and the way to the scheduler that answers.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, async_trait};
use weft_journal::Record;
use weft_proto::status_of;
use weft_proto::weft::jobs::v1::jobs_server;
use weft_proto::weft::jobs::v1::*;
use weft_runtime::{Call, CallExt as _};
use weft_types::{Error, Result};

use super::error::journal_failed;
use super::forward::{Client, Place, is_forwarded};
use super::submit::Begun;
use super::{Program, Shared, check, list, view, watch};

/// The jobs of a scheduler, as their callers see them. Clones share them.
#[derive(Clone)]
pub(crate) struct Jobs(pub(super) Arc<Shared>);

/// A request with what is known of its call.
struct Asked<M> {
    call: Call,
    is_forwarded: bool,
    message: M,
}

fn asked<M>(request: Request<M>) -> Asked<M> {
    let (call, is_forwarded) = (request.call(), is_forwarded(request.metadata()));
    Asked { call, is_forwarded, message: request.into_inner() }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err takes")]
fn told(error: Error) -> Status {
    status_of(&error)
}

impl Jobs {
    async fn shown(&self, record: &Record, program: Option<&Arc<Program>>) -> Option<Job> {
        let output = view::output(&self.0, record).await;
        Some(view::job(record, program.map(Arc::as_ref), &self.0.id, output))
    }

    async fn get(&self, asked: Asked<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        let Asked { call, is_forwarded, message } = asked;
        let id = check::id(&message.id).map_err(told)?;
        let found = match self.0.place(id.shard(), is_forwarded) {
            Ok(Place::Here) => self.0.find(&id).await.map_err(told)?,
            Ok(Place::At(address)) => {
                let send = |mut client: Client, request| async move { client.get_job(request).await };
                return self.0.pass_on(&address, &call, message, send).await;
            }
            // Nobody runs its shard, but a job that has ended needs nobody.
            Err(unowned) => match self.0.journal.ended(&id).await.map_err(|error| told(journal_failed(&error)))? {
                Some(_) => self.0.find(&id).await.map_err(told)?,
                None => return Err(told(unowned)),
            },
        };
        let record = found.record().map_err(told)?;
        let job = self.shown(&record, found.program()).await;
        let definition = found.program().filter(|_| message.definition).map(|program| program.message.clone());
        let chart = |program: &Arc<Program>| weft_saga::mermaid::render(&program.definition, &record.job);
        let flowchart = found.program().filter(|_| message.flowchart).map(chart).unwrap_or_default();
        Ok(Response::new(GetJobResponse { job, flowchart, definition }))
    }
}

#[async_trait]
impl jobs_server::Jobs for Jobs {
    async fn submit_job(&self, request: Request<SubmitJobRequest>) -> Result<Response<SubmitJobResponse>, Status> {
        let Asked { call, is_forwarded, message } = asked(request);
        match self.0.submit(&message, &call, is_forwarded).await.map_err(told)? {
            Begun::Here(record, program) => {
                Ok(Response::new(SubmitJobResponse { job: self.shown(&record, Some(&program)).await }))
            }
            Begun::Before(id) => {
                let message = GetJobRequest { id: id.to_string(), ..GetJobRequest::default() };
                // It may be anybody's, whoever passed the submission on.
                let got = self.get(Asked { call, is_forwarded: false, message }).await?;
                Ok(got.map(|got| SubmitJobResponse { job: got.job }))
            }
            Begun::Elsewhere(address) => {
                let send = |mut client: Client, request| async move { client.submit_job(request).await };
                self.0.pass_on(&address, &call, message, send).await
            }
        }
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        self.get(asked(request)).await
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<WatchJobResponse, Status>> + Send>>;

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let Asked { call, is_forwarded, message } = asked(request);
        let id = check::id(&message.id).map_err(told)?;
        match self.0.place(id.shard(), is_forwarded) {
            Ok(Place::Here) => {}
            Ok(Place::At(address)) => {
                // As many bytes wait here as at the owner, so it counts like one of its own.
                let permit = watch::permit(&self.0).map_err(told)?;
                let send = |mut client: Client, request| async move { client.watch_job(request).await };
                let answers = self.0.pass_on(&address, &call, message, send).await?;
                return Ok(answers.map(|answers| watch::holding(permit, answers).boxed()));
            }
            Err(unowned)
                if self.0.journal.ended(&id).await.map_err(|error| told(journal_failed(&error)))?.is_none() =>
            {
                return Err(told(unowned));
            }
            Err(_) => {}
        }
        let found = self.0.find(&id).await.map_err(told)?;
        watch::watch(&self.0, found, message.after_revision).map(Response::new).map_err(told)
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let of = list::asked_of(request.metadata());
        let Asked { call, message, .. } = asked(request);
        self.0.list(message, &call, of).await.map(Response::new)
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        let Asked { call, is_forwarded, message } = asked(request);
        let id = check::id(&message.id).map_err(told)?;
        match self.0.place(id.shard(), is_forwarded).map_err(told)? {
            Place::Here => {
                let (record, found) = self.0.cancel(&id, &message, call.deadline).await.map_err(told)?;
                Ok(Response::new(CancelJobResponse { job: self.shown(&record, found.program()).await }))
            }
            Place::At(address) => {
                let send = |mut client: Client, request| async move { client.cancel_job(request).await };
                self.0.pass_on(&address, &call, message, send).await
            }
        }
    }

    async fn signal_job(&self, request: Request<SignalJobRequest>) -> Result<Response<SignalJobResponse>, Status> {
        let Asked { call, is_forwarded, message } = asked(request);
        let id = check::id(&message.id).map_err(told)?;
        match self.0.place(id.shard(), is_forwarded).map_err(told)? {
            Place::Here => {
                let (record, found) = self.0.signal(&id, message, call.deadline).await.map_err(told)?;
                Ok(Response::new(SignalJobResponse { job: self.shown(&record, found.program()).await }))
            }
            Place::At(address) => {
                let send = |mut client: Client, request| async move { client.signal_job(request).await };
                self.0.pass_on(&address, &call, message, send).await
            }
        }
    }

    async fn resolve_job(&self, request: Request<ResolveJobRequest>) -> Result<Response<ResolveJobResponse>, Status> {
        let Asked { call, is_forwarded, message } = asked(request);
        let id = check::id(&message.id).map_err(told)?;
        match self.0.place(id.shard(), is_forwarded).map_err(told)? {
            Place::Here => {
                let (record, found) = self.0.resolve(&id, &message, call.deadline).await.map_err(told)?;
                Ok(Response::new(ResolveJobResponse { job: self.shown(&record, found.program()).await }))
            }
            Place::At(address) => {
                let send = |mut client: Client, request| async move { client.resolve_job(request).await };
                self.0.pass_on(&address, &call, message, send).await
            }
        }
    }
}
