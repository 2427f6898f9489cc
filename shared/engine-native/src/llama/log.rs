//! What llama.cpp says. Its crate hands lines to `tracing`; in an engine process nobody listens there, so the thread that loads
//! and steps does.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::child::tell;

/// Lines that a failed load tells.
const REMEMBERED: usize = 4;
/// Characters of a line.
const MOST_CHARS: usize = 300;
/// Lines that go to standard error in the life of a process; more help nobody.
const TOLD: u32 = 100;

/// The last warnings and errors. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    told: u32,
}

impl Log {
    /// The last lines, for the error of a load that has failed.
    pub(super) fn last(&self) -> String {
        Vec::from(self.lines().last.clone()).join("; ")
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        if lines.told < TOLD {
            lines.told += 1;
            tell(&line);
        }
        if lines.last.len() == REMEMBERED {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        // The crate's own lines pass without being asked for.
        if !self.enabled(event.metadata()) {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = text.0.trim();
        if !line.is_empty() {
            self.push(line.chars().take(MOST_CHARS).collect());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
