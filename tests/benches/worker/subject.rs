//! Weft as it is measured: `weft dev` in a process of its own, called directly at its worker or through its router.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use weft_proto::inference::ModelConfigRequest;
use weft_tests::calls::Caller;
use weft_tests::http;
use weft_tests::process::{Weft, binary};
use weft_tests::tools;
use weft_tests::tree;

/// A mesh of one worker.
pub(crate) struct Subject {
    pub(crate) mesh: Weft,
    pub(crate) router: Caller,
    pub(crate) worker: Caller,
}

impl Subject {
    /// Starts one over a repository, and waits until both ways to it serve these models.
    pub(crate) async fn start(repository: Option<&Path>, threads: usize, models: &[&str]) -> Result<Self> {
        Self::start_with(&[], repository, threads, models).await
    }

    /// Starts one with further flags.
    pub(crate) async fn start_with(
        further: &[&str],
        repository: Option<&Path>,
        threads: usize,
        models: &[&str],
    ) -> Result<Self> {
        let mut flags: Vec<String> =
            ["--router-http", "", "--metrics-http", "127.0.0.1:0", "--worker-threads"].map(Into::into).into();
        flags.push(threads.to_string());
        if let Some(repository) = repository {
            flags.extend(["--worker-models".to_owned(), repository.display().to_string()]);
        }
        if let Some(library) = onnxruntime()? {
            flags.extend(["--worker-onnxruntime".to_owned(), library.display().to_string()]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(further.iter().copied()).collect();
        let mesh = Weft::start("dev", &flags)?;
        let router = Caller::new(&mesh.address)?;
        let worker = router.first_worker().await?;
        for (caller, model) in
            [&router, &worker].into_iter().flat_map(|caller| models.iter().map(move |model| (caller, *model)))
        {
            caller.wait_ready(model).await.with_context(|| mesh.log())?;
        }
        Ok(Self { mesh, router, worker })
    }

    /// The engine that runs a model.
    pub(crate) async fn engine(&self, model: &str) -> Result<String> {
        let request = ModelConfigRequest { name: model.to_owned(), version: String::new() };
        let config = self.worker.inference().model_config(request).await?.into_inner().config.unwrap_or_default();
        Ok(if config.backend.is_empty() { config.platform } else { config.backend })
    }

    /// The figures of all services, as Prometheus would scrape them.
    pub(crate) async fn scrape(&self) -> Result<String> {
        let address = self.mesh.address_of("HTTP", "metrics").context("metrics are served over HTTP")?;
        http::get(&address, "/metrics").await
    }

    /// Resident memory in bytes of the process and of those that it started.
    pub(crate) fn resident(&self) -> u64 {
        tree::all(self.mesh.id()).into_iter().filter_map(tree::resident).sum()
    }

    /// The processes that it has started and that still run.
    pub(crate) fn children(&self) -> Vec<u32> {
        tree::children(self.mesh.id())
    }
}

/// The library that `make models` lays beside the other tools, for a binary that takes one.
pub(crate) fn onnxruntime() -> Result<Option<PathBuf>> {
    let help = Command::new(binary()?).args(["worker", "--help"]).output()?;
    let takes = String::from_utf8_lossy(&help.stdout).contains("--onnxruntime");
    Ok(tools::tool("lib/libonnxruntime.so").ok().filter(|_| takes))
}
