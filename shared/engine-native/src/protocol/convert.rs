//! Between messages and the types of the execution port.

use weft_engine::{DataType, Error, Port, Signature};

use super::{Failed, Shape, event};

impl From<&Signature> for super::Signature {
    fn from(signature: &Signature) -> Self {
        Self {
            platform: signature.platform.clone(),
            inputs: signature.inputs.iter().map(super::Port::from).collect(),
            outputs: signature.outputs.iter().map(super::Port::from).collect(),
            max_batch_size: signature.max_batch_size as u64,
            concurrency: signature.concurrency as u64,
        }
    }
}

impl From<&Port> for super::Port {
    fn from(port: &Port) -> Self {
        Self {
            name: port.name.clone(),
            datatype: port.datatype.map_or_else(String::new, |datatype| datatype.as_str().to_owned()),
            shape: port.shape.clone().map(|axes| Shape { axes }),
            optional: port.optional,
        }
    }
}

/// The most executions at once that a configuration may ask for.
const MAX_CONCURRENCY: usize = 1024;

impl super::Signature {
    /// The signature, unless a number does not fit.
    pub(crate) fn into_port(self) -> Option<Signature> {
        let ports = |ports: Vec<super::Port>| ports.into_iter().map(super::Port::into_port).collect();
        Some(Signature {
            platform: self.platform,
            inputs: ports(self.inputs),
            outputs: ports(self.outputs),
            max_batch_size: usize::try_from(self.max_batch_size).ok()?,
            // An engine process is not believed: this becomes permits, and no configuration asks for more.
            concurrency: usize::try_from(self.concurrency).ok()?.clamp(1, MAX_CONCURRENCY),
        })
    }
}

impl super::Port {
    fn into_port(self) -> Port {
        Port {
            name: self.name,
            datatype: self.datatype.parse::<DataType>().ok(),
            shape: self.shape.map(|shape| shape.axes),
            optional: self.optional,
        }
    }
}

/// gRPC's number for it.
const DEADLINE_EXCEEDED: i32 = 4;

impl Failed {
    /// What began under `id` has failed with this.
    pub(crate) fn new(id: u64, error: Error) -> Self {
        let (kind, field, problem) = match error {
            Error::Load(problem) => ("load", String::new(), problem),
            Error::Input { field, problem } => ("input", field, problem),
            Error::Full(problem) => ("full", String::new(), problem),
            Error::Run(problem) | Error::Lost(problem) | Error::Status { message: problem, .. } => {
                ("run", String::new(), problem)
            }
        };
        Self { id, kind: kind.to_owned(), field, problem }
    }

    /// As the port tells it.
    pub(crate) fn into_error(self) -> Error {
        match self.kind.as_str() {
            "load" => Error::Load(self.problem),
            "input" => Error::Input { field: self.field, problem: self.problem },
            "full" => Error::Full(self.problem),
            "expired" => Error::Status { code: DEADLINE_EXCEEDED, message: self.problem },
            _ => Error::Run(self.problem),
        }
    }
}

impl event::Body {
    /// The number it is about, if it is about one; a load has the number 0.
    pub(crate) fn id(&self) -> Option<u64> {
        match self {
            Self::Loaded(_) => Some(0),
            Self::Failed(failed) => Some(failed.id),
            Self::Executed(executed) => Some(executed.id),
            Self::Stopped(id) | Self::Queued(id) => Some(*id),
            Self::Piece(piece) => Some(piece.id),
            Self::Occupancy(_) => None,
        }
    }

    /// Whether nothing more comes under its number: the engine process has forgotten it, buffers included.
    pub(crate) fn is_last(&self) -> bool {
        match self {
            Self::Loaded(_) | Self::Failed(_) | Self::Executed(_) | Self::Stopped(_) => true,
            Self::Piece(piece) => piece.end.is_some(),
            Self::Occupancy(_) | Self::Queued(_) => false,
        }
    }
}
