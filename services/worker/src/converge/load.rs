//! One load: the engine reads the model, its signature is checked, it is warmed, and only then may it serve.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use weft_engine::{DataType, Port, Signature};
use weft_policy::batch::Settings;
use weft_proto::frame::MAX_TENSORS;
use weft_proto::inference::model_config::SchedulingChoice;
use weft_proto::inference::{DataType as ConfigType, ModelConfig};

use super::plan::Key;
use crate::Shared;
use crate::error::presentable;
use crate::queue::Limits;
use crate::replica::{Identity, Plan, Replica};

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
    let model = caught(engine.load(&entry.spec)).await?;
    check(model.signature(), &offer.config)?;
    caught(model.warm()).await?;
    let plan = plan(shared, &offer.engine, &offer.config, model.signature());
    let metrics = shared.scope.metrics().model(name, *version);
    let identity = Identity { name: name.clone(), version: *version, config: offer.config.clone() };
    Ok(Arc::new(Replica::new(identity, plan, model, metrics)))
}

/// An engine that panics has failed: it does not take the worker along.
async fn caught<T>(work: impl Future<Output = Result<T, weft_engine::Error>>) -> Result<T, String> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome.map_err(|error| presentable(&error.to_string())),
        Err(_) => Err("the engine failed".to_owned()),
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
    for input in &config.input {
        agrees("input", &signature.inputs, &input.name, input.data_type())?;
    }
    for output in &config.output {
        agrees("output", &signature.outputs, &output.name, output.data_type())?;
    }
    Ok(())
}

fn agrees(side: &str, ports: &[Port], name: &str, declared: ConfigType) -> Result<(), String> {
    let name = presentable(name);
    let port = ports.iter().find(|port| port.name == name);
    let port = port.ok_or_else(|| format!("the configuration has an {side} {name} that the model lacks"))?;
    match port.datatype {
        Some(actual) if declared != ConfigType::TypeInvalid && config_type(actual) != declared => {
            Err(format!("the configuration's type of {side} {name} is not the model's {actual}"))
        }
        _ => Ok(()),
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

fn plan(shared: &Shared, engine: &str, config: &ModelConfig, signature: &Signature) -> Plan {
    let dynamic = match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(dynamic)) => Some(dynamic),
        _ => None,
    };
    let sizes = dynamic.map(|dynamic| dynamic.preferred_batch_size.as_slice()).unwrap_or_default();
    let options = &shared.options;
    Plan {
        batching: Settings {
            max_batch_rows: signature.max_batch_size,
            preferred: sizes.iter().filter_map(|size| usize::try_from(*size).ok()).filter(|size| *size > 0).collect(),
            max_queue_delay: dynamic
                .map(|dynamic| Duration::from_micros(dynamic.max_queue_delay_microseconds))
                .unwrap_or(options.max_queue_delay),
        },
        default_band: dynamic
            .map(|dynamic| dynamic.default_priority_level)
            .filter(|level| *level > 0)
            .unwrap_or(DEFAULT_BAND),
        // What a builtin does takes as long as its input says, `sleep` above all: the past tells nothing.
        predictable: engine != "builtin",
        limits: Limits { requests: options.queue_limit, bytes: options.queue_bytes },
    }
}
