//! A mesh whose etcd has certificates and a password.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use weft_tests::calls::{Caller, identity};
use weft_tests::etcd::{Cluster, Setup, Tls};
use weft_tests::process::Weft;

use super::cluster::LIMIT;

const PASSWORD: &str = "correct horse";

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_serves_with_the_certificates_and_the_password_of_its_etcd() -> Result<()> {
    let setup = Setup { tls: Tls::Server, password: Some(PASSWORD.to_owned()), ..Setup::members(1) };
    let (etcd, dir) = (Cluster::start_with(setup).await?, tempfile::tempdir()?);
    let (ca, password) = (dir.path().join("ca.pem"), dir.path().join("password"));
    fs::write(&ca, &etcd.certificates().context("it has some")?.ca)?;
    fs::write(&password, format!("{PASSWORD}\n"))?;
    let (ca, secret) = (ca.to_string_lossy(), password.to_string_lossy());
    let endpoint = etcd.client_url(0)?;
    assert!(endpoint.starts_with("https://"), "{endpoint}");
    let start = |command: &str| {
        let access = ["--etcd-ca", &*ca, "--etcd-user", "root", "--etcd-password-file", &*secret];
        Weft::start(command, &[&["--etcd", endpoint], access.as_slice()].concat())
    };

    fs::set_permissions(&password, Permissions::from_mode(0o644))?;
    let refusal = start("router").map(drop).err().context("a password that others can read is taken")?.to_string();
    assert!(refusal.contains(&format!("chmod 600 {secret}")), "{refusal}");
    assert!(!refusal.contains(PASSWORD), "{refusal}");

    fs::set_permissions(&password, Permissions::from_mode(0o600))?;
    let (scheduler, worker, router) = (start("scheduler")?, start("worker")?, start("router")?);
    let caller = Caller::new(&router.address)?;
    caller.wait_ready("identity").await.with_context(|| [&scheduler, &worker, &router].map(Weft::log).join("\n"))?;
    caller.infer(identity(16), LIMIT).await?;
    Ok(())
}
