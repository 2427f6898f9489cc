//! One watch: a stream of its own, which proves every few seconds that it is alive.
//!
//! What a progress answer says about revisions is not trusted: etcd before 3.4.25 and 3.5.8 can name a revision whose
//! changes it has not sent yet, and nothing on the stream tells its version. A watch confirms up to the last change it
//! was told.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures_util::stream;
use tokio::time::Sleep;

use super::channel::Connection;
use super::convert::Blame;
use super::{EtcdStore, convert};
use crate::port::{Change, Changes, Error, Range, Revision, Watch};

/// The longest message. A watch that catches up gets the changes of up to 1,000 revisions in one.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// How many requests for a sign of life may stay unanswered.
const MAX_UNANSWERED: u32 = 2;

/// A new watch asks for its first sign of life this early, so that a mirror that resumes soon knows that it is current.
/// etcd needs about 100 ms until a watch that begins in the past has caught up.
const FIRST_QUESTION: Duration = Duration::from_millis(150);

/// Opens a watch and waits until etcd has taken it.
pub(super) async fn open(store: &EtcdStore, range: Range, from: Revision) -> Result<Watch, Error> {
    let (connection, requests, answers) = store.call(|connection| create(connection, range.clone(), from)).await?;
    let watcher = Watcher {
        store: store.clone(),
        connection,
        requests,
        answers,
        question: Box::pin(tokio::time::sleep(FIRST_QUESTION.min(store.options.progress))),
        unanswered: None,
        from,
        told: from - 1,
    };
    Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(changes) => Some((Ok(changes), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

type Opened = (Arc<Connection>, WatchRequestSender, WatchResponseStream);

/// Recent etcd (3.5.30 was seen to) answers no progress for a watch that begins in its future, so that on a quiet store the watch would look
/// dead: such a watch begins at the present, and [`Watcher::read`] drops what is too early.
async fn create(connection: Arc<Connection>, range: Range, from: Revision) -> Result<Opened, etcd_client::Error> {
    let (mut requests, mut answers, present) = create_at(&connection, &range, from).await?;
    if present < from {
        (requests, answers, _) = create_at(&connection, &range, present.max(1)).await?;
    }
    Ok((connection, requests, answers))
}

async fn create_at(
    connection: &Connection,
    range: &Range,
    from: Revision,
) -> Result<(WatchRequestSender, WatchResponseStream, Revision), etcd_client::Error> {
    let options = WatchOptions::new().with_start_revision(from);
    let (key, options) = match range {
        Range::Key(key) => (key.as_str(), options),
        Range::Prefix(prefix) => (prefix.as_str(), options.with_prefix()),
    };
    let mut client = connection.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let (requests, mut answers) = client.watch(key, Some(options)).await?.split();
    // The first message says whether there is a watch at all; events come after it.
    match answers.message().await? {
        Some(answer) if answer.created() && !answer.canceled() => {
            let present = answer.header().map_or(from, etcd_client::ResponseHeader::revision);
            Ok((requests, answers, present))
        }
        Some(answer) => Err(convert::cancellation(answer.cancel_reason())),
        None => Err(convert::cancellation("without a word")),
    }
}

struct Watcher {
    store: EtcdStore,
    connection: Arc<Connection>,
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    // When to ask for a sign of life, unless something is heard before.
    question: Pin<Box<Sleep>>,
    // `None` until the first, early question, which does not count: etcd may not be able to answer it yet.
    unanswered: Option<u32>,
    // The first revision that was asked for.
    from: Revision,
    told: Revision,
}

/// How a watch ended.
enum End {
    Told(Error),
    Failed(etcd_client::Error),
    Silent,
    GivenUp,
}

impl Watcher {
    async fn next(&mut self) -> Result<Changes, Error> {
        let end = match self.listen().await {
            Ok(changes) => return Ok(changes),
            Err(end) => end,
        };
        let (blame, error) = match end {
            End::Told(error) => (Blame::Nobody, error),
            // What is to be caught up with does not fit a message, and never will: a listing comes in pages.
            End::Failed(error) if convert::is_too_long(&error) => (Blame::Nobody, Error::Compacted(0)),
            End::Failed(error) => (convert::blame(&error), convert::error(&error)),
            End::Silent => (Blame::Connection, Error::Unavailable("the watch is silent".into())),
            End::GivenUp => (Blame::Nobody, Error::Unavailable("the connection was given up".into())),
        };
        self.store.endpoints.leave(&self.connection, blame).await;
        Err(error)
    }

    async fn listen(&mut self) -> Result<Changes, End> {
        loop {
            // All branches are safe to cancel: a message is taken whole or not at all, a question stays due.
            let answer = tokio::select! {
                answer = self.answers.message() => answer,
                () = self.connection.given_up() => return Err(End::GivenUp),
                () = &mut self.question => {
                    self.ask().await?;
                    continue;
                }
            };
            let ended = || End::Failed(convert::cancellation("without a word"));
            let answer = answer.map_err(End::Failed)?.ok_or_else(ended)?;
            self.unanswered = Some(0);
            self.ask_after(self.store.options.progress);
            return self.read(&answer);
        }
    }

    async fn ask(&mut self) -> Result<(), End> {
        match &mut self.unanswered {
            Some(unanswered) if *unanswered >= MAX_UNANSWERED => return Err(End::Silent),
            Some(unanswered) => {
                *unanswered += 1;
                self.ask_after(self.store.options.progress / 3);
            }
            first => {
                *first = Some(0);
                self.ask_after(self.store.options.progress);
            }
        }
        // The queue to the connection holds 100 requests and few are in it: this does not wait.
        self.requests.request_progress().await.map_err(End::Failed)
    }

    fn ask_after(&mut self, pause: Duration) {
        self.question.as_mut().set(tokio::time::sleep(pause));
    }

    /// The message's changes; none for progress.
    fn read(&mut self, answer: &WatchResponse) -> Result<Changes, End> {
        if answer.compact_revision() > 0 {
            return Err(End::Told(Error::Compacted(answer.compact_revision())));
        }
        if answer.canceled() {
            return Err(End::Failed(convert::cancellation(answer.cancel_reason())));
        }
        let mut changes = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let Some(record) = event.kv().filter(|record| record.mod_revision() >= self.from) else { continue };
            // etcd never splits a revision over two messages unless asked to.
            self.told = self.told.max(record.mod_revision());
            changes.extend(change(event.event_type(), record));
        }
        Ok(Changes { revision: self.told, changes })
    }
}

fn change(kind: EventType, record: &etcd_client::KeyValue) -> Option<Change> {
    match kind {
        EventType::Put => convert::entry(record.clone()).map(Change::Put),
        EventType::Delete => {
            let key = convert::key_text(record.key().to_vec())?;
            Some(Change::Delete { key, mod_revision: record.mod_revision() })
        }
    }
}
