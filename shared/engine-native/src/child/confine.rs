//! What an engine process gives up: it reads foreign files with code that was not written for hostile ones.
//!
//! Before the load: it ends with the worker, and leaves no core file. After the load it needs no more than memory, its threads and the
//! socket that is open: it cannot open files for writing, start programs, reach the network or look into other processes. Where a kernel
//! offers less, the process runs all the same, and says so.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::tell;

/// Descriptors that may be open: three standard ones, the socket, and some that a runtime opens for reading.
const MAX_FILES: u64 = 64;

/// System calls that a loaded engine has no use for. The list names what is refused, not what is allowed: which calls a runtime
/// makes changes with its version, and the C library's.
const REFUSED: [libc::c_long; 40] = [
    // Programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    // The network.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    // The file system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    // Ways around this list, and into the kernel.
    libc::SYS_io_uring_setup,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
];

/// The older forms of the same calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: [libc::c_long; 13] = [
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_vfork,
];

/// Whatever happens to the worker, its processes do not outlive it.
pub(super) fn before_load() {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        tell(&format!("this process may outlive its worker ({error})"));
    }
    limit(Resource::Core, 0);
}

/// Gives up what only the load needed.
pub(super) fn after_load() {
    limit(Resource::Fsize, 0);
    limit(Resource::Nofile, MAX_FILES);
    let filtered = filter().and_then(|program| {
        // For every thread: engines have started theirs.
        seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())
    });
    if let Err(problem) = filtered {
        tell(&format!("system calls are not filtered ({problem})"));
    }
}

/// Ends the process now. Threads may be computing, and the libraries' own clean-up is not safe then.
pub(super) fn end() {
    // It cannot fail for a process of one's own, and does not return.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
}

fn limit(resource: Resource, value: u64) {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    if let Err(error) = rustix::process::setrlimit(resource, limit) {
        tell(&format!("a limit cannot be set ({error})"));
    }
}

fn filter() -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_openat, for_writing(2)?);
    #[cfg(target_arch = "x86_64")]
    {
        rules.extend(REFUSED_OLD.into_iter().map(|call| (call, Vec::new())));
        rules.insert(libc::SYS_open, for_writing(1)?);
    }
    // Signals go to nobody else.
    let own = u64::try_from(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(0, SeccompCmpOp::Ne, own)?]);
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let refusal = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture);
    filter.and_then(BpfProgram::try_from).map_err(|error| error.to_string())
}

/// Matches an `open` whose flags, at this place among the arguments, are for more than reading.
fn for_writing(argument: u8) -> Result<Vec<SeccompRule>, String> {
    let flags = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_APPEND];
    let flags = flags.map(|flag| u64::from(flag.unsigned_abs()));
    flags.into_iter().map(|flag| rule(argument, SeccompCmpOp::MaskedEq(flag), flag)).collect()
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(|error| error.to_string())
}
