//! Reads the files by which etcd and this process know each other, and tells everything that is wrong with them at once.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use weft_store::etcd;

use crate::settings::{Common, EtcdAccess};

/// The longest file that is read: certificates and passwords are shorter.
const MAX_BYTES: u64 = 1 << 20;

/// How to reach etcd, by the settings.
pub(super) fn options(common: &Common) -> Result<etcd::Options> {
    let EtcdAccess { ca, certificate, key, user, password_file } = &common.etcd_access;
    let mut reader = Reader::default();
    if common.etcd.is_empty() && [ca, certificate, key, password_file].iter().any(|path| path.is_some()) {
        reader.mistakes.push("etcd-ca, etcd-cert, etcd-key and etcd-password-file need --etcd".to_owned());
    }
    reader.pair(("etcd-cert", certificate.is_some()), ("etcd-key", key.is_some()));
    reader.pair(("etcd-user", user.is_some()), ("etcd-password-file", password_file.is_some()));
    let ca = ca.as_deref().and_then(|path| reader.public("etcd-ca", path));
    let certificate = certificate.as_deref().and_then(|path| reader.public("etcd-cert", path));
    let key = key.as_deref().and_then(|path| reader.private("etcd-key", path));
    let password = password_file.as_deref().and_then(|path| reader.password("etcd-password-file", path));
    if !reader.mistakes.is_empty() {
        bail!("cannot use the settings for etcd:\n  {}", reader.mistakes.join("\n  "));
    }
    let identity = certificate.zip(key).map(|(certificate, key)| etcd::Identity { certificate, key });
    let has_tls = ca.is_some() || identity.is_some();
    Ok(etcd::Options {
        tls: has_tls.then_some(etcd::Tls { ca, identity }),
        credentials: user.clone().zip(password).map(|(user, password)| etcd::Credentials { user, password }),
        ..etcd::Options::new(common.etcd.clone())
    })
}

/// Reads files and collects what is wrong with them.
#[derive(Default)]
struct Reader {
    mistakes: Vec<String>,
}

impl Reader {
    fn pair(&mut self, one: (&str, bool), other: (&str, bool)) {
        if one.1 != other.1 {
            let (given, missing) = if one.1 { (one.0, other.0) } else { (other.0, one.0) };
            self.mistakes.push(format!("{given} is given and {missing} is not: they belong together"));
        }
    }

    fn public(&mut self, setting: &str, path: &Path) -> Option<Vec<u8>> {
        self.read(setting, path, |path| read(File::open(path)?))
    }

    fn private(&mut self, setting: &str, path: &Path) -> Option<Vec<u8>> {
        self.read(setting, path, |path| {
            // What is checked is what is read, even if the name leads elsewhere meanwhile.
            let file = File::open(path)?;
            let (owner, mode) = (file.metadata()?.uid(), file.metadata()?.mode());
            if !is_secret(owner, mode) {
                let told =
                    format!("its group or others may use it (mode {:03o}): chmod 600 {}", mode & 0o777, path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, told));
            }
            read(file)
        })
    }

    /// The file's text without the end of its line, which editors add.
    fn password(&mut self, setting: &str, path: &Path) -> Option<String> {
        let text = String::from_utf8(self.private(setting, path)?).ok();
        let password = text.as_deref().map(|text| text.trim_end_matches(['\r', '\n']));
        match password {
            Some(password) if !password.is_empty() => Some(password.to_owned()),
            _ => {
                self.mistakes.push(format!("{setting}: {} holds no password", path.display()));
                None
            }
        }
    }

    fn read(&mut self, setting: &str, path: &Path, read: impl FnOnce(&Path) -> io::Result<Vec<u8>>) -> Option<Vec<u8>> {
        match read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.mistakes.push(format!("{setting}: cannot use {}: {error}", path.display()));
                None
            }
        }
    }
}

/// Whether few enough may use a file. Its group may read what root owns (as PostgreSQL has it): that is how Kubernetes hands
/// secrets to a process that is not root.
const fn is_secret(owner: u32, mode: u32) -> bool {
    mode & 0o077 == 0 || (owner == 0 && mode & 0o037 == 0)
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
