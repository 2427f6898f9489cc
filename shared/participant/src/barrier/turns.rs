//! Calls with the same key, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::mark::Key;

// Held for a lookup, never across an await.
type Lines = Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>;

/// The keys of calls that are at work or wait, no others.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lines: Lines,
}

/// A place in the line of a key; dropping it takes the line away with the last one.
#[derive(Debug)]
struct Place {
    lines: Lines,
    key: Key,
}

/// At work. Fields are dropped in order: the next one goes on before the place is left.
#[derive(Debug)]
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    place: Place,
}

impl Turns {
    /// Waits for those who came before; first come, first served. Cancelled at any time it only leaves the line.
    pub(super) async fn wait(&self, key: &Key) -> Turn {
        let place = Place { lines: Arc::clone(&self.lines), key: key.clone() };
        let line = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lines.entry(key.clone()).or_default())
        };
        let guard = line.lock_owned().await;
        Turn { _guard: guard, place }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lines.lock().expect("no test panics with it").len()
    }
}

impl Turn {
    pub(super) const fn key(&self) -> &Key {
        &self.place.key
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is at work or waits holds the lock of the line, too; counted under the lock of all lines, where it is handed out.
        if lines.get(&self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.key);
        }
    }
}
