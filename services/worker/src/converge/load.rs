//! One load: the engine reads the model, its signature is checked, it is warmed, and only then may it serve.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use weft_engine::{DataType, Port, Signature, Source};
use weft_policy::batch::Settings;
use weft_proto::frame::MAX_TENSORS;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::model_sequence_batching::StrategyChoice;
use weft_proto::inference::{DataType as ConfigType, ModelConfig, ModelTensorReshape};

use super::plan::Key;
use crate::Shared;
use crate::error::presentable;
use crate::queue::{Bands, Limits};
use crate::replica::{Identity, Plan, Replica};
use crate::repository::Manifest;
use crate::sequence::{self, Sequences};

/// The band of requests without a priority: 1 stays free for what is urgent.
const DEFAULT_BAND: u64 = 2;

/// Loads a version. The reason of a failure is safe to show.
pub(super) async fn load(shared: &Shared, key: &Key) -> Result<Arc<Replica>, String> {
    let (name, version) = key;
    let offer = shared.offer(name).ok_or("the model is not in this worker's repository")?;
    let entry = offer.versions.get(version).ok_or("the version is not in this worker's repository")?;
    let engine =
        shared.engines.get(offer.engine.as_str()).ok_or_else(|| format!("there is no engine {}", offer.engine))?;
    // Never closed, so a failure only means that the worker is gone.
    let _turn = shared.loads.acquire().await.map_err(|_| "the worker is ending")?;
    let mut spec = entry.spec.clone();
    if let Some(manifest) = &entry.manifest {
        spec.source = verify(manifest.clone(), key, spec.source).await?;
    }
    let model = caught("load", shared.options.load_limit, engine.load(&spec)).await?;
    check(model.signature(), &offer.config)?;
    let sequences = Sequences::of(&offer.config, model.signature(), sequence_limits(shared))?;
    caught("first execution", shared.options.warm_limit, model.warm()).await?;
    let plan = plan(shared, &offer.engine, &offer.config, model.signature());
    let metrics = shared.scope.metrics().model(name, *version);
    let identity = Identity { name: name.clone(), version: *version, config: offer.config.clone() };
    let quarantine = shared.quarantines.of(key);
    Ok(Arc::new(Replica::new(identity, plan, model, metrics).with_quarantine(quarantine).with_sequences(sequences)))
}

/// Compares the files with their manifest, on a thread that may block: they can be long. Returns the model's file open, so that what
/// was compared is what is loaded.
async fn verify(manifest: Manifest, (name, version): &Key, source: Source) -> Result<Source, String> {
    let version = *version;
    let verified = tokio::task::spawn_blocking(move || manifest.verify(version, source)).await;
    let verified =
        verified.unwrap_or_else(|_| Err("the files could not be compared with their manifest".to_owned()))?;
    tracing::info!(model = %name, %version, sha256 = verified.digest, "the files are what their manifest says");
    Ok(verified.source)
}

/// An engine that panics has failed: it does not take the worker along. Nor does one that does not come to an end: dropping its
/// future ends its process, or has it stop as soon as it can.
async fn caught<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, weft_engine::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome.map_err(|error| presentable(&error.to_string())),
        Ok(Err(_)) => Err("the engine failed".to_owned()),
        Err(_) => Err(format!("its {what} took longer than {} s", limit.as_secs_f32())),
    }
}

/// A model must be what the protocol can say and what its configuration promises.
fn check(signature: &Signature, config: &ModelConfig) -> Result<(), String> {
    for (side, ports) in [("input", &signature.inputs), ("output", &signature.outputs)] {
        let names: BTreeSet<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        if ports.len() > MAX_TENSORS || names.len() != ports.len() || names.contains("") {
            return Err(format!("the model's {side} names are empty, not unique or more than {MAX_TENSORS}"));
        }
    }
    let batches = signature.max_batch_size > 0;
    for input in &config.input {
        let dims = dims(&input.dims, input.reshape.as_ref());
        let declared = Declared { name: &input.name, datatype: input.data_type(), dims, batches };
        let port = declared.agrees("input", &signature.inputs)?;
        if input.optional && !port.optional {
            let name = presentable(&input.name);
            return Err(format!("the configuration has input {name} as optional, and the model needs it"));
        }
    }
    for output in &config.output {
        let dims = dims(&output.dims, output.reshape.as_ref());
        let declared = Declared { name: &output.name, datatype: output.data_type(), dims, batches };
        declared.agrees("output", &signature.outputs)?;
    }
    Ok(())
}

/// The shape that the model is said to have, if any: the caller's, or the other one where there are two.
fn dims<'a>(dims: &'a [i64], reshape: Option<&'a ModelTensorReshape>) -> Option<&'a [i64]> {
    reshape.map(|reshape| &reshape.shape[..]).or_else(|| (!dims.is_empty()).then_some(dims))
}

/// An input or output as the configuration has it.
struct Declared<'a> {
    name: &'a str,
    datatype: ConfigType,
    /// Without the batch axis.
    dims: Option<&'a [i64]>,
    batches: bool,
}

