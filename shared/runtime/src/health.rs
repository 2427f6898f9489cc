//! `grpc.health.v1.Health` with `Check`, `Watch` and `List`: a name per service and per model.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use weft_proto::health::health_check_response::ServingStatus;
use weft_proto::health::health_server::{Health as Protocol, HealthServer};
use weft_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use weft_proto::status_of;
use weft_types::{Error, Reason};

/// The most names that `List` tells (gRFC A90).
const LIST_LIMIT: usize = 100;

/// The process's health by name; `""` is the process itself and starts as not serving.
#[derive(Clone)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Default)]
struct State {
    serving: BTreeMap<String, bool>,
    draining: bool,
}

impl State {
    fn status(&self, name: &str) -> ServingStatus {
        match self.serving.get(name) {
            Some(true) if !self.draining => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
            None => ServingStatus::ServiceUnknown,
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        let state = State { serving: BTreeMap::from([(String::new(), false)]), draining: false };
        Self { state: Arc::new(watch::Sender::new(state)) }
    }
}

impl Health {
    /// Sets whether `name` is being served.
    pub fn set(&self, name: &str, serving: bool) {
        self.state.send_if_modified(|state| state.serving.insert(name.to_owned(), serving) != Some(serving));
    }

    /// Forgets a name: it is unknown from now on.
    pub fn remove(&self, name: &str) {
        self.state.send_if_modified(|state| state.serving.remove(name).is_some());
    }

    /// Turns every name to not serving for good: the process is going.
    pub fn drain(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    /// Whether the process as a whole is serving.
    pub fn serving(&self) -> bool {
        self.state.borrow().status("") == ServingStatus::Serving
    }

    /// Waits until the process as a whole is serving.
    pub async fn wait_serving(&self) {
        let mut watcher = self.state.subscribe();
        // Fails only when the sender is gone, which `self` holds.
        let _ = watcher.wait_for(|state| state.status("") == ServingStatus::Serving).await;
    }

    pub(crate) fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Protocol for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.state.borrow().status(&request.get_ref().service) {
            ServingStatus::ServiceUnknown => {
                Err(status_of(&Error::new(Reason::NotFound, "service: unknown; List tells the known ones")))
            }
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let state = self.state.borrow();
        if state.serving.len() > LIST_LIMIT {
            return Err(status_of(&Error::new(Reason::Overloaded, format!("more than {LIST_LIMIT} names: use Check"))));
        }
        let statuses = state.serving.keys().map(|name| (name.clone(), answer(state.status(name)))).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let watcher = self.state.subscribe();
        // The first message is the status now; later ones only when it has changed (gRFC A17).
        let updates = stream::unfold((watcher, name, None), |(mut watcher, name, last)| async move {
            loop {
                let status = watcher.borrow_and_update().status(&name);
                if last != Some(status) {
                    return Some((Ok(answer(status)), (watcher, name, Some(status))));
                }
                watcher.changed().await.ok()?;
            }
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    fn of(name: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: name.into() })
    }

    #[tokio::test]
    async fn watch_tells_unknown_then_changes_only() {
        let health = Health::default();
        let mut updates = health.watch(of("digits")).await.expect("watches").into_inner();
        let mut next = async || updates.next().await.expect("open").expect("ok").status();
        assert_eq!(next().await, ServingStatus::ServiceUnknown);
        health.set("other", true);
        health.set("digits", true);
        assert_eq!(next().await, ServingStatus::Serving);
        health.drain();
        assert_eq!(next().await, ServingStatus::NotServing);
    }

    #[tokio::test]
    async fn check_and_list_agree() {
        let health = Health::default();
        assert_eq!(health.check(of("x")).await.expect_err("unknown").code(), tonic::Code::NotFound);
        health.set("", true);
        assert_eq!(health.check(of("")).await.expect("known").get_ref().status(), ServingStatus::Serving);
        let list = health.list(Request::new(HealthListRequest {})).await.expect("lists").into_inner();
        assert_eq!(list.statuses.len(), 1);
        assert!(health.serving());
    }
}
