//! What is known of models' calls, in the policy's terms.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_client::{ReplicaKey, Snapshot};
use weft_policy::scale::{Demand, Seen};
use weft_proto::weft::state::v1::ReplicaState;
use weft_types::{ModelName, Version};

use crate::figures::{Figures, VersionFigures};
use crate::rollout::is_split;

/// The figures of one look, beside what the mesh holds.
pub(super) struct Measured<'a> {
    figures: &'a Figures,
    fresh: bool,
    /// Workers that shall hold each version.
    placed: BTreeMap<(&'a ModelName, Version), u32>,
    /// Ready replicas by model and version, and the most executions at once that one of them tells.
    ready: BTreeMap<(&'a ModelName, Version), (u32, u32)>,
    /// Models whose calls a rollout splits between two versions.
    split: BTreeSet<&'a ModelName>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(figures: &'a Figures, snapshot: &'a Snapshot, now: Instant) -> Self {
        let mut ready: BTreeMap<(&ModelName, Version), (u32, u32)> = BTreeMap::new();
        for (ReplicaKey { model, version, .. }, record) in snapshot.replicas.iter() {
            if record.value.state() == ReplicaState::Ready {
                let (count, concurrency) = ready.entry((model, *version)).or_default();
                *count += 1;
                *concurrency = record.value.concurrency.max(*concurrency);
            }
        }
        let mut placed: BTreeMap<(&ModelName, Version), u32> = BTreeMap::new();
        for key in snapshot.placements.keys() {
            *placed.entry((&key.model, key.version)).or_default() += 1;
        }
        let split = snapshot.rollouts.iter().filter(|(_, record)| is_split(&record.value)).map(|(name, _)| name);
        Self { figures, placed, fresh: figures.is_fresh(now), ready, split: split.collect() }
    }

    /// When a model was called last, as far as the figures tell.
    pub(super) fn last_call(&self, name: &ModelName) -> Option<Instant> {
        let at = self.figures.at?;
        let of_version = |figures: &VersionFigures| match figures.in_flight {
            0 => at.checked_sub(figures.since_last_call?),
            _ => Some(at),
        };
        self.versions(name).filter_map(|(_, figures)| of_version(figures)).max()
    }

    /// Workers that shall hold a model; of several versions, the most of one.
    pub(super) fn placed(&self, name: &'a ModelName) -> u32 {
        let versions = Version::new(1).map(|first| self.placed.range((name, first)..));
        let of_model = versions.into_iter().flatten().take_while(|((model, _), _)| *model == name);
        of_model.map(|(_, count)| *count).max().unwrap_or(0)
    }

    /// Whether any version of a model has a replica that serves.
    pub(super) fn serves(&self, name: &'a ModelName) -> bool {
        let first = Version::new(1).and_then(|first| self.ready.range((name, first)..).next());
        first.is_some_and(|((model, _), _)| *model == name)
    }

    /// What the policy looks at. Of several versions, the one with the most to do decides: each has as many replicas. Where a rollout splits
    /// the calls, that is as much as all of them have to do: each may have to answer all calls the next moment.
    pub(super) fn seen(&self, name: &'a ModelName) -> Seen {
        let demand = |(version, figures): (Version, &VersionFigures)| self.demand(name, version, figures);
        let most = self.versions(name).map(demand).max_by(|one, other| one.busy.total_cmp(&other.busy));
        let all = || self.versions(name).map(demand).map(|demand| demand.busy).sum();
        let most = most.map(|most| if self.split.contains(name) { Demand { busy: all(), ..most } } else { most });
        let idle = Demand { busy: 0.0, concurrency: 1.0, service: 0.0, wait: 0.0, missed: 0.0 };
        let ready = |(version, _)| self.ready.get(&(name, version)).map(|(count, _)| *count);
        let ready = self.versions(name).filter_map(ready).max();
        Seen {
            demand: self.fresh.then(|| most.unwrap_or(idle)),
            calls_known: self.fresh,
            window: self.figures.window,
            placed: self.placed(name),
            ready: ready.unwrap_or(0),
        }
    }

    /// What is told of a model's versions.
    fn versions(&self, name: &ModelName) -> impl Iterator<Item = (Version, &'a VersionFigures)> {
        let from = Version::new(1).map(|first| self.figures.versions.range((name.clone(), first)..));
        let of_model = from.into_iter().flatten().take_while(move |((model, _), _)| model == name);
        of_model.map(|((_, version), figures)| (*version, figures))
    }

    fn demand(&self, name: &ModelName, version: Version, figures: &VersionFigures) -> Demand {
        let window = self.figures.window.as_secs_f64().max(1.0);
        let calls = figures.calls as f64;
        let seconds = |duration: Option<Duration>| duration.unwrap_or_default().as_secs_f64();
        // Time is counted once for each request of a batch, and a batch is one execution. Where no time is told, as of language models, whose
        // sequences step together, calls under way stand for executions.
        let busy = match figures.compute_seconds > 0.0 {
            true => figures.compute_seconds / figures.mean_batch.max(1.0) / window,
            false => figures.in_flight as f64,
        };
        let concurrency = self.ready.get(&(name, version)).map_or(1, |(_, concurrency)| (*concurrency).max(1));
        Demand {
            busy,
            concurrency: concurrency.into(),
            service: if calls > 0.0 { figures.compute_seconds / calls } else { 0.0 },
            wait: seconds(figures.queue_p99),
            missed: if calls > 0.0 { figures.misses() as f64 / calls } else { 0.0 },
        }
    }
}
