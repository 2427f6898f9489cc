//! Jobs through the router, in one process.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tonic::Code;
use weft_proto::error_of;
use weft_proto::weft::jobs::v1::*;
use weft_runtime::Tasks;
use weft_tests::calls::until;
use weft_tests::jobs::{
    Client, compute, definition, has_ended, infer, object, publish, request, reserve, status, value, wait,
};
use weft_tests::ledger::{self, Setup, messages};
use weft_tests::mesh::Mesh;

/// A mesh, a service that its jobs call, and a caller.
struct World {
    mesh: Mesh,
    ledger: ledger::Serving,
    account: ledger::Client,
    jobs: Client,
    tasks: Tasks,
}

impl World {
    async fn start() -> Result<Self> {
        let (mesh, tasks) = (Mesh::start(&[]).await?, Tasks::new());
        let ledger = ledger::serve(Setup::default(), &tasks).await?;
        let (account, jobs) = (ledger::Client::new(&ledger.address)?, Client::new(mesh.address())?);
        Ok(Self { mesh, ledger, account, jobs, tasks })
    }

    /// How many entries a job published and retracted.
    async fn effects(&self, job: &Job) -> Result<(u64, u64)> {
        let account = self.account.account(&job.id).await?;
        Ok((account.actions, account.undos))
    }

    async fn stop(self) -> Result<()> {
        self.mesh.stop().await?;
        self.tasks.finish(Duration::from_secs(5)).await;
        Ok(())
    }
}

fn states(job: &Job) -> Vec<(String, StepState)> {
    job.steps.iter().map(|step| (step.name.clone(), step.state())).collect()
}

