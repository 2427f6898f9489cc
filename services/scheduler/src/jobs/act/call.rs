//! Calls of other services' methods, which this build has never heard of: by their descriptors.

use bytes::Bytes;
use http::HeaderMap;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor, ReflectMessage as _, SerializeOptions};
use serde_json::Value;
use tonic::Status;
use tonic::metadata::MetadataMap;
use weft_participant::{Key, Mark};
use weft_saga::{Direction, Fault, Place};

use super::channels::{Exchange, exchange, path};
use super::outcome::Failure;
use super::{Actor, Attempt, Made};
use crate::jobs::definition::{Call, REFUSAL};
use crate::jobs::template::{self, Problem, Values};

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
        let told = answer.and_then(|answer| value(&method, answer.into_inner(), attempt.direction));
        Made::at(Place { name: call.target.clone(), epoch: 0 }, told.map(|value| value.map(Some)))
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

/// The answer as JSON, or that it is too large to be kept. The method was called, so what cannot be read leaves its outcome unknown.
fn value(method: &MethodDescriptor, answer: Bytes, direction: Direction) -> Result<Result<Value, Fault>, Failure> {
    let unreadable = |problem: String| Failure::unknown("INTERNAL", format!("the answer cannot be read: {problem}"));
    let message = DynamicMessage::decode(method.output(), answer).map_err(|error| unreadable(error.to_string()))?;
    // Templates look for fields, and conditions compare numbers.
    let options = SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false);
    // A few bytes can stand for a message of many fields, and all of them are told.
    match template::weigh(|scale| message.serialize_with_options(scale, &options)) {
        Ok(()) => {}
        Err(Problem::TooLarge) => return Ok(too_large(&message, direction)),
        Err(problem) => return Err(unreadable(problem.to_string())),
    }
    let told = message.serialize_with_options(serde_json::value::Serializer, &options);
    told.map(Ok).map_err(|error| unreadable(error.to_string()))
}

/// What is left of an answer that is too large: of a probe's what it says of the action.
fn too_large(answer: &DynamicMessage, direction: Direction) -> Result<Value, Fault> {
    let field = answer.descriptor().get_field_by_name("done");
    let field = field.filter(|field| !field.supports_presence() || answer.has_field(field));
    let done = field.and_then(|field| answer.get_field(&field).as_bool());
    match (direction, done) {
        (Direction::Probe, None | Some(false)) => Ok(serde_json::json!({ "done": done })),
        _ => Err(Fault::new("OUT_OF_RANGE", Problem::TooLarge.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
    };

    /// A method that answers with many messages of a hundred fields each, and perhaps with `done`.
    fn method() -> MethodDescriptor {
        let field = |name: String, number: i32, kind: Type| FieldDescriptorProto {
            name: Some(name),
            number: Some(number),
            r#type: Some(kind.into()),
            label: Some(Label::Optional.into()),
            ..FieldDescriptorProto::default()
        };
        let many = FieldDescriptorProto {
            label: Some(Label::Repeated.into()),
            type_name: Some(".Wide".to_owned()),
            ..field("many".to_owned(), 1, Type::Message)
        };
        let done = FieldDescriptorProto {
            proto3_optional: Some(true),
            oneof_index: Some(0),
            ..field("done".to_owned(), 2, Type::Bool)
        };
        let wide = (1..=100).map(|number| field(format!("f{number}"), number, Type::Int32)).collect();
        let message = |name: &str, field: Vec<FieldDescriptorProto>| DescriptorProto {
            name: Some(name.to_owned()),
            field,
            ..DescriptorProto::default()
        };
        let mut answer = message("Answer", vec![many, done]);
        answer.oneof_decl.push(prost_types::OneofDescriptorProto { name: Some("_done".to_owned()), options: None });
        let method = MethodDescriptorProto {
            name: Some("M".to_owned()),
            input_type: Some(".Wide".to_owned()),
            output_type: Some(".Answer".to_owned()),
            ..MethodDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("s.proto".to_owned()),
            syntax: Some("proto3".to_owned()),
            message_type: vec![message("Wide", wide), answer],
            service: vec![ServiceDescriptorProto {
                name: Some("S".to_owned()),
                method: vec![method],
                ..ServiceDescriptorProto::default()
            }],
            ..FileDescriptorProto::default()
        };
        let pool = DescriptorPool::from_file_descriptor_set(prost_types::FileDescriptorSet { file: vec![file] });
        let service = pool.expect("a pool").get_service_by_name("S").expect("it is there");
        service.methods().next().expect("one method")
    }

    #[test]
    fn few_bytes_that_stand_for_many_are_not_written_out() {
        let method = method();
        let read = |answer: Vec<u8>, direction| value(&method, answer.into(), direction).expect("it can be read");
        let many = |count: usize| b"\x0a\x00".repeat(count);
        let told = read(many(2), Direction::Action).expect("it is small");
        assert_eq!(told["many"][1]["f100"], 0, "defaults are told");
        for direction in [Direction::Action, Direction::Undo, Direction::Probe] {
            let done = [many(20_000), b"\x10\x01".to_vec()].concat();
            assert_eq!(read(done, direction).expect_err("40 KB for 2,000,000 fields").code, "OUT_OF_RANGE");
        }
        // What a probe says of the action is known all the same.
        let not_done = [many(20_000), b"\x10\x00".to_vec()].concat();
        assert_eq!(read(not_done, Direction::Probe), Ok(serde_json::json!({ "done": false })));
        assert_eq!(read(many(20_000), Direction::Probe), Ok(serde_json::json!({ "done": null })));
    }
}
