//! An attribute: one value of the type it says, which may be a tensor or a graph.

use std::io::{Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::graph::{Graph, Reading};
use super::port::read_type;
use super::tensor::Tensor;
use super::wire::Field;

/// The most numbers that are looked at as a shape.
const MAX_SHAPE: usize = 32;

/// The field that holds a value of each type, by the number of the type.
const FIELDS: [u64; 15] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 22, 23, 14, 15];

/// What a node needs to know of an attribute.
#[derive(Default)]
pub(super) struct Attribute {
    pub(super) name: String,
    /// Values of outer graphs that its graphs use.
    pub(super) captured: Vec<u32>,
    /// The elements of a tensor of the shape that it holds, if it holds one.
    pub(super) as_shape: Option<u64>,
}

impl Attribute {
    pub(super) fn read<R: Read + Seek>(reading: &mut Reading<'_, R>, end: u64, depth: usize) -> Result<Self, Refusal> {
        let (mut attribute, mut kind, mut held) = (Self::default(), 0, None);
        while let Some(field) = reading.wire.next(end)? {
            match field.number {
                1 => attribute.name = field.text(reading.wire)?,
                20 => kind = field.varint(reading.wire)?,
                22 | 23 => return Err(reading.wire.refuse(Rule::SparseTensor, attribute.place())),
                2..=11 | 14 | 15 => {
                    let singular = matches!(field.number, 2..=6 | 14);
                    if held.is_some_and(|held| held != field.number || singular) {
                        return Err(reading.wire.refuse(Rule::Attribute, attribute.place()));
                    }
                    held = Some(field.number);
                    attribute.read_value(reading, &field, depth)?;
                }
                _ => {}
            }
            reading.wire.leave(&field)?;
        }
        if attribute.name.is_empty() {
            return Err(reading.wire.refuse(Rule::Name, "an attribute"));
        }
        // Files of the first years do not say the type.
        let expected = usize::try_from(kind).ok().and_then(|kind| FIELDS.get(kind));
        match (expected, held) {
            (None, _) => Err(reading.wire.refuse(Rule::Attribute, attribute.place())),
            (Some(expected), Some(held)) if *expected != 0 && *expected != held => {
                Err(reading.wire.refuse(Rule::Attribute, attribute.place()))
            }
            _ => Ok(attribute),
        }
    }

    fn read_value<R: Read + Seek>(
        &mut self,
        reading: &mut Reading<'_, R>,
        field: &Field,
        depth: usize,
    ) -> Result<(), Refusal> {
        match field.number {
            2 => field.fixed(reading.wire, 4).map(drop),
            3 => field.varint(reading.wire).map(drop),
            4 | 9 => field.message(reading.wire).map(drop),
            5 | 10 => {
                let end = field.message(reading.wire)?;
                let tensor = Tensor::read(reading.wire, end)?;
                reading.data_bytes = reading.data_bytes.saturating_add(tensor.bytes);
                self.as_shape = tensor.as_shape;
                Ok(())
            }
            6 | 11 => {
                let end = field.message(reading.wire)?;
                let graph = Graph::read(reading, end, depth + 1)?;
                self.captured.extend(graph.captured);
                Ok(())
            }
            7 => field.fixed(reading.wire, 4).map(drop),
            8 => {
                let (mut product, mut count) = (self.as_shape.unwrap_or(1), 0);
                field.varints(reading.wire, |value| {
                    count += 1;
                    if count <= MAX_SHAPE && value.cast_signed() > 0 {
                        product = product.saturating_mul(value);
                    }
                })?;
                self.as_shape = Some(product);
                Ok(())
            }
            _ => {
                let end = field.message(reading.wire)?;
                read_type(reading.wire, end, 0).map(drop)
            }
        }
    }

    fn place(&self) -> String {
        format!("attribute {}", quoted(&self.name))
    }
}
