//! The router against Envoy, nginx and HAProxy, and alone under skew, faults and many connections.
//!
//! The load comes from this process; every proxy, router and worker is another one, on loopback. Parts are chosen by their names, all
//! of them without any: `-- skew idle`. `-- --full` takes longer. What is told is also kept in `bench/router.txt` below the build's folder.

mod router {
    pub(crate) mod backend;
    pub(crate) mod cell;
    pub(crate) mod copies;
    pub(crate) mod faults;
    pub(crate) mod fleet;
    pub(crate) mod goodput;
    pub(crate) mod idle;
    pub(crate) mod peers;
    pub(crate) mod plan;
    pub(crate) mod report;
    pub(crate) mod skew;
}

use std::io::Write as _;

use anyhow::{Context as _, Result};
use router::backend::Mesh;
use router::plan::{Part, Plan};
use router::{copies, faults, goodput, idle, peers, report, skew};
use weft_tests::allocations::Counting;
use weft_tests::process::binary;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Callers in a process of their own: for the part that counts what the router in this one allocates, and for those who only hold
    // connections.
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [copies::CALLERS, address, bytes, lasting] => {
            return runtime.block_on(copies::call(address, bytes.parse()?, lasting.parse()?));
        }
        [idle::HOLDERS, address, source, count] => {
            return runtime.block_on(idle::hold(address.parse()?, source.parse()?, count.parse()?));
        }
        _ => {}
    }
    let plan = Plan::read(arguments.into_iter())?;
    let bench =
        binary()?.parent().and_then(|release| release.parent()).context("the build has a folder")?.join("bench");
    std::fs::create_dir_all(&bench)?;
    let mut all = String::new();
    for part in &plan.parts {
        let text = runtime.block_on(async {
            match part {
                Part::Peers => compare(&plan).await,
                Part::Skew => skew::run(plan.full).await,
                Part::Goodput => goodput::run(plan.full).await,
                Part::Faults => faults::run(plan.full).await,
                Part::Idle => idle::run().await,
            }
        });
        let text = format!("{}\n{}\n", part.name(), text.with_context(|| part.name())?);
        let mut output = std::io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()?;
        all.push_str(&text);
    }
    Ok(std::fs::write(bench.join("router.txt"), &all)?)
}

/// The same calls from the same generator through each proxy, which has one thread, to the same worker. Slices alternate between those
/// that are compared, figures are medians over the rounds, and every answer is checked.
async fn compare(plan: &Plan) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    let mesh = Mesh::start().await?;
    let (proxies, mut told) = peers::start(&mesh, scratch.path()).await?;
    let (results, failed) = plan.run(&proxies).await?;
    told.extend(failed);
    let copied = copies::count(&mesh, plan.full).await?;
    report::text(plan, &results, &told, &copied)
}
