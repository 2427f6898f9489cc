//! Routes that look at calls: marks, keys and shadows; and what Explain says of them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream;
use tonic::{Code, Request, Status};
use weft_proto::error_of;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest};
use weft_proto::weft::control::v1::metadata_match::Value;
use weft_proto::weft::control::v1::routes_client::RoutesClient;
use weft_proto::weft::control::v1::sticky::Source;
use weft_proto::weft::control::v1::{ApplyRouteRequest, MetadataMatch, Route, RouteTarget, Shadow, Sticky};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{ExplainRequest, ExplainResponse, Outcome, Rule};
use weft_tests::calls::{Caller, beside, identity, until, with_timeout};
use weft_tests::mesh::Mesh;

use super::tap::Tap;

/// Longer than any wait of these tests: a deadline must not do what the test is about.
const LIMIT: Duration = Duration::from_secs(300);
/// Calls that one router holds at most, and those of one connection, below what it may have under way.
const HOLDS: usize = 1_024;
const CALLS: usize = 512;
/// The copies that one router has under way at most.
const MOST_COPIES: usize = 64;

pub(super) fn target(model: &str, weight: u32, mark: Option<&str>) -> RouteTarget {
    let exact = |value: &str| MetadataMatch { key: "x-canary".into(), value: Some(Value::Exact(value.into())) };
    RouteTarget { model: model.into(), weight, matches: mark.map(exact).into_iter().collect(), ..Default::default() }
}

fn shadow(model: &str) -> Option<Shadow> {
    Some(Shadow { model: model.into(), version: 0, percent: 100 })
}

