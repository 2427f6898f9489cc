//! What engines that batch tensors have in common: which requests go together, and what a model must be like for it.

use std::collections::BTreeMap;
use std::num::NonZero;

use crate::{DataType, Error, Inputs, Port, Signature, Tensor};

/// The most inputs, and outputs, that a model may have.
pub const MAX_PORTS: usize = 64;

/// The most elements that the other axes of an empty tensor may stand for: a graph may make that many out of none.
const MAX_EMPTY_ELEMENTS: usize = 1 << 20;

/// The configured number of executions that may run at once, if it is configured.
pub fn instances(parameters: &BTreeMap<String, String>) -> Result<Option<usize>, Error> {
    let Some(instances) = parameters.get("instances") else { return Ok(None) };
    let instances = instances.parse().ok().filter(|instances| (1..=1024).contains(instances));
    let problem = "the parameter 'instances' is not a number from 1 to 1024";
    instances.map(Some).ok_or_else(|| Error::Load(problem.to_owned()))
}

/// The threads that this process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Rows can only be gathered along a first axis that every input and output leaves free.
pub fn check_axes(signature: &Signature) -> Result<(), Error> {
    if signature.max_batch_size == 0 {
        return Ok(());
    }
    let fixed = |port: &&Port| port.shape.as_ref().is_some_and(|shape| shape.first() != Some(&-1));
    match signature.inputs.iter().chain(&signature.outputs).find(fixed) {
        Some(port) => Err(Error::Load(format!("'{}' has no free first axis, so max_batch_size must be 0", port.name))),
        None if signature.inputs.is_empty() => Err(Error::Load("without inputs, max_batch_size must be 0".to_owned())),
        None => Ok(()),
    }
}

/// An empty tensor may not claim axes out of all proportion.
pub fn check_empty(tensor: &Tensor) -> Result<(), Error> {
    let others = tensor.shape.iter().filter(|axis| **axis > 0);
    let elements = others.fold(1usize, |product, axis| product.saturating_mul(*axis));
    if tensor.shape.contains(&0) && elements > MAX_EMPTY_ELEMENTS {
        let problem = "the other axes of an empty tensor are too large".to_owned();
        return Err(Error::Input { field: tensor.name.clone(), problem });
    }
    Ok(())
}

/// The requests that can be executed together, by position: those that agree in everything but their number of rows.
pub fn groups(batch: &[Inputs], max_batch_size: usize) -> Vec<Vec<usize>> {
    if max_batch_size == 0 {
        return (0..batch.len()).map(|at| vec![at]).collect();
    }
    let mut groups = BTreeMap::<Vec<(&str, &[usize])>, Vec<usize>>::new();
    for (at, request) in batch.iter().enumerate() {
        let key = request.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.get(1..).unwrap_or_default()));
        groups.entry(key.collect()).or_default().push(at);
    }
    groups.into_values().collect()
}

/// The shapes of all inputs when only the first axis is free, with `rows` there.
pub fn made_up_shapes(inputs: &[Port], rows: usize) -> Option<Vec<Vec<usize>>> {
    let shape = |port: &Port| {
        let axes = port.shape.as_ref()?.iter().enumerate();
        axes.map(|(at, axis)| usize::try_from(*axis).ok().or((at == 0).then_some(rows))).collect()
    };
    inputs.iter().map(shape).collect()
}

/// A request of zeros and empty texts, where the shapes of all inputs are known but for their rows. A file may declare any shape, so
/// one that takes more than `most_bytes` together is refused before anything is allocated.
pub fn made_up(inputs: &[Port], rows: usize, most_bytes: u64) -> Result<Option<Inputs>, Error> {
    let Some(shapes) = made_up_shapes(inputs, rows) else { return Ok(None) };
    let lengths: Option<Vec<usize>> = inputs.iter().zip(&shapes).map(|(port, shape)| length(port, shape)).collect();
    let together = |lengths: &Vec<usize>| lengths.iter().try_fold(0u64, |sum, length| sum.checked_add(*length as u64));
    let Some(lengths) = lengths.filter(|lengths| together(lengths).is_some_and(|bytes| bytes <= most_bytes)) else {
        let limit = most_bytes >> 20;
        return Err(Error::Load(format!("its inputs do not fit into the {limit} MiB that they may take together")));
    };
    let zeros = |((port, shape), length): ((&Port, Vec<usize>), usize)| {
        Some(Tensor { name: port.name.clone(), datatype: port.datatype?, shape, data: vec![0; length].into() })
    };
    Ok(inputs.iter().zip(shapes).zip(lengths).map(zeros).collect())
}

/// The bytes of an input; an empty text is its length alone, which is zero. `None` when they are beyond counting.
fn length(port: &Port, shape: &[usize]) -> Option<usize> {
    let size = port.datatype.and_then(DataType::size).unwrap_or(4);
    shape.iter().try_fold(size, |product, axis| product.checked_mul(*axis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_a_file_declares_are_not_allocated_before_they_are_looked_at() {
        let port = |axes: &[i64]| Port::new("X", DataType::Fp32, axes);
        let made = made_up(&[port(&[-1, 4]), port(&[3])], 2, 44);
        let lengths = |inputs: Inputs| inputs.iter().map(|tensor| tensor.data.len()).collect::<Vec<_>>();
        assert_eq!(made.map(|made| made.map(lengths)).ok(), Some(Some(vec![32, 12])));
        assert!(made_up(&[port(&[-1, 4]), port(&[3])], 2, 43).is_err(), "together they are too large");
        assert!(made_up(&[port(&[-1, 1 << 45])], 1, 1 << 28).is_err());
        assert!(made_up(&[port(&[-1, i64::MAX, 4])], 1, u64::MAX).is_err(), "the size overflows");
        assert!(made_up(&[port(&[i64::MAX]), port(&[i64::MAX])], 1, u64::MAX).is_err());
        assert!(made_up(&[port(&[-1, -1])], 1, 1).is_ok_and(|made| made.is_none()), "a free axis was guessed");
    }
}
