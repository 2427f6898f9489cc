//! `ModelStreamInfer`: each message goes to a replica of the model that it names; answers come back as they arrive.
//!
//! A stream keeps one upstream per model, so that the requests of one model stay in order and on one replica; when that
//! replica goes, the upstream is half-closed: answers that are still due come from it, and the next request takes another
//! replica. Both directions are bounded: a caller that does not read stops its own upstreams, and a worker that is slow stops the caller.

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
use tonic::{Status, Streaming};
use weft_client::{outgoing, within};
use weft_proto::frame;
use weft_proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use weft_proto::raw::InferenceClient;
use weft_proto::{error_of, status_of};
use weft_runtime::{Call, Running};
use weft_types::{Deadline, Error, Reason, Retry, SystemClock, Version};

use crate::Inner;
use crate::dispatch::{Chosen, acquire, is_unprocessed};
use crate::endpoint::Endpoint;
use crate::identify::{Wanted, wanted};
use crate::table::Table;

const METHOD: &str = "inference.GRPCInferenceService/ModelStreamInfer";

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
pub(crate) fn stream(router: &Arc<Inner>, call: Call, requests: Streaming<Bytes>) -> Answers {
    let (answers, receiver) = mpsc::channel(router.options.stream_buffer);
    let (opened, upstreams) = mpsc::channel(1);
    let sender = Sender { router: Arc::clone(router), call, answers: answers.clone(), opened, open: HashMap::new() };
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

/// The name and version that a caller asked for.
type Asked = (String, Option<Version>);

/// Answers that an upstream still owes.
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
    /// Whether its replica is still one that calls are sent to.
    fn is_current(&self, table: &Table) -> bool {
        let ready = table.model(&self.model).and_then(|model| model.ready.get(&self.version));
        let replicas = ready.map(|ready| ready.replicas.as_slice()).unwrap_or_default();
        let own = replicas.iter().find(|replica| Arc::ptr_eq(&replica.endpoint, &self.endpoint));
        let better = || replicas.iter().any(|replica| !replica.draining);
        !self.requests.is_closed() && own.is_some_and(|own| !own.draining || !better())
    }
}

struct Sender {
    router: Arc<Inner>,
    call: Call,
    answers: mpsc::Sender<Answer>,
    opened: mpsc::Sender<BoxStream<'static, Answer>>,
    open: HashMap<Asked, Upstream>,
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

    /// Half-closes upstreams whose replica is going, so that a drain need not wait for callers who have nothing to send.
    fn let_go(&mut self) {
        let table = self.router.table.load();
        self.open.retain(|_, upstream| upstream.is_current(&table));
    }

    async fn end(&self, status: Status) {
        // The caller may have gone: then nobody needs to know.
        let _ = self.answers.send(Err(status)).await;
    }

    /// Sends one request on. A request that cannot be sent is answered on the stream, which goes on; only bytes that are no
    /// message at all end it, since what follows them cannot be trusted.
    async fn pass(&mut self, message: Bytes) -> Result<(), Status> {
        let head = frame::scan(&message).map_err(|error| status_of(&error))?;
        // A request for a model that never comes must not hold up those behind it for as long as the stream may last.
        let patience = Deadline::after(SystemClock::now(), self.router.options.stream_hold);
        let wanted = match wanted(&head, self.call.deadline.earlier(patience)) {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse(head.id, &error).await,
        };
        loop {
            let (requests, due) = match self.upstream(&wanted).await {
                Ok(upstream) => upstream,
                Err(status) if may_go_on(&status) => return self.refuse(wanted.id, &error_of(&status)).await,
                Err(status) => return Err(status),
            };
            // An upstream that ends meanwhile has not seen the request: it goes to the next one.
            if let Ok(place) = requests.reserve().await {
                due.fetch_add(1, Ordering::Relaxed);
                place.send(message.clone());
                return Ok(());
            }
        }
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
        let asked = (wanted.name.to_owned(), wanted.version);
        let table = self.router.table.load_full();
        if let Some(upstream) = self.open.get(&asked).filter(|upstream| upstream.is_current(&table)) {
            return Ok((upstream.requests.clone(), Arc::clone(&upstream.due)));
        }
        // Dropping the sender half-closes the old one: it still answers what it was sent.
        self.open.remove(&asked);
        if self.open.len() >= self.router.options.max_stream_models {
            return Err(status_of(&Error::invalid("model_name", "too many different models on one stream")));
        }
        let upstream = self.connect(wanted).await?;
        let opened = (upstream.requests.clone(), Arc::clone(&upstream.due));
        self.open.insert(asked, upstream);
        Ok(opened)
    }

    /// Opens an upstream to a replica; replicas that cannot be reached are passed over.
    async fn connect(&self, wanted: &Wanted<'_>) -> Result<Upstream, Status> {
        let mut tried = Vec::new();
        loop {
            let chosen = acquire(&self.router, wanted, &mut tried).await.map_err(|error| status_of(&error))?;
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
        chosen.address(&mut request);
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
        let answers = client.model_stream_infer(request).await?.into_inner();
        // The permit and the span last as long as the upstream.
        let held = (chosen, span, Arc::clone(&upstream.due));
        let answers = answers.scan(held, |(_, _, due), answer| ready(owed(due, answer)));
        self.opened.send(answers.boxed()).await.map_err(|_| gone())?;
        Ok(upstream)
    }
}

/// An answer to pass on. A worker that is lost while it owes nothing has cost nothing: its upstream just ends.
fn owed(due: &AtomicI64, answer: Answer) -> Option<Answer> {
    let before = due.fetch_sub(1, Ordering::Relaxed);
    let lost = |status: &Status| error_of(status).reason().retry() == Retry::Elsewhere;
    if before <= 0 && answer.as_ref().is_err_and(lost) { None } else { Some(answer) }
}

fn gone() -> Status {
    status_of(&Error::new(Reason::Cancelled, "the caller has gone"))
}

/// Whether a failure concerns one request of the stream only.
fn may_go_on(status: &Status) -> bool {
    let reason = error_of(status).reason();
    !matches!(reason, Reason::Cancelled | Reason::DeadlineRunning | Reason::Internal)
}
