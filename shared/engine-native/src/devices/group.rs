//! The control groups of this process, and what they limit.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a group tells its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// One for all controllers (version 2).
    Unified,
    /// One for each controller (version 1).
    Own,
}

/// The tightest limit of the process's group and of those around it, with the kernel's files below `root`.
pub fn tightest<T: Ord>(root: &Path, controller: &str, read: impl Fn(Hierarchy, &Path) -> Option<T>) -> Option<T> {
    // Where the kernel does not tell, what is mounted is the process's own group.
    let groups = fs::read_to_string(root.join("proc/self/cgroup"));
    let groups = groups.unwrap_or_else(|_| format!("0::/\n1:{controller}:/\n"));
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let mount = root.join("sys/fs/cgroup");
        let (hierarchy, mount) = match controllers.is_empty() {
            true => (Hierarchy::Unified, mount),
            false => (Hierarchy::Own, mount.join(controller)),
        };
        let limits = hierarchy == Hierarchy::Unified || controllers.split(',').any(|one| one == controller);
        limits.then(|| folders(mount, path).iter().filter_map(|folder| read(hierarchy, folder)).min()).flatten()
    });
    limits.min()
}

/// Within a container the path may name a folder that only the host has: then the mounted one is the group's own.
fn folders(mount: PathBuf, path: &str) -> Vec<PathBuf> {
    let mut folders = vec![mount];
    for name in path.split('/').filter(|name| !name.is_empty() && *name != "..") {
        folders.extend(folders.last().map(|folder| folder.join(name)));
    }
    folders
}
