//! The router against Envoy, nginx and HAProxy: the same calls from the same generator through each of them to the same worker.
//!
//! The load comes from this process; every proxy and the worker are others, on loopback, each proxy with one thread. Slices
//! alternate between those that are compared, figures are medians over the rounds, and every answer is checked. `-- goodput` offers more
//! than the workers can do instead (`make bench-router PART=goodput`). `--full` takes longer. What is told is also kept in `bench/router.txt` below the build's folder.

mod router {
    pub(crate) mod backend;
    pub(crate) mod cell;
    pub(crate) mod copies;
    pub(crate) mod goodput;
    pub(crate) mod peers;
    pub(crate) mod plan;
    pub(crate) mod report;
}

use std::io::Write as _;

use anyhow::{Context as _, Result};
use router::backend::Mesh;
use router::plan::{Part, Plan};
use router::{copies, goodput, peers, report};
use weft_tests::allocations::Counting;
use weft_tests::process::binary;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Callers in a process of their own, for the part that counts what the router in this one allocates.
    if let [command, address, bytes, lasting] = arguments.as_slice()
        && command == copies::CALLERS
    {
        return runtime.block_on(copies::call(address, bytes.parse()?, lasting.parse()?));
    }
    let plan = Plan::read(arguments.into_iter())?;
    let bench =
        binary()?.parent().and_then(|release| release.parent()).context("the build has a folder")?.join("bench");
    std::fs::create_dir_all(&bench)?;
    let (name, text) = match plan.part {
        Part::Peers => ("router", runtime.block_on(compare(&plan))?),
        Part::Goodput => ("goodput", runtime.block_on(goodput::run(plan.full))?),
    };
    std::fs::write(bench.join(name).with_extension("txt"), &text)?;
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

async fn compare(plan: &Plan) -> Result<String> {
    let scratch = tempfile::tempdir()?;
    let mesh = Mesh::start().await?;
    let (proxies, mut told) = peers::start(&mesh, scratch.path()).await?;
    let (results, failed) = plan.run(&proxies).await?;
    told.extend(failed);
    let copied = copies::count(&mesh, plan.full).await?;
    report::text(plan, &results, &told, &copied)
}
