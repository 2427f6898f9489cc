//! What a model takes and gives, and the check of a request against it.

use weft_types::{Error, Result};

use crate::element::count_bytes_elements;
use crate::{DataType, Tensor};

/// The most axes a tensor may have.
pub const MAX_AXES: usize = 8;

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type; `None` takes any (the builtin `identity`).
    pub datatype: Option<DataType>,
    /// Its shape with `-1` for a free axis; `None` takes any. The first axis is the batch axis when the model batches.
    pub shape: Option<Vec<i64>>,
    /// Whether a request may leave it out.
    pub optional: bool,
}

/// A model's inputs, outputs and batching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The engine that runs it, as `platform` in the protocol's metadata.
    pub platform: String,
    /// In order.
    pub inputs: Vec<Port>,
    /// In order.
    pub outputs: Vec<Port>,
    /// The most rows along the first axis that one execution takes; 0 when requests are not batched.
    pub max_batch_size: usize,
    /// How many executions may run at once on one loaded model.
    pub concurrency: usize,
}

impl Port {
    /// A port that must be given, with a type and a shape of its own.
    pub fn new(name: impl Into<String>, datatype: DataType, shape: &[i64]) -> Self {
        Self { name: name.into(), datatype: Some(datatype), shape: Some(shape.to_vec()), optional: false }
    }
}

impl Signature {
    /// Puts a request's inputs in this signature's order, or names the first field that does not fit.
    ///
    /// An optional input that was not given is absent from the result. Nothing is allocated in a size that the request
    /// merely claims: a length is compared with the bytes that are there.
    pub fn check(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut places: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        let mut rows = None;
        for (at, tensor) in inputs.into_iter().enumerate() {
            let Some(place) = self.inputs.iter().position(|port| port.name == tensor.name) else {
                return Err(Error::invalid(format!("inputs[{at}].name"), "the model has no such input"));
            };
            if places[place].is_some() {
                return Err(Error::invalid(format!("inputs[{at}].name"), "the input is given twice"));
            }
            self.inputs[place].check(at, &tensor)?;
            self.check_rows(at, &tensor, &mut rows)?;
            places[place] = Some(tensor);
        }
        for (port, place) in self.inputs.iter().zip(&places) {
            if place.is_none() && !port.optional {
                return Err(Error::invalid("inputs", format_args!("the input '{}' is missing", port.name)));
            }
        }
        Ok(places.into_iter().flatten().collect())
    }

    /// All inputs of a batching model bring the same number of rows, and no more than one execution takes.
    fn check_rows(&self, at: usize, tensor: &Tensor, rows: &mut Option<usize>) -> Result<()> {
        if self.max_batch_size == 0 {
            return Ok(());
        }
        let refuse = |problem: String| Err(Error::invalid(format!("inputs[{at}].shape"), problem));
        let Some(&own) = tensor.shape.first() else {
            return refuse("expected a batch axis, got a scalar".to_owned());
        };
        if own > self.max_batch_size {
            return refuse(format!("expected at most {} rows, got {own}", self.max_batch_size));
        }
        match *rows.get_or_insert(own) {
            others if others != own => refuse(format!("expected {others} rows as in the other inputs, got {own}")),
            _ => Ok(()),
        }
    }
}

impl Port {
    fn check(&self, at: usize, tensor: &Tensor) -> Result<()> {
        if let Some(expected) = self.datatype.filter(|expected| *expected != tensor.datatype) {
            let problem = format!("expected {expected}, got {}", tensor.datatype);
            return Err(Error::invalid(format!("inputs[{at}].datatype"), problem));
        }
        let elements =
            self.count(&tensor.shape).map_err(|problem| Error::invalid(format!("inputs[{at}].shape"), problem))?;
        check_length(tensor.datatype, elements, &tensor.data)
            .map_err(|problem| Error::invalid(format!("raw_input_contents[{at}]"), problem))
    }

    /// The number of elements of a shape that fits this port.
    fn count(&self, shape: &[usize]) -> Result<usize, String> {
        if shape.len() > MAX_AXES {
            return Err(format!("expected at most {MAX_AXES} axes, got {}", shape.len()));
        }
        if let Some(expected) = self.shape.as_deref().filter(|expected| !fits(expected, shape)) {
            return Err(format!("expected {expected:?}, got {shape:?}"));
        }
        let elements = shape.iter().try_fold(1usize, |product, axis| product.checked_mul(*axis));
        elements.ok_or_else(|| "the number of elements overflows".to_owned())
    }
}

fn fits(expected: &[i64], shape: &[usize]) -> bool {
    let axis_fits = |(expected, axis): (&i64, &usize)| *expected < 0 || u64::try_from(*expected) == Ok(*axis as u64);
    expected.len() == shape.len() && expected.iter().zip(shape).all(axis_fits)
}

