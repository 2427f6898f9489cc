//! A graph: values that are given, values that nodes make, and what each node needs.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::attribute::Attribute;
use super::functions::Body;
use super::order::{Order, Value};
use super::port::Port;
use super::tensor::Tensor;
use super::wire::Wire;
use super::{MAX_NODES, domain_of};

/// How deeply graphs may stand in the nodes of graphs.
const MAX_DEPTH: usize = 16;

/// The most graphs in the nodes of graphs; a node that chooses has two.
const MAX_GRAPHS: usize = 20_000;

/// The most attributes of a node; the operator with the most has some dozens.
const MAX_ATTRIBUTES: usize = 256;

/// The most elements of a tensor that a constant shape may ask for: nothing that is computed with has as many.
const MAX_ELEMENTS: u64 = 1 << 31;

/// Operators that make a tensor of a shape that one of their inputs holds, and which input that is.
const BY_SHAPE: [(&str, usize); 3] = [("ConstantOfShape", 0), ("Expand", 1), ("Tile", 1)];

/// What reading a graph needs around it.
pub(super) struct Reading<'a, R> {
    pub(super) wire: &'a mut Wire<R>,
    body: &'a mut Body,
    names: HashMap<String, u32>,
    pub(super) data_bytes: u64,
    graphs: usize,
}

impl<'a, R: Read + Seek> Reading<'a, R> {
    pub(super) fn new(wire: &'a mut Wire<R>, body: &'a mut Body) -> Self {
        Self { wire, body, names: HashMap::new(), data_bytes: 0, graphs: 0 }
    }

    /// A name as a number, the same wherever it stands.
    pub(super) fn number(&mut self, name: String) -> u32 {
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        *self.names.entry(name).or_insert(next)
    }

    fn name(&self, number: u32) -> String {
        let name = self.names.iter().find(|(_, known)| **known == number);
        name.map_or_else(String::new, |(name, _)| format!("value {}", quoted(name)))
    }
}

/// A graph that has been read.
#[derive(Default)]
pub(super) struct Graph {
    /// Values that it uses and does not make, each once.
    pub(super) captured: Vec<u32>,
}

impl Graph {
    /// `depth` counts the graphs that this one stands in.
    pub(super) fn read<R: Read + Seek>(reading: &mut Reading<'_, R>, end: u64, depth: usize) -> Result<Self, Refusal> {
        if depth > MAX_DEPTH {
            return Err(reading.wire.refuse(Rule::Nesting, "a graph"));
        }
        reading.graphs += 1;
        if reading.graphs > MAX_GRAPHS {
            return Err(reading.wire.refuse(Rule::NodeCount, "a graph"));
        }
        let (mut scope, mut results) = (Scope::default(), Vec::new());
        while let Some(field) = reading.wire.next(end)? {
            match field.number {
                1 => {
                    let end = field.message(reading.wire)?;
                    scope.read_node(reading, end, depth)?;
                }
                5 => {
                    let end = field.message(reading.wire)?;
                    scope.read_initializer(reading, end)?;
                }
                11 | 12 => {
                    let end = field.message(reading.wire)?;
                    let port = Port::read(reading.wire, end)?;
                    if depth == 0 && !port.typed {
                        return Err(reading.wire.refuse(Rule::Port, port.place()));
                    }
                    let place = port.place();
                    let number = reading.number(port.name);
                    if field.number == 12 {
                        results.push(number);
                    } else if !scope.inputs.insert(number) {
                        return Err(reading.wire.refuse(Rule::DuplicateName, place));
                    }
                }
                15 => return Err(reading.wire.refuse(Rule::SparseTensor, "sparse_initializer")),
                _ => {}
            }
            reading.wire.leave(&field)?;
        }
        scope.finish(reading, &results)
    }

    /// The outermost graph, and a function's body, have nothing around them to take values from.
    pub(super) fn finish_outermost<R: Read + Seek>(&self, reading: &Reading<'_, R>) -> Result<(), Refusal> {
        match self.captured.first() {
            Some(number) => Err(reading.wire.refuse(Rule::Undefined, reading.name(*number))),
            None => Ok(()),
        }
    }
}

/// The values of one graph.
#[derive(Default)]
pub(super) struct Scope {
    inputs: HashSet<u32>,
    /// Initializers, which may give an input its default.
    weights: HashSet<u32>,
    /// What nodes make, and which.
    made: HashMap<u32, u32>,
    order: Order,
    /// Constants that could be a shape, with the elements of a tensor of that shape.
    shapes: HashMap<u32, u64>,
    /// Nodes that make a tensor of a shape, and the value that holds the shape.
    shaped: Vec<u32>,
}

/// A node as it is read.
#[derive(Default)]
struct Node {
    inputs: Vec<u32>,
    outputs: Vec<u32>,
    captured: Vec<u32>,
    kind: String,
    domain: String,
    attributes: HashSet<String>,
    as_shape: Option<u64>,
}

impl Scope {
    /// A value that is there from the start.
    pub(super) fn give<R: Read + Seek>(&mut self, reading: &mut Reading<'_, R>, name: String) -> Result<(), Refusal> {
        let number = reading.number(name);
        match self.inputs.insert(number) {
            true => Ok(()),
            false => Err(reading.wire.refuse(Rule::DuplicateName, reading.name(number))),
        }
    }

