//! The only file that names concrete engines.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_engine::{Builtin, Engine, Tract};
use weft_engine_native::{Host, HostOptions};
use weft_runtime::Tasks;

/// Every engine that this worker can run, by the name that configurations use. What needs a process of its own, or a library,
/// is left out where there is none.
pub(crate) fn engines(options: HostOptions, tasks: &Tasks) -> BTreeMap<&'static str, Arc<dyn Engine>> {
    let has_processes = options.program.is_some();
    let host = Host::new(options, tasks.clone());
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(Builtin::new()), Arc::new(Tract::new())];
    if has_processes {
        engines.push(host.engine("llama"));
    }
    if host.has_onnxruntime() {
        engines.push(host.engine("onnxruntime"));
    }
    engines.into_iter().map(|engine| (engine.name(), engine)).collect()
}
