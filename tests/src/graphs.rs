//! Small ONNX graphs, made by hand.

use bytes::Bytes;
use prost::Message;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType as OnnxType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, type_proto,
};
use weft_engine::{DataType, Tensor};

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: OnnxType::Float as i32,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: operator.to_owned(),
        name: format!("make {output}"),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// A value whose axes are `-1` where they are free.
fn value(name: &str, kind: OnnxType, axes: &[i64]) -> ValueInfoProto {
    let axis = |(at, size): (usize, &i64)| {
        let value =
            if *size < 0 { dimension::Value::DimParam(format!("axis{at}")) } else { dimension::Value::DimValue(*size) };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: axes.iter().enumerate().map(axis).collect() };
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..ValueInfoProto::default() }
}

struct Parts {
    weights: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
}

impl Parts {
    fn model(self) -> Bytes {
        let graph = GraphProto {
            name: "test".to_owned(),
            initializer: self.weights,
            node: self.nodes,
            input: self.inputs,
            output: self.outputs,
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 13 }],
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec().into()
    }
}

/// How many products [`endless`] makes.
pub const PRODUCTS: u64 = 2_000;

/// `X` FP32 `[side, side]` through so many products with itself that nobody waits for the end.
pub fn endless(side: usize) -> Bytes {
    let axes = [side as i64; 2];
    let name = |at: usize| if at == 0 { "X".to_owned() } else { format!("x{at}") };
    let nodes: Vec<_> = (0..PRODUCTS as usize).map(|at| node("MatMul", &[&name(at), "X"], &name(at + 1))).collect();
    let inputs = vec![value("X", OnnxType::Float, &axes)];
    let outputs = vec![value(&name(nodes.len()), OnnxType::Float, &axes)];
    Parts { weights: vec![], nodes, inputs, outputs }.model()
}

/// `X` FP32 `[-1, side]`, each row turned by one element so many times: `Y` is exact, and takes as long as one wants.
pub fn turned(side: usize, times: usize) -> Bytes {
    let mut turn = vec![0f32; side * side];
    (0..side).for_each(|at| turn[at * side + (at + 1) % side] = 1.0);
    let name = |at: usize| match at {
        0 => "X".to_owned(),
        at if at == times => "Y".to_owned(),
        at => format!("x{at}"),
    };
    Parts {
        weights: vec![tensor("TURN", &[side as i64, side as i64], &turn)],
        nodes: (0..times).map(|at| node("MatMul", &[&name(at), "TURN"], &name(at + 1))).collect(),
        inputs: vec![value("X", OnnxType::Float, &[-1, side as i64])],
        outputs: vec![value("Y", OnnxType::Float, &[-1, side as i64])],
    }
    .model()
}

/// `INDEX` INT64 `[-1, 1]` picks one of so many rows of `side` numbers, and fails beyond them; each is turned by one element so many
/// times, over a matrix of `side * wide` numbers and back over another. Loading it takes longer with its nodes, running it with the matrices too.
pub fn picked(rows: usize, side: usize, (wide, times): (usize, usize)) -> Bytes {
    let numbers: Vec<f32> = (0..rows * side).map(|at| at as f32).collect();
    let (mut widen, mut turn) = (vec![0f32; side * wide], vec![0f32; wide * side]);
    (0..side).for_each(|at| {
        widen[at * wide + at] = 1.0;
        turn[at * side + (at + 1) % side] = 1.0;
    });
    let name = |at: usize| if at == times { "NUMBERS".to_owned() } else { format!("x{at}") };
    let mut nodes = vec![node("Gather", &["ROWS", "INDEX"], &name(0))];
    for at in 0..times {
        nodes.push(node("MatMul", &[&name(at), "WIDEN"], &format!("wide{at}")));
        nodes.push(node("MatMul", &[&format!("wide{at}"), "TURN"], &name(at + 1)));
    }
    Parts {
        weights: vec![
            tensor("ROWS", &[rows as i64, side as i64], &numbers),
            tensor("WIDEN", &[side as i64, wide as i64], &widen),
            tensor("TURN", &[wide as i64, side as i64], &turn),
        ],
        nodes,
        inputs: vec![value("INDEX", OnnxType::Int64, &[-1, 1])],
        outputs: vec![value("NUMBERS", OnnxType::Float, &[-1, 1, side as i64])],
    }
    .model()
}

