//! `weft.metrics.v1.Metrics`: requests checked, figures and spans turned into messages.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status};
use weft_proto::weft::metrics::v1::metrics_server::Metrics;
use weft_proto::weft::metrics::v1::{
    GetTraceRequest, GetTraceResponse, Histogram as HistogramMessage, ModelSummary, Span as SpanMessage,
    SummaryRequest, SummaryResponse,
};
use weft_proto::{duration, from_duration, status_of, timestamp};
use weft_types::{Error, ModelName, Reason};

use crate::Service;
use crate::histogram::{Histogram, Parts};
use crate::options::LONGEST_WINDOW;
use crate::traces::{Span, TraceId};
use crate::window::{Figures, Model};

/// The window of a request that does not name one.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

#[tonic::async_trait]
impl Metrics for Service {
    async fn summary(&self, request: Request<SummaryRequest>) -> Result<Response<SummaryResponse>, Status> {
        let (window, model) = checked(&request.into_inner()).map_err(|error| status_of(&error))?;
        let figures = self.with(|state, now| state.window.figures(now, window, model.as_ref().map(ModelName::as_str)));
        let durations = |figures: &Figures| model.is_some().then(|| distribution(&figures.call));
        let summary = |(model, figures): (Model, Figures)| ModelSummary {
            durations: durations(&figures),
            ..summary(&model, &figures)
        };
        let models = figures.into_iter().map(summary).collect();
        Ok(Response::new(SummaryResponse { models }))
    }

    async fn get_trace(&self, request: Request<GetTraceRequest>) -> Result<Response<GetTraceResponse>, Status> {
        let id = trace_id(&request.into_inner().trace_id).map_err(|error| status_of(&error))?;
        let spans = self.with(|state, _| Some(state.traces.get(&id)?.into_iter().map(message).collect()));
        let spans = spans.ok_or_else(|| status_of(&Error::new(Reason::NotFound, "no span of this trace is kept")))?;
        Ok(Response::new(GetTraceResponse { spans }))
    }
}

fn checked(request: &SummaryRequest) -> Result<(Duration, Option<ModelName>), Error> {
    let window = match &request.window {
        None => DEFAULT_WINDOW,
        Some(window) => from_duration(window)
            .filter(|window| (Duration::from_secs(1)..=LONGEST_WINDOW).contains(window))
            .ok_or_else(|| Error::invalid("window", "must be between 1 s and 600 s"))?,
    };
    let model = match request.model.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|error| Error::invalid("model", error))?),
    };
    Ok((window, model))
}

fn trace_id(text: &str) -> Result<TraceId, Error> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    number.map(u128::to_be_bytes).ok_or_else(|| Error::invalid("trace_id", "must be 32 hexadecimal digits"))
}

fn summary(model: &Model, figures: &Figures) -> ModelSummary {
    let seconds = |histogram: &Histogram, q| {
        let seconds = histogram.quantile(q)?;
        Duration::try_from_secs_f64(seconds).ok().map(duration)
    };
    let batches = figures.batch.count();
    ModelSummary {
        model: model.name.to_string(),
        version: model.version,
        calls: figures.call.count(),
        errors: figures.errors.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect(),
        rate: figures.rate,
        p50: seconds(&figures.call, 0.50),
        p90: seconds(&figures.call, 0.90),
        p99: seconds(&figures.call, 0.99),
        queue_p99: seconds(&figures.queue, 0.99),
        compute_p99: seconds(&figures.compute, 0.99),
        mean_batch: if batches == 0 { 0.0 } else { figures.batch.sum() / batches as f64 },
        sources: u32::try_from(figures.sources).unwrap_or(u32::MAX),
        compute_seconds: figures.compute.sum(),
        durations: None,
    }
}

fn distribution(histogram: &Histogram) -> HistogramMessage {
    let Parts { scale, offset, counts, zeros, .. } = histogram.parts();
    HistogramMessage { scale, offset, counts: counts.to_vec(), zeros }
}

fn message(span: &Span) -> SpanMessage {
    let id = |id: [u8; 8]| format!("{:016x}", u64::from_be_bytes(id));
    let start = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(span.start_unix_nanos));
    SpanMessage {
        name: span.name.clone(),
        span_id: id(span.id),
        parent_span_id: span.parent.map(id).unwrap_or_default(),
        service: span.source.service.to_string(),
        instance: span.source.instance.to_string(),
        start: start.map(timestamp),
        duration: Some(duration(Duration::from_nanos(span.duration_nanos))),
        attributes: span.attributes.iter().cloned().collect::<HashMap<_, _>>(),
        error: span.error.clone(),
    }
}
