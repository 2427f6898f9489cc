//! What is known of one effect, and how it is stored.

use bytes::Bytes;
use prost::Message as _;
use weft_types::{Error, Reason, Result};

/// What is known of an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not there, and no attempt up to the row's own will bring it: one failed, or a probe was told so.
    Open,
    /// An action has begun. Unless it is under way in this process, nobody knows how it ended.
    Running,
    /// It is there; this is what the action answered.
    Ran(Bytes),
    /// An undo has begun. It is never taken back: from here on no action has an effect.
    Undoing,
    /// It was there and is gone; this is what the undo answered.
    Undone(Bytes),
    /// The undo came first, and found nothing to undo.
    Tombstone,
}

/// What is known of an effect, and of whom it was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is known.
    pub state: State,
    /// The newest owner that was heard.
    pub epoch: u64,
    /// The newest attempt of that owner.
    pub attempt: u32,
}

/// The record. Numbers of states are for good; a reader that does not know one refuses the call.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    state: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint32, tag = "3")]
    attempt: u32,
    #[prost(bytes = "bytes", tag = "4")]
    answer: Bytes,
    /// Drawn for each write: whose write it was can be told when the store's answer to it was lost.
    #[prost(fixed64, tag = "5")]
    draw: u64,
}

impl Row {
    /// The record; `draw` makes it unlike every other one.
    pub(crate) fn encode(&self, draw: u64) -> Bytes {
        let (state, answer) = match &self.state {
            State::Open => (1, Bytes::new()),
            State::Running => (2, Bytes::new()),
            State::Ran(answer) => (3, answer.clone()),
            State::Undoing => (4, Bytes::new()),
            State::Undone(answer) => (5, answer.clone()),
            State::Tombstone => (6, Bytes::new()),
        };
        Record { state, epoch: self.epoch, attempt: self.attempt, answer, draw }.encode_to_vec().into()
    }

    /// Reads a record. One that cannot be read is an error and not an absent row: absent rows let actions run.
    pub(crate) fn decode(value: &Bytes) -> Result<Self> {
        let unreadable = || Error::new(Reason::Internal, "a row of the barrier cannot be read");
        let record = Record::decode(value.clone()).map_err(|_| unreadable())?;
        let state = match record.state {
            1 => State::Open,
            2 => State::Running,
            3 => State::Ran(record.answer),
            4 => State::Undoing,
            5 => State::Undone(record.answer),
            6 => State::Tombstone,
            _ => return Err(unreadable()),
        };
        Ok(Self { state, epoch: record.epoch, attempt: record.attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back() {
        let answer = Bytes::from_static(b"answer");
        let states = [
            State::Open,
            State::Running,
            State::Ran(answer.clone()),
            State::Undoing,
            State::Undone(answer),
            State::Tombstone,
        ];
        for state in states {
            let row = Row { state, epoch: u64::MAX, attempt: u32::MAX };
            assert_eq!(Row::decode(&row.encode(7)), Ok(row.clone()));
            assert_ne!(row.encode(7), row.encode(8));
        }
    }

    /// What a newer build or a stranger wrote there lets nothing run.
    #[test]
    fn what_cannot_be_read_is_an_error() {
        let newer = Record { state: 7, ..Record::default() }.encode_to_vec();
        for value in [Bytes::new(), newer.into(), Bytes::from_static(b"\xff\xff\xff")] {
            assert_eq!(Row::decode(&value).map_err(|error| error.reason()), Err(Reason::Internal));
        }
    }
}
