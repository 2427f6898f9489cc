//! What the router allocates for a call: it runs in this process, where allocations are counted, and its callers in another one.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft::process::Process;
use weft::{role, settings};
use weft_config::Reader;
use weft_tests::allocations::{self, Allocated};
use weft_tests::calls::Caller;
use weft_tests::load::closed;

use super::backend::Mesh;
use super::cell::{LARGE, echo};

/// What this executable is started with as the callers' process: this, an address, bytes of a tensor, milliseconds.
pub(crate) const CALLERS: &str = "callers";
const IN_FLIGHT: usize = 16;

/// What so many calls made the router allocate.
pub(crate) struct Copied {
    pub(crate) calls: usize,
    pub(crate) allocated: Allocated,
}

/// Counts over calls with the largest tensor, once connections are open and buffers have their size.
pub(crate) async fn count(mesh: &Mesh, full: bool) -> Result<Copied> {
    let flags = mesh.flags().map(Into::into);
    let listen = ["--listen", "127.0.0.1:0", "--http", "", "--lame-duck", "0ms"].map(Into::into);
    let mut reader = Reader::new("weft router", "", flags.into_iter().chain(listen), []);
    let common = settings::common(&mut reader, "warn");
    let settings = settings::router(&mut reader);
    reader.finish()?;
    let process = Process::embed(common).await?;
    let router = role::router(&process, settings).await?;
    Caller::new(&router.address)?.wait_ready("identity").await?;
    callers(router.address.clone(), 500).await?;
    allocations::start();
    let calls = callers(router.address.clone(), if full { 5000 } else { 1500 }).await;
    let allocated = allocations::stop();
    router.drain(&process).await;
    process.finish().await;
    Ok(Copied { calls: calls?, allocated })
}

/// The number of calls that the other process has made.
async fn callers(address: String, milliseconds: u64) -> Result<usize> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CALLERS, &address, &LARGE.to_string(), &milliseconds.to_string()]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "the callers failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.trim().parse().context("the callers tell how many calls they made")
}

/// The callers' side.
pub(crate) async fn call(address: &str, bytes: usize, milliseconds: u64) -> Result<()> {
    use std::io::Write as _;
    let slice =
        closed::run(&Caller::new(address)?, &echo(bytes), IN_FLIGHT, Duration::from_millis(milliseconds)).await?;
    Ok(writeln!(std::io::stdout().lock(), "{}", slice.times.len())?)
}
