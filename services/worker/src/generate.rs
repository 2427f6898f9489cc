//! One request for a language model, from the message to the last of its responses.
//!
//! [`request`] reads it, the engine's own queue admits it, and its pieces become responses as they come. Nothing is buffered
//! here: a piece is asked for when the response before it has been taken, so that who does not read pauses his own sequence.
//! Dropping the future or the stream drops the sequence, and with it its slot.

mod ports;
mod request;
mod response;
mod sampling;
mod trial;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::task::task_tracker::TaskTrackerToken;
use weft_engine::{Generation, Piece};
use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_runtime::Call;
use weft_telemetry::{Scope, Tokens};
use weft_types::{Deadline, Error, Reason, Result, SystemClock};

use crate::answer::Record;
use crate::error::Failure;
use crate::infer;
use crate::quarantine::Standing;
use crate::queue::Timing;
use crate::replica::{Replica, unloading};
use request::{Form, Method, Terms};
use response::Telling;
use trial::Trial;

pub(crate) use ports::signature;

/// What a caller is told to wait when as many sequences wait as may.
const PUSHBACK: Duration = Duration::from_millis(500);

/// A request with what it came with, for a replica of a language model.
pub(crate) struct Incoming {
    pub(crate) replica: Arc<Replica>,
    pub(crate) scope: Scope,
    pub(crate) call: Call,
    pub(crate) request: ModelInferRequest,
}

/// A response, and whether it is the request's last.
pub(crate) type Told = (ModelInferResponse, bool);

/// Answers with the whole text.
pub(crate) async fn whole(incoming: Incoming) -> Result<ModelInferResponse, Failure> {
    let mut sequence = Sequence::begin(incoming, Method::Unary).await?;
    let outcome = sequence.rest().await;
    sequence.record.end(outcome.as_ref().err());
    outcome
}

/// Answers with the pieces as they come; a failure is the last item.
pub(crate) fn pieces(incoming: Incoming) -> impl Stream<Item = Result<Told, Failure>> + Send {
    stream::unfold(Progress::New(Box::new(incoming)), |progress| async move {
        let mut sequence = match progress {
            Progress::Over => return None,
            Progress::Running(sequence) => sequence,
            Progress::New(incoming) => match Sequence::begin(*incoming, Method::Stream).await {
                Ok(sequence) => Box::new(sequence),
                Err(failure) => return Some((Err(failure), Progress::Over)),
            },
        };
        let outcome = sequence.response().await;
        if let Ok((_, false)) = &outcome {
            return Some((outcome, Progress::Running(sequence)));
        }
        sequence.record.end(outcome.as_ref().err());
        Some((outcome, Progress::Over))
    })
}

enum Progress {
    New(Box<Incoming>),
    Running(Box<Sequence>),
    Over,
}

/// How many sequences of a replica run, and how many wait.
pub(crate) fn load(replica: &Replica) -> Option<(u32, u32)> {
    let occupancy = replica.model.language()?.occupancy();
    Some((occupancy.running, occupancy.waiting))
}

/// A sequence under way.
struct Sequence {
    record: Record,
    generation: Generation,
    /// Until the sequence has ended.
    trial: Option<Trial>,
    telling: Telling,
    method: Method,
    /// The caller's mark.
    id: String,
    is_streamed: bool,
    /// When the first piece came.
    started: Option<Instant>,
    /// Lets the replica's drain wait for it.
    _counted: TaskTrackerToken,
}

impl Sequence {
    async fn begin(incoming: Incoming, method: Method) -> Result<Self, Failure> {
        let Incoming { replica, scope, call, request } = incoming;
        let mut record = Record::begin(replica, &scope, &call);
        // Before the engine is asked, so that a drain that begins meanwhile waits for it.
        let counted = record.replica.sequences.token();
        match queue(&mut record, &call, (request, method)).await {
            Ok(Begun { generation, trial, form, id }) => Ok(Self {
                _counted: counted,
                record,
                generation,
                trial: Some(trial),
                is_streamed: form.is_streamed,
                telling: Telling::new(form),
                method,
                id,
                started: None,
            }),
            Err(failure) => {
                record.end(Some(&failure));
                Err(failure)
            }
        }
    }

    /// The next response, and whether it is the last.
    async fn response(&mut self) -> Result<Told, Failure> {
        if !self.is_streamed {
            return self.rest().await.map(|response| (response, true));
        }
        loop {
            let piece = self.next().await?;
            let is_last = piece.end.is_some();
            if is_last || !piece.text.is_empty() || !piece.tokens.is_empty() {
                return Ok((self.respond(&piece), is_last));
            }
        }
    }

    /// All that comes, in one response.
    async fn rest(&mut self) -> Result<ModelInferResponse, Failure> {
        let mut whole = Piece::default();
        while whole.end.is_none() {
            response::join(&mut whole, self.next().await?);
        }
        Ok(self.respond(&whole))
    }

    fn respond(&mut self, piece: &Piece) -> ModelInferResponse {
        let identity = &self.record.replica.identity;
        infer::respond((&identity.name, identity.version), self.id.clone(), self.telling.tensors(piece), None)
    }

