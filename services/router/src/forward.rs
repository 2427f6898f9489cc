//! Calls about jobs, control and metrics: passed on as they are to a scheduler or a metrics service, whatever their methods.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;
use weft_client::{Channel, ChannelOptions, ChannelState, Snapshot, prepare};
use weft_proto::status_of;
use weft_runtime::{CallExt as _, Tasks};
use weft_types::{Error, Reason, Result, SystemClock};

use crate::{Inner, Router};

/// A service that another process answers.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Its full name.
    pub(crate) service: &'static str,
    /// Who answers: `scheduler` or `metrics`.
    pub(crate) kind: &'static str,
}

pub(crate) const SCHEDULER: &str = "scheduler";

/// Of so many calls one goes to the scheduler whose turn it is, even if it was out of reach.
const RETRIED: usize = 16;
/// Jobs belong to all schedulers alike, which pass on among themselves what is another's.
const JOBS: &str = "weft.jobs.v1.Jobs";

pub(crate) const SERVICES: [Target; 8] = [
    Target { service: "weft.control.v1.Events", kind: SCHEDULER },
    Target { service: "weft.control.v1.Models", kind: SCHEDULER },
    Target { service: "weft.control.v1.Rollouts", kind: SCHEDULER },
    Target { service: "weft.control.v1.Routes", kind: SCHEDULER },
    Target { service: "weft.control.v1.Workers", kind: SCHEDULER },
    Target { service: JOBS, kind: SCHEDULER },
    Target { service: "weft.scheduler.v1.Scheduler", kind: SCHEDULER },
    Target { service: "weft.metrics.v1.Metrics", kind: "metrics" },
];

/// Channels to schedulers and metrics services, by address; kept only for those that are registered.
#[derive(Default)]
pub(crate) struct Peers {
    channels: Mutex<BTreeMap<String, Channel>>,
    turn: AtomicUsize,
}

impl Peers {
    /// A channel to a service of this kind: the leader where there is one, else whoever is registered first.
    pub(crate) fn channel(&self, kind: &str, snapshot: &Snapshot, tasks: &Tasks) -> Result<Channel> {
        let leader = snapshot.leader.as_ref().map(|record| record.value.address.as_str()).filter(|_| kind == SCHEDULER);
        let registered = || {
            let of_kind = snapshot.services.iter().filter(|((registered, _), _)| registered == kind);
            of_kind.map(|(_, record)| record.value.address.as_str())
        };
        let Some(address) = leader.or_else(|| registered().next()) else {
            return Err(Error::new(Reason::NoReadyReplica, format!("no {kind} is registered")));
        };
        self.to(address, snapshot, tasks)
    }

    /// A channel to some scheduler: the next one in turn that was not out of reach when it was last tried. Now and then such a one is
    /// tried all the same: nothing else tells that it is back.
    fn any_scheduler(&self, snapshot: &Snapshot, tasks: &Tasks) -> Result<Channel> {
        let schedulers = snapshot.services.iter().filter(|((kind, _), _)| kind == SCHEDULER);
        let schedulers: Vec<_> = schedulers.map(|(_, record)| record.value.address.as_str()).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut out_of_reach = None;
        for at in 0..schedulers.len() {
            let channel = self.to(schedulers[first.wrapping_add(at) % schedulers.len()], snapshot, tasks)?;
            if channel.state() != ChannelState::TransientFailure || first.is_multiple_of(RETRIED) {
                return Ok(channel);
            }
            out_of_reach.get_or_insert(channel);
        }
        out_of_reach.ok_or_else(|| Error::new(Reason::NoReadyReplica, "no scheduler is registered"))
    }

    fn to(&self, address: &str, snapshot: &Snapshot, tasks: &Tasks) -> Result<Channel> {
        let known: Vec<&str> = snapshot.services.values().map(|record| record.value.address.as_str()).collect();
        // A map of channels is whole at any point: a panic elsewhere cannot have left it half changed.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|peer, _| peer == address || known.contains(&peer.as_str()));
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let options = ChannelOptions { connections: 1, ..ChannelOptions::default() };
        let channel = Channel::new(address, options, tasks)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Forwards every call that it is given.
#[derive(Clone)]
pub(crate) struct Forwarder {
    router: Arc<Inner>,
    target: Target,
}

impl Router {
    pub(crate) fn forwarder(&self, target: Target) -> Forwarder {
        Forwarder { router: Arc::clone(&self.inner), target }
    }
}

impl Forwarder {
    async fn forward(self, mut request: Request<Body>) -> Result<Response<Body>> {
        let router = &self.router;
        let call = request.call();
        let snapshot = router.mesh.snapshot();
        let channel = match self.target.service {
            JOBS => router.peers.any_scheduler(&snapshot, &router.tasks)?,
            _ => router.peers.channel(self.target.kind, &snapshot, &router.tasks)?,
        };
        let span = router.scope.start_client(self.target.service, Some(&call.trace));
        prepare(request.headers_mut(), call.deadline, span.context(), SystemClock::now())?;
        let response = channel.send(request).await?;
        Ok(response.map(Body::new))
    }
}

impl Service<Request<Body>> for Forwarder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let forwarder = self.clone();
        Box::pin(
            async move { Ok(forwarder.forward(request).await.unwrap_or_else(|error| status_of(&error).into_http())) },
        )
    }
}