/// `INDEX` INT64 `[-1, 1]` picks from ten numbers, and fails beyond them.
pub fn pick() -> Bytes {
    let numbers: Vec<f32> = (0..10).map(|at| 10.0 * at as f32).collect();
    Parts {
        weights: vec![tensor("NUMBERS", &[10], &numbers)],
        nodes: vec![node("Gather", &["NUMBERS", "INDEX"], "NUMBER")],
        inputs: vec![value("INDEX", OnnxType::Int64, &[-1, 1])],
        outputs: vec![value("NUMBER", OnnxType::Float, &[-1, 1])],
    }
    .model()
}

fn doubling() -> Parts {
    Parts {
        weights: vec![],
        nodes: vec![node("Add", &["X", "X"], "Y")],
        inputs: vec![value("X", OnnxType::Float, &[-1, -1])],
        outputs: vec![value("Y", OnnxType::Float, &[-1, -1])],
    }
}

/// `X` FP32 `[-1, -1]` to `X` as it is, and doubled to `Y`; and the weights `W`.
pub fn passed_on() -> Bytes {
    let mut parts = doubling();
    parts.weights.push(tensor("W", &[2], &[7.0, 8.0]));
    parts.outputs.insert(0, value("X", OnnxType::Float, &[-1, -1]));
    parts.outputs.push(value("W", OnnxType::Float, &[2]));
    parts.model()
}

/// `X` FP32 of any number of rows, each of them larger than any memory.
pub fn enormous() -> Bytes {
    let (inputs, outputs) =
        (vec![value("X", OnnxType::Float, &[-1, 1 << 45])], vec![value("Y", OnnxType::Float, &[-1, 1 << 45])]);
    Parts { inputs, outputs, ..doubling() }.model()
}

/// `X` FP32 `[-1, -1]` doubled to `Y`.
pub fn double() -> Bytes {
    doubling().model()
}

/// `X` of one type to `Y` of another.
pub fn cast(from: DataType, to: DataType) -> Bytes {
    let to = onnx_type(to);
    let attribute = AttributeProto {
        name: "to".to_owned(),
        i: to as i64,
        r#type: attribute_proto::AttributeType::Int as i32,
        ..AttributeProto::default()
    };
    let nodes = vec![NodeProto { attribute: vec![attribute], ..node("Cast", &["X"], "Y") }];
    let inputs = vec![value("X", onnx_type(from), &[-1])];
    Parts { weights: vec![], nodes, inputs, outputs: vec![value("Y", to, &[-1])] }.model()
}

/// `X` of one type and any length to `Y`, unchanged.
pub fn identity(kind: DataType) -> Bytes {
    let kind = onnx_type(kind);
    let (inputs, outputs) = (vec![value("X", kind, &[-1])], vec![value("Y", kind, &[-1])]);
    Parts { weights: vec![], nodes: vec![node("Identity", &["X"], "Y")], inputs, outputs }.model()
}

/// `X` FP32 `[-1]` to `Y`, the INT64 `[1, n]` places where it is not zero: a shape that follows from values.
pub fn places() -> Bytes {
    let inputs = vec![value("X", OnnxType::Float, &[-1])];
    let outputs = vec![value("Y", OnnxType::Int64, &[1, -1])];
    Parts { weights: vec![], nodes: vec![node("NonZero", &["X"], "Y")], inputs, outputs }.model()
}

/// `X` FP32 of a shape that the graph does not tell, doubled.
pub fn shapeless() -> Bytes {
    let mut parts = doubling();
    for value in parts.inputs.iter_mut().chain(&mut parts.outputs) {
        if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        {
            tensor.shape = None;
        }
    }
    parts.model()
}

/// `X` INT64 `[1]` added to `STATE`, which gives `SUM` and the same as `NEXT`.
pub fn total() -> Bytes {
    let one = |name: &str| value(name, OnnxType::Int64, &[1]);
    let nodes = vec![node("Add", &["X", "STATE"], "SUM"), node("Identity", &["SUM"], "NEXT")];
    let (inputs, outputs) = (vec![one("X"), one("STATE")], vec![one("SUM"), one("NEXT")]);
    Parts { weights: vec![], nodes, inputs, outputs }.model()
}

