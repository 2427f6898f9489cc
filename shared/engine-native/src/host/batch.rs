//! Requests into one buffer, and slices of one buffer out of it.

use bytes::Bytes;
use weft_engine::{DataType, Error, Inputs, Outputs, Port, Signature, Tensor};

use crate::arena::ALIGNMENT;
use crate::protocol::TensorRef;

/// Room for outputs whose size is not known yet. It costs nothing until it is written.
const GUESS_BYTES: u64 = 1 << 20;

/// Requests that are executed together, and where each of their inputs goes.
#[derive(Debug)]
pub(super) struct Gathering<'a> {
    requests: Vec<&'a Inputs>,
    /// The rows of each request; 1 where requests are not batched.
    rows: Vec<usize>,
    /// Offsets are within the buffer.
    tensors: Vec<TensorRef>,
    /// The bytes of the buffer.
    pub(super) length: u64,
    batched: bool,
}

impl<'a> Gathering<'a> {
    /// Lays requests out that agree in everything but their rows. There is at least one.
    pub(super) fn new(requests: Vec<&'a Inputs>, signature: &Signature) -> Result<Self, Error> {
        let batched = signature.max_batch_size > 0;
        let rows = requests.iter().map(|request| if batched { request.first().map_or(1, Tensor::rows) } else { 1 });
        let mut gathering =
            Self { rows: rows.collect(), tensors: Vec::new(), length: 0, batched, requests: Vec::new() };
        for (at, tensor) in requests.first().into_iter().flat_map(|first| first.iter().enumerate()) {
            let port = signature.inputs.iter().zip(0..).find(|(port, _)| port.name == tensor.name);
            let (_, port) = port.ok_or_else(|| Error::Run(format!("the model has no input '{}'", tensor.name)))?;
            let parts = requests.iter().filter_map(|request| request.get(at));
            gathering.place(port, tensor, parts.map(|part| part.data.len() as u64).sum());
        }
        gathering.requests = requests;
        Ok(gathering)
    }

    fn place(&mut self, port: u32, tensor: &Tensor, mut length: u64) {
        let mut shape: Vec<u64> = tensor.shape.iter().map(|axis| *axis as u64).collect();
        if self.batched
            && let Some(first) = shape.first_mut()
        {
            *first = self.size() as u64;
            if self.total() == 0 {
                // The row that stands in for none: zeros, or empty texts.
                length = shape.iter().product::<u64>() * tensor.datatype.size().unwrap_or(4) as u64;
            }
        }
        let offset = self.length.next_multiple_of(ALIGNMENT);
        let datatype = tensor.datatype.as_str().to_owned();
        self.tensors.push(TensorRef { port, datatype, shape, offset, length });
        self.length = offset + length;
    }

    /// The rows of all requests.
    fn total(&self) -> usize {
        self.rows.iter().sum()
    }

    /// The rows that are executed: one at least, from which the shape of no rows is learned. Some runtimes cannot take none.
    pub(super) fn size(&self) -> usize {
        self.total().max(1)
    }

    /// Copies the requests' bytes to where they belong. This is the only copy they see.
    pub(super) fn fill(&self, buffer: &mut [u8]) -> Result<(), Error> {
        for (at, tensor) in self.tensors.iter().enumerate() {
            let range = usize::try_from(tensor.offset).unwrap_or(usize::MAX)..;
            let mut rest = buffer.get_mut(range).unwrap_or_default();
            let is_bool = tensor.datatype == DataType::Bool.as_str();
            for part in self.requests.iter().filter_map(|request| request.get(at)) {
                let (now, later) = rest.split_at_mut_checked(part.data.len()).ok_or_else(|| no_room("input"))?;
                now.copy_from_slice(&part.data);
                if is_bool {
                    // Any other byte than 0 and 1 is not a boolean to the runtime.
                    now.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
                }
                rest = later;
            }
            if self.batched && self.total() == 0 {
                let length = usize::try_from(tensor.length).unwrap_or(usize::MAX);
                rest.get_mut(..length).ok_or_else(|| no_room("input"))?.fill(0);
            }
        }
        Ok(())
    }

    /// The tensors, in a buffer that begins at `base`.
    pub(super) fn tensors(&self, base: u64) -> Vec<TensorRef> {
        self.tensors.iter().map(|tensor| TensorRef { offset: base + tensor.offset, ..tensor.clone() }).collect()
    }

