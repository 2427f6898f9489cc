//! A connection to one member: TLS, keepalive, the token on every call.
//!
//! tonic's own balancer picks blindly, refused endpoints included, so each member has a connection of its own and
//! [`super::endpoints`] decides which one is used.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use http::HeaderName;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use super::auth::Tokens;
use super::convert;
use super::options::{Options, Tls};
use crate::port::Error;

/// etcd closes connections that are pinged more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEPALIVE: Duration = Duration::from_secs(6);

/// A connection whose ping is not answered within this is dropped.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

const TOKEN: HeaderName = HeaderName::from_static("token");

/// The call that gets a token cannot have one.
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// A connection to one member. It is made when it is first used, and made again by itself after it was closed.
pub(super) struct Connection {
    /// etcd's client on this connection.
    pub(super) client: Client,
    /// The same connection, for what that client cannot do.
    pub(super) channel: Authorized,
    broken: CancellationToken,
}

impl Connection {
    /// A connection for calls and streams. Does no IO.
    pub(super) async fn open(endpoint: &Endpoint, tokens: Arc<Tokens>) -> Result<Self, Error> {
        // A member without a leader would answer watches with silence: with this it ends them instead.
        Self::with(endpoint, tokens, ConnectOptions::new().with_require_leader(true)).await
    }

    /// A connection on which a member answers also when it has no leader. Does no IO.
    pub(super) async fn to_any(endpoint: &Endpoint, tokens: Arc<Tokens>) -> Result<Self, Error> {
        Self::with(endpoint, tokens, ConnectOptions::new()).await
    }

    async fn with(endpoint: &Endpoint, tokens: Arc<Tokens>, options: ConnectOptions) -> Result<Self, Error> {
        let channel = Authorized { channel: endpoint.connect_lazy(), tokens };
        let boxed = BoxCloneSyncService::new(channel.clone().map_err(tower::BoxError::from));
        // Without a user this only puts things together.
        let client = Client::from_channel(etcd_client::Channel::Custom(boxed), Some(options)).await;
        let client = client.map_err(|error| convert::error(&error))?;
        Ok(Self { client, channel, broken: CancellationToken::new() })
    }

    /// Ends the streams on it.
    pub(super) fn give_up(&self) {
        self.broken.cancel();
    }

    /// Ends when it was given up.
    pub(super) fn given_up(&self) -> WaitForCancellationFuture<'_> {
        self.broken.cancelled()
    }
}

/// Adds the token to whatever passes.
#[derive(Clone)]
pub(super) struct Authorized {
    channel: Channel,
    tokens: Arc<Tokens>,
}

impl Service<http::Request<Body>> for Authorized {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(token) = self.tokens.header()
            && request.uri().path() != AUTHENTICATE
        {
            request.headers_mut().insert(TOKEN, token);
        }
        self.channel.call(request)
    }
}

/// Reads the endpoints, in their order; nothing connects.
pub(super) fn endpoints(options: &Options) -> Result<Vec<Endpoint>, Error> {
    let urls: Vec<Url> = options.endpoints.iter().map(|text| Url::parse(text, options)).collect::<Result<_, _>>()?;
    let encrypted = match urls.split_first() {
        None => return Err(Error::Unsupported("no endpoint is given".into())),
        Some((first, others)) if others.iter().all(|url| url.encrypted == first.encrypted) => first.encrypted,
        Some(_) => return Err(Error::Unsupported("some endpoints are http, others https".into())),
    };
    let tls = match (encrypted, &options.tls) {
        (true, Some(tls)) => Some(client_tls(tls, options)?),
        (false, None) => None,
        (true, None) => return Err(Error::Unsupported("https endpoints need the certificate of their CA".into())),
        (false, Some(_)) => {
            return Err(Error::Unsupported("certificates are given, but the endpoints are http".into()));
        }
    };
    urls.into_iter().map(|url| url.endpoint(tls.clone(), options)).collect()
}

struct Url {
    text: String,
    encrypted: bool,
}

