//! What the machine, or the container around the process, has to give.

use std::fs;

/// Threads and memory that models may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) threads: u32,
    pub(crate) memory_bytes: u64,
}

/// Assumed where neither the kernel nor the operator tells.
const FALLBACK_MEMORY: u64 = 1 << 30;

impl Machine {
    /// Asks the kernel. The thread count already honours affinity and the cgroup's processor quota.
    pub(crate) fn detect() -> Self {
        let threads =
            std::thread::available_parallelism().map_or(1, |threads| u32::try_from(threads.get()).unwrap_or(1));
        let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
        let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
        let memory_bytes = total.into_iter().chain(limit).min().unwrap_or(FALLBACK_MEMORY);
        Self { threads, memory_bytes }
    }
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
    fn a_machine_always_has_something() {
        let machine = Machine::detect();
        assert!(machine.threads > 0 && machine.memory_bytes > 0);
    }
}
