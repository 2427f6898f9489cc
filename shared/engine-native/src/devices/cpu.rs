//! Processors: the threads that this process gets, the share of their time that its group may use, and the memory nodes.

use std::fs;
use std::path::{Path, PathBuf};

/// The most memory nodes that are looked at.
const MAX_NODES: usize = 1024;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its processors.
    pub processors: u32,
    /// Its memory.
    pub memory_bytes: u64,
}

impl Cpu {
    /// Asks the kernel.
    pub fn detect() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        Self { threads: u32::try_from(threads).unwrap_or(u32::MAX), ..Self::below(Path::new("/")) }
    }

    /// As [`Self::detect`], with the kernel's files below another folder, and no threads.
    pub fn below(root: &Path) -> Self {
        Self { threads: 0, quota_millis: quota(root), nodes: nodes(root) }
    }
}

/// The tightest quota of the process's group and of those around it.
fn quota(root: &Path) -> Option<u32> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            return tightest(&root.join("sys/fs/cgroup"), path, version_2);
        }
        let has_cpu = controllers.split(',').any(|controller| controller == "cpu");
        has_cpu.then(|| tightest(&root.join("sys/fs/cgroup/cpu"), path, version_1)).flatten()
    });
    limits.min()
}

/// Within a container the path may name a folder that only the host has: then the mounted one is the group's own.
fn tightest(mount: &Path, path: &str, read: fn(&Path) -> Option<u32>) -> Option<u32> {
    let mut folders: Vec<PathBuf> = vec![mount.to_owned()];
    for name in path.split('/').filter(|name| !name.is_empty() && *name != "..") {
        let deeper = folders.last().map_or_else(|| mount.join(name), |folder| folder.join(name));
        folders.push(deeper);
    }
    folders.iter().filter_map(|folder| read(folder)).min()
}

/// `cpu.max`: the quota and its period in microseconds, or `max`.
fn version_2(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    millis(quota.parse().ok()?, period.parse().ok()?)
}

/// The same in two files; no quota is -1.
fn version_1(folder: &Path) -> Option<u32> {
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
    let processors = count(fs::read_to_string(folder.join("cpulist")).ok()?.trim())?;
    let memory = fs::read_to_string(folder.join("meminfo")).ok()?;
    let total = memory.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    let memory_bytes = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    Some(Node { id, processors, memory_bytes })
}

/// Entries of a list such as `0-3,8`; a node with memory alone has none.
fn count(list: &str) -> Option<u32> {
    list.split(',').filter(|part| !part.is_empty()).try_fold(0u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)?;
        sum.checked_add(range)
    })
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

    #[test]
    fn the_tightest_quota_of_all_groups_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pods/one\n"),
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pods/one/cpu.max", "400000 100000\n"),
        ]);
        assert_eq!(Cpu::below(root.path()).quota_millis, Some(1500));
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
        assert_eq!(Cpu::below(old("250000\n").path()).quota_millis, Some(2500));
        assert_eq!(Cpu::below(old("-1\n").path()).quota_millis, None);
        // The path is the host's; the container sees its own group at the mount.
        let own = tree(&[("proc/self/cgroup", "0::/../../pod\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")]);
        assert_eq!(Cpu::below(own.path()).quota_millis, Some(500));
        for odd in ["", "max 100000", "x y", "1", "5 0", "99999999999999999999 1"] {
            let odd = tree(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", odd)]);
            assert_eq!(Cpu::below(odd.path()).quota_millis, None);
        }
    }

    #[test]
    fn nodes_have_processors_and_memory() {
        let root = tree(&[
            ("sys/devices/system/node/node1/cpulist", "\n"),
            ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:  2048 kB\nNode 1 MemFree: 1 kB\n"),
            ("sys/devices/system/node/node0/cpulist", "0-3,8\n"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  1024 kB\n"),
            ("sys/devices/system/node/possible", "0-1\n"),
        ]);
        let expected = [
            Node { id: 0, processors: 5, memory_bytes: 1 << 20 },
            Node { id: 1, processors: 0, memory_bytes: 2 << 20 },
        ];
        assert_eq!(Cpu::below(root.path()).nodes, expected);
        assert_eq!(count("3-1"), None);
        assert!(Cpu::detect().threads > 0);
    }
}
