//! Jobs over the loss of the schedulers that run them.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tonic::Code;
use weft_proto::weft::jobs::v1::{GetJobRequest, JobState, SignalJobRequest};
use weft_tests::calls::until;
use weft_tests::chaos::{self, Schedulers, Size};
use weft_tests::jobs::{Client, compute, definition, has_ended, request, status, value, wait};

#[tokio::test(flavor = "multi_thread")]
async fn schedulers_are_killed_and_paused_and_every_effect_happens_once() -> Result<()> {
    let size = Size { jobs: 300, open: 32, schedulers: 3, kills: 3, pauses: 2, members: 1, leaders: 0 };
    let figures = chaos::run(size).await?;
    assert_eq!(figures.violations, Vec::<String>::new(), "{figures:?}");
    assert_eq!((figures.completed, figures.compensated), (200, 100), "{figures:?}");
    Ok(())
}

/// Any scheduler answers for any job, the watch of one that was killed is resumed, and an answered submission is never lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_where_it_was_at_the_next_scheduler() -> Result<()> {
    let mut schedulers = Schedulers::start(2).await?;
    let clients = [Client::new(schedulers.address(0))?, Client::new(schedulers.address(1))?];
    let steps = || vec![wait("signal", &[], "go"), compute("value", &["signal"], &json!("$steps.signal.x"))];
    let mut jobs = Vec::new();
    for number in 0..20 {
        let asked = request(definition("waits", steps()), &format!("key-{number}"));
        jobs.push((clients[number % 2].submit(&asked).await?, asked));
    }
    for (job, _) in &jobs {
        for client in &clients {
            assert_eq!(client.get(&job.id).await?.trace_id, job.trace_id, "any scheduler answers");
        }
    }
    schedulers.kill(0)?;
    let survivor = &clients[1];
    for (job, asked) in &jobs {
        assert_eq!(survivor.submit(asked).await?.id, job.id, "an answered submission is in the log");
        let asked = SignalJobRequest { id: job.id.clone(), name: "go".into(), value: Some(value(&json!({"x": 1}))) };
        until("the signal to be taken", async || survivor.jobs.clone().signal_job(asked.clone()).await.is_ok()).await?;
        let mut seen = Vec::new();
        let ended = survivor.watch(&job.id, &mut seen, has_ended).await?;
        assert_eq!(ended.state(), JobState::Completed, "{ended:?}");
        ensure!(seen.is_sorted_by(|one, other| one.revision < other.revision), "{seen:?}");
        ensure!(status(&ended, "value")?.output.is_some(), "{ended:?}");
    }
    let absent = GetJobRequest { id: "0001ARZ3NDEKTSV4RRFFQ69G5FAV".into(), ..GetJobRequest::default() };
    let mut code = Code::Unavailable;
    until("an answer", async || {
        code = survivor.jobs.clone().get_job(absent.clone()).await.map_or_else(|status| status.code(), |_| Code::Ok);
        code != Code::Unavailable
    })
    .await
    .context("somebody owns every shard")?;
    assert_eq!(code, Code::NotFound);
    Ok(())
}
