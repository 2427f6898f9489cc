//! The store over etcd (3.4 or later).
//!
//! Every call has our own time limit, since etcd's client has none. A call that fails because of the member it was sent to
//! moves the next one to another member; nothing here repeats a call that etcd may have carried out.

mod auth;
mod call;
mod channel;
mod convert;
mod endpoints;
mod keepalive;
mod list;
mod maintenance;
mod options;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::limits;
use crate::port::{Commit, Error, LeaseId, Listing, Range, Revision, Store, Txn, Watch};
use auth::Tokens;
use call::Failure;
use channel::Connection;
use endpoints::Endpoints;
use keepalive::KeepAlives;
pub use maintenance::Maintenance;
pub use options::{Credentials, Identity, Options, Tls};

/// A connection to etcd. Clones share it.
#[derive(Clone)]
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    tokens: Arc<Tokens>,
    keepalives: Arc<KeepAlives>,
    options: Arc<Options>,
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

    /// A store that connects when it is first used, so that a process can start while etcd is down. Fails on endpoints and
    /// certificates that cannot be read.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let members = channel::endpoints(&options)?;
        let tokens = Arc::new(Tokens::new(options.credentials.clone()));
        let endpoints = Arc::new(Endpoints::open(members, tokens.clone()).await?);
        Ok(Self { endpoints, tokens, keepalives: Arc::default(), options: Arc::new(options) })
    }

    /// Asks etcd for its version: fails below 3.4, warns below 3.5.
    pub async fn check(&self) -> Result<(), Error> {
        let status = |connection: Arc<Connection>| async move { connection.client.maintenance_client().status().await };
        let status = self.call(status).await?;
        if convert::maintained(status.version())? {
            return Ok(());
        }
        tracing::warn!(version = status.version(), "etcd is past its end of life, use 3.5 or later");
        Ok(())
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
        let commit = |connection: Arc<Connection>| {
            let txn = convert::txn(&txn);
            async move { connection.client.kv_client().txn(txn).await }
        };
        let answer = match self.attempt(commit).await {
            Ok(answer) => answer,
            Err(Failure::Client(error)) if convert::is_lease_lost(&error) => {
                // etcd says only that a lease is gone, not which: a transaction of ours names one.
                return Err(convert::lease_of(&txn).map_or_else(|| convert::error(&error), Error::LeaseLost));
            }
            Err(failure) => return Err(failure.into_error()),
        };
        let revision = convert::revision(answer.header())?;
        Ok(if answer.succeeded() { Commit::Done(revision) } else { Commit::Lost(revision) })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(limits::whole_seconds(ttl)).unwrap_or(i64::MAX);
        let grant =
            |connection: Arc<Connection>| async move { connection.client.lease_client().grant(seconds, None).await };
        let granted = self.call(grant).await?;
        // etcd may grant more than was asked for (its own least time), never less.
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        match self.call(|connection| self.keepalives.renew(connection, lease)).await? {
            left if left > 0 => Ok(Duration::from_secs(left.unsigned_abs())),
            _ => Err(Error::LeaseLost(lease)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let revoke =
            |connection: Arc<Connection>| async move { connection.client.lease_client().revoke(lease.0).await };
        match self.attempt(revoke).await {
            Ok(_) => Ok(()),
            Err(Failure::Client(error)) if convert::is_lease_lost(&error) => Err(Error::LeaseLost(lease)),
            Err(failure) => Err(failure.into_error()),
        }
    }
}
