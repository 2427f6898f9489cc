//! `ModelStreamInfer`: each message goes to a replica of the model that it names; answers come back as they arrive.
//!
//! A stream keeps one upstream per model, so that the requests of one model stay in order and on one replica; when that
//! replica goes, the upstream is half-closed: answers that are still due come from it, and the next request takes another
//! replica. Where a route's affinity leads to a replica, the upstream's first request decides. Requests that belong to a sequence take the upstream to the replica that the sequence began on, for as long as that one
//! is there, whatever replicas come meanwhile. A request may have many answers:
//! it is due until the one that is marked as its last. Both directions are bounded: a caller that does not read stops its own
//! upstreams, and a worker that is slow stops the caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures_util::future::ready;
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};
use weft_client::{outgoing, within};
use weft_policy::eject::Evidence;
use weft_proto::frame;
use weft_proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use weft_proto::message::Payload;
use weft_proto::raw::InferenceClient;
use weft_proto::{error_of, orca, status_of};
use weft_runtime::{Call, Running};
use weft_types::{Deadline, Error, Reason, Retry, SystemClock, Version, WorkerId};

use crate::Inner;
use crate::dispatch::{Chosen, acquire, draw, draw_on, evidence, is_unprocessed, turn};
use crate::endpoint::Endpoint;
use crate::identify::{Wanted, wanted};
use crate::table::{Replica, Table};

mod sequences;

use sequences::Sequences;

const METHOD: &str = "inference.GRPCInferenceService/ModelStreamInfer";
/// As many upstreams are opened for one request: a replica that ends each at once would be asked without end.
const OPENED: usize = 4;
/// Replicas that the sequences of one stream may be on at once.
const MAX_SEQUENCE_UPSTREAMS: usize = 64;

type Answer = Result<Bytes, Status>;

/// The answers of a stream. Dropping it ends everything that was done for it.
pub(crate) struct Answers {
    receiver: ReceiverStream<Answer>,
    _pump: Running,
}

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Answer>> {
        self.receiver.poll_next_unpin(context)
    }
}

/// Starts a stream.
pub(crate) fn stream(router: &Arc<Inner>, call: Call, metadata: MetadataMap, requests: Streaming<Bytes>) -> Answers {
    let (answers, receiver) = mpsc::channel(router.options.stream_buffer);
    let (opened, upstreams) = mpsc::channel(1);
    let (open, sequences) = (HashMap::new(), Sequences::default());
    let (own, metadata) = (Arc::clone(router), Arc::new(metadata));
    let sender = Sender { router: own, call, metadata, answers: answers.clone(), opened, open, sequences };
    let pump = router.tasks.attach(async move {
        // Both directions at once: a worker that waits for its answers to be read must not stop us from reading them.
        tokio::join!(sender.run(requests), collect(upstreams, answers));
    });
    Answers { receiver: ReceiverStream::new(receiver), _pump: pump }
}

/// Passes on the answers of every upstream, until all have ended and no more can be opened.
async fn collect(mut upstreams: mpsc::Receiver<BoxStream<'static, Answer>>, answers: mpsc::Sender<Answer>) {
    let mut merged = SelectAll::new();
    let mut opening = true;
    loop {
        tokio::select! {
            upstream = upstreams.recv(), if opening => match upstream {
                Some(upstream) => merged.push(upstream),
                None => opening = false,
            },
            // Nothing more to come from those that are open; without any, the branch is disabled.
            Some(answer) = merged.next() => {
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
            else => return,
        }
    }
}

/// What an upstream is for.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    /// As the caller named it.
    name: String,
    version: Option<Version>,
    /// The replica that a sequence has to go to; none where any will do.
    worker: Option<WorkerId>,
}

/// Requests that an upstream has not yet given the last answer to.
type Due = Arc<AtomicI64>;

/// An open stream to a worker.
struct Upstream {
    requests: mpsc::Sender<Bytes>,
    due: Due,
    endpoint: Arc<Endpoint>,
    model: String,
    version: Version,
}

