//! The two forms in which a configuration is written, read as Triton's `ModelConfig`.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use weft_proto::inference::ModelConfig;

/// The contract that configurations are read against.
pub(super) struct Schema(MessageDescriptor);

/// Decoded once: all contracts are in it, and a repository is read again for every change.
static CONTRACT: LazyLock<Result<MessageDescriptor, String>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(weft_proto::DESCRIPTORS).map_err(|error| error.to_string())?;
    let message = pool.get_message_by_name("inference.ModelConfig");
    message.ok_or_else(|| "this build lacks the configuration's contract".to_owned())
});

impl Schema {
    pub(super) fn load() -> Result<Self, String> {
        CONTRACT.clone().map(Self)
    }

    /// Reads `config.pbtxt`.
    pub(super) fn read_text(&self, text: &str) -> Result<ModelConfig, String> {
        let text = colons(text);
        let message = DynamicMessage::parse_text_format(self.0.clone(), &text).map_err(|error| error.to_string())?;
        message.transcode_to().map_err(|error| error.to_string())
    }

    /// Reads `config.toml`, which has the same fields.
    pub(super) fn read_toml(&self, text: &str) -> Result<ModelConfig, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        let message = DynamicMessage::deserialize(self.0.clone(), table).map_err(|error| error.to_string())?;
        message.transcode_to().map_err(|error| error.to_string())
    }
}

/// Adds the colon that the text format lets one leave out before a list of messages, as most repositories do
/// (`input [ { ... } ]`): the reader insists on it.
fn colons(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    // The last character that is neither space nor comment: only a field's name ends in one of a word.
    let mut last = ' ';
    while let Some(char) = chars.next() {
        match char {
            '#' => {
                result.push(char);
                while let Some(comment) = chars.next_if(|next| *next != '\n') {
                    result.push(comment);
                }
                continue;
            }
            '"' | '\'' => {
                result.push(char);
                copy_string(char, &mut chars, &mut result);
            }
            '[' if last.is_ascii_alphanumeric() || last == '_' => result.push_str(": ["),
            _ => result.push(char),
        }
        if !char.is_whitespace() {
            last = char;
        }
    }
    result
}

/// Copies a string up to its closing quote; a quote after a backslash is none.
fn copy_string(quote: char, chars: &mut impl Iterator<Item = char>, result: &mut String) {
    let mut escaped = false;
    for char in chars {
        result.push(char);
        if char == quote && !escaped {
            return;
        }
        escaped = char == '\\' && !escaped;
    }
}
