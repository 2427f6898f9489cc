//! Which processors an engine process computes on.
//!
//! On a machine with several memory nodes each process gets one of them: its threads share caches, and its memory, which the kernel
//! takes from where it is first touched, is near to all of them (Linux, `Documentation/admin-guide/mm/numa_memory_policy.rst`). What
//! shares one machine is then spread over its nodes by the number of processes.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::devices::cpu::Node;

/// The node for one more process: the one that fewest have, then the lower number. `None` where there is no choice.
pub(super) fn choose<'a>(nodes: &'a [Node], taken: &[u32]) -> Option<&'a Node> {
    let usable = || nodes.iter().filter(|node| !node.processors.is_empty());
    if usable().count() < 2 {
        return None;
    }
    usable().min_by_key(|node| (taken.iter().filter(|taken| **taken == node.id).count(), node.id))
}

/// Keeps a process that has one thread yet, and so all that it will start, on a node's processors.
pub(super) fn pin(pid: u32, node: &Node) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let mut set = CpuSet::new();
    let known = |processor: &&u32| usize::try_from(**processor).is_ok_and(|processor| processor < CpuSet::MAX_CPU);
    for processor in node.processors.iter().filter(known) {
        set.set(*processor as usize);
    }
    Ok(sched_setaffinity(Some(pid), &set)?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::devices::cpu::Cpu;

    fn node(id: u32, processors: &[u32]) -> Node {
        Node { id, processors: processors.to_vec(), memory_bytes: 1 }
    }

    #[test]
    fn processes_are_spread_over_the_nodes_that_have_processors() {
        let nodes = [node(0, &[0, 1]), node(1, &[2, 3]), node(2, &[])];
        let id = |taken: &[u32]| choose(&nodes, taken).map(|node| node.id);
        assert_eq!([id(&[]), id(&[0]), id(&[0, 1]), id(&[1, 1, 0])], [Some(0), Some(1), Some(0), Some(0)]);
        assert_eq!(choose(&nodes[..1], &[]), None, "there is nothing to choose");
        assert_eq!(choose(&nodes[1..], &[]), None, "memory alone computes nothing");
        assert_eq!(choose(&[], &[]), None);
    }

    #[test]
    fn a_process_and_what_it_starts_stay_on_the_node() {
        let one = Cpu::detect().nodes.into_iter().find_map(|node| node.processors.first().copied()).unwrap_or(0);
        // It waits for its input before it starts another process that tells.
        let mut child = Command::new("sh")
            .args(["-c", "read -r go; grep Cpus_allowed_list /proc/self/status"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        pin(child.id(), &node(0, &[one, u32::MAX])).unwrap();
        drop(child.stdin.take());
        let told = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(told.split_whitespace().last(), Some(&*one.to_string()), "{told}");
        assert!(pin(u32::MAX, &node(0, &[one])).is_err());
    }
}
