//! An OTLP endpoint that keeps the spans it gets.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};
use weft_runtime::{Api, Drain, Health, Server, ServerOptions, Tasks};
use weft_telemetry::Scope;

/// A span with the service that it came from.
#[derive(Clone, Debug)]
pub struct Kept {
    /// `service.name`.
    pub service: String,
    /// The span.
    pub span: Span,
}

/// The endpoint.
#[derive(Clone, Default)]
pub struct Sink {
    spans: Arc<Mutex<Vec<Kept>>>,
}

impl Sink {
    /// Listens on a free port.
    pub async fn start() -> Result<(Self, String, Drain)> {
        let (sink, tasks, health) = (Self::default(), Tasks::new(), Health::default());
        let server = Server::bind(ServerOptions::default()).await?;
        let address = format!("http://{}", server.address());
        let api = Api::new(&health).with(TraceServiceServer::new(sink.clone()));
        let drain = server.serve(api, Scope::disabled(), &tasks)?;
        Ok((sink, address, drain))
    }

    /// The spans of a trace so far.
    pub fn trace(&self, trace_id: &[u8]) -> Vec<Kept> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|kept| kept.span.trace_id == trace_id).cloned().collect()
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match service.and_then(|attribute| attribute.value).and_then(|value| value.value) {
                Some(Value::StringValue(service)) => service,
                _ => String::new(),
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let kept = spans.map(|span| Kept { service: service.clone(), span });
            self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
