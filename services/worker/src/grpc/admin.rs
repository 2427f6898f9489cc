//! `weft.worker.v1.Worker`: a look into this worker, and its drain.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use weft_engine_native::devices::cpu::{Cpu, Node};
use weft_engine_native::devices::gpu::{self, Gpu};
use weft_proto::weft::worker::v1::worker_server::Worker;
use weft_proto::weft::worker::v1::{
    Device, DrainRequest, DrainResponse, GetStatusRequest, GetStatusResponse, ListDevicesRequest, ListDevicesResponse,
    MemoryNode, ReplicaStatus,
};
use weft_types::{ModelName, Version};

use crate::Shared;
use crate::generate;
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
        // The driver may take its time, and the kernel's files are read from there, too.
        let found = tokio::task::spawn_blocking(|| (Cpu::detect(), gpu::inventory())).await;
        let (cpu, inventory) = found.map_err(|_| Status::internal("the devices cannot be told"))?;
        let mut devices = vec![processors(&self.shared, &cpu)];
        devices.extend(inventory.gpus.into_iter().map(graphics));
        Ok(Response::new(ListDevicesResponse { devices, note: inventory.note, cuda: inventory.cuda }))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        tracing::info!("drain asked for");
        self.shared.tasks.stop();
        Ok(Response::new(DrainResponse {}))
    }
}

/// Threads and memory as this worker was told or found: what models may use.
fn processors(shared: &Shared, cpu: &Cpu) -> Device {
    let node = |node: &Node| MemoryNode {
        id: node.id,
        processors: u32::try_from(node.processors.len()).unwrap_or(u32::MAX),
        memory_bytes: node.memory_bytes,
    };
    Device {
        kind: "cpu".to_owned(),
        name: std::env::consts::ARCH.to_owned(),
        threads: shared.threads,
        memory_bytes: shared.memory_bytes,
        quota_millis: cpu.quota_millis.unwrap_or(0),
        nodes: cpu.nodes.iter().map(node).collect(),
        ..Device::default()
    }
}

fn graphics(gpu: Gpu) -> Device {
    Device {
        kind: "cuda".to_owned(),
        name: gpu.name,
        memory_bytes: gpu.memory_bytes,
        ordinal: gpu.ordinal,
        free_bytes: gpu.free_bytes,
        compute_capability: gpu.compute_capability,
        ..Device::default()
    }
}

fn status(name: &ModelName, version: Version, held: &Held) -> ReplicaStatus {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let replica = held.replica();
    // A language model's sequences wait in its engine, the requests of others in the replica's queue.
    let (running, queued) = replica.map_or((0, 0), |replica| {
        generate::load(replica).unwrap_or_else(|| (count(replica.running()), count(replica.queue.len())))
    });
    ReplicaStatus {
        model: name.to_string(),
        version: version.get(),
        state: held.state().into(),
        reason: held.reason().to_owned(),
        size_bytes: held.size_bytes(),
        queued,
        running,
        expected: replica.and_then(|replica| replica.expected()).map(weft_proto::duration),
    }
}
