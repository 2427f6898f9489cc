//! Answers that are kept for equal calls, where their route says so.

use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use weft_proto::orca::{OrcaLoadReport, TRAILER, named};
use weft_proto::weft::control::v1::{Cache, Route};
use weft_proto::weft::router::v1::ExplainRequest;
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_tests::calls::{Beside, Caller, beside, identity, until, with_timeout};
use weft_tests::mesh::Mesh;

use super::scripted::{Came, Does, MODEL, ROUTE, Scripted};

/// Longer than any wait of these tests: a deadline must not do what the test is about.
const LIMIT: Duration = Duration::from_secs(300);
const LONG: Duration = Duration::from_secs(3_600);

fn request(id: &str) -> ModelInferRequest {
    ModelInferRequest { model_name: ROUTE.into(), id: id.into(), ..identity(4) }
}

/// An answer, and where it came from.
#[derive(Debug)]
struct Given {
    answer: Result<ModelInferResponse, Status>,
    from: String,
}

impl Given {
    /// The number of the call that the worker answered.
    fn number(&self) -> Result<usize> {
        Ok(self.answer.clone()?.model_version.parse()?)
    }
}

fn from(metadata: &MetadataMap) -> String {
    metadata.get("weft-cache").and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned()
}

async fn call_within(caller: &Caller, request: ModelInferRequest, limit: Duration) -> Given {
    match caller.infer(request, limit).await {
        Ok(response) => Given { from: from(response.metadata()), answer: Ok(response.into_inner()) },
        Err(status) => Given { from: from(status.metadata()), answer: Err(status) },
    }
}

async fn call(caller: &Caller, request: ModelInferRequest) -> Given {
    call_within(caller, request, LIMIT).await
}

fn calling(caller: &Caller, id: &str, limit: Duration) -> Beside<Given> {
    let (caller, request) = (caller.clone(), request(id));
    beside(async move { call_within(&caller, request, limit).await })
}

/// A mesh with one worker of this script behind a route that keeps answers.
async fn caching(
    ttl: Duration,
    script: impl Fn(Came) -> Does + Send + Sync + 'static,
) -> Result<(Mesh, Caller, Scripted)> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let scripted = Scripted::register(&mesh, 1, script).await?;
    let ttl = Some(weft_proto::duration(ttl));
    let cache = Cache { ttl, negative_ttl: ttl };
    let is_there = async || {
        let explained = ExplainRequest { request: Some(request("")) };
        let told = RouterClient::new(caller.channel.clone()).explain(with_timeout(explained, LIMIT)).await;
        let view = told.ok().and_then(|told| told.into_inner().route?.cache);
        view.is_some_and(|view| view.ttl == ttl && view.negative_ttl == ttl)
    };
    Scripted::route(&caller, Route { cache: Some(cache), ..Route::default() }, is_there).await?;
    Ok((mesh, caller, scripted))
}

/// The calls that the router has, the one that asks not counted.
async fn under_way(caller: &Caller) -> Result<f64> {
    let answer = caller.infer(identity(4), LIMIT).await?;
    let report = answer.metadata().get_bin(TRAILER).context("it is told")?.to_bytes()?;
    Ok(OrcaLoadReport::decode(report)?.named_metrics[named::IN_FLIGHT])
}

