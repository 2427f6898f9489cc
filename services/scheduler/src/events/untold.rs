//! Events that are not written yet: a store that is full takes none, and just then operators must hear of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use weft_proto::weft::state::v1::{Event, Severity};

use super::ledger::Due;

/// What the leader has found and not yet written, by id. As many as are due at most, which the ledger bounds.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    /// Held for a look or a change, never across an await.
    events: Mutex<BTreeMap<String, Event>>,
}

impl Untold {
    /// What is due now: what is so no longer goes, and what stays keeps the time at which it began.
    pub(super) fn keep(&self, due: &[Due], reporter: &str, now: SystemTime) {
        let mut events = self.events();
        let mut before = std::mem::take(&mut *events);
        for due in due {
            let event = before.remove(&due.id).unwrap_or_else(|| {
                if due.severity == Severity::Warning {
                    tracing::warn!(reason = due.reason, subject = due.subject, details = due.message, "an event");
                }
                due.event(reporter, now)
            });
            events.insert(due.id.clone(), event);
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Event> {
        self.events().get(id).cloned()
    }

    /// This one stands in the store now.
    pub(super) fn written(&self, id: &str) {
        self.events().remove(id);
    }

    /// Another one leads, and tells what is so.
    pub(super) fn clear(&self) {
        self.events().clear();
    }

    /// What is not among `stored`: a write whose answer was lost may have happened.
    pub(super) fn beside(&self, stored: &[Event]) -> Vec<Event> {
        self.events().values().filter(|event| !stored.contains(event)).cloned().collect()
    }

    fn events(&self) -> MutexGuard<'_, BTreeMap<String, Event>> {
        // Each entry is whole at any point, and the next pass makes the table anew.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    /// It as an event that began at `time`.
    pub(super) fn event(&self, reporter: &str, time: SystemTime) -> Event {
        Event {
            time: Some(weft_proto::timestamp(time)),
            severity: self.severity.into(),
            reason: self.reason.to_owned(),
            subject: self.subject.clone(),
            message: self.message.clone(),
            reporter: reporter.to_owned(),
        }
    }
}
