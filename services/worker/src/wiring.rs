//! The only file that names concrete engines.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::async_trait;
use weft_engine::{Builtin, Engine, Error, Model, Source, Spec, Tract};
use weft_engine_native::{Host, HostOptions};
use weft_runtime::Tasks;

/// Every engine that this worker can run, by the name that configurations use. What needs a process of its own, or a library,
/// is left out where there is none.
pub(crate) fn engines(options: HostOptions, tasks: &Tasks) -> BTreeMap<&'static str, Arc<dyn Engine>> {
    let has_processes = options.program.is_some();
    let host = Host::new(options, tasks.clone());
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(Builtin::new())];
    if has_processes {
        engines.push(host.engine("llama"));
        engines.push(Arc::new(Apart { embedded: Tract::new(), foreign: host.engine("tract") }));
    } else {
        engines.push(Arc::new(Tract::new()));
    }
    if host.has_onnxruntime() {
        engines.push(host.engine("onnxruntime"));
    }
    engines.into_iter().map(|engine| (engine.name(), engine)).collect()
}

/// An engine that runs the program's own models in this process, and files of a repository each in a process of its own: a graph can
/// ask for more memory than there is, and a process whose allocation fails ends.
struct Apart {
    embedded: Tract,
    foreign: Arc<dyn Engine>,
}

#[async_trait]
impl Engine for Apart {
    fn name(&self) -> &'static str {
        self.embedded.name()
    }

    async fn load(&self, spec: &Spec) -> Result<Arc<dyn Model>, Error> {
        match spec.source {
            Source::Builtin | Source::Bytes(_) => self.embedded.load(spec).await,
            Source::File(_) | Source::Open(_) => self.foreign.load(spec).await,
        }
    }
}
