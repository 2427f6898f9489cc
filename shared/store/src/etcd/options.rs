//! How to reach etcd.

use std::fmt;
use std::time::Duration;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`, `http://host:port` or `https://host:port` of the members, at least one, all of one scheme.
    pub endpoints: Vec<String>,
    /// The limit of one call, with everything that it takes: connecting, a token, another member.
    pub call_timeout: Duration,
    /// The limit of opening a connection, and again of its TLS handshake.
    pub connect_timeout: Duration,
    /// Records asked for at once while listing; less when they are large.
    pub page: u32,
    /// A watch that has heard nothing for this long asks for a sign of life; without one it ends two thirds later.
    pub progress: Duration,
    /// Certificates; endpoints are `https` then.
    pub tls: Option<Tls>,
    /// Who we are, for an etcd with authentication.
    pub credentials: Option<Credentials>,
}

impl Options {
    /// The defaults for these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            // An election of etcd's own leader takes one to two seconds: a retry after it succeeds.
            call_timeout: Duration::from_secs(2),
            // A member that drops packets leaves time to ask another one within the same call.
            connect_timeout: Duration::from_secs(1),
            // A record is about 1 KiB; this stays well below the 4 MiB that one message may have.
            page: 1000,
            // A watch notices within 5 s that it was cut off; thousands of watches cost one message each in this time.
            progress: Duration::from_secs(3),
            tls: None,
            credentials: None,
        }
    }
}

/// Certificates, in PEM.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Who may sign the members' certificates. The system's own list is not used: etcd belongs to the mesh.
    pub ca: Option<Vec<u8>>,
    /// What we show to members that ask for a certificate.
    pub identity: Option<Identity>,
}

/// A certificate with its private key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and those between it and the CA.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).field("password", &"***").finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let options = Options {
            tls: Some(Tls {
                ca: None,
                identity: Some(Identity { certificate: b"cert".into(), key: b"secret-key".into() }),
            }),
            credentials: Some(Credentials { user: "root".into(), password: "secret-word".into() }),
            ..Options::new(vec![])
        };
        let shown = format!("{options:?}");
        assert!(shown.contains("root") && !shown.contains("secret"), "{shown}");
        // The bytes of the key as numbers would be no better.
        assert!(!shown.contains("115"), "{shown}");
    }
}
