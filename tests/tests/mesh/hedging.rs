//! Calls that take long go to another replica as well, where their route says so.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use weft_proto::weft::control::v1::hedging::Delay;
use weft_proto::weft::control::v1::{Hedging, Route};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{ExplainRequest, ExplainResponse, GetSnapshotRequest, HedgingView};
use weft_tests::calls::{Caller, beside, identity, until, with_timeout};
use weft_tests::mesh::Mesh;
use weft_types::SystemClock;

use super::scripted::{Came, Does, ROUTE, Scripted};

/// Longer than any wait of these tests: a deadline must not do what the test is about.
const LIMIT: Duration = Duration::from_secs(300);
/// The longest delay that a route may have, and a deadline before it.
const NEVER: Duration = Duration::from_secs(60);
const BEFORE: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_millis(20);

fn request() -> ModelInferRequest {
    ModelInferRequest { model_name: ROUTE.into(), ..identity(4) }
}

async fn call(caller: &Caller, limit: Duration) -> Result<ModelInferResponse, Status> {
    caller.infer(request(), limit).await.map(tonic::Response::into_inner)
}

async fn explain(caller: &Caller) -> Result<ExplainResponse, Status> {
    let request = with_timeout(ExplainRequest { request: Some(request()) }, LIMIT);
    RouterClient::new(caller.channel.clone()).explain(request).await.map(tonic::Response::into_inner)
}

/// What Explain says of the route's hedging.
async fn view(caller: &Caller) -> Option<HedgingView> {
    explain(caller).await.ok()?.route?.hedging
}

/// A mesh of so many workers with this script behind a route that hedges so, or not at all.
async fn hedging(
    workers: usize,
    hedging: impl Into<Option<Hedging>>,
    script: impl Fn(Came) -> Does + Send + Sync + 'static,
) -> Result<(Mesh, Caller, Scripted)> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let scripted = Scripted::register(&mesh, workers, script).await?;
    let hedging = hedging.into();
    let attempts = hedging.as_ref().map(|hedging| hedging.max_attempts);
    let is_there = async || {
        let all = explain(&caller).await.is_ok_and(|told| told.candidates.len() == workers);
        all && view(&caller).await.map(|view| view.max_attempts) == attempts
    };
    let route = Route { hedging, ..Route::default() };
    Scripted::route(&caller, route, is_there).await?;
    Ok((mesh, caller, scripted))
}

fn after(delay: Duration, max_attempts: u32) -> Hedging {
    Hedging { max_attempts, delay: Some(Delay::Fixed(weft_proto::duration(delay))) }
}

/// First attempts hang, all others do this.
fn later(does: Does) -> impl Fn(Came) -> Does + Send + Sync + 'static {
    move |came| if came.before == 0 { Does::Hang } else { does }
}

