//! Real etcd, killed, paused and away: what stands on the store goes on.

use tokio::sync::mpsc;
use weft_store::{Candidacy, Election, Mirror, Presence};

use super::mirrored::{changes, confirmed, event, lost};
use super::*;

fn options(etcd: &Etcd) -> Options {
    Options {
        call_timeout: Duration::from_millis(500),
        progress: Duration::from_millis(200),
        ..Options::new(vec![etcd.client_url.clone()])
    }
}

/// A store that gives up on etcd soon.
async fn impatient(etcd: &Etcd) -> EtcdStore {
    patient(async || EtcdStore::connect(options(etcd)).await).await
}

#[tokio::test]
async fn a_killed_etcd_costs_nothing_but_time() {
    let mut etcd = Etcd::start().await.expect("etcd starts");
    let store: Arc<dyn Store> = Arc::new(impatient(&etcd).await);
    let cancel = CancellationToken::new();
    done(&connect(&etcd).await, ops([put("a/kept", "1", None)])).await;
    let (sender, mut events) = mpsc::channel(1024);
    let mirror = Mirror::new(store.clone(), Range::Prefix("a/".into()));
    let mirror = mirror.run(cancel.clone(), move |event| sender.try_send(event).expect("the test reads along"));
    let (presence, driver) = Presence::new(store.clone(), Duration::from_secs(2));
    let candidacy = Candidacy { key: "leader".into(), value: "me".into(), ttl: Duration::from_secs(2) };
    let (election, mut leads) = Election::new(store.clone(), Arc::new(SystemClock), candidacy);

    let script = async {
        assert_eq!(event(&mut events, changes).await, ["+a/kept"]);
        presence.set("a/present", "1").expect("allowed");
        presence.flush().await.expect("runs");
        assert_eq!(event(&mut events, changes).await, ["+a/present"]);
        let term = leads.wait_for(Option::is_some).await.expect("runs").clone().expect("leads");
        // A quiet watch proves that it lives.
        event(&mut events, confirmed).await;

        etcd.kill().expect("killed");
        event(&mut events, lost).await;
        assert!(matches!(store.read(Range::Key("a/kept".into())).await, Err(Error::Unavailable(_))));
        presence.set("a/late", "1").expect("allowed");
        leads.wait_for(Option::is_none).await.expect("runs");

        etcd.restart().await.expect("etcd starts again");
        presence.flush().await.expect("runs");
        // A new leader of etcd extends every lease, so `a/present` was not lost and is not told again.
        assert_eq!(event(&mut events, changes).await, ["+a/late"]);
        let again = leads.wait_for(Option::is_some).await.expect("runs").clone().expect("leads");
        assert_eq!(again.create_revision, term.create_revision);
        cancel.cancel();
    };
    within(async { tokio::join!(mirror, driver.run(cancel.clone()), election.run(cancel.clone()), script) }).await;
    let left = patient(async || store.read(Range::Prefix(String::new())).await).await;
    assert_eq!(left.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a/kept"]);
}

#[tokio::test]
async fn a_paused_etcd_is_noticed() {
    let etcd = Etcd::start().await.expect("etcd starts");
    let store = impatient(&etcd).await;
    within(async {
        let (mut watch, first) = patient(async || {
            let mut watch = store.watch(Range::Prefix("a/".into()), 1).await?;
            let first = watch.next().await.expect("runs")?;
            Ok((watch, first))
        })
        .await;
        assert!(first.changes.is_empty());
        etcd.pause().expect("paused");
        assert!(matches!(store.read(Range::Prefix("a/".into())).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.commit(ops([put("a/x", "1", None)])).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.grant(Duration::from_secs(5)).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.keep_alive(LeaseId(1)).await, Err(Error::Unavailable(_))));
        assert!(matches!(store.watch(Range::Key("a/x".into()), 1).await, Err(Error::Unavailable(_))));
        while let Ok(progress) = watch.next().await.expect("an error comes before the end") {
            assert!(progress.changes.is_empty());
        }
        assert!(watch.next().await.is_none());
        etcd.resume().expect("resumed");
        patient(async || store.read(Range::Prefix("a/".into())).await).await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_over() {
    let etcd = Etcd::start().await.expect("etcd starts");
    let mut gone = Etcd::start().await.expect("etcd starts");
    let both = vec![gone.client_url.clone(), etcd.client_url.clone()];
    let dead = gone.client_url.clone();
    gone.kill().expect("killed");
    let store = EtcdStore::connect(Options::new(both)).await.expect("the second answers");
    done(&store, ops([put("a", "1", None)])).await;
    let nobody = EtcdStore::connect(Options::new(vec![dead])).await;
    assert!(matches!(nobody, Err(Error::Unavailable(_))));
}

/// A watch begins after the last revision, and on a quiet store nothing follows: it must not look dead for that. Recent etcd
/// (3.5.30 was seen to) says nothing at all to a watch that begins in its future.
#[tokio::test]
async fn a_watch_of_a_quiet_store_lives() {
    let etcd = Etcd::start().await.expect("etcd starts");
    let store = impatient(&etcd).await;
    let revision = done(&store, ops([put("a/x", "1", None)])).await;
    let mut watch = store.watch(Range::Prefix("a/".into()), revision + 1).await.expect("watch");
    within(async {
        for _ in 0..5 {
            let progress = watch.next().await.expect("runs").expect("no error");
            assert_eq!((progress.changes, progress.revision), (vec![], revision));
        }
        let next = done(&store, ops([put("a/y", "1", None)])).await;
        let told = watch.next().await.expect("runs").expect("no error");
        assert_eq!((told.changes.len(), told.revision), (1, next));
    })
    .await;
}
