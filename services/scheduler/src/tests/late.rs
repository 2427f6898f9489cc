//! A write of a placement whose outcome the leader does not learn, and which arrives after the next decision.

use weft_proto::weft::state::v1::Cordon;
use weft_store::{Error, LeaseId, Listing, Watch};

use super::*;

/// The embedded store, which loses sight of the first placement: it is kept, and something else happens meanwhile.
struct Late {
    inner: MemoryStore,
    keys: Keys,
    meanwhile: Mutex<Option<Op>>,
    kept: Mutex<Option<Txn>>,
}

impl Late {
    fn places(&self, txn: &Txn) -> bool {
        let placements = format!("{}placements/", self.keys.root());
        txn.ops.iter().any(|op| matches!(op, Op::Put { key, .. } if key.starts_with(&placements)))
    }
}

#[tonic::async_trait]
impl Store for Late {
    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let meanwhile = self.places(&txn).then(|| self.meanwhile.lock().expect("no test panics with it").take());
        let Some(op) = meanwhile.flatten() else { return self.inner.commit(txn).await };
        self.inner.commit(Txn { compares: Vec::new(), ops: vec![op] }).await?;
        *self.kept.lock().expect("no test panics with it") = Some(txn);
        Err(Error::Unavailable("planted".to_owned()))
    }

    async fn read(&self, range: Range) -> Result<Listing, Error> {
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
}

#[tokio::test]
async fn a_placement_that_was_lost_sight_of_does_not_arrive_after_the_next_decision() {
    let keys = Keys::new("test");
    let cordon = keys.cordon(&"w1".parse().expect("an id"));
    let cordon = Op::Put { key: cordon, value: Cordon::default().encode_to_vec().into(), lease: None };
    let late = Arc::new(Late {
        inner: MemoryStore::new(Arc::new(SystemClock)),
        keys,
        meanwhile: Mutex::new(Some(cordon)),
        kept: Mutex::default(),
    });
    let cluster = Cluster::over(Arc::clone(&late) as Arc<dyn Store>);
    for id in ["w1", "w2"] {
        cluster.join(&worker(id, 1, &[("m", 1)])).await;
    }
    let (_scheduler, _tasks) = cluster.scheduler("s1", Options::default());
    cluster.until_placed(&[key("w2", "m", 1)]).await;
    let kept = late.kept.lock().expect("no test panics with it").take().expect("the first decision");
    let commit = late.inner.commit(kept).await;
    assert!(matches!(commit, Ok(Commit::Lost(_))), "one replica too many: {commit:?}");
}