impl Upstream {
    fn replicas<'a>(&self, table: &'a Table) -> &'a [Replica] {
        let ready = table.model(&self.model).and_then(|model| model.ready.get(&self.version));
        ready.map(|ready| ready.replicas.as_slice()).unwrap_or_default()
    }

    fn own<'a>(&self, table: &'a Table) -> Option<&'a Replica> {
        self.replicas(table).iter().find(|replica| Arc::ptr_eq(&replica.endpoint, &self.endpoint))
    }

    /// Whether its replica is being drained or ejected while there is one that is neither.
    fn is_leaving(&self, table: &Table) -> bool {
        let is_better = |replica: &Replica| !replica.draining && !replica.is_ejected();
        !self.own(table).is_some_and(is_better) && self.replicas(table).iter().any(is_better)
    }

    /// Whether requests are still sent on it: those of a sequence as long as its replica serves at all.
    fn is_current(&self, asked: &Asked, table: &Table) -> bool {
        let stays = || asked.worker.is_some() || !self.is_leaving(table);
        !self.requests.is_closed() && self.own(table).is_some() && stays()
    }
}

struct Sender {
    router: Arc<Inner>,
    call: Call,
    /// What the stream brought: its route looks at it with every request.
    metadata: Arc<MetadataMap>,
    answers: mpsc::Sender<Answer>,
    opened: mpsc::Sender<BoxStream<'static, Answer>>,
    open: HashMap<Asked, Upstream>,
    sequences: Sequences,
}

impl Sender {
    async fn run(mut self, mut requests: Streaming<Bytes>) {
        let mut swaps = self.router.swapped.subscribe();
        loop {
            let received = tokio::select! {
                received = requests.message() => received,
                Ok(()) = swaps.changed() => {
                    self.let_go();
                    continue;
                }
            };
            let message = match received {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(status) => return self.end(status).await,
            };
            if let Err(status) = self.pass(message).await {
                return self.end(status).await;
            }
        }
    }

    /// Half-closes upstreams whose replica is going, so that a drain need not wait for callers who have nothing to send. One with
    /// a request of a sequence on its way stays: the next one must not overtake it on another.
    fn let_go(&mut self) {
        let table = self.router.table.load();
        self.open.retain(|asked, upstream| {
            let is_owing = asked.worker.is_some() && upstream.due.load(Ordering::Relaxed) > 0;
            upstream.is_current(asked, &table) && (is_owing || !upstream.is_leaving(&table))
        });
    }

    async fn end(&self, status: Status) {
        // The caller may have gone: then nobody needs to know.
        let _ = self.answers.send(Err(status)).await;
    }

    /// Sends one request on. A request that cannot be sent is answered on the stream, which goes on; only bytes that are no
    /// message at all end it, since what follows them cannot be trusted.
    async fn pass(&mut self, message: Bytes) -> Result<(), Status> {
        let metadata = Arc::clone(&self.metadata);
        let head = frame::scan(&message).map_err(|error| status_of(&error))?;
        // A request for a model that never comes must not hold up those behind it for as long as the stream may last.
        let patience = Deadline::after(SystemClock::now(), self.router.options.stream_hold);
        let wanted = match wanted(&head, self.call.deadline.earlier(patience)) {
            Ok(wanted) => {
                let request = Payload::of(&message);
                Wanted { metadata: Some(&metadata), message: &message, request, ..wanted }
            }
            Err(error) => return self.refuse(head.id, &error).await,
        };
        // Its place is free again when it has been sent on.
        let _place = match turn(&self.router, &wanted, message.len()).await {
            Ok(place) => place,
            Err(error) if may_go_on_after(&error) => return self.refuse(wanted.id, &error).await,
            Err(error) => return Err(status_of(&error)),
        };
        for _ in 0..OPENED {
            let (requests, due) = match self.upstream(&wanted).await {
                Ok(upstream) => upstream,
                Err(status) if may_go_on(&status) => return self.refuse(wanted.id, &error_of(&status)).await,
                Err(status) => return Err(status),
            };
            // An upstream that ends meanwhile has not seen the request: it goes to the next one.
            if let Ok(place) = requests.reserve().await {
                due.fetch_add(1, Ordering::Relaxed);
                place.send(message.clone());
                if wanted.ends_sequence {
                    self.sequences.end(&wanted);
                }
                return Ok(());
            }
        }
        let told = "the model's replicas end their streams as soon as they are opened";
        self.refuse(wanted.id, &Error::new(Reason::NoReadyReplica, told)).await
    }

    async fn refuse(&self, id: &str, error: &Error) -> Result<(), Status> {
        let answer = ModelStreamInferResponse {
            error_message: error.message().to_owned(),
            infer_response: Some(ModelInferResponse { id: id.to_owned(), ..Default::default() }),
        };
        self.answers.send(Ok(answer.encode_to_vec().into())).await.map_err(|_| gone())
    }

