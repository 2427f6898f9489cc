//! The members, and which of them is in use.
//!
//! One at a time, in an order of this process's own, so that many processes spread over the members. The next one takes
//! over when a call fails; watches on a connection that failed end at once and go on there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use tonic::transport::Endpoint;
use weft_types::SystemClock;

use super::auth::Tokens;
use super::channel::Connection;
use super::convert::Blame;
use crate::port::Error;

/// How long a single member that cannot serve is asked on the same connection: behind one address there can be many, and a
/// new connection may lead to another.
const SAME: Duration = Duration::from_secs(1);

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
    since: Instant,
    /// Connections to the other members that were left in good order: an election is no reason to connect anew.
    spare: Vec<Option<Arc<Connection>>>,
}

impl Endpoints {
    /// Begins with one that chance picks. Nothing connects before the first call.
    pub(super) async fn open(mut members: Vec<Endpoint>, tokens: Arc<Tokens>) -> Result<Self, Error> {
        members.shuffle(&mut rand::rng());
        let first = members.first().ok_or_else(|| Error::Unsupported("no endpoint is given".into()))?;
        let connection = Arc::new(Connection::open(first, tokens.clone()).await?);
        let in_use = InUse { index: 0, connection, since: SystemClock::now(), spare: vec![None; members.len()] };
        Ok(Self { tokens, members, in_use: Mutex::new(in_use) })
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
        if blame == Blame::Nobody {
            return;
        }
        let Some((index, spare)) = self.after(failed, blame) else { return };
        let next = match (spare, self.members.get(index)) {
            (Some(spare), _) => Ok(spare),
            (None, Some(member)) => Connection::open(member, self.tokens.clone()).await.map(Arc::new),
            (None, None) => return,
        };
        match next {
            Ok(connection) => self.in_use().replace(failed, (index, connection), blame),
            Err(error) => tracing::warn!(%error, "no connection to the next endpoint"),
        }
    }

    /// Which member is next, with the connection that it had; `None` if `failed` is not in use any more, or is to stay.
    fn after(&self, failed: &Arc<Connection>, blame: Blame) -> Option<(usize, Option<Arc<Connection>>)> {
        let in_use = self.in_use();
        let age = SystemClock::now().saturating_duration_since(in_use.since);
        let stays = self.count() == 1 && blame == Blame::Member && age < SAME;
        if stays || !Arc::ptr_eq(&in_use.connection, failed) {
            return None;
        }
        let index = (in_use.index + 1) % self.count();
        Some((index, in_use.spare.get(index).cloned().flatten()))
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        // Its fields are replaced together: a panic elsewhere cannot have left them half done.
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    /// Takes the next one into use, unless another call has moved on meanwhile.
    fn replace(&mut self, failed: &Arc<Connection>, next: (usize, Arc<Connection>), blame: Blame) {
        if !Arc::ptr_eq(&self.connection, failed) {
            return;
        }
        let left = std::mem::replace(&mut self.connection, next.1);
        if let Some(spare) = self.spare.get_mut(self.index) {
            *spare = (blame == Blame::Member).then_some(left);
        }
        (self.index, self.since) = (next.0, SystemClock::now());
        // What is in use is no spare; with a single member it would be its own.
        if let Some(spare) = self.spare.get_mut(self.index) {
            *spare = None;
        }
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
    async fn an_election_opens_no_connections() {
        let endpoints = members(2).await;
        let first = endpoints.current();
        endpoints.leave(&first, Blame::Member).await;
        let second = endpoints.current();
        endpoints.leave(&second, Blame::Member).await;
        assert!(Arc::ptr_eq(&first, &endpoints.current()));
        endpoints.leave(&first, Blame::Connection).await;
        assert!(Arc::ptr_eq(&second, &endpoints.current()));
        // What failed is not used again.
        endpoints.leave(&second, Blame::Member).await;
        assert!(!Arc::ptr_eq(&first, &endpoints.current()) && index(&endpoints) == 0);
    }

    /// One address can lead to many members: one that has lost the others is left for whoever answers next.
    #[tokio::test]
    async fn a_single_address_is_connected_to_anew_now_and_then() {
        let endpoints = members(1).await;
        let first = endpoints.current();
        endpoints.in_use().since -= SAME;
        endpoints.leave(&first, Blame::Member).await;
        let second = endpoints.current();
        assert!(!Arc::ptr_eq(&first, &second));
        endpoints.leave(&second, Blame::Member).await;
        assert!(Arc::ptr_eq(&second, &endpoints.current()));
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
