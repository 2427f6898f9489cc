//! Processors: the threads that this process gets, the share of their time that its group may use, and the memory nodes.

use std::fs;
use std::path::Path;

use rustix::thread::CpuSet;

use super::group::{self, Hierarchy};

/// The most memory nodes that are looked at.
const MAX_NODES: usize = 1024;
/// The most processors that a list may name; kernels are built for fewer.
const MAX_PROCESSORS: u32 = 16 * 1024;

/// The processors of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Threads that can run at once, the quota and the affinity included.
    pub threads: u32,
    /// The quota of its control group, in thousandths of a processor; `None` when there is none.
    pub quota_millis: Option<u32>,
    /// Memory nodes, by number; one on most machines.
    pub nodes: Vec<Node>,
}

/// Processors that share memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Those of its processors that this process may use, by number.
    pub processors: Vec<u32>,
    /// Its memory.
    pub memory_bytes: u64,
}

impl Cpu {
    /// Asks the kernel.
    pub fn detect() -> Self {
        Self::within(Path::new("/"), &allowed())
    }

    /// As [`Self::detect`], with the kernel's files below `root`, for a process that may use these processors.
    pub fn within(root: &Path, allowed: &[u32]) -> Self {
        let (quota_millis, mut nodes) = (quota(root), nodes(root));
        for node in &mut nodes {
            node.processors.retain(|processor| allowed.contains(processor));
        }
        // A thread more than the quota has whole processors would wait for the others' share to end.
        let granted = quota_millis.map_or(u32::MAX, |millis| millis / 1000);
        let threads = u32::try_from(allowed.len()).unwrap_or(u32::MAX).min(granted).max(1);
        Self { threads, quota_millis, nodes }
    }
}

/// The processors that the kernel lets this process use.
fn allowed() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        return (0..u32::try_from(threads).unwrap_or(u32::MAX)).collect();
    };
    let is_set = |processor: &u32| usize::try_from(*processor).is_ok_and(|processor| set.is_set(processor));
    (0..u32::try_from(CpuSet::MAX_CPU).unwrap_or(0)).filter(is_set).collect()
}

/// The tightest quota of the process's group and of those around it.
fn quota(root: &Path) -> Option<u32> {
    group::tightest(root, "cpu", |hierarchy, folder| match hierarchy {
        Hierarchy::Unified => unified(folder),
        Hierarchy::Own => own(folder),
    })
}

/// `cpu.max`: the quota and its period in microseconds, or `max`.
fn unified(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    millis(quota.parse().ok()?, period.parse().ok()?)
}

/// The same in two files; no quota is -1.
fn own(folder: &Path) -> Option<u32> {
    let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<i64>().ok();
    millis(u64::try_from(number("cpu.cfs_quota_us")?).ok()?, u64::try_from(number("cpu.cfs_period_us")?).ok()?)
}

fn millis(quota: u64, period: u64) -> Option<u32> {
    u32::try_from(quota.checked_mul(1000)?.checked_div(period)?).ok()
}

fn nodes(root: &Path) -> Vec<Node> {
    let folder = root.join("sys/devices/system/node");
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut nodes: Vec<Node> = entries.flatten().take(MAX_NODES).filter_map(|entry| node(&entry.path())).collect();
    nodes.sort_unstable_by_key(|node| node.id);
    nodes
}

fn node(folder: &Path) -> Option<Node> {
    let id = folder.file_name()?.to_str()?.strip_prefix("node")?.parse().ok()?;
    let processors = list(fs::read_to_string(folder.join("cpulist")).ok()?.trim())?;
    let memory = fs::read_to_string(folder.join("meminfo")).ok()?;
    let total = memory.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    let memory_bytes = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    Some(Node { id, processors, memory_bytes })
}

/// A list such as `0-3,8`; a node with memory alone has none.
fn list(text: &str) -> Option<Vec<u32>> {
    let mut processors = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MAX_PROCESSORS {
            return None;
        }
        processors.extend(first..=last);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    /// For a process that may use 16 processors.
    fn below(root: &tempfile::TempDir) -> Cpu {
        Cpu::within(root.path(), &(0..16).collect::<Vec<u32>>())
    }

    #[test]
    fn the_tightest_quota_of_all_groups_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pods/one\n"),
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pods/one/cpu.max", "400000 100000\n"),
        ]);
        let cpu = below(&root);
        assert_eq!((cpu.quota_millis, cpu.threads), (Some(1500), 1));
    }

    #[test]
    fn both_versions_of_groups_are_read() {
        let old = |quota: &str| {
            tree(&[
                ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\n1:name=systemd:/x\n"),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"),
            ])
        };
        let limited = below(&old("250000\n"));
        assert_eq!((limited.quota_millis, limited.threads), (Some(2500), 2));
        let free = below(&old("-1\n"));
        assert_eq!((free.quota_millis, free.threads), (None, 16));
        // The path is the host's; the container sees its own group at the mount.
        let own = tree(&[("proc/self/cgroup", "0::/../../pod\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")]);
        let small = below(&own);
        assert_eq!((small.quota_millis, small.threads), (Some(500), 1));
        for odd in ["", "max 100000", "x y", "1", "5 0", "99999999999999999999 1"] {
            let odd = tree(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", odd)]);
            assert_eq!(below(&odd).quota_millis, None);
        }
    }

    #[test]
    fn nodes_have_processors_and_memory() {
        let root = tree(&[
            ("sys/devices/system/node/node1/cpulist", "\n"),
            ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:  2048 kB\nNode 1 MemFree: 1 kB\n"),
            ("sys/devices/system/node/node0/cpulist", "0-3,8,20-21\n"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  1024 kB\n"),
            ("sys/devices/system/node/possible", "0-1\n"),
        ]);
        let expected = [
            Node { id: 0, processors: vec![0, 1, 2, 3, 8], memory_bytes: 1 << 20 },
            Node { id: 1, processors: vec![], memory_bytes: 2 << 20 },
        ];
        assert_eq!(below(&root).nodes, expected, "those that the process may not use are left out");
        for bad in ["3-1", "x", "0-4294967295", "1-"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        assert!(Cpu::detect().threads > 0);
    }
}
