//! The loop: commands in, one step, pieces out.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use weft_policy::step::Pace;
use weft_types::{Deadline, SystemClock};

use super::memory::{Memory, Source};
use super::sequence::{Maker, Sequence};
use super::settings::Settings;
use crate::protocol::language::{Generate, Occupancy};
use crate::protocol::{Event, Failed, command, event};

mod turn;
mod warm;

/// One model's sequences, and what they step on.
pub(super) struct Steps<'a> {
    maker: Maker<'a>,
    memory: Memory<'a>,
    batch: LlamaBatch<'static>,
    /// In the order of their arrival.
    sequences: Vec<Sequence>,
    pace: Pace,
    next_key: u64,
    sink: &'a dyn Fn(Event),
    told: Occupancy,
}

impl<'a> Steps<'a> {
    /// Makes everything that steps need, and executes once.
    pub(super) fn prepare(
        model: &'a LlamaModel,
        context: LlamaContext<'a>,
        settings: &Settings,
        sink: &'a dyn Fn(Event),
    ) -> Result<Self, String> {
        let vocabulary = model.vocab();
        let ends = vocabulary.tokens().filter(|token| vocabulary.is_eog(*token)).collect();
        let mut steps = Self {
            maker: Maker { model, settings: *settings, ends },
            memory: Memory::new(context, *settings),
            batch: LlamaBatch::new(settings.batch_tokens as usize, 1),
            sequences: Vec::new(),
            pace: Pace::default(),
            next_key: 0,
            sink,
            told: Occupancy::default(),
        };
        steps.warm()?;
        Ok(steps)
    }

    /// Steps until nobody can send commands any more.
    pub(super) fn run(&mut self, commands: &Receiver<command::Body>) {
        while self.take(commands) {
            self.step();
            self.tell();
        }
    }

    /// Takes the commands that have come; waits for one while nobody can step. Returns whether to go on.
    fn take(&mut self, commands: &Receiver<command::Body>) -> bool {
        loop {
            match commands.try_recv() {
                Ok(command) => self.command(command),
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => break,
            }
        }
        if self.sequences.iter().any(|one| !one.paused()) {
            return true;
        }
        // A cancelled one may have left; the occupancy must not wait for the next command.
        self.tell();
        let waited = match self.patience() {
            Some(patience) => commands.recv_timeout(patience),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match waited {
            Ok(command) => self.command(command),
            // A deadline has passed; the step ends its sequence.
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// How long until the next deadline, if any.
    fn patience(&self) -> Option<Duration> {
        let now = SystemClock::now();
        self.sequences.iter().map(|one| one.deadline.remaining(now)).min()
    }

    fn command(&mut self, command: command::Body) {
        match command {
            command::Body::Generate(request) => self.admit(request),
            command::Body::Taken(taken) => {
                if let Some(one) = self.sequences.iter_mut().find(|one| one.id == taken.id) {
                    one.taken(taken.tokens);
                }
            }
            command::Body::Cancel(id) => {
                if let Some(place) = self.sequences.iter().position(|one| one.id == id) {
                    let one = self.sequences.remove(place);
                    self.memory.keep(one);
                }
                // Also for one that is not known: whoever cancels waits for this, unless its end is on the way.
                self.emit(event::Body::Stopped(id));
            }
            command::Body::Load(_) | command::Body::Execute(_) => {}
        }
    }

    /// Queues a sequence, or says why not.
    fn admit(&mut self, request: Generate) {
        let id = request.id;
        let settings = &self.maker.settings;
        if self.sequences.len() >= (settings.slots + settings.queue) as usize {
            let problem = format!("{} sequences wait already", settings.queue);
            return self.fail(id, "full", "", problem);
        }
        let deadline = Deadline::after(SystemClock::now(), Duration::from_micros(request.deadline_us));
        match self.maker.make(request, self.next_key, deadline) {
            Ok(sequence) => {
                self.next_key += 1;
                self.sequences.push(sequence);
                self.emit(event::Body::Queued(id));
            }
            Err(refusal) => self.fail(id, "input", refusal.field, refusal.problem),
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
        match self.memory.context.decode(&mut self.batch) {
            Ok(()) => self.advance(&parts),
            Err(error) => return self.recover(&parts, &error),
        }
        let decoded: usize = parts.iter().filter(|part| part.decodes).count();
        let prompt: usize = parts.iter().filter(|part| !part.decodes).map(|part| part.tokens).sum();
        let took = SystemClock::now().saturating_duration_since(began);
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
        let waiting = count(self.sequences.len() - running);
        let now = Occupancy { running: count(running), waiting, kv_tokens: self.memory.used() };
        if now != self.told {
            self.told = now;
            self.emit(event::Body::Occupancy(now));
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
