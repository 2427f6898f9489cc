//! A worker with a repository full of files and folders that mean harm: each is told with a reason, and nothing else suffers.

#[expect(clippy::expect_used, reason = "the corpus is made by code that a test may panic in")]
#[path = "../../../shared/engine/tests/hostile/corpus.rs"]
mod corpus;
#[path = "hostile/layout.rs"]
mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_engine::digits;
use weft_proto::inference::repository_index_response::ModelIndex;
use weft_proto::inference::{RepositoryIndexRequest, model_infer_request::InferInputTensor};
use weft_tests::calls::{Caller, until};
use weft_tests::process::Weft;

/// Far beyond what an answer takes: it keeps a hung worker from hanging the test.
const LIMIT: Duration = Duration::from_secs(20);

/// Far more than a mesh takes, and less than the files pretend to hold.
const MOST_MEMORY: u64 = 700 << 20;

/// The one entry that is as it should be.
const GOOD: &str = "layout-good";

/// What an entry says that has not been looked at yet.
const UNDECIDED: [&str; 3] = ["", "not placed on this worker", "not placed"];

#[tokio::test]
async fn a_worker_outlives_a_repository_of_hostile_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let repository = folder.path().join("models");
    let expected = fill(&repository)?;
    let names: BTreeSet<String> = expected.keys().cloned().collect();
    ensure!(names.len() >= 200, "only {} hostile entries", names.len());
    let flags = ["--worker-models", &repository.to_string_lossy(), "--metrics-http", "", "--router-http", ""];
    let mesh = Weft::start("dev", &flags)?;
    let caller = Caller::new(&mesh.address)?;
    caller.wait_ready("digits").await?;
    let worker = Caller::new(&mesh.address_of("gRPC", "worker").context("the worker says where it serves")?)?;

    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    let mut ready: BTreeSet<String> = BTreeSet::new();
    let mut beside = Ok(());
    let decided = until("every hostile entry is told with its reason", async || {
        for entry in index(&worker).await.unwrap_or_default() {
            if !names.contains(&entry.name) && entry.name != GOOD {
                continue;
            }
            if entry.state == "READY" {
                ready.insert(entry.name);
            } else if !UNDECIDED.contains(&entry.reason.as_str()) {
                reasons.insert(entry.name, entry.reason);
            }
        }
        beside = answers(&caller).await;
        beside.is_err()
            || ready.contains(GOOD) && names.iter().all(|name| reasons.contains_key(name) || ready.contains(name))
    });
    let decided = decided.await;
    beside.context("the model beside them has failed a call")?;
    ensure!(ready.remove(GOOD), "{decided:?}; what is right is not served: {:?}", reasons.get(GOOD));
    let untold: Vec<_> = names.iter().filter(|name| !reasons.contains_key(*name)).collect();
    ensure!(ready.is_empty(), "served all the same: {ready:?}");
    ensure!(untold.is_empty(), "{decided:?}; without a reason: {untold:?}");
    // A file is refused for the rule that it breaks, and not by whatever it would have broken.
    let other = |(name, reason): &(&String, &String)| {
        !reason.contains(expected.get(*name).copied().unwrap_or("is not to be refused"))
    };
    let others: Vec<_> = reasons.iter().filter(other).collect();
    ensure!(others.is_empty(), "refused for something else: {others:#?}");
    let paths: Vec<_> = reasons.values().filter(|reason| reason.contains(&*folder.path().to_string_lossy())).collect();
    ensure!(paths.is_empty(), "the repository's path is shown: {paths:?}");
    let peak = peak_bytes(mesh.id())?;
    ensure!(peak < MOST_MEMORY, "{peak} bytes at the peak: a file's claims were believed");
    answers(&caller).await
}

/// The most memory that a process has had.
fn peak_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells")?;
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// Lays the repository out and returns the names in it, with what each must be refused for where one rule says.
fn fill(repository: &Path) -> Result<BTreeMap<String, &'static str>> {
    let mut names = BTreeMap::new();
    for file in corpus::all() {
        let version = repository.join(&file.name).join("1");
        fs::create_dir_all(&version)?;
        fs::write(version.join(file.file), file.bytes)?;
        names.insert(file.name, file.rule.as_str());
    }
    let outside = repository.with_file_name("outside");
    fs::create_dir_all(outside.join("1"))?;
    fs::write(outside.join("1/model.onnx"), corpus::onnx::Onnx::good().bytes())?;
    for entry in layout::ALL {
        let folder = repository.join(entry.name);
        let place = layout::Place { model: &folder, outside: &outside };
        (entry.make)(&place).with_context(|| entry.name)?;
        names.insert(entry.name.to_owned(), entry.reason);
    }
    symlink(&outside, repository.join("layout-folder-linked"))?;
    names.insert("layout-folder-linked".to_owned(), "a link leads out of the repository");
    layout::good(&layout::Place { model: &repository.join(GOOD), outside: &outside })?;
    Ok(names)
}

async fn index(worker: &Caller) -> Result<Vec<ModelIndex>> {
    let answer = worker.inference().repository_index(RepositoryIndexRequest::default()).await?;
    Ok(answer.into_inner().models)
}

/// The model that means well answers as ever.
async fn answers(caller: &Caller) -> Result<()> {
    let image = digits::heldout().next().context("there is an image")?;
    let input = InferInputTensor {
        name: "PIXELS".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 64],
        ..InferInputTensor::default()
    };
    let raw: Vec<u8> = image.input().iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let request = weft_proto::inference::ModelInferRequest {
        model_name: "digits".to_owned(),
        inputs: vec![input],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    };
    let answer = caller.infer(request, LIMIT).await?.into_inner();
    ensure!(answer.raw_output_contents.len() == 2, "{answer:?}");
    Ok(())
}
