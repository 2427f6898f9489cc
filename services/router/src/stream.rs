//! `ModelStreamInfer`: each message goes to a replica of the model that it names; answers come back as they arrive.
//!
//! A stream keeps one upstream per model version, so that the requests of one model stay in order and on one replica. Both
//! directions are bounded: a caller that does not read stops the workers, and a worker that is slow stops the caller.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_client::{outgoing, within};
use weft_proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use weft_proto::raw::InferenceClient;
use weft_proto::{error_of, status_of};
use weft_runtime::{Call, Running};
use weft_types::{Deadline, Error, ModelName, Reason, Version};

use crate::Inner;
use crate::dispatch::{Chosen, acquire};
use crate::identify::{Wanted, identify};

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
    while opening || !merged.is_empty() {
        tokio::select! {
            upstream = upstreams.recv(), if opening => match upstream {
                Some(upstream) => merged.push(upstream),
                None => opening = false,
            },
            Some(answer) = merged.next() => {
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        }
    }
}

struct Sender {
    router: Arc<Inner>,
    call: Call,
    answers: mpsc::Sender<Answer>,
    opened: mpsc::Sender<BoxStream<'static, Answer>>,
    open: HashMap<(ModelName, Option<Version>), mpsc::Sender<Bytes>>,
}

impl Sender {
    async fn run(mut self, mut requests: Streaming<Bytes>) {
        loop {
            let message = match requests.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(status) => return self.end(status).await,
            };
            match self.pass(message).await {
                Ok(()) => {}
                Err(status) => return self.end(status).await,
            }
        }
    }

    async fn end(&self, status: Status) {
        // The caller may have gone: then nobody needs to know.
        let _ = self.answers.send(Err(status)).await;
    }

    /// Sends one request on. A request that cannot be sent is answered on the stream, which goes on.
    async fn pass(&mut self, message: Bytes) -> Result<(), Status> {
        let deadline = self.call.deadline;
        let wanted = identify(&message, deadline).map_err(|error| status_of(&error))?;
        let id = wanted.id.to_owned();
        let key = match crate::identify::names(wanted.name, "") {
            Ok((name, _)) => (name, wanted.version),
            Err(error) => return self.refuse(&id, &error).await,
        };
        if self.open.get(&key).is_none_or(mpsc::Sender::is_closed) {
            if self.open.len() >= self.router.options.max_stream_models {
                let many = Error::invalid("model_name", "too many different models on one stream");
                return self.refuse(&id, &many).await;
            }
            match self.connect(&Wanted { deadline, ..wanted }).await {
                Ok(upstream) => drop(self.open.insert(key.clone(), upstream)),
                Err(status) if may_go_on(&status) => return self.refuse(&id, &error_of(&status)).await,
                Err(status) => return Err(status),
            }
        }
        match self.open.get(&key) {
            Some(upstream) if upstream.send(message).await.is_ok() => Ok(()),
            // The upstream has ended: its own failure, which is on its way to the caller, says why.
            _ => std::future::pending().await,
        }
    }

    async fn refuse(&self, id: &str, error: &Error) -> Result<(), Status> {
        let answer = ModelStreamInferResponse {
            error_message: error.message().to_owned(),
            infer_response: Some(ModelInferResponse { id: id.to_owned(), ..Default::default() }),
        };
        let gone = |_| status_of(&Error::new(Reason::Cancelled, "the caller has gone"));
        self.answers.send(Ok(answer.encode_to_vec().into())).await.map_err(gone)
    }

    /// Opens an upstream to a replica; replicas that cannot be reached are passed over.
    async fn connect(&self, wanted: &Wanted<'_>) -> Result<mpsc::Sender<Bytes>, Status> {
        let mut tried = Vec::new();
        loop {
            let chosen = acquire(&self.router, wanted, &mut tried).await.map_err(|error| status_of(&error))?;
            let endpoint = Arc::clone(chosen.permit.endpoint());
            match within(wanted.deadline, self.open_on(chosen, wanted.deadline)).await {
                Err(status) if error_of(&status).reason() == Reason::NoReadyReplica => tried.push(endpoint),
                outcome => return outcome,
            }
        }
    }

    async fn open_on(&self, chosen: Chosen, deadline: Deadline) -> Result<mpsc::Sender<Bytes>, Status> {
        let (upstream, requests) = mpsc::channel(self.router.options.stream_buffer);
        let span = chosen.span(&self.router, METHOD, &self.call.trace, 0);
        let requests = ReceiverStream::new(requests);
        let mut request = outgoing(requests, deadline, span.context()).map_err(|error| status_of(&error))?;
        chosen.address(&mut request);
        let channel = chosen.permit.endpoint().channel.clone();
        let mut client = InferenceClient::new(channel).max_decoding_message_size(usize::MAX);
        let answers = client.model_stream_infer(request).await?.into_inner();
        // The permit and the span last as long as the upstream.
        let held = (chosen, span);
        let answers = answers.map(move |answer| {
            let _held = &held;
            answer
        });
        let gone = |_| status_of(&Error::new(Reason::Cancelled, "the caller has gone"));
        self.opened.send(answers.boxed()).await.map_err(gone)?;
        Ok(upstream)
    }
}

/// Whether a failure concerns one request of the stream only.
fn may_go_on(status: &Status) -> bool {
    let reason = error_of(status).reason();
    !matches!(reason, Reason::Cancelled | Reason::DeadlineRunning | Reason::Internal)
}
