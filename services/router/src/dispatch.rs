//! The attempts of a call: on one replica, and once elsewhere when that cannot have had an effect or may be repeated.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use weft_client::{outgoing, tenant, unary, within, worker};
use weft_policy::Terms;
use weft_policy::eject::Evidence;
use weft_policy::hedge;
use weft_policy::retry::{Attempt, Verdict, may_retry};
use weft_proto::message::Message;
use weft_proto::{error_of, forbids_retry, orca, status_of};
use weft_runtime::Call;
use weft_telemetry::{InFlight, ModelMetrics, Span, TraceContext};
use weft_types::{Deadline, Error, MIN_RESERVE, Reason, Result, SystemClock, Version, WorkerId};

use crate::admit::admit;
use crate::choose::{choose, terms};
use crate::endpoint::{Ending, Endpoint, Permit};
use crate::gate::{Gate, Permit as Place};
use crate::hedge::hedged;
use crate::identify::{Wanted, identify};
use crate::route::{Routed, Target, route};
use crate::rules::Rules;
use crate::table::Replica;
use crate::unary::PATH;
use crate::{Inner, cache, shadow};

pub(crate) const METHOD: &str = "inference.GRPCInferenceService/ModelInfer";
/// Tells the worker which model is meant, whatever route the message names.
pub(crate) const MODEL: &str = "weft-model";
/// Tells the worker which version is meant.
pub(crate) const VERSION: &str = "weft-version";
/// How many attempts came before this one (gRFC A6).
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";
/// Replicas that are asked for a sequence which is not where it would begin today: replicas that came since may have moved that
/// place, and a caller that made its sequence up must not make work for all.
const SEQUENCE_SEARCH: usize = 4;
/// What a caller is told to wait when a model did not become ready in time.
const LOADING_PUSHBACK: Duration = Duration::from_secs(1);

/// A replica that was chosen for a call, with the load that the call puts on it.
pub(crate) struct Chosen {
    pub(crate) permit: Permit,
    pub(crate) model: String,
    pub(crate) version: Version,
    pub(crate) metrics: ModelMetrics,
    gate: Arc<Gate>,
    /// Counts the call among those in flight, in the metrics.
    _in_flight: InFlight,
}

impl Chosen {
    /// The replica that `permit` was given for.
    pub(crate) fn of(target: Target<'_>, permit: Permit) -> Self {
        let metrics = target.ready.metrics.clone();
        let (_in_flight, gate) = (metrics.in_flight(), Arc::clone(&target.ready.gate));
        Self { permit, model: target.model.to_owned(), version: target.version, metrics, gate, _in_flight }
    }

    /// The true model and version, as the protocol writes them.
    pub(crate) fn names(&self) -> (String, String) {
        (self.model.clone(), self.version.to_string())
    }

    /// The answer that it gave.
    pub(crate) fn answered(self, response: Response<Message>) -> Answered {
        Answered { response, model: self.model, version: self.version }
    }

    /// Names the model to the worker, and the tenant that the caller has named.
    pub(crate) fn address<T>(&self, request: &mut Request<T>, caller: Option<&MetadataMap>) {
        let headers: &mut HeaderMap = request.metadata_mut().as_mut();
        self.mark(headers);
        if let Some(tenant) = caller.and_then(tenant::header) {
            headers.insert(tenant::HEADER, tenant.clone());
        }
    }