/// `SHAPE` INT64 `[1]` to the greatest of so many zeros: it takes four bytes of memory for each.
pub fn hungry() -> Bytes {
    Parts {
        weights: vec![],
        nodes: vec![node("ConstantOfShape", &["SHAPE"], "ZEROS"), node("ReduceMax", &["ZEROS"], "Y")],
        inputs: vec![value("SHAPE", OnnxType::Int64, &[1])],
        outputs: vec![value("Y", OnnxType::Float, &[1])],
    }
    .model()
}

fn onnx_type(kind: DataType) -> OnnxType {
    match kind {
        DataType::Bool => OnnxType::Bool,
        DataType::Uint8 => OnnxType::Uint8,
        DataType::Uint16 => OnnxType::Uint16,
        DataType::Uint32 => OnnxType::Uint32,
        DataType::Uint64 => OnnxType::Uint64,
        DataType::Int8 => OnnxType::Int8,
        DataType::Int16 => OnnxType::Int16,
        DataType::Int32 => OnnxType::Int32,
        DataType::Int64 => OnnxType::Int64,
        DataType::Fp16 => OnnxType::Float16,
        DataType::Bf16 => OnnxType::Bfloat16,
        DataType::Fp32 => OnnxType::Float,
        DataType::Fp64 => OnnxType::Double,
        DataType::Bytes => OnnxType::String,
    }
}

/// Inputs and what a cast makes of them.
pub fn casts() -> Vec<(Tensor, Tensor)> {
    let flags = |name: &str, values: [u8; 3]| Tensor { datatype: DataType::Bool, ..Tensor::of(name, &[3], &values) };
    vec![
        (Tensor::of("X", &[3], &[1.5f32, -2.0, 0.25]), Tensor::of("Y", &[3], &[1.5f64, -2.0, 0.25])),
        (Tensor::of("X", &[3], &[1.5f64, -2.0, 0.25]), Tensor::of("Y", &[3], &[1.5f32, -2.0, 0.25])),
        (Tensor::of("X", &[3], &[1i32, -2, 3]), Tensor::of("Y", &[3], &[1i64, -2, 3])),
        (Tensor::of("X", &[3], &[1i64, -2, 3]), Tensor::of("Y", &[3], &[1i32, -2, 3])),
        (Tensor::of("X", &[3], &[1u8, 0, 255]), Tensor::of("Y", &[3], &[1f32, 0.0, 255.0])),
        (Tensor::of("X", &[3], &[1i32, 0, 200]), Tensor::of("Y", &[3], &[1u8, 0, 200])),
        // Any byte but 0 is true, and comes out as 1.
        (flags("X", [1, 0, 7]), Tensor::of("Y", &[3], &[1i32, 0, 1])),
        (Tensor::of("X", &[3], &[5i32, 0, -1]), flags("Y", [1, 0, 1])),
    ]
}

/// Files, the batch size asked for, and a part of the refusal.
pub fn refused() -> Vec<(Bytes, usize, &'static str)> {
    let fixed = Parts { inputs: vec![value("X", OnnxType::Float, &[2, 3])], ..doubling() };
    let text = Parts { inputs: vec![value("X", OnnxType::String, &[-1])], ..doubling() };
    let dangling = Parts { outputs: vec![value("Z", OnnxType::Float, &[-1])], ..doubling() };
    let unknown = Parts {
        nodes: vec![node("Teleport", &["X"], "Y")],
        inputs: vec![value("X", OnnxType::Float, &[-1, 2])],
        ..doubling()
    };
    let inputs = (0..64).map(|at| format!("X{at}")).chain(["X".to_owned()]);
    let many = Parts { inputs: inputs.map(|name| value(&name, OnnxType::Float, &[-1])).collect(), ..doubling() };
    let location = StringStringEntryProto { key: "location".to_owned(), value: "../secret".to_owned() };
    let outside = TensorProto {
        float_data: vec![],
        data_location: Some(DataLocation::External as i32),
        external_data: vec![location],
        ..tensor("W", &[1], &[])
    };
    let outside = Parts { weights: vec![outside], ..doubling() };
    vec![
        (Bytes::new(), 0, "is empty"),
        (Bytes::from_static(&[0xFF; 64]), 0, "a number that does not end"),
        (fixed.model(), 4, "'X' has no free first axis"),
        // One engine has no texts, the other cannot add them.
        (text.model(), 0, "type"),
        (dangling.model(), 0, "a value that nothing makes"),
        (unknown.model(), 4, "Teleport"),
        (many.model(), 0, "more than 64"),
        (outside.model(), 0, "data in another file"),
    ]
}