impl Declared<'_> {
    /// What the configuration leaves open, and what the model does, agrees with anything.
    fn agrees<'p>(&self, side: &str, ports: &'p [Port]) -> Result<&'p Port, String> {
        let name = presentable(self.name);
        let port = ports.iter().find(|port| port.name == self.name);
        let port = port.ok_or_else(|| format!("the configuration has an {side} {name} that the model lacks"))?;
        if let Some(actual) = port.datatype
            && self.datatype != ConfigType::TypeInvalid
            && config_type(actual) != self.datatype
        {
            return Err(format!("the configuration's type of {side} {name} is not the model's {actual}"));
        }
        match (&port.shape, self.dims) {
            (Some(shape), Some(dims)) if !self.fits(dims, shape) => {
                Err(format!("the configuration's dims of {side} {name} are not the model's {shape:?}"))
            }
            _ => Ok(port),
        }
    }

    fn fits(&self, dims: &[i64], shape: &[i64]) -> bool {
        let own = shape.get(usize::from(self.batches)..).unwrap_or_default();
        let fits = |(declared, actual): (&i64, &i64)| *declared < 0 || *actual < 0 || declared == actual;
        // A scalar cannot be written down as dims: one element stands for it.
        (own.is_empty() && dims == [1]) || own.len() == dims.len() && dims.iter().zip(own).all(fits)
    }
}

/// A datatype as `config.pbtxt` names it.
pub(crate) const fn config_type(datatype: DataType) -> ConfigType {
    match datatype {
        DataType::Bool => ConfigType::TypeBool,
        DataType::Uint8 => ConfigType::TypeUint8,
        DataType::Uint16 => ConfigType::TypeUint16,
        DataType::Uint32 => ConfigType::TypeUint32,
        DataType::Uint64 => ConfigType::TypeUint64,
        DataType::Int8 => ConfigType::TypeInt8,
        DataType::Int16 => ConfigType::TypeInt16,
        DataType::Int32 => ConfigType::TypeInt32,
        DataType::Int64 => ConfigType::TypeInt64,
        DataType::Fp16 => ConfigType::TypeFp16,
        DataType::Bf16 => ConfigType::TypeBf16,
        DataType::Fp32 => ConfigType::TypeFp32,
        DataType::Fp64 => ConfigType::TypeFp64,
        DataType::Bytes => ConfigType::TypeString,
    }
}

/// The datatype that `config.pbtxt` names, if it is one of a tensor.
pub(crate) fn datatype_of(declared: ConfigType) -> Option<DataType> {
    const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Bf16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
    ];
    ALL.into_iter().find(|datatype| config_type(*datatype) == declared)
}

/// Requests that wait for an earlier one of their sequence are bounded as those in the queue are.
const fn sequence_limits(shared: &Shared) -> sequence::Limits {
    sequence::Limits {
        sequences: sequence::Limits::SEQUENCES,
        state_bytes: sequence::Limits::STATE_BYTES,
        waiting: shared.options.queue_limit,
        waiting_bytes: shared.options.queue_bytes,
    }
}

/// What a configuration says of batches, whichever of its sections says it.
struct Batching<'a> {
    preferred: &'a [i32],
    delay_micros: Option<u64>,
    is_ordered: bool,
}

impl<'a> Batching<'a> {
    fn of(config: &'a ModelConfig) -> Self {
        let none = Self { preferred: &[], delay_micros: None, is_ordered: false };
        match &config.scheduling_choice {
            Some(SchedulingChoice::DynamicBatching(dynamic)) => Self {
                preferred: &dynamic.preferred_batch_size,
                delay_micros: Some(dynamic.max_queue_delay_microseconds),
                is_ordered: dynamic.preserve_ordering,
            },
            Some(SchedulingChoice::SequenceBatching(batching)) => match &batching.strategy_choice {
                Some(StrategyChoice::Oldest(oldest)) => Self {
                    preferred: &oldest.preferred_batch_size,
                    delay_micros: Some(oldest.max_queue_delay_microseconds),
                    is_ordered: oldest.preserve_ordering,
                },
                Some(StrategyChoice::Direct(direct)) => {
                    Self { delay_micros: Some(direct.max_queue_delay_microseconds), ..none }
                }
                None => none,
            },
            _ => none,
        }
    }
}

fn plan(shared: &Shared, engine: &str, config: &ModelConfig, signature: &Signature) -> Plan {
    let dynamic = match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(dynamic)) => Some(dynamic),
        _ => None,
    };
    let Batching { preferred, delay_micros, is_ordered } = Batching::of(config);
    let options = &shared.options;
    Plan {
        batching: Settings {
            max_batch_rows: signature.max_batch_size,
            preferred: preferred
                .iter()
                .filter_map(|size| usize::try_from(*size).ok())
                .filter(|size| *size > 0)
                .collect(),
            max_queue_delay: delay_micros.map_or(options.max_queue_delay, Duration::from_micros),
        },
        default_band: dynamic
            .map(|dynamic| dynamic.default_priority_level)
            .filter(|level| *level > 0)
            .unwrap_or(DEFAULT_BAND),
        bands: dynamic.map(Bands::of).unwrap_or_default(),
        ordered: is_ordered,
        // What a builtin does takes as long as its input says, `sleep` above all: the past tells nothing.
        predictable: engine != "builtin",
        limits: Limits { requests: options.queue_limit, bytes: options.queue_bytes },
    }
}
