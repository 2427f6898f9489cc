//! A tensor: its data must be as long as its shape says, and be in this file.

use std::io::{Read, Seek};

use super::super::refusal::quoted;
use super::super::{Refusal, Rule};
use super::wire::{Field, Wire};

/// The most axes.
const MAX_AXES: usize = 32;

/// The most elements that are looked at as a shape: no tensor has more axes.
const MAX_SHAPE: u64 = MAX_AXES as u64;

const INT64: u64 = 7;
const TEXT: u64 = 8;

/// Bits of an element, by the number of its type; 0 where it has no fixed width or there is no such type.
const BITS: [u64; 27] = [0, 32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2];

/// Where data may stand, by its field: as many entries as given for a type and a number of elements.
const FLOATS: u64 = 4;
const INTS: u64 = 5;
const TEXTS: u64 = 6;
const LONGS: u64 = 7;
const RAW: u64 = 9;
const DOUBLES: u64 = 10;
const UNSIGNED: u64 = 11;

/// Whether there is an element type of that number.
pub(super) const fn is_type(number: u64) -> bool {
    number == TEXT || (number < BITS.len() as u64 && number > 0)
}

/// What is known of a tensor.
#[derive(Default)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The elements of a tensor of this shape, where it is short enough to be one.
    pub(super) as_shape: Option<u64>,
}

#[derive(Default)]
struct Parts {
    name: String,
    axes: Vec<u64>,
    kind: u64,
    /// The field that holds data, and its entries.
    data: Option<(u64, u64)>,
    product: u64,
}

impl Tensor {
    pub(super) fn read<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Self, Refusal> {
        let mut parts = Parts { product: 1, ..Parts::default() };
        while let Some(field) = wire.next(end)? {
            match field.number {
                1 => parts.add_axes(wire, &field)?,
                2 => parts.kind = field.varint(wire)?,
                3 => return Err(wire.refuse(Rule::Segment, parts.place())),
                FLOATS | INTS | TEXTS | LONGS | RAW | DOUBLES | UNSIGNED => parts.add_data(wire, &field)?,
                8 => parts.name = field.text(wire)?,
                13 => return Err(wire.refuse(Rule::ExternalData, parts.place())),
                14 if field.varint(wire)? != 0 => return Err(wire.refuse(Rule::ExternalData, parts.place())),
                _ => {}
            }
            wire.leave(&field)?;
        }
        parts.check().map_err(|rule| wire.refuse(rule, parts.place())).map(|bytes| {
            let is_shape = parts.kind == INT64 && parts.axes.len() <= 1;
            Self { bytes, as_shape: is_shape.then_some(parts.product), name: parts.name }
        })
    }
}

impl Parts {
    fn place(&self) -> String {
        format!("tensor {}", quoted(&self.name))
    }

    fn add_axes<R: Read + Seek>(&mut self, wire: &mut Wire<R>, field: &Field) -> Result<(), Refusal> {
        let (axes, mut many) = (&mut self.axes, false);
        field.varints(wire, |axis| {
            many |= axes.len() == MAX_AXES;
            if !many {
                axes.push(axis);
            }
        })?;
        if many { Err(wire.refuse(Rule::Axes, self.place())) } else { Ok(()) }
    }

    fn add_data<R: Read + Seek>(&mut self, wire: &mut Wire<R>, field: &Field) -> Result<(), Refusal> {
        let before = match self.data {
            None => 0,
            // Of the two, one reader would take the first, the other the second.
            Some((number, _)) if number != field.number || number == RAW => {
                return Err(wire.refuse(Rule::TensorData, self.place()));
            }
            Some((_, entries)) => entries,
        };
        let (mut entries, product) = (0u64, &mut self.product);
        let mut multiply = |value: u64| {
            entries += 1;
            // In a shape, 0 and -1 stand for an axis of the input.
            if entries <= MAX_SHAPE && value.cast_signed() > 0 {
                *product = product.saturating_mul(value);
            }
        };
        let entries = match field.number {
            FLOATS => field.fixed(wire, 4)?,
            DOUBLES => field.fixed(wire, 8)?,
            RAW if field.bytes(wire)? <= 8 * MAX_SHAPE => {
                let bytes = field.bytes(wire)?;
                field.words(wire, multiply)?;
                bytes
            }
            RAW => field.bytes(wire)?,
            TEXTS => field.bytes(wire).map(|_| 1)?,
            _ => {
                field.varints(wire, &mut multiply)?;
                entries
            }
        };
        self.data = Some((field.number, before + entries));
        Ok(())
    }

    /// The bytes of its data, if that is as long as it must be.
    fn check(&self) -> Result<u64, Rule> {
        if !is_type(self.kind) {
            return Err(Rule::ElementType);
        }
        // A negative length is a large one here.
        let elements = self.axes.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
        let elements = elements.filter(|elements| i64::try_from(*elements).is_ok()).ok_or(Rule::TensorSize)?;
        if self.axes.iter().any(|axis| i64::try_from(*axis).is_err()) {
            return Err(Rule::Extent);
        }
        let bits = usize::try_from(self.kind).ok().and_then(|kind| BITS.get(kind)).copied().unwrap_or(0);
        let bytes = elements.checked_mul(bits).map(|bits| bits.div_ceil(8)).ok_or(Rule::TensorSize)?;
        let (field, entries) = self.data.unwrap_or((RAW, 0));
        let expected = match (field, self.kind) {
            (RAW, TEXT) if elements > 0 => return Err(Rule::TensorData),
            (RAW, _) => bytes,
            (FLOATS, 1) | (DOUBLES, 11) | (LONGS, INT64) | (UNSIGNED, 12 | 13) | (TEXTS, TEXT) => elements,
            (FLOATS, 14) | (DOUBLES, 15) => elements.saturating_mul(2),
            (INTS, 21..=23 | 25 | 26) => bytes,
            (INTS, 2..=6 | 9 | 10 | 16..=20 | 24) => elements,
            _ => return Err(Rule::TensorData),
        };
        if entries == expected { Ok(bytes) } else { Err(Rule::TensorData) }
    }
}
