//! Inputs that tell a model where in its sequence a request stands.

use weft_engine::{DataType, Port, Tensor};
use weft_proto::inference::model_sequence_batching::control::Kind;
use weft_proto::inference::model_sequence_batching::{Control as Declared, ControlInput};
use weft_types::{Error, Result};

use super::FIELD;
use crate::converge::datatype_of;
use crate::error::presentable;
use crate::infer::{Sequence, SequenceId};

/// One such input.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) name: String,
    /// One element.
    shape: Vec<usize>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// What stands for false, and what for true.
    Flag(Kind, [Tensor; 2]),
    /// The sequence's name, as this type.
    Id(DataType),
}

impl Control {
    /// The text of a failure is safe to show.
    pub(super) fn new(input: &ControlInput, port: &Port, batches: bool) -> std::result::Result<Self, String> {
        let name = input.name.clone();
        let shape = vec![1; port.shape.as_ref().map_or(1 + usize::from(batches), Vec::len)];
        let control =
            input.control.first().ok_or_else(|| format!("control_input {} has no control", presentable(&name)))?;
        let (datatype, value) = match control.kind() {
            Kind::ControlSequenceCorrid => {
                let datatype = id_type(control);
                let datatype = datatype.ok_or_else(|| format!("control_input {} has no type", presentable(&name)))?;
                (datatype, Value::Id(datatype))
            }
            kind => {
                let flags = flags(control, &name, &shape);
                let flags = flags.ok_or_else(|| format!("control_input {} has no two values", presentable(&name)))?;
                (flags[0].datatype, Value::Flag(kind, flags))
            }
        };
        let is_one = port.shape.as_ref().is_none_or(|shape| shape.iter().all(|axis| *axis < 0 || *axis == 1));
        if port.datatype.is_some_and(|own| own != datatype) || !is_one {
            return Err(format!("control_input {} is not one element of the model's type", presentable(&name)));
        }
        Ok(Self { name, shape, value })
    }

    /// Whether the sequence's name can be told.
    pub(super) fn check(&self, id: &SequenceId) -> Result<()> {
        match self.value {
            Value::Id(datatype) => self.id(datatype, id).map(drop),
            Value::Flag(..) => Ok(()),
        }
    }

    pub(super) fn tensor(&self, sequence: &Sequence) -> Result<Tensor> {
        let is_set = |kind| match kind {
            Kind::ControlSequenceStart => sequence.is_start,
            Kind::ControlSequenceEnd => sequence.is_end,
            // There is a request, or the model would not be asked.
            Kind::ControlSequenceReady | Kind::ControlSequenceCorrid => true,
        };
        match &self.value {
            Value::Flag(kind, [no, yes]) => Ok(if is_set(*kind) { yes } else { no }.clone()),
            Value::Id(datatype) => self.id(*datatype, &sequence.id),
        }
    }

    fn id(&self, datatype: DataType, id: &SequenceId) -> Result<Tensor> {
        let (name, shape) = (self.name.as_str(), self.shape.as_slice());
        let tensor = match (datatype, id) {
            (DataType::Bytes, SequenceId::Text(text)) => {
                Some(Tensor { shape: shape.to_vec(), ..Tensor::of_bytes(name, &[text]) })
            }
            (DataType::Bytes, SequenceId::Number(number)) => {
                Some(Tensor { shape: shape.to_vec(), ..Tensor::of_bytes(name, &[number.to_string()]) })
            }
            (_, SequenceId::Text(_)) => None,
            (DataType::Uint64, SequenceId::Number(number)) => Some(Tensor::of(name, shape, &[*number])),
            (DataType::Int64, SequenceId::Number(number)) => Some(Tensor::of(name, shape, &[number.cast_signed()])),
            (DataType::Uint32, SequenceId::Number(number)) => {
                u32::try_from(*number).ok().map(|number| Tensor::of(name, shape, &[number]))
            }
            (_, SequenceId::Number(number)) => {
                i32::try_from(*number).ok().map(|number| Tensor::of(name, shape, &[number]))
            }
        };
        tensor.ok_or_else(|| Error::invalid(FIELD, format_args!("the model takes those that are {datatype}")))
    }
}

/// What the name of a sequence is told as; a number of 64 bits where the configuration does not say.
pub(super) fn id_type(control: &Declared) -> Option<DataType> {
    use weft_proto::inference::DataType as ConfigType;
    match control.data_type() {
        ConfigType::TypeInvalid => Some(DataType::Uint64),
        declared => datatype_of(declared).filter(|datatype| {
            matches!(
                datatype,
                DataType::Uint64 | DataType::Int64 | DataType::Uint32 | DataType::Int32 | DataType::Bytes
            )
        }),
    }
}

/// What stands for false and for true; the configuration gives them in one of three types.
pub(super) fn flags(control: &Declared, name: &str, shape: &[usize]) -> Option<[Tensor; 2]> {
    match (&control.int32_false_true[..], &control.fp32_false_true[..], &control.bool_false_true[..]) {
        ([no, yes], [], []) => Some([no, yes].map(|value| Tensor::of(name, shape, &[*value]))),
        ([], [no, yes], []) => Some([no, yes].map(|value| Tensor::of(name, shape, &[*value]))),
        ([], [], [no, yes]) => Some([no, yes].map(|value| Tensor {
            name: name.to_owned(),
            datatype: DataType::Bool,
            shape: shape.to_vec(),
            data: vec![u8::from(*value)].into(),
        })),
        _ => None,
    }
}
