//! The subcommands.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use weft_config::{Outcome, Reader, environment};
use weft_types::BUILD;

use crate::dev::Dev;
use crate::output::print;
use crate::process::Process;
use crate::settings::{self, Common};
use crate::{demo, dev, role};

const USAGE: &str = "usage: weft <command> [options]

  dev         all four services in one process, over the embedded store
  demo        the same, sends the demonstration calls, and exits
  router      sends calls to workers
  scheduler   places models on workers
  worker      runs models
  metrics     collects figures and traces
  version     prints the version

A worker starts 'weft engine' by itself, one for each model that runs in a process of its own.
'weft <command> --help' lists the options of a command.";

/// How long blocking calls that outlast everything else are waited for.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Runs a subcommand to its end.
pub fn run(command: &str, args: impl Iterator<Item = OsString>) -> Result<()> {
    let args: Vec<OsString> = args.collect();
    match command {
        "dev" => with(&args, "weft dev", "all four services in one process", settings::dev, |settings, common| {
            block_on(&common, |process| serve(process, settings))
        }),
        "demo" => with(&args, "weft demo", "a demonstration of the whole mesh", settings::demo, |settings, common| {
            block_on(&common, |process| demonstrate(process, settings))
        }),
        "router" => with(&args, "weft router", "sends calls to workers", settings::router, |settings, common| {
            block_on(&common, async |process| role::alone(&process, role::router(&process, settings).await?).await)
        }),
        "scheduler" => {
            with(&args, "weft scheduler", "places models on workers", settings::scheduler, |settings, common| {
                block_on(&common, async |process| {
                    role::alone(&process, role::scheduler(&process, settings).await?).await
                })
            })
        }
        "worker" => with(&args, "weft worker", "runs models", settings::worker, |settings, common| {
            block_on(&common, async |process| role::alone(&process, role::worker(&process, settings).await?).await)
        }),
        "metrics" => {
            with(&args, "weft metrics", "collects figures and traces", settings::metrics, |settings, common| {
                block_on(&common, async |process| role::alone(&process, role::metrics(&process, settings).await?).await)
            })
        }
        "engine" => engine(args.first()),
        "version" | "--version" | "-V" => print(&format!("weft {BUILD}")),
        "help" | "--help" | "-h" => print(USAGE),
        "" => bail!("no command given\n\n{USAGE}"),
        unknown => bail!("no command '{unknown}'\n\n{USAGE}"),
    }
}

/// The process of one model, on whose standard input its worker speaks. It has no settings: the worker tells it everything.
fn engine(argument: Option<&OsString>) -> Result<()> {
    if argument.is_some() {
        return print("weft engine: the process of one model; a worker starts it, with a socket as its standard input");
    }
    weft_engine_native::child::run().map_err(anyhow::Error::msg)
}

/// Reads the settings of a command; runs it unless only help or the configuration was asked for.
fn with<S>(
    args: &[OsString],
    program: &'static str,
    about: &'static str,
    read: impl FnOnce(&mut Reader) -> S,
    run: impl FnOnce(S, Common) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::new(program, about, args.iter().cloned(), environment()).beside(&[
        "router",
        "scheduler",
        "worker",
        "metrics",
        "dev",
        "demo",
    ]);
    let common = settings::common(&mut reader, if program == "weft demo" { "warn" } else { "info" });
    let settings = read(&mut reader);
    match reader.finish()? {
        Outcome::Print(text) => print(&text),
        Outcome::Run => run(settings, common),
    }
}

fn block_on<F: Future<Output = Result<()>>>(common: &Common, run: impl FnOnce(Process) -> F) -> Result<()> {
    on_runtime(common.serving_threads, async {
        let process = Process::start(common.clone()).await?;
        let finish = process.clone();
        let outcome = run(process).await;
        finish.finish().await;
        outcome?;
        if finish.tasks.failed() { bail!("a task failed: see the log") } else { Ok(()) }
    })
}

/// Runs to the end on a runtime, whose own end does not wait for a disk that hangs.
fn on_runtime(threads: usize, run: impl Future<Output = Result<()>>) -> Result<()> {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = match if threads == 0 { all() } else { threads } {
        // Work that is never handed to another thread is handed on for less.
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    let outcome = runtime.block_on(run);
    // Dropping it would wait without limit for every blocking call that has begun.
    runtime.shutdown_timeout(LAST_CALLS);
    outcome
}

/// Runs a whole mesh until the process ends; with `--demo`, after showing that it works.
async fn serve(process: Process, settings: settings::Dev) -> Result<()> {
    let demonstrates = settings.demo;
    let dev = Dev::start(&process, settings).await?;
    if demonstrates && let Err(error) = demo::show(&process.tasks, dev.address()).await {
        dev.drain().await;
        return Err(error);
    }
    print(&dev::hints(dev.address()))?;
    process.ending().await;
    dev.drain().await;
    Ok(())
}

/// Starts a whole mesh, shows that it works, and ends it.
async fn demonstrate(process: Process, settings: settings::Dev) -> Result<()> {
    let dev = Dev::start(&process, settings).await?;
    let shown = demo::show(&process.tasks, dev.address()).await;
    dev.drain().await;
    shown
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Far longer than anything here takes: a test that hangs fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_disk_that_hangs_does_not_hold_up_the_end() {
        for threads in [1, 2] {
            ends_beside_a_disk_that_hangs(threads);
        }
    }

    fn ends_beside_a_disk_that_hangs(threads: usize) {
        let (disk, hung) = mpsc::sync_channel::<()>(1);
        let (begun, begin) = mpsc::sync_channel(1);
        let (ended, end) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let outcome = on_runtime(threads, async move {
                tokio::task::spawn_blocking(move || {
                    begun.send(()).expect("told");
                    // Until the test is over: an error, since nobody sends.
                    hung.recv()
                });
                tokio::task::spawn_blocking(move || begin.recv()).await??;
                bail!("the outcome")
            });
            ended.send(outcome.expect_err("told").to_string())
        });
        assert_eq!(end.recv_timeout(PATIENCE).as_deref(), Ok("the outcome"));
        drop(disk);
    }
}
