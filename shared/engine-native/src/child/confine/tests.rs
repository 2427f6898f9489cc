//! A process that is confined, and what it then cannot do. It is this program once more, told by a word among its arguments.
#![expect(unsafe_code, reason = "system calls that nothing else makes")]

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::process::Command;

use super::{apply, tell};

/// The test runner takes it for one more filter.
const CONFINED: &str = "confined";
const DONE: &str = "everything was refused that should be";

fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> io::Error {
    let [first, second, third, fourth] = arguments;
    // SAFETY: no pointer among the arguments is followed: the calls are refused, or are given null or nothing to write to.
    let result = unsafe { libc::syscall(number, first, second, third, fourth) };
    if result == -1 { io::Error::last_os_error() } else { io::Error::other(format!("it returned {result}")) }
}

#[test]
fn a_confined_process_can_reach_nobody_else() {
    if std::env::args().any(|argument| argument == CONFINED) {
        return confined();
    }
    let program = std::env::current_exe().unwrap();
    let name = "child::confine::tests::a_confined_process_can_reach_nobody_else";
    let output = Command::new(program).args(["--exact", name, CONFINED, "--nocapture"]).output().unwrap();
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    assert!(output.status.success() && told.contains(DONE), "{told}");
}

fn confined() {
    let parent = libc::c_long::from(rustix::process::getppid().unwrap().as_raw_nonzero().get());
    let own = libc::c_long::from(rustix::process::getpid().as_raw_nonzero().get());
    apply();
    let refused = |what: &str, error: io::Error| {
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
    };
    refused("a program", Command::new("/bin/true").spawn().unwrap_err());
    refused("a socket", TcpListener::bind(("127.0.0.1", 0)).unwrap_err());
    refused("a file", File::create("weft-confined").unwrap_err());
    refused("a folder", fs::create_dir("weft-confined").unwrap_err());
    // Signal 0 asks whether a signal could be sent, and resource 7 is the number of files.
    refused("kill", call(libc::SYS_kill, [parent, 0, 0, 0]));
    refused("tkill", call(libc::SYS_tkill, [parent, 0, 0, 0]));
    refused("tgkill", call(libc::SYS_tgkill, [parent, parent, 0, 0]));
    refused("rt_sigqueueinfo", call(libc::SYS_rt_sigqueueinfo, [parent, 0, 0, 0]));
    refused("rt_tgsigqueueinfo", call(libc::SYS_rt_tgsigqueueinfo, [parent, parent, 0, 0]));
    refused("prlimit64", call(libc::SYS_prlimit64, [parent, 7, 0, 0]));
    refused("unshare", call(libc::SYS_unshare, [0, 0, 0, 0]));
    // Without CLONE_THREAD; without CLONE_VM these flags make no process were they let through.
    refused("clone", call(libc::SYS_clone, [libc::CLONE_SIGHAND.into(), 0, 0, 0]));
    assert_eq!(call(libc::SYS_clone3, [0, 0, 0, 0]).raw_os_error(), Some(libc::ENOSYS), "clone3");
    // What an engine needs goes on.
    assert_eq!(call(libc::SYS_kill, [own, 0, 0, 0]).to_string(), "it returned 0");
    assert_eq!(call(libc::SYS_prlimit64, [0, 7, 0, 0]).to_string(), "it returned 0");
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    assert!(fs::read("/proc/self/status").unwrap().len() > 100);
    tell(DONE);
}
