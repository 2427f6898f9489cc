//! A language model's worker that goes while it speaks.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, stream};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::{Code, Streaming};
use weft_proto::frame::FINAL_RESPONSE;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelStreamInferResponse};
use weft_tests::calls::{Caller, raw, until, with_timeout};
use weft_tests::process::Weft;
use weft_tests::tools::models;
use weft_tests::tree::children;

use super::cluster::{Cluster, LIMIT};

const MODEL: &str = "gemma3";
const TEXT: &str = "Once upon a time";

/// A repository with the language model only: others would take their time to load.
fn repository() -> Result<TempDir> {
    let (from, folder) = (models().join(MODEL), tempfile::tempdir()?);
    ensure!(from.is_dir(), "the language model is not there: run `make models`");
    copy(&from, &folder.path().join(MODEL))?;
    Ok(folder)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(|_| ())?,
        }
    }
    Ok(())
}

/// A text of exactly so many tokens.
fn speak(text: &str, tokens: i64) -> ModelInferRequest {
    let length = u32::try_from(text.len()).unwrap_or_default().to_le_bytes();
    let mut request = raw(MODEL, ("text_input", "BYTES"), &[1], [&length, text.as_bytes()].concat());
    let set = |choice| InferParameter { parameter_choice: Some(choice) };
    request.parameters.insert("max_tokens".into(), set(ParameterChoice::Int64Param(tokens)));
    request.parameters.insert("ignore_eos".into(), set(ParameterChoice::BoolParam(true)));
    request
}

struct World {
    _cluster: Cluster,
    _scheduler: Weft,
    _router: Weft,
    _models: TempDir,
    worker: Weft,
    caller: Caller,
}

impl World {
    async fn start() -> Result<Self> {
        let (cluster, models) = (Cluster::start().await?, repository()?);
        let scheduler = cluster.weft("scheduler", "1")?;
        let folder = models.path().to_string_lossy().into_owned();
        let flags = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s", "--id", "worker-1", "--models", &folder];
        let worker = Weft::start("worker", &flags)?;
        let router = cluster.weft("router", "1")?;
        let caller = Caller::new(&router.address)?;
        caller.wait_ready(MODEL).await?;
        Ok(Self { _cluster: cluster, _scheduler: scheduler, _router: router, _models: models, worker, caller })
    }

    /// A stream that stays open, with one text under way.
    async fn speaking(&self, tokens: i64) -> Result<Streaming<ModelStreamInferResponse>> {
        let requests = stream::iter([speak(TEXT, tokens)]).chain(stream::pending());
        let answers = self.caller.inference().model_stream_infer(with_timeout(requests, LIMIT)).await?;
        let mut answers = answers.into_inner();
        for _ in 0..3 {
            ensure!(!is_last(&answers.message().await?.context("it has begun")?)?, "over already");
        }
        Ok(answers)
    }
}

fn is_last(answer: &ModelStreamInferResponse) -> Result<bool> {
    ensure!(answer.error_message.is_empty(), "{}", answer.error_message);
    let response = answer.infer_response.as_ref().context("filled")?;
    let mark = response.parameters.get(FINAL_RESPONSE).and_then(|mark| mark.parameter_choice.as_ref());
    Ok(matches!(mark, Some(ParameterChoice::BoolParam(true))))
}

/// A text without its end must not look like one that ended well.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lost_in_the_middle_of_a_text_is_told() -> Result<()> {
    let mut world = World::start().await?;
    let mut answers = world.speaking(3000).await?;
    world.worker.kill()?;
    let lost = loop {
        match answers.message().await {
            Ok(Some(answer)) => ensure!(!is_last(&answer)?, "a killed worker cannot have finished"),
            Ok(None) => anyhow::bail!("the stream ended as if all were well"),
            Err(status) => break status,
        }
    };
    assert_eq!(lost.code(), Code::Unavailable, "{lost}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_finishes_its_text() -> Result<()> {
    let mut world = World::start().await?;
    let mut answers = world.speaking(16).await?;
    world.worker.signal("TERM")?;
    let mut last = None;
    while last.is_none() {
        let answer = answers.message().await?.context("the text has an end")?;
        last = is_last(&answer)?.then_some(answer);
    }
    drop(answers);
    assert!(world.worker.wait().await?.success(), "{}", world.worker.log());
    Ok(())
}

/// It may be the prompt that ends the process: the third time it is not tried again, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_whose_process_is_lost_each_time_is_refused() -> Result<()> {
    let world = World::start().await?;
    for _ in 0..3 {
        let mut answers = world.speaking(3000).await?;
        let engines = children(world.worker.id());
        ensure!(engines.len() == 1, "one model has one process, got {engines:?}");
        kill_process(Pid::from_raw(i32::try_from(engines[0])?).context("an id")?, Signal::KILL)?;
        let lost = loop {
            let answer = answers.message().await?.context("the failure is told")?;
            if !answer.error_message.is_empty() {
                break answer.error_message;
            }
        };
        ensure!(lost.contains("lost"), "{lost}");
        until("another process", async || {
            let now = children(world.worker.id());
            now.len() == 1 && now != engines
        })
        .await?;
        world.caller.infer(speak("Another prompt", 4), LIMIT).await?;
    }
    let refused = world.caller.infer(speak(TEXT, 4), LIMIT).await.expect_err("it has ended three");
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    assert!(refused.message().contains("not executed again"), "{refused}");
    world.caller.infer(speak("Another prompt", 4), LIMIT).await?;
    Ok(())
}
