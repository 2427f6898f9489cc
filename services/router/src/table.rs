//! The mesh as the router needs it: ready replicas by model and version. Built anew with every snapshot, never changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_client::{Channel, ChannelOptions, ReplicaKey, Snapshot};
use weft_proto::weft::control::v1::Route;
use weft_proto::weft::state::v1::ReplicaState;
use weft_runtime::Tasks;
use weft_telemetry::{ModelMetrics, Scope};
use weft_types::{ModelName, Version, WorkerId};

use crate::endpoint::Endpoint;

/// A ready replica.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its worker is shutting down: it serves, but others are better.
    pub(crate) draining: bool,
}

/// What is known of a model.
#[derive(Default)]
pub(crate) struct Model {
    /// Ready replicas by version; every listed version has at least one.
    pub(crate) ready: BTreeMap<Version, Ready>,
    /// Versions that are being loaded, were placed, or could be.
    pub(crate) coming: BTreeMap<Version, Coming>,
    /// It was asked for with no replicas at all.
    pub(crate) unloaded: bool,
}

/// The replicas of a version that are ready.
pub(crate) struct Ready {
    pub(crate) replicas: Vec<Replica>,
    /// Instruments of this version, made once and not per call.
    pub(crate) metrics: ModelMetrics,
}

/// Why a version is not ready.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coming {
    /// A worker was told to load it, or is loading it.
    pub(crate) placed: bool,
    /// Why the last load failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Model {
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The ready replicas of a version, or of the latest that has any.
    pub(crate) fn ready(&self, version: Option<Version>) -> Option<(Version, &Ready)> {
        match version {
            Some(version) => self.ready.get_key_value(&version),
            None => self.ready.last_key_value(),
        }
        .map(|(version, ready)| (*version, ready))
    }
}

/// What a table's endpoints are made with.
pub(crate) struct Connect<'a> {
    pub(crate) channel: &'a ChannelOptions,
    pub(crate) tasks: &'a Tasks,
    pub(crate) scope: &'a Scope,
}

/// The router's view of the mesh at one revision.
#[derive(Default)]
pub(crate) struct Table {
    models: HashMap<ModelName, Model>,
    routes: HashMap<ModelName, Arc<weft_client::Record<Route>>>,
    pub(crate) endpoints: BTreeMap<WorkerId, Replica>,
}

impl Table {
    /// Builds the table of a snapshot. Workers that kept their address keep their connections and counts.
    pub(crate) fn build(snapshot: &Snapshot, old: &Self, connect: &Connect<'_>) -> Self {
        let mut table = Self::default();
        for (id, record) in snapshot.workers.iter() {
            let known = old.endpoints.get(id).map(|replica| &replica.endpoint);
            let same = |endpoint: &&Arc<Endpoint>| {
                endpoint.epoch == record.value.epoch && endpoint.channel.address() == record.value.address
            };
            let endpoint = match known.filter(same) {
                Some(endpoint) => Arc::clone(endpoint),
                None => {
                    let open = || Channel::new(&record.value.address, connect.channel.clone(), connect.tasks);
                    match (open(), open()) {
                        (Ok(channel), Ok(streams)) => Endpoint::new(id.clone(), record.value.epoch, channel, streams),
                        (Err(error), _) | (_, Err(error)) => {
                            tracing::warn!(worker = %id, %error, "a worker's address cannot be used");
                            continue;
                        }
                    }
                }
            };
            table.endpoints.insert(id.clone(), Replica { endpoint, draining: record.value.draining });
            table.offer(record.value.offers.iter());
        }
        table.place(snapshot, connect.scope);
        for (name, record) in snapshot.models.iter() {
            table.models.entry(name.clone()).or_default().unloaded = record.value.replicas == 0;
        }
        table.routes = snapshot.routes.iter().map(|(name, record)| (name.clone(), Arc::clone(record))).collect();
        table
    }

    fn offer<'a>(&mut self, offers: impl Iterator<Item = &'a weft_proto::weft::state::v1::ModelOffer>) {
        for offer in offers {
            let Ok(name) = offer.name.parse::<ModelName>() else { continue };
            let model = self.models.entry(name).or_default();
            for version in offer.versions.iter().filter_map(|offered| Version::new(offered.version)) {
                model.coming.entry(version).or_default();
            }
        }
    }

    fn place(&mut self, snapshot: &Snapshot, scope: &Scope) {
        // A placement that its worker has failed to load is not something to wait for.
        let failed = |key: &ReplicaKey| {
            snapshot.replicas.get(key).is_some_and(|record| record.value.state() == ReplicaState::Failed)
        };
        let hopeful = |key: &&ReplicaKey| snapshot.workers.contains_key(&key.worker) && !failed(key);
        for key in snapshot.placements.keys().filter(hopeful) {
            let model = self.models.entry(key.model.clone()).or_default();
            model.coming.entry(key.version).or_default().placed = true;
        }
        for (key, record) in snapshot.replicas.iter() {
            let Some(replica) = self.endpoints.get(&key.worker) else { continue };
            let model = self.models.entry(key.model.clone()).or_default();
            match record.value.state() {
                ReplicaState::Ready => {
                    let instruments = || scope.metrics().model(&key.model, key.version);
                    let ready = model
                        .ready
                        .entry(key.version)
                        .or_insert_with(|| Ready { replicas: Vec::new(), metrics: instruments() });
                    ready.replicas.push(replica.clone());
                }
                ReplicaState::Failed => {
                    model.coming.entry(key.version).or_default().failure = Some(record.value.reason.clone());
                }
                ReplicaState::Loading => model.coming.entry(key.version).or_default().placed = true,
                ReplicaState::Draining | ReplicaState::Unspecified => {}
            }
        }
    }

    pub(crate) fn model(&self, name: &str) -> Option<&Model> {
        self.models.get(name)
    }

    pub(crate) fn models(&self) -> impl Iterator<Item = (&ModelName, &Model)> {
        self.models.iter()
    }

    pub(crate) fn route(&self, name: &str) -> Option<&Route> {
        self.routes.get(name).map(|record| &record.value)
    }
}
