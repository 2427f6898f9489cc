//! Outlier ejection: which hosts are sent nothing for a while, because calls to them fail (gRFC A50; Envoy's outlier detection, from
//! which the detection of consecutive failures is taken as well).
//!
//! A host is whatever is watched against its like: the replicas of one version of a model, or all workers. Nobody is ejected for
//! having no calls, never more than a share of the hosts, and never all of them.

mod evidence;

pub use evidence::Evidence;

use std::time::{Duration, Instant};

use rand::{Rng, RngExt as _};

/// When a host is ejected, and for how long. The names are those of gRFC A50.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Time between two sweeps; counts are of one interval.
    pub interval: Duration,
    /// An ejection takes this, times how often the host was ejected lately.
    pub base_ejection_time: Duration,
    /// The longest ejection, if it is not below the base.
    pub max_ejection_time: Duration,
    /// The share of the hosts that may be ejected at once; of two or more hosts, one may always be.
    pub max_ejection_percent: u32,
    /// Against hosts that do worse than the others.
    pub success_rate: SuccessRate,
    /// Against hosts that hardly ever answer.
    pub failure_percentage: FailurePercentage,
    /// Failures without a success between them that eject at once (Envoy's `consecutive_5xx`).
    pub consecutive_failures: u32,
}

/// Ejects whose share of successes is far below the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// How many thousandths of a standard deviation below the mean is too far.
    pub stdev_factor: u32,
    /// The chance in percent that one who is found is ejected.
    pub enforcement_percentage: u32,
    /// Hosts with enough calls that it takes to compare them.
    pub minimum_hosts: usize,
    /// Calls in an interval that are enough.
    pub request_volume: u64,
}

/// Ejects whose share of failures is above a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The bound, in percent.
    pub threshold: u32,
    /// The chance in percent that one who is found is ejected.
    pub enforcement_percentage: u32,
    /// Hosts that it takes, with calls or without.
    pub minimum_hosts: usize,
    /// Calls in an interval that are enough to judge a host.
    pub request_volume: u64,
}

impl Default for Settings {
    /// The defaults of gRFC A50, and Envoy's five failures in a row.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            success_rate: SuccessRate {
                stdev_factor: 1_900,
                enforcement_percentage: 100,
                minimum_hosts: 5,
                request_volume: 100,
            },
            failure_percentage: FailurePercentage {
                threshold: 85,
                enforcement_percentage: 100,
                minimum_hosts: 5,
                request_volume: 50,
            },
            consecutive_failures: 5,
        }
    }
}

/// How the calls of one interval ended at a host. What says nothing about the host is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered well.
    pub successes: u64,
    /// Failed by the host's fault.
    pub failures: u64,
    /// Failed by the host's fault or the caller's: held against a host only where the others do better.
    pub doubtful: u64,
}

impl Counts {
    const fn total(self) -> u64 {
        self.successes.saturating_add(self.failures).saturating_add(self.doubtful)
    }

    /// The share of successes in `[0, 1]`, where there were so many calls at least.
    fn success_rate(self, request_volume: u64) -> Option<f64> {
        (self.total() >= request_volume.max(1)).then(|| self.successes as f64 / self.total() as f64)
    }
}

/// Whether a host is ejected, and how often it lately was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    since: Option<Instant>,
    multiplier: u32,
}

impl Ejection {
    /// Whether it is ejected.
    pub const fn is_ejected(self) -> bool {
        self.since.is_some()
    }

    /// How long it is ejected for, if it is.
    pub fn time(self, settings: &Settings) -> Option<Duration> {
        let most = settings.base_ejection_time.max(settings.max_ejection_time);
        self.since.map(|_| settings.base_ejection_time.saturating_mul(self.multiplier).min(most))
    }

    /// Whether it is ejected and the time of that is over.
    pub fn is_over(self, settings: &Settings, now: Instant) -> bool {
        let ejected = self.since.map(|since| now.saturating_duration_since(since));
        ejected.zip(self.time(settings)).is_some_and(|(ejected, time)| ejected >= time)
    }

    /// Ends it. How often the host was ejected is not forgotten yet.
    pub const fn end(&mut self) {
        self.since = None;
    }

    fn begin(&mut self, now: Instant) {
        *self = Self { since: Some(now), multiplier: self.multiplier.saturating_add(1) };
    }
}

/// What is known of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Since the last sweep.
    pub counts: Counts,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Its standing.
    pub ejection: Ejection,
}

/// How an outlier was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By its share of successes beside the others'.
    SuccessRate,
    /// By its share of failures.
    FailurePercentage,
    /// By failures in a row.
    ConsecutiveFailures,
}

