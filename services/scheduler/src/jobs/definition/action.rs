//! Actions: what a step does, as it was checked.

use std::collections::BTreeSet;

use prost_reflect::MethodDescriptor;
use weft_proto::weft::jobs::v1 as jobs;
use weft_proto::weft::jobs::v1::action::Kind;
use weft_types::{ModelName, Version};

use super::schema::Described;
use super::{Mistakes, targets};
use crate::jobs::template::{Reader, Roots, Template};

const MAX_INPUTS: usize = 64;
const MAX_OUTPUTS: usize = 64;
const MAX_PARAMETERS: usize = 64;
const MAX_POOLS: usize = 8;
const MAX_SLOTS: u32 = 32;
/// Slots of one step over all pools: what the log takes in one transaction.
const MAX_TOGETHER: u64 = 64;
const MAX_REPLICAS: u32 = 1_000;
/// Bytes of a name that another service gave: a tensor's, a method's.
const MAX_NAME_BYTES: usize = 256;

/// What an action is.
#[derive(Debug)]
pub(crate) enum Act {
    /// Calls a model or route.
    Infer(Infer),
    /// Calls a method of another service.
    Call(Call),
    /// Asks that a model be held.
    Load {
        /// Which.
        model: ModelName,
        /// By how many workers.
        replicas: u32,
    },
    /// Takes back what the step asked to be held.
    GiveBack {
        /// Which.
        model: ModelName,
    },
    /// Asks that a model not be held any more, whoever asked for it.
    Unload {
        /// Which.
        model: ModelName,
    },
    /// Makes a value.
    Compute(Template),
    /// Takes slots: so many of each pool.
    Reserve(Vec<(String, u32)>),
    /// Gives back the slots of the step of this index.
    Release(usize),
    /// Waits for the signal of this name.
    Wait(String),
}

/// A call of a model.
#[derive(Debug)]
pub(crate) struct Infer {
    /// A model or a route.
    pub(crate) model: ModelName,
    /// A number; empty means the latest.
    pub(crate) version: String,
    /// Tensors by name.
    pub(crate) inputs: Vec<(String, Template)>,
    /// The outputs asked for; with none all.
    pub(crate) outputs: Vec<String>,
    /// Parameters of the request.
    pub(crate) parameters: Vec<(String, Template)>,
}

/// A call of another service.
#[derive(Debug)]
pub(crate) struct Call {
    /// `host:port`.
    pub(crate) target: String,
    /// The service's full name.
    pub(crate) service: String,
    /// The method's name.
    pub(crate) method: String,
    /// The request.
    pub(crate) request: Template,
    /// What the definition says of the method; without it the service is asked.
    pub(crate) descriptor: Option<MethodDescriptor>,
}

impl Act {
    /// The service or model that it waits for.
    pub(crate) fn other_side(&self) -> Option<&str> {
        match self {
            Self::Infer(infer) => Some(infer.model.as_str()),
            Self::Call(call) => Some(&call.target),
            Self::Load { model, .. } | Self::GiveBack { model } | Self::Unload { model } => Some(model.as_str()),
            Self::Compute(_) | Self::Reserve(_) | Self::Release(_) | Self::Wait(_) => None,
        }
    }

    /// Adds everything that its templates refer to.
    pub(crate) fn roots(&self, roots: &mut Roots) {
        self.templates().into_iter().for_each(|template| template.roots(roots));
    }

    /// What is rendered for it.
    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Infer(infer) => infer.inputs.iter().chain(&infer.parameters).map(|(_, template)| template).collect(),
            Self::Call(call) => vec![&call.request],
            Self::Compute(template) => vec![template],
            Self::Load { .. }
            | Self::GiveBack { .. }
            | Self::Unload { .. }
            | Self::Reserve(_)
            | Self::Release(_)
            | Self::Wait(_) => Vec::new(),
        }
    }
}

/// Reads one action. What cannot be read is a mistake and `None`.
pub(super) fn read(
    field: &str,
    action: &jobs::Action,
    reader: &mut Reader<'_>,
    described: &mut Described,
) -> Option<Act> {
    let Some(kind) = &action.kind else {
        reader.mistakes.add(field, "must be one of infer, call, reserve, release, load, unload, wait, compute");
        return None;
    };
    match kind {
        Kind::Infer(it) => infer(&format!("{field}.infer"), it, reader).map(Act::Infer),
        Kind::Call(it) => call(&format!("{field}.call"), it, reader, described).map(Act::Call),
        Kind::Reserve(it) => Some(Act::Reserve(pools(&format!("{field}.reserve.pools"), it, reader.mistakes))),
        Kind::Release(it) => {
            let step = reader.names.steps.get(it.step.as_str()).copied();
            reader.mistakes.check(&format!("{field}.release.step"), step.ok_or("there is no step of that name"));
            step.map(Act::Release)
        }
        Kind::Load(it) => {
            if !(1..=MAX_REPLICAS).contains(&it.replicas) {
                reader.mistakes.add(&format!("{field}.load.replicas"), format_args!("must be 1 to {MAX_REPLICAS}"));
            }
            let model = model(&format!("{field}.load.model"), &it.model, reader.mistakes)?;
            Some(Act::Load { model, replicas: it.replicas })
        }
        Kind::Unload(it) => {
            let model = model(&format!("{field}.unload.model"), &it.model, reader.mistakes)?;
            Some(Act::Unload { model })
        }
        Kind::Wait(it) => {
            // Whether it is a name is checked with those of steps.
            Some(Act::Wait(it.name.clone()))
        }
        Kind::Compute(it) => {
            let at = format!("{field}.compute.value");
            let Some(value) = &it.value else {
                reader.mistakes.add(&at, "is missing");
                return None;
            };
            Some(Act::Compute(reader.read(&at, value)))
        }
    }
}

