//! What every call takes to the next hop: a deadline that is earlier than the caller's, and the trace.

use std::future::Future;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::HeaderValue;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use weft_proto::status_of;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, Error, Reason, Result, SystemClock, timeout};

/// Writes the next hop's deadline and trace into its headers; fails when no time would be left to work with.
pub fn prepare(headers: &mut HeaderMap, deadline: Deadline, trace: &TraceContext, now: Instant) -> Result<Deadline> {
    let Some(next) = deadline.for_next_hop(now, Duration::ZERO) else {
        return Err(Error::new(Reason::DeadlineInfeasible, "too little time is left for another hop"));
    };
    let value = timeout::format(next.remaining(now));
    let mut value = HeaderValue::from_str(&value).map_err(|_| Error::new(Reason::Internal, "unwritable timeout"))?;
    // As good as unique: in HPACK's table it would only displace what calls have in common.
    value.set_sensitive(true);
    headers.insert(timeout::HEADER, value);
    trace.inject(headers);
    Ok(next)
}

/// A request that carries the caller's deadline, less this hop's reserve, and the trace.
pub fn outgoing<T>(message: T, deadline: Deadline, trace: &TraceContext) -> Result<Request<T>> {
    let mut headers = HeaderMap::with_capacity(4);
    prepare(&mut headers, deadline, trace, SystemClock::now())?;
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    Ok(request)
}

/// Ends a call at its deadline, whatever it is waiting for: connect, queue or answer.
pub async fn within<T>(deadline: Deadline, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout_at(deadline.instant().into(), call).await.unwrap_or_else(|_| {
        Err(status_of(&Error::new(Reason::DeadlineRunning, "the deadline passed before the answer was ready")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> TraceContext {
        TraceContext::new([1; 16], [2; 8], true).expect("valid ids")
    }

    #[test]
    fn each_hop_has_less_time_than_the_one_before() {
        let now = SystemClock::now();
        let mut deadline = Deadline::after(now, Duration::from_millis(200));
        let mut last = Duration::from_millis(200);
        for _ in 0..5 {
            let mut headers = HeaderMap::new();
            deadline = prepare(&mut headers, deadline, &trace(), now).expect("time is left");
            let told = timeout::parse(headers[timeout::HEADER].as_bytes()).expect("strict");
            assert!(told < last, "{told:?} is not less than {last:?}");
            last = told;
        }
        let spent = Deadline::after(now, Duration::from_millis(1));
        let refused = prepare(&mut HeaderMap::new(), spent, &trace(), now).expect_err("no time");
        assert_eq!(refused.reason(), Reason::DeadlineInfeasible);
    }
}