async fn wait_for(caller: &Caller, calls: usize) -> Result<()> {
    until("the calls to be there", async || under_way(caller).await.is_ok_and(|found| found == calls as f64)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_calls_at_once_are_one_and_later_ones_are_none() -> Result<()> {
    const CALLS: usize = 100;
    let (mesh, caller, scripted) = caching(LONG, |_| Does::Wait).await?;
    let calls: Vec<_> = (0..CALLS).map(|number| calling(&caller, &format!("call-{number}"), LIMIT)).collect();
    wait_for(&caller, CALLS).await?;
    until("one of them to come", async || !scripted.came().is_empty()).await?;
    assert_eq!(scripted.came().len(), 1);
    scripted.gate.add_permits(1);
    let mut froms = Vec::new();
    for (number, one) in calls.into_iter().enumerate() {
        let given = one.outcome().await?;
        assert_eq!((given.number()?, given.answer?.id), (0, format!("call-{number}")));
        froms.push(given.from);
    }
    let count = |wanted: &str| froms.iter().filter(|from| *from == wanted).count();
    assert_eq!((count("miss"), count("wait")), (1, CALLS - 1));
    // Later ones, with another id, with none, and with another deadline of their own.
    let mut hasty = request("");
    let micros = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(60_000_000)) };
    hasty.parameters.insert("timeout".into(), micros);
    for request in [request("later"), hasty] {
        let id = request.id.clone();
        let given = call(&caller, request).await;
        assert_eq!((given.from.as_str(), given.number()?, given.answer?.id), ("hit", 0, id));
    }
    assert_eq!(scripted.came().len(), 1);
    for (outcome, calls) in [("hit", 2), ("wait", CALLS - 1), ("miss", 1)] {
        let label = format!("outcome=\"{outcome}\"");
        let counted = async || {
            let text = mesh.scrape().await.unwrap_or_default();
            let lines = text.lines().filter(|line| line.starts_with("weft_router_cache_calls_total{"));
            lines
                .filter(|line| line.contains(&label))
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        until(outcome, async || counted().await == calls as f64).await?;
    }
    until("the bytes to be told", async || mesh.sample("weft_router_cache_bytes").await.is_ok_and(|bytes| bytes > 0.0))
        .await?;
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_equal_or_want_an_answer_of_their_own_get_one() -> Result<()> {
    let (mesh, caller, scripted) = caching(LONG, |_| Does::Answer).await?;
    assert_eq!(call(&caller, request("one")).await.from, "miss");
    let other = ModelInferRequest { model_name: ROUTE.into(), ..identity(8) };
    assert_eq!(call(&caller, other).await.from, "miss");
    let choice = |choice| InferParameter { parameter_choice: Some(choice) };
    let mut came = scripted.came().len();
    assert_eq!(came, 2);
    for (key, value) in [
        ("priority", choice(ParameterChoice::Uint64Param(1))),
        ("sequence_id", choice(ParameterChoice::Int64Param(7))),
        ("sequence_end", choice(ParameterChoice::BoolParam(true))),
    ] {
        for _ in 0..2 {
            let mut own = request("one");
            own.parameters.insert(key.into(), value.clone());
            assert_eq!(call(&caller, own).await.from, "none", "{key}");
            came += 1;
        }
        assert_eq!(scripted.came().len(), came, "{key}");
    }
    let mut own = with_timeout(request("one"), LIMIT);
    own.metadata_mut().insert("cache-control", "no-cache".parse()?);
    assert_eq!(from(caller.inference().model_infer(own).await?.metadata()), "none");
    assert_eq!(scripted.came().len(), came + 1);
    // By the model's own name nothing is kept.
    for _ in 0..2 {
        let direct = ModelInferRequest { model_name: MODEL.into(), ..identity(4) };
        assert_eq!(call(&caller, direct).await.from, "none");
    }
    assert_eq!(scripted.came().len(), came + 3);
    assert_eq!(call(&caller, request("two")).await.from, "hit");
    mesh.stop().await
}

/// One that goes, and one whose deadline passes, leave the others unharmed.
#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_from_a_call_that_ends_early() -> Result<()> {
    let (mesh, caller, scripted) = caching(LONG, |_| Does::Wait).await?;
    let first = calling(&caller, "gone", LIMIT);
    until("the first call", async || scripted.came().len() == 1).await?;
    let hasty = calling(&caller, "hasty", Duration::from_millis(400));
    wait_for(&caller, 2).await?;
    drop(first);
    until("the hasty one to be sent", async || scripted.came().len() == 2).await?;
    let others: Vec<_> = (0..5).map(|number| calling(&caller, &number.to_string(), LIMIT)).collect();
    let hasty = hasty.outcome().await?;
    assert_eq!(hasty.answer.as_ref().err().map(Status::code), Some(Code::DeadlineExceeded), "{hasty:?}");
    until("one of the others to be sent", async || scripted.came().len() == 3).await?;
    wait_for(&caller, 5).await?;
    assert_eq!(scripted.came().len(), 3);
    scripted.gate.add_permits(3);
    for (number, other) in others.into_iter().enumerate() {
        let given = other.outcome().await?;
        assert_eq!((given.number()?, given.answer?.id), (2, number.to_string()));
    }
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_request_are_kept_and_other_failures_are_not() -> Result<()> {
    let (mesh, caller, scripted) = caching(LONG, |came| match came.number {
        0 => Does::Refuse(Code::InvalidArgument, None),
        _ => Does::Refuse(Code::Internal, None),
    })
    .await?;
    let other = ModelInferRequest { model_name: ROUTE.into(), ..identity(8) };
    let (bad, failing) = (Code::InvalidArgument, Code::Internal);
    for (request, code, from, sent) in [
        (request("one"), bad, "miss", 1),
        (request("two"), bad, "hit", 1),
        (other.clone(), failing, "miss", 2),
        (other, failing, "miss", 3),
    ] {
        let given = call(&caller, request).await;
        let status = given.answer.expect_err("it is refused");
        assert_eq!((status.code(), status.message()), (code, "as the script says"));
        assert_eq!((given.from.as_str(), scripted.came().len()), (from, sent));
    }
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_given_no_longer_than_it_holds_and_not_after_a_reload() -> Result<()> {
    let (mesh, caller, scripted) = caching(LONG, |_| Does::Answer).await?;
    assert_eq!(call(&caller, request("one")).await.from, "miss");
    assert_eq!(call(&caller, request("one")).await.from, "hit");
    scripted.load(&mesh).await?;
    until("the reload to be known", async || call(&caller, request("one")).await.from == "miss").await?;
    assert_eq!(scripted.came().len(), 2);
    assert_eq!(call(&caller, request("one")).await.from, "hit");
    mesh.stop().await?;
    let (mesh, caller, scripted) = caching(Duration::from_millis(50), |_| Does::Answer).await?;
    until("answers to be forgotten", async || {
        call(&caller, request("one")).await;
        scripted.came().len() == 3
    })
    .await?;
    mesh.stop().await
}
