//! etcd behind certificates and a password.

use weft_store::etcd::{Credentials, Identity, Tls};
use weft_tests::etcd::{Setup, Tls as Encryption};

use super::*;

const PASSWORD: &str = "correct horse";

fn setup(tls: Encryption) -> Setup {
    let password = Some(PASSWORD.to_owned());
    Setup { tls, password, token_ttl: Some(Duration::from_secs(1)), ..Setup::members(1) }
}

/// What a client of this cluster has to know.
fn options(cluster: &Cluster) -> Options {
    let tls = cluster.certificates().map(|own| {
        let (certificate, key) = (own.certificate.clone().into_bytes(), own.key.clone().into_bytes());
        Tls { ca: Some(own.ca.clone().into_bytes()), identity: Some(Identity { certificate, key }) }
    });
    let credentials = Some(Credentials { user: "root".into(), password: PASSWORD.into() });
    Options { tls, credentials, ..Options::new(cluster.endpoints()) }
}

#[tokio::test]
async fn etcd_with_certificates_and_a_password_passes_the_suite() {
    let cluster = Cluster::start_with(setup(Encryption::Mutual)).await.expect("etcd starts");
    etcd_suite(options(&cluster)).await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    // A client's certificate would name a user by itself.
    let cluster = Cluster::start_with(setup(Encryption::Server)).await.expect("etcd starts");
    let good = options(&cluster);
    let credentials = |user: &str, password: &str| Some(Credentials { user: user.into(), password: password.into() });
    for (credentials, words) in [
        (credentials("root", "wrong"), "refuses the user name or the password"),
        (credentials("nobody", PASSWORD), "refuses the user name or the password"),
        (None, "wants a user name and a password"),
    ] {
        let store = EtcdStore::open(Options { credentials, ..good.clone() }).await.expect("good endpoints");
        for _ in 0..2 {
            let refused = store.read(Range::Key("a".into())).await;
            assert!(matches!(&refused, Err(Error::Unsupported(text)) if text.contains(words)), "{refused:?}");
            let refused = store.watch(Range::Key("a".into()), 1).await.map(drop);
            assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
        }
    }
}

/// Certificates may be replaced while we run, so these wait.
#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let cluster = Cluster::start_with(setup(Encryption::Mutual)).await.expect("etcd starts");
    let other = Cluster::start_with(setup(Encryption::Mutual)).await.expect("etcd starts");
    let good = options(&cluster);
    let strangers = options(&other).tls;
    let ours = good.tls.clone().expect("certificates");
    for tls in [strangers, Some(Tls { identity: None, ..ours })] {
        let outcome = EtcdStore::connect(Options { tls, ..good.clone() }).await.map(drop);
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    }
}

/// A password that etcd does not ask for does no harm, and is there when it does.
#[tokio::test]
async fn users_may_be_switched_on_later() {
    let cluster = Cluster::start(1).await.expect("etcd starts");
    let store = EtcdStore::connect(options(&cluster)).await.expect("etcd answers");
    done(&store, ops([put("a", "1", None)])).await;
    let mut admin = cluster.client(0).await.expect("a client");
    admin.user_add("root", PASSWORD, None).await.expect("added");
    admin.user_grant_role("root", "root").await.expect("granted");
    admin.auth_enable().await.expect("enabled");
    done(&store, ops([put("a", "2", None)])).await;
    let mut watch = store.watch(Range::Key("a".into()), 2).await.expect("watch");
    assert_eq!(within(told(&mut watch, 2)).await.len(), 2);
}

#[tokio::test]
async fn a_token_that_is_too_old_is_replaced() {
    let cluster = Cluster::start_with(setup(Encryption::Off)).await.expect("etcd starts");
    let store = EtcdStore::connect(options(&cluster)).await.expect("etcd answers");
    let clock = EtcdStore::connect(options(&cluster)).await.expect("etcd answers");
    within(async {
        for round in 0..3 {
            let start = now(&store).await;
            let mut watch = store.watch(Range::Prefix("a/".into()), start + 1).await.expect("watch");
            let lease = store.grant(Duration::from_secs(60)).await.expect("granted");
            store.keep_alive(lease).await.expect("renewed");
            // A lease of two seconds that ends says that two seconds have passed: the token is good for one.
            let brief = clock.grant(Duration::from_secs(2)).await.expect("granted");
            done(&clock, ops([put("clock", "1", Some(brief))])).await;
            let mut ticks = clock.watch(Range::Key("clock".into()), start + 2).await.expect("watch");
            assert_eq!(told(&mut ticks, 1).await.len(), 1);

            // The first call after it, whichever it is, and the streams that were opened before.
            match round {
                0 => drop(done(&store, ops([put("a/x", "1", None)])).await),
                1 => drop(store.watch(Range::Key("a".into()), 1).await.expect("watch")),
                _ => drop(store.keep_alive(lease).await.expect("renewed")),
            }
            store.keep_alive(lease).await.expect("renewed");
            done(&store, ops([put("a/y", "1", None)])).await;
            assert!(!told_any(&mut watch).await.is_empty());
        }
    })
    .await;
}

/// The next changes, however many.
async fn told_any(watch: &mut Watch) -> Vec<Change> {
    loop {
        let message = watch.next().await.expect("runs").expect("no error");
        if !message.changes.is_empty() {
            return message.changes;
        }
    }
}

#[tokio::test]
async fn a_store_opens_while_etcd_is_down_and_outlives_its_tokens() {
    let mut cluster = Cluster::start_with(setup(Encryption::Server)).await.expect("etcd starts");
    cluster.kill(0).expect("killed");
    let store = EtcdStore::open(options(&cluster)).await.expect("nothing is asked yet");
    within(async {
        assert!(matches!(store.read(Range::Key("a".into())).await, Err(Error::Unavailable(_))));
        for first in 0..3 {
            // It forgets its tokens when it restarts.
            cluster.restart(0).await.expect("etcd starts again");
            loop {
                let outcome = match first {
                    0 => store.read(Range::Key("a".into())).await.map(drop),
                    1 => store.watch(Range::Key("a".into()), 1).await.map(drop),
                    _ => store.grant(Duration::from_secs(60)).await.map(drop),
                };
                match outcome {
                    Ok(()) => break,
                    Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
                }
            }
        }
    })
    .await;
}
