//! What a call wants, read from the head of its undecoded message.

use weft_policy::Affinity;
use weft_proto::frame::{self, Head, Sequence};
use weft_types::{Deadline, Error, InvalidName, ModelName, Result, SystemClock, Version};

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
    /// Whether it is the last of that sequence.
    pub(crate) ends_sequence: bool,
}

impl Wanted<'_> {
    /// What its sequence's calls to a model or route of this name have in common.
    pub(crate) fn affinity(&self, name: &str) -> Option<Affinity> {
        self.sequence.map(|sequence| match sequence {
            Sequence::Number(number) => Affinity::of(name, number),
            Sequence::Text(text) => Affinity::of(name, text),
        })
    }
}

/// Reads a `ModelInferRequest`.
pub(crate) fn identify(message: &[u8], deadline: Deadline) -> Result<Wanted<'_>> {
    let head = frame::scan(message)?;
    wanted(&head, deadline)
}

/// What a scanned request wants.
pub(crate) fn wanted<'a>(head: &Head<'a>, deadline: Deadline) -> Result<Wanted<'a>> {
    let (_, version) = names(head.model_name, head.model_version)?;
    let deadline =
        head.timeout.map_or(deadline, |timeout| deadline.earlier(Deadline::after(SystemClock::now(), timeout)));
    let (sequence, ends_sequence) = (head.sequence, head.ends_sequence);
    Ok(Wanted { name: head.model_name, version, id: head.id, deadline, sequence, ends_sequence })
}

/// Checks a model's name and version as they came.
pub(crate) fn names(name: &str, version: &str) -> Result<(ModelName, Option<Version>)> {
    let invalid = |field: &'static str| move |problem: InvalidName| Error::invalid(field, problem);
    let name = name.parse().map_err(invalid("model_name"))?;
    let version = if version.is_empty() { None } else { Some(version.parse().map_err(invalid("model_version"))?) };
    Ok((name, version))
}
