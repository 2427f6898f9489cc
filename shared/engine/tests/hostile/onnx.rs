//! ONNX files that mean harm, written field by field: what no library would write.

use weft_engine::format::Rule;

use super::Hostile;

pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn tag(number: u64, wire: u64) -> Vec<u8> {
    varint(number << 3 | wire)
}

/// A field that holds a number.
pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    [tag(field, 0), varint(value)].concat()
}

/// A field that holds bytes: a text, a message, packed numbers.
pub(crate) fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [&tag(field, 2)[..], &varint(content.len() as u64), content].concat()
}

pub(crate) fn import(domain: &str, version: u64) -> Vec<u8> {
    [bytes(1, domain), number(2, version)].concat()
}

fn shape(axes: &[u64]) -> Vec<u8> {
    axes.iter().flat_map(|axis| bytes(1, number(1, *axis))).collect()
}

pub(crate) fn port(name: &str, kind: u64, axes: &[u64]) -> Vec<u8> {
    let tensor = [number(1, kind), bytes(2, shape(axes))].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

/// A tensor of that type with raw data.
fn tensor(name: &str, kind: u64, axes: &[u64], raw: &[u8]) -> Vec<u8> {
    let axes: Vec<u8> = axes.iter().flat_map(|axis| number(1, *axis)).collect();
    [axes, number(2, kind), bytes(8, name), bytes(9, raw)].concat()
}

fn weights(name: &str) -> Vec<u8> {
    tensor(name, FLOAT, &[4], &[0; 16])
}

pub(crate) fn node(kind: &str, inputs: &[&str], outputs: &[&str], rest: &[u8]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    let outputs: Vec<u8> = outputs.iter().flat_map(|name| bytes(2, name)).collect();
    [inputs, outputs, bytes(4, kind), rest.to_vec()].concat()
}

/// An attribute of a node: a name, a type, and the field with the value.
pub(crate) fn attribute(name: &str, kind: u64, value: &[u8]) -> Vec<u8> {
    bytes(5, [bytes(1, name), value.to_vec(), number(20, kind)].concat())
}

pub(crate) fn function(domain: &str, name: &str, nodes: &[Vec<u8>]) -> Vec<u8> {
    let nodes: Vec<u8> = nodes.iter().flat_map(|node| bytes(7, node)).collect();
    [bytes(1, name), bytes(4, "a"), bytes(5, "b"), nodes, bytes(10, domain)].concat()
}

fn call(domain: &str, name: &str, input: &str, output: &str) -> Vec<u8> {
    node(name, &[input], &[output], &bytes(7, domain))
}

const FLOAT: u64 = 1;
const INT64: u64 = 7;
pub(crate) const GRAPH: u64 = 5;
const TENSOR: u64 = 4;

/// The parts of a file, each of which can be made wrong.
#[derive(Clone)]
pub(crate) struct Onnx {
    ir: Vec<u8>,
    pub(crate) imports: Vec<Vec<u8>>,
    pub(crate) nodes: Vec<Vec<u8>>,
    initializers: Vec<Vec<u8>>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    /// More fields of the graph, as they are.
    in_graph: Vec<u8>,
    /// More fields of the model, as they are.
    pub(crate) after: Vec<u8>,
    has_graph: bool,
}

impl Onnx {
    /// `y = x + w`.
    pub(crate) fn good() -> Self {
        Self {
            ir: number(1, 8),
            imports: vec![import("", 17)],
            nodes: vec![node("Add", &["x", "w"], &["y"], &[])],
            initializers: vec![weights("w")],
            inputs: vec![port("x", FLOAT, &[1, 4])],
            outputs: vec![port("y", FLOAT, &[1, 4])],
            in_graph: Vec::new(),
            after: Vec::new(),
            has_graph: true,
        }
    }

    fn graph(&self) -> Vec<u8> {
        let all = |field: u64, parts: &[Vec<u8>]| parts.iter().flat_map(|part| bytes(field, part)).collect::<Vec<u8>>();
        let (nodes, initializers) = (all(1, &self.nodes), all(5, &self.initializers));
        [nodes, bytes(2, "g"), initializers, all(11, &self.inputs), all(12, &self.outputs), self.in_graph.clone()]
            .concat()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let imports = self.imports.iter().flat_map(|import| bytes(8, import)).collect();
        let graph = if self.has_graph { bytes(7, self.graph()) } else { Vec::new() };
        // Something comes after the graph, so that what leaves the graph does not leave the file.
        [self.ir.clone(), imports, graph, bytes(2, "nobody"), self.after.clone()].concat()
    }
}

/// A graph that stands in the graph of a node, so many times.
fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(bytes(2, "g"), |inner, _| {
        let graph = bytes(6, inner);
        bytes(1, node("If", &["x"], &[], &attribute("then_branch", GRAPH, &graph)))
    })
}

