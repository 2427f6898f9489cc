//! What this worker tells the others, under its lease.

use std::time::Duration;

use prost::Message as _;
use weft_client::{Keys, ReplicaKey};
use weft_proto::weft::state::v1::{ModelOffer, Replica, VersionOffer, Worker};
use weft_store::Presence;
use weft_types::{BUILD, SystemClock};

use super::plan::Key;
use super::recovery::Losses;
use crate::Shared;
use crate::replicas::Held;

/// Writes the worker's own records.
pub(super) struct Announcer {
    presence: Presence,
    keys: Keys,
    record: Worker,
    /// What was last told of the worker's drain.
    told: Option<bool>,
}

impl Announcer {
    pub(super) fn new(presence: Presence, shared: &Shared) -> Self {
        let options = &shared.options;
        let now = SystemClock::wall();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let record = Worker {
            id: options.id.to_string(),
            address: options.address.clone(),
            zone: options.zone.clone(),
            labels: options.labels.clone().into_iter().collect(),
            memory_bytes: shared.memory_bytes,
            threads: shared.threads,
            offers: offers(shared),
            build: BUILD.to_owned(),
            // Grows with each start of the worker, as wall clocks do; it only tells incarnations apart.
            epoch: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            draining: false,
            registered_at: Some(weft_proto::timestamp(now)),
            devices: shared.machine.devices(shared.memory_bytes),
            topology: Some(shared.machine.topology()),
            slots: options.slots.clone().into_iter().collect(),
            yields: true,
        };
        Self { presence, keys: shared.keys.clone(), record, told: None }
    }

    /// Tells that the worker is there, and whether it is going.
    pub(super) fn worker(&mut self, shared: &Shared, draining: bool) {
        if self.told == Some(draining) {
            return;
        }
        self.told = Some(draining);
        self.record.draining = draining;
        self.set(self.keys.worker(&shared.options.id), self.record.encode_to_vec());
    }

    /// Tells what the worker could load as of now.
    pub(super) fn offers(&mut self, shared: &Shared) {
        self.record.offers = offers(shared);
        self.set(self.keys.worker(&shared.options.id), self.record.encode_to_vec());
    }

    /// Tells where a version stands and what memory is counted for it, or that it is gone.
    pub(super) fn replica(&self, shared: &Shared, key: &Key, held: Option<(&Held, &Losses, u64)>) {
        let quarantined = shared.quarantines.of(key).count(SystemClock::now());
        let (model, version) = key.clone();
        let key = self.keys.replica(&ReplicaKey { worker: shared.options.id.clone(), model, version });
        match held {
            None => self.presence.remove(&key),
            Some((held, losses, bytes)) => {
                let record = Replica {
                    state: held.state().into(),
                    reason: held.reason().to_owned(),
                    size_bytes: bytes,
                    quarantined_inputs: u32::try_from(quarantined).unwrap_or(u32::MAX),
                    losses: losses.count,
                    loss: losses.reason.clone(),
                    concurrency: held.concurrency(),
                    lost_at: losses.at.map(weft_proto::timestamp),
                    failure: held.failure().into(),
                };
                self.set(key, record.encode_to_vec());
            }
        }
    }

    /// Waits until everything told so far stands in the store, at most for `limit`: a store that is away holds up nothing.
    pub(super) fn told(&self, limit: Duration) -> impl Future<Output = ()> + Send + use<> {
        let presence = self.presence.clone();
        async move {
            let _ = tokio::time::timeout(limit, presence.flush()).await;
        }
    }

    fn set(&self, key: String, value: Vec<u8>) {
        if let Err(error) = self.presence.set(key, value) {
            tracing::error!(%error, "a record of this worker does not fit the store");
        }
    }
}

fn offers(shared: &Shared) -> Vec<ModelOffer> {
    let versions = |offer: &crate::repository::Offer| {
        offer
            .versions
            .iter()
            .map(|(version, entry)| VersionOffer {
                version: version.get(),
                size_bytes: entry.size_bytes,
                cpu_millis: entry.cpu_millis,
                ..VersionOffer::default()
            })
            .collect()
    };
    shared
        .repository()
        .models()
        .map(|offer| ModelOffer {
            name: offer.name.to_string(),
            engine: offer.engine.to_string(),
            versions: versions(offer),
        })
        .collect()
}
