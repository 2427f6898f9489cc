//! Everything that is held, behind one lock: reports come once a second and hold it for microseconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_telemetry::names;

use crate::options::Options;
use crate::source::Sources;
use crate::totals::Totals;
use crate::traces::Traces;
use crate::triton::Triton;
use crate::window::{Model, Window};

/// How often silent sources are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// What routers have under way, as the totals name it.
const IN_FLIGHT: &str = "weft_router_in_flight";
/// A router that has not reported for so long has probably ended, and its calls with it.
const RECENT: Duration = Duration::from_secs(5);

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

    /// Calls that routers have under way, of models that have any.
    pub(crate) fn in_flight(&self, now: Instant) -> BTreeMap<Model, u64> {
        let mut models: BTreeMap<Model, u64> = BTreeMap::new();
        for (labels, source, calls) in self.totals.numbers(IN_FLIGHT) {
            let of = |wanted: &str| labels.iter().find(|(label, _)| label == wanted).map(|(_, value)| value.as_str());
            let Some((name, version)) = of(names::MODEL).zip(of(names::VERSION).and_then(|text| text.parse().ok()))
            else {
                continue;
            };
            // A cast of what is negative or no number is zero.
            let calls = calls as u64;
            if calls > 0 && self.sources.is_recent(source, RECENT, now) {
                let sum = models.entry(Model { name: name.into(), version }).or_default();
                *sum = sum.saturating_add(calls);
            }
        }
        models
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
