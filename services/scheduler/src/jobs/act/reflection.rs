//! What methods another service has, by its own word: gRPC server reflection, v1 and where that is unknown v1alpha.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use prost_types::FileDescriptorProto;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use weft_client::{Channel, outgoing};
use weft_proto::status_of;
use weft_telemetry::TraceContext;
use weft_types::{Deadline, SystemClock};

use super::outcome::Failure;
use crate::jobs::definition::{Call, schema};

/// How long a service's word is kept: one that changes a method without another name is asked again after this.
const FRESH: Duration = Duration::from_secs(60);
/// Methods that are remembered.
const MAX_METHODS: usize = 256;
/// How long asking may take, within the attempt's time.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_FILES: usize = 256;
/// Bytes of all files together, and of one answer.
const MAX_BYTES: usize = 2 << 20;

/// The two versions have the same messages.
const VERSIONS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Which method of which service at which address.
type Key = (String, String, String);

/// Methods that other services have told of. Held for a look, never across an await.
#[derive(Default)]
pub(super) struct Schemas(Mutex<BTreeMap<Key, (Instant, MethodDescriptor)>>);

impl Schemas {
    /// The method's descriptor. Asking has no effect, so every failure is clean.
    pub(super) async fn method(
        &self,
        channel: &Channel,
        call: &Call,
        (deadline, trace): (Deadline, &TraceContext),
    ) -> Result<MethodDescriptor, Failure> {
        let key = key(call);
        let now = SystemClock::now();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some((_, method)) = known.filter(|(at, _)| now.saturating_duration_since(*at) < FRESH) {
            return Ok(method);
        }
        let deadline = deadline.earlier(Deadline::after(now, PATIENCE));
        let mut inquiry = Inquiry { channel, deadline, trace, files: BTreeMap::new(), bytes: 0 };
        let asked = tokio::time::timeout_at(deadline.instant().into(), inquiry.ask(&call.service)).await;
        let late = || Failure::clean("DEADLINE_EXCEEDED", "the service did not tell its descriptors in time");
        let pool = asked.map_err(|_| late())??;
        let method = schema::unary(&pool, &call.service, &call.method)
            .map_err(|problem| Failure::clean("FAILED_PRECONDITION", format!("{}: {problem}", call.service)))?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_METHODS {
            let oldest = known.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone());
            oldest.and_then(|key| known.remove(&key));
        }
        known.insert(key, (now, method.clone()));
        Ok(method)
    }

    /// Asks anew with the next call.
    pub(super) fn forget(&self, call: &Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(call));
    }
}

fn key(call: &Call) -> Key {
    (call.target.clone(), call.service.clone(), call.method.clone())
}

/// One service that is asked: for the file with the symbol, then for what the files import, one question a stream.
struct Inquiry<'a> {
    channel: &'a Channel,
    deadline: Deadline,
    trace: &'a TraceContext,
    files: BTreeMap<String, FileDescriptorProto>,
    bytes: usize,
}

impl Inquiry<'_> {
    async fn ask(&mut self, service: &str) -> Result<DescriptorPool, Failure> {
        let symbol = || MessageRequest::FileContainingSymbol(service.to_owned());
        let mut version = VERSIONS[0];
        let mut answer = self.question(version, symbol()).await;
        if answer.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
            version = VERSIONS[1];
            answer = self.question(version, symbol()).await;
        }
        self.take(answer.map_err(|status| unanswered(&status))?)?;
        // Protobuf's own files are known, and some services do not tell them.
        let own = DescriptorPool::global();
        let own: BTreeSet<String> = own.files().map(|file| file.name().to_owned()).collect();
        while let Some(missing) = self.missing(&own) {
            let answer = self.question(version, MessageRequest::FileByFilename(missing.clone())).await;
            self.take(answer.map_err(|status| unanswered(&status))?)?;
            if !self.files.contains_key(&missing) {
                return Err(unusable(&format!(
                    "it did not tell the file '{}'",
                    missing.chars().take(64).collect::<String>()
                )));
            }
        }
        schema::pool(std::mem::take(&mut self.files).into_values().collect()).map_err(|problem| unusable(&problem))
    }

    /// A file that is imported, and was not told yet.
    fn missing(&self, own: &BTreeSet<String>) -> Option<String> {
        let imports = self.files.values().flat_map(|file| &file.dependency);
        let mut missing = imports.filter(|name| !self.files.contains_key(*name) && !own.contains(*name));
        missing.next().cloned()
    }

    fn take(&mut self, files: Vec<Vec<u8>>) -> Result<(), Failure> {
        for file in files {
            self.bytes += file.len();
            if self.bytes > MAX_BYTES || self.files.len() >= MAX_FILES {
                return Err(unusable(&format!("they are more than {MAX_FILES} files or {MAX_BYTES} bytes")));
            }
            let file = FileDescriptorProto::decode(&*file).map_err(|error| unusable(&error.to_string()))?;
            self.files.entry(file.name().to_owned()).or_insert(file);
        }
        Ok(())
    }

    async fn question(&self, version: &'static str, asked: MessageRequest) -> Result<Vec<Vec<u8>>, Status> {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
        let request =
            outgoing(stream::iter([request]), self.deadline, self.trace).map_err(|error| status_of(&error))?;
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_BYTES);
        let codec: ProstCodec<ServerReflectionRequest, ServerReflectionResponse> = ProstCodec::default();
        let answers = client.streaming(request, PathAndQuery::from_static(version), codec).await?;
        let answer = answers.into_inner().message().await?;
        match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::FileDescriptorResponse(files)) => Ok(files.file_descriptor_proto),
            Some(MessageResponse::ErrorResponse(error)) => {
                Err(Status::new(Code::from_i32(error.error_code), error.error_message))
            }
            _ => Err(Status::internal("it answered another question")),
        }
    }
}

fn unanswered(status: &Status) -> Failure {
    if status.code() == Code::Unimplemented {
        return Failure::clean("FAILED_PRECONDITION", "the service offers no reflection: give its descriptor_set");
    }
    let mut failure = Failure::of_pure(status);
    failure.fault.message = format!("the service's reflection: {}", failure.fault.message);
    failure
}

fn unusable(problem: &str) -> Failure {
    Failure::clean("FAILED_PRECONDITION", format!("the service's descriptors cannot be used: {problem}"))
}
