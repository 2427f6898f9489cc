//! The engine process: what `weft engine` runs.
//!
//! Its standard input is a socket to the worker. It gives up what no engine needs ([`confine`]), takes over the arena and the model's file,
//! loads the model on the engine that it is told, and then runs commands until the socket ends, at which it ends at once, whatever it is
//! doing. Threads are plain ones: one reads commands, one for each execution that may run at once computes.

mod channel;
mod confine;
mod executors;
mod hosted;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use weft_engine::Error;

use crate::arena::Memory;
use crate::llama::Runner;
use crate::onnx::Onnx;
use crate::protocol::{Event, Failed, Load, Loaded, command, event};
use channel::{Incoming, Outgoing};
pub(crate) use executors::Backend;
use executors::Executors;
use hosted::HostedEngine;

/// What takes commands about a loaded model.
type Work = Box<dyn Fn(command::Body)>;

/// Runs the engine process to its end. It returns only when it could not begin.
///
/// # Errors
///
/// A text for whoever has started it by hand.
pub fn run() -> Result<(), String> {
    confine::apply();
    let told = "this command is started by a worker, with a socket as its standard input";
    let (mut incoming, outgoing, files) = channel::open().map_err(|error| format!("{told} ({error})"))?;
    let memory = Memory::open(files.arena).map_err(|error| format!("the arena cannot be mapped ({error})"))?;
    match incoming.next() {
        Some(command::Body::Load(load)) => match begin(load, &File::from(files.model), memory, &outgoing) {
            Ok((work, loaded)) => {
                outgoing.send(event::Body::Loaded(loaded));
                serve(&mut incoming, &work);
            }
            Err(error) => {
                outgoing.send(event::Body::Failed(Failed::new(0, error)));
                // Who reads the answer ends the connection.
                while incoming.next().is_some() {}
            }
        },
        _ => tell("there was no model to load"),
    }
    confine::end();
    Ok(())
}

/// Until the connection ends.
fn serve(incoming: &mut Incoming, work: &Work) {
    while let Some(body) = incoming.next() {
        work(body);
    }
}

fn begin(mut load: Load, model: &File, memory: Memory, outgoing: &Outgoing) -> Result<(Work, Loaded), Error> {
    // The file that was checked is the one that is read, whatever has become of its name.
    load.path = format!("/proc/self/fd/{}", model.as_raw_fd()).into_bytes();
    let memory = Arc::new(memory);
    match load.engine.as_str() {
        "onnxruntime" => {
            let (onnx, loaded) = Onnx::load(&load, memory)?;
            Ok((executing(onnx, &loaded, outgoing)?, loaded))
        }
        "llama" => {
            let outgoing = outgoing.clone();
            let sink = move |event: Event| event.body.into_iter().for_each(|body| outgoing.send(body));
            let (runner, loaded) = Runner::load(&load, sink).map_err(Error::Load)?;
            Ok((Box::new(move |body| runner.send(body)), loaded))
        }
        name => {
            let (engine, loaded) = HostedEngine::load(name, &load, model, memory)?;
            Ok((executing(engine, &loaded, outgoing)?, loaded))
        }
    }
}

/// Tensor models know two commands.
fn executing(backend: impl Backend, loaded: &Loaded, outgoing: &Outgoing) -> Result<Work, Error> {
    let concurrency = loaded.signature.as_ref().map_or(1, |signature| signature.concurrency);
    let threads = usize::try_from(concurrency).unwrap_or(1).clamp(1, 1024);
    let executors = Executors::start(backend, threads, outgoing)?;
    Ok(Box::new(move |body| match body {
        command::Body::Execute(execute) => executors.execute(execute),
        command::Body::Cancel(id) => executors.cancel(id),
        command::Body::Load(_) | command::Body::Generate(_) | command::Body::Taken(_) => {}
    }))
}

/// Says something on standard error, which the worker logs.
pub(crate) fn tell(text: &str) {
    // Nobody is left to tell when it fails.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}
