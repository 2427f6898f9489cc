//! One inference on this worker, from the request to the response.

mod record;

use std::sync::Arc;

use weft_proto::inference::{ModelInferRequest, ModelInferResponse};
use weft_runtime::Call;
use weft_telemetry::Scope;
use weft_types::{Deadline, Result, SystemClock};

use crate::admit::{self, admit};
use crate::error::Failure;
use crate::generate::{self, Incoming};
use crate::infer;
use crate::replica::Replica;
use crate::sequence;

pub(crate) use record::Record;

/// A request with what is told beside it.
pub(crate) struct Asked {
    /// Who it is for, as a number: equal for equal names.
    pub(crate) tenant: u64,
    /// Whether it came on a stream.
    pub(crate) on_stream: bool,
    pub(crate) request: ModelInferRequest,
}

/// Converts, checks, queues and waits; a language model's engine has a queue of its own. Dropping the future withdraws the request wherever it is.
pub(crate) async fn answer(
    replica: Arc<Replica>,
    scope: &Scope,
    call: &Call,
    asked: Asked,
) -> Result<ModelInferResponse, Failure> {
    if replica.model.language().is_some() {
        let incoming = Incoming { replica, scope: scope.clone(), call: call.clone(), request: asked.request };
        // Boxed, so that calls of other models do not carry what a sequence takes.
        return Box::pin(generate::whole(incoming)).await;
    }
    let mut record = Record::begin(replica, scope, call);
    let outcome = within(&mut record, call, asked).await;
    record.end(outcome.as_ref().err());
    outcome
}

async fn within(record: &mut Record, call: &Call, asked: Asked) -> Result<ModelInferResponse, Failure> {
    let Asked { tenant, on_stream, request } = asked;
    let replica = Arc::clone(&record.replica);
    let inference = infer::convert(request)?;
    let positions = replica.face.positions(&inference.wanted)?;
    let inputs = replica.face.take(inference.tensors)?;
    if let Some(timeout) = inference.timeout {
        record.deadline = record.deadline.earlier(Deadline::after(call.received, timeout));
    }
    let (inputs, turn) = sequence::enter(&replica, inference.sequence, inputs, record.deadline).await?;
    let request = admit::Request { inputs, priority: inference.priority, deadline: record.deadline, tenant, on_stream };
    let ticket = admit(&replica, request, SystemClock::now())?;
    record.caller = Some(ticket.caller());
    let answer = ticket.answer().await;
    record.timing = Some(answer.timing);
    let outputs = answer.outcome?;
    sequence::commit(turn, &outputs)?;
    let outputs = replica.face.give(outputs);
    let identity = &replica.identity;
    Ok(infer::respond((&identity.name, identity.version), inference.id, outputs, positions.as_deref()))
}