    /// The room that the outputs take, where their shapes follow from the rows alone.
    pub(super) fn known_room(&self, outputs: &[Port]) -> Option<u64> {
        let bytes = |port: &Port| {
            let axis = |(at, axis): (usize, &i64)| {
                u64::try_from(*axis).ok().or((at == 0 && self.batched).then_some(self.size() as u64))
            };
            let mut axes = port.shape.as_ref()?.iter().enumerate().map(axis);
            let elements = axes.try_fold(1u64, |product, axis| product.checked_mul(axis?))?;
            elements.checked_mul(port.datatype?.size()? as u64)
        };
        outputs.iter().try_fold(0u64, |end, port| end.next_multiple_of(ALIGNMENT).checked_add(bytes(port)?))
    }

    /// The room to begin with where it is not known.
    pub(super) fn guessed_room(&self, limit: u64) -> u64 {
        GUESS_BYTES.max(self.length.saturating_mul(4)).min(limit / 4)
    }

    /// What each request gets of the outputs: slices of `room`, which began at `base`.
    pub(super) fn scatter(
        &self,
        outputs: &[TensorRef],
        signature: &Signature,
        (base, room): (u64, &Bytes),
    ) -> Result<Vec<Outputs>, Error> {
        let mut answers = vec![Outputs::with_capacity(outputs.len()); self.requests.len()];
        for (tensor, port) in outputs.iter().zip(&signature.outputs) {
            let whole = view(tensor, port, base, room).ok_or_else(|| no_room("output"))?;
            if !self.batched {
                answers.iter_mut().for_each(|answer| answer.push(whole.clone()));
                continue;
            }
            let Some((found, tail)) = whole.shape.split_first().filter(|(axis, _)| **axis == self.size()) else {
                let found = whole.shape.first().map_or_else(|| "no axis".to_owned(), |axis| format!("{axis} rows"));
                return Err(Error::Run(format!("an output has {found} for {} of input", self.size())));
            };
            let mut ends = RowEnds::new(&whole, *found);
            for (answer, rows) in answers.iter_mut().zip(&self.rows) {
                let data = ends.take(*rows).ok_or_else(|| no_room("output"))?;
                answer.push(Tensor { shape: [&[*rows], tail].concat(), data, ..whole.clone() });
            }
        }
        Ok(answers)
    }
}

fn no_room(side: &str) -> Error {
    Error::Run(format!("the runtime lost an {side}"))
}

/// An output as the port's tensor. The engine process is not believed: a length that does not fit its shape is refused.
fn view(tensor: &TensorRef, port: &Port, base: u64, room: &Bytes) -> Option<Tensor> {
    let datatype: DataType = tensor.datatype.parse().ok()?;
    let shape: Vec<usize> = tensor.shape.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<_>>()?;
    let elements = shape.iter().try_fold(1usize, |product, axis| product.checked_mul(*axis))?;
    let start = usize::try_from(tensor.offset.checked_sub(base)?).ok()?;
    let end = start.checked_add(usize::try_from(tensor.length).ok()?)?;
    if end > room.len() || datatype.size().is_some_and(|size| elements.checked_mul(size) != Some(end - start)) {
        return None;
    }
    let tensor = Tensor { name: port.name.clone(), datatype, shape, data: room.slice(start..end) };
    let fits = datatype.size().is_some() || tensor.bytes_elements().is_some_and(|texts| texts.len() == elements);
    fits.then_some(tensor)
}

/// Walks over the rows of an output.
struct RowEnds<'a> {
    whole: &'a Tensor,
    at: usize,
    /// Bytes of a row, or for texts how many there are in a row.
    row: usize,
}

impl<'a> RowEnds<'a> {
    fn new(whole: &'a Tensor, rows: usize) -> Self {
        let row = match whole.datatype.size() {
            Some(_) => whole.data.len() / rows.max(1),
            None => whole.shape.iter().skip(1).product(),
        };
        Self { whole, at: 0, row }
    }

