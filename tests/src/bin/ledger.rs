//! For tests and benchmarks: a ledger (`weft_tests::ledger`) in a process of its own.
//!
//! `ledger <host:port> bare|memory` or `ledger <host:port> etcd <endpoint> <file>`: what stands between calls and entries. Prints where it
//! listens, and ends with SIGTERM.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weft_runtime::{Process, ServerOptions, Tasks};
use weft_tests::ledger::{Guard, Setup, serve};

const GRACE: Duration = Duration::from_secs(5);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (listen, guard) = match arguments[..] {
        [listen, "bare"] => (listen, Guard::Bare),
        [listen, "memory"] => (listen, Guard::Memory),
        [listen, "etcd", url, file] => (listen, Guard::Etcd(url.to_owned(), file.into())),
        _ => bail!("usage: ledger <host:port> bare|memory, or ledger <host:port> etcd <endpoint> <file>"),
    };
    let server = ServerOptions { listen: listen.parse().context("an address")?, ..ServerOptions::default() };
    let tasks = Tasks::new();
    let process = Process::listen(&tasks)?;
    let serving = serve(Setup { guard, server, may_crash: true }, &tasks).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "serving address={}", serving.address)?;
    out.flush()?;
    drop(out);
    process.ending().await;
    serving.drain.run(GRACE).await;
    tasks.finish(GRACE).await;
    Ok(())
}
