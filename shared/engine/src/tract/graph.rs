//! An ONNX file as a graph: what it declares, and how it becomes a plan for given shapes.

use tract_onnx::model::Onnx;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType as OnnxType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Axis;
use tract_onnx::pb::type_proto::Value;
use tract_onnx::prelude::{
    Arc, DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, TypedRunnableModel,
};
use tract_onnx::tract_core::model::IntoRunnable;
use tract_onnx::tract_hir::internal::TractResult;

use crate::batching::MAX_PORTS;
use crate::{DataType, Error, Port};

/// The longest text of the runtime that is handed on.
const MAX_PROBLEM_CHARS: usize = 300;

const TYPES: [(OnnxType, DataType, DatumType); 12] = [
    (OnnxType::Bool, DataType::Bool, DatumType::Bool),
    (OnnxType::Uint8, DataType::Uint8, DatumType::U8),
    (OnnxType::Uint16, DataType::Uint16, DatumType::U16),
    (OnnxType::Uint32, DataType::Uint32, DatumType::U32),
    (OnnxType::Uint64, DataType::Uint64, DatumType::U64),
    (OnnxType::Int8, DataType::Int8, DatumType::I8),
    (OnnxType::Int16, DataType::Int16, DatumType::I16),
    (OnnxType::Int32, DataType::Int32, DatumType::I32),
    (OnnxType::Int64, DataType::Int64, DatumType::I64),
    (OnnxType::Float16, DataType::Fp16, DatumType::F16),
    (OnnxType::Float, DataType::Fp32, DatumType::F32),
    (OnnxType::Double, DataType::Fp64, DatumType::F64),
];

/// A graph that can be executed for one set of shapes.
pub(super) type Plan = Arc<TypedRunnableModel>;

/// A parsed file.
pub(super) struct Graph {
    model: InferenceModel,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
}

impl Graph {
    /// Parses a file. Data outside the file is refused: the runtime is told of no folder to look in.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let framework = framework();
        let proto = framework.proto_model_for_read(&mut &*bytes).map_err(|error| problem(&error));
        let proto = proto.map_err(|_| Error::Load("the file is not an ONNX model".to_owned()))?;
        let graph = proto.graph.as_ref().ok_or_else(|| Error::Load("the file holds no graph".to_owned()))?;
        let is_input = |value: &&pb::ValueInfoProto| !graph.initializer.iter().any(|known| known.name == value.name);
        let inputs = ports(graph.input.iter().filter(is_input))?;
        let outputs = ports(graph.output.iter())?;
        check_references(graph)?;
        let model = framework.model_for_proto_model(&proto).map_err(|error| Error::Load(problem(&error)))?;
        if model.inputs.len() != inputs.len() || model.outputs.len() != outputs.len() {
            return Err(Error::Load("the graph's inputs or outputs are not what it declares".to_owned()));
        }
        Ok(Self { model, inputs, outputs })
    }

    /// Optimises the graph for these shapes, one for each input.
    pub(super) fn plan(&self, shapes: &[Vec<usize>]) -> TractResult<Plan> {
        let mut model = self.model.clone();
        for (at, (port, shape)) in self.inputs.iter().zip(shapes).enumerate() {
            model.set_input_fact(at, InferenceFact::dt_shape(datum_type(port), shape.as_slice()))?;
        }
        model.into_optimized()?.into_runnable()
    }
}

/// Declared shapes of outputs and inner values are ignored: a name for a free axis there would contradict the number
/// that a plan puts in its place.
fn framework() -> Onnx {
    tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true)
}

/// The runtime's element type for a port that [`ports`] accepted.
pub(super) fn datum_type(port: &Port) -> DatumType {
    let known = TYPES.iter().find(|(_, datatype, _)| port.datatype == Some(*datatype));
    known.map_or(DatumType::F32, |(_, _, datum)| *datum)
}

/// The runtime's words in one line of bounded length.
pub(super) fn problem(error: &tract_onnx::prelude::TractError) -> String {
    format!("{error:#}")
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(MAX_PROBLEM_CHARS)
        .collect()
}

/// The runtime looks outputs up without asking whether they exist.
fn check_references(graph: &pb::GraphProto) -> Result<(), Error> {
    let made = graph.node.iter().flat_map(|node| &node.output).chain(graph.input.iter().map(|input| &input.name));
    let made: std::collections::HashSet<&String> =
        made.chain(graph.initializer.iter().map(|value| &value.name)).collect();
    match graph.output.iter().find(|output| !made.contains(&output.name)) {
        Some(output) => Err(Error::Load(format!("nothing makes the output '{}'", output.name))),
        None => Ok(()),
    }
}

fn ports<'a>(values: impl Iterator<Item = &'a pb::ValueInfoProto>) -> Result<Vec<Port>, Error> {
    let ports = values.take(MAX_PORTS + 1).map(port).collect::<Result<Vec<_>, _>>()?;
    if ports.len() > MAX_PORTS {
        return Err(Error::Load(format!("the graph has more than {MAX_PORTS} inputs or outputs")));
    }
    Ok(ports)
}

fn port(value: &pb::ValueInfoProto) -> Result<Port, Error> {
    let Some(Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return Err(Error::Load(format!("'{}' is not a tensor", value.name)));
    };
    let known = TYPES.iter().find(|(onnx, _, _)| *onnx as i32 == tensor.elem_type);
    let Some((_, datatype, _)) = known else {
        return Err(Error::Load(format!("'{}' has an element type that this engine does not run", value.name)));
    };
    let axis = |axis: &pb::tensor_shape_proto::Dimension| match &axis.value {
        Some(Axis::DimValue(size)) if *size >= 0 => *size,
        _ => -1,
    };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(axis).collect());
    Ok(Port { name: value.name.clone(), datatype: Some(*datatype), shape, optional: false })
}
