//! Outlier ejection: the task that judges replicas and workers by what calls told of them.
//!
//! An ejection of a replica ends with its time (gRFC A50); one of a worker, which is ejected because it gives no answers at all, ends
//! when it answers a health check.

mod probe;

use std::time::{Duration, Instant};

use rand::Rng;
use weft_policy::eject::{Found, Outcome, Settings, sweep, trip};
use weft_types::{ModelName, SystemClock, Version, WorkerId};

use crate::outlier::{Outliers, Record};
use crate::table::Table;
use crate::{Inner, Router};

/// How often it is looked whether an ejection is over.
const TICK: Duration = Duration::from_secs(1);

/// Hosts that are judged against each other.
struct Pool<'a> {
    /// The model's version whose replicas they are; none when they are workers.
    of: Option<(&'a ModelName, Version)>,
    settings: &'a Settings,
    members: Vec<(&'a WorkerId, &'a Record)>,
}

/// What a look at everybody is for.
#[derive(Clone, Copy)]
struct Look {
    now: Instant,
    /// An interval is over: everybody is judged. Otherwise only those who have failed in a row are.
    is_sweep: bool,
}

impl Router {
    /// Judges replicas and workers until the process ends.
    pub(crate) async fn detect(self) {
        let inner = &*self.inner;
        let finishing = inner.tasks.finishing();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = SystemClock::now();
        loop {
            // An alarm that comes while a tick is handled is kept.
            let is_tick = tokio::select! {
                _ = ticks.tick() => true,
                () = inner.outliers.alarm.notified() => false,
                () = finishing.cancelled() => return,
            };
            let now = SystemClock::now();
            let is_sweep = now.saturating_duration_since(swept) >= inner.outliers.replicas.interval;
            if is_sweep {
                swept = now;
            }
            let table = inner.table.load_full();
            look(inner, &table, Look { now, is_sweep });
            if is_tick {
                end(&inner.outliers, &table, now);
            }
        }
    }
}

/// Ejects whoever is found.
fn look(inner: &Inner, table: &Table, look: Look) {
    pools(&inner.outliers, table).for_each(|pool| {
        for found in pool.judge(look, &mut rand::rng()) {
            pool.report(inner, found);
        }
    });
}

/// Ends the ejections of replicas whose time is over.
fn end(outliers: &Outliers, table: &Table, now: Instant) {
    for (model, known) in table.models() {
        for (version, ready) in &known.ready {
            for replica in ready.replicas.iter().filter(|one| one.pace.record.is_over(&outliers.replicas, now)) {
                replica.pace.record.end();
                replica.pace.start_slowly(now);
                tracing::info!(worker = %replica.endpoint.worker, %model, %version, "an ejected replica is back");
            }
        }
    }
}

fn pools<'a>(outliers: &'a Outliers, table: &'a Table) -> impl Iterator<Item = Pool<'a>> {
    let workers = table.hosts.iter().map(|(worker, host)| (worker, &host.endpoint.record)).collect();
    let workers = Pool { of: None, settings: &outliers.workers, members: workers };
    let versions = table.models().flat_map(|(model, known)| known.ready.iter().map(move |ready| (model, ready)));
    let replicas = versions.map(|(model, (version, ready))| Pool {
        of: Some((model, *version)),
        settings: &outliers.replicas,
        members: ready.replicas.iter().map(|one| (&one.endpoint.worker, &one.pace.record)).collect(),
    });
    std::iter::once(workers).chain(replicas)
}

impl Pool<'_> {
    fn judge(&self, look: Look, rng: &mut impl Rng) -> Vec<Found> {
        if !look.is_sweep && !self.members.iter().any(|(_, record)| record.is_alarming(self.settings)) {
            return Vec::new();
        }
        let mut hosts: Vec<_> = self.members.iter().map(|(_, record)| record.host(look.is_sweep)).collect();
        let mut found = trip(self.settings, &mut hosts, look.now);
        if look.is_sweep {
            found.extend(sweep(self.settings, &mut hosts, look.now, rng));
        }
        for (host, (_, record)) in hosts.iter().zip(&self.members) {
            record.decide(host.ejection);
        }
        // One who stays all the same is not found again with every further failure.
        found.iter().filter_map(|found| self.members.get(found.index)).for_each(|(_, record)| record.forgive());
        found
    }

    fn report(&self, inner: &Inner, found: Found) {
        let Some((worker, record)) = self.members.get(found.index) else { return };
        let (method, metrics) = (found.method.as_str(), inner.scope.metrics());
        let unenforced = match found.outcome {
            Outcome::Ejected => {
                metrics.record_ejection(method);
                let seconds = record.host(false).ejection.time(self.settings).unwrap_or_default().as_secs();
                let what = self.of.map(|(model, version)| format!("{model}@{version}"));
                tracing::warn!(%worker, replica = what, method, seconds, hosts = self.members.len(), "ejected");
                return;
            }
            Outcome::MaxEjectionOverflow => "max_ejection_overflow",
            Outcome::EnforcementPercentage => "enforcement_percentage",
        };
        metrics.record_ejection_unenforced(method, unenforced);
    }
}

#[cfg(test)]
mod tests;
