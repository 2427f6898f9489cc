//! What a graph takes or gives: a name, and a type that may be nested.

use std::io::{Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::tensor::is_type;
use super::wire::Wire;

/// The most axes.
const MAX_AXES: usize = 32;

/// How deeply sequences, maps and optional values may be nested.
const MAX_DEPTH: usize = 8;

/// A declared value.
#[derive(Default)]
pub(super) struct Port {
    pub(super) name: String,
    /// Whether it says what it is.
    pub(super) typed: bool,
}

impl Port {
    pub(super) fn read<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Self, Refusal> {
        let mut port = Self::default();
        while let Some(field) = wire.next(end)? {
            match field.number {
                1 => port.name = field.text(wire)?,
                2 => {
                    let end = field.message(wire)?;
                    port.typed |= read_type(wire, end, 0)?;
                }
                _ => {}
            }
            wire.leave(&field)?;
        }
        match port.name.is_empty() {
            true => Err(wire.refuse(Rule::Name, "an input or output")),
            false => Ok(port),
        }
    }

    pub(super) fn place(&self) -> String {
        format!("value {}", quoted(&self.name))
    }
}

/// Whether the type names an element type, at any depth.
pub(super) fn read_type<R: Read + Seek>(wire: &mut Wire<R>, end: u64, depth: usize) -> Result<bool, Refusal> {
    if depth > MAX_DEPTH {
        return Err(wire.refuse(Rule::Nesting, "a type"));
    }
    let mut typed = false;
    while let Some(field) = wire.next(end)? {
        match field.number {
            // A tensor, dense or sparse.
            1 | 8 => {
                let end = field.message(wire)?;
                typed |= read_tensor_type(wire, end)?;
            }
            // A sequence, a map, an optional value: each holds another type.
            4 | 5 | 9 => {
                let end = field.message(wire)?;
                while let Some(inner) = wire.next(end)? {
                    if let (1, 4 | 9) | (2, 5) = (inner.number, field.number) {
                        let end = inner.message(wire)?;
                        typed |= read_type(wire, end, depth + 1)?;
                    }
                    wire.leave(&inner)?;
                }
            }
            _ => {}
        }
        wire.leave(&field)?;
    }
    Ok(typed)
}

fn read_tensor_type<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<bool, Refusal> {
    let mut typed = false;
    while let Some(field) = wire.next(end)? {
        match field.number {
            1 => {
                let number = field.varint(wire)?;
                // 0 says that the type is not said, which converters write in inner graphs.
                if number != 0 && !is_type(number) {
                    return Err(wire.refuse(Rule::Port, "a tensor type"));
                }
                typed = number != 0;
            }
            2 => {
                let (end, mut axes) = (field.message(wire)?, 0);
                while let Some(axis) = wire.next(end)? {
                    let end = axis.message(wire)?;
                    read_axis(wire, end)?;
                    axes += 1;
                    if axes > MAX_AXES {
                        return Err(wire.refuse(Rule::Axes, "a shape"));
                    }
                    wire.leave(&axis)?;
                }
            }
            _ => {}
        }
        wire.leave(&field)?;
    }
    Ok(typed)
}

fn read_axis<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<(), Refusal> {
    while let Some(field) = wire.next(end)? {
        match field.number {
            1 if i64::try_from(field.varint(wire)?).is_err() => return Err(wire.refuse(Rule::Extent, "a shape")),
            2 => drop(field.text(wire)?),
            _ => {}
        }
        wire.leave(&field)?;
    }
    Ok(())
}
