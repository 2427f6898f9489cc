use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use weft_config::Reader as Settings;

use super::*;

/// The settings of a process that was started with these flags.
fn common(flags: &[&str]) -> Common {
    let args: Vec<OsString> = flags.iter().map(Into::into).collect();
    crate::settings::common(&mut Settings::new("weft test", "tests", args, []), "info")
}

fn file(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
    path.display().to_string()
}

fn refusal(flags: &[&str]) -> String {
    options(&common(flags)).expect_err("a mistake").to_string()
}

#[test]
fn certificates_and_password_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name, text| file(folder.path(), name, text, 0o644);
    let closed = |name, text| file(folder.path(), name, text, 0o600);
    let (ca, certificate) = (open("ca", "the ca"), open("cert", "the certificate"));
    let (key, password) = (closed("key", "the key"), closed("password", "word with spaces \r\n"));
    let read = options(&common(&[
        "--etcd=https://127.0.0.1:1",
        &format!("--etcd-ca={ca}"),
        &format!("--etcd-cert={certificate}"),
        &format!("--etcd-key={key}"),
        "--etcd-user=weft",
        &format!("--etcd-password-file={password}"),
    ]))
    .expect("nothing is wrong");
    let tls = read.tls.expect("given");
    let identity = tls.identity.expect("given");
    assert_eq!(tls.ca.as_deref(), Some(b"the ca".as_slice()));
    assert_eq!((identity.certificate.as_slice(), identity.key.as_slice()), (&b"the certificate"[..], &b"the key"[..]));
    let credentials = read.credentials.expect("given");
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("weft", "word with spaces "));
    assert!(options(&common(&["--etcd=127.0.0.1:1"])).expect("nothing is wrong").tls.is_none());
}

#[test]
fn secrets_that_others_can_read_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = file(folder.path(), "cert", "the certificate", 0o644);
    for mode in [0o604, 0o644, 0o660, 0o777, 0o610] {
        let key = file(folder.path(), "key", "the key", mode);
        let password = file(folder.path(), "password", "secret-word", mode);
        let told = refusal(&[
            "--etcd=https://127.0.0.1:1",
            &format!("--etcd-cert={certificate}"),
            &format!("--etcd-key={key}"),
            "--etcd-user=weft",
            &format!("--etcd-password-file={password}"),
        ]);
        assert!(told.contains(&format!("chmod 600 {key}")), "{mode:o}: {told}");
        assert!(told.contains(&format!("chmod 600 {password}")), "{mode:o}: {told}");
        assert!(!told.contains("secret-word"), "{told}");
    }
}

#[test]
fn the_group_may_read_what_root_owns() {
    for (owner, mode, secret) in [
        (1_000, 0o100_600, true),
        (1_000, 0o100_400, true),
        (1_000, 0o100_640, false),
        (0, 0o100_600, true),
        (0, 0o100_440, true),
        (0, 0o100_640, true),
        (0, 0o100_660, false),
        (0, 0o100_650, false),
        (0, 0o100_644, false),
        (0, 0o100_444, false),
    ] {
        assert_eq!(is_secret(owner, mode), secret, "of user {owner}, mode {mode:o}");
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = file(folder.path(), "password", "\n", 0o600);
    let told = refusal(&["--etcd-ca=/nowhere/ca", "--etcd-key=/nowhere/key", &format!("--etcd-password-file={empty}")]);
    for part in [
        "need --etcd",
        "etcd-key is given and etcd-cert is not",
        "etcd-password-file is given and etcd-user is not",
        "etcd-ca: cannot use /nowhere/ca",
        "etcd-key: cannot use /nowhere/key",
        "holds no password",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}
