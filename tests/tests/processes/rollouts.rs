//! One version takes the place of another under load, or does not: real processes, and real models in processes of their own.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::rollouts_client::RolloutsClient;
use weft_proto::weft::control::v1::{
    GetModelRequest, PromoteRolloutRequest, RolloutAnalysis, RolloutPhase, RolloutStep, RolloutStrategy,
    StartRolloutRequest,
};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{ExplainRequest, ExplainResponse, Rule};
use weft_proto::weft::state::v1::ReplicaState;
use weft_tests::calls::{Caller, until, with_timeout};
use weft_tests::load::Load;
use weft_tests::process::Weft;
use weft_tests::tools::tool;
use weft_tests::versions::{
    BROKEN, FAILING, FIRST, MODEL, NEXT, SLOW, add, ask, repository, repository_of, serve_first, share, start, status,
    until_phase,
};

use super::cluster::{Cluster, LIMIT};

/// A mesh that serves the first version of the model, and its repository.
async fn mesh() -> Result<(Weft, Caller, tempfile::TempDir)> {
    let models = repository()?;
    let folder = models.path().to_str().context("a path in UTF-8")?;
    let flags = ["--metrics-http", "", "--router-http", "", "--scheduler-auto", "false", "--worker-models", folder];
    let mesh = Weft::start("dev", &flags)?;
    let caller = Caller::new(&mesh.address)?;
    serve_first(&caller, 1).await?;
    Ok((mesh, caller, models))
}

/// A version that is copied into the repository of a running worker answers as soon as it is ready; one that cannot be loaded changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_on_the_disk_takes_over_without_a_failed_call() -> Result<()> {
    let models = repository_of(&[FIRST])?;
    let folder = models.path().to_str().context("a path in UTF-8")?;
    let flags = ["--metrics-http", "", "--router-http", "", "--worker-models", folder];
    let mesh = Weft::start("dev", &flags)?;
    let caller = Caller::new(&mesh.address)?;
    caller.wait_ready(MODEL).await?;
    let load = Load::start(std::slice::from_ref(&caller), &ask(), 2, LIMIT);
    load.pass(20).await?;
    add(models.path(), NEXT)?;
    until("the next version", async || answered_by(&caller, None).await.is_ok_and(|version| version == "2")).await?;
    add(models.path(), BROKEN)?;
    let mut client = ModelsClient::new(caller.channel.clone());
    until("the broken version to fail", async || {
        let told = client.get_model(GetModelRequest { name: MODEL.to_owned() }).await.map(tonic::Response::into_inner);
        let view = told.ok().and_then(|told| told.model).unwrap_or_default();
        view.replicas.iter().any(|one| one.version == BROKEN && one.state() == ReplicaState::Failed)
    })
    .await?;
    load.pass(20).await?;
    assert_eq!(answered_by(&caller, None).await?, "2");
    let outcome = load.stop().await?;
    ensure!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    Ok(())
}

async fn answered_by(caller: &Caller, mark: Option<&'static str>) -> Result<String> {
    let mut request = with_timeout(ask(), LIMIT);
    if let Some(mark) = mark {
        request.metadata_mut().insert("weft-canary", mark.parse()?);
    }
    Ok(caller.inference().model_infer(request).await?.into_inner().model_version)
}