    fn read_initializer<R: Read + Seek>(&mut self, reading: &mut Reading<'_, R>, end: u64) -> Result<(), Refusal> {
        let tensor = Tensor::read(reading.wire, end)?;
        if tensor.name.is_empty() {
            return Err(reading.wire.refuse(Rule::Name, "an initializer"));
        }
        reading.data_bytes = reading.data_bytes.saturating_add(tensor.bytes);
        let number = reading.number(tensor.name);
        if let Some(elements) = tensor.as_shape {
            self.shapes.insert(number, elements);
        }
        match self.weights.insert(number) {
            true => Ok(()),
            false => Err(reading.wire.refuse(Rule::DuplicateName, reading.name(number))),
        }
    }

    pub(super) fn read_node<R: Read + Seek>(
        &mut self,
        reading: &mut Reading<'_, R>,
        end: u64,
        depth: usize,
    ) -> Result<(), Refusal> {
        reading.body.nodes += 1;
        if reading.body.nodes > MAX_NODES {
            return Err(reading.wire.refuse(Rule::NodeCount, "a node"));
        }
        let node = Node::read(reading, end, depth)?;
        let nothing = reading.number(String::new());
        let needs = node.inputs.iter().filter(|input| **input != nothing).chain(&node.captured);
        let at = self.order.add(needs.copied());
        for output in &node.outputs {
            match self.made.entry(*output) {
                Entry::Vacant(place) => drop(place.insert(at)),
                Entry::Occupied(_) => {
                    return Err(reading.wire.refuse(Rule::DuplicateName, reading.name(*output)));
                }
            }
        }
        if let (Some(elements), [output]) = (node.as_shape.filter(|_| node.kind == "Constant"), &*node.outputs) {
            self.shapes.insert(*output, elements);
        }
        let by_shape = BY_SHAPE.iter().find(|(kind, _)| node.domain.is_empty() && *kind == node.kind);
        self.shaped.extend(by_shape.and_then(|(_, input)| node.inputs.get(*input)));
        reading.body.call(node.domain, node.kind);
        Ok(())
    }

    /// What needs all of the graph to be known.
    pub(super) fn finish<R: Read + Seek>(
        self,
        reading: &mut Reading<'_, R>,
        results: &[u32],
    ) -> Result<Graph, Refusal> {
        let given = |number: &u32| self.inputs.contains(number) || self.weights.contains(number);
        if let Some(twice) = self.made.keys().find(|number| given(number)) {
            return Err(reading.wire.refuse(Rule::DuplicateName, reading.name(*twice)));
        }
        if let Some(shape) =
            self.shaped.iter().find(|shape| self.shapes.get(shape).is_some_and(|of| *of > MAX_ELEMENTS))
        {
            return Err(reading.wire.refuse(Rule::Amplification, reading.name(*shape)));
        }
        let value = |number: u32| match self.made.get(&number) {
            Some(node) => Value::Made(*node),
            None if given(&number) => Value::Given,
            None => Value::Elsewhere,
        };
        let mut captured = match self.order.check(value) {
            Ok(captured) => captured,
            Err(number) => return Err(reading.wire.refuse(Rule::Cycle, reading.name(number))),
        };
        captured.extend(results.iter().copied().filter(|result| value(*result) == Value::Elsewhere));
        captured.sort_unstable();
        captured.dedup();
        Ok(Graph { captured })
    }
}

impl Node {
    fn read<R: Read + Seek>(reading: &mut Reading<'_, R>, end: u64, depth: usize) -> Result<Self, Refusal> {
        let mut node = Self::default();
        while let Some(field) = reading.wire.next(end)? {
            match field.number {
                1 | 2 => {
                    let name = field.text(reading.wire)?;
                    // An empty name stands for an optional value that is left out; its place counts.
                    let number = reading.number(name);
                    let list = if field.number == 1 { &mut node.inputs } else { &mut node.outputs };
                    list.push(number);
                }
                4 => node.kind = field.text(reading.wire)?,
                5 => {
                    let end = field.message(reading.wire)?;
                    node.add(reading, end, depth)?;
                }
                7 => node.domain = domain_of(field.text(reading.wire)?),
                _ => {}
            }
            reading.wire.leave(&field)?;
        }
        if node.kind.is_empty() {
            return Err(reading.wire.refuse(Rule::Name, "a node's operator"));
        }
        let nothing = reading.number(String::new());
        node.outputs.retain(|output| *output != nothing);
        Ok(node)
    }

    fn add<R: Read + Seek>(&mut self, reading: &mut Reading<'_, R>, end: u64, depth: usize) -> Result<(), Refusal> {
        let attribute = Attribute::read(reading, end, depth)?;
        let place = || format!("attribute {}", quoted(&attribute.name));
        if self.attributes.len() >= MAX_ATTRIBUTES || self.attributes.contains(&attribute.name) {
            return Err(reading.wire.refuse(Rule::Attribute, place()));
        }
        self.captured.extend(attribute.captured);
        self.as_shape = self.as_shape.or(attribute.as_shape);
        self.attributes.insert(attribute.name);
        Ok(())
    }
}
