//! ONNX, as protobuf: read field by field where it lies, so that no message is ever held whole.
//!
//! A graph must be complete in itself: no data in other files, no operators of unknown domains, every value made once, no
//! node waiting for itself, functions that end. Format: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

mod attribute;
mod functions;
mod graph;
mod order;
mod port;
mod tensor;
mod wire;

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::refusal::quoted;
use super::{Refusal, Rule};
use functions::{Body, Functions};
use graph::Graph;
use wire::Wire;

/// The longest file: protobuf ends there.
pub const MAX_FILE_BYTES: u64 = (2 << 30) - 1;

/// Versions of the representation that engines know.
const IR_VERSIONS: std::ops::RangeInclusive<u64> = 3..=13;

/// Domains whose operators engines have, with the newest version of each. `ai.onnx` is another name of the first.
const DOMAINS: [(&str, u64); 3] = [("", 26), ("ai.onnx.ml", 5), ("com.microsoft", 1)];

/// The most nodes of a model, those of its functions included, wherever these are called.
const MAX_NODES: u64 = 200_000;

/// What a file turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of the representation.
    pub ir_version: u64,
    /// The version of the standard operators, 0 where none is imported.
    pub opset: u64,
    /// Nodes, those of inner graphs included.
    pub nodes: u64,
    /// Bytes of weights.
    pub data_bytes: u64,
    /// Functions that it defines.
    pub functions: usize,
}

/// Reads the whole structure; of the weights, only that they are as long as their shapes say.
pub fn check(source: impl Read + Seek) -> Result<Summary, Refusal> {
    let mut wire = Wire::new(source, MAX_FILE_BYTES)?;
    let mut model = Model::default();
    model.read(&mut wire)?;
    model.finish()
}

/// The domain under the one name that it has here.
fn domain_of(name: String) -> String {
    if name == "ai.onnx" { String::new() } else { name }
}

fn is_standard(domain: &str) -> bool {
    DOMAINS.iter().any(|(known, _)| *known == domain)
}

#[derive(Default)]
struct Model {
    ir_version: Option<u64>,
    imports: HashMap<String, u64>,
    graphs: usize,
    body: Body,
    functions: Functions,
    data_bytes: u64,
}

impl Model {
    fn read<R: Read + Seek>(&mut self, wire: &mut Wire<R>) -> Result<(), Refusal> {
        let end = wire.length();
        while let Some(field) = wire.next(end)? {
            match field.number {
                1 if self.ir_version.is_some() => return Err(wire.refuse(Rule::Repeated, "ir_version")),
                1 => self.ir_version = Some(field.varint(wire)?),
                7 => {
                    self.graphs += 1;
                    if self.graphs > 1 {
                        return Err(wire.refuse(Rule::Repeated, "graph"));
                    }
                    let end = field.message(wire)?;
                    let mut reading = graph::Reading::new(wire, &mut self.body);
                    let graph = Graph::read(&mut reading, end, 0)?;
                    graph.finish_outermost(&reading)?;
                    self.data_bytes = reading.data_bytes;
                }
                8 => read_import(wire, field.message(wire)?, &mut self.imports)?,
                20 => return Err(wire.refuse(Rule::Training, "training_info")),
                25 => {
                    let end = field.message(wire)?;
                    self.functions.read(wire, end)?;
                }
                _ => {}
            }
            wire.leave(&field)?;
        }
        Ok(())
    }

    /// What can only be told when everything has been read: protobuf's fields come in any order.
    fn finish(self) -> Result<Summary, Refusal> {
        let refuse = |rule, place: &str| Err(Refusal::new(rule, place, 0));
        let ir_version = match self.ir_version {
            Some(version) if IR_VERSIONS.contains(&version) => version,
            _ => return refuse(Rule::IrVersion, "ir_version"),
        };
        if self.graphs == 0 {
            return refuse(Rule::NoGraph, "the model");
        }
        // What no node uses, exporters import all the same; whether other domains are known is asked of the nodes' operators.
        for (domain, newest) in DOMAINS {
            let versions = [self.imports.get(domain), self.functions.import(domain)];
            if versions.into_iter().flatten().any(|version| !(1..=newest).contains(version)) {
                return refuse(Rule::Opset, &format!("opset_import of {}", named(domain)));
            }
            if versions == [None, None] && (self.body.has_domain(domain) || self.functions.has_domain(domain)) {
                return refuse(Rule::Opset, &format!("operators of {}", named(domain)));
            }
        }
        self.functions.check(&self.body)?;
        Ok(Summary {
            ir_version,
            opset: self.imports.get("").copied().unwrap_or(0),
            nodes: self.body.nodes,
            data_bytes: self.data_bytes,
            functions: self.functions.len(),
        })
    }
}

fn named(domain: &str) -> String {
    if domain.is_empty() { "ai.onnx".to_owned() } else { quoted(domain) }
}

fn read_import<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    imports: &mut HashMap<String, u64>,
) -> Result<(), Refusal> {
    let (mut domain, mut version) = (String::new(), 0);
    while let Some(field) = wire.next(end)? {
        match field.number {
            1 => domain = domain_of(field.text(wire)?),
            2 => version = field.varint(wire)?,
            _ => {}
        }
        wire.leave(&field)?;
    }
    match imports.insert(domain, version) {
        None => Ok(()),
        Some(_) => Err(wire.refuse(Rule::Opset, "opset_import")),
    }
}
