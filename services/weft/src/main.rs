//! `weft`: one binary with a subcommand per service, and `weft dev` with all four in one process.

use std::io::Write as _;
use std::process::ExitCode;

/// Calls are allocated on one thread and freed on another; the system's allocator takes locks for that, and a third more
/// calls pass without (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    match weft::run(&command.to_string_lossy(), args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}
