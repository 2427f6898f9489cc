//! Calls of other services' methods, which this build has never heard of: by their descriptors.

use bytes::Bytes;
use http::HeaderMap;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::Status;
use tonic::metadata::MetadataMap;
use weft_participant::{Key, Mark};
use weft_saga::{Direction, Place};

use super::channels::{Exchange, exchange, path};
use super::outcome::Failure;
use super::{Actor, Attempt, Made};
use crate::jobs::definition::{Call, REFUSAL};
use crate::jobs::template::Values;

/// Bytes of an answer.
const LONGEST_ANSWER: usize = 1 << 20;

impl Actor {
    pub(super) async fn call(&self, attempt: &Attempt<'_>, call: &Call, values: &Values) -> Result<Made, Failure> {
        // Another scheduler, with other settings, may have taken the job.
        if !self.0.targets.allow(&call.target) {
            return Err(Failure::clean("PERMISSION_DENIED", REFUSAL));
        }
        let request = call.request.render(values)?;
        let channel = self.0.services.to(&call.target)?;
        let method = match &call.descriptor {
            Some(described) => described.clone(),
            None => self.0.schemas.method(&channel, call, (attempt.deadline, attempt.trace)).await?,
        };
        let message = DynamicMessage::deserialize(method.input(), request)
            .map_err(|error| Failure::clean("INVALID_ARGUMENT", format!("request: {error}")))?;
        let name = format!("{}/{}", call.service, call.method);
        let span = self.0.inner.scope.start_client(&name, Some(attempt.trace));
        let made = Exchange {
            path: path(&call.service, &call.method).map_err(|status| Failure::of(&status))?,
            headers: headers(attempt)?,
            message: message.encode_to_vec().into(),
            deadline: attempt.deadline,
            trace: span.context(),
            longest: LONGEST_ANSWER,
        };
        let answer = exchange(&channel, made).await.map_err(|status| self.failed(call, &status));
        let told = answer.and_then(|answer| value(&method, answer.into_inner()));
        Made::at(Place { name: call.target.clone(), epoch: 0 }, told)
    }

    /// A service that does not know the method may have been replaced since it was asked for its descriptors.
    fn failed(&self, call: &Call, status: &Status) -> Failure {
        if status.code() == tonic::Code::Unimplemented {
            self.0.schemas.forget(call);
        }
        Failure::of(status)
    }
}

/// What the participant is told of the attempt, as its barrier reads it.
fn headers(attempt: &Attempt<'_>) -> Result<HeaderMap, Failure> {
    let mark = Mark {
        key: Key::try_new(&attempt.key())?,
        direction: match attempt.direction {
            Direction::Action => weft_participant::Direction::Action,
            Direction::Undo => weft_participant::Direction::Undo,
            Direction::Probe => weft_participant::Direction::Probe,
        },
        attempt: attempt.number,
        // The revision at which the shard was taken: never negative.
        epoch: attempt.epoch.unsigned_abs(),
    };
    let mut headers = MetadataMap::new();
    mark.write(&mut headers);
    Ok(headers.into_headers())
}

/// The answer as JSON. The method was called, so what cannot be told leaves its outcome unknown.
fn value(method: &MethodDescriptor, answer: Bytes) -> Result<Value, Failure> {
    let unreadable = |problem: String| Failure::unknown("INTERNAL", format!("the answer cannot be read: {problem}"));
    let message = DynamicMessage::decode(method.output(), answer).map_err(|error| unreadable(error.to_string()))?;
    // Templates look for fields, and conditions compare numbers.
    let options = SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false);
    let told = message.serialize_with_options(serde_json::value::Serializer, &options);
    told.map_err(|error| unreadable(error.to_string()))
}
