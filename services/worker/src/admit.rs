//! What is taken into a replica's queue, and what is refused at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_engine::Inputs;
use weft_types::{Deadline, Error, Reason, Result};

use crate::quarantine::{self, Standing};
use crate::queue::{self, Refusal, Ticket, Urgency};
use crate::replica::Replica;

/// The bounds of the wait that a full queue asks for.
pub(crate) const PUSHBACK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// A request with its urgency.
pub(crate) struct Request {
    /// Checked against the signature.
    pub(crate) inputs: Inputs,
    /// As the caller gave it: 0 is the model's default.
    pub(crate) priority: u64,
    pub(crate) deadline: Deadline,
    /// Who it is for, as a number: equal for equal names.
    pub(crate) tenant: u64,
    /// Whether it came on a stream.
    pub(crate) on_stream: bool,
}

/// Queues a request whose deadline can be met.
pub(crate) fn admit(replica: &Arc<Replica>, request: Request, now: Instant) -> Result<Ticket> {
    let Request { inputs, priority, deadline, tenant, on_stream } = request;
    let suspect = match replica.quarantine.judge(&inputs, now) {
        Standing::Clear => None,
        Standing::Suspect(digest) => Some(digest),
        Standing::Refused => {
            replica.metrics.record_quarantined();
            return Err(quarantine::refusal());
        }
    };
    let urgency = Urgency { band: replica.plan.band(priority), deadline, tenant };
    let rows = replica.rows(&inputs);
    let estimate = replica.estimate(rows, Some(urgency), now);
    let remaining = deadline.remaining(now);
    // Who finds nothing else to be done is tried: an estimate that is too high would refuse every call otherwise, and never be
    // corrected.
    let predicts = replica.plan.predictable && !replica.is_idle();
    let late = predicts && estimate.is_some_and(|needed| needed > remaining) && !replica.makes_way(rows, urgency, now);
    if deadline.expired(now) || late {
        let needed = estimate.unwrap_or_default();
        let message = format!("{} ms remain, about {} ms are needed", remaining.as_millis(), needed.as_millis());
        return Err(Error::new(Reason::DeadlineInfeasible, message));
    }
    let rule = replica.plan.bands.rule(urgency.band);
    let request = queue::Request { inputs, rows, urgency, suspect, on_stream, rule };
    replica.queue.push(request, now).map_err(|refusal| match refusal {
        Refusal::Full => {
            // By then about what waits now has been served.
            let wait = estimate.unwrap_or(PUSHBACK.0).clamp(PUSHBACK.0, PUSHBACK.1);
            Error::new(Reason::QueueFull, "the queue of the model is full").retry_after(wait)
        }
        Refusal::Closed => Error::new(Reason::Draining, "the replica is draining"),
    })
}