    /// The upstream for what is wanted: the open one while its replica stands, else a new one.
    async fn upstream(&mut self, wanted: &Wanted<'_>) -> Result<(mpsc::Sender<Bytes>, Due), Status> {
        let mut asked = self.asked(wanted)?;
        let table = self.router.table.load_full();
        if let Some(upstream) = self.open.get(&asked).filter(|upstream| upstream.is_current(&asked, &table)) {
            self.sequences.note(wanted, &upstream.endpoint.worker);
            return Ok((upstream.requests.clone(), Arc::clone(&upstream.due)));
        }
        // Dropping the sender half-closes the old one: it still answers what it was sent.
        self.open.remove(&asked);
        self.make_room(wanted.sequence.is_some())?;
        let upstream = self.connect(wanted, asked.worker.as_ref()).await?;
        self.sequences.note(wanted, &upstream.endpoint.worker);
        let opened = (upstream.requests.clone(), Arc::clone(&upstream.due));
        // The preferred replica may not have been there to take it.
        asked.worker = wanted.sequence.map(|_| upstream.endpoint.worker.clone());
        self.open.insert(asked, upstream);
        Ok(opened)
    }

    fn asked(&self, wanted: &Wanted<'_>) -> Result<Asked, Status> {
        let worker = match wanted.sequence {
            None => None,
            // Drawn for its name only: the load that it stands for is released at once.
            Some(_) => self.of_sequence(wanted)?.map(|chosen| chosen.permit.endpoint().worker.clone()),
        };
        Ok(Asked { name: wanted.name.to_owned(), version: wanted.version, worker })
    }

    /// The replica that has the sequence, or would begin it.
    fn of_sequence(&self, wanted: &Wanted<'_>) -> Result<Option<Chosen>, Status> {
        let known = self.sequences.worker(wanted).map(|worker| draw_on(&self.router, wanted, worker));
        match known {
            Some(Ok(Some(chosen))) => Ok(Some(chosen)),
            _ => draw(&self.router, wanted, &[]).map_err(|error| status_of(&error)),
        }
    }

    /// Refuses one upstream too many, unless there are some that owe nothing and can be given up.
    fn make_room(&mut self, for_sequence: bool) -> Result<(), Status> {
        let limit = if for_sequence { MAX_SEQUENCE_UPSTREAMS } else { self.router.options.max_stream_models };
        let alike = |asked: &Asked| asked.worker.is_some() == for_sequence;
        let count = |open: &HashMap<Asked, Upstream>| open.keys().filter(|asked| alike(asked)).count();
        if count(&self.open) >= limit {
            self.open.retain(|asked, upstream| !alike(asked) || upstream.due.load(Ordering::Relaxed) > 0);
        }
        if count(&self.open) >= limit {
            return Err(status_of(&Error::invalid("model_name", "too many different models on one stream")));
        }
        Ok(())
    }

    /// Opens an upstream to a replica, to the one on this worker first; replicas that cannot be reached are passed over.
    async fn connect(&self, wanted: &Wanted<'_>, worker: Option<&WorkerId>) -> Result<Upstream, Status> {
        let mut tried = Vec::new();
        let mut preferred = worker.and_then(|worker| draw_on(&self.router, wanted, worker).ok().flatten());
        loop {
            let chosen = match preferred.take() {
                Some(chosen) => chosen,
                None => acquire(&self.router, wanted, &mut tried).await.map_err(|error| status_of(&error))?,
            };
            let endpoint = Arc::clone(chosen.permit.endpoint());
            match within(wanted.deadline, self.open_on(chosen)).await {
                Err(status) if is_unprocessed(&error_of(&status)) => tried.push(endpoint),
                outcome => return outcome,
            }
        }
    }

