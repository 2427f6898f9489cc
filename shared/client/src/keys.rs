//! Where each record stands in the store.

use weft_types::{ModelName, Version, WorkerId};

use crate::ReplicaKey;

/// The key space of one cluster: `/weft/v1/<cluster>/`.
#[derive(Clone, Debug)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// The keys of a cluster, whose name has been checked like a model's.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/weft/v1/{cluster}/") }
    }

    /// What every key of the cluster starts with.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// `workers/<id>`
    pub fn worker(&self, id: &WorkerId) -> String {
        format!("{}workers/{id}", self.root)
    }

    /// `workers/`, what every worker's key starts with.
    pub fn workers(&self) -> String {
        format!("{}workers/", self.root)
    }

    /// `cordons/<worker>`
    pub fn cordon(&self, id: &WorkerId) -> String {
        format!("{}cordons/{id}", self.root)
    }

    /// `models/<name>`
    pub fn model(&self, name: &ModelName) -> String {
        format!("{}models/{name}", self.root)
    }

    /// `routes/<name>`
    pub fn route(&self, name: &ModelName) -> String {
        format!("{}routes/{name}", self.root)
    }

    /// `scales/<model>`
    pub fn scale(&self, model: &ModelName) -> String {
        format!("{}scales/{model}", self.root)
    }

    /// `rollouts/<model>`
    pub fn rollout(&self, model: &ModelName) -> String {
        format!("{}rollouts/{model}", self.root)
    }

    /// `placements/<worker>/<model>@<version>`
    pub fn placement(&self, key: &ReplicaKey) -> String {
        format!("{}placements/{}/{}@{}", self.root, key.worker, key.model, key.version)
    }

    /// `replicas/<worker>/<model>@<version>`
    pub fn replica(&self, key: &ReplicaKey) -> String {
        format!("{}replicas/{}/{}@{}", self.root, key.worker, key.model, key.version)
    }

    /// `services/<kind>/<id>`
    pub fn service(&self, kind: &str, id: &str) -> String {
        format!("{}services/{kind}/{id}", self.root)
    }

    /// Where a worker's placements stand: `placements/<worker>/`
    pub fn placements_of(&self, worker: &WorkerId) -> String {
        format!("{}placements/{worker}/", self.root)
    }

    /// Where leaders stand: `leader/`
    pub fn leaders(&self) -> String {
        format!("{}leader/", self.root)
    }

    /// `events/`, what every event's key starts with.
    pub fn events(&self) -> String {
        format!("{}events/", self.root)
    }

    /// `events/<hour>/<id>`; the hour counts from 1970 and has eight digits, so that keys are in the order of time.
    pub fn event(&self, hour: u64, id: &str) -> String {
        format!("{}events/{hour:08}/{id}", self.root)
    }

    /// `barriers/placement`, which every write of placements compares: what was sent before it was last put cannot arrive after it.
    pub fn barrier(&self) -> String {
        format!("{}barriers/placement", self.root)
    }

    /// `leader/scheduler`
    pub fn leader(&self) -> String {
        format!("{}leader/scheduler", self.root)
    }
}

/// Reads the part of a key behind its prefix as `<worker>/<model>@<version>`.
pub(crate) fn replica_key(rest: &str) -> Option<ReplicaKey> {
    let (worker, replica) = rest.split_once('/')?;
    let (model, version) = replica.rsplit_once('@')?;
    Some(ReplicaKey {
        worker: worker.parse::<WorkerId>().ok()?,
        model: model.parse::<ModelName>().ok()?,
        version: version.parse::<Version>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_keys_read_back() {
        let keys = Keys::new("test");
        let key = replica_key("w-1/digits@3").expect("well formed");
        assert_eq!(keys.replica(&key), "/weft/v1/test/replicas/w-1/digits@3");
        assert_eq!(keys.placement(&key).strip_prefix("/weft/v1/test/placements/").and_then(replica_key), Some(key));
        for bad in ["", "w-1", "w-1/digits", "w-1/digits@0", "w-1/../x@1", "/digits@1"] {
            assert_eq!(replica_key(bad), None, "{bad:?}");
        }
    }
}