/// A request to the route, with this metadata.
fn marked(pairs: &[(&'static str, &str)]) -> Result<Request<ModelInferRequest>> {
    let mut request = with_timeout(ModelInferRequest { model_name: "public".into(), ..identity(4) }, LIMIT);
    for (key, value) in pairs {
        request.metadata_mut().insert(*key, value.parse()?);
    }
    Ok(request)
}

pub(super) async fn explain(caller: &Caller, request: Request<ModelInferRequest>) -> Result<ExplainResponse, Status> {
    let request = request.map(|request| ExplainRequest { request: Some(request) });
    RouterClient::new(caller.channel.clone()).explain(request).await.map(tonic::Response::into_inner)
}

/// Applies the route `public`, and waits until the router has it.
pub(super) async fn apply(caller: &Caller, route: Route) -> Result<()> {
    let route = Route { name: "public".into(), ..route };
    let mut routes = RoutesClient::new(caller.channel.clone());
    until("the scheduler to know the models", async || {
        routes.apply_route(ApplyRouteRequest { route: Some(route.clone()) }).await.is_ok()
    })
    .await?;
    let has_it = |answer: ExplainResponse| {
        let known = answer.route.unwrap_or_default();
        let targets = known.targets.iter().map(|target| (&target.model, target.ready));
        let shadow = known.shadow.map(|shadow| (shadow.model, shadow.ready));
        targets.eq(route.targets.iter().map(|target| (&target.model, true)))
            && shadow == route.shadow.clone().map(|shadow| (shadow.model, true))
    };
    until("the route", async || match marked(&[]) {
        Ok(request) => explain(caller, request).await.is_ok_and(has_it),
        Err(_) => false,
    })
    .await
}

/// How many copies came to this.
async fn copies(mesh: &Mesh, outcome: &str) -> f64 {
    let text = mesh.scrape().await.unwrap_or_default();
    let label = format!("outcome=\"{outcome}\"");
    let found = text.lines().filter(|line| line.starts_with("weft_router_shadows_total{") && line.contains(&label));
    found.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_and_keys_decide_between_targets() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let taps = [Tap::register(&mesh, "stable").await?, Tap::register(&mesh, "canary").await?];
    let answered = async |pairs: &[(&'static str, &str)]| -> Result<String> {
        Ok(caller.inference().model_infer(marked(pairs)?).await?.into_inner().model_name)
    };
    apply(
        &caller,
        Route { targets: vec![target("stable", 1, None), target("canary", 0, Some("yes"))], ..Route::default() },
    )
    .await?;
    for _ in 0..5 {
        assert_eq!(answered(&[("x-canary", "yes")]).await?, "canary");
        assert_eq!(answered(&[("x-canary", "no")]).await?, "stable");
        assert_eq!(answered(&[]).await?, "stable");
    }
    // A stream's metadata marks all of its requests. The tap's answer is none of a stream's: that it was asked is what counts.
    let asked = taps[1].told("grpc-timeout").len();
    let requests = marked(&[("x-canary", "yes")])?.map(|request| stream::iter([request]));
    let mut answers = caller.inference().model_stream_infer(requests).await?.into_inner();
    while let Ok(Some(_)) = answers.message().await {}
    // It ends each stream at once, and is not asked without end.
    let times = taps[1].told("grpc-timeout").len() - asked;
    assert!((1..=4).contains(&times), "{times}");
    let by_user = Some(Sticky { source: Some(Source::Metadata("user-id".into())) });
    let targets = vec![target("stable", 1, None), target("canary", 1, None)];
    apply(&caller, Route { targets, sticky: by_user, ..Route::default() }).await?;
    let mut taken = Vec::new();
    for user in 0..24 {
        let user = user.to_string();
        let explained = explain(&caller, marked(&[("user-id", &user)])?).await?;
        assert_eq!(explained.route.context("it is a route")?.rule(), Rule::Sticky);
        for _ in 0..3 {
            assert_eq!(answered(&[("user-id", &user)]).await?, explained.model, "user {user}");
        }
        taken.push(explained.model);
    }
    assert!(["stable", "canary"].iter().all(|model| taken.iter().any(|taken| taken == model)), "{taken:?}");
    assert!(taps.iter().all(|tap| tap.told("weft-shadow").iter().all(|mark| mark == "none")));
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_compared_and_callers_see_nothing_of_them() -> Result<()> {
    const CALLS: usize = 20;
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    for model in ["identity", "fail"] {
        caller.wait_ready(model).await?;
    }
    let other = Tap::register(&mesh, "other").await?;
    // The same model gives the same answer, another one gives another, and `fail` refuses what `identity` takes.
    for (model, outcome) in [("identity", "equal"), ("other", "different"), ("fail", "failed")] {
        apply(&caller, Route { targets: vec![target("identity", 1, None)], shadow: shadow(model), ..Route::default() })
            .await?;
        for _ in 0..CALLS {
            let answer = caller.inference().model_infer(marked(&[])?).await?.into_inner();
            assert_eq!((answer.model_name.as_str(), answer.outputs.len()), ("identity", 1));
        }
        until(outcome, async || copies(&mesh, outcome).await == CALLS as f64).await?;
    }
    assert_eq!(other.told("weft-shadow"), vec!["1"; CALLS]);
    // Calls of a sequence are not copied: a copy of one would come before that of the call after it.
    apply(&caller, Route { targets: vec![target("identity", 1, None)], shadow: shadow("other"), ..Route::default() })
        .await?;
    let mut request = marked(&[])?;
    let number = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(7)) };
    request.get_mut().parameters.insert("sequence_id".into(), number);
    caller.inference().model_infer(request).await?;
    caller.inference().model_infer(marked(&[])?).await?;
    until("the copy of the other call", async || copies(&mesh, "different").await > CALLS as f64).await?;
    assert_eq!(other.told("weft-shadow").len(), CALLS + 1);
    for (outcome, count) in [("equal", CALLS), ("different", CALLS + 1), ("failed", CALLS)] {
        assert_eq!(copies(&mesh, outcome).await, count as f64, "{outcome}");
    }
    assert_eq!(copies(&mesh, "dropped").await + copies(&mesh, "abandoned").await, 0.0);
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_never_answers_holds_up_nobody() -> Result<()> {
    const BEYOND: usize = 10;
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let silent = Tap::silent(&mesh, "silent").await?;
    let targets = vec![target("identity", 1, Some("no")), target("silent", 0, Some("yes"))];
    apply(&caller, Route { targets: targets.clone(), shadow: shadow("silent"), ..Route::default() }).await?;
    for _ in 0..MOST_COPIES + BEYOND {
        caller.inference().model_infer(marked(&[])?).await?;
    }
    until("the copies beyond the bound to be dropped", async || copies(&mesh, "dropped").await == BEYOND as f64)
        .await?;
    until("the copies to be sent", async || silent.told("weft-shadow") == vec!["1"; MOST_COPIES]).await?;
    assert!(silent.told("grpc-timeout").iter().all(|told| told != "none"));
    let told = explain(&caller, marked(&[])?).await?.route.and_then(|route| route.shadow).context("it has a shadow")?;
    assert_eq!(told.copies_left, 0);
    mesh.stop().await?;
    Ok(())
}

/// Work is owned by whoever waits for it, and nobody waits for the copy of a call that was given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_ends_with_the_caller_that_goes() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("identity").await?;
    let (silent, copied) = (Tap::silent(&mesh, "silent").await?, Tap::silent(&mesh, "copied").await?);
    apply(&caller, Route { targets: vec![target("silent", 1, None)], shadow: shadow("copied"), ..Route::default() })
        .await?;
    let (mut inference, request) = (caller.inference(), marked(&[])?);
    let call = beside(async move { inference.model_infer(request).await });
    until("both", async || silent.told("grpc-timeout").len() + copied.told("grpc-timeout").len() == 2).await?;
    drop(call);
    until("the copy to end", async || copies(&mesh, "abandoned").await == 1.0).await?;
    mesh.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_a_call_would_meet_and_sends_nothing() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    let taps = [Tap::register(&mesh, "stable").await?, Tap::register(&mesh, "canary").await?];
    let targets = vec![target("stable", 3, None), target("canary", 1, Some("yes"))];
    apply(&caller, Route { targets, ..Route::default() }).await?;

    let told = explain(&caller, marked(&[("x-canary", "yes")])?).await?;
    let route = told.route.clone().context("it is a route")?;
    assert_eq!(
        (told.outcome(), route.rule(), told.model.as_str(), told.version),
        (Outcome::Sent, Rule::Match, "canary", 1)
    );
    let targets: Vec<_> = route.targets.iter().map(|one| (one.share, one.ready, one.matches, one.taken)).collect();
    assert_eq!(targets, [(0.75, true, false, false), (0.25, true, true, true)]);
    let candidates: Vec<_> =
        told.candidates.iter().map(|one| (one.worker.as_str(), one.share, one.in_flight)).collect();
    assert_eq!(candidates, [("tap-canary", 1.0, 0)]);
    assert!(told.retries_left > 0 && told.holds_left > 0 && !told.affinity, "{told:?}");

    let told = explain(&caller, marked(&[])?).await?;
    let route = told.route.context("it is a route")?;
    let taken: Vec<_> = route.targets.iter().filter(|target| target.taken).map(|target| target.model.clone()).collect();
    assert_eq!((route.rule(), taken), (Rule::Weight, vec![told.model]));

    // The deadline is the earliest of the call's own, and shorter for the worker.
    let mut hasty = marked(&[])?;
    for (key, value) in [("timeout", 5_000_000), ("sequence_id", 7)] {
        let value = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) };
        hasty.get_mut().parameters.insert(key.into(), value);
    }
    let told = explain(&caller, hasty).await?;
    let [remaining, passed_on] =
        [told.remaining, told.passed_on].map(|told| told.as_ref().and_then(weft_proto::from_duration));
    assert!(remaining.is_some_and(|remaining| remaining <= Duration::from_secs(5)), "{remaining:?}");
    assert!(passed_on.is_some() && passed_on < remaining && told.affinity, "{passed_on:?} of {remaining:?}");
    assert_eq!(told.route.context("it is a route")?.rule(), Rule::Sequence);

    let named = |name: &str| with_timeout(ModelInferRequest { model_name: name.into(), ..identity(1) }, LIMIT);
    let mut outcomes = Vec::new();
    for name in ["identity", "nobody", "../x"] {
        let told = explain(&caller, named(name)).await?;
        outcomes.push((told.outcome(), told.reason.split(':').next().unwrap_or_default().to_owned()));
    }
    let refused = |code: &str| (Outcome::Refused, code.to_owned());
    assert_eq!(
        outcomes,
        [(Outcome::Held, "no replica is ready".to_owned()), refused("NOT_FOUND"), refused("INVALID_ARGUMENT")]
    );
    let empty = RouterClient::new(caller.channel.clone()).explain(ExplainRequest { request: None }).await;
    let empty = empty.expect_err("there is nothing to explain");
    assert_eq!((empty.code(), error_of(&empty).field()), (Code::InvalidArgument, Some("request")));

    assert!(taps.iter().all(|tap| tap.told("grpc-timeout").is_empty()), "a call was sent");
    mesh.stop().await?;
    Ok(())
}

