//! Who reports: the service and instance of each process, bounded in number and forgotten after a silence.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::options::Options;

/// `service.name` and `service.instance.id` of a reporting process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source {
    pub(crate) service: Arc<str>,
    pub(crate) instance: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Sources {
    max: usize,
    ttl: Duration,
    last: HashMap<Arc<Source>, Instant>,
}

impl Sources {
    pub(crate) fn new(options: &Options) -> Self {
        Self { max: options.max_sources, ttl: options.source_ttl, last: HashMap::new() }
    }

    /// Notes that the source reported; `None` when there are too many already.
    pub(crate) fn heard(&mut self, now: Instant, source: Source) -> Option<Arc<Source>> {
        let known = self.last.get_key_value(&source).map(|(known, _)| Arc::clone(known));
        let source = match known {
            Some(known) => known,
            None if self.last.len() >= self.max => return None,
            None => Arc::new(source),
        };
        self.last.insert(Arc::clone(&source), now);
        Some(source)
    }

    /// Forgets who has been silent for too long; says whether anyone was.
    pub(crate) fn forget_silent(&mut self, now: Instant) -> bool {
        let before = self.last.len();
        self.last.retain(|_, last| now.saturating_duration_since(*last) <= self.ttl);
        self.last.len() < before
    }

    /// Whether the source has reported within the last `length`.
    pub(crate) fn is_recent(&self, source: &Source, length: Duration, now: Instant) -> bool {
        self.last.get(source).is_some_and(|last| now.saturating_duration_since(*last) <= length)
    }

    pub(crate) fn knows(&self, source: &Source) -> bool {
        self.last.contains_key(source)
    }

    pub(crate) fn len(&self) -> usize {
        self.last.len()
    }
}
