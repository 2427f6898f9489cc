//! From `google.protobuf.Value` to templates.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use serde_json::{Map, Value};

use super::json::number;
use super::reference::Written;
use super::{MAX_DEPTH, Root, Template};
use crate::jobs::definition::Mistakes;

/// The object with this one field is the first of its list that is there.
const FIRST: &str = "$first";
/// Bytes of one reference.
const MAX_REFERENCE_BYTES: usize = 1_024;

/// What a template may refer to where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    /// The index of each step that it may refer to, and of the others, which may not have ended when the template is rendered.
    pub(crate) steps: &'a BTreeMap<&'a str, usize>,
    /// Which steps have ended before the template is rendered, by index.
    pub(crate) before: &'a [bool],
    /// Whether there is an item of a list.
    pub(crate) item: bool,
    /// Whether there may be an output to undo.
    pub(crate) output: bool,
}

/// Reads templates, and notes every mistake in them.
pub(crate) struct Reader<'a> {
    /// What is there to refer to.
    pub(crate) names: Names<'a>,
    /// Where mistakes are noted.
    pub(crate) mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    /// Reads the template in `field`.
    pub(crate) fn read(&mut self, field: &str, value: &prost_types::Value) -> Template {
        self.value(field, value, 0)
    }

    /// Reads an object whose fields are templates.
    pub(crate) fn read_fields<'v>(
        &mut self,
        field: &str,
        fields: impl Iterator<Item = (&'v String, &'v prost_types::Value)>,
    ) -> Vec<(String, Template)> {
        self.fields(field, fields, 0)
    }

    fn value(&mut self, field: &str, value: &prost_types::Value, depth: usize) -> Template {
        if depth >= MAX_DEPTH {
            self.mistakes.add(field, format_args!("is nested deeper than {MAX_DEPTH}"));
            return Template::Literal(Value::Null);
        }
        match &value.kind {
            None | Some(Kind::NullValue(_)) => Template::Literal(Value::Null),
            Some(Kind::BoolValue(value)) => Template::Literal(Value::Bool(*value)),
            Some(Kind::NumberValue(value)) => {
                let number = number(*value);
                if number.is_none() {
                    self.mistakes.add(field, "must be a finite number");
                }
                Template::Literal(number.map_or(Value::Null, Value::Number))
            }
            Some(Kind::StringValue(text)) => self.text(field, text),
            Some(Kind::ListValue(list)) => list_of(self.list(field, &list.values, depth)),
            Some(Kind::StructValue(object)) => match object.fields.get(FIRST) {
                Some(of) if object.fields.len() == 1 => self.first(field, of, depth),
                _ => object_of(self.fields(field, object.fields.iter(), depth)),
            },
        }
    }

    fn list(&mut self, field: &str, values: &[prost_types::Value], depth: usize) -> Vec<Template> {
        let item = |(index, value)| self.value(&format!("{field}[{index}]"), value, depth + 1);
        values.iter().enumerate().map(item).collect()
    }

    fn fields<'v>(
        &mut self,
        field: &str,
        fields: impl Iterator<Item = (&'v String, &'v prost_types::Value)>,
        depth: usize,
    ) -> Vec<(String, Template)> {
        let mut read = Vec::new();
        for (key, value) in fields {
            let at = format!("{field}.{key}");
            let key = match key.strip_prefix('$') {
                None => key.as_str(),
                Some(escaped) if escaped.starts_with('$') => escaped,
                Some(_) => {
                    self.mistakes.add(
                        &at,
                        "begins with $: write $$ for a field of that name; $first must be the object's only field",
                    );
                    key.as_str()
                }
            };
            read.push((key.to_owned(), self.value(&at, value, depth + 1)));
        }
        read
    }

    fn first(&mut self, field: &str, of: &prost_types::Value, depth: usize) -> Template {
        match &of.kind {
            Some(Kind::ListValue(list)) if !list.values.is_empty() => {
                Template::First(self.list(&format!("{field}.{FIRST}"), &list.values, depth))
            }
            _ => {
                self.mistakes.add(field, "$first takes a list of at least one template");
                Template::Literal(Value::Null)
            }
        }
    }

    fn text(&mut self, field: &str, text: &str) -> Template {
        match text.strip_prefix('$') {
            None => Template::Literal(Value::from(text)),
            Some(escaped) if escaped.starts_with('$') => Template::Literal(Value::from(escaped)),
            Some(_) => self.reference(text).unwrap_or_else(|problem| {
                let told: String = text.chars().take(64).collect();
                self.mistakes.add(field, format_args!("{told}: {problem}"));
                Template::Literal(Value::Null)
            }),
        }
    }

    fn reference(&self, text: &str) -> Result<Template, String> {
        if text.len() > MAX_REFERENCE_BYTES {
            return Err(format!("is longer than {MAX_REFERENCE_BYTES} bytes"));
        }
        let mut written = Written::read(text)?;
        let root = match written.word {
            "input" => Root::Input,
            "steps" => Root::Step(self.step(written.take_name())?),
            "item" if self.names.item => Root::Item,
            "index" if self.names.item && !written.has_parts() => Root::Index,
            "item" | "index" => return Err("only a step with for_each has an item and a plain index".to_owned()),
            "output" if self.names.output => Root::Output,
            "output" => return Err("only an undo has an output to refer to".to_owned()),
            "job" => match written.take_name() {
                Some(name) if name == "id" && !written.has_parts() => Root::Job,
                _ => return Err("of the job there is only $job.id".to_owned()),
            },
            _ => {
                return Err(
                    "must begin with $input, $steps, $item, $index, $output or $job; $$ stands for a $".to_owned()
                );
            }
        };
        Ok(Template::Reference(written.from(root)))
    }

    fn step(&self, name: Option<String>) -> Result<usize, String> {
        let name = name.ok_or("must name a step: $steps.<name>")?;
        let step = self.names.steps.get(name.as_str()).copied().ok_or("there is no step of that name")?;
        match self.names.before.get(step) {
            Some(true) => Ok(step),
            _ => Err("that step is not before this one: add it to what is needed, or to what that needs".to_owned()),
        }
    }
}

fn list_of(templates: Vec<Template>) -> Template {
    let literal = |template: &Template| match template {
        Template::Literal(value) => Some(value.clone()),
        _ => None,
    };
    let literals: Option<Vec<Value>> = templates.iter().map(literal).collect();
    literals.map_or(Template::List(templates), |values| Template::Literal(Value::Array(values)))
}

fn object_of(fields: Vec<(String, Template)>) -> Template {
    let literal = |(key, template): &(String, Template)| match template {
        Template::Literal(value) => Some((key.clone(), value.clone())),
        _ => None,
    };
    let literals: Option<Map<String, Value>> = fields.iter().map(literal).collect();
    literals.map_or(Template::Object(fields), |object| Template::Literal(Value::Object(object)))
}
