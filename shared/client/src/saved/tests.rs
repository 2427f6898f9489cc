use std::fs::File;
use std::sync::Arc;

use weft_proto::weft::state::v1::{Leader, Replica, Service, Worker};
use weft_runtime::Tasks;
use weft_store::{Entry, MemoryStore, Op, Store, Txn};

use super::format::{MAX_PAYLOAD, Unusable, read, write};
use super::keeper::Keeper;
use super::*;
use crate::{Keys, Snapshot};

fn put(key: &str, value: &impl prost::Message, revision: i64) -> Change {
    let key = format!("/weft/v1/test/{key}");
    let value = value.encode_to_vec().into();
    Change::Put(Entry { key, value, create_revision: revision, mod_revision: revision + 1, version: 0, lease: None })
}

fn sample() -> (Vec<Change>, Snapshot) {
    let changes = vec![
        put("workers/w1", &Worker { id: "w1".into(), address: "127.0.0.1:1".into(), ..Worker::default() }, 2),
        put(
            "models/m",
            &weft_proto::weft::control::v1::Model { name: "m".into(), replicas: 3, ..Default::default() },
            4,
        ),
        put("routes/r", &weft_proto::weft::control::v1::Route { name: "r".into(), ..Default::default() }, 6),
        put(
            "rollouts/m",
            &weft_proto::weft::control::v1::Rollout { model: "m".into(), stable: 1, canary: 2, ..Default::default() },
            7,
        ),
        put("placements/w1/m@1", &weft_proto::weft::state::v1::Placement { epoch: 9, ..Default::default() }, 8),
        put("replicas/w1/m@1", &Replica { size_bytes: 7, ..Replica::default() }, 10),
        put("services/router/r-1", &Service { id: "r-1".into(), ..Service::default() }, 12),
        put("leader/scheduler", &Leader { id: "s".into(), ..Leader::default() }, 14),
    ];
    let mut snapshot = Snapshot { revision: 15, ..Snapshot::default() };
    for change in &changes {
        snapshot.apply("/weft/v1/test/", change);
    }
    (changes, snapshot)
}

fn wall() -> SystemTime {
    SystemClock::wall()
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).expect("a folder").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_kind_of_record_reads_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new").join("test.snapshot");
    assert!(read(&path, "test", wall()).expect("no file is no mistake").is_none());
    let (changes, snapshot) = sample();
    write(&path, "test", &snapshot, wall()).expect("written");
    let found = read(&path, "test", wall()).expect("readable").expect("there");
    assert_eq!((found.changes, found.revision), (changes, 15));
    assert_eq!(files(path.parent().expect("in a folder")), ["test.snapshot"]);
}

#[test]
fn whatever_byte_is_wrong_or_missing_the_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    write(&path, "test", &sample().1, wall()).expect("written");
    let whole = std::fs::read(&path).expect("readable");
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).expect("written");
        assert!(read(&path, "test", wall()).is_err(), "byte {at} of {} was flipped", whole.len());
        std::fs::write(&path, &whole[..at]).expect("written");
        assert!(read(&path, "test", wall()).is_err(), "cut off after {at} of {}", whole.len());
    }
    std::fs::write(&path, [whole.as_slice(), b"x"].concat()).expect("written");
    assert!(matches!(read(&path, "test", wall()), Err(Unusable::Length { .. })));
    std::fs::write(&path, &whole).expect("written");
    assert!(matches!(read(&path, "other", wall()), Err(Unusable::Cluster(_))));
    assert!(read(&path, "test", wall()).expect("readable").is_some());
}

#[test]
fn an_absurdly_long_file_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    // Sparse: it takes no room on the disk.
    File::create(&path).and_then(|file| file.set_len(MAX_PAYLOAD * 16)).expect("created");
    assert!(matches!(read(&path, "test", wall()), Err(Unusable::TooLong)));
}

#[test]
fn a_later_format_is_named_in_the_refusal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    write(&path, "test", &sample().1, wall()).expect("written");
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[8] = 2;
    std::fs::write(&path, bytes).expect("written");
    assert!(matches!(read(&path, "test", wall()), Err(Unusable::Version(2))));
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    // A folder of that name cannot be renamed over.
    let path = folder.path().join("test.snapshot");
    std::fs::create_dir(&path).expect("created");
    assert!(write(&path, "test", &sample().1, wall()).is_err());
    assert_eq!(files(folder.path()), ["test.snapshot"]);
}

