//! The router's own load, told upward (ORCA, gRFC A51), so that a balancer in front can weigh routers against each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Code;
use weft_policy::rate::Rate;
use weft_proto::orca::{self, OrcaLoadReport, named};
use weft_runtime::Trailer;
use weft_types::SystemClock;

use crate::dispatch::ending;
use crate::endpoint::Ending;

/// For how long a report is as good as a new one: balancers weigh routers over seconds, and a value that stays is a byte in HPACK.
const FRESH: Duration = Duration::from_millis(10);

/// What is counted of all calls.
pub(crate) struct Load {
    in_flight: AtomicU64,
    served: Rate,
    errors: Rate,
    /// Answers of replicas that told how utilized they are, and the sum of what they told.
    told: Rate,
    utilization: Rate,
    /// The last report that an answer carried, and when it was made.
    latest: Mutex<Option<(Instant, Trailer)>>,
}

/// A call that is counted. Dropping it ends it: a caller that goes away is no error of the router's.
pub(crate) struct Counted<'a> {
    load: &'a Load,
    code: Code,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        let rate = || Rate::new(now);
        let (in_flight, latest) = (AtomicU64::new(0), Mutex::new(None));
        Self { in_flight, served: rate(), errors: rate(), told: rate(), utilization: rate(), latest }
    }

    /// Counts a call from now on.
    pub(crate) fn enter(&self) -> Counted<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted { load: self, code: Code::Ok }
    }

    /// A replica has told its load with an answer.
    pub(crate) fn hear(&self, load: &orca::Load, now: Instant) {
        if let Some(utilization) = load.utilization {
            self.told.add(1.0, now);
            self.utilization.add(utilization as f32, now);
        }
    }

    /// The load as an answer carries it: that of lately, if it was told.
    pub(crate) fn trailer(&self, now: Instant) -> Option<Trailer> {
        // A report is replaced whole.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = latest.as_ref().is_none_or(|(made, _)| now.saturating_duration_since(*made) >= FRESH);
        if stale {
            *latest = Trailer::of(&self.report(now)).map(|trailer| (now, trailer));
        }
        latest.as_ref().map(|(_, trailer)| trailer.clone())
    }

    /// The load now. A router is as utilized as the replicas that its calls have lately gone to: it can answer no faster than they do.
    pub(crate) fn report(&self, now: Instant) -> OrcaLoadReport {
        let told = self.told.per_second(now);
        let mean = if told > 0.0 { self.utilization.per_second(now) / told } else { 0.0 };
        OrcaLoadReport {
            application_utilization: mean.into(),
            rps_fractional: self.served.per_second(now).into(),
            eps: self.errors.per_second(now).into(),
            named_metrics: [(named::IN_FLIGHT.to_owned(), self.in_flight.load(Ordering::Relaxed) as f64)].into(),
            ..OrcaLoadReport::default()
        }
    }
}

impl Counted<'_> {
    /// Ends it with this code.
    pub(crate) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let now = SystemClock::now();
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.load.served.add(1.0, now);
        if ending(self.code) == Ending::Failed {
            self.load.errors.add(1.0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_in_flight_and_the_mean_of_what_replicas_told() {
        let now = SystemClock::now();
        let load = Load::new(now);
        assert_eq!(load.report(now).application_utilization, 0.0);
        let calls = [load.enter(), load.enter(), load.enter()];
        assert_eq!(load.report(now).named_metrics[named::IN_FLIGHT], 3.0);
        for (call, code) in calls.into_iter().zip([Code::Ok, Code::Unavailable, Code::InvalidArgument]) {
            call.end(code);
        }
        drop(load.enter());
        for utilization in [Some(0.25), Some(0.75), None] {
            load.hear(&orca::Load { utilization, ..orca::Load::default() }, now);
        }
        let report = load.report(SystemClock::now());
        assert_eq!(report.named_metrics[named::IN_FLIGHT], 0.0);
        assert!((report.application_utilization - 0.5).abs() < 1e-6, "{report:?}");
        assert!((report.rps_fractional / report.eps - 4.0).abs() < 0.01, "{report:?}");
    }
}
