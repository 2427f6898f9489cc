//! The loop: commands in, one step, pieces out.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use weft_policy::step::Pace;
use weft_types::SystemClock;

use super::Sent;
use super::interrupt::{Interrupt, Outcome};
use super::memory::{Memory, Source};
use super::sequence::{Maker, Sequence};
use super::settings::Settings;
use crate::protocol::language::Occupancy;
use crate::protocol::{Event, Failed, event};

mod intake;
mod turn;
mod warm;

use intake::Arrival;

/// How long the longest step is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// One model's sequences, and what they step on.
pub(super) struct Steps<'a> {
    maker: Maker<'a>,
    memory: Memory<'a>,
    interrupt: &'a Interrupt,
    batch: LlamaBatch<'static>,
    /// Requests that have not been read; they count as waiting.
    arrivals: VecDeque<Arrival>,
    /// In the order of their arrival.
    sequences: Vec<Sequence>,
    pace: Pace,
    longest: Longest,
    next_key: u64,
    sink: &'a dyn Fn(Event),
    told: Occupancy,
}

impl<'a> Steps<'a> {
    /// Makes everything that steps need, and executes once.
    pub(super) fn prepare(
        model: &'a LlamaModel,
        (context, interrupt): (LlamaContext<'a>, &'a Interrupt),
        settings: &Settings,
        sink: &'a dyn Fn(Event),
    ) -> Result<Self, String> {
        let vocabulary = model.vocab();
        let ends = vocabulary.tokens().filter(|token| vocabulary.is_eog(*token)).collect();
        let mut steps = Self {
            maker: Maker { model, settings: *settings, ends },
            memory: Memory::new(context, *settings),
            interrupt,
            batch: LlamaBatch::new(settings.batch_tokens as usize, 1),
            arrivals: VecDeque::new(),
            sequences: Vec::new(),
            pace: Pace::default(),
            longest: Longest::default(),
            next_key: 0,
            sink,
            told: Occupancy::default(),
        };
        steps.warm()?;
        Ok(steps)
    }

    /// Steps until nobody can send commands any more.
    pub(super) fn run(&mut self, commands: &Receiver<Sent>) {
        while self.take(commands) {
            self.step();
            self.tell();
        }
    }

    fn step(&mut self) {
        let began = SystemClock::now();
        let sources: Vec<Option<Source>> = self.sequences.iter().map(|one| self.source(one)).collect();
        let plan = self.plan(&sources);
        if !plan.expired.is_empty() {
            return self.expire(&plan.expired);
        }
        self.rearrange(&plan, &sources);
        let parts = self.fill(&plan.turns);
        if parts.is_empty() {
            return;
        }
        let limit = self.begin(&parts, began);
        let outcome = self.interrupt.during(limit, || self.memory.context.decode(&mut self.batch));
        match &outcome {
            Outcome::Done(()) => self.advance(&parts),
            Outcome::GivenUp => self.put_back(&parts),
            Outcome::Failed(error) => self.recover(&parts, error),
        }
        let ended = SystemClock::now();
        let took = ended.saturating_duration_since(began);
        self.longest.observe(took, ended);
        if outcome != Outcome::Done(()) {
            return;
        }
        let decoded: usize = parts.iter().filter(|part| part.decodes).count();
        let prompt: usize = parts.iter().filter(|part| !part.decodes).map(|part| part.tokens).sum();
        self.pace.observe(count(decoded), count(prompt), took);
    }

    /// Ends sequences that nobody waits for any more.
    fn expire(&mut self, keys: &[u64]) {
        for key in keys {
            if let Some(place) = self.sequences.iter().position(|one| one.key == *key) {
                let one = self.sequences.remove(place);
                let id = one.id;
                self.memory.keep(one);
                self.fail(id, "expired", "", "the deadline has passed".to_owned());
            }
        }
    }

    /// Ends sequences whose part of the cache is in doubt.
    fn abandon(&mut self, keys: &[u64], problem: &str) {
        for key in keys {
            if let Some(place) = self.sequences.iter().position(|one| one.key == *key) {
                let mut one = self.sequences.remove(place);
                self.memory.forget(&mut one);
                self.fail(one.id, "run", "", problem.to_owned());
            }
        }
    }

    fn fail(&self, id: u64, kind: &str, field: &str, problem: String) {
        let failed = Failed { id, kind: kind.to_owned(), field: field.to_owned(), problem };
        self.emit(event::Body::Failed(failed));
    }

    fn emit(&self, body: event::Body) {
        (self.sink)(Event { body: Some(body) });
    }

    /// Says how full the model is, when that has changed.
    fn tell(&mut self) {
        let running = self.sequences.iter().filter(|one| one.running).count();
        let waiting = count(self.sequences.len() - running + self.arrivals.len());
        let longest_step_us = u64::try_from(self.longest.took.as_micros()).unwrap_or(u64::MAX);
        let now = Occupancy { running: count(running), waiting, kv_tokens: self.memory.used(), longest_step_us };
        if now != self.told {
            self.told = now;
            self.emit(event::Body::Occupancy(now));
        }
    }
}

/// The longest step of late: what a cancel may have to wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    took: Duration,
    at: Option<Instant>,
}

impl Longest {
    fn observe(&mut self, took: Duration, now: Instant) {
        let is_old = self.at.is_none_or(|at| now.saturating_duration_since(at) > REMEMBERED);
        if is_old || took > self.took {
            *self = Self { took, at: Some(now) };
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
