//! The same random calls to the embedded store and to a fresh etcd: every answer is the same, to the revision, and so is
//! everything that watches tell while it happens.

use std::pin::pin;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_store::Compare;

use super::*;

const STEPS: usize = 600;
const KEYS: i64 = 6;

/// Both stores and the leases they gave, in the same order.
struct Pair {
    memory: MemoryStore,
    etcd: EtcdStore,
    leases: Vec<(LeaseId, LeaseId)>,
}

/// The same watch of both, opened before anything happened.
struct Observer {
    range: Range,
    memory: Watch,
    etcd: Watch,
    etcd_revision: Revision,
}

/// A lease's name in both stores: the leases differ, their order does not.
#[derive(Clone, Copy)]
enum Side {
    Memory,
    Etcd,
}

#[tokio::test]
async fn memory_and_etcd_answer_alike() {
    let etcd = Etcd::start().await.expect("etcd starts");
    let memory = MemoryStore::new(Arc::new(SystemClock));
    let seed: u64 = rand::random();
    let mut pair = Pair { memory, etcd: connect(&etcd).await, leases: vec![] };
    let mut random = StdRng::seed_from_u64(seed);
    within(async {
        let mut observers = vec![];
        let ranges = ["", "k", "k1", "k2/", "other"].map(|prefix| Range::Prefix(prefix.into()));
        for range in ranges.into_iter().chain([Range::Key("k3".into())]) {
            observers.push(Observer::open(&pair, range).await);
        }
        for step in 0..STEPS {
            let place = format!("seed {seed}, step {step}");
            pair.step(&mut random, &place).await;
            for observer in &mut observers {
                observer.compare(&pair, &place).await;
            }
        }
        pair.compare_histories(seed).await;
    })
    .await;
}

impl Pair {
    async fn step(&mut self, random: &mut StdRng, place: &str) {
        match random.random_range(0..10) {
            0 => {
                let ttl = Duration::from_secs(600);
                let granted = tokio::join!(self.memory.grant(ttl), self.etcd.grant(ttl));
                self.leases.push((granted.0.expect("memory grants"), granted.1.expect("etcd grants")));
            }
            1 if !self.leases.is_empty() => {
                let (memory, etcd) = self.leases[random.random_range(0..self.leases.len())];
                let answers = tokio::join!(self.memory.revoke(memory), self.etcd.revoke(etcd));
                assert_eq!(kind(&answers.0), kind(&answers.1), "{place}");
            }
            2 if !self.leases.is_empty() => {
                let (memory, etcd) = self.leases[random.random_range(0..self.leases.len())];
                let answers = tokio::join!(self.memory.keep_alive(memory), self.etcd.keep_alive(etcd));
                assert_eq!(kind(&answers.0), kind(&answers.1), "{place}");
            }
            _ => {
                let (memory, etcd) = self.transaction(random).await;
                let shown = format!("{place}: {memory:?}");
                let answers = tokio::join!(self.memory.commit(memory), self.etcd.commit(etcd));
                assert_eq!(kind(&answers.0), kind(&answers.1), "{shown}");
                assert_eq!(answers.0.ok(), answers.1.ok(), "{shown}");
            }
        }
    }

    /// The same transaction in the words of both.
    async fn transaction(&self, random: &mut StdRng) -> (Txn, Txn) {
        let mut compares = vec![];
        for _ in 0..random.random_range(0..3) {
            compares.push(self.comparison(random).await);
        }
        let (mut memory, mut etcd) = (vec![], vec![]);
        for key in 0..KEYS {
            let key = format!("k{key}");
            match random.random_range(0..6) {
                0 => [&mut memory, &mut etcd].into_iter().for_each(|ops| ops.push(delete(&key))),
                1 | 2 => {
                    let value = random.random_range(0..100u32).to_string();
                    let leased = !self.leases.is_empty() && random.random_bool(0.5);
                    let lease = leased.then(|| self.leases[random.random_range(0..self.leases.len())]);
                    memory.push(put(&key, value.clone(), lease.map(|lease| lease.0)));
                    etcd.push(put(&key, value, lease.map(|lease| lease.1)));
                }
                _ => {}
            }
        }
        (Txn { compares: compares.clone(), ops: memory }, Txn { compares, ops: etcd })
    }

    /// One that holds, mostly.
    async fn comparison(&self, random: &mut StdRng) -> Compare {
        let key = format!("k{}", random.random_range(0..KEYS));
        let entry = get(&self.memory, &key).await;
        let off = i64::from(random.random_bool(0.2));
        let field = |of: fn(&Entry) -> i64| entry.as_ref().map_or(0, of) + off;
        match random.random_range(0..3) {
            0 => Compare::CreateRevision(key, field(|entry| entry.create_revision)),
            1 => Compare::ModRevision(key, field(|entry| entry.mod_revision)),
            _ => Compare::Version(key, field(|entry| entry.version)),
        }
    }