/// First attempts do this, all others answer.
fn first(does: Does) -> impl Fn(Came) -> Does + Send + Sync + 'static {
    move |came| if came.before == 0 { does } else { Does::Answer }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hedge_answers_and_the_attempt_that_it_beats_is_cancelled() -> Result<()> {
    // More than it takes to eject a replica that fails.
    const CALLS: usize = 6;
    let (mesh, caller, scripted) = hedging(3, after(SOON, 2), later(Does::Answer)).await?;
    for number in 1..=CALLS {
        // Paid for by time, at last.
        until("the budget", async || explain(&caller).await.is_ok_and(|told| told.retries_left > 0)).await?;
        call(&caller, LIMIT).await?;
        let came = scripted.came();
        assert_eq!(came.len(), 2 * number);
        let [(one, 0), (other, 1)] = came[2 * number - 2..] else { anyhow::bail!("{came:?}") };
        assert_ne!(one, other, "both went to the same replica");
        until("the first attempt to be given up", async || scripted.gone() == number).await?;
    }
    let idle = |told: ExplainResponse| told.candidates.iter().all(|one| one.in_flight == 0 && !one.ejected);
    until("the load to be given back", async || explain(&caller).await.is_ok_and(idle)).await?;
    let snapshot = RouterClient::new(caller.channel.clone()).get_snapshot(GetSnapshotRequest {}).await?.into_inner();
    assert!(snapshot.endpoints.iter().all(|endpoint| endpoint.ejected.is_empty()), "{snapshot:?}");
    let hedges = async || mesh.sample("grpc_client_call_hedges_sum").await.unwrap_or_default();
    until("the hedges to be counted", async || hedges().await == CALLS as f64).await?;
    assert_eq!(mesh.sample("grpc_client_call_hedges_count").await?, CALLS as f64);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hedge_goes_to_another_replica_and_no_more_than_allowed() -> Result<()> {
    let (mesh, caller, scripted) = hedging(4, after(SOON, 3), |_| Does::Hang).await?;
    let calling = beside({
        let caller = caller.clone();
        async move { call(&caller, LIMIT).await }
    });
    until("three attempts", async || scripted.came().len() == 3).await?;
    let workers: BTreeSet<usize> = scripted.came().iter().map(|(worker, _)| *worker).collect();
    assert_eq!((workers.len(), scripted.gone()), (3, 0));
    // Who goes ends them all.
    drop(calling);
    until("all to be given up", async || scripted.gone() == 3).await?;
    assert_eq!(scripted.came().iter().map(|(_, before)| *before).collect::<Vec<_>>(), [0, 1, 2]);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_status_ends_the_call_and_another_sends_the_next_at_once() -> Result<()> {
    let refuse = |code| Does::Refuse(code, None);
    // While nothing else is under way.
    let (mesh, caller, scripted) = hedging(2, after(NEVER, 2), first(refuse(Code::InvalidArgument))).await?;
    assert_eq!(call(&caller, BEFORE).await.expect_err("refused").code(), Code::InvalidArgument);
    assert_eq!(scripted.came().len(), 1);
    mesh.stop().await?;
    // While the first attempt is.
    let (mesh, caller, scripted) = hedging(2, after(SOON, 3), later(refuse(Code::Internal))).await?;
    assert_eq!(call(&caller, LIMIT).await.expect_err("failed").code(), Code::Internal);
    until("the first attempt to be given up", async || scripted.gone() == 1).await?;
    assert_eq!(scripted.came().len(), 2);
    mesh.stop().await?;
    let (mesh, caller, scripted) = hedging(2, after(NEVER, 2), first(refuse(Code::Unavailable))).await?;
    call(&caller, BEFORE).await?;
    assert_eq!(scripted.came().len(), 2);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_of_the_next_attempt_is_heeded() -> Result<()> {
    for (forbidding, hedges) in [("-1", true), ("soon", true), ("-1", false), ("soon", false)] {
        let script = first(Does::Refuse(Code::Unavailable, Some(forbidding)));
        let (mesh, caller, scripted) = hedging(2, hedges.then(|| after(NEVER, 3)), script).await?;
        assert_eq!(call(&caller, BEFORE).await.expect_err("told off").code(), Code::Unavailable);
        assert_eq!(scripted.came().len(), 1, "{forbidding}");
        mesh.stop().await?;
    }
    // A wait that is longer than the deadline, and one that is not.
    for (wait, is_sent) in [("50000", false), ("5", true)] {
        let script = first(Does::Refuse(Code::ResourceExhausted, Some(wait)));
        let (mesh, caller, scripted) = hedging(2, after(NEVER, 3), script).await?;
        assert_eq!(call(&caller, BEFORE).await.is_ok(), is_sent, "{wait}");
        assert_eq!(scripted.came().len(), 1 + usize::from(is_sent), "{wait}");
        mesh.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retry_budget_pays_for_hedges() -> Result<()> {
    const CALLS: usize = 60;
    let (mesh, caller, scripted) = hedging(3, after(Duration::from_millis(1), 5), later(Does::Answer)).await?;
    let began = SystemClock::now();
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let caller = caller.clone();
            beside(async move { call(&caller, Duration::from_secs(2)).await })
        })
        .collect();
    let mut failed = 0;
    for one in calls {
        failed += usize::from(one.outcome().await?.is_err());
    }
    // A second's worth at first, one for five calls, and three for each second.
    let earned = 3.0 + CALLS as f64 * 0.2 + 3.0 * began.elapsed().as_secs_f64();
    let hedges = scripted.came().iter().filter(|(_, before)| *before > 0).count();
    assert!((3..=earned as usize).contains(&hedges), "{hedges} of {earned}");
    assert_eq!(failed, CALLS - hedges);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_and_other_routes_are_not_hedged() -> Result<()> {
    const SHORT: Duration = Duration::from_millis(400);
    let (mesh, caller, scripted) = hedging(2, after(SOON, 2), later(Does::Answer)).await?;
    let mut part = request();
    let number = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(7)) };
    part.parameters.insert("sequence_id".into(), number);
    let direct = ModelInferRequest { model_name: super::scripted::MODEL.into(), ..identity(4) };
    for (number, request) in [part, direct].into_iter().enumerate() {
        let failed = caller.infer(request, SHORT).await.expect_err("nobody answers");
        assert_eq!((failed.code(), scripted.came().len()), (Code::DeadlineExceeded, number + 1));
    }
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_is_learned_from_the_calls_of_the_model() -> Result<()> {
    const CALLS: usize = 20;
    let learned = Hedging { max_attempts: 2, delay: Some(Delay::Percentile(50)) };
    let script = |came: Came| if came.number < CALLS || came.before > 0 { Does::Answer } else { Does::Hang };
    let (mesh, caller, scripted) = hedging(2, learned, script).await?;
    assert_eq!(view(&caller).await.context("it hedges")?.delay, None);
    for _ in 0..CALLS {
        // One that is slow by chance may be hedged already.
        call(&caller, LIMIT).await?;
    }
    let delay = view(&caller).await.and_then(|view| weft_proto::from_duration(&view.delay?)).context("it is known")?;
    assert!(delay >= Duration::from_millis(1), "{delay:?}");
    let before = scripted.came().len();
    call(&caller, LIMIT).await?;
    let came = scripted.came();
    assert_eq!(came[before..].iter().map(|(_, attempts)| *attempts).collect::<Vec<_>>(), [0, 1]);
    // A table that is made anew keeps what was learned.
    scripted.load(&mesh).await?;
    assert!(view(&caller).await.is_some_and(|view| view.delay.is_some()));
    mesh.stop().await
}
