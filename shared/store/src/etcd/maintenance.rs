//! What keeps etcd healthy over months.
//!
//! These calls have connections of their own, one pool for each member: a status tells of one member, and a compaction or
//! a member that hangs must not hold up the calls of the mesh. A pooled connection serves one call at a time; before it is
//! used again its member has to answer, or it is thrown away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use etcd_client::StatusResponse;
use futures_util::future::join_all;
use tonic::transport::Endpoint;

use super::auth::Tokens;
use super::channel::{self, Connection};
use super::{Options, convert};
use crate::port::{Error, Maintain, Member, Revision};

/// One for whoever compacts, one for whoever looks.
const CONNECTIONS: usize = 2;

/// The state of etcd's members. Clones share their connections.
#[derive(Clone)]
pub struct Maintenance {
    members: Vec<Pool<Connector>>,
    call_timeout: Duration,
}

/// A connection to one member, whose status was read just now.
struct Checked {
    connection: Connection,
    status: StatusResponse,
}

/// Connects to one member.
struct Connector {
    endpoint: Endpoint,
    tokens: Arc<Tokens>,
}

impl Maintenance {
    /// Fails on endpoints and certificates that cannot be read; nothing connects yet.
    pub fn try_new(options: &Options) -> Result<Self, Error> {
        let tokens = Arc::new(Tokens::new(options.credentials.clone()));
        let pool = |endpoint| {
            Pool::builder(Connector { endpoint, tokens: tokens.clone() })
                .max_size(CONNECTIONS)
                .wait_timeout(Some(options.call_timeout))
                .runtime(Runtime::Tokio1)
                .build()
                .map_err(|error| Error::Unsupported(error.to_string()))
        };
        let members = channel::endpoints(options)?.into_iter().map(pool).collect::<Result<_, _>>()?;
        Ok(Self { members, call_timeout: options.call_timeout })
    }

    /// A connection whose member has just answered. One limit holds for waiting, checking and connecting together: a member
    /// that hangs fails every connection to it in turn. Dropping this halfway drops the connection that it was at.
    async fn acquire(&self, pool: &Pool<Connector>) -> Result<Object<Connector>, Error> {
        // The pool's own future is large.
        match tokio::time::timeout(self.call_timeout, Box::pin(pool.get())).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(PoolError::Backend(error))) => Err(error),
            Ok(Err(error)) => Err(Error::Unavailable(error.to_string())),
            Err(_) => Err(Error::Unavailable("no answer within the time limit".into())),
        }
    }

    async fn compact_at(&self, pool: &Pool<Connector>, revision: Revision) -> Result<(), Error> {
        let held = self.acquire(pool).await?;
        let client = &held.connection.client;
        let compact = || async { client.kv_client().compact(revision, None).await };
        let compaction = pool.manager().tokens.authorize(client, compact);
        let outcome = match tokio::time::timeout(self.call_timeout, compaction).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => convert::error(&error),
            Err(_) => Error::Unavailable("no answer within the time limit".into()),
        };
        match outcome {
            Error::Compacted(_) => Ok(()),
            error => Err(error),
        }
    }
}

#[async_trait]
impl Maintain for Maintenance {
    /// Any member can do it for all: the first that is reached.
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut outcome = Err(Error::Unsupported("no endpoint is given".into()));
        for pool in &self.members {
            outcome = self.compact_at(pool, revision).await;
            if !matches!(outcome, Err(Error::Unavailable(_))) {
                break;
            }
        }
        outcome
    }

    async fn members(&self) -> Vec<Member> {
        let ask = async |pool: &Pool<Connector>| match self.acquire(pool).await {
            Ok(held) => member(&held.status),
            Err(error) => Member { error: Some(error.to_string()), ..Member::default() },
        };
        join_all(self.members.iter().map(ask)).await
    }
}

fn member(status: &StatusResponse) -> Member {
    let id = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
    Member {
        version: status.version().to_owned(),
        database_bytes: u64::try_from(status.db_size()).unwrap_or(0),
        used_bytes: u64::try_from(status.raft_used_db_size()).unwrap_or(0),
        leader: id != 0 && status.leader() == id,
        alarms: status.errors().iter().filter_map(|text| alarm(text, id)).collect(),
        error: None,
    }
}

/// One of the errors of a status, if it concerns this member. They are texts: an alarm is a printed record such as
/// `memberID:7 alarm:NOSPACE`, of whichever member raised it; anything else is about the member that was asked. To ask for
/// alarms themselves would be a write, which fails when there is no quorum, when one would most like to know.
fn alarm(text: &str, id: u64) -> Option<String> {
    let field = |name: &str| text.split_whitespace().find_map(|word| word.strip_prefix(name));
    match (field("memberID:"), field("alarm:")) {
        (Some(raised_by), Some(alarm)) => (raised_by == id.to_string()).then(|| alarm.to_owned()),
        _ => Some(text.to_owned()),
    }
}

impl Connector {
    async fn status(&self, connection: &Connection) -> Result<StatusResponse, Error> {
        let client = &connection.client;
        let status = self.tokens.authorize(client, || async { client.maintenance_client().status().await });
        status.await.map_err(|error| convert::error(&error))
    }
}

impl managed::Manager for Connector {
    type Type = Checked;
    type Error = Error;

    async fn create(&self) -> Result<Checked, Error> {
        let connection = Connection::to_any(&self.endpoint, self.tokens.clone()).await?;
        let status = self.status(&connection).await?;
        Ok(Checked { connection, status })
    }

    async fn recycle(&self, held: &mut Checked, _: &Metrics) -> RecycleResult<Error> {
        held.status = self.status(&held.connection).await.map_err(RecycleError::Backend)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_belongs_to_who_raised_it() {
        assert_eq!(alarm("memberID:7 alarm:NOSPACE ", 7).as_deref(), Some("NOSPACE"));
        assert_eq!(alarm("memberID:7  alarm:CORRUPT", 7).as_deref(), Some("CORRUPT"));
        assert_eq!(alarm("memberID:7 alarm:NOSPACE ", 8), None);
        assert_eq!(alarm("etcdserver: no leader", 8).as_deref(), Some("etcdserver: no leader"));
    }
}