    async fn open_on(&self, chosen: Chosen) -> Result<Upstream, Status> {
        let (sender, requests) = mpsc::channel(self.router.options.stream_buffer);
        let span = chosen.span(&self.router, METHOD, &self.call.trace, 0);
        let requests = ReceiverStream::new(requests);
        let request = outgoing(requests, self.call.deadline, span.context());
        let mut request = request.map_err(|error| status_of(&error))?;
        chosen.address(&mut request, Some(&self.metadata));
        let endpoint = Arc::clone(chosen.permit.endpoint());
        let upstream = Upstream {
            requests: sender,
            due: Due::default(),
            endpoint,
            model: chosen.model.clone(),
            version: chosen.version,
        };
        let channel = upstream.endpoint.streams.clone();
        let mut client = InferenceClient::new(channel).max_decoding_message_size(usize::MAX);
        let opened = client.model_stream_infer(request).await;
        let opened = opened.inspect_err(|status| chosen.permit.tell(&self.router.outliers, evidence(status)));
        let answers = opened.map_err(without_report)?.into_inner();
        // The permit and the span last as long as the upstream.
        let held = (chosen, span, Arc::clone(&upstream.due), Arc::clone(&self.router));
        let answers = answers.scan(held, |(chosen, _, due, router), answer| {
            chosen.permit.tell(&router.outliers, told(&answer));
            ready(owed(due, answer))
        });
        self.opened.send(answers.boxed()).await.map_err(|_| gone())?;
        Ok(upstream)
    }
}

/// What an answer on a stream says of its replica. A request's failure comes as a text, which does not tell whose doing it was.
fn told(answer: &Answer) -> Evidence {
    match answer {
        Ok(message) if frame::is_failure(message) => Evidence::Neutral,
        Ok(_) => Evidence::Success,
        Err(status) => evidence(status),
    }
}

/// An answer to pass on. A worker that is lost while it owes nothing has cost nothing: its upstream just ends.
fn owed(due: &AtomicI64, answer: Answer) -> Option<Answer> {
    let answer = answer.map_err(without_report);
    match &answer {
        Ok(message) if frame::is_last(message) => drop(due.fetch_sub(1, Ordering::Relaxed)),
        Ok(_) => {}
        Err(status) => {
            let lost = error_of(status).reason().retry() == Retry::Elsewhere;
            if lost && due.load(Ordering::Relaxed) <= 0 {
                return None;
            }
        }
    }
    Some(answer)
}

/// A worker's failure without what the worker tells of itself.
fn without_report(mut status: Status) -> Status {
    // Nothing is learned from a stream's end: it may be long after what it tells of.
    let _ = orca::take(status.metadata_mut());
    status
}

fn gone() -> Status {
    status_of(&Error::new(Reason::Cancelled, "the caller has gone"))
}

/// Whether a failure concerns one request of the stream only.
fn may_go_on(status: &Status) -> bool {
    may_go_on_after(&error_of(status))
}

fn may_go_on_after(error: &Error) -> bool {
    !matches!(error.reason(), Reason::Cancelled | Reason::DeadlineRunning | Reason::Internal)
}

#[cfg(test)]
mod tests {
    use weft_proto::inference::InferParameter;
    use weft_proto::inference::infer_parameter::ParameterChoice;

    use super::*;

    fn answer(is_last: bool, error: &str) -> Answer {
        let mark = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_last)) };
        let response = ModelInferResponse {
            parameters: HashMap::from([(frame::FINAL_RESPONSE.into(), mark)]),
            ..Default::default()
        };
        let answer = ModelStreamInferResponse { error_message: error.to_owned(), infer_response: Some(response) };
        Ok(answer.encode_to_vec().into())
    }

    fn lost() -> Answer {
        Err(status_of(&Error::new(Reason::WorkerLost, "gone")))
    }

    /// Two requests of three answers each, mixed: the loss of their worker is told until both have had their last.
    #[test]
    fn a_request_is_due_until_its_last_answer() {
        let due = AtomicI64::new(2);
        for (is_last, left) in [(false, 2), (false, 2), (false, 2), (true, 1), (false, 1), (true, 0)] {
            assert!(owed(&due, lost()).is_some(), "swallowed with {left} due");
            assert!(owed(&due, answer(is_last, "")).is_some());
            assert_eq!(due.load(Ordering::Relaxed), left);
        }
        assert!(owed(&due, lost()).is_none(), "told although nothing was due");
        let other = Err(status_of(&Error::new(Reason::Internal, "broken")));
        assert!(owed(&due, other).is_some(), "only a loss costs nothing");
    }

    #[test]
    fn an_error_ends_its_request() {
        let due = AtomicI64::new(1);
        assert!(owed(&due, answer(false, "no")).is_some());
        assert!(owed(&due, lost()).is_none());
    }
}
