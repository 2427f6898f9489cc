//! What each delivery does to a row: the whole barrier, without IO.

use bytes::Bytes;
use weft_types::{Error, Reason, Result};

use crate::mark::{Direction, Mark};
use crate::row::{Row, State};

/// What is to be done about a delivery. A row in it takes the place of the one that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it, once this row stands.
    Begin(Row),
    /// It was begun before, and nobody knows how that ended: find out, once this row stands.
    Resume(Row),
    /// It was done before; this was the answer.
    Replay(Bytes),
    /// Nothing is to be done, once this row stands, if there is one.
    Nothing(Option<Row>),
}

/// What to do about a delivery, when `row` is what is known of its effect and nobody is at work on it.
///
/// # Errors
///
/// `StaleEpoch` when a newer owner of the job was heard; `RejectedByBarrier` when an action comes after its undo, or after what it
/// was told to have no effect; `PreconditionFailed` for a probe of an effect whose undo has begun and not ended.
pub fn decide(row: Option<&Row>, mark: &Mark) -> Result<Verdict> {
    if row.is_some_and(|row| mark.epoch < row.epoch) {
        return Err(Error::new(Reason::StaleEpoch, "a newer owner of the job was here before"));
    }
    match mark.direction {
        Direction::Action => action(row, mark),
        Direction::Undo => Ok(undo(row, mark)),
        Direction::Probe => probe(row, mark),
    }
}

fn action(row: Option<&Row>, mark: &Mark) -> Result<Verdict> {
    let late = |why| Err(Error::new(Reason::RejectedByBarrier, why));
    let Some(row) = row else { return Ok(Verdict::Begin(next(row, mark, State::Running))) };
    match &row.state {
        State::Open if mark.order() <= (row.epoch, row.attempt) => late("an attempt no older than this one has ended"),
        State::Open => Ok(Verdict::Begin(next(Some(row), mark, State::Running))),
        State::Running => Ok(Verdict::Resume(next(Some(row), mark, State::Running))),
        State::Ran(answer) => Ok(Verdict::Replay(answer.clone())),
        State::Undoing | State::Undone(_) | State::Tombstone => late("the action comes after its undo"),
    }
}

fn undo(row: Option<&Row>, mark: &Mark) -> Verdict {
    match row.map(|row| &row.state) {
        None | Some(State::Open) => Verdict::Nothing(Some(next(row, mark, State::Tombstone))),
        Some(State::Ran(_)) => Verdict::Begin(next(row, mark, State::Undoing)),
        Some(State::Running | State::Undoing) => Verdict::Resume(next(row, mark, State::Undoing)),
        Some(State::Undone(answer)) => Verdict::Replay(answer.clone()),
        Some(State::Tombstone) => Verdict::Nothing(None),
    }
}

fn probe(row: Option<&Row>, mark: &Mark) -> Result<Verdict> {
    Ok(match row.map(|row| &row.state) {
        // Who hears that nothing was done acts on it: an attempt that is still on its way must not make it untrue.
        None | Some(State::Open) => Verdict::Nothing(Some(next(row, mark, State::Open))),
        Some(State::Running) => Verdict::Resume(next(row, mark, State::Running)),
        Some(State::Ran(answer)) => Verdict::Replay(answer.clone()),
        // Nobody asks any more: the probe was long on its way.
        Some(State::Undoing) => return Err(Error::new(Reason::PreconditionFailed, "the effect is being undone")),
        Some(State::Undone(_) | State::Tombstone) => Verdict::Nothing(None),
    })
}

/// The row after `mark` was heard, too.
fn next(row: Option<&Row>, mark: &Mark, state: State) -> Row {
    let heard = row.map_or((0, 0), |row| (row.epoch, row.attempt));
    let (epoch, attempt) = heard.max(mark.order());
    Row { state, epoch, attempt }
}