fn check_length(datatype: DataType, elements: usize, data: &[u8]) -> Result<(), String> {
    match datatype.size() {
        Some(size) => match elements.checked_mul(size) {
            Some(length) if length == data.len() => Ok(()),
            Some(length) => Err(format!("expected {length} bytes, got {}", data.len())),
            None => Err("the number of bytes overflows".to_owned()),
        },
        None => match count_bytes_elements(data) {
            Some(count) if count == elements => Ok(()),
            Some(count) => Err(format!("expected {elements} elements, got {count}")),
            None => Err("an element's length reaches beyond the end".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn signature(max_batch_size: usize) -> Signature {
        let optional = Port { optional: true, ..Port::new("NOTE", DataType::Bytes, &[-1]) };
        let any = Port { name: "ANY".to_owned(), datatype: None, shape: None, optional: true };
        Signature {
            platform: "test".to_owned(),
            inputs: vec![
                Port::new("A", DataType::Fp32, &[-1, 2]),
                Port::new("B", DataType::Int64, &[-1, 1]),
                optional,
                any,
            ],
            outputs: vec![],
            max_batch_size,
            concurrency: 1,
        }
    }

    fn a(rows: usize) -> Tensor {
        Tensor::of("A", &[rows, 2], &vec![0f32; rows * 2])
    }

    fn b(rows: usize) -> Tensor {
        Tensor::of("B", &[rows, 1], &vec![0i64; rows])
    }

    fn any(shape: &[usize], length: usize) -> Tensor {
        let data = Bytes::from(vec![0; length]);
        Tensor { name: "ANY".to_owned(), datatype: DataType::Uint16, shape: shape.to_vec(), data }
    }

    fn note(data: &[u8], count: usize) -> Tensor {
        Tensor { data: Bytes::copy_from_slice(data), shape: vec![count], ..Tensor::of_bytes::<&str>("NOTE", &[]) }
    }

    #[test]
    fn inputs_come_out_in_the_signatures_order() {
        let names = |inputs: Vec<Tensor>| inputs.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>();
        assert_eq!(names(signature(4).check(vec![b(3), a(3)]).unwrap()), ["A", "B"]);
        assert_eq!(names(signature(0).check(vec![any(&[0, 7], 0), b(1), a(9)]).unwrap()), ["A", "B", "ANY"]);
        assert_eq!(names(signature(4).check(vec![a(0), b(0)]).unwrap()), ["A", "B"], "no rows are valid");
        assert!(signature(0).check(vec![a(1), b(1), note(&[], 0)]).is_ok(), "no elements are valid");
        assert!(signature(0).check(vec![a(1), b(1), any(&[], 2)]).is_ok(), "a scalar is valid");
    }

    #[test]
    fn each_refusal_names_its_field() {
        let a_with =
            |shape: &[usize], length: usize| Tensor { shape: shape.to_vec(), data: vec![0; length].into(), ..a(0) };
        let fp64 = Tensor { datatype: DataType::Fp64, ..a(1) };
        let huge = usize::MAX;
        let cases: Vec<(usize, Vec<Tensor>, &str, &str)> = vec![
            (0, vec![], "inputs", "'A' is missing"),
            (0, vec![a(1)], "inputs", "'B' is missing"),
            (0, vec![a(1), Tensor { name: "C".to_owned(), ..a(1) }], "inputs[1].name", "no such input"),
            (0, vec![a(1), b(1), a(1)], "inputs[2].name", "twice"),
            (0, vec![b(1), fp64], "inputs[1].datatype", "expected FP32, got FP64"),
            (0, vec![a_with(&[2], 8), b(1)], "inputs[0].shape", "expected [-1, 2], got [2]"),
            (0, vec![a_with(&[1, 3], 12), b(1)], "inputs[0].shape", "expected [-1, 2], got [1, 3]"),
            (0, vec![a_with(&[huge, 2], 8), b(1)], "inputs[0].shape", "elements overflows"),
            (0, vec![a_with(&[huge / 2, 2], 8), b(1)], "raw_input_contents[0]", "bytes overflows"),
            (0, vec![a_with(&[1 << 40, 2], 8), b(1)], "raw_input_contents[0]", "expected 8796093022208 bytes, got 8"),
            (0, vec![a_with(&[1, 2], 9), b(1)], "raw_input_contents[0]", "expected 8 bytes, got 9"),
            (0, vec![a_with(&[0, 2], 1), b(1)], "raw_input_contents[0]", "expected 0 bytes, got 1"),
            (0, vec![any(&[1; 9], 2)], "inputs[0].shape", "at most 8 axes, got 9"),
            (0, vec![any(&[], 1)], "raw_input_contents[0]", "expected 2 bytes, got 1"),
            (0, vec![note(&[3, 0, 0, 0, 1], 1)], "raw_input_contents[0]", "beyond the end"),
            (0, vec![note(&[1, 0, 0, 0, 1, 9], 1)], "raw_input_contents[0]", "beyond the end"),
            (0, vec![note(&[1, 0, 0, 0, 1], 2)], "raw_input_contents[0]", "expected 2 elements, got 1"),
            (4, vec![a(5), b(5)], "inputs[0].shape", "at most 4 rows, got 5"),
            (4, vec![a(2), b(3)], "inputs[1].shape", "expected 2 rows as in the other inputs, got 3"),
            (4, vec![any(&[], 2), a(1), b(1)], "inputs[0].shape", "a scalar"),
        ];
        for (at, (max_batch_size, inputs, field, problem)) in cases.into_iter().enumerate() {
            let error = signature(max_batch_size).check(inputs).unwrap_err();
            assert_eq!(error.field(), Some(field), "case {at}: {error}");
            assert!(error.message().contains(problem), "case {at}: {error}");
        }
    }
}
