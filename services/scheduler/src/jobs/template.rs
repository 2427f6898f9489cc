//! Values made of other values.
//!
//! A template is JSON in which some strings are references; rendering puts what they refer to in their place. Nothing is computed, so a
//! template costs what its result weighs, and that is bounded: a step that doubles what the step before it made would otherwise fill the
//! memory after thirty steps.

mod condition;
pub(crate) mod json;
mod read;
mod reference;
mod scale;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(crate) use condition::Condition;
pub(crate) use read::{Names, Reader};
pub(crate) use reference::{Reference, Root};
pub(crate) use scale::weigh;

/// Of a rendered value, in about the bytes of its text.
pub(crate) const MAX_BYTES: usize = 8 << 20;
/// How deep lists and objects may be in each other.
pub(crate) const MAX_DEPTH: usize = 64;

/// A template that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Template {
    /// Nothing below it refers to anything.
    Literal(Value),
    /// Stands for what it refers to.
    Reference(Reference),
    /// The first of these that is there.
    First(Vec<Self>),
    /// A list of templates.
    List(Vec<Self>),
    /// An object of templates.
    Object(Vec<(String, Self)>),
}

/// What something refers to, and how often.
pub(crate) type Roots = BTreeMap<Root, u64>;

/// What references refer to.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// The job's id.
    pub(crate) job: String,
    /// The job's input.
    pub(crate) input: Option<Value>,
    /// What steps made, by their index; those without an output are missing.
    pub(crate) steps: BTreeMap<usize, Value>,
    /// The item of the list that the step runs for, and which one it is.
    pub(crate) item: Option<(usize, Value)>,
    /// In an undo, what its action made.
    pub(crate) output: Option<Value>,
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// A reference leads nowhere.
    #[error("{0} is not there")]
    Missing(String),
    /// None of several is there.
    #[error("none of the values of $first is there")]
    NoneThere,
    /// The result would be too large.
    #[error("the value is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// The result would be too deep.
    #[error("the value is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// What is there is of another kind than what is needed.
    #[error("{0}")]
    Unfit(String),
}

impl Problem {
    /// Whether there is nothing where something was looked for.
    pub(crate) const fn is_absence(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::NoneThere)
    }
}

impl Template {
    /// The value that it becomes.
    ///
    /// # Errors
    ///
    /// When a reference leads nowhere, or the value is larger than [`MAX_BYTES`] or deeper than [`MAX_DEPTH`].
    pub(crate) fn render(&self, values: &Values) -> Result<Value, Problem> {
        self.render_into(values, &mut Room::of_value())
    }

    /// The same, where all values for one thing share their room.
    pub(crate) fn render_into(&self, values: &Values, room: &mut Room) -> Result<Value, Problem> {
        self.render_at(values, 0, room)
    }

    fn render_at(&self, values: &Values, depth: usize, room: &mut Room) -> Result<Value, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        match self {
            Self::Literal(value) => room.copy(value, depth),
            Self::Reference(reference) => room.copy(&*reference.look_up(values)?, depth),
            Self::First(templates) => first(templates, values, depth, room),
            Self::List(templates) => {
                room.take(NODE)?;
                let rendered = templates.iter().map(|template| template.render_at(values, depth + 1, room));
                rendered.collect::<Result<Vec<Value>, _>>().map(Value::Array)
            }
            Self::Object(fields) => {
                room.take(NODE)?;
                let mut object = Map::new();
                for (key, template) in fields {
                    room.take(key.len() + NODE)?;
                    object.insert(key.clone(), template.render_at(values, depth + 1, room)?);
                }
                Ok(Value::Object(object))
            }
        }
    }

    /// The first reference that keeps it from being rendered where only some lead anywhere.
    pub(crate) fn lacks(&self, is_there: &impl Fn(&Reference) -> bool) -> Option<&Reference> {
        match self {
            Self::Literal(_) => None,
            Self::Reference(reference) => Some(reference).filter(|reference| !is_there(reference)),
            Self::First(templates) => {
                let lacking: Option<Vec<_>> = templates.iter().map(|template| template.lacks(is_there)).collect();
                lacking.and_then(|lacking| lacking.first().copied())
            }
            Self::List(templates) => templates.iter().find_map(|template| template.lacks(is_there)),
            Self::Object(fields) => fields.iter().find_map(|(_, template)| template.lacks(is_there)),
        }
    }

    /// Adds everything that it refers to.
    pub(crate) fn roots(&self, roots: &mut Roots) {
        match self {
            Self::Literal(_) => {}
            Self::Reference(reference) => {
                *roots.entry(reference.root()).or_default() += 1;
            }
            Self::First(templates) | Self::List(templates) => {
                templates.iter().for_each(|template| template.roots(roots));
            }
            Self::Object(fields) => fields.iter().for_each(|(_, template)| template.roots(roots)),
        }
    }
}

fn first(templates: &[Template], values: &Values, depth: usize, room: &mut Room) -> Result<Value, Problem> {
    for template in templates {
        // What was rendered before something was found missing is dropped, and its room with it.
        let mut rest = Room(room.0);
        match template.render_at(values, depth, &mut rest) {
            Err(problem) if problem.is_absence() => {}
            rendered => {
                *room = rest;
                return rendered;
            }
        }
    }
    Err(Problem::NoneThere)
}

/// Fails when a value weighs more than [`MAX_BYTES`] or is deeper than [`MAX_DEPTH`].
pub(crate) fn check_size(value: &Value) -> Result<(), Problem> {
    Room::of_value().weigh(value, 0)
}

/// What any value weighs at the least: close to its text with a comma, and not too far from what it takes in memory.
pub(crate) const NODE: usize = 8;

/// What is left of the bytes that a value may have.
pub(crate) struct Room(usize);

impl Room {
    /// What one value may have.
    pub(crate) const fn of_value() -> Self {
        Self(MAX_BYTES)
    }

    /// Fails where there is not so much left.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        self.0 = self.0.checked_sub(bytes).ok_or(Problem::TooLarge)?;
        Ok(())
    }

    fn copy(&mut self, value: &Value, depth: usize) -> Result<Value, Problem> {
        self.weigh(value, depth)?;
        Ok(value.clone())
    }

    fn weigh(&mut self, value: &Value, depth: usize) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        self.take(NODE)?;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
            Value::String(text) => self.take(text.len()),
            Value::Array(items) => items.iter().try_for_each(|item| self.weigh(item, depth + 1)),
            Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
                self.take(key.len())?;
                self.weigh(value, depth + 1)
            }),
        }
    }
}
