//! Long values of jobs in a bucket.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use weft_proto::weft::jobs::v1::{JobDefinition, JobState, SignalJobRequest, StepState};
use weft_tests::calls::until;
use weft_tests::etcd::Cluster;
use weft_tests::http;
use weft_tests::jobs::{Client, compute, definition, has_ended, request, status, value, wait};
use weft_tests::process::Weft;
use weft_tests::server::Server;
use weft_tests::tools::tool;

/// An S3 with the bucket `values`; and where it listens.
async fn s3(folder: &Path) -> Result<(Server, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/s3_server.py");
    let mut command = Command::new(tool("venv")?.join("bin/python"));
    let server = Server::start("s3", command.arg(script).arg("values"), folder)?;
    let mut address = None;
    until("S3 to listen", async || {
        let log = server.log();
        address = log.lines().find(|line| line.starts_with("127.0.0.1:")).map(str::to_owned);
        address.is_some()
    })
    .await
    .with_context(|| server.log())?;
    Ok((server, address.context("it listens")?))
}

/// A scheduler that keeps long values in a bucket of this S3.
fn scheduler(s3: &str, place: &str, etcd: &str, id: &str) -> Result<Weft> {
    let endpoint = format!("http://{s3}");
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "weft"),
        ("AWS_SECRET_ACCESS_KEY", "weft"),
    ];
    let flags = ["--etcd", etcd, "--cluster", "blue", "--lease-ttl", "2s", "--id", id, "--jobs-payloads", place];
    Weft::start_in(&environment, "scheduler", &flags)
}

/// A value that was taken by one scheduler is read by the next; while the bucket stands still jobs wait for it, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn values_in_a_bucket_outlive_their_scheduler() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (s3, bucket) = s3(folder.path()).await?;
    let etcd = Cluster::start(1).await?;
    let url = etcd.client_url(0)?.to_owned();
    let start = |id: &str| scheduler(&bucket, "s3://values/of/jobs", &url, id);
    let (mut first, second) = (start("one")?, start("two")?);
    let (client, other) = (Client::new(&first.address)?, Client::new(&second.address)?);

    let text = "long ".repeat(40_000);
    let steps = vec![
        wait("text", &[], "text"),
        wait("go", &["text"], "go"),
        compute("both", &["go"], &json!({"text": "$steps.text", "go": "$steps.go"})),
    ];
    let long = JobDefinition { output: Some(value(&json!("$steps.both"))), ..definition("long", steps) };
    let job = client.submit(&request(long, "key")).await?;
    let signal = |name: &str, told: &serde_json::Value| SignalJobRequest {
        id: job.id.clone(),
        name: name.to_owned(),
        value: Some(value(told)),
    };
    client.jobs.clone().signal_job(signal("text", &json!(text))).await?;
    let listed = http::get(&bucket, "/values?list-type=2").await?;
    ensure!(listed.matches("<Key>of/jobs/blue/").count() == 1, "{listed}");

    first.kill()?;
    let mut seen = Vec::new();
    other.watch(&job.id, &mut seen, |job| status(job, "go").is_ok_and(|go| go.state() == StepState::Running)).await?;

    // Nobody answers, and nobody refuses.
    let pause = |name: &str| Command::new("kill").args([name, &s3.id().to_string()]).status();
    ensure!(pause("-STOP")?.success());
    let refused = other.jobs.clone().signal_job(signal("go", &json!(text))).await;
    ensure!(refused.is_err(), "a value that is nowhere was taken: {refused:?}");
    other.jobs.clone().signal_job(signal("go", &json!(1))).await?;
    other
        .watch(&job.id, &mut seen, |job| status(job, "both").is_ok_and(|both| both.state() == StepState::Running))
        .await?;
    ensure!(pause("-CONT")?.success());

    let ended = other.watch(&job.id, &mut seen, has_ended).await?;
    assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
    let output = other.get(&job.id).await?.output.context("an output")?;
    assert!(output == value(&json!({"text": text, "go": 1})), "the text is not what was told");
    Ok(())
}

/// Its values may be there again with the bucket: only a bucket that is there and does not have one has lost it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_has_lost_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_s3, bucket) = s3(folder.path()).await?;
    let etcd = Cluster::start(1).await?;
    let weft = scheduler(&bucket, "s3://absent/of/jobs", etcd.client_url(0)?, "one")?;
    let client = Client::new(&weft.address)?;
    let told = |times: usize| weft.log().matches("the place of long values cannot be used").count() >= times;
    until("a wrong bucket to be told of", async || told(1)).await?;

    let text = "long ".repeat(40_000);
    let steps = vec![
        wait("text", &[], "text"),
        wait("go", &["text"], "go"),
        compute("both", &["go"], &json!({"text": "$steps.text", "go": "$steps.go"})),
    ];
    let job = client.submit(&request(definition("long", steps), "key")).await?;
    let signal = |name: &str, told: &serde_json::Value| SignalJobRequest {
        id: job.id.clone(),
        name: name.to_owned(),
        value: Some(value(told)),
    };
    let refused = client.jobs.clone().signal_job(signal("text", &json!(text))).await.err().context("it was taken")?;
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    http::send("PUT", &bucket, "/absent").await?;
    client.jobs.clone().signal_job(signal("text", &json!(text))).await?;

    http::send("POST", &bucket, "/moto-api/reset").await?;
    client.jobs.clone().signal_job(signal("go", &json!(1))).await?;
    until("the job to look for its value", async || told(2)).await?;
    let waits = client.get(&job.id).await?;
    assert_eq!(status(&waits, "both")?.state(), StepState::Running, "{waits:?}");

    http::send("PUT", &bucket, "/absent").await?;
    let mut seen = Vec::new();
    let ended = client.watch(&job.id, &mut seen, has_ended).await?;
    assert!(ended.failure.contains("DATA_LOSS"), "{ended:?}");
    Ok(())
}
