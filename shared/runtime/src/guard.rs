//! What surrounds every call: its context, its deadline, its span and its one record in the metrics.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt as _;
use weft_proto::{code_in, status_of};
use weft_telemetry::{Scope, logged};
use weft_types::{Deadline, Error, SystemClock, timeout};

use crate::Call;
use crate::api::Answers;
use crate::body::{End, Guarded, Limited};
use crate::limit;
use crate::load::Trailer;
use crate::methods::{Method, Methods};
use crate::process::Drain;
use crate::record::{Record, panicked};

/// The bounds on every call of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) message_bytes: u32,
    /// Granted to a unary call that brings no `grpc-timeout`.
    pub(crate) default_timeout: Duration,
    /// The longest deadline: what every stream gets at most, too.
    pub(crate) max_timeout: Duration,
}

/// Shared by every connection of a server.
pub(crate) struct Guard {
    pub(crate) answers: Answers,
    pub(crate) methods: Methods,
    pub(crate) scope: Scope,
    pub(crate) limits: Limits,
    pub(crate) drain: Drain,
}

impl Guard {
    /// Runs one call to its answer; the answer's body goes on under the same guard.
    pub(crate) async fn call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Guarded>, Infallible> {
        let received = SystemClock::now();
        let method = self.methods.get(request.uri().path());
        let mut span = self.scope.start_server_from(method.name, request.headers());
        let trace = span.context().clone();
        let deadline = self.deadline(&request, method, received);
        if let Ok(Some(deadline)) = deadline {
            span.set("weft.deadline_remaining_ms", deadline.remaining(received).as_secs_f64() * 1e3);
        }
        let mut record = Record::new(self.scope.clone(), method.name, received, span, self.drain.call());
        let deadline = match deadline {
            Ok(deadline) => deadline,
            Err(error) => {
                let status = status_of(&error);
                record.finish(status.code());
                return Ok(status.into_http().map(|body| Guarded::new(body, End::Never, record)));
            }
        };
        let open = deadline.unwrap_or_else(|| Deadline::after(received, Duration::MAX));
        let mut request = request.map(|body| Limited::new(body, self.limits.message_bytes));
        request.extensions_mut().insert(Call { deadline: open, received, trace: trace.clone() });
        let mut end = match deadline {
            Some(deadline) => {
                limit::tell(deadline);
                End::At(Box::pin(tokio::time::sleep_until(deadline.instant().into())))
            }
            None => End::WithServer(Box::pin(self.drain.begun().cancelled_owned())),
        };
        let work = match self.answers.direct(request.uri().path()) {
            Some(handler) => Either::Left(handler(request).map(Ok)),
            None => Either::Right(self.answers.routes.clone().oneshot(request.map(tonic::body::Body::new))),
        };
        let work = logged(method.name, &trace, AssertUnwindSafe(work).catch_unwind());
        let outcome = tokio::select! {
            biased;
            // Dropping the handler's future is what stops its work. Looked at first, so that the task is woken then in any case.
            status = &mut end => Err(status),
            outcome = work => Ok(outcome),
        };
        let mut response = match outcome {
            Ok(Ok(Ok(response))) => response,
            Ok(Ok(Err(never))) => match never {},
            Ok(Err(_)) => {
                tracing::error!(rpc.method = method.name, "a handler panicked");
                panicked().into_http()
            }
            Err(status) => status.into_http(),
        };
        if let Some(code) = code_in(response.headers()) {
            record.finish(code);
        }
        let trailer = response.extensions_mut().remove::<Trailer>();
        Ok(response.map(|body| Guarded::new(body, end, record).with(trailer)))
    }

    /// The deadline of a call: the earlier of its `grpc-timeout` and what an Envoy in front gives it; `None` when it may stay open
    /// for good. What is malformed is refused.
    fn deadline<B>(&self, request: &Request<B>, method: Method, now: Instant) -> Result<Option<Deadline>, Error> {
        let (headers, limits) = (request.headers(), self.limits);
        let told = single(headers, timeout::HEADER, timeout::parse)?;
        let of_envoy = single(headers, timeout::ENVOY_HEADER, timeout::parse_millis)?.flatten();
        let granted = match told.into_iter().chain(of_envoy).min() {
            Some(told) => told.min(limits.max_timeout),
            None if method.open_ended => return Ok(None),
            None if method.streams => limits.max_timeout,
            None => limits.default_timeout,
        };
        Ok(Some(Deadline::after(now, granted)))
    }
}

/// A header that may stand once.
fn single<T>(
    headers: &HeaderMap,
    name: &'static str,
    parse: impl Fn(&[u8]) -> Result<T, timeout::ParseError>,
) -> Result<Option<T>, Error> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse(value.as_bytes()).map(Some).map_err(|error| Error::invalid(name, error)),
        (Some(_), Some(_)) => Err(Error::invalid(name, "given more than once")),
    }
}
