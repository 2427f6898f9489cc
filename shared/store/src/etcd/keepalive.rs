//! Renewing leases: one stream to etcd, shared by all leases of a store.
//!
//! No task reads it. Whoever waits for an answer reads for everybody until its own has come, and then the next one who
//! waits goes on. etcd answers in the order of the requests, so answers go to those who wait in that order; one who gave
//! up keeps its place, or its answer would count for a later renewal and promise more time than there is.
//!
//! etcd's client ties such a stream to one lease, so this speaks to etcd directly.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream;
use http::uri::PathAndQuery;
use tokio::sync::{mpsc, oneshot};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::channel::{Authorized, Connection};
use crate::port::LeaseId;

/// Renewals under way on one stream; more than this means that nothing comes back.
const MAX_WAITING: usize = 16 * 1024;

/// `etcdserverpb.LeaseKeepAliveRequest`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Renew {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// `etcdserverpb.LeaseKeepAliveResponse` without its header.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Renewed {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// Seconds that are left, or why the stream ended.
type Answer = Result<i64, Status>;

/// The stream of a store, opened when it is first used and again after it ended.
#[derive(Default)]
pub(super) struct KeepAlives {
    // Held to look or to replace, never across an await.
    live: Mutex<Option<Arc<Live>>>,
}

impl KeepAlives {
    /// The seconds that the lease now has left, 0 if there is no such lease. Cancelling this takes nobody's answer.
    pub(super) async fn renew(&self, connection: Arc<Connection>, lease: LeaseId) -> Result<i64, etcd_client::Error> {
        let (live, used_before) = self.live(&connection);
        let outcome = live.renew(lease).await;
        if outcome.is_ok() {
            return outcome.map_err(etcd_client::Error::GRpcStatus);
        }
        self.discard(&live);
        if !used_before {
            return outcome.map_err(etcd_client::Error::GRpcStatus);
        }
        // It had ended while nobody read it, which says nothing about now. To renew twice does no harm.
        let (live, _) = self.live(&connection);
        let outcome = live.renew(lease).await;
        if outcome.is_err() {
            self.discard(&live);
        }
        outcome.map_err(etcd_client::Error::GRpcStatus)
    }

    /// The stream on this connection, and whether it had been there before.
    fn live(&self, connection: &Arc<Connection>) -> (Arc<Live>, bool) {
        let mut held = self.held();
        if let Some(live) = &*held
            && Arc::ptr_eq(&live.connection, connection)
        {
            return (live.clone(), true);
        }
        let live = Arc::new(Live::new(connection.clone()));
        *held = Some(live.clone());
        (live, false)
    }

