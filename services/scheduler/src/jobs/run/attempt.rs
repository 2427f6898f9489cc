//! What a job has done by others: attempts of its actions, and the look at a condition.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use weft_journal::{Record, Shard};
use weft_saga::{Definition, Direction, Event, Fault, Outcome, Phase, Place, Ruling, Wanted};
use weft_telemetry::{Scope, Span, TraceContext};
use weft_types::{Backoff, Deadline, SystemClock};

use super::flight::{Landed, Work};
use super::instant;
use crate::jobs::act::{Attempt, FIRST_PAUSE, Facts, LONGEST_PAUSE, may_be_large, unkept};
use crate::jobs::definition::Act;
use crate::jobs::room::Wish;
use crate::jobs::{Program, Shared};

/// How much longer than its time an attempt may take before it is given up from outside.
const GRACE: Duration = Duration::from_millis(100);
/// How often that is done before a step that has to run is shown as stuck. The engine then asks again by and by.
const LOOKS: u32 = 20;

/// What an attempt is made with: the record as it was committed with the attempt's beginning.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) shard: Shard,
    pub(super) program: Arc<Program>,
    pub(super) record: Arc<Record>,
}

/// Makes an attempt, once there is room for it, and says how it ended. Dropping it ends the attempt.
pub(super) async fn attempt(context: Context, wanted: Wanted, mut span: Span, landing: mpsc::Sender<Landed>) {
    let made = make(&context, &wanted, span.context()).await;
    let event = made.map(|(outcome, place)| {
        context.shared.metrics.record_attempt(direction_name(wanted.direction), outcome_name(&outcome));
        if let Outcome::FailedClean(fault) | Outcome::Unknown(fault) = &outcome {
            span.fail(fault.code.clone());
        }
        let Wanted { step, item, direction, attempt, .. } = wanted;
        Event::Ended { step, item, direction, attempt, outcome, place }
    });
    drop(span);
    // The job has gone when nobody listens.
    let _ = landing.send((Work::Attempt(wanted), event)).await;
}

/// What an attempt came to, and who did it; `None` where it was not begun.
type Made = Option<(Outcome, Option<Place>)>;

/// Tries until its time is over while values are out of reach. Its place is others' meanwhile.
async fn make(context: &Context, wanted: &Wanted, trace: &TraceContext) -> Made {
    let deadline = instant(wanted.until);
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let fault = match make_once(context, wanted, trace, deadline).await {
            Ok(made) => return made,
            Err(fault) => fault,
        };
        tracing::debug!(job = %context.record.id, step = wanted.step, why = fault.message, "an attempt waits for its values");
        let pause = tokio::time::sleep(backoff.next(rand::random()));
        if tokio::time::timeout_at(deadline.into(), pause).await.is_err() {
            return Some((Outcome::FailedClean(fault), None));
        }
    }
}

/// An error where values are out of reach, and nothing was done.
async fn make_once(context: &Context, wanted: &Wanted, trace: &TraceContext, deadline: Instant) -> Result<Made, Fault> {
    let Context { shared, shard, program, record } = context;
    let room = shared.room.take(wanted.direction, wish(program, record, wanted));
    let Ok(_place) = tokio::time::timeout_at(deadline.into(), room).await else {
        // It was never sent.
        let fault = Fault::new("DEADLINE_EXCEEDED", "the scheduler had no room for it in time");
        return Ok(Some((Outcome::FailedClean(fault), None)));
    };
    let now = SystemClock::now();
    // Whoever may not act does not begin: it may have waited for longer than its shard is safe.
    if !shard.holds(now) {
        return Ok(None);
    }
    let attempt = Attempt {
        plan: program,
        facts: facts(record),
        step: wanted.step,
        item: wanted.item,
        direction: wanted.direction,
        number: wanted.attempt,
        epoch: shard.epoch(),
        deadline: Deadline::after(now, deadline.saturating_duration_since(now)),
        trace,
        guards: vec![shared.guard(shard)],
    };
    let made = tokio::time::timeout_at((deadline + GRACE).into(), shared.actor.attempt(attempt));
    let unknown = |fault: Fault| Some((Outcome::Unknown(fault), None));
    match Box::pin(unless_it_panics(made)).await {
        Ok(Ok(made)) => made.map(Some),
        Ok(Err(_)) => Ok(unknown(Fault::new("DEADLINE_EXCEEDED", "its time was over"))),
        Err(panicked) => Ok(unknown(panicked)),
    }
}

