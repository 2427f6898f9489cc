use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn both() -> (tempfile::TempDir, [Payloads; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let payloads = [named(&folder.path().join("payloads")), Payloads::memory()];
    (folder, payloads)
}

fn named(folder: &std::path::Path) -> Payloads {
    Payloads::named(folder.to_str().expect("a name"), "test").expect("a folder")
}

fn now() -> SystemTime {
    weft_types::SystemClock::wall()
}

#[tokio::test]
async fn contents_read_back() {
    let (_folder, both) = both();
    for payloads in both {
        let text = Bytes::from(vec![b'x'; 10_000]);
        let payload = payloads.put(text.clone()).await.expect("it is kept");
        assert_eq!(payload, Payload::Stored { sha256: sha256(&text), len: 10_000 });
        assert_eq!(payloads.put(text.clone()).await.expect("again"), payload);
        assert_eq!(payloads.get(&payload).await.expect("it is there"), text);
        assert_eq!(payloads.get(&Payload::Inline(b"1".to_vec())).await.expect("it is there"), "1");
        let absent = Payload::Stored { sha256: [9; 32], len: 1 };
        assert!(matches!(payloads.get(&absent).await, Err(Error::Missing)));
        let longer = Payload::Stored { sha256: sha256(&text), len: 10_001 };
        assert!(matches!(payloads.get(&longer).await, Err(Error::Corrupt)));
        let long = Bytes::from(vec![0; MAX_PAYLOAD + 1]);
        assert!(matches!(payloads.put(long).await, Err(Error::TooLarge { .. })));
    }
}

#[tokio::test]
async fn damage_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let payloads = named(folder.path());
    let payload = payloads.put(Bytes::from_static(b"a value of some length")).await.expect("it is kept");
    let name = hex(&sha256(b"a value of some length"));
    let path = folder.path().join("test").join(&name[..2]).join(name);
    for other in [&b"another value, as long"[..], b"longer than what was kept"] {
        std::fs::write(&path, other).expect("it is written");
        assert!(matches!(payloads.get(&payload).await, Err(Error::Corrupt)));
    }
}

/// An unmounted file system, or a bucket that somebody has removed: the value may be there.
#[tokio::test]
async fn a_place_that_is_away_is_no_lost_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let payloads = named(&folder.path().join("values"));
    payloads.check().await.expect("it is made when it is needed");
    let payload = payloads.put(Bytes::from_static(b"a value of some length")).await.expect("it is kept");
    payloads.check().await.expect("it can be used");
    let (there, away) = (folder.path().join("values"), folder.path().join("away"));
    std::fs::rename(&there, &away).expect("it is there");
    assert!(matches!(payloads.get(&payload).await, Err(Error::Place(_))));
    std::fs::write(&there, "").expect("room");
    for told in [payloads.check().await, payloads.get(&payload).await.map(drop)] {
        assert!(matches!(told, Err(Error::Place(_))), "{told:?}");
    }
    assert!(matches!(payloads.put(Bytes::from_static(b"another")).await, Err(Error::Place(_))));
    std::fs::remove_file(&there).expect("it is there");
    std::fs::rename(&away, &there).expect("it is there");
    assert_eq!(payloads.get(&payload).await.expect("it is back"), "a value of some length");
}

#[tokio::test]
async fn a_folder_may_be_named_through_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let around = named(&folder.path().join("none/../values/./."));
    let payload = around.put(Bytes::from_static(b"a value of some length")).await.expect("it is kept");
    let plain = named(&folder.path().join("values"));
    assert_eq!(plain.get(&payload).await.expect("it is the same place"), "a value of some length");
}

