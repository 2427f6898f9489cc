//! What comes in between two steps.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use weft_types::{Deadline, SystemClock};

use super::{Sent, Steps};
use crate::protocol::language::{Chat, Generate, Sampling, prompt};
use crate::protocol::{command, event};

/// Bytes of prompts and grammars that are read before a step, beside those of the last one read: others wait for their next
/// token meanwhile.
const READ_BYTES: usize = 32 << 10;

/// A request that has not been read.
pub(super) struct Arrival {
    request: Generate,
    at: Instant,
    deadline: Deadline,
}

impl Steps<'_> {
    /// Takes the commands that have come; waits for one while there is nothing to do. Returns whether to go on.
    pub(super) fn take(&mut self, commands: &Receiver<Sent>) -> bool {
        // Before they are taken: what comes meanwhile may stop a step in vain, but none is overlooked.
        self.interrupt.taken();
        loop {
            match commands.try_recv() {
                Ok(sent) => self.command(sent),
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => break,
            }
        }
        let is_busy = !self.arrivals.is_empty() || self.sequences.iter().any(|one| !one.paused());
        if !is_busy && !self.wait(commands) {
            return false;
        }
        self.read();
        true
    }

    /// Waits for a command or a deadline. Returns whether to go on.
    fn wait(&mut self, commands: &Receiver<Sent>) -> bool {
        // A cancelled one may have left; the occupancy must not wait for the next command.
        self.tell();
        let waited = match self.patience() {
            Some(patience) => commands.recv_timeout(patience),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match waited {
            Ok(sent) => self.command(sent),
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

    /// Requests are only queued here: reading one takes time, and a cancel behind it must not wait for that.
    pub(super) fn command(&mut self, Sent { at, command }: Sent) {
        match command {
            command::Body::Generate(request) => self.arrive(request, at),
            command::Body::Taken(taken) => {
                if let Some(one) = self.sequences.iter_mut().find(|one| one.id == taken.id) {
                    one.taken(taken.tokens);
                }
            }
            command::Body::Cancel(id) => {
                self.arrivals.retain(|arrival| arrival.request.id != id);
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

    fn arrive(&mut self, request: Generate, at: Instant) {
        let settings = &self.maker.settings;
        if self.sequences.len() + self.arrivals.len() >= (settings.slots + settings.queue) as usize {
            let problem = format!("{} sequences wait already", settings.queue);
            return self.fail(request.id, "full", "", problem);
        }
        let deadline = Deadline::after(at, Duration::from_micros(request.deadline_us));
        self.arrivals.push_back(Arrival { request, at, deadline });
    }

    /// Makes sequences of requests, the most urgent first and of these the first, as many as a step may wait for and at least one.
    pub(super) fn read(&mut self) {
        let mut bytes = 0;
        while bytes < READ_BYTES {
            let first = (0..self.arrivals.len()).min_by_key(|place| self.arrivals[*place].request.band);
            let Some(arrival) = first.and_then(|place| self.arrivals.remove(place)) else { return };
            bytes += bytes_of(&arrival.request);
            self.admit(arrival);
        }
    }

    /// Queues a sequence, or says why not.
    fn admit(&mut self, Arrival { request, at, deadline }: Arrival) {
        let id = request.id;
        match self.maker.make(request, self.next_key, (at, deadline)) {
            Ok(sequence) => {
                self.next_key += 1;
                self.sequences.push(sequence);
                self.emit(event::Body::Queued(id));
            }
            Err(refusal) => self.fail(id, "input", refusal.field, refusal.problem),
        }
    }
}

/// The bytes of a request that take time to read.
fn bytes_of(request: &Generate) -> usize {
    let of_chat = |chat: &Chat| chat.turns.iter().map(|turn| turn.role.len() + turn.content.len()).sum();
    let of_grammar = |sampling: &Sampling| sampling.gbnf.len() + sampling.json_schema.len();
    let of_prompt = match &request.prompt {
        Some(prompt::Body::Text(text)) => text.len(),
        Some(prompt::Body::Chat(chat)) => of_chat(chat),
        Some(prompt::Body::Tokens(_)) | None => 0,
    };
    of_prompt + request.sampling.as_ref().map_or(0, of_grammar)
}
