use std::sync::Arc;

use weft_types::{ManualClock, SystemClock};

use super::*;
use crate::faults::{Faulty, Mode, within};
use crate::port::Commit;

const KEY: &str = "leader";

fn candidacy(name: &'static str) -> Candidacy {
    Candidacy { key: KEY.into(), value: Bytes::from_static(name.as_bytes()), ttl: Duration::from_secs(1) }
}

fn candidate(store: &Arc<Faulty>, name: &'static str) -> (Election, watch::Receiver<Option<Fence>>) {
    Election::new(store.clone(), Arc::new(SystemClock), candidacy(name))
}

async fn elected(seen: &mut watch::Receiver<Option<Fence>>) -> Fence {
    seen.wait_for(Option::is_some).await.expect("runs").clone().expect("just seen")
}

async fn unseated(seen: &mut watch::Receiver<Option<Fence>>) {
    seen.wait_for(Option::is_none).await.expect("runs");
}

async fn write_as(store: &Faulty, fence: &Fence) -> Commit {
    let op = Op::Put { key: "work".into(), value: Bytes::new(), lease: None };
    store.inner.commit(Txn { compares: vec![fence.compare()], ops: vec![op] }).await.expect("memory answers")
}

#[tokio::test]
async fn one_leads_and_the_other_follows_when_it_resigns() {
    let store = Faulty::new();
    let (first, mut first_seen) = candidate(&store, "first");
    let (second, mut second_seen) = candidate(&store, "second");
    let (stop_first, stop_second) = (CancellationToken::new(), CancellationToken::new());
    let mut first_leads = first_seen.clone();
    let script = async {
        let old = elected(&mut first_seen).await;
        assert!(matches!(write_as(&store, &old).await, Commit::Done(_)));
        assert!(second_seen.borrow().is_none());
        stop_first.cancel();
        let new = elected(&mut second_seen).await;
        assert!(new.create_revision > old.create_revision);
        assert!(matches!(write_as(&store, &old).await, Commit::Lost(_)), "a stale leader wrote");
        assert!(matches!(write_as(&store, &new).await, Commit::Done(_)));
        assert!(store.contents().await.contains(&(KEY.into(), "second".into())));
        stop_second.cancel();
    };
    let second = async {
        // Stands only once the first leads.
        elected(&mut first_leads).await;
        second.run(stop_second.clone()).await;
    };
    within(async {
        tokio::join!(first.run(stop_first.clone()), second, script);
        assert!(!store.contents().await.iter().any(|(key, _)| key == KEY), "the lease was not ended");
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_its_lease_ends() {
    let clock = Arc::new(ManualClock::default());
    let store = Faulty::with_clock(clock.clone());
    let (election, mut seen) = Election::new(store.clone(), clock.clone(), candidacy("first"));
    let cancel = CancellationToken::new();
    let script = async {
        let fence = elected(&mut seen).await;
        store.set(Mode::Down);
        clock.advance(Duration::from_millis(800));
        assert!(!fence.holds(clock.now()));
        unseated(&mut seen).await;
        // The store's own view: a lease that is over ends with the next call.
        assert!(matches!(write_as(&store, &fence).await, Commit::Done(_)), "it went on after its lease");
        clock.advance(Duration::from_millis(200));
        assert!(matches!(write_as(&store, &fence).await, Commit::Lost(_)), "the lease was over");
        store.set(Mode::Up);
        assert!(elected(&mut seen).await.create_revision > fence.create_revision);
        cancel.cancel();
    };
    within(async { tokio::join!(election.run(cancel.clone()), script) }).await;
}

#[tokio::test]
async fn a_renewed_term_keeps_its_fence() {
    let store = Faulty::new();
    let (election, mut seen) = candidate(&store, "first");
    let cancel = CancellationToken::new();
    let script = async {
        let fence = elected(&mut seen).await;
        for _ in 0..2 {
            seen.changed().await.expect("runs");
            let renewed = seen.borrow_and_update().clone().expect("still leads");
            assert_eq!(renewed.create_revision, fence.create_revision);
            assert!(renewed.valid_until > fence.valid_until);
        }
        cancel.cancel();
    };
    within(async { tokio::join!(election.run(cancel.clone()), script) }).await;
}

#[tokio::test]
async fn a_lost_lease_ends_the_term_and_begins_another() {
    let store = Faulty::new();
    let (election, mut seen) = candidate(&store, "first");
    let cancel = CancellationToken::new();
    let script = async {
        let old = elected(&mut seen).await;
        let listing = store.inner.read(Range::Key(KEY.into())).await.expect("memory answers");
        store.inner.revoke(listing.entries[0].lease.expect("under a lease")).await.expect("revoked");
        unseated(&mut seen).await;
        assert!(elected(&mut seen).await.create_revision > old.create_revision);
        cancel.cancel();
    };
    within(async { tokio::join!(election.run(cancel.clone()), script) }).await;
}

#[tokio::test]
async fn a_win_whose_answer_was_lost_is_still_a_win() {
    let store = Faulty::new();
    store.set(Mode::Deaf);
    let (election, mut seen) = candidate(&store, "first");
    let cancel = CancellationToken::new();
    let script = async {
        let fence = elected(&mut seen).await;
        assert!(matches!(write_as(&store, &fence).await, Commit::Done(_)));
        cancel.cancel();
    };
    within(async { tokio::join!(election.run(cancel.clone()), script) }).await;
}

#[tokio::test]
async fn a_key_that_was_taken_away_ends_the_term() {
    let store = Faulty::new();
    let (election, mut seen) = candidate(&store, "first");
    let cancel = CancellationToken::new();
    let script = async {
        elected(&mut seen).await;
        store.put(KEY, "usurper").await;
        unseated(&mut seen).await;
        store.delete(KEY).await;
        elected(&mut seen).await;
        cancel.cancel();
    };
    within(async { tokio::join!(election.run(cancel.clone()), script) }).await;
}