    fn discard(&self, live: &Arc<Live>) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, live)) {
            *held = None;
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        // It is replaced whole: a panic elsewhere cannot have left it half done.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream.
struct Live {
    connection: Arc<Connection>,
    // Held to add or to take one place, never across an await.
    line: Mutex<Line>,
    // Whoever holds it reads for all.
    answers: tokio::sync::Mutex<Answers>,
}

/// Those who wait, in the order in which their requests were sent.
struct Line {
    requests: mpsc::Sender<Renew>,
    waiting: VecDeque<(i64, oneshot::Sender<Answer>)>,
}

/// The answers' side; it is there once etcd has answered for the first time.
enum Answers {
    Opening(BoxFuture<'static, Result<Streaming<Renewed>, Status>>),
    Open(Box<Streaming<Renewed>>),
    /// Somebody may have lined up after the end; nothing is read any more.
    Over,
}

impl Live {
    /// Nothing is sent before somebody waits for an answer.
    fn new(connection: Arc<Connection>) -> Self {
        let (requests, queue) = mpsc::channel(MAX_WAITING);
        let opening = Box::pin(open(connection.channel.clone(), queue));
        let line = Mutex::new(Line { requests, waiting: VecDeque::new() });
        Self { connection, line, answers: tokio::sync::Mutex::new(Answers::Opening(opening)) }
    }

    async fn renew(&self, lease: LeaseId) -> Answer {
        let mut mine = self.line_up(lease)?;
        // All of them can be cancelled: an answer is read whole and handed over without a wait in between, and the
        // future that opens the stream stays where it is.
        let answer = tokio::select! {
            biased;
            answer = &mut mine => answer,
            () = self.connection.given_up() => return Err(ended()),
            () = self.read_for_all() => mine.await,
        };
        answer.unwrap_or_else(|_| Err(ended()))
    }

    /// Sends a request and keeps the place for its answer, in one order for both.
    fn line_up(&self, lease: LeaseId) -> Result<oneshot::Receiver<Answer>, Status> {
        let (answer, mine) = oneshot::channel();
        let mut line = self.line();
        if line.waiting.len() >= MAX_WAITING {
            return Err(Status::unavailable("renewals are not answered"));
        }
        line.requests.try_send(Renew { id: lease.0 }).map_err(|_| ended())?;
        line.waiting.push_back((lease.0, answer));
        Ok(mine)
    }

    /// Reads until the stream ends. Dropped when the reader's own answer has come.
    async fn read_for_all(&self) {
        let mut answers = self.answers.lock().await;
        let end = loop {
            match answers.next().await.and_then(|renewed| renewed.ok_or_else(ended)) {
                Ok(renewed) => {
                    if let Err(error) = self.hand_over(renewed) {
                        break error;
                    }
                }
                Err(error) => break error,
            }
        };
        *answers = Answers::Over;
        for (_, waiting) in self.line().waiting.drain(..) {
            // Who does not wait any more does not need to know.
            let _ = waiting.send(Err(end.clone()));
        }
    }

    fn hand_over(&self, renewed: Renewed) -> Result<(), Status> {
        match self.line().waiting.pop_front() {
            Some((id, waiting)) if id == renewed.id => {
                let _ = waiting.send(Ok(renewed.ttl));
                Ok(())
            }
            Some((_, waiting)) => {
                let _ = waiting.send(Err(ended()));
                Err(Status::internal("an answer for another lease than the one that is next"))
            }
            None => Err(Status::internal("an answer that nobody asked for")),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // A panic cannot come between a request and its place: nothing there panics.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    async fn next(&mut self) -> Result<Option<Renewed>, Status> {
        loop {
            match self {
                Self::Open(stream) => return stream.message().await,
                Self::Opening(opening) => *self = Self::Open(Box::new(opening.await?)),
                Self::Over => return Err(ended()),
            }
        }
    }
}

/// etcd sends nothing, not even headers, before its first answer: the queue must hold a request by then.
async fn open(channel: Authorized, queue: mpsc::Receiver<Renew>) -> Result<Streaming<Renewed>, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let requests = stream::unfold(queue, async |mut queue| queue.recv().await.map(|request| (request, queue)));
    let mut request = Request::new(requests);
    // A member that has lost its leader ends the stream instead of letting it wait.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
    client.streaming(request, path, ProstCodec::default()).await.map(Response::into_inner)
}

fn ended() -> Status {
    Status::unavailable("the keepalive stream ended")
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::etcd::auth::Tokens;
    use crate::faults::within;

    /// Nothing listens there.
    async fn nowhere() -> Arc<Connection> {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", unused.local_addr().expect("an address"));
        let endpoint = Endpoint::from_shared(url).expect("a good endpoint");
        Arc::new(Connection::open(&endpoint, Arc::new(Tokens::new(None))).await.expect("nothing connects"))
    }

    #[tokio::test]
    async fn a_stream_that_ended_stays_ended() {
        let live = Live::new(nowhere().await);
        for _ in 0..3 {
            let end = within(live.renew(LeaseId(1))).await.expect_err("nothing listens");
            assert_eq!(end.code(), Code::Unavailable);
        }
    }

    #[tokio::test]
    async fn everybody_hears_of_the_end() {
        let (keepalives, connection) = (KeepAlives::default(), nowhere().await);
        let renewals = (0..100).map(|id| keepalives.renew(connection.clone(), LeaseId(id)));
        let outcomes = within(futures_util::future::join_all(renewals)).await;
        assert!(outcomes.iter().all(Result::is_err));
    }

    #[tokio::test]
    async fn answers_are_for_the_next_in_line_only() {
        let live = Live::new(nowhere().await);
        let mut first = live.line_up(LeaseId(1)).expect("room");
        drop(live.line_up(LeaseId(1)).expect("room"));
        let mut third = live.line_up(LeaseId(1)).expect("room");
        for ttl in [1, 2, 3] {
            live.hand_over(Renewed { id: 1, ttl }).expect("asked for");
        }
        // The second had given up, and its answer went with it.
        assert_eq!(first.try_recv().expect("told").expect("renewed"), 1);
        assert_eq!(third.try_recv().expect("told").expect("renewed"), 3);
        assert!(live.hand_over(Renewed { id: 1, ttl: 4 }).is_err());
        let mut fourth = live.line_up(LeaseId(1)).expect("room");
        assert!(live.hand_over(Renewed { id: 2, ttl: 5 }).is_err());
        assert!(fourth.try_recv().expect("told").is_err());
    }
}