/// Looks at a step's condition and list, again and again while values are out of reach: before the decision until the job's deadline, when
/// nobody wants it any more.
pub(super) async fn rule(context: Context, step: usize, landing: mpsc::Sender<Landed>) {
    let Context { shared, program, record, .. } = context;
    let has_way_back = program.definition.steps.get(step).is_some_and(|step| step.phase < Phase::Post);
    let facts = facts(&record);
    let is_large = program.steps.get(step).is_some_and(|planned| may_be_large(planned, None, facts, step));
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut looks = 0;
    let ruling = loop {
        looks += 1;
        let look = async {
            let _place = shared.room.take_ruling(is_large).await;
            shared.actor.rule(&program, facts, step).await
        };
        match unless_it_panics(look).await {
            Ok(Ok(ruling)) => break ruling,
            Ok(Err(fault)) if has_way_back || looks < LOOKS => {
                tracing::debug!(job = %record.id, step, why = fault.message, "a condition cannot be looked at yet");
            }
            Ok(Err(fault)) | Err(fault) => break Ruling::Invalid(fault),
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    };
    // The job has gone when nobody listens.
    let _ = landing.send((Work::Rule(step), Some(Event::Ruled { step, ruling }))).await;
}

/// The place that an attempt needs.
fn wish<'a>(program: &'a Program, record: &Record, wanted: &Wanted) -> Wish<'a> {
    let planned = program.steps.get(wanted.step);
    let act = planned.and_then(|planned| planned.act(wanted.direction));
    let is_large = planned.is_some_and(|planned| may_be_large(planned, act, facts(record), wanted.step));
    Wish { about: act.and_then(Act::other_side), is_large }
}

/// The job as its actions see it.
pub(super) fn facts(record: &Record) -> Facts<'_> {
    Facts {
        id: record.id.as_str(),
        tenant: &record.tenant,
        input: &record.input,
        inline: record.inline_bytes(),
        job: &record.job,
    }
}

async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Result<T, Fault> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| {
        tracing::error!("a job's attempt panicked");
        Fault::new("INTERNAL", "a defect of the scheduler ended it")
    })
}

/// Leaves of an event that is too large for the log an effect that may be, and nothing that came of it; false where nothing did.
pub(super) fn leave_output(event: &mut Event, why: &str, definition: &Definition) -> bool {
    let Event::Ended { step, outcome: outcome @ Outcome::Done(Some(_)), .. } = event else { return false };
    let fault = Fault::new("RESOURCE_EXHAUSTED", format!("its output is too large for the log: {why}"));
    *outcome = unkept(definition.steps.get(*step), fault);
    true
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Action => "action",
        Direction::Undo => "undo",
        Direction::Probe => "probe",
    }
}

const fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Absent => "absent",
        Outcome::FailedClean(_) => "failed_clean",
        Outcome::Unknown(_) => "unknown",
    }
}

/// Which attempt a span is of.
type Key = (usize, usize, Direction, u32);

/// The spans of attempts that are recorded and not begun. They start with the transition that records them, so that the record can
/// tell their ids, and cover its commit.
#[derive(Default)]
pub(super) struct Spans(BTreeMap<Key, Span>);

impl Spans {
    /// Begins a span for each attempt that the record tells of and that is new.
    pub(super) fn begin(&mut self, scope: &Scope, program: &Program, record: &mut Record) {
        let Some(trace) = trace(record).filter(TraceContext::sampled) else { return };
        for (step, node) in record.job.steps.iter_mut().enumerate() {
            for (item, run) in node.items.iter_mut().enumerate() {
                for attempt in run.history.iter_mut().filter(|attempt| attempt.outcome.is_none() && attempt.span == 0) {
                    let span = self.0.entry((step, item, attempt.direction, attempt.number)).or_insert_with(|| {
                        let name = program.definition.steps.get(step).map_or("job step", |step| step.name.as_str());
                        scope.start_client(name, Some(&trace))
                    });
                    if span.is_recording() {
                        attempt.span = u64::from_str_radix(&span.context().span_id(), 16).unwrap_or(0);
                    }
                }
            }
        }
    }

    /// The span of an attempt that begins; one without a record of it where the trace is not sampled, or where another scheduler recorded it.
    pub(super) fn take(&mut self, scope: &Scope, record: &Record, wanted: &Wanted) -> Span {
        let key = (wanted.step, wanted.item, wanted.direction, wanted.attempt);
        self.0.remove(&key).unwrap_or_else(|| scope.start_client("job step", trace(record).as_ref()))
    }
}

/// Where a job stands in its trace.
fn trace(record: &Record) -> Option<TraceContext> {
    TraceContext::new(record.trace_id, record.span.to_be_bytes(), record.sampled)
}