fn model(field: &str, name: &str, mistakes: &mut Mistakes) -> Option<ModelName> {
    mistakes.check(field, name.parse())
}

fn infer(field: &str, infer: &jobs::Infer, reader: &mut Reader<'_>) -> Option<Infer> {
    let mistakes = &mut *reader.mistakes;
    let model = model(&format!("{field}.model"), &infer.model, mistakes);
    if !infer.version.is_empty() {
        mistakes.check(&format!("{field}.version"), infer.version.parse::<Version>());
    }
    at_most(&format!("{field}.inputs"), infer.inputs.len(), MAX_INPUTS, mistakes);
    at_most(&format!("{field}.outputs"), infer.outputs.len(), MAX_OUTPUTS, mistakes);
    let parameters = infer.parameters.as_ref().map(|parameters| &parameters.fields);
    let count = parameters.map_or(0, |parameters| parameters.len());
    at_most(&format!("{field}.parameters"), count, MAX_PARAMETERS, mistakes);
    let names = infer.inputs.keys().chain(&infer.outputs);
    if names.clone().any(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
        mistakes.add(field, format_args!("names of inputs and outputs must be 1 to {MAX_NAME_BYTES} bytes"));
    }
    // Names of tensors are the model's, so `$` means nothing special in them.
    let inputs = infer.inputs.iter().map(|(name, value)| {
        let at = format!("{field}.inputs.{name}");
        (name.clone(), reader.read(&at, value))
    });
    let inputs = inputs.collect();
    let parameters = parameters.map(|fields| reader.read_fields(&format!("{field}.parameters"), fields.iter()));
    Some(Infer {
        model: model?,
        version: infer.version.clone(),
        inputs,
        outputs: infer.outputs.clone(),
        parameters: parameters.unwrap_or_default(),
    })
}

fn call(field: &str, call: &jobs::Call, reader: &mut Reader<'_>, described: &mut Described) -> Option<Call> {
    if call.target.len() > MAX_NAME_BYTES || targets::parse(&call.target).is_none() {
        reader.mistakes.add(&format!("{field}.target"), "must be host:port");
    }
    let at = format!("{field}.method");
    let method = reader.mistakes.check(&at, method(&call.method));
    let request = match &call.request {
        Some(request) => {
            let request = prost_types::value::Kind::StructValue(request.clone());
            reader.read(&format!("{field}.request"), &prost_types::Value { kind: Some(request) })
        }
        None => Template::Literal(serde_json::json!({})),
    };
    let (service, method) = method?;
    let descriptor = match call.descriptor_set.as_slice() {
        [] => None,
        set => {
            let at = format!("{field}.descriptor_set");
            Some(reader.mistakes.check(&at, described.method(set, &service, &method))?)
        }
    };
    Some(Call { target: call.target.clone(), service, method, request, descriptor })
}

/// The service and the method of `package.Service/Method`.
fn method(text: &str) -> Result<(String, String), &'static str> {
    let fits = |name: &str| {
        let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
        name.split('.').all(|part| !part.is_empty() && part.bytes().all(is_letter))
    };
    let parts = text.split_once('/').filter(|_| text.len() <= MAX_NAME_BYTES);
    let parts = parts.filter(|(service, method)| fits(service) && fits(method) && !method.contains('.'));
    parts.map(|(service, method)| (service.to_owned(), method.to_owned())).ok_or("must be package.Service/Method")
}

fn pools(field: &str, reserve: &jobs::Reserve, mistakes: &mut Mistakes) -> Vec<(String, u32)> {
    if !(1..=MAX_POOLS).contains(&reserve.pools.len()) {
        mistakes.add(field, format_args!("must be 1 to {MAX_POOLS}"));
    }
    let mut pools = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, pool) in reserve.pools.iter().enumerate() {
        let at = format!("{field}[{index}]");
        // A pool's name is part of a key, as a model's is.
        mistakes.check(&format!("{at}.pool"), pool.pool.parse::<ModelName>());
        if !seen.insert(&pool.pool) {
            mistakes.add(&format!("{at}.pool"), "is there twice");
        }
        if !(1..=MAX_SLOTS).contains(&pool.slots) {
            mistakes.add(&format!("{at}.slots"), format_args!("must be 1 to {MAX_SLOTS}"));
        }
        pools.push((pool.pool.clone(), pool.slots));
    }
    if pools.iter().map(|(_, slots)| u64::from(*slots)).sum::<u64>() > MAX_TOGETHER {
        mistakes.add(field, format_args!("must be at most {MAX_TOGETHER} slots over all"));
    }
    pools
}

fn at_most(field: &str, count: usize, most: usize, mistakes: &mut Mistakes) {
    if count > most {
        mistakes.add(field, format_args!("must be at most {most}"));
    }
}
