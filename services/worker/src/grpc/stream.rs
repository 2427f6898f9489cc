//! The answers of one `ModelStreamInfer`.
//!
//! Requests for tensor models are answered in the order in which they came. Those for language models have many answers each;
//! these come as they are generated, mixed with everybody else's. A request is read only while there is room for one more, and a
//! piece is generated only when the caller takes what came before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{self, BoxFuture};
use futures_util::stream::{BoxStream, FuturesOrdered, SelectAll};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tonic::{Status, Streaming};
use weft_proto::frame::FINAL_RESPONSE;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use weft_runtime::Call;
use weft_types::SystemClock;

use super::inference::{Inference, Resolved};
use crate::answer::{Asked, answer};
use crate::error::Failure;
use crate::generate::{self, Incoming};
use crate::replica::Replica;

/// Requests of one stream that are worked on at once; the next is read when one of them has been answered.
const PIPELINE: usize = 32;

type Answer = Result<ModelStreamInferResponse, Status>;

/// What all requests of a stream have in common.
pub(super) struct Source {
    pub(super) inference: Inference,
    pub(super) call: Call,
    pub(super) resolved: Resolved,
}

/// Answers to a stream of requests. Dropping it drops all that is done for them.
pub(super) struct Answers {
    source: Source,
    /// Lets the last replica that was asked for know of the stream.
    open: Option<Arc<()>>,
    /// Gone when there are no more.
    requests: Option<Streaming<ModelInferRequest>>,
    ordered: FuturesOrdered<BoxFuture<'static, Answer>>,
    generated: SelectAll<BoxStream<'static, Answer>>,
    /// Whose turn it is to be asked first, so that neither kind starves the other.
    is_ordered_first: bool,
}

impl Answers {
    pub(super) fn new(source: Source, requests: Streaming<ModelInferRequest>) -> Self {
        let (ordered, generated) = (FuturesOrdered::new(), SelectAll::new());
        Self { source, open: None, requests: Some(requests), ordered, generated, is_ordered_first: true }
    }

    fn has_room(&self) -> bool {
        self.requests.is_some() && self.ordered.len() + self.generated.len() < PIPELINE
    }

    /// Begins what there is room for. What there is room for afterwards has not come yet, and will wake the task.
    fn begin(&mut self, context: &mut Context<'_>) {
        while self.has_room() {
            let Some(requests) = &mut self.requests else { return };
            let Poll::Ready(request) = requests.poll_next_unpin(context) else { return };
            match request {
                Some(Ok(request)) => self.take(request),
                // A broken message ends the stream: what follows it cannot be trusted.
                Some(Err(status)) => {
                    self.ordered.push_back(future::ready(Err(status)).boxed());
                    self.requests = None;
                }
                None => self.requests = None,
            }
        }
    }

    fn take(&mut self, request: ModelInferRequest) {
        // A request's own `timeout` begins with the request, however long the stream has been open.
        let call = Call { received: SystemClock::now(), ..self.source.call.clone() };
        let found = self.source.inference.find(&self.source.resolved, &request);
        if let Ok(replica) = &found {
            self.open = Some(replica.stream());
        }
        match found {
            Err(failure) => self.ordered.push_back(future::ready(told(&call, request.id, Err(failure))).boxed()),
            Ok(replica) if replica.model.language().is_some() => self.generate(replica, call, request),
            Ok(replica) => {
                let scope = self.source.inference.shared.scope.clone();
                let tenant = self.source.resolved.tenant;
                self.ordered.push_back(Box::pin(async move {
                    let id = request.id.clone();
                    let outcome = answer(replica, &scope, &call, Asked { tenant, on_stream: true, request }).await;
                    told(&call, id, outcome.map(|response| (response, true)))
                }));
            }
        }
    }

    fn generate(&mut self, replica: Arc<Replica>, call: Call, request: ModelInferRequest) {
        let id = request.id.clone();
        let scope = self.source.inference.shared.scope.clone();
        let pieces = generate::pieces(Incoming { replica, scope, call: call.clone(), request });
        self.generated.push(pieces.map(move |outcome| told(&call, id.clone(), outcome)).boxed());
    }

    fn poll_kind(&mut self, is_ordered: bool, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        if is_ordered { self.ordered.poll_next_unpin(context) } else { self.generated.poll_next_unpin(context) }
    }

    /// The next answer of what has begun; `None` when nothing has.
    fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let first = self.is_ordered_first;
        let one = self.poll_kind(first, context);
        if let Poll::Ready(Some(answer)) = one {
            self.is_ordered_first = !first;
            return Poll::Ready(Some(answer));
        }
        let other = self.poll_kind(!first, context);
        if let Poll::Ready(Some(answer)) = other {
            return Poll::Ready(Some(answer));
        }
        if one.is_ready() && other.is_ready() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Stream for Answers {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let this = &mut *self;
        loop {
            this.begin(context);
            let had_room = this.has_room();
            match this.poll_begun(context) {
                Poll::Ready(Some(answer)) => return Poll::Ready(Some(answer)),
                // Something ended without an answer of its own, and the next request was not looked for yet.
                _ if this.has_room() && !had_room => {}
                Poll::Ready(None) if this.requests.is_none() => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// An answer as the stream carries it. A failed request is told in its message, and the stream goes on, unless it is the
/// stream's own deadline that has passed: a caller must not take that for a stream that ended well.
fn told(call: &Call, id: String, outcome: Result<(ModelInferResponse, bool), Failure>) -> Answer {
    match outcome {
        Ok((mut response, is_last)) => {
            // Triton sets the mark with or without the caller's `triton_enable_empty_final_response`. The last response is never
            // an empty one that could be spared, so there is nothing to hold back from who did not ask.
            let mark = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_last)) };
            response.parameters.insert(FINAL_RESPONSE.to_owned(), mark);
            Ok(ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) })
        }
        Err(failure) if call.deadline.expired(SystemClock::now()) => Err(failure.status()),
        Err(failure) => Ok(ModelStreamInferResponse {
            error_message: failure.message(),
            infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
        }),
    }
}
