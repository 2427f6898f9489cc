use std::os::unix::fs::PermissionsExt as _;

use etcd_client::Client;

use super::*;
use crate::calls::until;

/// A value that was agreed on; none while nobody answers.
async fn value(client: &mut Client) -> Option<String> {
    let answer = client.get("key", None).await.ok()?;
    Some(answer.kvs().first().map(|found| found.value_str().unwrap_or_default().to_owned()).unwrap_or_default())
}

#[tokio::test]
async fn a_cluster_outlives_its_leader_and_takes_it_back() {
    let mut cluster = Cluster::start(3).await.expect("three members");
    let leader = cluster.leader().await.expect("one leads");
    let survivor = (leader + 1) % 3;
    cluster.client(leader).await.expect("a client").put("key", "first", None).await.expect("it is agreed on");
    cluster.kill(leader).expect("it dies");
    let next = cluster.leader().await.expect("another leads");
    assert_ne!(next, leader);
    let mut client = cluster.client(survivor).await.expect("a client");
    client.put("key", "second", None).await.expect("two are a majority");
    cluster.restart(leader).await.expect("it comes back");
    let mut client = cluster.client(leader).await.expect("a client");
    assert_eq!(value(&mut client).await.as_deref(), Some("second"));
}

#[tokio::test]
async fn a_paused_leader_is_replaced() {
    let cluster = Cluster::start(3).await.expect("three members");
    let leader = cluster.leader().await.expect("one leads");
    cluster.pause(leader).expect("it stops");
    assert_ne!(cluster.leader().await.expect("another leads"), leader);
    cluster.resume(leader).expect("it goes on");
}

#[tokio::test]
async fn all_members_come_back_with_their_data() {
    let mut cluster = Cluster::start(3).await.expect("three members");
    cluster.client(0).await.expect("a client").put("key", "kept", None).await.expect("it is agreed on");
    for member in 0..3 {
        cluster.kill(member).expect("it dies");
    }
    cluster.restart_all().await.expect("all come back");
    assert_eq!(value(&mut cluster.client(2).await.expect("a client")).await.as_deref(), Some("kept"));
}

#[tokio::test]
async fn only_clients_with_certificate_and_password_are_served() {
    let password = Some("secret".to_owned());
    let setup = Setup { tls: Tls::Mutual, password: password.clone(), ..Setup::members(1) };
    let mut cluster = Cluster::start_with(setup).await.expect("one member");
    assert_eq!(value(&mut cluster.client(0).await.expect("a client")).await.as_deref(), Some(""));
    cluster.password = Some("wrong".into());
    assert!(cluster.client(0).await.is_err());
    cluster.password = None;
    let mut client = cluster.client(0).await.expect("a client");
    until("the end of service without a password", async || value(&mut client).await.is_none()).await.expect("refused");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (foreign, _) = certificates::make(elsewhere.path()).expect("another authority");
    let own = cluster.certificates().expect("it has some").clone();
    cluster.password = password;
    cluster.certificates = Some(Certificates { ca: own.ca.clone(), ..foreign });
    assert!(cluster.client(0).await.is_err(), "a client of another authority");
    cluster.certificates = Some(own);
    assert!(cluster.client(0).await.is_ok());
}

/// What is fetched stands in for the wheel here: nothing is downloaded.
#[test]
fn an_etcd_that_is_too_old_is_passed_over() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/etcd.sh");
    let text = std::fs::read_to_string(&script).expect("it can be read");
    let pinned = text.lines().find_map(|line| line.strip_prefix("version=")).expect("a wheel is pinned");
    let dir = tempfile::tempdir().expect("a directory");
    let (installed, fetched) = (dir.path().join("etcd"), dir.path().join(format!("weft-tools/etcd-{pinned}")));
    std::fs::create_dir_all(dir.path().join("weft-tools")).expect("it can be made");
    let fake = |path: &Path, version: &str| {
        std::fs::write(path, format!("#!/bin/sh\necho etcd Version: {version}\n")).expect("it can be written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    };
    fake(&fetched, pinned);
    for (version, wanted) in [("3.3.25", &fetched), ("2.3.8", &fetched), ("3.4.0", &installed), ("3.10.1", &installed)]
    {
        fake(&installed, version);
        // In front of what the shell finds else.
        let words = ["-c", r#"PATH="$1:$PATH" exec "$2""#, "sh"];
        let ended =
            Command::new("sh").args(words).arg(dir.path()).arg(&script).env("CARGO_TARGET_DIR", dir.path()).output();
        let told = String::from_utf8(ended.expect("it runs").stdout).expect("text");
        assert_eq!(Path::new(told.trim()), wanted, "{version}");
    }
}

#[tokio::test]
async fn the_script_starts_a_cluster_and_removes_it() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/etcd-cluster.sh");
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = dir.path().join("cluster");
    let run = |words: &[&str]| {
        let ended = Command::new(&script).args(words).arg(&cluster).stderr(Stdio::inherit()).output().expect("it runs");
        (ended.status.success(), String::from_utf8(ended.stdout).expect("text"))
    };
    let (is_started, told) = run(&["start", "3"]);
    assert!(is_started);
    let endpoints: Vec<&str> = told.trim().split(',').collect();
    assert_eq!(endpoints.len(), 3, "{told}");
    for endpoint in &endpoints {
        assert!(tokio::net::TcpStream::connect(endpoint.trim_start_matches("http://")).await.is_ok(), "{endpoint}");
    }
    assert!(!run(&["start", "3"]).0, "a second one in the same directory");
    assert!(run(&["stop"]).0 && !cluster.exists());
    for endpoint in &endpoints {
        assert!(tokio::net::TcpStream::connect(endpoint.trim_start_matches("http://")).await.is_err(), "{endpoint}");
    }
    assert!(!run(&["stop"]).0, "there is nothing to stop");
}
