//! The members, and which of them is in use.
//!
//! One at a time, in an order of this process's own, so that many processes spread over the members. The next one takes
//! over when a call fails; watches on a connection that failed end at once and go on there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::seq::SliceRandom;
use tonic::transport::Endpoint;

use super::auth::Tokens;
use super::channel::Connection;
use crate::port::Error;

/// What a failure says about where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The member works; the call failed for reasons of its own.
    Nobody,
    /// The member cannot serve at the moment, and says so: others may.
    Member,
    /// Nothing, or nothing sensible, comes over this connection: streams on it are as dead.
    Connection,
}

/// The members, and which of them is in use.
pub(super) struct Endpoints {
    tokens: Arc<Tokens>,
    members: Vec<Endpoint>,
    // Held to look or to swap, never across an await.
    in_use: Mutex<InUse>,
}

struct InUse {
    index: usize,
    connection: Arc<Connection>,
}

impl Endpoints {
    /// Begins with one that chance picks. Nothing connects before the first call.
    pub(super) async fn open(mut members: Vec<Endpoint>, tokens: Arc<Tokens>) -> Result<Self, Error> {
        members.shuffle(&mut rand::rng());
        let first = members.first().ok_or_else(|| Error::Unsupported("no endpoint is given".into()))?;
        let connection = Arc::new(Connection::open(first, tokens.clone()).await?);
        Ok(Self { tokens, members, in_use: Mutex::new(InUse { index: 0, connection }) })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// The connection in use.
    pub(super) fn current(&self) -> Arc<Connection> {
        self.in_use().connection.clone()
    }

    /// Moves on from `failed`, unless that has happened already: many calls fail at once, one moves. A single member is
    /// connected to anew, since the fault may be on the way to it.
    pub(super) async fn leave(&self, failed: &Arc<Connection>, blame: Blame) {
        if blame == Blame::Connection {
            failed.give_up();
        }
        let Some(index) = self.after(failed) else { return };
        let Some(member) = self.members.get(index) else { return };
        if blame == Blame::Nobody || (blame == Blame::Member && self.count() == 1) {
            return;
        }
        match Connection::open(member, self.tokens.clone()).await {
            Ok(connection) => {
                let mut in_use = self.in_use();
                // Looked at again: another call may have moved on while this one prepared to.
                if Arc::ptr_eq(&in_use.connection, failed) {
                    *in_use = InUse { index, connection: Arc::new(connection) };
                }
            }
            Err(error) => tracing::warn!(%error, "no connection to the next endpoint"),
        }
    }

    /// Which member is next, if `failed` is still the one in use.
    fn after(&self, failed: &Arc<Connection>) -> Option<usize> {
        let in_use = self.in_use();
        Arc::ptr_eq(&in_use.connection, failed).then(|| (in_use.index + 1) % self.count())
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        // Both fields are replaced at once: a panic elsewhere cannot have left them half done.
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    async fn members(count: u16) -> Endpoints {
        let url = |port| Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("a good endpoint");
        let tokens = Arc::new(Tokens::new(None));
        Endpoints::open((1..=count).map(url).collect(), tokens).await.expect("nothing connects")
    }

    fn index(endpoints: &Endpoints) -> usize {
        endpoints.in_use().index
    }

    fn gone(connection: &Connection) -> bool {
        connection.given_up().now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_failed_endpoint_is_left_once() {
        let endpoints = members(2).await;
        let first = endpoints.current();
        endpoints.leave(&first, Blame::Connection).await;
        assert_eq!(index(&endpoints), 1);
        // A second call that failed on the first endpoint must not move back to it.
        endpoints.leave(&first, Blame::Connection).await;
        assert_eq!(index(&endpoints), 1);
        endpoints.leave(&endpoints.current(), Blame::Member).await;
        assert_eq!(index(&endpoints), 0);
        endpoints.leave(&endpoints.current(), Blame::Nobody).await;
        assert_eq!(index(&endpoints), 0);
    }

    #[tokio::test]
    async fn only_a_bad_connection_ends_its_streams() {
        let endpoints = members(2).await;
        let first = endpoints.current();
        endpoints.leave(&first, Blame::Member).await;
        assert!(!gone(&first) && !Arc::ptr_eq(&first, &endpoints.current()));
        // A stream that was left running there is ended when it turns out to be dead.
        endpoints.leave(&first, Blame::Connection).await;
        assert!(gone(&first) && !gone(&endpoints.current()));
        assert_eq!(index(&endpoints), 1);
    }

    #[tokio::test]
    async fn a_single_member_is_connected_to_anew() {
        let endpoints = members(1).await;
        let first = endpoints.current();
        endpoints.leave(&first, Blame::Member).await;
        assert!(Arc::ptr_eq(&first, &endpoints.current()));
        endpoints.leave(&first, Blame::Connection).await;
        assert!(gone(&first) && !Arc::ptr_eq(&first, &endpoints.current()));
    }

    #[tokio::test]
    async fn every_member_is_somebodys_first() {
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..100 {
            firsts.insert(members(3).await.members[0].uri().port_u16());
        }
        assert_eq!(firsts.len(), 3);
    }
}
