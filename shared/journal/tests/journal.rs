//! The log of jobs over the embedded store.

#[path = "journal/checks.rs"]
mod checks;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use checks::desk::{Desk, ROOT, eventually};
use checks::faulty::{Fate, Faulty};
use futures_util::future::join_all;
use tokio::sync::Notify;
use weft_journal::JobId;
use weft_store::{CancellationToken, Commit, Error, LeaseId, Listing, MemoryStore, Range, Revision, Store, Txn, Watch};
use weft_types::SystemClock;

/// Runs a check over an embedded store that ends leases in time and forgets nothing.
async fn over_memory<F: Future<Output = ()>>(check: impl FnOnce(Arc<dyn Store>) -> F) {
    let store = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let checked = async {
        checks::within(check(Arc::new(store.clone()))).await;
        cancel.cancel();
    };
    tokio::join!(store.clone().run(cancel.clone()), checked);
}

checks::every!(over_memory);

/// A store in whose reads of one key a thread can be held up, and with it whatever runs on it.
struct Stalling {
    inner: MemoryStore,
    key: String,
    stalled: Mutex<Option<mpsc::Receiver<()>>>,
    at: Notify,
}

#[async_trait::async_trait]
impl Store for Stalling {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        let is_it = matches!(&range, Range::Key(key) if *key == self.key);
        let stalled = is_it.then(|| self.stalled.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten();
        if let Some(stalled) = stalled {
            self.at.notify_one();
            // Whoever holds it up has gone: so nothing does.
            let _gone = stalled.recv();
        }
        self.inner.read(range).await
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        self.inner.watch(range, from).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        let is_asked_for = self.stalled.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let is_it = txn.ops.iter().any(|op| op.key() == self.key.replace("/own/", "/seq/"));
        // Its answer is lost, so its writer looks what has become of it.
        let done = self.inner.commit(txn).await;
        if is_asked_for && is_it { Err(Error::Unavailable("planted".into())) } else { done }
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

/// What the last term left behind must not be taken for the end of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_that_is_won_anew_waits_for_the_end_of_its_last_term() {
    let inner = MemoryStore::with_history(Arc::new(SystemClock), 1 << 20);
    let cancel = CancellationToken::new();
    let (release, stalled) = mpsc::sync_channel(1);
    let store = Arc::new(Stalling {
        inner: inner.clone(),
        key: format!("{ROOT}own/07"),
        stalled: Mutex::default(),
        at: Notify::new(),
    });
    let tested = async {
        let desk = Desk::alone(&(Arc::clone(&store) as Arc<dyn Store>), "s-0").await;
        let before = desk.shard(7);
        *store.stalled.lock().expect("no test panics with it") = Some(stalled);
        let job = Arc::new(checks::desk::record(JobId::new(7, 1, 1)));
        let begins = desk.tasks.attach(async move { drop(before.commit(None, job).await) });
        store.at.notified().await;
        let lease = inner.read(Range::Key(format!("{ROOT}member/s-0"))).await.expect("it is embedded").entries[0].lease;
        let first = desk.shard(9).epoch();
        inner.revoke(lease.expect("it has one")).await.expect("it is embedded");
        let is_anew =
            |held: &checks::desk::Held, number: u8| held.shards.get(&number).is_some_and(|shard| shard.epoch() > first);
        desk.until(|held| (0..=255).all(|number| number == 7 || is_anew(held, number))).await;
        release.send(()).expect("it is stalled");
        let held = desk.until(|held| is_anew(held, 7) && held.lost.contains(&7)).await;
        assert_eq!(held.shards.len(), 256);
        drop(begins);
        desk.stop().await;
        cancel.cancel();
    };
    tokio::join!(inner.clone().run(cancel.clone()), checks::within(tested));
}

/// Counts log lines by their level and message.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<BTreeMap<(tracing::Level, String), usize>>>);

impl Lines {
    fn count(&self, level: tracing::Level, message: &str) -> usize {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(level, message.to_owned())).unwrap_or(&0)
    }
}

/// The message of one.
struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let key = (*event.metadata().level(), message.0);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Whatever is under way in however many shards.
#[tokio::test]
async fn a_store_that_does_not_answer_is_told_of_once() {
    let lines = Lines::default();
    let _lines = tracing::subscriber::set_default(lines.clone());
    Box::pin(over_memory(|store| async move {
        let line = Faulty::new(store);
        let desk = Desk::alone(&(Arc::clone(&line) as Arc<dyn Store>), "s-0").await;
        line.decide(|_| Fate::Gone);
        let begin = |number: u8| {
            let (desk, job) = (&desk, Arc::new(checks::desk::record(JobId::new(number, 1, 1))));
            async move { desk.shard(number).commit(None, job).await.expect("it is logged") }
        };
        let told = |level| lines.count(level, "the fate of a write to the job log is not known yet");
        let answers = async {
            eventually(async || told(tracing::Level::WARN) + told(tracing::Level::DEBUG) >= 40).await;
            line.decide(|_| Fate::Normal);
        };
        tokio::join!(join_all((0..40).map(begin)), answers);
        assert_eq!(told(tracing::Level::WARN), 1);
        desk.stop().await;
    }))
    .await;
}
