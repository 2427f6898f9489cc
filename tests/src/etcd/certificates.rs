//! An authority for one test, with a certificate for etcd's members and one for their clients.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// What a client needs to talk to a cluster over TLS, as PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that the members' certificate comes from.
    pub ca: String,
    /// A client's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The members' files.
#[derive(Clone, Debug)]
pub(super) struct ServerFiles {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Makes them all, and writes those of the members into `dir`.
pub(super) fn make(dir: &Path) -> Result<(Certificates, ServerFiles)> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "weft tests");
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let (certificate, key) = leaf(&issuer, "etcd")?;
    let files =
        ServerFiles { ca: dir.join("ca.pem"), certificate: dir.join("etcd.pem"), key: dir.join("etcd-key.pem") };
    std::fs::write(&files.ca, &ca)?;
    std::fs::write(&files.certificate, certificate)?;
    std::fs::write(&files.key, key)?;

    let (certificate, key) = leaf(&issuer, "weft")?;
    Ok((Certificates { ca, certificate, key }, files))
}

/// A certificate for loopback and its key. etcd's own gateway dials etcd with the server's certificate, so it is good for
/// both sides.
fn leaf(issuer: &Issuer<'_, KeyPair>, name: &str) -> Result<(String, String)> {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}
