//! What a language model must say about itself, and how its parts must fit together.

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::layout::Layout;
use super::metadata::{Metadata, Value};

/// Where tensor data is aligned when the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;

/// The most layers that llama.cpp has room for.
const MAX_BLOCKS: u64 = 512;

/// The most experts of a layer that llama.cpp has room for.
const MAX_EXPERTS: u64 = 1024;

/// The longest context, in tokens.
const MAX_CONTEXT: u64 = 1 << 28;

/// The widest layer.
const MAX_WIDTH: u64 = 1 << 24;

/// Kinds of array elements: text, and those of the two lists that go with the tokens.
const STRING: u32 = 8;
const FLOAT: u32 = 6;
const INT: u32 = 5;

/// What the metadata says, checked.
pub(super) struct Needs {
    pub(super) alignment: u64,
    pub(super) architecture: String,
    pub(super) blocks: u64,
    pub(super) context: u64,
    pub(super) vocabulary: u64,
    embedding: u64,
}

impl Needs {
    pub(super) fn of(metadata: &Metadata) -> Result<Self, Refusal> {
        let facts = Facts(metadata);
        let alignment = facts.alignment()?;
        let architecture = facts.architecture()?;
        let of = |key: &str, most: u64| facts.number(&format!("{architecture}.{key}"), most);
        let blocks = of("block_count", MAX_BLOCKS)?;
        let context = of("context_length", MAX_CONTEXT)?;
        let embedding = of("embedding_length", MAX_WIDTH)?;
        for (key, most) in [("feed_forward_length", MAX_WIDTH), ("attention.head_count", MAX_WIDTH)] {
            facts.number_or_list(&format!("{architecture}.{key}"), most, blocks)?;
        }
        facts.experts(&format!("{architecture}.expert_count"))?;
        facts.one_file()?;
        let vocabulary = facts.vocabulary(&architecture)?;
        Ok(Self { alignment, architecture, blocks, context, vocabulary, embedding })
    }

    /// The tensors that every such model has, as the metadata describes them.
    pub(super) fn check_tensors(&self, layout: &Layout) -> Result<(), Refusal> {
        let refuse = |rule, name: &str| Err(Refusal::new(rule, format!("tensor {}", quoted(name)), layout.start));
        match layout.tensors.get("token_embd.weight").map(Vec::as_slice) {
            None => return refuse(Rule::MissingTensor, "token_embd.weight"),
            Some([width, ..]) if *width != self.embedding => return refuse(Rule::Extent, "token_embd.weight"),
            Some([_, tokens]) if *tokens == self.vocabulary => {}
            Some(_) => return refuse(Rule::Vocabulary, "token_embd.weight"),
        }
        let mut present = vec![false; usize::try_from(self.blocks).unwrap_or(0)];
        for name in layout.tensors.keys() {
            let Some((number, _)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { continue };
            match number.parse().ok().and_then(|number: usize| present.get_mut(number)) {
                Some(block) => *block = true,
                None => return refuse(Rule::KeyValue, name),
            }
        }
        match present.iter().position(|block| !block) {
            Some(missing) => refuse(Rule::MissingTensor, &format!("blk.{missing}")),
            None => Ok(()),
        }
    }
}

struct Facts<'a>(&'a Metadata);

