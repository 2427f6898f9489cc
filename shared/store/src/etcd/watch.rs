//! One watch: a stream of its own, which proves every few seconds that it is alive.
//!
//! What a progress answer says about revisions is not trusted: etcd before 3.4.25 and 3.5.8 can name a revision whose
//! changes it has not sent yet. A watch confirms up to the last change it was told.

use etcd_client::{EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use futures_util::stream;
use tokio::time::{Interval, MissedTickBehavior};

use super::{EtcdStore, convert};
use crate::port::{Change, Changes, Error, Range, Revision, Watch};

/// The longest message. A watch that catches up gets the changes of up to 1,000 revisions in one.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// How many requests for a sign of life may stay unanswered.
const MAX_UNANSWERED: u32 = 2;

/// Opens a watch and waits until etcd has taken it.
pub(super) async fn open(store: &EtcdStore, range: Range, from: Revision) -> Result<Watch, Error> {
    let options = WatchOptions::new().with_start_revision(from);
    let (key, options) = match range {
        Range::Key(key) => (key, options),
        Range::Prefix(prefix) => (prefix, options.with_prefix()),
    };
    let mut client = store.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let (requests, answers) = store.call(client.watch(key, Some(options))).await?.split();
    let mut progress = tokio::time::interval(store.options.progress);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    progress.reset();
    let watcher = Watcher { requests, answers, progress, unanswered: 0, told: from - 1 };
    Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(changes) => Some((Ok(changes), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Watcher {
    requests: WatchRequestSender,
    answers: WatchResponseStream,
    progress: Interval,
    unanswered: u32,
    told: Revision,
}

impl Watcher {
    async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            // Both branches are safe to cancel: a message is taken whole or not at all, a tick stays due.
            let answer = tokio::select! {
                answer = self.answers.message() => answer,
                _ = self.progress.tick() => {
                    self.ask_for_progress().await?;
                    continue;
                }
            };
            let answer = answer.map_err(|error| convert::error(&error))?;
            let answer = answer.ok_or_else(|| Error::Unavailable("etcd ended the watch".into()))?;
            self.unanswered = 0;
            if let Some(changes) = self.read(&answer)? {
                return Ok(changes);
            }
        }
    }

    async fn ask_for_progress(&mut self) -> Result<(), Error> {
        if self.unanswered == MAX_UNANSWERED {
            return Err(Error::Unavailable("the watch is silent".into()));
        }
        self.unanswered += 1;
        // The queue to the connection holds 100 requests and at most `MAX_UNANSWERED` are in it: this does not wait.
        self.requests.request_progress().await.map_err(|error| convert::error(&error))
    }

    /// The message's changes; none for progress, and nothing at all for the answer that only opens the watch.
    fn read(&mut self, answer: &WatchResponse) -> Result<Option<Changes>, Error> {
        if answer.compact_revision() > 0 {
            return Err(Error::Compacted(answer.compact_revision()));
        }
        if answer.canceled() {
            return Err(Error::Unavailable(format!("etcd cancelled the watch: {}", answer.cancel_reason())));
        }
        if answer.created() {
            return Ok(None);
        }
        let mut changes = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let Some(record) = event.kv() else { continue };
            // etcd never splits a revision over two messages unless asked to.
            self.told = self.told.max(record.mod_revision());
            changes.extend(change(event.event_type(), record));
        }
        Ok(Some(Changes { revision: self.told, changes }))
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
