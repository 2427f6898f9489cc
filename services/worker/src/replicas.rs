//! What this worker holds: read by every call without a lock, changed by the converging task alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use weft_proto::weft::state::v1::{FailureKind, ReplicaState};
use weft_types::{Error, ModelName, Reason, Result, Version};

use crate::replica::Replica;

/// A version and where it stands.
#[derive(Clone)]
pub(crate) enum Held {
    Loading,
    Ready(Arc<Replica>),
    /// Its queue may still be open, until routers have seen the announcement.
    Draining(Arc<Replica>),
    /// With the reason, safe to show.
    Failed(String, FailureKind),
}

impl Held {
    pub(crate) const fn state(&self) -> ReplicaState {
        match self {
            Self::Loading => ReplicaState::Loading,
            Self::Ready(_) => ReplicaState::Ready,
            Self::Draining(_) => ReplicaState::Draining,
            Self::Failed(..) => ReplicaState::Failed,
        }
    }

    pub(crate) const fn replica(&self) -> Option<&Arc<Replica>> {
        match self {
            Self::Ready(replica) | Self::Draining(replica) => Some(replica),
            Self::Loading | Self::Failed(..) => None,
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.replica().map_or(0, |replica| replica.model.size_bytes())
    }

    /// Executions that run at once; 0 while none can.
    pub(crate) fn concurrency(&self) -> u32 {
        self.replica().map_or(0, |replica| u32::try_from(replica.executors).unwrap_or(u32::MAX))
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Failed(reason, _) => reason,
            Self::Loading | Self::Ready(_) | Self::Draining(_) => "",
        }
    }

    pub(crate) const fn failure(&self) -> FailureKind {
        match self {
            Self::Failed(_, kind) => *kind,
            Self::Loading | Self::Ready(_) | Self::Draining(_) => FailureKind::Unspecified,
        }
    }
}

/// Versions by number.
pub(crate) type Versions = BTreeMap<Version, Held>;

/// The table of what is held.
#[derive(Default)]
pub(crate) struct Replicas {
    table: ArcSwap<BTreeMap<ModelName, Versions>>,
}

impl Replicas {
    /// The table as it is now.
    pub(crate) fn all(&self) -> Arc<BTreeMap<ModelName, Versions>> {
        self.table.load_full()
    }

    /// Sets where a version stands, or forgets it.
    pub(crate) fn set(&self, name: &ModelName, version: Version, held: Option<&Held>) {
        self.table.rcu(|table| {
            let mut table = BTreeMap::clone(table);
            let versions = table.entry(name.clone()).or_default();
            match held {
                Some(held) => drop(versions.insert(version, held.clone())),
                None => drop(versions.remove(&version)),
            }
            if versions.is_empty() {
                table.remove(name);
            }
            table
        });
    }

    /// Whether any version of the model is ready.
    pub(crate) fn any_ready(&self, name: &ModelName) -> bool {
        let table = self.table.load();
        table.get(name).is_some_and(|versions| versions.values().any(|held| matches!(held, Held::Ready(_))))
    }

    /// The replica that answers for a model: the version asked for, or the newest that is ready. `None` when nothing of
    /// it is held.
    pub(crate) fn find(&self, name: &str, version: Option<Version>) -> Result<Option<Arc<Replica>>> {
        let table = self.table.load();
        let held = table.get(name).and_then(|versions| match version {
            Some(version) => versions.get(&version),
            None => newest(versions),
        });
        match held {
            None => Ok(None),
            Some(Held::Ready(replica) | Held::Draining(replica)) => Ok(Some(Arc::clone(replica))),
            Some(Held::Loading) => Err(Error::new(Reason::ModelLoading, "the model is loading")),
            Some(Held::Failed(..)) => Err(Error::new(Reason::NoReadyReplica, "the model could not be loaded here")),
        }
    }
}

fn newest(versions: &Versions) -> Option<&Held> {
    let latest = |wanted: fn(&Held) -> bool| versions.values().rev().find(|held| wanted(held));
    latest(|held| matches!(held, Held::Ready(_)))
        .or_else(|| latest(|held| matches!(held, Held::Draining(_))))
        .or_else(|| latest(|held| matches!(held, Held::Loading)))
        .or_else(|| versions.values().next_back())
}
