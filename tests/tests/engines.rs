//! Every engine by one suite, and what happens when the process of one is lost. Engines in processes of their own run in real
//! `weft engine` processes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "engines/conformance.rs"]
mod conformance;
#[path = "engines/language.rs"]
mod language;
#[path = "engines/processes.rs"]
mod processes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::runtime::Runtime;
use weft_engine::{Engine, Model, Source, Spec};
use weft_engine_native::{Host, HostOptions};
use weft_runtime::Tasks;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Far beyond what anything here takes: it only keeps a broken engine from hanging the suite.
const PATIENCE: Duration = Duration::from_secs(120);

fn spec(name: &str, source: Source, max_batch_size: usize) -> Spec {
    Spec { name: name.to_owned(), source, max_batch_size, parameters: BTreeMap::new() }
}

/// ONNX Runtime's library, which `make models` places beside the build.
fn onnxruntime() -> PathBuf {
    let release = weft_tests::process::binary().unwrap();
    let path = release.ancestors().nth(2).unwrap().join("weft-tools/lib/libonnxruntime.so");
    assert!(path.is_file(), "ONNX Runtime is not there; run `make models` first");
    path
}

fn options() -> HostOptions {
    let program = Some(weft_tests::process::binary().unwrap());
    let onnxruntime = Some(onnxruntime());
    HostOptions { program, onnxruntime, arena_bytes: 64 << 20, threads: 2, ..HostOptions::default() }
}

fn host(options: HostOptions) -> Host {
    Host::new(options, Tasks::new())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
}

fn load(engine: &dyn Engine, spec: &Spec) -> Arc<dyn Model> {
    run(engine.load(spec)).unwrap()
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

/// The processor time that a process has had, in the system's ticks; 0 when it is gone.
fn cpu_ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, which stands in parentheses, may hold blanks.
    let after = text.rsplit(')').next().unwrap_or_default();
    after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}
