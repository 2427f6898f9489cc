//! The connection under etcd's client: one endpoint at a time, the next one when it fails.
//!
//! tonic's own balancer picks blindly, refused endpoints included, so it is not used.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

use super::Options;
use crate::port::Error;

/// etcd closes connections that are pinged more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEPALIVE: Duration = Duration::from_secs(6);

/// A connection whose ping is not answered within this is dropped.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The members, and which of them is in use.
pub(super) struct Endpoints {
    channels: Vec<Channel>,
    current: AtomicUsize,
}

impl Endpoints {
    /// Reads the endpoints; nothing connects before the first call.
    pub(super) fn try_new(options: &Options) -> Result<Self, Error> {
        let channels: Result<Vec<_>, _> = options.endpoints.iter().map(|url| connect(url, options)).collect();
        let channels = channels?;
        if channels.is_empty() {
            return Err(Error::Unsupported("no endpoint is given".into()));
        }
        Ok(Self { channels, current: AtomicUsize::new(0) })
    }

    /// Which endpoint is in use.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Moves on from the endpoint `failed`, unless that has happened already: many calls fail at once, one moves.
    pub(super) fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.channels.len();
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The one place that decides what etcd's client talks through.
pub(super) fn channel(endpoints: &Arc<Endpoints>) -> etcd_client::Channel {
    let endpoints = endpoints.clone();
    etcd_client::Channel::Custom(BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
        let channel = endpoints.channels.get(endpoints.current()).cloned();
        async move {
            let channel = channel.ok_or("no endpoint")?;
            channel.oneshot(request).await.map_err(tower::BoxError::from)
        }
    })))
}

fn connect(url: &str, options: &Options) -> Result<Channel, Error> {
    let url = match url.split_once("://") {
        None => format!("http://{url}"),
        Some(("http", _)) => url.to_owned(),
        Some((scheme, _)) => {
            return Err(Error::Unsupported(format!("endpoints must be http, not {scheme}")));
        }
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| Error::Unsupported(format!("bad endpoint: {error}")))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // etcd counts pings on a connection without calls as abuse, too.
        .keep_alive_while_idle(false)
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoints: &[&str]) -> Options {
        Options::new(endpoints.iter().map(|&url| url.to_owned()).collect())
    }

    #[tokio::test]
    async fn a_failed_endpoint_is_left_once() {
        let endpoints = Endpoints::try_new(&options(&["127.0.0.1:1", "http://127.0.0.1:2"])).expect("both are good");
        endpoints.leave(0);
        assert_eq!(endpoints.current(), 1);
        // A second call that failed on the first endpoint must not move back to it.
        endpoints.leave(0);
        assert_eq!(endpoints.current(), 1);
        endpoints.leave(1);
        assert_eq!(endpoints.current(), 0);
    }

    #[tokio::test]
    async fn unusable_endpoints_are_refused() {
        for bad in [&[][..], &["https://127.0.0.1:1"], &["http://a b"], &["127.0.0.1:1", "ftp://x"]] {
            assert!(matches!(Endpoints::try_new(&options(bad)), Err(Error::Unsupported(_))), "{bad:?} was accepted");
        }
    }
}
