//! Answers that are kept for equal calls, on the routes that ask for it. Of calls that are equal at the same time one is sent, and the others
//! wait for its answer.

mod answers;
mod key;

use std::future::Future;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Response, Status};
use weft_client::within;
use weft_proto::message::Message;
use weft_proto::{error_of, status_of};
use weft_telemetry::CacheOutcome;
use weft_types::{Error, Reason, Retry, SystemClock};

use crate::Inner;
use crate::dispatch::Answered;
use crate::identify::Wanted;
use crate::rules::Cache;
pub(crate) use answers::Answers;
use answers::{Found, Outcome};
use key::{Asked, asked};

/// Tells callers where their answer came from: `hit`, `wait` or `miss`.
const MARK: &str = "weft-cache";

/// Answers a call of a route that keeps answers; `send` sends it.
pub(crate) async fn answer<F>(
    router: &Inner,
    wanted: &Wanted<'_>,
    message: &Message,
    cache: &Cache,
    send: impl FnOnce() -> F,
) -> Result<Response<Message>, Status>
where
    F: Future<Output = Result<Answered, Status>>,
{
    let Some(asked) = asked(router, wanted, message) else {
        cache.metrics.record(CacheOutcome::Bypass);
        return send().await.map(|answered| answered.response);
    };
    // Each waits under its own deadline, and who leaves hands over to the next.
    let found = async { Ok(router.answers.find(&asked.key, &SystemClock::now).await) };
    let lead = match within(wanted.deadline, found).await? {
        Found::Kept(outcome) => return given(cache, CacheOutcome::Hit, wanted.id, outcome),
        Found::Waited(outcome) => return given(cache, CacheOutcome::Wait, wanted.id, outcome),
        Found::Nothing(lead) => lead,
    };
    cache.metrics.record(CacheOutcome::Miss);
    let outcome = send().await;
    if let Some((shared, life)) = share(&asked, &outcome, cache) {
        lead.settle(shared, life, SystemClock::now());
    }
    told(CacheOutcome::Miss, outcome.map(|answered| answered.response))
}

/// An answer to an equal call, made this one's own by its id.
fn given(cache: &Cache, from: CacheOutcome, id: &str, outcome: Outcome) -> Result<Response<Message>, Status> {
    cache.metrics.record(from);
    told(from, outcome.map(|message| Response::new(message.answering(id))).map_err(|error| status_of(&error)))
}

fn told(from: CacheOutcome, mut outcome: Result<Response<Message>, Status>) -> Result<Response<Message>, Status> {
    let metadata = match &mut outcome {
        Ok(response) => response.metadata_mut(),
        Err(status) => status.metadata_mut(),
    };
    metadata.insert(MARK, MetadataValue::from_static(from.as_str()));
    outcome
}

/// What those who wait are given, and how long it is kept beyond that; `None` where another of them might fare better.
fn share(asked: &Asked, outcome: &Result<Answered, Status>, cache: &Cache) -> Option<(Outcome, Option<Duration>)> {
    match outcome {
        // The target may have become another one while the call was held.
        Ok(answered) => {
            let life = asked.is_of(&answered.model, answered.version).then_some(cache.ttl);
            Some((Ok(answered.response.get_ref().clone()), life))
        }
        Err(status) => {
            let error = error_of(status);
            let life = error.reason().is_deterministic().then_some(cache.negative_ttl).filter(|life| !life.is_zero());
            is_for_all(&error).then_some((Err(error), life))
        }
    }
}

/// Whether a failure is that of all equal calls. What came of one call's own deadline is not, and what may be tried again is not either: how often
/// that may be is a matter of the deadline, too.
fn is_for_all(error: &Error) -> bool {
    let is_own = matches!(
        error.reason(),
        Reason::Cancelled | Reason::DeadlineInfeasible | Reason::DeadlineInQueue | Reason::DeadlineRunning
    );
    !is_own && error.reason().retry() == Retry::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_fails_for_the_deadline_of_another() {
        for reason in Reason::ALL {
            let for_all = is_for_all(&Error::new(reason, "why"));
            assert_eq!(
                for_all,
                reason.retry() == Retry::Never
                    && !reason.as_str().starts_with("DEADLINE")
                    && reason != Reason::Cancelled
            );
            assert!(for_all || !reason.is_deterministic(), "{reason:?}");
        }
    }
}
