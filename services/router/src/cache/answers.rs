//! The answers themselves: bounded in bytes, the least useful ones leave first (S3-FIFO, by `quick_cache`).

use std::hash::RandomState;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use quick_cache::{OptionsBuilder, Weighter};
use weft_proto::message::Message;
use weft_types::Error;

/// SHA-256 of what is asked.
pub(super) type Key = [u8; 32];
/// What came of a call, as far as equal ones may be told.
pub(super) type Outcome = Result<Message, Error>;

/// Independent parts, each with a lock of its own that is held for a look-up.
const PARTS: usize = 4;
/// The part of all the room that one answer may take: a fourth of its part's.
const MOST: u64 = 16;
/// What an answer takes beside its bytes: key, instants and places in lists, rounded up. It also bounds the number of answers.
const OVERHEAD: u64 = 512;
/// An answer that is usual, for the size of what is remembered of those that have left.
const USUAL: u64 = 4 << 10;
/// An answer of at most so many bytes is copied when it is kept: it would otherwise hold all of the buffer that it was read into.
const SMALL: usize = 64 << 10;

/// Kept answers.
pub(crate) struct Answers {
    kept: Cache<Key, Arc<Kept>, Weigh, RandomState>,
    longest: usize,
}

struct Kept {
    outcome: Outcome,
    /// When it was given; calls that were waiting then may have it in any case.
    given: Instant,
    until: Instant,
    weight: u64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Arc<Kept>> for Weigh {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        kept.weight
    }
}

/// What is there for a call.
pub(super) enum Found<'a> {
    /// An answer.
    Kept(Outcome),
    /// The answer to an equal call that was under way.
    Waited(Outcome),
    /// Nothing: this call is the one to be sent.
    Nothing(Lead<'a>),
}

/// The call that others wait for. When it is dropped without an answer, one of them takes its place.
pub(super) struct Lead<'a> {
    answers: &'a Answers,
    key: Key,
    guard: PlaceholderGuard<'a, Key, Arc<Kept>, Weigh, RandomState, DefaultLifecycle<Key, Arc<Kept>>>,
}

impl Answers {
    /// Room for answers of so many bytes in all.
    pub(crate) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX);
        let options =
            OptionsBuilder::new().shards(PARTS).estimated_items_capacity(items).weight_capacity(bytes).build();
        let (hasher, lifecycle) = (RandomState::new(), DefaultLifecycle::default());
        let kept = match options {
            Ok(options) => Cache::with_options(options, Weigh, hasher, lifecycle),
            // Only where something is not said; the number of parts is then that of the machine.
            Err(_) => Cache::with(items, bytes, Weigh, hasher, lifecycle),
        };
        Self { kept, longest: usize::try_from(bytes / MOST).unwrap_or(usize::MAX) }
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.weight()
    }

    /// The longest answer that is kept, in bytes; requests that are longer are not worth a digest either.
    pub(super) const fn longest(&self) -> usize {
        self.longest
    }

    /// Looks for an answer that still holds, or waits for an equal call's. Dropping the future ends the wait.
    pub(super) async fn find(&self, key: &Key, clock: &impl Fn() -> Instant) -> Found<'_> {
        let asked = clock();
        if let Some(kept) = self.kept.get(key) {
            if kept.until > asked {
                return Found::Kept(kept.outcome.clone());
            }
            self.remove(key, &kept);
        }
        loop {
            match self.kept.get_value_or_guard_async(key).await {
                Ok(kept) if kept.given >= asked || kept.until > clock() => return Found::Waited(kept.outcome.clone()),
                Ok(stale) => self.remove(key, &stale),
                Err(guard) => return Found::Nothing(Lead { answers: self, key: *key, guard }),
            }
        }
    }

    fn remove(&self, key: &Key, one: &Arc<Kept>) {
        self.kept.remove_if(key, |kept| Arc::ptr_eq(kept, one));
    }
}

impl Lead<'_> {
    /// Gives those who wait their answer, and keeps it for so long; one that is too long, or is to be kept for no time, is for them alone.
    pub(super) fn settle(self, outcome: Outcome, life: Option<Duration>, now: Instant) {
        let length = match &outcome {
            Ok(message) => message.len(),
            Err(error) => error.message().len(),
        };
        let until = life.filter(|_| length <= self.answers.longest).map(|life| now + life);
        let outcome = match outcome {
            Ok(message) if until.is_some() && length <= SMALL => Ok(message.detached()),
            other => other,
        };
        // What is not kept shall push nothing out; and nothing weighs nothing, as that would never be pushed out.
        let weight = if until.is_some() { length as u64 + OVERHEAD } else { 1 };
        let is_kept = until.is_some();
        let kept = Arc::new(Kept { outcome, given: now, until: until.unwrap_or(now), weight });
        // It fails where the place is gone, and then those who wait have it all the same.
        let _ = self.guard.insert(Arc::clone(&kept));
        if !is_kept {
            self.answers.remove(&self.key, &kept);
        }
    }
}

#[cfg(test)]
mod tests;
