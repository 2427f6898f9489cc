//! The library, and a session of it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use weft_engine::Error;

use super::value::presentable;
use crate::child::tell;
use crate::protocol::Load;

/// Opens the graph with threads for this many executions at once.
pub(super) fn open(load: &Load, instances: usize) -> Result<Session, Error> {
    let environment = environment(load)?;
    // Each execution computes on the thread that began it; the pool's threads help whoever has work to share.
    let threads = (load.threads as usize).saturating_sub(instances) + 1;
    let path = PathBuf::from(OsString::from_vec(load.path.clone()));
    let open = || -> ort::Result<Session> {
        let builder = Session::builder(&environment)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All)?.with_inter_threads(1)?;
        // Threads wait for each other at nearly every node, for less than it takes to wake one up: they spin. Between executions they
        // would take the processor from the worker's own.
        let builder = builder.with_intra_threads(threads)?.with_intra_op_spinning(true)?;
        builder.with_config_entry("session.force_spinning_stop", "1")?.commit_from_file(&path)
    };
    // The file has no name here that would tell anybody anything.
    open().map_err(|error| Error::Load(presentable(&error.to_string().replace(&*path.to_string_lossy(), "the file"))))
}

/// Loads the library. It must come before anything else of the crate, which would look for it in the environment.
fn environment(load: &Load) -> Result<Environment, Error> {
    let path = PathBuf::from(OsString::from_vec(load.library.clone()));
    // The loader's text names paths of this machine, which callers need not see.
    let builder = ort::init_from(&path).map_err(|error| {
        tell(&error.to_string());
        Error::Load("ONNX Runtime's library cannot be loaded, or is too old; the worker's log says more".to_owned())
    })?;
    builder.with_telemetry(false).build().map_err(|error| Error::Load(presentable(&error.to_string())))
}
