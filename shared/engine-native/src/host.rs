//! The worker's side: engines whose models live in processes of their own.
//!
//! A load opens and checks the file, starts `weft engine` with one end of a socket as its standard input, hands over the file, the
//! arena and what to load, and waits for the answer. From then on [`connection`] carries commands and events, and a watcher
//! ([`process`]) waits for the process's end, whatever it is: the last handle dropped, a crash, memory beyond the limit, or work that
//! goes on although it was cancelled.

mod affinity;
mod batch;
pub(crate) mod connection;
mod language;
mod launch;
mod model;
mod process;
mod source;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use weft_engine::{Engine, Error, Model, Spec, batching};
use weft_runtime::Tasks;

use crate::arena::{Gauge, Statistics};
use crate::devices::cpu::Node;
use connection::Connection;
use process::Starter;

/// The file that ONNX Runtime is in, as the system's loader knows it.
const ONNXRUNTIME: &str = "libonnxruntime.so";

/// How engines in processes of their own are run.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The program whose subcommand `engine` is the process; `None` where there is none, and then nothing can be loaded.
    pub program: Option<PathBuf>,
    /// ONNX Runtime's library; `None` looks for it by name as the system's loader would.
    pub onnxruntime: Option<PathBuf>,
    /// The memory of one process beyond what its model is expected to take.
    pub memory_bytes: u64,
    /// The shared memory of one process, for tensors.
    pub arena_bytes: u64,
    /// Threads that compute, for each model.
    pub threads: usize,
    /// How long something may go on computing after it was cancelled.
    pub cancel_grace: Duration,
    /// The machine's memory nodes: with more than one, each process has one to itself. None: processes run where they like.
    pub nodes: Vec<Node>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            program: None,
            onnxruntime: None,
            memory_bytes: 4 << 30,
            arena_bytes: 256 << 20,
            threads: batching::available_threads(),
            cancel_grace: Duration::from_secs(2),
            nodes: Vec::new(),
        }
    }
}

/// Starts and watches engine processes. Clones share the thread that starts them.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

struct Shared {
    options: HostOptions,
    /// What is started: the program, or this process's own file where it is the same.
    start: Option<PathBuf>,
    tasks: Tasks,
    starter: OnceLock<Starter>,
    /// Every process that was started; those that are gone are dropped as others are added.
    started: Mutex<Vec<Started>>,
}

struct Started {
    model: String,
    pid: u32,
    /// The memory node that it has.
    node: Option<u32>,
    arena: Gauge,
    connection: Weak<Connection>,
}

/// An engine process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineProcess {
    /// The model's name.
    pub model: String,
    /// Its number in the system.
    pub pid: u32,
}

impl Host {
    /// A host. Nothing is started before the first load.
    pub fn new(options: HostOptions, tasks: Tasks) -> Self {
        // The program may be replaced while this runs; the kernel still has the one that this is.
        let own = std::env::current_exe().ok().filter(|own| options.program.as_ref() == Some(own));
        let start = own.map(|_| PathBuf::from("/proc/self/exe")).or_else(|| options.program.clone());
        Self(Arc::new(Shared { options, start, tasks, starter: OnceLock::new(), started: Mutex::default() }))
    }

    /// The engine of this name, as a configuration names it: `onnxruntime`, `llama`, or one of this build's own engines (`tract`), which
    /// then run in a process of their own, too.
    pub fn engine(&self, name: &'static str) -> Arc<dyn Engine> {
        Arc::new(Hosting { name, shared: Arc::clone(&self.0) })
    }

    /// How the shared memory of all processes is used, together. Answers that are still read count after their process has ended.
    pub fn statistics(&self) -> Statistics {
        self.0.started().iter().filter_map(|started| started.arena.read()).fold(Statistics::default(), Statistics::plus)
    }

    /// The processes that are there, or about to end.
    pub fn processes(&self) -> Vec<EngineProcess> {
        let started = self.0.started();
        let living = started.iter().filter(|started| started.connection.strong_count() > 0);
        living.map(|started| EngineProcess { model: started.model.clone(), pid: started.pid }).collect()
    }

    /// Whether ONNX Runtime can be used. It is looked for, not loaded: its code runs in engine processes only.
    pub fn has_onnxruntime(&self) -> bool {
        self.0.options.program.is_some() && self.0.onnxruntime().is_some()
    }
}

impl Shared {
    /// The library, as a path or as a name that the loader finds.
    fn onnxruntime(&self) -> Option<PathBuf> {
        match &self.options.onnxruntime {
            // The process that loads it stands in another folder.
            Some(path) => std::path::absolute(path).ok().filter(|path| path.is_file()),
            None => find_library(self.options.program.as_deref().and_then(Path::parent)),
        }
    }

    /// Has a process counted for as long as anything of it is there.
    fn count(&self, process: Started) {
        let mut started = self.started();
        started.retain(|known| known.connection.strong_count() > 0 || known.arena.read().is_some());
        started.push(process);
    }

    /// The node for one more process.
    fn node(&self) -> Option<&Node> {
        let started = self.started();
        let living = started.iter().filter(|started| started.connection.strong_count() > 0);
        affinity::choose(&self.options.nodes, &living.filter_map(|started| started.node).collect::<Vec<u32>>())
    }

    /// A poisoned lock guards plain values that are whole at every step.
    fn started(&self) -> MutexGuard<'_, Vec<Started>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn starter(&self) -> std::io::Result<Starter> {
        if let Some(starter) = self.starter.get() {
            return Ok(starter.clone());
        }
        let started = Starter::start()?;
        // Two first loads at once each start one; the second thread ends when its handle is dropped.
        Ok(self.starter.get_or_init(|| started).clone())
    }
}

/// Looks beside the program, in the loader's default folders and in its cache.
fn find_library(beside: Option<&Path>) -> Option<PathBuf> {
    let folders = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"].map(Path::new);
    let path = beside.into_iter().chain(folders).map(|folder| folder.join(ONNXRUNTIME)).find(|path| path.is_file());
    path.or_else(|| {
        // The cache is a table of strings that end with a zero byte; the name alone is a key of it.
        let cache = std::fs::read("/etc/ld.so.cache").ok()?;
        let key = [b"\0", ONNXRUNTIME.as_bytes(), b"\0"].concat();
        cache.windows(key.len()).any(|window| window == key).then(|| PathBuf::from(ONNXRUNTIME))
    })
}

/// One engine of a host.
struct Hosting {
    name: &'static str,
    shared: Arc<Shared>,
}

#[async_trait]
impl Engine for Hosting {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn load(&self, spec: &Spec) -> Result<Arc<dyn Model>, Error> {
        launch::load(&self.shared, self.name, spec).await
    }
}
