//! What is decided as records, and back: a new leader goes on from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use weft_client::{Keys, Record, Snapshot};
use weft_policy::scale::{Bounds, Scaler};
use weft_proto::weft::state::v1::Scale;
use weft_proto::{from_timestamp, timestamp};
use weft_store::{Compare, Fence, Op, Txn};
use weft_types::{ModelName, SystemClock};

/// How old a record may be in when its model was called last.
const COARSE: Duration = Duration::from_secs(30);
/// What begins with a record takes it to be as old as that: writing it would move it by so much with each change of leaders. So a record is
/// written when it is older than that by as much as clocks may differ.
const MARGIN: Duration = Duration::from_secs(1);
/// Changes in one transaction, each with its own comparison: the store takes 128, and one is the fence's.
const CHANGES: usize = 100;

/// What a leader begins with: the record of the leader before it, or what is there. A model that was called may have been called for
/// some time after the record was written; one that sleeps and of which nothing is known goes on sleeping.
pub(super) fn begin(record: Option<&Arc<Record<Scale>>>, placed: u32, bounds: &Bounds, now: Instant) -> Scaler {
    let ago = |age: Duration| now.checked_sub(age).unwrap_or(now);
    let target = record.map_or(placed, |record| record.value.target).clamp(bounds.min, bounds.max);
    let told = record.and_then(|record| record.value.last_called.as_ref()).and_then(from_timestamp);
    // Clocks of machines differ: what is said to come was just now.
    let age = told.map(|told| SystemClock::wall().duration_since(told).unwrap_or_default());
    let last_call = match (age, target) {
        (_, 0) => ago(bounds.idle_after),
        (Some(age), _) => ago(age.saturating_sub(COARSE)),
        (None, _) => now,
    };
    Scaler::new(target, last_call, now)
}

/// The writes that make the records say what is decided, each under the fence and on what the snapshot shows.
pub(super) fn changes(
    models: &BTreeMap<ModelName, Scaler>,
    snapshot: &Snapshot,
    keys: &Keys,
    (fence, now): (&Fence, Instant),
) -> Vec<Txn> {
    let changed = models.iter().filter_map(|(name, scaler)| {
        let known = snapshot.scales.get(name);
        let value = written(known.map(|record| &record.value), scaler, now)?;
        let key = keys.scale(name);
        let seen = snapshot.unchanged(key.clone(), known.map(|record| record.mod_revision));
        Some((seen, Op::Put { key, value: Bytes::from(value.encode_to_vec()), lease: None }))
    });
    let over = snapshot.scales.iter().filter(|(name, _)| !models.contains_key(*name)).map(|(name, record)| {
        let key = keys.scale(name);
        (snapshot.unchanged(key.clone(), Some(record.mod_revision)), Op::Delete(key))
    });
    let all: Vec<(Compare, Op)> = changed.chain(over).collect();
    let transaction = |changes: &[(Compare, Op)]| {
        let (mut compares, ops): (Vec<_>, Vec<_>) = changes.iter().cloned().unzip();
        compares.push(fence.compare());
        Txn { compares, ops }
    };
    all.chunks(CHANGES).map(transaction).collect()
}

/// The record, if it must be another than it is.
fn written(known: Option<&Scale>, scaler: &Scaler, now: Instant) -> Option<Scale> {
    let (decision, wall) = (scaler.decision(), SystemClock::wall());
    let last_called = wall.checked_sub(scaler.idle(now)).unwrap_or(wall);
    let stands = known.filter(|known| known.target == decision.target);
    if let Some(known) = stands {
        let told = known.last_called.as_ref().and_then(from_timestamp).unwrap_or(std::time::UNIX_EPOCH);
        let later = last_called.duration_since(told).unwrap_or_default();
        if later < COARSE + MARGIN {
            return None;
        }
    }
    let since = stands.and_then(|known| known.since).unwrap_or_else(|| timestamp(wall));
    let why = stands.map_or_else(|| decision.why.to_string(), |known| known.why.clone());
    Some(Scale { target: decision.target, since: Some(since), why, last_called: Some(timestamp(last_called)) })
}
