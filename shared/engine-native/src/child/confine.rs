//! What an engine process gives up: it reads foreign files with code that was not written for hostile ones.
//!
//! Before the model's file is read: it ends with the worker, leaves no core file, and needs no more than memory, its threads, files to
//! read and the socket that is open: it cannot open files for writing, start programs, reach the network, or look into or signal
//! other processes. Where a kernel offers less, the process runs all the same, and says so.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal};
#[cfg(target_arch = "x86_64")]
use seccompiler::sock_filter;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::tell;

/// Descriptors that may be open: three standard ones, the socket, and some that a runtime opens for reading.
const MAX_FILES: u64 = 64;

/// System calls that a loaded engine has no use for. The list names what is refused, not what is allowed: which calls a runtime
/// makes changes with its version, and the C library's.
const REFUSED: [libc::c_long; 46] = [
    // Programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_kcmp,
    // The C library signals its own threads with tgkill.
    libc::SYS_tkill,
    libc::SYS_rt_tgsigqueueinfo,
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

/// Confines this process, from its first moment on: whatever happens to the worker, its processes do not outlive it.
pub(super) fn apply() {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        tell(&format!("this process may outlive its worker ({error})"));
    }
    limit(Resource::Core, 0);
    filter_by(calls().and_then(|rules| program(rules, Errno::PERM)));
    // The C library takes this for an old kernel, and makes threads with clone, whose flags a filter can see.
    filter_by(program([(libc::SYS_clone3, Vec::new())].into(), Errno::NOSYS));
    #[cfg(target_arch = "x86_64")]
    filter_by(Ok(no_x32()));
    limit(Resource::Fsize, 0);
    limit(Resource::Nofile, MAX_FILES);
    filter_by(opens().and_then(|rules| program(rules, Errno::PERM)));
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

/// For every thread: libraries may have started some as they were loaded.
fn filter_by(filter: Result<BpfProgram, String>) {
    let apply = |filter: BpfProgram| seccompiler::apply_filter_all_threads(&filter).map_err(|error| error.to_string());
    if let Err(problem) = filter.and_then(apply) {
        tell(&format!("system calls are not filtered ({problem})"));
    }
}

/// System calls, and which of them match; all where there are no rules.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn program(rules: Rules, refusal: Errno) -> Result<BpfProgram, String> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let refusal = SeccompAction::Errno(refusal.raw_os_error().unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture);
    filter.and_then(BpfProgram::try_from).map_err(|error| error.to_string())
}

/// What no engine needs.
fn calls() -> Result<Rules, String> {
    let mut rules: Rules = REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(REFUSED_OLD.into_iter().map(|call| (call, Vec::new())));
    // Signals and limits are for nobody else.
    let own = u64::try_from(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default();
    let other = || condition(0, SeccompCmpOp::Ne, own);
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo] {
        rules.insert(call, vec![rule(vec![other()?])?]);
    }
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![other()?, condition(0, SeccompCmpOp::Ne, 0)?])?]);
    // Threads, and no processes.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![rule(vec![condition(0, SeccompCmpOp::MaskedEq(thread), 0)?])?]);
    Ok(rules)
}

/// Opening for more than reading.
fn opens() -> Result<Rules, String> {
    let mut rules = Rules::from([(libc::SYS_openat, for_writing(2)?)]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, for_writing(1)?);
    Ok(rules)
}

/// Numbers of another calling convention, under which the kernel would know every call a second time.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    let step = |code, (jt, jf), k| sock_filter { code, jt, jf, k };
    let refusal = libc::SECCOMP_RET_ERRNO | Errno::NOSYS.raw_os_error().unsigned_abs();
    vec![
        // The call's number is the first word; from this bit on it is one of x32.
        step(0x20, (0, 0), 0),
        step(0x35, (0, 1), 0x4000_0000),
        step(0x06, (0, 0), refusal),
        step(0x06, (0, 0), libc::SECCOMP_RET_ALLOW),
    ]
}

/// Matches an `open` whose flags, at this place among the arguments, are for more than reading.
fn for_writing(argument: u8) -> Result<Vec<SeccompRule>, String> {
    let flags = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_APPEND];
    let flags = flags.map(|flag| u64::from(flag.unsigned_abs()));
    flags.into_iter().map(|flag| rule(vec![condition(argument, SeccompCmpOp::MaskedEq(flag), flag)?])).collect()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(|error| error.to_string())
}

/// Matches when all of its conditions do.
fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, String> {
    SeccompRule::new(conditions).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
