//! What operators allow, in the policy's terms.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_client::Snapshot;
use weft_policy::scale::Bounds;
use weft_proto::from_duration;
use weft_proto::weft::control::v1::Model;
use weft_types::{ModelName, Version};

/// The share of a replica's time that calls take where the operator does not say.
const UTILIZATION: f64 = 0.7;
/// How long a model stays that nobody calls, where the operator does not say.
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// The bounds of a model that follows demand. One that its calls could not bring back keeps a replica. What is no number that could be
/// meant counts as not said: the control API refuses it, but need not have written it.
pub(super) fn bounds(model: &Model, unwakeable: bool) -> Option<Bounds> {
    let told = model.autoscaling.as_ref()?;
    let max = told.max_replicas.max(1);
    let utilization = Some(told.target_utilization).filter(|told| *told > 0.0 && *told <= 1.0);
    Some(Bounds {
        min: told.min_replicas.max(u32::from(unwakeable)).min(max),
        max,
        utilization: utilization.unwrap_or(UTILIZATION),
        idle_after: told.idle_after.as_ref().and_then(from_duration).unwrap_or(IDLE_AFTER),
    })
}

/// How many workers shall hold a model: what was decided, within what the operator allows now, or what was applied. Before anything is
/// decided, as many as there are.
pub(crate) fn replicas(snapshot: &Snapshot, name: &ModelName, model: &Model) -> usize {
    let Some(bounds) = bounds(model, false) else { return model.replicas as usize };
    let decided = snapshot.scales.get(name).map(|record| record.value.target);
    decided.unwrap_or_else(|| placed(snapshot, name)).clamp(bounds.min, bounds.max) as usize
}

/// Workers that shall hold a model; of several versions, the most of one.
fn placed(snapshot: &Snapshot, name: &ModelName) -> u32 {
    let mut versions: BTreeMap<Version, u32> = BTreeMap::new();
    for key in snapshot.placements.keys().filter(|key| key.model == *name) {
        *versions.entry(key.version).or_default() += 1;
    }
    versions.into_values().max().unwrap_or(0)
}

/// Models that routes send calls to only while they are ready: calls pass them by for others, or are copied to them, and so would never
/// bring them back.
pub(super) fn unwakeable(snapshot: &Snapshot) -> BTreeSet<ModelName> {
    let mut found = BTreeSet::new();
    for record in snapshot.routes.values() {
        let route = &record.value;
        let drawn: Vec<&str> =
            route.targets.iter().filter(|target| target.weight > 0).map(|target| target.model.as_str()).collect();
        let split = drawn.iter().filter(|_| drawn.len() > 1).copied();
        let shadow = route.shadow.iter().map(|shadow| shadow.model.as_str());
        found.extend(split.chain(shadow).filter_map(|name| name.parse().ok()));
    }
    found
}
