//! Calls of models: through a router, as any caller's, so that routes, admission and retries are the mesh's own.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use rand::RngExt as _;
use serde_json::Value;
use tonic::Status;
use tonic::metadata::MetadataMap;
use weft_client::{tenant, worker};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::model_infer_request::InferRequestedOutputTensor;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use weft_proto::{error_of, status_of};
use weft_saga::Place;
use weft_types::{Error, Reason};

use super::channels::{Exchange, exchange, path};
use super::outcome::Failure;
use super::{Actor, Attempt, Made, tensor};
use crate::jobs::definition::Infer;
use crate::jobs::template::{Problem, Room, Values};

const SERVICE: &str = "inference.GRPCInferenceService";
/// Bytes of an answer: its JSON is limited more strictly.
const LONGEST_ANSWER: usize = 16 << 20;
/// Routers that are asked, where one after the other cannot be reached.
const ROUTERS: usize = 2;

impl Actor {
    pub(super) async fn infer(&self, attempt: &Attempt<'_>, infer: &Infer, values: &Values) -> Result<Made, Failure> {
        let request = Bytes::from(request(infer, values, attempt)?.encode_to_vec());
        let span = self.0.inner.scope.start_client(&format!("{SERVICE}/ModelInfer"), Some(attempt.trace));
        let mut failed = Status::unavailable("no router is registered");
        for (id, address) in self.routers() {
            let made = Exchange {
                path: path(SERVICE, "ModelInfer").map_err(|status| Failure::of_pure(&status))?,
                headers: headers(attempt),
                message: request.clone(),
                deadline: attempt.deadline,
                trace: span.context(),
                longest: LONGEST_ANSWER,
            };
            let channel = self.0.routers.to(&address);
            let answer = match channel {
                Ok(channel) => exchange(&channel, made).await,
                Err(error) => Err(status_of(&error)),
            };
            match answer {
                Ok(answer) => {
                    let place = place(answer.metadata(), &id);
                    return Made::at(place, value(answer.into_inner()).map(|value| Ok(Some(value))));
                }
                // A model has no effect, so another router may be asked wherever this one did not do it.
                Err(status) if error_of(&status).reason() == Reason::NoReadyReplica => failed = status,
                Err(status) => return Made::at(place(status.metadata(), &id), Err(Failure::of_pure(&status))),
            }
        }
        Err(Failure::of_pure(&failed))
    }

    /// Routers in a random order, so that schedulers spread over them; at most [`ROUTERS`].
    fn routers(&self) -> Vec<(String, String)> {
        let snapshot = self.0.inner.mesh.snapshot();
        let routers = snapshot.services.iter().filter(|((kind, _), _)| kind == "router");
        let mut routers: Vec<(String, String)> =
            routers.map(|((_, id), record)| (id.clone(), record.value.address.clone())).collect();
        for taken in 0..ROUTERS.min(routers.len()) {
            let other = rand::rng().random_range(taken..routers.len());
            routers.swap(taken, other);
        }
        routers.truncate(ROUTERS);
        routers
    }
}

/// The worker that did it, or did not; the router, where no worker was asked.
fn place(metadata: &MetadataMap, router: &str) -> Place {
    let name = worker::told(metadata).map_or_else(|| format!("router/{router}"), |worker| worker.to_string());
    Place { name, epoch: 0 }
}

/// Who the job is for, and who did it is asked for. A name that no header can carry is left out.
fn headers(attempt: &Attempt<'_>) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([worker::question()]);
    if let Ok(name) = HeaderValue::from_str(attempt.facts.tenant) {
        headers.insert(tenant::HEADER, name);
    }
    headers
}

fn request(infer: &Infer, values: &Values, attempt: &Attempt<'_>) -> Result<ModelInferRequest, Failure> {
    let mut request = ModelInferRequest {
        model_name: infer.model.to_string(),
        model_version: infer.version.clone(),
        id: attempt.key(),
        ..ModelInferRequest::default()
    };
    // One request's values share their room: in all they are bounded as one value is.
    let mut room = Room::of_value();
    for (name, template) in &infer.inputs {
        let (tensor, raw) = tensor::input(name, &template.render_into(values, &mut room)?)?;
        request.inputs.push(tensor);
        request.raw_input_contents.push(raw);
    }
    let requested = |name: &String| InferRequestedOutputTensor { name: name.clone(), ..Default::default() };
    request.outputs = infer.outputs.iter().map(requested).collect();
    for (name, template) in &infer.parameters {
        let choice = parameter(&template.render_into(values, &mut room)?).ok_or_else(|| {
            Failure::clean("INVALID_ARGUMENT", format!("parameters.{name}: must be a string, a number or a boolean"))
        })?;
        request.parameters.insert(name.clone(), InferParameter { parameter_choice: Some(choice) });
    }
    Ok(request)
}

fn parameter(value: &Value) -> Option<ParameterChoice> {
    match value {
        Value::Bool(value) => Some(ParameterChoice::BoolParam(*value)),
        Value::String(text) => Some(ParameterChoice::StringParam(text.clone())),
        Value::Number(number) => number
            .as_i64()
            .map(ParameterChoice::Int64Param)
            .or_else(|| number.as_u64().map(ParameterChoice::Uint64Param))
            .or_else(|| number.as_f64().map(ParameterChoice::DoubleParam)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The answer as JSON.
fn value(answer: Bytes) -> Result<Value, Failure> {
    let wrong = |problem: String| Failure::clean("INTERNAL", format!("the model's answer: {problem}"));
    let answer = ModelInferResponse::decode(answer).map_err(|error| wrong(error.to_string()))?;
    let outputs: BTreeMap<String, Value> = tensor::outputs(&answer).map_err(|problem| match problem {
        Problem::TooLarge => Failure::from(problem),
        problem => wrong(problem.to_string()),
    })?;
    Ok(serde_json::json!({
        "model_name": answer.model_name,
        "model_version": answer.model_version,
        "outputs": outputs,
    }))
}

/// A tensor that is none was never sent.
impl From<tensor::Misshapen> for Failure {
    fn from(misshapen: tensor::Misshapen) -> Self {
        let tensor::Misshapen { field, problem } = misshapen;
        Self::from(Error::invalid(field, problem))
    }
}
