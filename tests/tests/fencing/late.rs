//! A write that is on its way when its owner's term ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;
use weft_store::etcd::Options;
use weft_store::{
    CancellationToken, Candidacy, Commit, Compare, Election, Error, EtcdStore, Fence, Op, Range, Store, Txn,
};
use weft_tests::calls::{PATIENCE, beside};
use weft_tests::etcd::Etcd;
use weft_tests::proxy::{Fault, Proxy};
use weft_types::SystemClock;

/// Terms that are tried: a connection that is found dead takes its late write along.
const ATTEMPTS: usize = 5;

/// Somebody who wants to own.
struct Owner {
    store: Arc<dyn Store>,
    leads: watch::Receiver<Option<Fence>>,
    _campaign: weft_tests::calls::Beside<()>,
}

impl Owner {
    async fn start(endpoint: String) -> Result<Self> {
        // Longer than a term: a call waits for its answer however late it comes.
        let options = Options { call_timeout: PATIENCE, ..Options::new(vec![endpoint]) };
        let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(options).await?);
        let candidacy = Candidacy { key: "owner".into(), value: "me".into(), ttl: Duration::from_secs(2) };
        let (election, leads) = Election::new(Arc::clone(&store), Arc::new(SystemClock), candidacy);
        Ok(Self { store, leads, _campaign: beside(election.run(CancellationToken::new())) })
    }

    async fn elected(&mut self) -> Result<Fence> {
        let leads = tokio::time::timeout(PATIENCE, self.leads.wait_for(Option::is_some)).await??.clone();
        leads.context("just seen")
    }
}

fn put(key: &str, value: &'static str, compare: Option<Compare>) -> Txn {
    let put = Op::Put { key: key.into(), value: value.into(), lease: None };
    Txn { compares: compare.into_iter().collect(), ops: vec![put] }
}

/// Writes in flight while the term ends: what became of the one under the fence, and of one without any.
async fn late_writes(etcd: &Etcd) -> Result<[Result<Commit, Error>; 2]> {
    let proxy = Proxy::start(&etcd.client_url).await?;
    let mut first = Owner::start(proxy.url()).await?;
    let old = first.elected().await?;
    let in_time = first.store.commit(put("work", "first", Some(old.compare()))).await?;
    ensure!(matches!(in_time, Commit::Done(_)), "a write in time was refused");
    let mut second = Owner::start(etcd.client_url.clone()).await?;

    proxy.set(Fault::BlackHole);
    let late = |txn| {
        let store = Arc::clone(&first.store);
        beside(async move { store.commit(txn).await })
    };
    let (fenced, free) = (late(put("work", "late", Some(old.compare()))), late(put("free", "late", None)));
    let new = second.elected().await?;
    ensure!(new.create_revision > old.create_revision, "the term did not grow");
    let successor = second.store.commit(put("work", "second", Some(new.compare()))).await?;
    ensure!(matches!(successor, Commit::Done(_)), "the successor was refused");
    // It may not have been told yet, but it knows the time.
    let still = first.leads.borrow().as_ref().is_some_and(|fence| fence.holds(SystemClock::now()));
    ensure!(!still, "two believe that they own");
    proxy.set(Fault::None);
    let outcomes = [fenced.outcome().await?, free.outcome().await?];
    let work = second.store.read(Range::Key("work".into())).await?;
    ensure!(work.entries.first().is_some_and(|entry| entry.value == "second"), "the late write landed");
    Ok(outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_flight_while_its_term_ends_is_refused() -> Result<()> {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let etcd = Etcd::start().await?;
        let [fenced, free] = late_writes(&etcd).await?;
        assert!(!matches!(fenced, Ok(Commit::Done(_))), "a late write came back as done");
        // The one without a fence shows that both arrived, and late: it is what the fence prevents.
        if let (Ok(Commit::Lost(_)), Ok(Commit::Done(_))) = (&fenced, &free) {
            return Ok(());
        }
        seen.push((fenced, free));
    }
    anyhow::bail!("no late write arrived: {seen:?}")
}
