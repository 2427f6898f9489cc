//! A load: from the file to a model that is ready.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use weft_engine::{Error, Language, Model, Spec};

use super::connection::{Connection, Ticket};
use super::language::Remote;
use super::model::{Hosted, Owner};
use super::process::{self, Limits};
use super::source::{self, Opened};
use super::{ONNXRUNTIME, Shared, Started, affinity};
use crate::arena::Arena;
use crate::protocol::{GREETING, Load, Loaded, Signature, command, event};

/// What a model is expected to take, as a multiple of its file: the weights, what they are packed into, and the runtime.
const MEMORY_PER_FILE: u64 = 3;

/// Loads a model in a process of its own. Dropping the future ends the process.
pub(super) async fn load(shared: &Shared, engine: &'static str, spec: &Spec) -> Result<Arc<dyn Model>, Error> {
    let options = &shared.options;
    let program = shared.start.clone().ok_or_else(|| refused("engine processes are not available here"))?;
    let library = library(shared, engine)?;
    let opened = open(engine, spec).await?;
    let arena = Arena::try_new(options.arena_bytes).map_err(|error| failed("shared memory cannot be made", &error))?;
    let starter = shared.starter().map_err(|error| failed("a thread cannot be started", &error))?;
    let started = starter.spawn(program).await;
    let (child, socket) = started.map_err(|error| failed("an engine process cannot be started", &error))?;
    let pid = child.id();
    let node = shared.node();
    if let (Some(pid), Some(node)) = (pid, node)
        && let Err(error) = affinity::pin(pid, node)
    {
        tracing::warn!(%error, node = node.id, "an engine process is not kept on its memory node");
    }
    let greeted = greet(&socket, &opened, &arena).await;
    greeted.map_err(|error| failed("an engine process cannot be spoken to", &error))?;
    let connection = Arc::new(Connection::new(socket));
    shared.count(Started {
        model: spec.name.clone(),
        pid: pid.unwrap_or(0),
        node: node.map(|node| node.id),
        arena: arena.gauge(),
        connection: Arc::downgrade(&connection),
    });
    // From here on the watcher owns the process. A load that is given up drops the owner, which ends it.
    let owner = Owner(Arc::clone(&connection));
    let ticket = connection.begin(1, Vec::new())?;
    let estimate = opened.length.saturating_mul(MEMORY_PER_FILE);
    let memory_bytes = estimate.saturating_add(options.memory_bytes).saturating_add(options.arena_bytes);
    let limits = Limits { memory_bytes, cancel_grace: options.cancel_grace };
    let watcher = process::supervise(child, connection, limits, spec.name.clone());
    shared.tasks.spawn("engine process", watcher);
    let load = Load {
        engine: engine.to_owned(),
        name: spec.name.clone(),
        path: Vec::new(),
        max_batch_size: spec.max_batch_size as u64,
        parameters: spec.parameters.clone(),
        threads: u32::try_from(node.map_or(options.threads, |node| options.threads.min(node.processors.len())))
            .unwrap_or(u32::MAX),
        library: library.into_os_string().into_encoded_bytes(),
    };
    let loaded = loaded(load, ticket).await?;
    let signature = loaded.signature.and_then(Signature::into_port);
    let remote = |capacity| Box::new(Remote::new(Arc::clone(&owner.0), capacity)) as Box<dyn Language>;
    let language = loaded.capacity.map(remote);
    Ok(Arc::new(Hosted {
        owner,
        _starter: starter,
        arena,
        signature: signature.ok_or_else(|| refused("the runtime describes a model that cannot be served"))?,
        size_bytes: pid.and_then(process::resident_bytes).unwrap_or(loaded.size_bytes),
        language,
        rooms: Default::default(),
    }))
}

/// Sends the load and waits for its end.
async fn loaded(load: Load, mut ticket: Ticket) -> Result<Loaded, Error> {
    ticket.start(command::Body::Load(load))?;
    match ticket.next().await {
        Ok(delivery) => match delivery.body {
            event::Body::Loaded(loaded) => Ok(loaded),
            _ => Err(refused("the runtime lost an answer")),
        },
        // Whatever happened while it loaded is a failed load.
        Err(Error::Lost(reason)) => Err(Error::Load(format!("the engine process was lost: {reason}"))),
        Err(error) => Err(error),
    }
}

/// The library that the engine is in, where it is not part of the build.
fn library(shared: &Shared, engine: &str) -> Result<PathBuf, Error> {
    let problem = || Error::Load(format!("set --onnxruntime to {ONNXRUNTIME} (PyPI package onnxruntime has it)"));
    match engine {
        "onnxruntime" => shared.onnxruntime().ok_or_else(problem),
        _ => Ok(PathBuf::new()),
    }
}

/// Opens the file, and looks at it before an engine sees a byte.
async fn open(engine: &'static str, spec: &Spec) -> Result<Opened, Error> {
    let source = spec.source.clone();
    let opened = tokio::task::spawn_blocking(move || source::open(&source, engine)).await;
    opened.unwrap_or_else(|_| Err(refused("the model file could not be looked at")))
}

/// Hands over the arena and the model's file. An empty socket takes far more than this at once.
async fn greet(socket: &UnixStream, opened: &Opened, arena: &Arena) -> io::Result<()> {
    let files = [arena.memory().file(), opened.file.as_fd()];
    loop {
        socket.writable().await?;
        let sent = socket.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Ok(rustix::net::sendmsg(socket, &[IoSlice::new(GREETING)], &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Ok(sent) if sent == GREETING.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn failed(what: &str, error: &io::Error) -> Error {
    Error::Load(format!("{what} ({})", error.kind()))
}

fn refused(problem: &str) -> Error {
    Error::Load(problem.to_owned())
}
