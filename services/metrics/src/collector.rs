//! The OTLP collector's services: every instance sends here what it measured.

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::LogsService;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::MetricsService;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceService;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::{Request, Response, Status};

use crate::{Service, ingest};

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let refused = self.with(|state, now| ingest::metrics(state, now, request.into_inner()));
        let partial_success = (refused.count > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: wire(refused.count),
            error_message: refused.why.into(),
        });
        Ok(Response::new(ExportMetricsServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let refused = self.with(|state, now| ingest::traces(state, now, request.into_inner()));
        let partial_success = (refused.count > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: wire(refused.count),
            error_message: refused.why.into(),
        });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    /// Log lines are not kept. They are refused by partial success, which tells the sender not to send them again.
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
        let count: usize = scopes.map(|scope| scope.log_records.len()).sum();
        let partial_success = (count > 0).then(|| ExportLogsPartialSuccess {
            rejected_log_records: wire(count as u64),
            error_message: "logs are not kept".into(),
        });
        Ok(Response::new(ExportLogsServiceResponse { partial_success }))
    }
}

fn wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