#[tokio::test]
async fn only_what_is_old_and_not_needed_goes() {
    let (_folder, both) = both();
    for payloads in both {
        let text = |number: u8| Bytes::from(vec![number; 100]);
        let mut kept = Vec::new();
        for number in 0..3 {
            kept.push(payloads.put(text(number)).await.expect("it is kept"));
        }
        let needed = Arc::new(|hash: &Hash| *hash == sha256(&[0; 100]));
        let young = payloads.sweep(now() - HOUR, needed.clone()).await.expect("it works");
        assert_eq!(young, 0, "all are young");
        assert_eq!(payloads.sweep(now() + HOUR, needed.clone()).await.expect("it works"), 2);
        assert!(payloads.get(&kept[0]).await.is_ok());
        assert!(matches!(payloads.get(&kept[1]).await, Err(Error::Missing)));
    }
    let nowhere = named(std::path::Path::new("/nowhere/at/all"));
    assert_eq!(nowhere.sweep(now(), Arc::new(|_| false)).await.expect("nothing to do"), 0);
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let payloads = named(folder.path());
    let other = Payloads::named(folder.path().to_str().expect("a name"), "other").expect("a folder");
    let kept = other.put(Bytes::from_static(b"the other cluster's")).await.expect("it is kept");
    payloads.put(Bytes::from_static(b"ours")).await.expect("it is kept");
    let name = hex(&sha256(b"at the wrong place"));
    let strange = ["notes.txt".to_owned(), format!("test/{name}"), "test/aa/notes.txt".to_owned()];
    std::fs::create_dir(folder.path().join("test/aa")).expect("a folder");
    for strange in &strange {
        std::fs::write(folder.path().join(strange), b"text").expect("it is written");
    }
    assert_eq!(payloads.sweep(now() + HOUR, Arc::new(|_| false)).await.expect("it works"), 1);
    for strange in &strange {
        assert!(folder.path().join(strange).exists(), "{strange}");
    }
    assert!(other.get(&kept).await.is_ok());
}

/// Others know where the value is.
#[tokio::test]
async fn without_a_place_no_value_counts_as_lost() {
    let payload = Payload::Stored { sha256: [9; 32], len: 1 };
    let told = Payloads::nowhere().get(&payload).await.expect_err("it is elsewhere");
    assert!(matches!(told, Error::Place(_)), "{told:?}");
    assert!(told.to_string().contains("no place of values is set: give --jobs-payloads"), "{told}");
}

/// A scheduler was killed while it wrote them.
#[tokio::test]
async fn what_was_not_finished_goes_when_it_is_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let payloads = named(folder.path());
    payloads.put(Bytes::from_static(b"a value of some length")).await.expect("it is kept");
    let hash = hex(&sha256(b"a value of some length"));
    let values = folder.path().join("test");
    let write = |name: String| {
        let path = values.join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
        std::fs::write(&path, b"a val").expect("room");
        path
    };
    let unfinished = ["1", "27"].map(|number| write(format!("{}/{hash}#{number}", &hash[..2])));
    let strange = [
        format!("{}/{hash}#", &hash[..2]),
        format!("{}/{hash}#1a", &hash[..2]),
        format!("{}/{}#1", &hash[..2], &hash[..63]),
        format!("{}/{}#1", &hash[..2], hash.to_uppercase()),
        format!("xx/{hash}#1"),
        format!("{hash}#1"),
        format!("{}/more/{hash}#1", &hash[..2]),
    ]
    .map(write);
    let all = Arc::new(|_: &Hash| true);
    payloads.sweep(now() - HOUR, all.clone()).await.expect("it works");
    assert!(unfinished.iter().all(|path| path.exists()), "somebody may write them yet");
    payloads.sweep(now() + HOUR, all).await.expect("it works");
    assert!(!unfinished.iter().any(|path| path.exists()));
    for strange in strange {
        assert!(strange.exists(), "{}", strange.display());
    }
    assert!(values.join(&hash[..2]).join(&hash).exists());
}

#[test]
fn a_bucket_needs_to_know_only_how_one_is_deleted() {
    let several = bucket("values").get_config_value(&AmazonS3ConfigKey::DisableBulkDelete);
    assert_eq!(several.as_deref(), Some("true"));
}

#[test]
fn places_that_are_none_are_refused() {
    for place in ["gs://bucket/values", "s3://", "s3:///values", "file:///tmp/values"] {
        assert!(matches!(Payloads::named(place, "test"), Err(Misplaced::Unknown(named)) if named == place), "{place}");
    }
    for place in ["s3://bucket", "s3://bucket/values", "values", "../values", "/var/lib/values"] {
        Payloads::named(place, "test").expect(place);
    }
}