async fn explain(caller: &Caller, mark: Option<&'static str>) -> Result<ExplainResponse> {
    let mut request = with_timeout(ExplainRequest { request: Some(ask()) }, LIMIT);
    if let Some(mark) = mark {
        request.metadata_mut().insert("weft-canary", mark.parse()?);
    }
    Ok(RouterClient::new(caller.channel.clone()).explain(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_is_promoted_without_a_failed_call() -> Result<()> {
    let (_mesh, caller, _models) = mesh().await?;
    let load = Load::start(std::slice::from_ref(&caller), &ask(), 4, LIMIT);
    load.pass(100).await?;
    let shadow = Some(RolloutStep { percent: 50, pause: Some(weft_proto::duration(Duration::ZERO)) });
    // The shadow's stage ends by what the copies show alone: without copies, there would be no end.
    // On a busy machine the versions are slow at different times; what is tested is that no call fails.
    let analysis = Some(RolloutAnalysis { max_latency_ratio: Some(100.0), ..RolloutAnalysis::default() });
    start(&caller, NEXT, RolloutStrategy { shadow, analysis, ..share(30) }).await?;
    let over = until_phase(&caller, RolloutPhase::Promoted).await?;
    assert_eq!(over.message, "its steps are done");
    until("the next version", async || answered_by(&caller, None).await.is_ok_and(|version| version == "2")).await?;
    load.pass(100).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_rolled_back_and_hurts_no_more_than_its_share() -> Result<()> {
    let (_mesh, caller, _models) = mesh().await?;
    for (version, reason) in [(FAILING, "errors: "), (SLOW, "latency: ")] {
        let load = Load::start(std::slice::from_ref(&caller), &ask(), 4, LIMIT);
        load.pass(100).await?;
        // It stays until it is judged: without a pause, enough good calls in a slice of time would do.
        let mut strategy = share(20);
        strategy.steps[0].pause = Some(weft_proto::duration(Duration::from_secs(3600)));
        start(&caller, version, strategy).await?;
        let over = until_phase(&caller, RolloutPhase::RolledBack).await?;
        assert!(over.message.starts_with(reason), "{over:?}");
        until("the first version", async || answered_by(&caller, None).await.is_ok_and(|version| version == "1"))
            .await?;
        let outcome = load.stop().await?;
        let (hurt, all) = (outcome.failures.len() as f64, outcome.answered as f64 + outcome.failures.len() as f64);
        // Three in a hundred more than the share: the share is drawn.
        assert!(hurt <= 0.23 * all + 10.0, "{hurt} of {all} calls to version {version}");
        let after = Load::start(std::slice::from_ref(&caller), &ask(), 4, LIMIT);
        after.pass(200).await?;
        assert_eq!(after.stop().await?.failures, Vec::<String>::new(), "after version {version}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_loaded_takes_no_call() -> Result<()> {
    let (_mesh, caller, _models) = mesh().await?;
    let load = Load::start(std::slice::from_ref(&caller), &ask(), 2, LIMIT);
    start(&caller, BROKEN, share(50)).await?;
    let over = until_phase(&caller, RolloutPhase::RolledBack).await?;
    assert!(over.message.starts_with("it cannot be loaded: "), "{over:?}");
    load.pass(50).await?;
    assert_eq!(load.stop().await?.failures, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn marked_calls_try_a_version_before_others_do() -> Result<()> {
    let (_mesh, caller, _models) = mesh().await?;
    let mut rollouts = RolloutsClient::new(caller.channel.clone());
    let request = |expected_version| StartRolloutRequest {
        model: MODEL.into(),
        version: NEXT,
        expected_version,
        strategy: Some(RolloutStrategy { header_only: true, ..RolloutStrategy::default() }),
    };
    let wrong = rollouts.start_rollout(request(7)).await.expect_err("another version answers");
    assert_eq!((wrong.code(), wrong.message()), (Code::FailedPrecondition, "expected_version: version 1 answers now"));
    rollouts.start_rollout(request(FIRST)).await?;
    until_phase(&caller, RolloutPhase::Canary).await?;
    until("the canary", async || answered_by(&caller, Some("always")).await.is_ok_and(|version| version == "2"))
        .await?;
    for _ in 0..50 {
        assert_eq!(answered_by(&caller, None).await?, "1");
        assert_eq!(answered_by(&caller, Some("never")).await?, "1");
    }
    let told = explain(&caller, Some("always")).await?;
    let rollout = told.rollout.context("one is under way")?;
    let targets: Vec<_> = rollout.targets.iter().map(|target| (target.version, target.share, target.taken)).collect();
    assert_eq!((told.version, rollout.rule()), (2, Rule::Match));
    assert_eq!(targets, [(1, 1.0, false), (2, 0.0, true)]);
    assert_eq!(explain(&caller, None).await?.version, 1);
    rollouts.promote_rollout(PromoteRolloutRequest { model: MODEL.into() }).await?;
    until_phase(&caller, RolloutPhase::Promoted).await?;
    until("the next version", async || answered_by(&caller, None).await.is_ok_and(|version| version == "2")).await?;
    assert!(explain(&caller, None).await?.rollout.is_none(), "it is over");
    assert!(status(&caller).await?.message.contains("by hand"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_starts_follows_and_aborts_one() -> Result<()> {
    let cluster = Cluster::start().await?;
    let models = repository()?;
    let folder = models.path().to_str().context("a path in UTF-8")?;
    let _scheduler = cluster.weft("scheduler", "1")?;
    let etcd = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s", "--id", "worker-1", "--models", folder];
    let _worker = Weft::start("worker", &etcd)?;
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    serve_first(&caller, 1).await?;
    let grpcurl = |method: &str, message: &str| -> Result<String> {
        let method = format!("weft.control.v1.Rollouts/{method}");
        let arguments = ["-plaintext", "-d", message, &router.address, &method];
        let ended = Command::new(tool("bin/grpcurl")?).args(arguments).output()?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    };
    let refused = grpcurl("StartRollout", r#"{"model":"pick","version":2,"expected_version":7}"#);
    let refused = refused.expect_err("another version answers").to_string();
    assert!(refused.contains("FailedPrecondition") && refused.contains("version 1 answers now"), "{refused}");
    grpcurl(
        "StartRollout",
        r#"{"model":"pick","version":2,"expected_version":1,"strategy":{"steps":[{"percent":50}]}}"#,
    )?;
    until_phase(&caller, RolloutPhase::Canary).await?;
    let told = grpcurl("GetRollout", r#"{"model":"pick"}"#)?;
    assert!(told.contains(r#""canaryPercent": 50"#) && told.contains(r#""confidence": 0.99"#), "{told}");
    grpcurl("AbortRollout", r#"{"model":"pick"}"#)?;
    let over = until_phase(&caller, RolloutPhase::RolledBack).await?;
    assert_eq!(over.message, "aborted by hand");
    assert_eq!(caller.infer(ask(), LIMIT).await?.into_inner().model_version, "1");
    Ok(())
}
