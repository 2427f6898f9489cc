//! What is compared, and under what load.

use std::sync::Arc;

use bytes::Bytes;
use weft_tests::calls::raw;
use weft_tests::load::closed::{Case, Expected};

/// What stands between the callers and the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// Nothing.
    Bare,
    Weft,
    Envoy,
    Nginx,
    HaProxy,
}

impl Via {
    pub(crate) const ALL: [Self; 5] = [Self::Bare, Self::Weft, Self::Envoy, Self::Nginx, Self::HaProxy];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Weft => "weft",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
        }
    }
}

/// One cell of the table: bytes of a tensor, calls under way at any time, and through whom.
pub(crate) type Cell = (usize, usize, Via);

/// 16 FP32 elements: what remains is the cost of a call.
pub(crate) const SMALL: usize = 64;
/// 16 embeddings of 1,024 FP32 elements.
pub(crate) const MEDIUM: usize = 64 << 10;
/// An image as vision models take it: FP32 of 3 x 224 x 224.
pub(crate) const LARGE: usize = 588 << 10;

pub(crate) const SIZES: [usize; 3] = [SMALL, MEDIUM, LARGE];
pub(crate) const IN_FLIGHT: [usize; 3] = [1, 64, 512];

/// A tensor that must come back as it went.
pub(crate) fn echo(bytes: usize) -> Arc<[Case]> {
    let data: Bytes = (0..bytes / 4).flat_map(|element| (element as f32).to_le_bytes()).collect();
    let axis = i64::try_from(bytes / 4).unwrap_or(i64::MAX);
    let request = raw("identity", ("INPUT", "FP32"), &[axis], data.clone());
    Arc::new([Case { request, output: "OUTPUT".to_owned(), expected: Expected::Exactly(data) }])
}
