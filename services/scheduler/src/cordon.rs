//! Cordons outlive their workers, so that a restart does not undo them; but not for ever. The leader notes since when a cordoned worker
//! is not registered, and removes the cordon a day later. The note stands in the record, so that the next leader goes on counting.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use weft_client::{Keys, Snapshot};
use weft_proto::weft::state::v1::Cordon;
use weft_store::{Fence, Op, Txn};
use weft_types::{SystemClock, WorkerId};

use crate::Inner;

/// How long a cordon waits for its worker: longer than any repair that is to end with the same worker.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often the leader looks.
const LOOK: Duration = Duration::from_secs(60);
/// Cordons that are changed in one look; each change has a comparison beside the fence's.
const MOST: usize = 100;

/// The leader's loop.
pub(crate) struct Expiry {
    inner: Arc<Inner>,
}

/// What becomes of one cordon.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    /// It is written anew.
    Note(Cordon),
    /// Its worker has been gone for too long.
    Remove,
}

impl Expiry {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Runs until cancelled. A write that is cut off is whole or not there.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let work = async {
            loop {
                if let Err(error) = self.pass(SystemClock::wall()).await {
                    tracing::warn!(%error, "cordons of workers that are gone stay: trying again");
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    pub(crate) async fn pass(&self, now: SystemTime) -> Result<(), weft_store::Error> {
        let fence = self.inner.fence.borrow().clone().filter(|fence| fence.holds(SystemClock::now()));
        let snapshot = self.inner.mesh.snapshot();
        // What was listed before the term began may be older than what the last leader has written.
        let Some(fence) =
            fence.filter(|fence| snapshot.confirmed.is_some() && snapshot.revision >= fence.create_revision)
        else {
            return Ok(());
        };
        if let Some(transaction) = transaction(&snapshot, &self.inner.keys, &fence, now) {
            // Lost means that an operator was faster or another one leads: the next look sees what is.
            self.inner.store.commit(transaction).await?;
        }
        Ok(())
    }
}

fn transaction(snapshot: &Snapshot, keys: &Keys, fence: &Fence, now: SystemTime) -> Option<Txn> {
    let mut transaction = Txn { compares: vec![fence.compare()], ops: Vec::new() };
    for (id, change) in due(snapshot, now).into_iter().take(MOST) {
        let key = keys.cordon(id);
        let known = snapshot.cordons.get(id).map(|record| record.mod_revision);
        transaction.compares.push(snapshot.unchanged(key.clone(), known));
        transaction.ops.push(match change {
            Change::Note(cordon) => Op::Put { key, value: Bytes::from(cordon.encode_to_vec()), lease: None },
            Change::Remove => Op::Delete(key),
        });
    }
    (!transaction.ops.is_empty()).then_some(transaction)
}

/// What is to be changed. A note from the future is a clock's mistake: it counts from now.
fn due(snapshot: &Snapshot, now: SystemTime) -> Vec<(&WorkerId, Change)> {
    let change = |(id, record): (_, &Arc<weft_client::Record<Cordon>>)| {
        let cordon = &record.value;
        let since = cordon.absent_since.as_ref().and_then(weft_proto::from_timestamp);
        let noted = |absent_since| Some(Change::Note(Cordon { absent_since, ..cordon.clone() }));
        let change = match (snapshot.workers.contains_key(id), since) {
            (true, None) => None,
            (true, Some(_)) => noted(None),
            (false, Some(since)) if since <= now => {
                let gone = now.duration_since(since).unwrap_or_default();
                (gone >= KEPT).then_some(Change::Remove)
            }
            (false, _) => noted(Some(weft_proto::timestamp(now))),
        };
        Some((id, change?))
    };
    snapshot.cordons.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::fixture::{record, snapshot, worker};

    fn seconds(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_cordon_waits_a_day_for_its_worker() {
        let day = KEPT.as_secs();
        let cordon = |since: Option<u64>| Cordon {
            by: "o".to_owned(),
            absent_since: since.map(|since| weft_proto::timestamp(seconds(since))),
            ..Cordon::default()
        };
        for (is_there, since, now, becomes) in [
            (true, None, 100, None),
            (true, Some(50), 100 + day, Some(Change::Note(cordon(None)))),
            (false, None, 100, Some(Change::Note(cordon(Some(100))))),
            (false, Some(100), 99 + day, None),
            (false, Some(100), 100 + day, Some(Change::Remove)),
            (false, Some(200), 100, Some(Change::Note(cordon(Some(100))))),
        ] {
            let mut mesh = snapshot(&if is_there { vec![worker("w1", 1, &[])] } else { vec![] });
            mesh.cordons.insert("w1".parse().expect("an id"), record(cordon(since), 7));
            let due: Vec<Change> = due(&mesh, seconds(now)).into_iter().map(|(_, change)| change).collect();
            assert_eq!(due, becomes.into_iter().collect::<Vec<_>>(), "{is_there} {since:?} {now}");
        }
    }

    #[test]
    fn one_look_changes_what_one_transaction_takes() {
        let mut mesh = snapshot(&[]);
        for number in 0..500 {
            let id = format!("w{number}").parse().expect("an id");
            mesh.cordons.insert(id, record(Cordon::default(), 7));
        }
        let fence = Fence { key: "leader".to_owned(), create_revision: 3, valid_until: SystemClock::now() };
        let transaction = transaction(&mesh, &Keys::new("t"), &fence, seconds(100)).expect("due");
        assert_eq!((transaction.ops.len(), transaction.compares.len()), (MOST, MOST + 1));
        assert!(transaction.compares.contains(&fence.compare()));
    }
}