    async fn next(&mut self) -> Result<Piece, Failure> {
        let asked = SystemClock::now();
        let is_suspect = self.trial.as_ref().is_some_and(Trial::is_of_suspect);
        let is_movable = self.method == Method::Unary && !is_suspect;
        let Self { record, generation, .. } = self;
        let piece = tokio::select! {
            // A piece that is there when the deadline strikes is delivered.
            biased;
            piece = generation.next() => piece,
            failure = over(&record.replica, record.deadline, (is_movable, self.started.is_some())) => return Err(failure),
        };
        let now = SystemClock::now();
        match piece {
            Some(Ok(piece)) => {
                self.measure(&piece, asked, now);
                if piece.end.is_some() {
                    self.trial.take().into_iter().for_each(Trial::acquit);
                }
                Ok(piece)
            }
            Some(Err(error @ weft_engine::Error::Lost(_))) => {
                self.trial.take().into_iter().for_each(Trial::blame);
                let is_late = record.deadline.expired(now);
                Err(if is_late { late(self.started.is_some()).into() } else { failure(error) })
            }
            // The engine watches the deadline as well, and may be the first to notice.
            Some(Err(_)) if record.deadline.expired(now) => Err(late(self.started.is_some()).into()),
            Some(Err(error)) => Err(failure(error)),
            None => Err(Error::new(Reason::Internal, "the model's runtime ended the sequence without a word").into()),
        }
    }

    /// `asked` is when the piece was waited for: a slow reader's own time is not the model's.
    fn measure(&mut self, piece: &Piece, asked: Instant, now: Instant) {
        let tokens = u32::try_from(piece.tokens.len()).unwrap_or(u32::MAX);
        let replica = &self.record.replica;
        let metrics = &replica.metrics;
        match self.started {
            None => metrics.record_first_token(now.saturating_duration_since(self.record.began)),
            Some(_) => metrics.record_next_tokens(now.saturating_duration_since(asked), tokens),
        }
        let started = *self.started.get_or_insert(now);
        // Until its end says how long it waited for its first step, all until its first piece counts as that.
        let whole = now.saturating_duration_since(self.record.began);
        let queue =
            piece.end.map_or_else(|| started.saturating_duration_since(self.record.began), |(_, usage)| usage.queued);
        let compute = whole.saturating_sub(queue);
        self.record.timing = Some(Timing { queue, compute, rows: 1 });
        metrics.record_tokens(Tokens::Output, tokens);
        if let Some((_, usage)) = piece.end {
            metrics.record_tokens(Tokens::Input, usage.prompt_tokens.saturating_sub(usage.cached_tokens));
            metrics.record_tokens(Tokens::Cached, usage.cached_tokens);
            metrics.record_preemptions(usage.preemptions);
            metrics.record_queue(queue);
            replica.stats.queued(queue);
            replica.stats.execution(1, 1, compute, SystemClock::wall());
        }
    }
}

/// A sequence that the engine has taken.
struct Begun {
    generation: Generation,
    trial: Trial,
    form: Form,
    id: String,
}

/// Reads the request and gives it to the engine's queue.
async fn queue(
    record: &mut Record,
    call: &Call,
    (request, method): (ModelInferRequest, Method),
) -> Result<Begun, Failure> {
    let replica = Arc::clone(&record.replica);
    let Some(language) = replica.model.language() else {
        return Err(Error::new(Reason::Internal, "not a language model").into());
    };
    let mut inference = infer::convert(request)?;
    if let Some(timeout) = inference.timeout {
        record.deadline = record.deadline.earlier(Deadline::after(call.received, timeout));
    }
    let band = replica.plan.band(inference.priority);
    let terms = Terms { method, band, deadline: record.deadline, capacity: language.capacity() };
    let id = std::mem::take(&mut inference.id);
    let inputs = inference.tensors.clone();
    let (sequence, form) = request::read(inference, &terms)?;
    if record.deadline.expired(SystemClock::now()) {
        return Err(Error::new(Reason::DeadlineInfeasible, "nothing of the deadline remains").into());
    }
    if replica.sequences.is_closed() {
        return Err(Error::new(Reason::Draining, "the replica is draining").into());
    }
    let is_suspect = matches!(replica.quarantine.judge(&inputs, SystemClock::now()), Standing::Suspect(_));
    let is_movable = method == Method::Unary && !is_suspect;
    let begin = async {
        let trial = Trial::begin(&replica, inputs).await?;
        match language.generate(sequence).await {
            Ok(generation) => Ok(Begun { generation, trial, form, id }),
            Err(error @ weft_engine::Error::Lost(_)) => {
                trial.blame();
                Err(failure(error))
            }
            Err(error) => Err(failure(error)),
        }
    };
    tokio::select! {
        begun = begin => begun,
        failure = over(&replica, record.deadline, (is_movable, false)) => Err(failure),
    }
}

/// Ends when a sequence has to, and says why. What gives way is sent elsewhere, which only a unary call can be, and what is suspected to end
/// processes is better kept where that is known.
async fn over(replica: &Replica, deadline: Deadline, (is_movable, has_started): (bool, bool)) -> Failure {
    tokio::select! {
        () = tokio::time::sleep_until(deadline.instant().into()) => late(has_started).into(),
        () = replica.aborted() => unloading().into(),
        () = replica.gives_way(), if is_movable => unloading().into(),
    }
}

fn late(has_started: bool) -> Error {
    match has_started {
        true => Error::new(Reason::DeadlineRunning, "the deadline passed while the model ran"),
        false => Error::new(Reason::DeadlineInQueue, "the deadline passed before the first token"),
    }
}

fn failure(error: weft_engine::Error) -> Failure {
    match Failure::from(error) {
        Failure::Weft(full) if full.reason() == Reason::QueueFull => full.retry_after(PUSHBACK).into(),
        failure => failure,
    }
}

#[cfg(test)]
mod tests;