impl Facts<'_> {
    fn refuse<T>(&self, rule: Rule, key: &str) -> Result<T, Refusal> {
        Err(Refusal::new(rule, format!("metadata {}", quoted(key)), self.0.end))
    }

    fn alignment(&self) -> Result<u64, Refusal> {
        const KEY: &str = "general.alignment";
        match self.0.get(KEY) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Value::Integer(value)) => match u64::try_from(*value) {
                Ok(value @ 8..=65_536) if value.is_power_of_two() => Ok(value),
                _ => self.refuse(Rule::Alignment, KEY),
            },
            Some(_) => self.refuse(Rule::KeyKind, KEY),
        }
    }

    /// Its name becomes part of other keys.
    fn architecture(&self) -> Result<String, Refusal> {
        const KEY: &str = "general.architecture";
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        match self.0.get(KEY) {
            None => self.refuse(Rule::MissingKey, KEY),
            Some(Value::Text(name)) if (1..=64).contains(&name.len()) && name.bytes().all(plain) => Ok(name.clone()),
            Some(Value::Text(_)) => self.refuse(Rule::KeyValue, KEY),
            Some(_) => self.refuse(Rule::KeyKind, KEY),
        }
    }

    /// A positive number.
    fn number(&self, key: &str, most: u64) -> Result<u64, Refusal> {
        match self.0.get(key) {
            None => self.refuse(Rule::MissingKey, key),
            Some(Value::Integer(value)) => match u64::try_from(*value) {
                Ok(value) if (1..=most).contains(&value) => Ok(value),
                _ => self.refuse(Rule::KeyValue, key),
            },
            Some(_) => self.refuse(Rule::KeyKind, key),
        }
    }

    /// A positive number, or one for each layer.
    fn number_or_list(&self, key: &str, most: u64, blocks: u64) -> Result<(), Refusal> {
        match self.0.get(key) {
            Some(Value::Array { kind: 0..=5 | 10 | 11, elements }) if *elements == blocks => Ok(()),
            Some(Value::Array { kind: 0..=5 | 10 | 11, .. }) => self.refuse(Rule::KeyValue, key),
            _ => self.number(key, most).map(drop),
        }
    }

    /// Models without experts say 0, or nothing.
    fn experts(&self, key: &str) -> Result<(), Refusal> {
        match self.0.get(key) {
            None | Some(Value::Integer(0)) => Ok(()),
            _ => self.number(key, MAX_EXPERTS).map(drop),
        }
    }

    /// A part of a model would have the engine look for the others beside it; an adapter is no model.
    fn one_file(&self) -> Result<(), Refusal> {
        const PARTS: &str = "split.count";
        match self.0.get(PARTS) {
            None | Some(Value::Integer(0 | 1)) => {}
            Some(_) => return self.refuse(Rule::SplitFile, PARTS),
        }
        match self.0.get("general.type") {
            None => Ok(()),
            Some(Value::Text(kind)) if kind == "model" => Ok(()),
            Some(_) => self.refuse(Rule::KeyValue, "general.type"),
        }
    }

    /// The number of tokens, which all lists of tokens must agree with.
    fn vocabulary(&self, architecture: &str) -> Result<u64, Refusal> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        match self.0.get("tokenizer.ggml.model") {
            None => return self.refuse(Rule::MissingKey, "tokenizer.ggml.model"),
            Some(Value::Text(_)) => {}
            Some(_) => return self.refuse(Rule::KeyKind, "tokenizer.ggml.model"),
        }
        let tokens = match self.0.get(TOKENS) {
            None => return self.refuse(Rule::MissingKey, TOKENS),
            Some(Value::Array { kind: STRING, elements: 0 }) => return self.refuse(Rule::Vocabulary, TOKENS),
            Some(Value::Array { kind: STRING, elements }) => *elements,
            Some(_) => return self.refuse(Rule::KeyKind, TOKENS),
        };
        for (key, kind) in [("tokenizer.ggml.scores", FLOAT), ("tokenizer.ggml.token_type", INT)] {
            match self.0.get(key) {
                None => {}
                Some(Value::Array { kind: found, .. }) if *found != kind => return self.refuse(Rule::KeyKind, key),
                Some(Value::Array { elements, .. }) if *elements == tokens => {}
                Some(_) => return self.refuse(Rule::Vocabulary, key),
            }
        }
        let declared = format!("{architecture}.vocab_size");
        match self.0.get(&declared) {
            Some(Value::Integer(size)) if *size != i128::from(tokens) => self.refuse(Rule::Vocabulary, &declared),
            _ => self.special_tokens().map(|()| tokens),
        }
    }

    /// Special tokens beyond the vocabulary are left to llama.cpp, which says so and goes on without: files are published that have
    /// such a one for padding.
    fn special_tokens(&self) -> Result<(), Refusal> {
        let ids = self.0.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id"));
        for (key, value) in ids {
            match value {
                Value::Integer(id) if u32::try_from(*id).is_ok() => {}
                Value::Integer(_) => return self.refuse(Rule::Vocabulary, key),
                _ => return self.refuse(Rule::KeyKind, key),
            }
        }
        Ok(())
    }
}
