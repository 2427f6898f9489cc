//! References: `$input.a.b`, `$steps.x.a[0]`, `$item`, `$index`, `$job.id`, `$output`.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use super::{Problem, Values};

/// How many fields and items one reference may go through.
const MAX_PARTS: usize = 64;

/// What a reference begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Root {
    /// The job's input.
    Input,
    /// The output of the step of this index.
    Step(usize),
    /// The item of the list.
    Item,
    /// Which item of the list.
    Index,
    /// The job's id.
    Job,
    /// In an undo, what its action made. There may be nothing, where nobody knows what became of the action: it is null then.
    Output,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Item(usize),
}

/// A reference that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    root: Root,
    parts: Vec<Part>,
    /// As it was written.
    text: String,
}

/// A reference whose step is not known yet: the first word, what follows it, and the parts.
pub(super) struct Written<'a> {
    pub(super) word: &'a str,
    parts: Vec<Part>,
    text: &'a str,
}

impl<'a> Written<'a> {
    /// Reads a reference, with its `$`.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        let rest = text.strip_prefix('$').unwrap_or(text);
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        Ok(Self { word, parts: parts(rest)?, text })
    }

    /// The name of the step, for `$steps.<name>`; it is taken off the parts.
    pub(super) fn take_name(&mut self) -> Option<String> {
        match self.parts.first() {
            Some(Part::Field(name)) => {
                let name = name.clone();
                self.parts.remove(0);
                Some(name)
            }
            _ => None,
        }
    }

    pub(super) const fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    pub(super) fn from(self, root: Root) -> Reference {
        Reference { root, parts: self.parts, text: self.text.to_owned() }
    }
}

/// Reads `.field`, `[number]` and `["field"]`, as many as there are.
fn parts(mut rest: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        if parts.len() == MAX_PARTS {
            return Err(format!("goes through more than {MAX_PARTS} fields and items"));
        }
        let (part, after) = match rest.strip_prefix('.') {
            Some(field) => {
                let end = field.find(['.', '[']).unwrap_or(field.len());
                let (name, after) = field.split_at(end);
                if name.is_empty() {
                    return Err("has an empty field: write it as [\"\"]".to_owned());
                }
                (Part::Field(name.to_owned()), after)
            }
            None => bracket(rest)?,
        };
        parts.push(part);
        rest = after;
    }
    Ok(parts)
}

fn bracket(rest: &str) -> Result<(Part, &str), String> {
    const WRONG: &str =
        "after a ']' there must be '.', '[' or the end, and in brackets a number or a field as [\"field\"]";
    let inside = rest.strip_prefix('[').ok_or(WRONG)?;
    if inside.starts_with('"') {
        let mut fields = serde_json::Deserializer::from_str(inside).into_iter::<String>();
        let field = fields.next().and_then(Result::ok).ok_or(WRONG)?;
        let after = inside.get(fields.byte_offset()..).and_then(|after| after.strip_prefix(']')).ok_or(WRONG)?;
        return Ok((Part::Field(field), after));
    }
    let (digits, after) = inside.split_once(']').ok_or(WRONG)?;
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let item = digits.parse().ok().filter(|_| is_number).ok_or(WRONG)?;
    Ok((Part::Item(item), after))
}

impl Reference {
    pub(crate) const fn root(&self) -> Root {
        self.root
    }

    /// Whether it leads anywhere.
    pub(crate) fn is_in(&self, values: &Values) -> bool {
        self.look_up(values).is_ok()
    }

    /// What it refers to.
    pub(super) fn look_up<'a>(&self, values: &'a Values) -> Result<Cow<'a, Value>, Problem> {
        let missing = || Problem::Missing(self.text.chars().take(128).collect());
        let root = match self.root {
            Root::Input => values.input.as_ref(),
            Root::Step(step) => values.steps.get(&step),
            Root::Item => values.item.as_ref().map(|(_, item)| item),
            Root::Index => {
                return values.item.as_ref().map(|(index, _)| Cow::Owned(Value::from(*index))).ok_or_else(missing);
            }
            Root::Job => return Ok(Cow::Owned(Value::from(values.job.as_str()))),
            Root::Output if values.output.is_none() => return Ok(Cow::Owned(Value::Null)),
            Root::Output => values.output.as_ref(),
        };
        let found = self.parts.iter().try_fold(root.ok_or_else(missing)?, |value, part| match part {
            Part::Field(name) => value.get(name.as_str()),
            Part::Item(item) => value.get(*item),
        });
        found.map(Cow::Borrowed).ok_or_else(missing)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}
