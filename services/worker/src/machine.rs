//! What the machine, or the container around the process, has to give.

use std::fs;
use std::path::Path;

use weft_engine_native::devices::cpu::{Cpu, Node};
use weft_engine_native::devices::gpu::{self, Gpu};
use weft_engine_native::devices::group::{self, Hierarchy};
use weft_proto::weft::state::v1::{NumaNode, Topology, WorkerDevice};

/// Threads, memory and devices that models may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu: Cpu,
    pub(crate) gpus: Vec<Gpu>,
}

/// Assumed where neither the kernel nor the operator tells.
const FALLBACK_MEMORY: u64 = 1 << 30;

impl Machine {
    /// Asks the kernel, and the driver of the GPUs, which may take its time: not where waiting is forbidden.
    pub(crate) fn detect() -> Self {
        let gpus = gpu::inventory().gpus;
        Self { memory_bytes: memory(Path::new("/")), cpu: Cpu::detect(), gpus }
    }

    /// How processors and memory lie.
    pub(crate) fn topology(&self) -> Topology {
        let node = |node: &Node| NumaNode {
            id: node.id,
            processors: u32::try_from(node.processors.len()).unwrap_or(u32::MAX),
            memory_bytes: node.memory_bytes,
        };
        Topology { quota_millis: self.cpu.quota_millis.unwrap_or(0), nodes: self.cpu.nodes.iter().map(node).collect() }
    }

    /// The processors, with the memory that models may take, and each GPU.
    pub(crate) fn devices(&self, memory_bytes: u64) -> Vec<WorkerDevice> {
        let memory_node = self.cpu.nodes.first().map_or(0, |node| node.id);
        let processors = WorkerDevice { kind: "cpu".to_owned(), ordinal: 0, memory_bytes, memory_node };
        let graphics = |gpu: &Gpu| WorkerDevice {
            kind: "cuda".to_owned(),
            ordinal: gpu.ordinal,
            memory_bytes: gpu.memory_bytes,
            memory_node: gpu.memory_node,
        };
        std::iter::once(processors).chain(self.gpus.iter().map(graphics)).collect()
    }
}

/// The machine's memory or, where that is less, the tightest limit of the process's control group and of those around it.
fn memory(root: &Path) -> u64 {
    let total = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| meminfo_total(&text));
    let limit = group::tightest(root, "memory", |hierarchy, folder| {
        let file = match hierarchy {
            Hierarchy::Unified => "memory.max",
            Hierarchy::Own => "memory.limit_in_bytes",
        };
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    });
    total.into_iter().chain(limit).min().unwrap_or(FALLBACK_MEMORY)
}

/// `MemTotal` in bytes; the kernel writes it in KiB.
fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_figure() {
        assert_eq!(meminfo_total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(meminfo_total("MemTotal: lots\n"), None);
    }

    #[test]
    fn the_containers_memory_counts_where_it_is_less() {
        let root = tempfile::tempdir().expect("a folder");
        let put = |name: &str, content: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, content).expect("written");
        };
        assert_eq!(memory(root.path()), FALLBACK_MEMORY);
        put("proc/meminfo", "MemTotal: 4096 kB\n");
        assert_eq!(memory(root.path()), 4 << 20);
        put("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(memory(root.path()), 4 << 20);
        put("sys/fs/cgroup/memory.max", "1048576\n");
        assert_eq!(memory(root.path()), 1 << 20);
    }

    /// As under systemd, which limits a service's group and not the root.
    #[test]
    fn the_tightest_memory_of_all_groups_counts() {
        let limited = |groups: &str, files: &[(&str, &str)]| {
            let root = tempfile::tempdir().expect("a folder");
            let own = [("proc/self/cgroup", groups), ("proc/meminfo", "MemTotal: 4096 kB\n")];
            for (name, content) in own.iter().chain(files) {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().expect("a parent")).expect("created");
                fs::write(path, content).expect("written");
            }
            memory(root.path())
        };
        let slice = ("sys/fs/cgroup/system.slice/memory.max", "2097152\n");
        let unit = |limit| ("sys/fs/cgroup/system.slice/weft.service/memory.max", limit);
        let groups = "0::/system.slice/weft.service\n";
        assert_eq!(limited(groups, &[slice, unit("1048576\n")]), 1 << 20);
        assert_eq!(limited(groups, &[slice, unit("max\n")]), 2 << 20);
        let old = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1048576\n");
        assert_eq!(limited("9:cpu:/\n4:memory:/a/b\n", &[old]), 1 << 20);
        assert_eq!(limited("9:memory:/other\n", &[old]), 4 << 20);
    }

    #[test]
    fn the_record_tells_nodes_and_devices() {
        let node = |id, processors: &[u32]| Node { id, processors: processors.to_vec(), memory_bytes: 7 };
        let gpu = |ordinal, memory_node| Gpu {
            ordinal,
            name: "g".to_owned(),
            memory_bytes: 9,
            free_bytes: 1,
            compute_capability: "9.0".to_owned(),
            memory_node,
        };
        let machine = Machine {
            memory_bytes: 100,
            cpu: Cpu { threads: 3, quota_millis: Some(3500), nodes: vec![node(0, &[0, 1]), node(1, &[2, 3])] },
            gpus: vec![gpu(0, 1), gpu(1, 0)],
        };
        let topology = machine.topology();
        assert_eq!(topology.quota_millis, 3500);
        assert_eq!(topology.nodes.iter().map(|node| (node.id, node.processors)).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        let devices = machine.devices(80);
        let told: Vec<_> = devices
            .iter()
            .map(|device| (device.kind.as_str(), device.ordinal, device.memory_bytes, device.memory_node))
            .collect();
        assert_eq!(told, [("cpu", 0, 80, 0), ("cuda", 0, 9, 1), ("cuda", 1, 9, 0)]);
    }

    #[test]
    fn a_machine_always_has_something() {
        let machine = Machine::detect();
        assert!(machine.cpu.threads > 0 && machine.memory_bytes > 0);
    }
}
