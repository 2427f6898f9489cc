//! Events as they come, for everybody who watches them: one watch of the store for all.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use weft_proto::weft::state::v1::Event;
use weft_store::{Change, Mirror, MirrorEvent, Range, Revision};

use super::place::{Place, places};
use crate::Inner;

/// Events that wait for the slowest watcher. Whoever falls further behind loses its watch, not the others theirs.
pub(super) const WAITING: usize = 1024;
/// Watchers at once.
pub(super) const WATCHERS: usize = 256;

/// What happened, as watchers hear it.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// An event, and where it stands.
    Event(Place, Arc<Event>),
    /// The store is another one, or has gone back: revisions from before mean nothing.
    Replaced,
}

/// Where watchers listen.
pub(crate) struct Feed {
    pub(super) sender: broadcast::Sender<Told>,
    pub(super) watchers: Arc<Semaphore>,
    /// Watches end when the process begins to.
    pub(super) stopping: CancellationToken,
}

impl Feed {
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        let (sender, _) = broadcast::channel(WAITING);
        Self { sender, watchers: Arc::new(Semaphore::new(WATCHERS)), stopping }
    }

    fn tell(&self, told: Told) {
        // Nobody need listen.
        let _ = self.sender.send(told);
    }
}

/// Follows the store's events until cancelled.
pub(crate) async fn follow(inner: Arc<Inner>, cancel: CancellationToken) {
    let mirror = Mirror::new(Arc::clone(&inner.store), Range::Prefix(inner.keys.events()));
    let mut newest: Revision = 0;
    let sink = move |told: MirrorEvent| {
        let MirrorEvent::Changes { changes, revision, .. } = told else { return };
        if revision < newest {
            inner.feed.tell(Told::Replaced);
        }
        newest = revision;
        // An event that goes with its hour is no news. All changes of one revision are told at once.
        let put = changes.into_iter().filter_map(|change| match change {
            Change::Put(entry) => Some(entry),
            Change::Delete { .. } => None,
        });
        for (place, entry) in places(put.collect()) {
            if let Ok(event) = Event::decode(entry.value) {
                inner.feed.tell(Told::Event(place, Arc::new(event)));
            }
        }
    };
    mirror.run(cancel, sink).await;
}