/// Also says so when the call would be refused because too many are held already.
#[tokio::test(flavor = "multi_thread")]
async fn explain_says_when_no_more_calls_are_held() -> Result<()> {
    let mesh = Mesh::start(&["--scheduler-auto", "false"]).await?;
    let caller = mesh.caller()?;
    let coming = || with_timeout(identity(1), LIMIT);
    let is_held = async || explain(&caller, coming()).await.is_ok_and(|told| told.outcome() == Outcome::Held);
    until("the model to be known", async || is_held().await).await?;
    let mut held = Vec::new();
    for _ in 0..HOLDS / CALLS {
        let caller = mesh.caller()?;
        held.extend((0..CALLS).map(|_| {
            let caller = caller.clone();
            beside(async move { caller.infer(identity(1), LIMIT).await })
        }));
    }
    until("all to be held", async || explain(&caller, coming()).await.is_ok_and(|told| told.holds_left == 0)).await?;
    let told = explain(&caller, coming()).await?;
    let refused = caller.infer(identity(1), LIMIT).await.expect_err("there is no room");
    assert_eq!(told.outcome(), Outcome::Refused, "{told:?}");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, told.reason.as_str()));
    held.truncate(1);
    until("there to be room", async || is_held().await).await?;
    drop(held);
    mesh.stop().await
}
