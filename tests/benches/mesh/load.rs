//! What is sent, and what must come back.

use std::sync::Arc;

use bytes::Bytes;
use weft_engine::digits::{self, Heldout};
use weft_tests::calls::raw;
pub(crate) use weft_tests::load::closed::{Case, Expected, Slice, run};

use super::cell::Work;

/// The requests for a kind of work; callers send them in turn.
pub(crate) fn cases(work: Work) -> Arc<[Case]> {
    match work {
        Work::Identity(bytes) => Arc::new([identity(bytes)]),
        Work::Digits(rows) => batches(rows).iter().map(|images| classify(images)).collect(),
    }
}

/// The held-out images in groups of `rows`, each group full and each image in as many groups as any other.
pub(crate) fn batches(rows: usize) -> Vec<Vec<Heldout>> {
    let images: Vec<Heldout> = digits::heldout().collect();
    let group = |at: usize| (0..rows).map(|row| images[(at * rows + row) % images.len()]).collect();
    (0..images.len()).map(group).collect()
}

/// The pixels of images as the model takes them.
pub(crate) fn pixels(images: &[Heldout]) -> Bytes {
    images.iter().flat_map(Heldout::input).flat_map(f32::to_le_bytes).collect()
}

/// The labels that the Python reference gives, as INT64.
pub(crate) fn labels(images: &[Heldout]) -> Bytes {
    images.iter().flat_map(|image| i64::from(image.reference).to_le_bytes()).collect()
}

fn identity(bytes: usize) -> Case {
    let data: Bytes = (0..bytes / 4).flat_map(|element| (element as f32).to_le_bytes()).collect();
    let request = raw("identity", ("INPUT", "FP32"), &[axis(bytes / 4)], data.clone());
    Case { request, output: "OUTPUT".to_owned(), expected: Expected::Exactly(data) }
}

fn classify(images: &[Heldout]) -> Case {
    let request = raw("digits", ("PIXELS", "FP32"), &[axis(images.len()), 64], pixels(images));
    Case { request, output: "LABEL".to_owned(), expected: Expected::Exactly(labels(images)) }
}

fn axis(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