impl Method {
    /// The method's name in gRFC A91's metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::ConsecutiveFailures => "consecutive_failures",
        }
    }
}

/// What was done about an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is ejected.
    Ejected,
    /// Nothing: as many as may be are ejected already.
    MaxEjectionOverflow,
    /// Nothing: chance let it go.
    EnforcementPercentage,
}

/// An outlier that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place among the hosts.
    pub index: usize,
    /// How it was found.
    pub method: Method,
    /// What was done.
    pub outcome: Outcome,
}

/// Hosts under watch together.
struct Hosts<'a> {
    settings: &'a Settings,
    hosts: &'a mut [Host],
    now: Instant,
    found: Vec<Found>,
}

/// Judges an interval: to be called once in each, with its counts. An ejection that is over does not end here: see
/// [`Ejection::is_over`].
pub fn sweep<R: Rng + ?Sized>(settings: &Settings, hosts: &mut [Host], now: Instant, rng: &mut R) -> Vec<Found> {
    let mut all = Hosts { settings, hosts, now, found: Vec::new() };
    all.by_success_rate(rng);
    all.by_failure_percentage(rng);
    all.hosts.iter_mut().filter(|host| !host.ejection.is_ejected()).for_each(|host| {
        host.ejection.multiplier = host.ejection.multiplier.saturating_sub(1);
    });
    all.found
}

/// Ejects whoever has failed so often in a row. That need not wait for a sweep.
pub fn trip(settings: &Settings, hosts: &mut [Host], now: Instant) -> Vec<Found> {
    let mut all = Hosts { settings, hosts, now, found: Vec::new() };
    for index in 0..all.hosts.len() {
        if all.hosts[index].consecutive_failures >= settings.consecutive_failures.max(1) {
            all.found(index, Method::ConsecutiveFailures, true);
        }
    }
    all.found
}

impl Hosts<'_> {
    fn by_success_rate<R: Rng + ?Sized>(&mut self, rng: &mut R) {
        let settings = self.settings.success_rate;
        let rate = |host: &Host| host.counts.success_rate(settings.request_volume);
        let rates = || self.hosts.iter().filter_map(rate);
        let count = rates().count();
        if count < settings.minimum_hosts.max(1) {
            return;
        }
        let mean = rates().sum::<f64>() / count as f64;
        let variance = rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count as f64;
        let least = mean - variance.sqrt() * f64::from(settings.stdev_factor) / 1_000.0;
        for index in 0..self.hosts.len() {
            if rate(&self.hosts[index]).is_some_and(|rate| rate < least) {
                self.found(index, Method::SuccessRate, draw(settings.enforcement_percentage, rng));
            }
        }
    }

    fn by_failure_percentage<R: Rng + ?Sized>(&mut self, rng: &mut R) {
        let settings = self.settings.failure_percentage;
        if self.hosts.len() < settings.minimum_hosts {
            return;
        }
        for index in 0..self.hosts.len() {
            let counts = self.hosts[index].counts;
            // In whole numbers, which cannot be off by a rounding.
            let is_above =
                u128::from(counts.failures) * 100 > u128::from(counts.total()) * u128::from(settings.threshold);
            if is_above && counts.total() >= settings.request_volume {
                self.found(index, Method::FailurePercentage, draw(settings.enforcement_percentage, rng));
            }
        }
    }

    /// Ejects one unless it is already, or too many are, or chance lets it go.
    fn found(&mut self, index: usize, method: Method, is_enforced: bool) {
        if self.hosts[index].ejection.is_ejected() {
            return;
        }
        let ejected = self.hosts.iter().filter(|host| host.ejection.is_ejected()).count();
        let outcome = if ejected >= most_ejected(self.settings.max_ejection_percent, self.hosts.len()) {
            Outcome::MaxEjectionOverflow
        } else if !is_enforced {
            Outcome::EnforcementPercentage
        } else {
            self.hosts[index].ejection.begin(self.now);
            Outcome::Ejected
        };
        self.found.push(Found { index, method, outcome });
    }
}

/// How many of so many hosts may be ejected at once: one at least, but never the last one.
fn most_ejected(percent: u32, hosts: usize) -> usize {
    let share = (hosts as u64).saturating_mul(percent.into()) / 100;
    usize::try_from(share).unwrap_or(hosts).max(1).min(hosts.saturating_sub(1))
}

fn draw<R: Rng + ?Sized>(percent: u32, rng: &mut R) -> bool {
    rng.random_range(0..100) < percent
}

#[cfg(test)]
mod tests;
