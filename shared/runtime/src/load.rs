//! The server's load, told to those who balance calls over servers: with each answer, and out of band (ORCA, gRFC A51).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use http::HeaderValue;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use weft_proto::orca::open_rca_service_server::{OpenRcaService, OpenRcaServiceServer};
use weft_proto::orca::{OrcaLoadReport, OrcaLoadReportRequest, TRAILER, value};
use weft_proto::{from_duration, status_of};
use weft_types::{Error, Reason};

/// The least time between two reports on a stream.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The most, so that any interval can be waited for.
const MAX_INTERVAL: Duration = Duration::from_secs(3_600);
/// Streams of reports at once.
const MAX_STREAMS: usize = 64;

/// A report as an answer's trailers carry it.
#[derive(Clone, Debug)]
pub struct Trailer(HeaderValue);

impl Trailer {
    /// Writes a report down.
    pub fn of(report: &OrcaLoadReport) -> Option<Self> {
        // Base64 is always a header's value.
        HeaderValue::from_bytes(value(report).as_encoded_bytes()).ok().map(Self)
    }

    /// Puts it among trailers, in the place of any other.
    pub fn add(self, trailers: &mut http::HeaderMap) {
        trailers.insert(TRAILER, self.0);
    }
}

/// Puts a report into an answer's trailers, whether it is a success or a failure.
pub fn told<T>(outcome: Result<Response<T>, Status>, report: &OrcaLoadReport) -> Result<Response<T>, Status> {
    let Some(trailer) = Trailer::of(report) else { return outcome };
    match outcome {
        Ok(mut response) => {
            // tonic knows no trailers of a unary answer: the server adds it when they pass.
            response.extensions_mut().insert(trailer);
            Ok(response)
        }
        // An answer without a message has its trailers where others have their headers.
        Err(mut status) => {
            trailer.add(status.metadata_mut().as_mut());
            Err(status)
        }
    }
}

/// Takes a sample of the server's load.
type Sample = Arc<dyn Fn() -> OrcaLoadReport + Send + Sync>;

/// `xds.service.orca.v3.OpenRcaService`.
#[derive(Clone)]
pub struct LoadReports {
    sample: Sample,
    streams: Arc<Semaphore>,
}

impl LoadReports {
    /// The service for what `sample` tells; it is asked once for each report.
    pub fn server(sample: impl Fn() -> OrcaLoadReport + Send + Sync + 'static) -> OpenRcaServiceServer<Self> {
        OpenRcaServiceServer::new(Self { sample: Arc::new(sample), streams: Arc::new(Semaphore::new(MAX_STREAMS)) })
    }
}

#[tonic::async_trait]
impl OpenRcaService for LoadReports {
    type StreamCoreMetricsStream = Pin<Box<dyn Stream<Item = Result<OrcaLoadReport, Status>> + Send>>;

    /// The first report comes at once, each later one is the whole load again. The server's drain ends it.
    async fn stream_core_metrics(
        &self,
        request: Request<OrcaLoadReportRequest>,
    ) -> Result<Response<Self::StreamCoreMetricsStream>, Status> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            let error = Error::new(Reason::Overloaded, format!("{MAX_STREAMS} streams of load reports are open"));
            return Err(status_of(&error.retry_after(MIN_INTERVAL)));
        };
        let interval = interval(request.get_ref());
        let sample = Arc::clone(&self.sample);
        let reports = stream::unfold((sample, place, Duration::ZERO), move |(sample, place, wait)| async move {
            tokio::time::sleep(wait).await;
            let report = sample();
            Some((Ok(report), (sample, place, interval)))
        });
        Ok(Response::new(Box::pin(reports)))
    }
}

/// How often to report. One that is absent or no duration is the least, as zero is.
fn interval(request: &OrcaLoadReportRequest) -> Duration {
    let asked = request.report_interval.as_ref().and_then(from_duration).unwrap_or_default();
    asked.clamp(MIN_INTERVAL, MAX_INTERVAL)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use prost_types::Duration as Wire;
    use tonic::Code;

    use super::*;

    #[test]
    fn intervals_are_kept_within_bounds() {
        let every = |seconds, nanos| {
            interval(&OrcaLoadReportRequest { report_interval: Some(Wire { seconds, nanos }), ..Default::default() })
        };
        assert_eq!(interval(&OrcaLoadReportRequest::default()), MIN_INTERVAL);
        let table = [(0, 0), (0, 1), (-5, 0), (3, -1), (2, 500_000_000), (i64::MAX, 0)];
        let expected =
            [MIN_INTERVAL, MIN_INTERVAL, MIN_INTERVAL, MIN_INTERVAL, Duration::from_millis(2_500), MAX_INTERVAL];
        assert_eq!(table.map(|(seconds, nanos)| every(seconds, nanos)), expected);
    }

    #[tokio::test]
    async fn streams_are_bounded_and_give_their_place_back() {
        let service =
            LoadReports { sample: Arc::new(OrcaLoadReport::default), streams: Arc::new(Semaphore::new(MAX_STREAMS)) };
        let open = async || service.stream_core_metrics(Request::new(OrcaLoadReportRequest::default())).await;
        let mut streams = Vec::new();
        for _ in 0..MAX_STREAMS {
            streams.push(open().await.expect("there is room").into_inner());
        }
        assert_eq!(open().await.err().map(|status| status.code()), Some(Code::ResourceExhausted));
        let mut last = streams.pop().expect("some are open");
        assert_eq!(last.next().await.expect("the first comes at once").expect("a report"), OrcaLoadReport::default());
        drop(last);
        assert!(open().await.is_ok());
    }

    #[test]
    fn a_failure_carries_the_report_among_what_it_is_told_with() {
        let report = OrcaLoadReport { application_utilization: 0.5, ..OrcaLoadReport::default() };
        let mut status = told::<()>(Err(Status::unavailable("full")), &report).expect_err("still one");
        let load = weft_proto::orca::take(status.metadata_mut()).expect("carried");
        assert_eq!((status.code(), load.utilization), (Code::Unavailable, Some(0.5)));
    }
}
