//! Everything that is held, behind one lock: reports come once a second and hold it for microseconds.

use std::time::{Duration, Instant};

use crate::options::Options;
use crate::source::Sources;
use crate::totals::Totals;
use crate::traces::Traces;
use crate::triton::Triton;
use crate::window::Window;

/// How often silent sources are looked for.
const SWEEP: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sources: Sources,
    pub(crate) window: Window,
    pub(crate) totals: Totals,
    pub(crate) triton: Triton,
    pub(crate) traces: Traces,
    pub(crate) refused_points: u64,
    pub(crate) refused_spans: u64,
    swept: Instant,
}

impl State {
    pub(crate) fn new(options: &Options, now: Instant) -> Self {
        Self {
            sources: Sources::new(options),
            window: Window::new(options, now),
            totals: Totals::new(options.max_series),
            triton: Triton::new(options.max_series),
            traces: Traces::new(options),
            refused_points: 0,
            refused_spans: 0,
            swept: now,
        }
    }

    /// Forgets who has been silent, now and then.
    pub(crate) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            if self.sources.forget_silent(now) {
                self.totals.keep_only(&self.sources);
            }
        }
    }
}
