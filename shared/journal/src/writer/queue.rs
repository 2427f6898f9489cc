//! What a shard's writer has still to write, in the order in which it came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::change::{Change, Transition};
use crate::error::CommitError;
use crate::id::JobId;
use crate::record::Record;

pub(crate) type Answer = oneshot::Sender<Result<(), CommitError>>;

/// One thing to write.
pub(crate) enum Work {
    /// A job moves on; all who asked for it wait.
    Move {
        transition: Transition,
        answers: Vec<Answer>,
        /// It goes alone, since the store refused it in company.
        alone: bool,
    },
    /// Nobody waits for it, and it may fail: what it cleans up is found again.
    Chore {
        change: Change,
        /// Ended jobs that are forgotten by it.
        forgets: Vec<JobId>,
    },
}

impl Work {
    /// Tells all who wait.
    pub(crate) fn answer(self, outcome: &Result<(), CommitError>) {
        if let Self::Move { answers, .. } = self {
            for answer in answers {
                // Whoever does not wait any more does not want to know.
                drop(answer.send(outcome.clone()));
            }
        }
    }
}

/// First come, first served; two transitions of one job that follow each other become one.
#[derive(Default)]
pub(crate) struct Queue {
    works: BTreeMap<i64, Work>,
    by_job: HashMap<JobId, i64>,
    last: i64,
    first: i64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.works.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Adds a transition, or prolongs the one of its job that waits.
    pub(crate) fn push(&mut self, transition: Transition, answer: Answer) {
        let place = self.by_job.get(&transition.after.id);
        match place.and_then(|place| self.works.get_mut(place)) {
            Some(Work::Move { transition: waiting, answers, .. }) => {
                if waiting.precedes(&transition) {
                    waiting.after = transition.after;
                    answers.push(answer);
                } else {
                    drop(answer.send(Err(CommitError::Stale)));
                }
            }
            _ => {
                self.last += 1;
                self.by_job.insert(transition.after.id.clone(), self.last);
                self.works.insert(self.last, Work::Move { transition, answers: vec![answer], alone: false });
            }
        }
    }

    /// Adds what goes before everything else.
    pub(crate) fn push_front(&mut self, work: Work) {
        self.first -= 1;
        if let Work::Move { transition, .. } = &work {
            self.by_job.insert(transition.after.id.clone(), self.first);
        }
        self.works.insert(self.first, work);
    }

    /// Every place, in order.
    pub(crate) fn places(&self) -> Vec<i64> {
        self.works.keys().copied().collect()
    }

    pub(crate) fn get(&self, place: i64) -> Option<&Work> {
        self.works.get(&place)
    }

    pub(crate) fn remove(&mut self, place: i64) -> Option<Work> {
        let work = self.works.remove(&place)?;
        if let Work::Move { transition, .. } = &work {
            self.by_job.remove(&transition.after.id);
        }
        Some(work)
    }
}

/// The jobs of a shard that have not ended, as they stand in the log.
pub(crate) type Live = HashMap<JobId, Arc<Record>>;