impl Url {
    fn parse(text: &str, options: &Options) -> Result<Self, Error> {
        match text.split_once("://") {
            // Without a scheme, certificates decide.
            None if options.tls.is_some() => Ok(Self { text: format!("https://{text}"), encrypted: true }),
            None => Ok(Self { text: format!("http://{text}"), encrypted: false }),
            Some(("http", _)) => Ok(Self { text: text.to_owned(), encrypted: false }),
            Some(("https", _)) => Ok(Self { text: text.to_owned(), encrypted: true }),
            Some((scheme, _)) => Err(Error::Unsupported(format!("endpoints must be http or https, not {scheme}"))),
        }
    }

    fn endpoint(self, tls: Option<ClientTlsConfig>, options: &Options) -> Result<Endpoint, Error> {
        let unsupported = |error| Error::Unsupported(format!("bad endpoint: {error}"));
        let mut endpoint = Endpoint::from_shared(self.text).map_err(unsupported)?;
        if let Some(tls) = tls {
            let unsupported = |error| Error::Unsupported(format!("bad certificates: {}", chain(&error)));
            endpoint = endpoint.tls_config(tls).map_err(unsupported)?;
        }
        Ok(endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            // etcd counts pings on a connection without calls as abuse, too.
            .keep_alive_while_idle(false))
    }
}

fn client_tls(tls: &Tls, options: &Options) -> Result<ClientTlsConfig, Error> {
    let Some(ca) = &tls.ca else {
        return Err(Error::Unsupported("https endpoints need the certificate of their CA".into()));
    };
    // A file without any certificate would be taken, and every member refused.
    if !ca.windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE) {
        return Err(Error::Unsupported("the file of the CA holds no certificate in PEM".into()));
    }
    let config = ClientTlsConfig::new().timeout(options.connect_timeout).ca_certificate(Certificate::from_pem(ca));
    Ok(match &tls.identity {
        Some(identity) => config.identity(tonic::transport::Identity::from_pem(&identity.certificate, &identity.key)),
        None => config,
    })
}

const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// An error with its causes: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::options::Identity;

    fn refusal(urls: &[&str], tls: Option<Tls>) -> String {
        let options = Options { tls, ..Options::new(urls.iter().map(|&url| url.to_owned()).collect()) };
        match endpoints(&options) {
            Err(Error::Unsupported(text)) => text,
            Err(error) => error.to_string(),
            Ok(_) => "accepted".into(),
        }
    }

    #[test]
    fn unusable_endpoints_are_refused_with_their_reason() {
        let ca = || Tls { ca: Some(b"-----BEGIN CERTIFICATE-----\n".into()), identity: None };
        for (urls, tls, reason) in [
            (&[][..], None, "no endpoint"),
            (&["http://a b"], None, "bad endpoint"),
            (&["127.0.0.1:1", "ftp://x"], None, "not ftp"),
            (&["https://127.0.0.1:1"], None, "need the certificate of their CA"),
            (&["https://127.0.0.1:1"], Some(Tls::default()), "need the certificate of their CA"),
            (&["127.0.0.1:1"], Some(Tls { ca: Some(b"nothing".into()), identity: None }), "no certificate"),
            (&["https://127.0.0.1:1", "http://127.0.0.1:2"], Some(ca()), "others https"),
            (&["http://127.0.0.1:1", "127.0.0.1:2"], Some(ca()), "others https"),
            (&["http://127.0.0.1:1"], Some(ca()), "endpoints are http"),
            (&["127.0.0.1:1"], Some(ca()), "bad certificates"),
        ] {
            let text = refusal(urls, tls);
            assert!(text.contains(reason), "{urls:?}: {text}");
        }
        let identity = Some(Identity { certificate: b"x".into(), key: b"x".into() });
        assert!(refusal(&["127.0.0.1:1"], Some(Tls { identity, ..ca() })).contains("bad certificates"));
        assert_eq!(refusal(&["127.0.0.1:1", "http://127.0.0.1:2"], None), "accepted");
    }
}