#[test]
fn the_age_is_that_of_the_last_confirmation() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let seconds = Duration::from_secs;
    let now = wall();
    write(&path, "test", &sample().1, now - seconds(500)).expect("written");
    let found = read(&path, "test", wall()).expect("readable").expect("there");
    assert!(found.age >= seconds(500), "a late write makes nothing younger: {:?}", found.age);
    let file = File::options().write(true).open(&path).expect("there");
    let age = |touched: SystemTime| {
        file.set_modified(touched).expect("moved");
        read(&path, "test", now).expect("readable").expect("there").age
    };
    assert_eq!(age(now - seconds(900)).as_secs(), 500, "told in the file");
    assert_eq!(age(now - seconds(100)).as_secs(), 100, "confirmed since");
    assert_eq!(age(now + seconds(100)).as_secs(), 500, "a clock that was wrong");
}

/// A mesh that the store has confirmed, and whose next confirmation comes with a write.
async fn mesh(tasks: &Tasks) -> (Arc<MemoryStore>, Mesh) {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let mesh = Mesh::follow(Arc::clone(&store) as Arc<dyn Store>, &Keys::new("test"), tasks, None);
    mesh.synced().await;
    (store, mesh)
}

async fn confirm(store: &MemoryStore, mesh: &Mesh) {
    let mut changes = mesh.changes();
    let ops = vec![Op::Put { key: "/weft/v1/test/own/0".to_owned(), value: "x".into(), lease: None }];
    store.commit(Txn { compares: vec![], ops }).await.expect("memory takes it");
    changes.changed().await.expect("the mesh is followed");
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|found| found.modified()).expect("there")
}

#[tokio::test]
async fn only_the_file_that_was_written_is_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let tasks = Tasks::new();
    let (store, mesh) = mesh(&tasks).await;
    let mut keeper = Keeper::new(path.clone(), "test".to_owned(), mesh.clone());
    assert!(keeper.write().await);
    let (bytes, first) = (std::fs::read(&path).expect("there"), modified(&path));
    for _ in 0..2 {
        let before = modified(&path);
        confirm(&store, &mesh).await;
        assert!(keeper.refresh().await);
        assert_ne!(modified(&path), before);
        assert_eq!(std::fs::read(&path).expect("there"), bytes, "only its time is new");
    }
    // Another process puts an older one in its place; then somebody moves a time, or writes into it.
    write(&path, "test", &sample().1, first).expect("written");
    confirm(&store, &mesh).await;
    assert!(!keeper.refresh().await, "it is to be written anew");
    assert_eq!(modified(&path), first);
    assert!(!keeper.refresh().await && keeper.write().await);
    std::fs::write(&path, &bytes[1..]).expect("written");
    let altered = modified(&path);
    confirm(&store, &mesh).await;
    assert!(!keeper.refresh().await);
    assert_eq!(modified(&path), altered);
}

#[tokio::test]
async fn what_could_not_be_written_is_not_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    // A name that is just short enough: the unfinished file's is too long, so no write succeeds.
    let path = folder.path().join("n".repeat(250));
    std::fs::write(&path, "an older snapshot").expect("written");
    let before = modified(&path);
    let tasks = Tasks::new();
    let (store, mesh) = mesh(&tasks).await;
    let mut keeper = Keeper::new(path.clone(), "test".to_owned(), mesh.clone());
    assert!(!keeper.write().await);
    confirm(&store, &mesh).await;
    assert!(!keeper.refresh().await, "it is still to be written");
    assert_eq!(modified(&path), before);
}

#[tokio::test]
async fn only_what_was_abandoned_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("test.snapshot");
    let old = wall() - 2 * ABANDONED;
    for (name, at) in [
        (".test.snapshot.1-a.tmp", old),
        (".test.snapshot.2-b.tmp", wall()),
        (".other.snapshot.1-a.tmp", old),
        ("test.snapshot.bak", old),
    ] {
        File::create(folder.path().join(name)).and_then(|file| file.set_modified(at)).expect("created");
    }
    SavedFile::open(path, "test").await;
    let mut left = files(folder.path());
    left.sort();
    assert_eq!(left, [".other.snapshot.1-a.tmp", ".test.snapshot.2-b.tmp", "test.snapshot.bak"]);
}
