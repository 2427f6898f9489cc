//! What a call wants, read from the head of its undecoded message.

use rand::RngExt as _;
use tonic::metadata::MetadataMap;
use weft_policy::Affinity;
use weft_proto::frame::{self, Head, Sequence};
use weft_proto::message::Payload;
use weft_types::{Deadline, Error, InvalidName, ModelName, Result, SystemClock, Version};

use crate::rules::Marks;

/// A call's wish.
pub(crate) struct Wanted<'a> {
    /// A route or a model; checked.
    pub(crate) name: &'a str,
    pub(crate) version: Option<Version>,
    /// The caller's mark, for messages about one request of a stream.
    pub(crate) id: &'a str,
    /// The earlier of the call's deadline and the request's own `timeout`.
    pub(crate) deadline: Deadline,
    /// The sequence that it belongs to, if to any.
    pub(crate) sequence: Option<Sequence<'a>>,
    /// The `priority` parameter: 0 is the default, 1 the highest.
    pub(crate) priority: u64,
    /// Drawn in `[0, 1)`, once: all attempts of a call take the same of a route's targets.
    pub(crate) unit: f64,
    /// Whether it is the last of that sequence.
    pub(crate) ends_sequence: bool,
    /// What the call brought, for a route to look at; of a stream, what the stream brought.
    pub(crate) metadata: Option<&'a MetadataMap>,
    /// The undecoded request without its tensors, for a route to look at.
    pub(crate) message: &'a [u8],
    /// The same with its tensors.
    pub(crate) request: Payload<'a>,
}

impl Wanted<'_> {
    /// What a route looks at. All calls of a sequence take the same of a route's targets.
    pub(crate) fn marks(&self) -> Marks<'_> {
        let sequence = self.affinity(self.name);
        let unit = sequence.map_or(self.unit, Affinity::unit);
        Marks { metadata: self.metadata, message: self.message, sequence, unit }
    }

    /// What its sequence's calls to a model or route of this name have in common.
    pub(crate) fn affinity(&self, name: &str) -> Option<Affinity> {
        self.sequence.map(|sequence| match sequence {
            Sequence::Number(number) => Affinity::of(name, number),
            Sequence::Text(text) => Affinity::of(name, text),
        })
    }
}

/// Reads a `ModelInferRequest` that came with this metadata.
pub(crate) fn identify<'a>(metadata: &'a MetadataMap, message: &'a [u8], deadline: Deadline) -> Result<Wanted<'a>> {
    let head = frame::scan(message)?;
    Ok(Wanted { metadata: Some(metadata), message, ..wanted(&head, deadline)? })
}

/// What a scanned request wants, without anything for a route to look at.
pub(crate) fn wanted<'a>(head: &Head<'a>, deadline: Deadline) -> Result<Wanted<'a>> {
    let (_, version) = names(head.model_name, head.model_version)?;
    let deadline =
        head.timeout.map_or(deadline, |timeout| deadline.earlier(Deadline::after(SystemClock::now(), timeout)));
    let (sequence, ends_sequence) = (head.sequence, head.ends_sequence);
    let (name, id) = (head.model_name, head.id);
    let (priority, unit) = (head.priority, rand::rng().random());
    let (metadata, message, request) = (None, &[][..], Payload::default());
    Ok(Wanted { name, version, id, deadline, sequence, ends_sequence, priority, unit, metadata, message, request })
}

/// Checks a model's name and version as they came.
pub(crate) fn names(name: &str, version: &str) -> Result<(ModelName, Option<Version>)> {
    let invalid = |field: &'static str| move |problem: InvalidName| Error::invalid(field, problem);
    let name = name.parse().map_err(invalid("model_name"))?;
    let version = if version.is_empty() { None } else { Some(version.parse().map_err(invalid("model_version"))?) };
    Ok((name, version))
}