/// A node that makes a tensor of a shape which `value` holds.
fn by_shape(file: &mut Onnx, kind: &str, inputs: &[&str], axes: &[u64]) {
    let raw: Vec<u8> = axes.iter().flat_map(|axis| axis.to_le_bytes()).collect();
    file.initializers.push(tensor("s", INT64, &[axes.len() as u64], &raw));
    file.nodes.push(node(kind, inputs, &["big"], &[]));
}

type Change = fn(&mut Onnx);

const CHANGES: &[(&str, Rule, Change)] = &[
    ("field-0", Rule::Tag, |file| file.after = vec![0, 0]),
    ("field-too-large", Rule::Tag, |file| file.after = number(1 << 29, 0)),
    ("group", Rule::Tag, |file| file.after = tag(30, 3)),
    ("group-end", Rule::Tag, |file| file.after = tag(30, 4)),
    ("wire-type-6", Rule::Tag, |file| file.after = tag(30, 6)),
    ("wire-type-7", Rule::Tag, |file| file.after = tag(30, 7)),
    ("group-in-graph", Rule::Tag, |file| file.in_graph = tag(30, 3)),
    ("number-of-11-bytes", Rule::Varint, |file| file.after = [tag(5, 0), vec![0x80; 10], vec![1]].concat()),
    ("number-beyond-64-bits", Rule::Varint, |file| file.after = [tag(5, 0), vec![0xff; 9], vec![2]].concat()),
    ("number-cut-by-graph", Rule::Varint, |file| file.in_graph = [tag(30, 0), vec![0x80]].concat()),
    ("length-all-ones", Rule::Truncated, |file| file.after = [tag(6, 2), varint(u64::MAX)].concat()),
    ("length-one-too-long", Rule::Truncated, |file| file.after = [tag(6, 2), varint(2), vec![0]].concat()),
    ("length-beyond-graph", Rule::FieldLength, |file| file.in_graph = [tag(10, 2), varint(9), vec![0; 8]].concat()),
    ("length-all-ones-in-graph", Rule::FieldLength, |file| file.in_graph = [tag(10, 2), varint(u64::MAX)].concat()),
    ("length-beyond-node", Rule::FieldLength, |file| file.nodes.push([tag(6, 2), varint(99)].concat())),
    ("version-as-text", Rule::WireType, |file| file.ir = bytes(1, "8")),
    ("graph-as-number", Rule::WireType, |file| (file.has_graph, file.after) = (false, number(7, 1))),
    ("node-as-number", Rule::WireType, |file| file.in_graph = number(1, 1)),
    ("tensor-as-number", Rule::WireType, |file| file.in_graph = number(5, 1)),
    ("name-as-number", Rule::WireType, |file| file.inputs.push(number(1, 1))),
    ("axes-as-double", Rule::WireType, |file| file.initializers[0].extend([tag(1, 1), vec![0; 8]].concat())),
    ("raw-data-as-number", Rule::WireType, |file| file.initializers.push([number(2, 1), number(9, 1)].concat())),
    ("name-not-utf8", Rule::Text, |file| file.initializers.push(bytes(8, [0xff, 0xfe]))),
    ("operator-not-utf8", Rule::Text, |file| file.nodes.push(bytes(4, [0xc3, 0x28]))),
    ("name-too-long", Rule::Text, |file| file.nodes.push(node(&"x".repeat(65_537), &[], &[], &[]))),
    ("version-twice", Rule::Repeated, |file| file.after = number(1, 8)),
    ("graph-twice", Rule::Repeated, |file| file.after = bytes(7, file.graph())),
    ("graph-twice-second-empty", Rule::Repeated, |file| file.after = bytes(7, "")),
    ("no-graph", Rule::NoGraph, |file| file.has_graph = false),
    ("no-version", Rule::IrVersion, |file| file.ir.clear()),
    ("version-0", Rule::IrVersion, |file| file.ir = number(1, 0)),
    ("version-2", Rule::IrVersion, |file| file.ir = number(1, 2)),
    ("version-99", Rule::IrVersion, |file| file.ir = number(1, 99)),
    ("version-negative", Rule::IrVersion, |file| file.ir = number(1, u64::MAX)),
    ("no-operators-imported", Rule::Opset, |file| file.imports.clear()),
    ("operators-0", Rule::Opset, |file| file.imports = vec![import("", 0)]),
    ("operators-99", Rule::Opset, |file| file.imports = vec![import("", 99)]),
    ("operators-negative", Rule::Opset, |file| file.imports = vec![import("", u64::MAX)]),
    ("operators-twice", Rule::Opset, |file| file.imports.push(import("", 13))),
    ("operators-twice-by-other-name", Rule::Opset, |file| file.imports.push(import("ai.onnx", 13))),
    ("learning-operators-99", Rule::Opset, |file| file.imports.push(import("ai.onnx.ml", 99))),
    ("vendor-operators-not-imported", Rule::Opset, |file| file.nodes.push(call("com.microsoft", "Gelu", "x", "z"))),
    ("unknown-domain", Rule::Domain, |file| file.nodes.push(call("com.example.evil", "Shell", "x", "z"))),
    ("domain-of-a-library", Rule::Domain, |file| file.nodes.push(call("/tmp/evil.so", "Op", "x", "z"))),
    ("python-operators", Rule::Domain, |file| file.nodes.push(call("ai.onnx.contrib", "PyOp", "x", "z"))),
    ("unknown-domain-inside", Rule::Domain, |file| {
        let graph = bytes(6, bytes(1, call("com.example.evil", "Shell", "x", "z")));
        file.nodes.push(node("If", &["x"], &["i"], &attribute("then_branch", GRAPH, &graph)));
    }),
    ("function-of-known-domain-missing", Rule::Domain, |file| {
        file.after = bytes(25, function("f", "one", &[node("Neg", &["a"], &["b"], &[])]));
        file.nodes.push(call("f", "two", "x", "z"));
    }),
    ("operator-unnamed", Rule::Name, |file| file.nodes.push(node("", &["x"], &["z"], &[]))),
    ("weights-unnamed", Rule::Name, |file| file.initializers.push(weights(""))),
    ("input-unnamed", Rule::Name, |file| file.inputs.push(port("", FLOAT, &[1]))),
    ("attribute-unnamed", Rule::Name, |file| {
        file.nodes.push(node("Neg", &["x"], &["z"], &attribute("", 2, &number(3, 1))));
    }),
    ("function-unnamed", Rule::Name, |file| {
        file.after = bytes(25, function("f", "", &[node("Neg", &["a"], &["b"], &[])]));
    }),
    ("two-nodes-make-one-value", Rule::DuplicateName, |file| file.nodes.push(node("Neg", &["x"], &["y"], &[]))),
    ("one-node-makes-it-twice", Rule::DuplicateName, |file| file.nodes.push(node("Split", &["x"], &["z", "z"], &[]))),
    ("weights-twice", Rule::DuplicateName, |file| file.initializers.push(weights("w"))),
    ("input-twice", Rule::DuplicateName, |file| file.inputs.push(port("x", FLOAT, &[1]))),
    ("node-makes-an-input", Rule::DuplicateName, |file| file.nodes.push(node("Neg", &["w"], &["x"], &[]))),
    ("node-makes-weights", Rule::DuplicateName, |file| file.nodes.push(node("Neg", &["x"], &["w"], &[]))),
    ("input-from-nowhere", Rule::Undefined, |file| file.nodes.push(node("Neg", &["nowhere"], &["z"], &[]))),
    ("output-from-nowhere", Rule::Undefined, |file| file.outputs.push(port("nowhere", FLOAT, &[1]))),
    ("inner-input-from-nowhere", Rule::Undefined, |file| {
        let graph = bytes(6, bytes(1, node("Neg", &["nowhere"], &["z"], &[])));
        file.nodes.push(node("If", &["x"], &["i"], &attribute("then_branch", GRAPH, &graph)));
    }),
    ("function-takes-from-outside", Rule::Undefined, |file| {
        file.after = bytes(25, function("f", "one", &[node("Neg", &["x"], &["b"], &[])]));
    }),
    ("node-waits-for-itself", Rule::Cycle, |file| file.nodes.push(node("Neg", &["z"], &["z"], &[]))),
    ("two-nodes-wait", Rule::Cycle, |file| {
        file.nodes.extend([node("Neg", &["p"], &["q"], &[]), node("Neg", &["q"], &["p"], &[])]);
    }),
    ("thousand-nodes-wait", Rule::Cycle, |file| {
        let name = |at: usize| format!("v{}", at % 1000);
        file.nodes.extend((0..1000).map(|at| node("Neg", &[&name(at)], &[&name(at + 1)], &[])));
    }),
    ("inner-graph-waits-for-its-node", Rule::Cycle, |file| {
        let graph = bytes(6, bytes(1, node("Neg", &["i"], &["z"], &[])));
        file.nodes.push(node("If", &["x"], &["i"], &attribute("then_branch", GRAPH, &graph)));
    }),
    ("function-waits", Rule::Cycle, |file| {
        file.after = bytes(25, function("f", "one", &[node("Neg", &["b"], &["b"], &[])]));
    }),
    ("attribute-twice", Rule::Attribute, |file| {
        let axis = attribute("axis", 2, &number(3, 1));
        file.nodes.push(node("Softmax", &["x"], &["z"], &axis.repeat(2)));
    }),
    ("attributes-257", Rule::Attribute, |file| {
        let all: Vec<u8> = (0..257).flat_map(|at| attribute(&format!("a{at}"), 2, &number(3, 1))).collect();
        file.nodes.push(node("Softmax", &["x"], &["z"], &all));
    }),
    ("attribute-of-two-types", Rule::Attribute, |file| {
        let both = [number(3, 1), bytes(4, "one")].concat();
        file.nodes.push(node("Softmax", &["x"], &["z"], &attribute("axis", 2, &both)));
    }),
    ("attribute-of-other-type", Rule::Attribute, |file| {
        file.nodes.push(node("Softmax", &["x"], &["z"], &attribute("axis", 3, &number(3, 1))));
    }),
    ("attribute-of-type-99", Rule::Attribute, |file| {
        file.nodes.push(node("Softmax", &["x"], &["z"], &attribute("axis", 99, &number(3, 1))));
    }),
    ("attribute-with-two-graphs", Rule::Attribute, |file| {
        let both = [bytes(6, bytes(2, "a")), bytes(6, bytes(2, "b"))].concat();
        file.nodes.push(node("If", &["x"], &["z"], &attribute("then_branch", GRAPH, &both)));
    }),
    ("input-untyped", Rule::Port, |file| file.inputs.push(bytes(1, "z"))),
    ("output-untyped", Rule::Port, |file| file.outputs[0] = bytes(1, "y")),
    ("input-of-type-0", Rule::Port, |file| file.inputs.push(port("z", 0, &[1]))),
    ("input-of-type-99", Rule::Port, |file| file.inputs.push(port("z", 99, &[1]))),
    ("input-negative", Rule::Extent, |file| file.inputs.push(port("z", FLOAT, &[u64::MAX]))),
    ("input-of-33-axes", Rule::Axes, |file| file.inputs.push(port("z", FLOAT, &[1; 33]))),
    ("types-in-types", Rule::Nesting, |file| {
        let deep = (0..1000).fold(Vec::new(), |inner, _| bytes(4, bytes(1, inner)));
        file.inputs.push([bytes(1, "z"), bytes(2, deep)].concat());
    }),
    ("graphs-in-graphs-17", Rule::Nesting, |file| file.in_graph = nested(17)),
    ("graphs-in-graphs-10000", Rule::Nesting, |file| file.in_graph = nested(10_000)),
    ("graphs-too-many", Rule::NodeCount, |file| {
        let graphs = bytes(11, bytes(2, "g")).repeat(20_000);
        file.nodes.push(node("If", &["x"], &["z"], &attribute("branches", 10, &graphs)));
    }),
    ("nodes-too-many", Rule::NodeCount, |file| file.nodes.extend(vec![node("A", &[], &[], &[]); 200_000])),
    ("data-one-byte-short", Rule::TensorData, |file| file.initializers.push(tensor("z", FLOAT, &[4], &[0; 15]))),
    ("data-one-byte-long", Rule::TensorData, |file| file.initializers.push(tensor("z", FLOAT, &[4], &[0; 17]))),
    ("data-missing", Rule::TensorData, |file| {
        file.initializers.push([number(1, 1 << 40), number(2, FLOAT), bytes(8, "z")].concat());
    }),
    ("data-for-nothing", Rule::TensorData, |file| file.initializers.push(tensor("z", FLOAT, &[0], &[0; 4]))),
    ("data-in-two-places", Rule::TensorData, |file| {
        file.initializers.push([weights("z"), bytes(4, [0; 16])].concat());
    }),
    ("raw-data-twice", Rule::TensorData, |file| file.initializers.push([weights("z"), bytes(9, [0; 16])].concat())),
    ("floats-too-few", Rule::TensorData, |file| {
        file.initializers.push([number(1, 4), number(2, FLOAT), bytes(8, "z"), bytes(4, [0; 12])].concat());
    }),
    ("floats-cut", Rule::TensorData, |file| {
        file.initializers.push([number(1, 4), number(2, FLOAT), bytes(8, "z"), bytes(4, [0; 15])].concat());
    }),
    ("floats-as-integers", Rule::TensorData, |file| {
        file.initializers.push([number(1, 4), number(2, FLOAT), bytes(8, "z"), bytes(5, [0; 4])].concat());
    }),
    ("text-as-raw-data", Rule::TensorData, |file| file.initializers.push(tensor("z", 8, &[1], &[0; 4]))),
    ("half-bytes-one-too-few", Rule::TensorData, |file| file.initializers.push(tensor("z", 22, &[5], &[0; 2]))),
    ("type-0", Rule::ElementType, |file| file.initializers.push(tensor("z", 0, &[1], &[0; 4]))),
    ("type-99", Rule::ElementType, |file| file.initializers.push(tensor("z", 99, &[1], &[0; 4]))),
    ("axis-negative", Rule::TensorSize, |file| file.initializers.push(tensor("z", FLOAT, &[u64::MAX], &[0; 4]))),
    ("axis-negative-beside-0", Rule::Extent, |file| file.initializers.push(tensor("z", FLOAT, &[0, u64::MAX], &[]))),
    ("size-2-to-64", Rule::TensorSize, |file| file.initializers.push(tensor("z", FLOAT, &[1 << 32, 1 << 32], &[]))),
    ("size-wraps-to-0", Rule::TensorSize, |file| file.initializers.push(tensor("z", FLOAT, &[1 << 62, 4], &[]))),
    ("axes-33", Rule::Axes, |file| file.initializers.push(tensor("z", FLOAT, &[1; 33], &[0; 4]))),
    ("external-path-upwards", Rule::ExternalData, |file| external(file, "../../../etc/passwd")),
    ("external-path-absolute", Rule::ExternalData, |file| external(file, "/proc/self/mem")),
    ("external-path-beside", Rule::ExternalData, |file| external(file, "weights.bin")),
    ("external-by-flag", Rule::ExternalData, |file| file.initializers[0].extend(number(14, 1))),
    ("external-in-attribute", Rule::ExternalData, |file| {
        let value = bytes(5, [number(2, FLOAT), bytes(13, bytes(1, "location"))].concat());
        file.nodes.push(node("Constant", &[], &["c"], &attribute("value", TENSOR, &value)));
    }),
    ("sparse-weights", Rule::SparseTensor, |file| file.in_graph = bytes(15, bytes(1, weights("z")))),
    ("sparse-attribute", Rule::SparseTensor, |file| {
        file.nodes.push(node("Constant", &[], &["c"], &attribute("sparse_value", 11, &bytes(22, ""))));
    }),
    ("weights-in-segments", Rule::Segment, |file| file.initializers[0].extend(bytes(3, number(1, 0)))),
    ("training", Rule::Training, |file| file.after = bytes(20, "")),
    ("function-calls-itself", Rule::Recursion, |file| {
        file.after = bytes(25, function("f", "one", &[call("f", "one", "a", "b")]));
        file.nodes.push(call("f", "one", "x", "z"));
    }),
    ("functions-call-each-other", Rule::Recursion, |file| {
        let pair =
            [function("f", "one", &[call("f", "two", "a", "b")]), function("f", "two", &[call("f", "one", "a", "b")])];
        file.after = pair.iter().flat_map(|function| bytes(25, function)).collect();
    }),
    ("function-twice", Rule::DuplicateFunction, |file| {
        file.after = bytes(25, function("f", "one", &[node("Neg", &["a"], &["b"], &[])])).repeat(2);
    }),
    ("function-in-place-of-an-operator", Rule::DuplicateFunction, |file| {
        file.after = bytes(25, function("", "Add", &[node("Neg", &["a"], &["b"], &[])]));
    }),
    ("functions-double-40-times", Rule::Expansion, |file| {
        let name = |at: usize| format!("f{at}");
        for at in 0..40 {
            let twice = [call("f", &name(at + 1), "a", "c"), call("f", &name(at + 1), "c", "b")];
            file.after.extend(bytes(25, function("f", &name(at), &twice)));
        }
        file.after.extend(bytes(25, function("f", "f40", &[node("Neg", &["a"], &["b"], &[])])));
        file.nodes.push(call("f", "f0", "x", "z"));
    }),
    ("functions-1000-deep", Rule::Nesting, |file| {
        let name = |at: usize| format!("f{at}");
        for at in 0..1000 {
            file.after.extend(bytes(25, function("f", &name(at), &[call("f", &name(at + 1), "a", "b")])));
        }
        file.after.extend(bytes(25, function("f", "f1000", &[node("Neg", &["a"], &["b"], &[])])));
        file.nodes.push(call("f", "f0", "x", "z"));
    }),
    ("constant-of-2-to-40", Rule::Amplification, |file| by_shape(file, "ConstantOfShape", &["s"], &[1 << 40])),
    ("constant-of-many-axes", Rule::Amplification, |file| by_shape(file, "ConstantOfShape", &["s"], &[1 << 20; 4])),
    ("expand-to-2-to-60", Rule::Amplification, |file| by_shape(file, "Expand", &["x", "s"], &[1 << 30, 1 << 30])),
    ("tile-2-to-40-times", Rule::Amplification, |file| by_shape(file, "Tile", &["x", "s"], &[1 << 20, 1 << 20])),
    ("constant-of-a-constant", Rule::Amplification, |file| {
        let value = attribute("value_ints", 7, &number(8, 1 << 50));
        file.nodes.push(node("Constant", &[], &["s"], &value));
        file.nodes.push(node("ConstantOfShape", &["s"], &["big"], &[]));
    }),
];

