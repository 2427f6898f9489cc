//! A mirror of a store as it runs, and what it tells.

use tokio::sync::mpsc;
use weft_store::{Mirror, MirrorEvent};

use super::*;

/// Runs a mirror of `a/` beside `script`, which gets what it tells.
pub(crate) async fn mirrored(store: &EtcdStore, script: impl AsyncFnOnce(mpsc::Receiver<MirrorEvent>)) {
    let cancel = CancellationToken::new();
    let (sender, events) = mpsc::channel(1024);
    let mirror = Mirror::new(Arc::new(store.clone()), Range::Prefix("a/".into()));
    let run = mirror.run(cancel.clone(), move |event| sender.try_send(event).expect("the test reads along"));
    let script = async {
        script(events).await;
        cancel.cancel();
    };
    within(async { tokio::join!(run, Box::pin(script)) }).await;
}

/// The next event that `wanted` makes something of.
pub(crate) async fn event<T>(
    events: &mut mpsc::Receiver<MirrorEvent>,
    wanted: impl Fn(&MirrorEvent) -> Option<T>,
) -> T {
    loop {
        if let Some(found) = wanted(&events.recv().await.expect("the mirror runs")) {
            return found;
        }
    }
}

/// The keys that changed, `+` for put and `-` for deleted.
pub(crate) fn changes(event: &MirrorEvent) -> Option<Vec<String>> {
    match event {
        MirrorEvent::Changes { changes, .. } => Some(changes.iter().map(signed).collect()),
        MirrorEvent::Confirmed { .. } | MirrorEvent::Lost { .. } => None,
    }
}

/// The next `count` changes, however many messages they come in.
pub(crate) async fn next(events: &mut mpsc::Receiver<MirrorEvent>, count: usize) -> Vec<String> {
    let mut told = vec![];
    while told.len() < count {
        told.extend(event(events, changes).await);
    }
    told
}

fn signed(change: &Change) -> String {
    match change {
        Change::Put(entry) => format!("+{}", entry.key),
        Change::Delete { key, .. } => format!("-{key}"),
    }
}

pub(crate) fn lost(event: &MirrorEvent) -> Option<()> {
    matches!(event, MirrorEvent::Lost { .. }).then_some(())
}

pub(crate) fn confirmed(event: &MirrorEvent) -> Option<()> {
    matches!(event, MirrorEvent::Confirmed { .. }).then_some(())
}
