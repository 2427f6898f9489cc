//! Three members, of which some are lost or stand still: the others serve.

use weft_store::Compare;
use weft_tests::proxy::{Fault, Proxy};

use super::mirrored::{event, lost, mirrored, next};
use super::*;

/// A store that uses the member `first` until that fails, although it knows all.
async fn on_member(cluster: &Cluster, first: usize, options: Options) -> (EtcdStore, Vec<Proxy>) {
    let mut proxies = vec![];
    for url in cluster.endpoints() {
        proxies.push(Proxy::start(&url).await.expect("the proxy starts"));
    }
    for (_, proxy) in proxies.iter().enumerate().filter(|(index, _)| *index != first) {
        proxy.set(Fault::Refuse);
    }
    let endpoints = proxies.iter().map(Proxy::url).collect();
    let store = EtcdStore::connect(Options { endpoints, ..options }).await.expect("one member answers");
    for proxy in &proxies {
        proxy.set(Fault::None);
    }
    (store, proxies)
}

/// Writes a key once, however often it must be tried: an attempt whose answer is lost may have done it.
async fn created(store: &EtcdStore, key: &str) {
    let compares = vec![Compare::CreateRevision(key.into(), 0)];
    let txn = Txn { compares, ..ops([put(key, "1", None)]) };
    while let Err(error) = store.commit(txn.clone()).await {
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
}

#[tokio::test]
async fn a_killed_leader_costs_moments() {
    let mut cluster = Cluster::start(3).await.expect("etcd starts");
    let leader = cluster.leader().await.expect("a leader");
    let (store, _proxies) = on_member(&cluster, leader, Options::new(vec![])).await;
    let others = Options::new(cluster.endpoints());
    let writer = EtcdStore::connect(others).await.expect("etcd answers");
    done(&writer, ops([put("a/x", "1", None)])).await;
    let lease = store.grant(Duration::from_secs(10)).await.expect("granted");
    done(&store, ops([put("b/leased", "1", Some(lease))])).await;

    mirrored(&store, async |mut events| {
        assert_eq!(next(&mut events, 1).await, ["+a/x"]);
        cluster.kill(leader).expect("killed");
        event(&mut events, lost).await;
        let write = created(&writer, "a/y");
        let renewal = async {
            while let Err(error) = store.keep_alive(lease).await {
                assert!(matches!(error, Error::Unavailable(_)), "{error}");
            }
        };
        let current = async { assert_eq!(next(&mut events, 1).await, ["+a/y"]) };
        tokio::join!(write, renewal, current);
        let leased = get(&store, "b/leased").await.expect("the lease lives");
        assert_eq!(leased.lease, Some(lease));

        // The next one, once the first is back.
        cluster.restart(leader).await.expect("etcd starts again");
        let leader = cluster.leader().await.expect("a leader");
        cluster.kill(leader).expect("killed");
        created(&writer, "a/z").await;
        assert_eq!(next(&mut events, 1).await, ["+a/z"]);
    })
    .await;
}

#[tokio::test]
async fn a_member_that_stands_still_is_noticed_by_a_watch_alone() {
    let cluster = Cluster::start(3).await.expect("etcd starts");
    let leader = cluster.leader().await.expect("a leader");
    let follower = (leader + 1) % 3;
    let options = Options { progress: Duration::from_millis(600), ..Options::new(vec![]) };
    let (store, _proxies) = on_member(&cluster, follower, options).await;
    let rest: Vec<String> =
        (0..3).filter(|index| *index != follower).map(|index| cluster.endpoints()[index].clone()).collect();
    let writer = EtcdStore::connect(Options::new(rest)).await.expect("etcd answers");
    done(&writer, ops([put("a/x", "1", None)])).await;
    mirrored(&store, async |mut events| {
        assert_eq!(next(&mut events, 1).await, ["+a/x"]);
        cluster.pause(follower).expect("paused");
        done(&writer, ops([put("a/y", "1", None)])).await;
        assert_eq!(next(&mut events, 1).await, ["+a/y"]);
        cluster.resume(follower).expect("resumed");
    })
    .await;
}

/// Nothing was sent yet, so any call may go to the next member at once.
#[tokio::test]
async fn a_member_that_is_not_there_costs_no_call() {
    let mut cluster = Cluster::start(3).await.expect("etcd starts");
    let follower = (cluster.leader().await.expect("a leader") + 1) % 3;
    let endpoints = cluster.endpoints();
    cluster.kill(follower).expect("killed");
    within(async {
        // Each begins somewhere else.
        for index in 0..12 {
            let store = EtcdStore::open(Options::new(endpoints.clone())).await.expect("good endpoints");
            let mut watch = store.watch(Range::Prefix(format!("a/{index}")), 1).await.expect("watch");
            let lease = store.grant(Duration::from_secs(60)).await.expect("granted");
            store.keep_alive(lease).await.expect("renewed");
            done(&store, ops([put(&format!("a/{index}"), "1", Some(lease))])).await;
            assert_eq!(told(&mut watch, 1).await.len(), 1);
        }
    })
    .await;
}
