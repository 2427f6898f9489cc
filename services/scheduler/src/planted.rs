//! A metrics service whose figures the test decides, on a real port.

use std::sync::{Arc, Mutex};

use tonic::{Request, Response, Status};
use weft_proto::weft::metrics::v1::metrics_server::{Metrics, MetricsServer};
use weft_proto::weft::metrics::v1::{GetTraceRequest, GetTraceResponse, ModelSummary, SummaryRequest, SummaryResponse};
use weft_proto::weft::state::v1::Service;
use weft_runtime::{Api, Health, Server, ServerOptions, Tasks};
use weft_telemetry::Scope;

/// What it tells; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Planted(Arc<Mutex<Vec<ModelSummary>>>);

impl Planted {
    /// From now on it tells this.
    pub(crate) fn tell(&self, models: Vec<ModelSummary>) {
        *self.0.lock().expect("no test panics while it holds this") = models;
    }

    /// Serves until the tasks stop, and returns its registration.
    pub(crate) async fn serve(&self, tasks: &Tasks) -> Service {
        let server = Server::bind(ServerOptions::default()).await.expect("a free port");
        let address = server.address().to_string();
        let api = Api::new(&Health::default()).with(MetricsServer::new(self.clone()));
        server.serve(api, Scope::disabled(), tasks).expect("descriptors");
        Service { kind: "metrics".to_owned(), id: "metrics".to_owned(), address, ..Service::default() }
    }
}

#[tonic::async_trait]
impl Metrics for Planted {
    async fn summary(&self, request: Request<SummaryRequest>) -> Result<Response<SummaryResponse>, Status> {
        let mut models = self.0.lock().expect("no test panics while it holds this").clone();
        let asked = &request.get_ref().model;
        models.retain(|model| asked.is_empty() || model.model == *asked);
        Ok(Response::new(SummaryResponse { models }))
    }

    async fn get_trace(&self, _: Request<GetTraceRequest>) -> Result<Response<GetTraceResponse>, Status> {
        Err(Status::not_found("no trace is planted"))
    }
}
