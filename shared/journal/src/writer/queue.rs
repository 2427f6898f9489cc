//! What a shard's writer has still to write, in the order in which it came.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

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
    Chore(Change),
    /// Ended jobs are forgotten, as far as they are remembered by then. It may fail, too.
    Forget { jobs: Vec<JobId>, _done: mpsc::Sender<Infallible> },
}

impl Work {
    /// How many transitions it writes: those that were joined count each.
    pub(crate) fn transitions(&self) -> usize {
        match self {
            Self::Move { answers, .. } => answers.len(),
            Self::Chore(_) | Self::Forget { .. } => 0,
        }
    }

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
                    (waiting.after, waiting.is_bound) = (transition.after, transition.is_bound);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn transition(number: u128, from: Option<u64>, to: u64) -> Transition {
        let at = |revision: u64| {
            let mut record = record(number);
            record.job.revision = revision;
            Arc::new(record)
        };
        Transition { before: from.map(at), after: at(to), is_bound: false }
    }

    fn push(queue: &mut Queue, transition: Transition) -> oneshot::Receiver<Result<(), CommitError>> {
        let (answer, answered) = oneshot::channel();
        queue.push(transition, answer);
        answered
    }

    /// What is to be written of each job, in order.
    fn waiting(queue: &Queue) -> Vec<(Option<u64>, u64)> {
        let revisions = |work: &Work| match work {
            Work::Move { transition: Transition { before, after, .. }, .. } => {
                (before.as_ref().map(|before| before.job.revision), after.job.revision)
            }
            Work::Chore(_) | Work::Forget { .. } => (None, 0),
        };
        queue.places().iter().filter_map(|place| queue.get(*place)).map(revisions).collect()
    }

    #[test]
    fn what_belongs_to_one_job_becomes_one_write() {
        let mut queue = Queue::default();
        let mut first = push(&mut queue, transition(1, None, 1));
        let mut other = push(&mut queue, transition(2, Some(4), 5));
        let mut second = push(&mut queue, transition(1, Some(1), 2));
        assert_eq!(waiting(&queue), [(None, 2), (Some(4), 5)]);
        let place = queue.places()[0];
        queue.remove(place).expect("it is there").answer(&Ok(()));
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(Ok(())), Ok(Ok(()))));
        assert!(other.try_recv().is_err());
        // What comes now goes by itself.
        let _third = push(&mut queue, transition(1, Some(2), 3));
        assert_eq!(waiting(&queue), [(Some(4), 5), (Some(2), 3)]);
    }

    #[test]
    fn two_that_were_decided_side_by_side_do_not_follow_each_other() {
        let mut queue = Queue::default();
        let _first = push(&mut queue, transition(1, Some(1), 2));
        let mut second = push(&mut queue, transition(1, Some(1), 2));
        assert_eq!(second.try_recv(), Ok(Err(CommitError::Stale)));
        assert_eq!(waiting(&queue), [(Some(1), 2)]);
    }

    #[test]
    fn what_is_put_back_goes_first() {
        let mut queue = Queue::default();
        let _first = push(&mut queue, transition(1, Some(1), 2));
        queue.push_front(Work::Chore(Change::default()));
        assert_eq!(waiting(&queue), [(None, 0), (Some(1), 2)]);
        assert_eq!((queue.len(), queue.is_empty()), (2, false));
    }
}
