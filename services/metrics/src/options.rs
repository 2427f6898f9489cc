//! What bounds the service.

use std::time::Duration;

/// How far back a window can reach: as far as the `Summary` contract lets callers ask.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(600);

/// Every bound on what is kept. What does not fit is refused and counted, or makes the oldest give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How much of the past the window keeps, at most [`LONGEST_WINDOW`].
    pub window: Duration,
    /// How many series the window and the totals hold, each.
    pub max_series: usize,
    /// How many buckets of histograms the window holds, 8 bytes each; beyond that its oldest seconds go.
    pub max_buckets: usize,
    /// How many instances may report.
    pub max_sources: usize,
    /// How long an instance may be silent before its series are forgotten.
    pub source_ttl: Duration,
    /// How many traces are kept; the oldest goes first.
    pub max_traces: usize,
    /// How many spans of one trace are kept; the first ones stay.
    pub max_spans: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            window: LONGEST_WINDOW,
            // Ten models on a thousand workers, with a handful of series each: about 30 MB.
            max_series: 50_000,
            // 64 MiB.
            max_buckets: 8 << 20,
            max_sources: 2_000,
            // Longer than a restart and than the window, shorter than what an operator would take for alive.
            source_ttl: Duration::from_secs(900),
            max_traces: 4096,
            max_spans: 64,
        }
    }
}
