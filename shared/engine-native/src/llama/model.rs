//! The model's file, and a context for it.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use super::interrupt::{Interrupt, listen};
use super::log::Log;
use super::settings::Settings;
use crate::protocol::{Load, Loaded, Signature};

/// llama.cpp is set up once for a process and never torn down, for another model may be in use.
static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();

fn backend() -> Result<&'static LlamaBackend, String> {
    let init = || {
        let backend = LlamaBackend::init().ok();
        // Its own lines would go to standard error past every bound; through tracing they can be had.
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
        backend
    };
    BACKEND.get_or_init(init).as_ref().ok_or_else(|| "llama.cpp cannot be set up".to_owned())
}

/// Opens the file and reads the settings for it.
pub(super) fn open(load: &Load, log: &Log) -> Result<(LlamaModel, Settings), String> {
    let path = Path::new(OsStr::from_bytes(&load.path));
    if !path.is_file() {
        return Err("there is no such file".to_owned());
    }
    let model = LlamaModel::load_from_file(backend()?, path, &LlamaModelParams::default().with_n_gpu_layers(0));
    let model = model.map_err(|_| {
        let said = log.last().replace(&*path.to_string_lossy(), "the file");
        format!("llama.cpp cannot load the file: {said}")
    })?;
    let settings = Settings::parse(&load.parameters, model.n_ctx_train(), load.threads)?;
    if of_architecture(&model, "attention.causal").is_some_and(|causal| causal == "false") {
        return Err("models whose tokens see those after them cannot generate: this one makes embeddings".to_owned());
    }
    if model.is_recurrent() || model.is_hybrid() {
        return Err("models with recurrent layers are not served: their state cannot be shared or cut".to_owned());
    }
    Ok((model, settings))
}

/// Makes a context: one cache for all sequences, so that a prefix can be shared, and of full size for layers with a sliding
/// window, or what has slid out of it would be missing from the prefix. The context lives no longer than what may interrupt it.
pub(super) fn context<'a>(
    model: &'a LlamaModel,
    settings: &Settings,
    interrupt: &'a Interrupt,
    log: &Log,
) -> Result<LlamaContext<'a>, String> {
    let threads = i32::try_from(settings.threads).unwrap_or(i32::MAX);
    // Fewer than there are sequences, and llama.cpp ends the process at the first step.
    let batch = settings.batch_tokens.max(settings.sequences());
    let mut params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(settings.kv_tokens))
        .with_n_batch(batch)
        .with_n_ubatch(settings.batch_tokens)
        .with_n_seq_max(settings.sequences())
        .with_kv_unified(true)
        .with_swa_full(true)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_no_perf(true);
    listen(&mut params, interrupt);
    let context = model.new_context(backend()?, params);
    let refused = |_| format!("llama.cpp cannot make a context for it; the memory may be short: {}", log.last());
    context.map_err(refused)
}

/// A value of the file that is named after the model's architecture.
fn of_architecture(model: &LlamaModel, name: &str) -> Option<String> {
    let architecture = model.meta_val_str("general.architecture").ok()?;
    model.meta_val_str(&format!("{architecture}.{name}")).ok()
}

/// What the worker is told.
pub(super) fn loaded(model: &LlamaModel, load: &Load, settings: &Settings) -> Loaded {
    let signature = Signature {
        platform: "llama".to_owned(),
        max_batch_size: load.max_batch_size,
        concurrency: u64::from(settings.slots),
        ..Signature::default()
    };
    let size_bytes = model.size().saturating_add(cache_bytes(model, settings));
    Loaded { signature: Some(signature), size_bytes, capacity: Some(settings.capacity()) }
}

/// What the cache takes: keys and values of each layer for each token, two bytes each.
fn cache_bytes(model: &LlamaModel, settings: &Settings) -> u64 {
    let number = |name: &str| -> Option<u64> { of_architecture(model, &format!("attention.{name}"))?.parse().ok() };
    let heads = u64::from(model.n_head()).max(1);
    let usual = u64::try_from(model.n_embd()).unwrap_or(0) / heads;
    let widths = number("key_length").unwrap_or(usual).saturating_add(number("value_length").unwrap_or(usual));
    u64::from(settings.kv_tokens)
        .saturating_mul(u64::from(model.n_layer()))
        .saturating_mul(u64::from(model.n_head_kv()))
        .saturating_mul(widths)
        .saturating_mul(2)
}