    /// Names the model in a call's headers.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        // Model names are ASCII by their check, so this is always a header's value.
        if let Ok(model) = HeaderValue::from_str(&self.model) {
            headers.insert(MODEL, model);
        }
        headers.insert(VERSION, HeaderValue::from(self.version.get()));
    }

    /// Begins the span of an attempt on this replica.
    pub(crate) fn span(&self, router: &Inner, method: &str, parent: &TraceContext, before: u32) -> Span {
        let mut span = router.scope.start_client(method, Some(parent));
        if span.is_recording() {
            span.set("weft.worker", self.permit.endpoint().worker.to_string());
            span.set("weft.model", self.model.clone());
            span.set("weft.version", self.version.to_string());
            span.set("weft.attempt", i64::from(before) + 1);
        }
        span
    }

    /// Asks this replica, and notes what that took.
    pub(crate) async fn ask(
        &self,
        router: &Inner,
        (mut span, deadline): (Span, Deadline),
        request: Request<Message>,
    ) -> Result<Response<Message>, Status> {
        let timed = self.permit.time(&router.outliers, deadline);
        let mut outcome = unary(&self.permit.endpoint().channel, PathAndQuery::from_static(PATH), request).await;
        // Taken off: what a replica tells of itself is not the router's to say.
        let report = match &mut outcome {
            Ok(response) => orca::take(response.metadata_mut()),
            Err(status) => orca::take(status.metadata_mut()),
        };
        if let Some(report) = report {
            let now = SystemClock::now();
            router.load.hear(&report, now);
            self.permit.hear(&report, now);
            self.gate.hear(&report);
        }
        let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        let evidence = outcome.as_ref().map_or_else(evidence, |_| Evidence::Success);
        router.scope.metrics().record_client_call(METHOD, code, timed.end(ending(code), evidence));
        if let Err(status) = &outcome {
            span.fail(weft_telemetry::status_name(status.code()));
        }
        outcome.map(|response| Response::new(response.into_inner()))
    }
}

/// A call's answer, and what gave it.
pub(crate) struct Answered {
    pub(crate) response: Response<Message>,
    pub(crate) model: String,
    pub(crate) version: Version,
}

/// Answers one unary inference.
pub(crate) async fn infer(
    router: &Arc<Inner>,
    call: &Call,
    metadata: &MetadataMap,
    message: Message,
) -> Result<Response<Message>, Status> {
    let head = message.head().map_err(|error| status_of(&error))?;
    let wanted = identify(metadata, &head, call.deadline).map_err(|error| status_of(&error))?;
    let wanted = Wanted { request: message.request(), ..wanted };
    let rules = router.table.load().rules_beyond(wanted.name);
    if let Some(rules) = rules {
        // Apart from the common path, whose future it would make larger.
        return Box::pin(by_rules(router, call, wanted, &message, &rules)).await;
    }
    let sent = std::pin::pin!(send(router, call, &wanted, &message, None));
    sent.await.map(|answered| answered.response)
}

/// Answers a call of a route that hedges calls or keeps answers.
async fn by_rules(
    router: &Arc<Inner>,
    call: &Call,
    wanted: Wanted<'_>,
    message: &Message,
    rules: &Rules,
) -> Result<Response<Message>, Status> {
    let send = || send(router, call, &wanted, message, rules.hedging);
    match &rules.cache {
        Some(cache) => cache::answer(router, &wanted, message, cache, send).await,
        None => send().await.map(|answered| answered.response),
    }
}

/// Sends a call to replicas, and its copy to a shadow.
async fn send(
    router: &Arc<Inner>,
    call: &Call,
    wanted: &Wanted<'_>,
    message: &Message,
    hedging: Option<hedge::Settings>,
) -> Result<Answered, Status> {
    lock(router).deposit();
    let copied = shadow::copy(router, call, wanted, message);
    // A part of a sequence that is done twice is another sequence.
    let answer = match hedging.filter(|_| wanted.sequence.is_none()) {
        Some(settings) => {
            let attempts = hedged(router, call, wanted, message, settings);
            within(wanted.deadline, Box::pin(admitted(router, wanted, message.len(), attempts))).await
        }
        None => {
            // Pinned where it begins: it is kilobytes long, and would be moved into the timer's future.
            let attempts = attempts(router, call, wanted, message);
            let attempts = std::pin::pin!(admitted(router, wanted, message.len(), attempts));
            // The call's own deadline is kept by whoever called this; a copy wants to know what became of the call.
            if wanted.deadline == call.deadline && copied.is_none() {
                attempts.await
            } else {
                within(wanted.deadline, attempts).await
            }
        }
    };
    if let Some(copied) = copied {
        copied.compare(answer.as_ref().map(|answered| answered.response.get_ref()));
    }
    answer
}

