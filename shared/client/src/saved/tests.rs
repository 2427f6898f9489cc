use std::fs::File;

use weft_proto::weft::state::v1::{Leader, Replica, Service, Worker};
use weft_store::Entry;

use super::format::{MAX_PAYLOAD, Unusable, read, write};
use super::*;
use crate::Snapshot;

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
        put("placements/w1/m@1", &weft_proto::weft::state::v1::Placement { epoch: 9 }, 8),
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
    let file = File::options().write(true).open(&path).expect("there");
    let age = |touched: SystemTime| {
        file.set_modified(touched).expect("moved");
        read(&path, "test", now).expect("readable").expect("there").age
    };
    assert_eq!(age(now - seconds(900)).as_secs(), 500, "told in the file");
    assert_eq!(age(now - seconds(100)).as_secs(), 100, "confirmed since");
    assert_eq!(age(now + seconds(100)).as_secs(), 500, "a clock that was wrong");
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