fn external(file: &mut Onnx, location: &str) {
    let entry = [bytes(1, "location"), bytes(2, location)].concat();
    let parts = [number(1, 4), number(2, FLOAT), bytes(8, "z"), bytes(13, entry), number(14, 1)];
    file.initializers.push(parts.concat());
}

pub(crate) fn all() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add =
        |name: String, rule, bytes| all.push(Hostile { name: format!("onnx-{name}"), file: "model.onnx", rule, bytes });
    for (name, rule, change) in CHANGES {
        let mut file = Onnx::good();
        change(&mut file);
        add((*name).to_owned(), *rule, file.bytes());
    }
    // Never between two fields: there it would be another file.
    let whole = Onnx::good().bytes();
    for kept in [1, 3, 7, 14, 20, 40, whole.len() - 1] {
        add(format!("cut-at-{kept}"), Rule::Truncated, whole[..kept].to_vec());
    }
    add("empty".to_owned(), Rule::Empty, Vec::new());
    add("page".to_owned(), Rule::Tag, b"<!DOCTYPE html><html><body>404</body></html>".to_vec());
    add("pickle".to_owned(), Rule::Tag, b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00idq\x00\x85Rq\x01.".to_vec());
    add("zip".to_owned(), Rule::Tag, b"PK\x03\x04\x14\0\0\0\x08\0".to_vec());
    add("gguf".to_owned(), Rule::Tag, super::gguf::Gguf::good().bytes());
    all
}