/// The way of the field: a slot, a transformation, models in parallel of which some are enough, the step that decides, and the end.
#[tokio::test(flavor = "multi_thread")]
async fn models_run_in_parallel_and_the_pivot_publishes_what_came_of_them() -> Result<()> {
    let world = World::start().await?;
    world.mesh.caller()?.wait_ready("identity").await?;
    let tensor = json!({"datatype": "FP32", "shape": [2], "data": "$steps.transform.data"});
    let (slow, never) = (json!({"datatype": "UINT32", "shape": [1], "data": [600_000]}), "sleep");
    world.mesh.caller()?.wait_ready(never).await?;
    let steps = vec![
        reserve("slot", &[], "default", 1),
        compute("transform", &["slot"], &json!({"data": "$input.data"})),
        infer("first", &["transform"], "identity", ("INPUT", &tensor)),
        infer("second", &["transform"], "identity", ("INPUT", &tensor)),
        infer("late", &["transform"], never, ("MILLISECONDS", &slow)),
        Step {
            join: Join::Quorum.into(),
            quorum: 2,
            phase: Phase::Pivot.into(),
            ..publish("publish", &["first", "second", "late"], &world.ledger.address, &json!("done"))
        },
    ];
    let output = Some(value(&json!({"number": "$steps.publish.number", "data": "$steps.first.outputs.OUTPUT.data"})));
    let asked = SubmitJobRequest {
        input: Some(object(&json!({"data": [1.5, 2.5]}))),
        ..request(JobDefinition { output, ..definition("pipeline", steps) }, "")
    };
    let begun = world.jobs.submit(&asked).await?;
    ensure!(begun.id.len() == 28 && begun.trace_id.len() == 32, "{begun:?}");
    let job = world.jobs.ended(&begun.id).await?;
    assert_eq!(job.state(), JobState::Completed, "{job:?}");
    assert_eq!(status(&job, "late")?.state(), StepState::Skipped, "{:?}", states(&job));
    for step in ["first", "second"] {
        let attempts = &status(&job, step)?.attempts;
        ensure!(attempts.len() == 1 && attempts[0].outcome == "DONE" && attempts[0].budget.is_some(), "{attempts:?}");
        ensure!(attempts[0].place.starts_with("worker-"), "the worker did it: {attempts:?}");
    }
    assert_eq!(job.output, Some(value(&json!({"number": 1, "data": [1.5, 2.5]}))));
    ensure!(job.steps.iter().all(|step| step.slots.is_empty()), "an ended job has no slots: {job:?}");
    assert_eq!(world.effects(&job).await?, (1, 0));
    let asked = GetJobRequest { id: job.id.clone(), definition: true, flowchart: true };
    let got = world.jobs.jobs.clone().get_job(asked).await?.into_inner();
    assert_eq!(got.job.as_ref(), Some(&job));
    assert_eq!(got.definition.context("it was asked for")?.steps.len(), 6);
    ensure!(got.flowchart.starts_with("flowchart"), "{}", got.flowchart);
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_finish_is_undone() -> Result<()> {
    let world = World::start().await?;
    let target = &world.ledger.address;
    let fault = messages::Fault {
        step: "decide".into(),
        direction: "action".into(),
        kind: messages::FaultKind::Refuse.into(),
        times: 100,
    };
    world.account.plan(vec![fault]).await?;
    let steps = vec![
        reserve("slot", &[], "default", 2),
        wait("seen", &["slot"], "go"),
        publish("first", &["seen"], target, &json!("one")),
        publish("second", &["first"], target, &json!("two")),
        Step { phase: Phase::Pivot.into(), ..publish("decide", &["second"], target, &json!("three")) },
    ];
    let begun = world.jobs.submit(&request(definition("doomed", steps), "")).await?;
    // A watch may skip states, so the job waits for somebody to see its slots.
    let held = world.jobs.watch(&begun.id, &mut Vec::new(), |job| job.steps[1].state() == StepState::Running).await?;
    assert_eq!(held.steps[0].slots.len(), 2, "{held:?}");
    let signal = SignalJobRequest { id: begun.id.clone(), name: "go".into(), value: None };
    world.jobs.jobs.clone().signal_job(signal).await?;
    let job = world.jobs.watch(&begun.id, &mut Vec::new(), has_ended).await?;
    assert_eq!(job.state(), JobState::Compensated, "{job:?}");
    ensure!(job.failure.contains("FAILED_PRECONDITION"), "{}", job.failure);
    let undone = [StepState::Undone, StepState::Done, StepState::Undone, StepState::Undone, StepState::Failed];
    assert_eq!(job.steps.iter().map(StepStatus::state).collect::<Vec<_>>(), undone, "{job:?}");
    assert_eq!(world.effects(&job).await?, (2, 2));
    let effects = world.account.account(&job.id).await?.effects;
    let order: Vec<_> =
        effects.iter().map(|effect| (effect.key.rsplit('/').next().unwrap_or_default(), &*effect.direction)).collect();
    assert_eq!(order, [("first", "action"), ("second", "action"), ("second", "undo"), ("first", "undo")]);
    ensure!(job.steps[0].slots.is_empty(), "{job:?}");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_go_to_who_waits_and_a_cancelled_job_is_undone() -> Result<()> {
    let world = World::start().await?;
    let steps = |target: &str| {
        vec![
            publish("publish", &[], target, &json!("early")),
            wait("approval", &["publish"], "approved"),
            compute("answer", &["approval"], &json!({"by": "$steps.approval.by"})),
        ]
    };
    let output = Some(value(&json!("$steps.answer.by")));
    let asked = request(JobDefinition { output, ..definition("approve", steps(&world.ledger.address)) }, "");
    let waits = |job: &Job| status(job, "approval").is_ok_and(|step| step.state() == StepState::Running);
    let mut calls = world.jobs.jobs.clone();

    let signalled = world.jobs.submit(&asked).await?;
    world.jobs.watch(&signalled.id, &mut Vec::new(), waits).await?;
    let unknown = SignalJobRequest { id: signalled.id.clone(), name: "other".into(), value: None };
    let refused = calls.signal_job(unknown).await.expect_err("nothing waits for it");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let signal = SignalJobRequest {
        id: signalled.id.clone(),
        name: "approved".into(),
        value: Some(value(&json!({"by": "ann"}))),
    };
    calls.signal_job(signal).await?;
    let job = world.jobs.ended(&signalled.id).await?;
    assert_eq!((job.state(), job.output), (JobState::Completed, Some(value(&json!("ann")))));

    let cancelled = world.jobs.submit(&asked).await?;
    ensure!(cancelled.id != signalled.id, "without a key each call begins a job");
    world.jobs.watch(&cancelled.id, &mut Vec::new(), waits).await?;
    let cancel = CancelJobRequest { id: cancelled.id.clone(), reason: "not needed".into() };
    let answered = calls.cancel_job(cancel.clone()).await?.into_inner().job.context("a job")?;
    assert_eq!(answered.state(), JobState::Compensating, "{answered:?}");
    let job = world.jobs.ended(&cancelled.id).await?;
    assert_eq!(job.state(), JobState::Compensated);
    ensure!(job.failure.contains("not needed"), "{}", job.failure);
    assert_eq!(world.effects(&job).await?, (1, 1));
    let late = calls.cancel_job(cancel).await.expect_err("it has ended");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_job() -> Result<()> {
    let world = World::start().await?;
    let steps = |text: &str| vec![publish("publish", &[], &world.ledger.address, &json!(text))];
    let asked = request(definition("once", steps("a")), "order-7");
    let both = futures_util::future::join_all((0..8).map(|_| world.jobs.submit(&asked))).await;
    let first = world.jobs.submit(&asked).await?;
    for job in both {
        assert_eq!(job?.id, first.id);
    }
    let job = world.jobs.ended(&first.id).await?;
    assert_eq!(world.jobs.submit(&asked).await?, job, "also once it has ended");
    assert_eq!(world.effects(&job).await?, (1, 0));
    let other = request(definition("once", steps("b")), "order-7");
    let refused = world.jobs.jobs.clone().submit_job(other.clone()).await.expect_err("another request");
    assert_eq!((refused.code(), error_of(&refused).field()), (Code::AlreadyExists, Some("key")), "{refused}");
    ensure!(refused.message().contains(&first.id), "{refused}");
    let of_another = world.jobs.submit(&SubmitJobRequest { tenant: "other".into(), ..other }).await?;
    ensure!(of_another.id != first.id, "keys are a tenant's own");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_in_pages_from_the_newest() -> Result<()> {
    let world = World::start().await?;
    let mut ids = Vec::new();
    for number in 0..7 {
        let steps = match number {
            6 => vec![wait("wait", &[], "never")],
            _ => vec![compute("value", &[], &json!(number))],
        };
        let asked = SubmitJobRequest { tenant: "lister".into(), ..request(definition("listed", steps), "") };
        let job = world.jobs.submit(&asked).await?;
        if number < 6 {
            world.jobs.ended(&job.id).await?;
        }
        ids.push(job.id);
    }
    let waiting = ids.last().cloned().context("a job")?;
    // Those of one millisecond have no order but that of their ids.
    ids.sort_by(|one, other| other[2..].cmp(&one[2..]));
    let mut listed = Vec::new();
    let mut asked = ListJobsRequest { tenant: "lister".into(), page_size: 3, ..ListJobsRequest::default() };
    let mut calls = world.jobs.jobs.clone();
    for expected in [3, 3, 1] {
        let page = calls.list_jobs(asked.clone()).await?.into_inner();
        assert_eq!(page.jobs.len(), expected, "{page:?}");
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        asked.page_token = page.next_page_token;
    }
    assert_eq!((listed, asked.page_token.as_str()), (ids.clone(), ""));
    let open = ListJobsRequest {
        states: vec![JobState::Running.into()],
        definition: "listed".into(),
        ..ListJobsRequest::default()
    };
    let open = calls.list_jobs(open).await?.into_inner().jobs;
    assert_eq!(open.iter().map(|job| &job.id).collect::<Vec<_>>(), [&waiting]);
    let of_nobody = ListJobsRequest { tenant: "nobody".into(), ..ListJobsRequest::default() };
    assert_eq!(calls.list_jobs(of_nobody).await?.into_inner().jobs, []);
    world.stop().await
}

/// Whoever resumes is told what is newer, once, and the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_each_change_once_and_then_ends() -> Result<()> {
    let world = World::start().await?;
    let asked = request(definition("watched", vec![wait("one", &[], "one"), wait("two", &["one"], "two")]), "");
    let job = world.jobs.submit(&asked).await?;
    let mut calls = world.jobs.jobs.clone();
    let mut first = calls.watch_job(WatchJobRequest { id: job.id.clone(), after_revision: 0 }).await?.into_inner();
    let now = first.message().await?.and_then(|told| told.job).context("the state now")?;
    assert_eq!(now.revision, job.revision);
    let signal = |name: &str| SignalJobRequest { id: job.id.clone(), name: name.into(), value: None };
    let after = calls.signal_job(signal("one")).await?.into_inner().job.context("a job")?.revision;
    let mut seen = vec![now.revision];
    while seen.last().is_some_and(|revision| *revision < after) {
        seen.push(first.message().await?.and_then(|told| told.job).context("it goes on")?.revision);
    }
    ensure!(seen.is_sorted_by(|one, other| one < other), "{seen:?}");
    // A second watcher begins where the first one is, and hears only what follows.
    let newest = *seen.last().context("some")?;
    let mut second =
        calls.watch_job(WatchJobRequest { id: job.id.clone(), after_revision: newest }).await?.into_inner();
    calls.signal_job(signal("two")).await?;
    for watch in [&mut first, &mut second] {
        let mut last = None;
        while let Some(told) = watch.message().await? {
            let told = told.job.context("a job")?;
            ensure!(told.revision > last.as_ref().map_or(newest, |job: &Job| job.revision), "{told:?}");
            last = Some(told);
        }
        ensure!(last.as_ref().is_some_and(has_ended), "the end is told, then nothing: {last:?}");
    }
    let ended = world.jobs.get(&job.id).await?;
    let mut third =
        calls.watch_job(WatchJobRequest { id: job.id.clone(), after_revision: ended.revision }).await?.into_inner();
    assert_eq!(third.message().await?, None, "there is nothing newer");
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_log_runs_as_well() -> Result<()> {
    let world = World::start().await?;
    let value_of = |needs: &[&str]| compute("value", needs, &json!({"is": "$input.x"}));
    let light = [
        (Durability::None, vec![value_of(&[])]),
        (Durability::Lease, vec![reserve("slot", &[], "default", 1), value_of(&["slot"])]),
    ];
    for (durability, steps) in light {
        let output = Some(value(&json!("$steps.value.is")));
        let definition = JobDefinition { durability: durability.into(), output, ..definition("light", steps) };
        let asked = SubmitJobRequest { input: Some(object(&json!({"x": 3}))), ..request(definition, "") };
        let job = world.jobs.ended(&world.jobs.submit(&asked).await?.id).await?;
        assert_eq!((job.state(), &job.output), (JobState::Completed, &Some(value(&json!(3)))), "{job:?}");
    }
    world.stop().await
}

/// Each committed transition is in one transaction of the log.
#[tokio::test(flavor = "multi_thread")]
async fn what_jobs_cost_is_told_with_the_other_figures() -> Result<()> {
    let world = World::start().await?;
    let steps =
        vec![compute("value", &[], &json!(1)), publish("publish", &["value"], &world.ledger.address, &json!("a"))];
    let asked = request(definition("counted", steps), "");
    for _ in 0..3 {
        world.jobs.ended(&world.jobs.submit(&asked).await?.id).await?;
    }
    let figure = async |name: &str| world.mesh.sample(name).await.unwrap_or_default();
    until("figures of jobs and of their log", async || {
        let (transitions, commits) =
            (figure("weft_job_transitions_total").await, figure("weft_job_commit_size_count").await);
        (6.0..=transitions).contains(&commits)
            && figure("weft_job_commit_size_sum").await.total_cmp(&transitions).is_eq()
            && figure("weft_job_commit_duration_seconds_count").await.total_cmp(&commits).is_eq()
            && figure("weft_job_commit_duration_seconds_sum").await > 0.0
            && figure("weft_jobs_shards").await.total_cmp(&256.0).is_eq()
    })
    .await?;
    let page = world.mesh.scrape().await?;
    for name in ["weft_jobs_open{", "weft_jobs_stuck{", "weft_job_attempts_total{", "weft_job_duration_seconds_count{"]
    {
        ensure!(page.contains(name), "{name} is not in {page}");
    }
    world.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_their_field() -> Result<()> {
    let world = World::start().await?;
    let good = request(definition("good", vec![compute("value", &[], &json!(1))]), "");
    world.jobs.submit(&good).await?;
    let mut calls = world.jobs.jobs.clone();
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let bad = [
        (SubmitJobRequest { definition: None, ..good.clone() }, "definition"),
        (SubmitJobRequest { tenant: "a/b".into(), ..good.clone() }, "tenant"),
        (SubmitJobRequest { key: "k".repeat(129), ..good.clone() }, "key"),
        (SubmitJobRequest { key: "a/b".into(), ..good.clone() }, "key"),
        (SubmitJobRequest { timeout: seconds(0), ..good.clone() }, "timeout"),
        (SubmitJobRequest { timeout: seconds(-1), ..good.clone() }, "timeout"),
        (SubmitJobRequest { timeout: seconds(31 * 24 * 3_600), ..good.clone() }, "timeout"),
        (SubmitJobRequest { input: Some(object(&json!({"x": "y".repeat(300_000)}))), ..good.clone() }, "input"),
        (
            SubmitJobRequest { input: Some(prost_types::Struct { fields: [("x".into(), nan())].into() }), ..good },
            "input",
        ),
    ];
    for (request, field) in bad {
        let refused = calls.submit_job(request).await.expect_err(field);
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some(field)), "{refused}");
    }
    for id in ["", "x", "00000000000000000000000000000", "../../etc"] {
        let refused = calls.get_job(GetJobRequest { id: id.into(), ..GetJobRequest::default() }).await.expect_err(id);
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some("id")), "{refused}");
    }
    let unknown = GetJobRequest { id: "0001ARZ3NDEKTSV4RRFFQ69G5FAV".into(), ..GetJobRequest::default() };
    assert_eq!(calls.get_job(unknown).await.expect_err("unknown").code(), Code::NotFound);
    let page = ListJobsRequest { page_size: 1_001, ..ListJobsRequest::default() };
    assert_eq!(error_of(&calls.list_jobs(page).await.expect_err("too large")).field(), Some("page_size"));
    let token = ListJobsRequest { page_token: "zzz".into(), ..ListJobsRequest::default() };
    assert_eq!(error_of(&calls.list_jobs(token).await.expect_err("no token")).field(), Some("page_token"));
    world.stop().await
}

fn nan() -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) }
}
