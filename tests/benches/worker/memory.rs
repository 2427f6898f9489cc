//! Part F: what a call allocates once everything is warm, and whether resident memory stays where it is.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use weft_proto::inference::{RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use weft_tests::allocations;
use weft_tests::calls::{Caller, identity};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case, Expected};
use weft_tests::load::rounds::median;
use weft_tests::mesh::Mesh;

use super::bare::Bare;
use super::onnx::LENGTH;
use super::plan::{Plan, Told};
use super::plot;
use super::served::{self, MAGIKA, MINILM};
use super::subject::{self, Subject};

/// Calls under way, enough for batches whose tensors are large.
const IN_FLIGHT: usize = 16;
/// Mixed calls over which resident memory is watched, in slices of about this many.
const CALLS: usize = 10_000;
const BETWEEN: Duration = Duration::from_millis(250);
/// Elements of a tensor that is large by itself: 256 KiB.
const LARGE: usize = 64 << 10;
/// Percent by which the last third of the samples may lie above the second: the first third is warming up.
const GROWTH: f64 = 5.0;
const MIB: f64 = (1 << 20) as f64;

pub(crate) async fn run(plan: &Plan, bench: &Path) -> Result<Told> {
    let repository = plan.folder.join("memory");
    served::weft(&repository, &[MAGIKA, MINILM])?;
    let mut kinds = vec![("identity", Arc::from([echo(1024)]))];
    for model in [MAGIKA, MINILM] {
        kinds.push((model.name, Bare::start(model, plan.threads, &plan.folder)?.cases(1, LENGTH)?));
    }
    let mut told = Told::default();
    let large = [("identity", Arc::from([echo(LARGE)]))];
    allocated(plan, &repository, kinds.iter().chain(&large), &mut told).await?;
    let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
    let subject = Subject::start(Some(&repository), plan.threads, &names).await?;
    let mixed = mixed(&subject, &kinds).await?;
    judge(&mut told, bench, "mixed_requests", "samples over mixed requests", &mixed)?;
    let cycles = cycles(&subject, if plan.full { 1000 } else { 60 }).await?;
    judge(&mut told, bench, "load_cycles", "cycles of unload and load", &cycles)?;
    Ok(told)
}

fn echo(elements: usize) -> Case {
    let expected = Expected::Exactly(vec![7; 4 * elements].into());
    Case { request: identity(elements), output: "OUTPUT".to_owned(), expected }
}

/// Counts in this process, with a mesh and its callers in it.
async fn allocated(
    plan: &Plan,
    repository: &Path,
    kinds: impl Iterator<Item = &(&'static str, Arc<[Case]>)>,
    told: &mut Told,
) -> Result<()> {
    let threads = plan.threads.to_string();
    let mut flags =
        vec!["--worker-models".to_owned(), repository.display().to_string(), "--worker-threads".to_owned(), threads];
    if let Some(library) = subject::onnxruntime()? {
        flags.extend(["--worker-onnxruntime".to_owned(), library.display().to_string()]);
    }
    let mesh = Mesh::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let caller = Caller::new(mesh.address())?;
    writeln!(told.text, "allocated per call once warm, {IN_FLIGHT} in flight; caller, router and worker together")?;
    for (model, cases) in kinds {
        let bytes: usize = cases[0].request.raw_input_contents.iter().map(Bytes::len).sum();
        caller.wait_ready(model).await?;
        closed::run(&caller, cases, IN_FLIGHT, Duration::from_millis(1500)).await?;
        allocations::start();
        let slice = closed::run(&caller, cases, IN_FLIGHT, Duration::from_secs(if plan.full { 10 } else { 2 })).await?;
        let (allocated, calls) = (allocations::stop(), slice.times.len() as f64);
        let large = allocated.large as f64 / calls;
        writeln!(
            told.text,
            "{model:<9} {bytes:>7} bytes in: {:>7.0} allocations, {:>8.0} bytes; of 64 KiB and more: {large:.4} a call ({} in {calls:.0} calls)",
            allocated.allocations as f64 / calls,
            allocated.bytes as f64 / calls,
            allocated.large,
        )?;
        // Where tensors are smaller than what is counted, it is batches that would be.
        told.goals.push(Goal::at_most(format!("memory_large_allocations_per_call_{model}_{bytes}"), 0.0, large));
    }
    drop(caller);
    mesh.stop().await
}

/// Resident memory while calls of all kinds are answered.
async fn mixed(subject: &Subject, kinds: &[(&'static str, Arc<[Case]>)]) -> Result<Vec<f64>> {
    let (mut samples, mut calls) = (Vec::new(), 0);
    while calls < CALLS {
        let each = kinds.iter().map(|(_, cases)| closed::run(&subject.router, cases, IN_FLIGHT / 2, BETWEEN));
        for slice in futures_util::future::try_join_all(each).await? {
            calls += slice.times.len();
        }
        samples.push(subject.resident() as f64 / MIB);
    }
    // A fast machine is done before there is anything to see.
    while samples.len() < 60 {
        let each = kinds.iter().map(|(_, cases)| closed::run(&subject.router, cases, IN_FLIGHT / 2, BETWEEN));
        futures_util::future::try_join_all(each).await?;
        samples.push(subject.resident() as f64 / MIB);
    }
    Ok(samples)
}

/// Resident memory after each time that a model was unloaded and loaded.
async fn cycles(subject: &Subject, times: usize) -> Result<Vec<f64>> {
    let mut inference = subject.router.inference();
    let mut samples = Vec::new();
    for _ in 0..times {
        let model_name = MAGIKA.name.to_owned();
        let unload = RepositoryModelUnloadRequest { model_name: model_name.clone(), ..Default::default() };
        inference.repository_model_unload(unload).await.context("unload")?;
        subject.worker.wait_readiness(MAGIKA.name, false).await?;
        let load = RepositoryModelLoadRequest { model_name, ..Default::default() };
        inference.repository_model_load(load).await.context("load")?;
        subject.worker.wait_ready(MAGIKA.name).await?;
        samples.push(subject.resident() as f64 / MIB);
    }
    Ok(samples)
}

fn judge(told: &mut Told, bench: &Path, name: &str, steps: &str, samples: &[f64]) -> Result<()> {
    let third = samples.len() / 3;
    let (middle, last) = (median(samples[third..2 * third].to_vec()), median(samples[2 * third..].to_vec()));
    let growth = (last / middle - 1.0) * 100.0;
    let (least, most) =
        samples.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    writeln!(
        told.text,
        "{} {steps}: resident {least:.0} to {most:.0} MiB, the last third {growth:+.1} % against the second",
        samples.len()
    )?;
    let title = format!("Resident memory of worker and engines over {steps}");
    std::fs::write(bench.join(format!("memory-{name}.svg")), plot::svg(&title, "MiB", steps, samples)?)?;
    told.goals.push(Goal::at_most(format!("memory_growth_percent_{name}"), GROWTH, growth));
    Ok(())
}