    /// The bytes of the next rows.
    fn take(&mut self, rows: usize) -> Option<Bytes> {
        let start = self.at;
        let count = rows.checked_mul(self.row)?;
        self.at = match self.whole.datatype.size() {
            Some(_) => start.checked_add(count)?,
            None => (0..count).try_fold(start, |at, _| {
                let length = u32::from_le_bytes(*self.whole.data.get(at..)?.first_chunk::<4>()?);
                at.checked_add(4)?.checked_add(length as usize)
            })?,
        };
        (self.at <= self.whole.data.len()).then(|| self.whole.data.slice(start..self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(max_batch_size: usize) -> Signature {
        Signature {
            platform: "test".to_owned(),
            inputs: vec![Port::new("X", DataType::Fp32, &[-1, 2]), Port::new("FLAG", DataType::Bool, &[-1, 1])],
            outputs: vec![Port::new("Y", DataType::Fp32, &[-1, 2]), Port::new("TEXT", DataType::Bytes, &[-1, 2])],
            max_batch_size,
            concurrency: 1,
        }
    }

    fn request(rows: usize) -> Inputs {
        let flags = Tensor { datatype: DataType::Bool, ..Tensor::of("FLAG", &[rows, 1], &vec![7u8; rows]) };
        vec![Tensor::of("X", &[rows, 2], &vec![rows as f32; rows * 2]), flags]
    }

    fn text(rows: usize, of: &str) -> Vec<u8> {
        let texts: Vec<String> = (0..rows * 2).map(|at| format!("{of}{}", "x".repeat(at))).collect();
        Tensor::of_bytes("TEXT", &texts).data.to_vec()
    }

    fn output(datatype: &str, offset: u64, length: u64) -> TensorRef {
        TensorRef { port: 0, datatype: datatype.to_owned(), shape: vec![5, 2], offset, length }
    }

    #[test]
    fn rows_are_gathered_and_scattered_without_mixing() {
        let signature = signature(8);
        let requests = [request(2), request(0), request(3)];
        let gathering = Gathering::new(requests.iter().collect(), &signature).unwrap();
        assert_eq!((gathering.size(), gathering.length), (5, 64 + 5));
        let mut buffer = vec![9; 69];
        gathering.fill(&mut buffer).unwrap();
        let tensors = gathering.tensors(4096);
        assert_eq!((tensors[0].offset, tensors[1].offset, &tensors[0].shape[..]), (4096, 4160, &[5, 2][..]));
        let rows: [&[f32]; 2] = [&[2.0; 4], &[3.0; 6]];
        let expected: Vec<u8> = rows.concat().iter().flat_map(|element| element.to_le_bytes()).collect();
        assert_eq!((&buffer[..40], &buffer[64..]), (&expected[..], &[1; 5][..]));

        let texts = [text(2, "a"), text(3, "b")];
        let room: Bytes = [expected, texts.concat()].concat().into();
        let outputs = [output("FP32", 100, 40), output("BYTES", 140, room.len() as u64 - 40)];
        let answers = gathering.scatter(&outputs, &signature, (100, &room)).unwrap();
        assert_eq!(answers[0][0], Tensor::of("Y", &[2, 2], &[2f32; 4]));
        assert_eq!((answers[0][1].shape.as_slice(), &answers[0][1].data[..]), (&[2, 2][..], &texts[0][..]));
        assert_eq!((answers[1][0].shape.as_slice(), answers[1][0].data.len()), (&[0, 2][..], 0));
        assert_eq!((answers[2][1].shape.as_slice(), &answers[2][1].data[..]), (&[3, 2][..], &texts[1][..]));
        assert_eq!(answers[2][0].data.as_ptr(), room[16..].as_ptr(), "a copy was made");
    }

    #[test]
    fn no_rows_are_executed_as_one() {
        let signature = signature(8);
        let requests = [request(0)];
        let gathering = Gathering::new(requests.iter().collect(), &signature).unwrap();
        assert_eq!((gathering.size(), gathering.tensors(0)[0].length), (1, 8));
        let mut buffer = vec![9; 65];
        gathering.fill(&mut buffer).unwrap();
        assert_eq!((&buffer[..8], buffer[64]), (&[0; 8][..], 0));
    }

    #[test]
    fn what_an_engine_process_says_is_not_believed() {
        let signature = signature(8);
        let requests = [request(1)];
        let gathering = Gathering::new(requests.iter().collect(), &signature).unwrap();
        let room = Bytes::from(vec![0; 64]);
        let good = TensorRef { shape: vec![1, 2], ..output("FP32", 0, 8) };
        assert!(gathering.scatter(std::slice::from_ref(&good), &signature, (0, &room)).is_ok());
        let lies = [
            TensorRef { offset: 60, ..good.clone() },
            TensorRef { offset: u64::MAX, ..good.clone() },
            TensorRef { length: 4, ..good.clone() },
            TensorRef { length: u64::MAX, ..good.clone() },
            TensorRef { shape: vec![1 << 62, 1 << 62], ..good.clone() },
            TensorRef { shape: vec![2, 1], ..good.clone() },
            TensorRef { shape: vec![], length: 4, ..good.clone() },
            TensorRef { datatype: "NONE".to_owned(), ..good.clone() },
            TensorRef { datatype: "BYTES".to_owned(), length: 7, ..good },
        ];
        for lie in lies {
            let outcome = gathering.scatter(std::slice::from_ref(&lie), &signature, (0, &room));
            assert!(matches!(outcome, Err(Error::Run(_))), "{lie:?}");
        }
    }
}
