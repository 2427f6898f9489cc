//! What the journal keeps of one job.

mod read;
#[cfg(test)]
pub(crate) mod tests;
mod write;

use weft_saga::{Hold, Job, Payload};

use crate::id::JobId;

pub use read::Unreadable;

/// SHA-256 of a content.
pub type Hash = [u8; 32];

/// The newest format of a record that this build knows.
const FORMAT: u32 = 1;

/// What survives a crash of the scheduler that runs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Nothing.
    None,
    /// Nothing; what the job has reserved is given back when the scheduler's lease ends.
    Lease,
    /// Everything.
    Journaled,
}

/// One job, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// The caller's idempotency key; empty when there is none.
    pub key: String,
    /// SHA-256 of the request that the key stands for.
    pub request_hash: Hash,
    /// Its definition.
    pub definition: Hash,
    /// The definition's name, for people.
    pub definition_name: String,
    /// What of it survives.
    pub durability: Durability,
    /// What it was given.
    pub input: Payload,
    /// What came of it.
    pub output: Option<Payload>,
    /// W3C trace id.
    pub trace_id: [u8; 16],
    /// The span that it was submitted in; 0 where there is none.
    pub span: u64,
    /// Whether its trace is recorded.
    pub sampled: bool,
    /// Where it stands.
    pub job: Job,
}

impl Record {
    /// Every slot that it has.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.job.steps.iter().flat_map(|step| &step.items).flat_map(|item| &item.holds)
    }

    /// Every value that it refers to.
    pub fn payloads(&self) -> impl Iterator<Item = &Payload> {
        let outputs = self.job.steps.iter().flat_map(|step| &step.items).filter_map(|item| item.output.as_ref());
        let signals = self.job.signals.iter().map(|(_, value)| value);
        [&self.input].into_iter().chain(&self.output).chain(outputs).chain(signals)
    }

    /// The bytes of the values that stand in the record itself.
    pub fn inline_bytes(&self) -> usize {
        let inline = |payload: &Payload| match payload {
            Payload::Inline(text) => text.len(),
            Payload::Stored { .. } => 0,
        };
        self.payloads().map(inline).sum()
    }

    pub(crate) fn is_journaled(&self) -> bool {
        self.durability == Durability::Journaled
    }

    /// Whether it only gets smaller from here on: such transitions must always find room.
    pub(crate) fn is_ending(&self) -> bool {
        self.job.state.has_ended() || self.job.decided || self.job.state == weft_saga::JobState::Compensating
    }
}