/// Makes the attempts once it is the call's turn. All of them take the place of one call.
async fn admitted(
    router: &Inner,
    wanted: &Wanted<'_>,
    bytes: usize,
    attempts: impl Future<Output = Result<Answered, Status>>,
) -> Result<Answered, Status> {
    let place = turn(router, wanted, bytes).await.map_err(|error| status_of(&error))?;
    let outcome = attempts.await;
    place.end(outcome.as_ref().map_or_else(Status::code, |_| Code::Ok));
    outcome
}

/// A call's place: where no replica is ready, it is held until one is, and waits for its turn then.
pub(crate) async fn turn(router: &Inner, wanted: &Wanted<'_>, bytes: usize) -> Result<Place> {
    loop {
        if let Some(place) = admit(router, wanted, bytes).await? {
            return Ok(place);
        }
        // Whoever was chosen is not kept: the choice is made when it is the call's turn.
        drop(acquire(router, wanted, &mut Vec::new()).await?);
    }
}

async fn attempts(router: &Inner, call: &Call, wanted: &Wanted<'_>, message: &Message) -> Result<Answered, Status> {
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut made = 0;
    let mut unknown = None;
    loop {
        let chosen = match unknown.take() {
            None => acquire(router, wanted, &mut tried).await.map_err(|error| status_of(&error))?,
            // Nobody else who might have the sequence is waited for.
            Some(status) => draw(router, wanted, &tried).ok().flatten().ok_or(status)?,
        };
        let status = match attempt(router, call, wanted, &chosen, (message.clone(), made)).await {
            Ok(response) => return Ok(chosen.answered(response)),
            Err(status) => status,
        };
        let error = error_of(&status);
        tried.push(Arc::clone(chosen.permit.endpoint()));
        if error.reason() == Reason::SequenceUnknown && tried.len() < SEQUENCE_SEARCH {
            unknown = Some(status);
            continue;
        }
        if is_unprocessed(&error) {
            // Trying another replica costs no budget (gRFC A6, transparent retry). The deadline bounds how often.
            continue;
        }
        made += 1;
        let remaining = wanted.deadline.remaining(SystemClock::now());
        let attempt = Attempt { error: &error, made, remaining, started: false };
        let verdict = may_retry(&router.options.retry, &attempt);
        if verdict == Verdict::GiveUp || forbids_retry(&status) || !lock(router).withdraw(SystemClock::now()) {
            return Err(status);
        }
        chosen.metrics.record_retry();
        if let Verdict::After(wait) = verdict {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Whether nothing was done about the call: it never left, or the worker does not hold the replica yet or any more.
pub(crate) fn is_unprocessed(error: &Error) -> bool {
    matches!(error.reason(), Reason::NoReadyReplica | Reason::ModelLoading | Reason::Draining)
}

pub(crate) fn lock(router: &Inner) -> std::sync::MutexGuard<'_, weft_policy::retry::Budget> {
    // The budget is a number and an instant: a panic elsewhere cannot have left it half changed.
    router.budget.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn attempt(
    router: &Inner,
    call: &Call,
    wanted: &Wanted<'_>,
    chosen: &Chosen,
    (message, before): (Message, u32),
) -> Result<Response<Message>, Status> {
    let span = chosen.span(router, METHOD, &call.trace, before);
    let mut request = outgoing(message, wanted.deadline, span.context()).map_err(|error| status_of(&error))?;
    chosen.address(&mut request, wanted.metadata);
    if before > 0 {
        request.metadata_mut().insert(PREVIOUS_ATTEMPTS, MetadataValue::from(before));
    }
    let mut outcome = chosen.ask(router, (span, wanted.deadline), request).await;
    if wanted.metadata.is_some_and(worker::is_asked) {
        let metadata = match &mut outcome {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        worker::tell(metadata, &chosen.permit.endpoint().worker);
    }
    outcome
}

/// What a call's end tells of its replica. Whoever is out of room or of order is not to be given more for how fast it says so; what a
/// caller did wrong, or gave too little time for, says nothing against it.
pub(crate) const fn ending(code: Code) -> Ending {
    match code {
        Code::Unavailable | Code::ResourceExhausted | Code::Internal | Code::Unknown => Ending::Failed,
        Code::Ok => Ending::Answered,
        _ => Ending::Refused,
    }
}

/// What a failure says about the replica and its worker. One that the worker told has come with a response's headers; one that was found
/// here has not.
pub(crate) fn evidence(status: &Status) -> Evidence {
    let reason = error_of(status).reason();
    if status.metadata().contains_key(http::header::CONTENT_TYPE.as_str()) {
        Evidence::told(reason)
    } else {
        Evidence::unanswered(reason)
    }
}

/// Chooses a replica that was not tried yet. When there is none, the call is held until one becomes ready, up to its deadline.
pub(crate) async fn acquire(router: &Inner, wanted: &Wanted<'_>, tried: &mut Vec<Arc<Endpoint>>) -> Result<Chosen> {
    if let Some(chosen) = draw(router, wanted, tried)? {
        return Ok(chosen);
    }
    let Ok(_hold) = router.holds.try_acquire() else {
        let full = "no replica is ready, and too many calls wait for one";
        return Err(Error::new(Reason::Overloaded, full).retry_after(LOADING_PUSHBACK));
    };
    // The answer must still reach the caller in time.
    let patience = wanted.deadline.remaining(SystemClock::now()).saturating_sub(MIN_RESERVE);
    tokio::time::timeout(patience, hold(router, wanted, tried)).await.unwrap_or_else(|_| {
        let late = "no replica became ready before the deadline";
        Err(Error::new(Reason::ModelLoading, late).retry_after(LOADING_PUSHBACK))
    })
}

async fn hold(router: &Inner, wanted: &Wanted<'_>, tried: &mut Vec<Arc<Endpoint>>) -> Result<Chosen> {
    let mut swaps = router.swapped.subscribe();
    let mut _asking = router.wake(wanted);
    loop {
        // A broken connection mends without any change of the table, so look again after a while as well; whoever was
        // tried may be tried again by then.
        if let Ok(changed) = tokio::time::timeout(router.options.hold_poll, swaps.changed()).await
            && changed.is_err()
        {
            return Err(Error::new(Reason::Draining, "the router is shutting down"));
        }
        if let Some(chosen) = draw(router, wanted, tried)? {
            return Ok(chosen);
        }
        tried.clear();
        // What the call could go to may have changed. Whoever is asked for still stays asked for: the new ones are held first.
        _asking = router.wake(wanted);
    }
}

/// Draws a replica that was not tried yet: the one where the call's sequence would begin, if it belongs to one, or where its route's
/// affinity leads; `None` when none is ready.
pub(crate) fn draw(router: &Inner, wanted: &Wanted<'_>, tried: &[Arc<Endpoint>]) -> Result<Option<Chosen>> {
    let fresh = |permit: &Permit| !tried.iter().any(|endpoint| Arc::ptr_eq(endpoint, permit.endpoint()));
    pick(router, wanted, |replicas, terms| choose(replicas, tried, terms).filter(fresh))
}

/// The replica on a certain worker, if that one is ready; it may be draining.
pub(crate) fn draw_on(router: &Inner, wanted: &Wanted<'_>, worker: &WorkerId) -> Result<Option<Chosen>> {
    let on = |replica: &&Replica| replica.endpoint.worker == *worker;
    pick(router, wanted, |replicas, _| replicas.iter().find(on).map(Replica::enter))
}

fn pick(
    router: &Inner,
    wanted: &Wanted<'_>,
    of: impl FnOnce(&[Replica], Terms) -> Option<Permit>,
) -> Result<Option<Chosen>> {
    let table = router.table.load();
    let marks = wanted.marks();
    let now = SystemClock::now();
    match route(&table, wanted.name, wanted.version, &marks, now)? {
        Routed::Coming => Ok(None),
        Routed::Ready(target) => {
            let terms = terms(wanted, &target, &marks, now)?;
            Ok(of(&target.ready.replicas, terms).map(|permit| Chosen::of(target, permit)))
        }
    }
}
