//! Language models by llama.cpp, with continuous batching.
//!
//! [`Runner`] owns one thread with one context. Before each step the thread takes the commands that have come, asks
//! [`weft_policy::step`] who steps with how many tokens, moves memory accordingly, decodes all of it as one batch and draws a
//! token for each sequence whose logits came out. So a sequence joins, leaves, pauses or gives way between any two steps.
//!
//! - `settings`: what `config.pbtxt` may set
//! - `prompt`, `grammar`: a request's text becomes tokens, its grammar a sampler; both refuse what llama.cpp cannot digest
//! - `sequence`, `text`, `sample`: one sequence, its whole characters and stop texts, its next token
//! - `memory`, `ledger`: the KV cache: who holds which tokens, kept prefixes, preempted sequences
//! - `steps`: the loop
//! - `interrupt`: how a step is given up
//! - `log`: what llama.cpp says of it
//!
//! A step that has begun is given up only for a request that is more urgent than everybody in it; for all else its length is bounded
//! (see [`weft_policy::step::Pace`]).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use weft_types::SystemClock;

use crate::protocol::{Event, Load, Loaded, command};

mod grammar;
mod interrupt;
mod ledger;
mod log;
mod memory;
mod model;
mod prompt;
mod sample;
mod sequence;
mod settings;
mod steps;
mod text;

use interrupt::Interrupt;

/// Commands that may wait for the end of a step. The sender blocks beyond that, which holds back whoever writes to it.
const COMMANDS: usize = 256;
/// llama.cpp's grammars and templates recurse; what gets so far is bounded in depth, but not to the 2 MiB of a usual thread.
const STACK: usize = 16 * 1024 * 1024;

/// A command, and when it was sent.
struct Sent {
    at: Instant,
    command: command::Body,
}

/// A loaded language model. Dropping it ends its sequences without a word, and returns its memory.
#[derive(Debug)]
pub struct Runner {
    /// Always there until the drop.
    commands: Option<SyncSender<Sent>>,
    interrupt: Arc<Interrupt>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Loads a model and executes once, so that the first caller does not pay for preparation. Events go to `sink`, which
    /// may block: the model steps no further meanwhile.
    ///
    /// Each sequence ends with exactly one of: a piece with an end, `Failed`, or `Stopped` after a cancel.
    ///
    /// # Errors
    ///
    /// A text for the operator: a setting that is wrong, or what the file lacks.
    pub fn load(load: &Load, sink: impl Fn(Event) + Send + 'static) -> Result<(Self, Loaded), String> {
        let (commands, received) = sync_channel(COMMANDS);
        let (ready, outcome) = sync_channel(1);
        let load = load.clone();
        let name = format!("llama {}", load.name);
        let interrupt = Arc::new(Interrupt::default());
        let interrupted = Arc::clone(&interrupt);
        let body = move || serve(&load, &interrupted, &received, &ready, &sink);
        let thread = std::thread::Builder::new().name(name).stack_size(STACK).spawn(body);
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        let loaded = outcome
            .recv()
            .map_err(|_| "the model cannot be computed; standard error of its process says why".to_owned())??;
        Ok((Self { commands: Some(commands), interrupt, thread: Some(thread) }, loaded))
    }

    /// Hands over a `Generate`, `Taken` or `Cancel`; others are ignored. Takes effect before the next step, which may come at once
    /// for an urgent request; blocks while very many wait for that.
    pub fn send(&self, command: command::Body) {
        let Some(commands) = &self.commands else { return };
        let band = if let command::Body::Generate(request) = &command { Some(request.band) } else { None };
        // The thread outlives this, or the process has ended with it.
        let _ = commands.send(Sent { at: SystemClock::now(), command });
        band.into_iter().for_each(|band| self.interrupt.arrived(band));
    }
}

impl Drop for Runner {
    /// The thread ends after the step that it is in.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Ends the process when the thread panics: nobody would step its sequences any more, nor answer a cancel. The worker sees the
/// loss, tells every caller and loads the model again.
struct Vital;

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The thread: loads, reports, steps until the commands end. A panic before the report is a failed load.
fn serve(
    load: &Load,
    interrupt: &Interrupt,
    commands: &Receiver<Sent>,
    ready: &SyncSender<Result<Loaded, String>>,
    sink: &dyn Fn(Event),
) {
    let log = log::Log::default();
    let _listening = tracing::subscriber::set_default(log.clone());
    let opened = model::open(load, &log);
    let (model, settings) = match opened {
        Ok(opened) => opened,
        Err(problem) => {
            let _ = ready.send(Err(problem));
            return;
        }
    };
    let prepared = model::context(&model, &settings, interrupt, &log)
        .and_then(|context| steps::Steps::prepare(&model, (context, interrupt), &settings, sink))
        .map(|steps| (model::loaded(&model, load, &settings), steps));
    match prepared {
        Ok((loaded, mut steps)) => {
            // The receiver waits for exactly this.
            let _ = ready.send(Ok(loaded));
            let _vital = Vital;
            steps.run(commands);
        }
        Err(problem) => {
            let _ = ready.send(Err(problem));
        }
    }
}
