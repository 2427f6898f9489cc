//! Models without weights, for exercising the mesh.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::running::Running;
use crate::{Batch, DataType, Engine, Error, Inputs, Model, Outputs, Port, Signature, Spec, Tensor};

/// The engine `builtin`: `identity`, `sleep` and `fail`, chosen by the model's name or its parameter `model`.
#[derive(Clone, Debug, Default)]
pub struct Builtin {
    running: Running,
}

/// The longest text that `fail` hands on.
const MAX_MESSAGE_BYTES: usize = 512;

/// gRPC status codes other than OK.
const CODES: std::ops::RangeInclusive<i64> = 1..=16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Identity,
    Sleep,
    Fail,
}

impl Builtin {
    /// The models it offers without a repository.
    pub const MODELS: [&'static str; 3] = ["identity", "sleep", "fail"];

    /// An engine whose models share one count of running executions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Executions under way: it falls as soon as an execution is dropped.
    pub fn running(&self) -> usize {
        self.running.count()
    }
}

#[async_trait]
impl Engine for Builtin {
    fn name(&self) -> &'static str {
        "builtin"
    }

    async fn load(&self, spec: &Spec) -> Result<Arc<dyn Model>, Error> {
        let kind = match spec.parameters.get("model").unwrap_or(&spec.name).as_str() {
            "identity" => Kind::Identity,
            "sleep" => Kind::Sleep,
            "fail" => Kind::Fail,
            other => return Err(Error::Load(format!("there is no builtin model '{other}'"))),
        };
        Ok(Arc::new(Loaded { kind, signature: kind.signature(), running: self.running.clone() }))
    }
}

impl Kind {
    fn signature(self) -> Signature {
        let any = |name: &str| Port { name: name.to_owned(), datatype: None, shape: None, optional: false };
        let (inputs, outputs, concurrency) = match self {
            Self::Identity => (vec![any("INPUT")], vec![any("OUTPUT")], 256),
            Self::Sleep => (
                vec![Port::new("MILLISECONDS", DataType::Uint32, &[1])],
                vec![Port::new("SLEPT_MS", DataType::Uint32, &[1])],
                1024,
            ),
            // CODE is INT32 or UINT32, which a port cannot say: the model checks it.
            Self::Fail => {
                let code = Port { shape: Some(vec![1]), optional: true, ..any("CODE") };
                (vec![Port::new("MESSAGE", DataType::Bytes, &[1]), code], vec![], 256)
            }
        };
        Signature { platform: "builtin".to_owned(), inputs, outputs, max_batch_size: 0, concurrency }
    }
}

#[derive(Debug)]
struct Loaded {
    kind: Kind,
    signature: Signature,
    running: Running,
}

#[async_trait]
impl Model for Loaded {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    async fn warm(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn execute(&self, batch: Batch) -> Result<Vec<Result<Outputs, Error>>, Error> {
        let _permit = self.running.enter();
        Ok(match self.kind {
            Kind::Identity => batch.requests.into_iter().map(identity).collect(),
            // The timers are part of this future: dropping it ends them at once.
            Kind::Sleep => join_all(batch.requests.into_iter().map(sleep)).await,
            Kind::Fail => batch.requests.into_iter().map(|inputs| Err(fail(&inputs))).collect(),
        })
    }
}

fn identity(inputs: Inputs) -> Result<Outputs, Error> {
    let input = inputs.into_iter().next().ok_or_else(|| missing("INPUT"))?;
    Ok(vec![Tensor { name: "OUTPUT".to_owned(), ..input }])
}

async fn sleep(inputs: Inputs) -> Result<Outputs, Error> {
    let wanted = inputs.first().and_then(|input| input.elements::<u32>()?.next());
    let milliseconds = wanted.ok_or_else(|| missing("MILLISECONDS"))?;
    tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
    Ok(vec![Tensor::of("SLEPT_MS", &[1], &[milliseconds])])
}

fn fail(inputs: &[Tensor]) -> Error {
    let message = inputs.first().and_then(Tensor::bytes_elements).and_then(|elements| elements.into_iter().next());
    let Some(message) = message else {
        return missing("MESSAGE");
    };
    let message = String::from_utf8_lossy(&message[..message.len().min(MAX_MESSAGE_BYTES)]).into_owned();
    let Some(code) = inputs.get(1) else {
        return Error::Run(message);
    };
    match number(code).filter(|code| CODES.contains(code)).and_then(|code| i32::try_from(code).ok()) {
        Some(code) => Error::Status { code, message },
        None => {
            Error::Input { field: "CODE".to_owned(), problem: "expected one INT32 or UINT32 from 1 to 16".to_owned() }
        }
    }
}

fn number(tensor: &Tensor) -> Option<i64> {
    let signed = tensor.elements::<i32>().and_then(|mut elements| elements.next()).map(i64::from);
    signed.or_else(|| tensor.elements::<u32>()?.next().map(i64::from))
}

fn missing(name: &str) -> Error {
    Error::Input { field: name.to_owned(), problem: "the input is missing".to_owned() }
}
