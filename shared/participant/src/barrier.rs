//! The barrier: a row for each effect, and what to do about a call.
//!
//! Deliveries of one key take turns in this process, so a duplicate waits for the answer of the first. Rows lie in a store; which one
//! decides what outlives the process:
//!
//! - [`Barrier::in_memory`]: rows end with the process. Right where the effects do, too: a loaded model, a reservation in memory.
//! - [`Barrier::open`] over etcd: rows survive the process. An effect in the same etcd is committed together with its row
//!   ([`Barrier::enter_with`], [`Pass::done_with`]), and nothing is ever unknown. For an effect elsewhere two steps are needed ([`Barrier::enter`],
//!   [`Pass::done`]): a row that says that it has begun, and one that says that it is there. When the process dies between them, the next
//!   delivery is [`Entry::Unknown`], and the participant has to find out.
//!
//! One process at a time has a prefix. Another one could not tell a call that is under way here from one whose process has died.

mod pass;
mod retention;
mod rows;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weft_store::{MemoryStore, Store};
use weft_types::{Clock, Error, Reason, Result};

pub use self::pass::Pass;
use self::rows::Rows;
use self::turns::Turns;
use crate::decide::{Verdict, decide};
use crate::mark::Mark;

/// The longest answer that is kept for duplicates.
pub const MAX_ANSWER_BYTES: usize = 4096;

/// How often a row is looked at anew because somebody else changed it meanwhile. Nobody else should.
const RACES: usize = 4;

/// How soon a call that could not be decided on may come again.
const AGAIN: Duration = Duration::from_millis(100);

/// The bounds on what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most rows. The last tenth of them is for undos: a full barrier stops new effects, and not the end of old ones.
    pub rows: usize,
    /// How long a row is kept after its last change: longer than a job and the last of its calls may take. A row lives up to an eighth
    /// longer.
    pub retention: Duration,
}

impl Default for Limits {
    /// 100,000 rows, for a day. An answer of 4 KiB in each is 400 MiB; rows without one are about 100 bytes.
    fn default() -> Self {
        Self { rows: 100_000, retention: Duration::from_secs(24 * 3600) }
    }
}

/// What is to be done about a call.
#[derive(Debug)]
pub enum Entry {
    /// Do it: bring the effect about, or for an undo remove it. Then tell the pass.
    Run(Pass),
    /// It was begun before, and how that ended is not known. Find out whether the effect is there; then finish what the call asks for and
    /// tell the pass. An undo of an effect that is not there is [`Pass::done`]; a probe of one is [`Pass::failed`].
    Unknown(Pass),
    /// It was done before: answer this again.
    Answer(Bytes),
    /// There is nothing to undo, or for a probe: the effect is not there, and no attempt so far will bring it.
    Nothing,
}

/// Stands before the effects of one participant.
pub struct Barrier {
    rows: Arc<Rows>,
    turns: Turns,
}

impl Barrier {
    /// Rows that end with this process.
    pub fn in_memory(clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let store = MemoryStore::with_history(Arc::clone(&clock), 0);
        Self::over(Rows::new(Arc::new(store), clock, String::new(), limits))
    }

    /// Rows in `store` under `prefix`, which nothing else uses and which ends with a separator of the caller's, such as `ledger/rows/`.
    ///
    /// # Errors
    ///
    /// When the store does not answer: what is there has to be counted.
    pub async fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>, prefix: &str, limits: Limits) -> Result<Self> {
        let rows = Rows::new(store, clock, prefix.to_owned(), limits);
        rows.count().await?;
        Ok(Self::over(rows))
    }

    fn over(rows: Rows) -> Self {
        Self { rows: Arc::new(rows), turns: Turns::default() }
    }

    /// Says what to do about a call whose effect lies elsewhere. That it has begun is stored before this returns.
    ///
    /// Waits for a call with the same key that is under way; dropping the future gives up the turn.
    ///
    /// # Errors
    ///
    /// `RejectedByBarrier` for an action that is too late, `StaleEpoch` after a newer owner of the job, `Overloaded` when there is no room for
    /// another row, `StoreUnavailable` when the row cannot be read or written, `Internal` when it is not ours.
    pub async fn enter(&self, mark: &Mark) -> Result<Entry> {
        self.admit(mark, true).await
    }

    /// As [`Self::enter`], for an effect that is a transaction of the barrier's own store. Nothing is stored before [`Pass::done_with`] commits
    /// both: what does not come to that has not happened.
    ///
    /// # Errors
    ///
    /// As [`Self::enter`].
    pub async fn enter_with(&self, mark: &Mark) -> Result<Entry> {
        self.admit(mark, false).await
    }

    async fn admit(&self, mark: &Mark, stores_begin: bool) -> Result<Entry> {
        let turn = self.turns.wait(&mark.key).await;
        for _ in 0..RACES {
            let seen = self.rows.read(&mark.key).await?;
            let (row, wrap): (_, fn(Pass) -> Entry) = match decide(seen.row.as_ref(), mark)? {
                Verdict::Replay(answer) => return Ok(Entry::Answer(answer)),
                Verdict::Nothing(None) => return Ok(Entry::Nothing),
                Verdict::Nothing(Some(row)) => match self.rows.swap(&mark.key, &seen, row).await? {
                    Some(_) => return Ok(Entry::Nothing),
                    None => continue,
                },
                Verdict::Begin(row) if !stores_begin => {
                    return Ok(Entry::Run(Pass::new(Arc::clone(&self.rows), turn, row, seen)));
                }
                Verdict::Begin(row) => (row, Entry::Run),
                Verdict::Resume(row) => (row, Entry::Unknown),
            };
            if let Some(written) = self.rows.swap(&mark.key, &seen, row.clone()).await? {
                return Ok(wrap(Pass::new(Arc::clone(&self.rows), turn, row, written)));
            }
        }
        let raced = Error::new(Reason::StoreUnavailable, "the row of this effect keeps changing");
        Err(raced.retry_after(AGAIN))
    }
}

#[cfg(test)]
mod tests;
