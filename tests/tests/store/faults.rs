//! The way to etcd, cut, silent and half-open: what was told stands, and nothing is missed.

use weft_store::{Maintain, MirrorEvent};
use weft_tests::http;
use weft_tests::proxy::{Fault, Proxy};

use super::mirrored::{confirmed, event, lost, mirrored, next};
use super::*;

/// One etcd, reached directly by the test and through a proxy by the store under test.
struct Line {
    etcd: Etcd,
    proxy: Proxy,
    direct: EtcdStore,
    store: EtcdStore,
}

impl Line {
    async fn start() -> Self {
        let etcd = Etcd::start().await.expect("etcd starts");
        let proxy = Proxy::start(&etcd.client_url).await.expect("the proxy starts");
        let direct = connect(&etcd).await;
        let options = Options {
            call_timeout: Duration::from_millis(500),
            progress: Duration::from_millis(600),
            ..Options::new(vec![proxy.url()])
        };
        let store = patient(async || EtcdStore::connect(options.clone()).await).await;
        Self { etcd, proxy, direct, store }
    }

    async fn write(&self, op: Op) -> Revision {
        done(&self.direct, ops([op])).await
    }
}

/// A key that comes and goes meanwhile would not be told after a listing.
#[tokio::test]
async fn after_a_cut_every_change_is_told() {
    let line = Line::start().await;
    line.write(put("a/x", "1", None)).await;
    mirrored(&line.store, async |mut events| {
        assert_eq!(next(&mut events, 1).await, ["+a/x"]);
        for fault in [Fault::Reset, Fault::Refuse] {
            line.proxy.set(fault);
            event(&mut events, lost).await;
            line.write(put("b/elsewhere", "1", None)).await;
            line.write(put("a/y", "1", None)).await;
            line.write(delete("a/y")).await;
            line.proxy.set(Fault::None);
            assert_eq!(next(&mut events, 2).await, ["+a/y", "-a/y"]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_compacted_meanwhile_is_told_as_a_difference() {
    let line = Line::start().await;
    let maintenance = Maintenance::try_new(&Options::new(vec![line.etcd.client_url.clone()])).expect("a good endpoint");
    for key in ["a/gone", "a/kept"] {
        line.write(put(key, "1", None)).await;
    }
    mirrored(&line.store, async |mut events| {
        assert_eq!(next(&mut events, 2).await, ["+a/gone", "+a/kept"]);
        line.proxy.set(Fault::Refuse);
        event(&mut events, lost).await;
        line.write(delete("a/gone")).await;
        line.write(put("a/fleeting", "1", None)).await;
        line.write(delete("a/fleeting")).await;
        line.write(put("a/new", "1", None)).await;
        let last = line.write(put("b/last", "1", None)).await;
        maintenance.compact(last).await.expect("compacts");
        line.proxy.set(Fault::None);
        assert_eq!(next(&mut events, 2).await, ["-a/gone", "+a/new"]);
    })
    .await;
}

/// Nothing says that a connection is dead but that nothing comes: the watch finds out by itself.
#[tokio::test]
async fn a_silent_connection_is_noticed_by_a_watch_alone() {
    for fault in [Fault::BlackHole, Fault::HalfOpen] {
        let line = Line::start().await;
        line.write(put("a/x", "1", None)).await;
        mirrored(&line.store, async |mut events| {
            assert_eq!(next(&mut events, 1).await, ["+a/x"]);
            // The watch runs.
            event(&mut events, confirmed).await;
            line.proxy.set(fault);
            line.write(put("a/y", "1", None)).await;
            // Not the connection's own pings, which come much later.
            assert!(event(&mut events, why_lost).await.contains("the watch is silent"));
            line.write(delete("a/x")).await;
            line.proxy.set(Fault::None);
            assert_eq!(next(&mut events, 2).await, ["+a/y", "-a/x"], "{fault:?}");
        })
        .await;
    }
}

fn why_lost(event: &MirrorEvent) -> Option<String> {
    match event {
        MirrorEvent::Lost { error } => Some(error.clone()),
        MirrorEvent::Changes { .. } | MirrorEvent::Confirmed { .. } => None,
    }
}

/// A store whose connection hangs gets another one, and its watches go there, too, even if the old one recovers.
#[tokio::test]
async fn a_call_without_an_answer_ends_the_watches_beside_it() {
    let line = Line::start().await;
    let options = Options {
        call_timeout: Duration::from_millis(300),
        // The watch will not ask by itself.
        progress: Duration::from_secs(3600),
        ..Options::new(vec![line.proxy.url()])
    };
    within(async {
        let store = patient(async || EtcdStore::connect(options.clone()).await).await;
        let mut watch = patient(async || store.watch(Range::Prefix("a/".into()), 1).await).await;
        line.proxy.set(Fault::BlackHole);
        let read = store.read(Range::Key("a/x".into())).await;
        assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
        line.proxy.set(Fault::None);
        while watch.next().await.expect("an error comes before the end").is_ok() {}
        patient(async || store.read(Range::Key("a/x".into())).await).await;
    })
    .await;
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_may_have_happened() {
    let line = Line::start().await;
    within(async {
        line.proxy.set(Fault::HalfOpen);
        // On a busy machine one may be given up before it was sent.
        while get(&line.direct, "a/x").await.is_none() {
            let commit = line.store.commit(ops([put("a/x", "1", None)])).await;
            assert!(matches!(commit, Err(Error::Unavailable(_))), "{commit:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn leases_share_one_stream_that_is_opened_again() {
    let line = Line::start().await;
    within(async {
        let ttl = Duration::from_secs(60);
        // One that has all the time it needs: a stream that is slow to answer would be given up.
        let options = Options::new(vec![line.proxy.url()]);
        let store = EtcdStore::connect(options).await.expect("etcd answers");
        let leases = [store.grant(ttl).await.expect("granted"), store.grant(ttl).await.expect("granted")];
        let before = streams(&line.etcd).await;
        for _ in 0..5 {
            let answers = tokio::join!(store.keep_alive(leases[0]), store.keep_alive(leases[1]));
            assert_eq!((answers.0.expect("renewed"), answers.1.expect("renewed")), (ttl, ttl));
        }
        assert_eq!(streams(&line.etcd).await, before + 1);

        // The other one has a stream of its own, and gives up soon.
        for lease in leases {
            patient(async || line.store.keep_alive(lease).await).await;
        }
        for fault in [Fault::Reset, Fault::BlackHole, Fault::HalfOpen] {
            line.proxy.set(fault);
            for lease in leases {
                let failed = line.store.keep_alive(lease).await;
                assert!(matches!(failed, Err(Error::Unavailable(_))), "{fault:?}: {failed:?}");
            }
            line.proxy.set(Fault::None);
            for lease in leases {
                patient(async || line.store.keep_alive(lease).await).await;
            }
        }
    })
    .await;
}

/// How many keepalive streams etcd has seen, by its own count.
async fn streams(etcd: &Etcd) -> u64 {
    let address = etcd.client_url.trim_start_matches("http://");
    let page = http::get(address, "/metrics").await.expect("etcd has metrics");
    let line =
        page.lines().find(|line| line.starts_with("grpc_server_started_total") && line.contains("LeaseKeepAlive"));
    let value = line.and_then(|line| line.rsplit(' ').next()).expect("etcd counts calls");
    value.parse().expect("a number")
}
