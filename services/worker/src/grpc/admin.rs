//! `weft.worker.v1.Worker`: a look into this worker, and its drain.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use weft_proto::weft::worker::v1::worker_server::Worker;
use weft_proto::weft::worker::v1::{
    Device, DrainRequest, DrainResponse, GetStatusRequest, GetStatusResponse, ListDevicesRequest, ListDevicesResponse,
    ReplicaStatus,
};
use weft_types::{ModelName, Version};

use crate::Shared;
use crate::replicas::Held;

/// The worker's own service.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

impl Admin {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl Worker for Admin {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let table = self.shared.replicas.all();
        let replicas = table
            .iter()
            .flat_map(|(name, versions)| versions.iter().map(move |(version, held)| status(name, *version, held)))
            .collect();
        let draining = *self.shared.draining.borrow();
        Ok(Response::new(GetStatusResponse { id: self.shared.options.id.to_string(), draining, replicas }))
    }

    async fn list_devices(&self, _: Request<ListDevicesRequest>) -> Result<Response<ListDevicesResponse>, Status> {
        let cpu = Device {
            kind: "cpu".to_owned(),
            name: std::env::consts::ARCH.to_owned(),
            threads: self.shared.threads,
            memory_bytes: self.shared.memory_bytes,
        };
        Ok(Response::new(ListDevicesResponse { devices: vec![cpu] }))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        tracing::info!("drain asked for");
        self.shared.tasks.stop();
        Ok(Response::new(DrainResponse {}))
    }
}

fn status(name: &ModelName, version: Version, held: &Held) -> ReplicaStatus {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let replica = held.replica();
    ReplicaStatus {
        model: name.to_string(),
        version: version.get(),
        state: held.state().into(),
        reason: held.reason().to_owned(),
        size_bytes: held.size_bytes(),
        queued: replica.map_or(0, |replica| count(replica.queue.len())),
        running: replica.map_or(0, |replica| count(replica.running())),
        expected: replica.and_then(|replica| replica.expected()).map(weft_proto::duration),
    }
}
