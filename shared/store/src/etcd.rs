//! The store over etcd (3.4 or later).
//!
//! Every call has our own time limit, since etcd's client has none. A call that ends with [`Error::Unavailable`] also
//! moves the next one to another endpoint.

mod channel;
mod convert;
mod list;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, ConnectOptions};

use crate::limits;
use crate::port::{Commit, Error, LeaseId, Listing, Range, Revision, Store, Txn, Watch};
use channel::Endpoints;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` or `http://host:port` of the members, at least one.
    pub endpoints: Vec<String>,
    /// The limit of one round trip.
    pub call_timeout: Duration,
    /// The limit of opening a connection.
    pub connect_timeout: Duration,
    /// Records asked for at once while listing; less when they are large.
    pub page: u32,
    /// How often a watch asks for a sign of life.
    pub progress: Duration,
}

impl Options {
    /// The defaults for these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            // An election of etcd's own leader takes one to two seconds: a retry after it succeeds.
            call_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            // A record is about 1 KiB; this stays well below the 4 MiB that one message may have.
            page: 1000,
            progress: Duration::from_secs(5),
        }
    }
}

/// A connection to etcd. Clones share it.
#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    endpoints: Arc<Endpoints>,
    options: Arc<Options>,
}

/// A call that gave no answer.
enum Failure {
    TimedOut,
    Client(etcd_client::Error),
}

impl EtcdStore {
    /// Connects to the first endpoint that answers, and refuses an etcd that is too old.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let store = Self::open(options).await?;
        let mut outcome = store.check().await;
        for _ in 1..store.options.endpoints.len() {
            // The failed check has moved on to the next endpoint.
            if let Err(Error::Unavailable(_)) = outcome {
                outcome = store.check().await;
            }
        }
        outcome.map(|()| store)
    }

    /// A store that connects when it is first used, so that a process can start while etcd is down. Fails on endpoints
    /// that cannot be read.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let endpoints = Arc::new(Endpoints::try_new(&options)?);
        // A member without a leader would answer watches with silence: with this it ends them instead.
        let leader = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(channel::channel(&endpoints), Some(leader)).await;
        let client = client.map_err(|error| convert::error(&error))?;
        Ok(Self { client, endpoints, options: Arc::new(options) })
    }

    /// Asks etcd for its version: fails below 3.4, warns below 3.5.
    pub async fn check(&self) -> Result<(), Error> {
        let mut maintenance = self.client.maintenance_client();
        let status = self.call(maintenance.status()).await?;
        if convert::maintained(status.version())? {
            return Ok(());
        }
        tracing::warn!(version = status.version(), "etcd is past its end of life, use 3.5 or later");
        Ok(())
    }

    /// Forgets the history before `revision`. The scheduler's leader does this now and then, or the database grows.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut kv = self.client.kv_client();
        self.call(kv.compact(revision, None)).await?;
        Ok(())
    }

    /// One round trip within the time limit.
    async fn call<T>(&self, call: impl Future<Output = Result<T, etcd_client::Error>> + Send) -> Result<T, Error> {
        self.attempt(call).await.map_err(Failure::into_error)
    }

    /// As [`Self::call`], with what went wrong.
    async fn attempt<T>(&self, call: impl Future<Output = Result<T, etcd_client::Error>> + Send) -> Result<T, Failure> {
        let used = self.endpoints.current();
        // Dropping a call that is over its limit resets its stream; the change may or may not happen.
        let failure = match tokio::time::timeout(self.options.call_timeout, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::Client(error),
            Err(_) => Failure::TimedOut,
        };
        if failure.blames_endpoint() {
            self.endpoints.leave(used);
        }
        Err(failure)
    }
}

impl Failure {
    fn blames_endpoint(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Client(error) => matches!(convert::error(error), Error::Unavailable(_)),
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::TimedOut => Error::Unavailable("no answer within the time limit".into()),
            Self::Client(error) => convert::error(&error),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self, range: Range) -> Result<Listing, Error> {
        match range {
            Range::Key(key) => list::one(self, key).await,
            Range::Prefix(prefix) => list::prefix(self, prefix).await,
        }
    }

    async fn watch(&self, range: Range, from: Revision) -> Result<Watch, Error> {
        watch::open(self, range, from.max(1)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        limits::check(&txn)?;
        // etcd says only that a lease is gone, not which: a transaction of ours names one.
        let lease = convert::lease_of(&txn);
        let mut kv = self.client.kv_client();
        let answer = match self.attempt(kv.txn(convert::txn(txn))).await {
            Ok(answer) => answer,
            Err(Failure::Client(error)) if convert::is_lease_lost(&error) => {
                return Err(lease.map_or_else(|| convert::error(&error), Error::LeaseLost));
            }
            Err(failure) => return Err(failure.into_error()),
        };
        let revision = convert::revision(answer.header())?;
        Ok(if answer.succeeded() { Commit::Done(revision) } else { Commit::Lost(revision) })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(limits::whole_seconds(ttl)).unwrap_or(i64::MAX);
        let mut leases = self.client.lease_client();
        let granted = self.call(leases.grant(seconds, None)).await?;
        // etcd may grant more than was asked for (its own least time), never less.
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let mut leases = self.client.lease_client();
        // Opening the stream renews once and the client keeps that answer, so the time left is that of a second renewal.
        let renewal = async {
            let (mut keeper, mut answers) = leases.keep_alive(lease.0).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.attempt(renewal).await {
            Ok(Some(answer)) if answer.ttl() > 0 => Ok(Duration::from_secs(answer.ttl().unsigned_abs())),
            Ok(Some(_)) => Err(Error::LeaseLost(lease)),
            Ok(None) => Err(Error::Unavailable("the keepalive stream ended".into())),
            Err(Failure::Client(error)) if convert::is_lease_lost(&error) => Err(Error::LeaseLost(lease)),
            Err(failure) => Err(failure.into_error()),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let mut leases = self.client.lease_client();
        match self.attempt(leases.revoke(lease.0)).await {
            Ok(_) => Ok(()),
            Err(Failure::Client(error)) if convert::is_lease_lost(&error) => Err(Error::LeaseLost(lease)),
            Err(failure) => Err(failure.into_error()),
        }
    }
}