    /// What is there now, and everything that ever happened.
    async fn compare_histories(&self, seed: u64) {
        let everything = || Range::Prefix(String::new());
        let listings = tokio::join!(self.memory.read(everything()), self.etcd.read(everything()));
        let (memory, etcd) = (listings.0.expect("memory answers"), listings.1.expect("etcd answers"));
        assert_eq!(memory.revision, etcd.revision, "seed {seed}");
        let names = |entries: Vec<Entry>, side| entries.into_iter().map(|entry| self.named(entry, side)).collect();
        let (memory_entries, etcd_entries): (Vec<_>, Vec<_>) =
            (names(memory.entries, Side::Memory), names(etcd.entries, Side::Etcd));
        assert_eq!(memory_entries, etcd_entries, "seed {seed}");

        let memory_changes = self.history(&self.memory, memory.revision, Side::Memory).await;
        let etcd_changes = self.history(&self.etcd, memory.revision, Side::Etcd).await;
        assert!(memory_changes.len() > STEPS / 2, "hardly anything happened");
        assert_eq!(memory_changes, etcd_changes, "seed {seed}");
    }

    async fn history(&self, store: &dyn Store, until: Revision, side: Side) -> Vec<Change> {
        let mut watch = store.watch(Range::Prefix(String::new()), 1).await.expect("watch");
        let mut history = vec![];
        loop {
            let message = watch.next().await.expect("runs").expect("no error");
            history.extend(message.changes.into_iter().map(|change| self.named_change(change, side)));
            if message.revision >= until {
                return history;
            }
        }
    }

    fn named_change(&self, change: Change, side: Side) -> Change {
        match change {
            Change::Put(entry) => Change::Put(self.named(entry, side)),
            Change::Delete { .. } => change,
        }
    }

    /// The entry with its lease by number.
    fn named(&self, entry: Entry, side: Side) -> Entry {
        let number = |lease: LeaseId| {
            let same = |pair: &(LeaseId, LeaseId)| match side {
                Side::Memory => pair.0 == lease,
                Side::Etcd => pair.1 == lease,
            };
            let number = self.leases.iter().position(same).expect("a lease of ours");
            LeaseId(i64::try_from(number).expect("small"))
        };
        Entry { lease: entry.lease.map(number), ..entry }
    }
}

impl Observer {
    async fn open(pair: &Pair, range: Range) -> Self {
        let memory = pair.memory.watch(range.clone(), 1).await.expect("watch");
        let etcd = pair.etcd.watch(range.clone(), 1).await.expect("watch");
        Self { range, memory, etcd, etcd_revision: 0 }
    }

    /// The embedded store tells at once, so what it has told by now is what etcd has to tell.
    async fn compare(&mut self, pair: &Pair, place: &str) {
        let place = format!("{place}, watch of {:?}", self.range);
        let mut memory = vec![];
        while let Some(message) = pin!(self.memory.next()).now_or_never() {
            memory.extend(message.expect("runs").expect("no error").changes);
        }
        let mut etcd = vec![];
        while etcd.len() < memory.len() {
            let message = tokio::time::timeout(LIMIT / 4, self.etcd.next()).await;
            let message = message.unwrap_or_else(|_| panic!("{place}: {memory:?}, but {etcd:?}"));
            let message = message.expect("runs").expect("no error");
            // A revision comes whole: the next message is of later ones.
            let earliest = message.changes.iter().map(mod_revision).min().unwrap_or(Revision::MAX);
            assert!(earliest > self.etcd_revision, "{place}: {message:?} after {}", self.etcd_revision);
            self.etcd_revision = message.revision.max(self.etcd_revision);
            etcd.extend(message.changes);
        }
        let named = |changes: Vec<Change>, side| changes.into_iter().map(move |change| pair.named_change(change, side));
        let memory: Vec<Change> = named(memory, Side::Memory).collect();
        assert_eq!(memory, named(etcd, Side::Etcd).collect::<Vec<_>>(), "{place}");
    }
}

/// How a call ended, without what differs.
fn kind<T>(answer: &Result<T, Error>) -> &'static str {
    match answer {
        Ok(_) => "ok",
        Err(Error::LeaseLost(_)) => "lease lost",
        Err(Error::Refused(_)) => "refused",
        Err(Error::Compacted(_)) => "compacted",
        Err(Error::Unavailable(_) | Error::Unsupported(_)) => "unavailable",
    }
}
