//! Whose turn it is in the router, who is refused, and that every place is given back.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::{Code, Request, Response, Status};
use weft_proto::error_of;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use weft_proto::weft::router::v1::router_client::RouterClient;
use weft_proto::weft::router::v1::{Admission, ExplainRequest};
use weft_tests::calls::{Beside, Caller, beside, sleep, until, with_timeout};
use weft_tests::mesh::Mesh;
use weft_types::{Reason, timeout};

use super::tap::Tap;

/// Longer than any wait of these tests: a deadline must not do what the test is about.
const LONG: Duration = Duration::from_secs(500);
/// What a router has under way with one replica of which it knows nothing.
const START: usize = 64;

type Call = Beside<Result<Response<ModelInferResponse>, Status>>;

/// A call to a model, with this priority, tenant and deadline in seconds.
fn call(caller: &Caller, model: &str, (priority, tenant, seconds): (i64, &str, u64)) -> Result<Call> {
    let value = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(priority)) };
    let parameters = [("priority".to_owned(), value)].into();
    let request = ModelInferRequest { model_name: model.to_owned(), parameters, ..Default::default() };
    let mut request = with_timeout(request, Duration::from_secs(seconds));
    request.metadata_mut().insert("weft-tenant", tenant.parse()?);
    let mut inference = caller.inference();
    Ok(beside(async move { inference.model_infer(request).await }))
}

async fn admission(caller: &Caller, model: &str) -> Result<Admission> {
    let request = ModelInferRequest { model_name: model.to_owned(), ..Default::default() };
    let asked = Request::new(ExplainRequest { request: Some(request) });
    let explained = RouterClient::new(caller.channel.clone()).explain(asked).await?.into_inner();
    explained.admission.context("the model is ready")
}

/// Waits until so many calls are under way, and so many of each band wait.
async fn stands_at(caller: &Caller, model: &str, in_flight: usize, waiting: [u32; 3]) -> Result<()> {
    until(&format!("{in_flight} under way and {waiting:?} waiting"), async || {
        let found = admission(caller, model).await;
        found.is_ok_and(|one| {
            one.in_flight as usize == in_flight && [one.critical, one.default, one.sheddable] == waiting
        })
    })
    .await
}

/// A worker that answers nobody, and calls of a priority that take all of its places.
async fn full(mesh: &Mesh, caller: &Caller, priority: i64) -> Result<(Tap, Vec<Call>)> {
    let tap = Tap::silent(mesh, "quiet").await?;
    caller.wait_ready("quiet").await?;
    let held = (0..START).map(|_| call(caller, "quiet", (priority, "first", 590))).collect::<Result<Vec<Call>>>()?;
    stands_at(caller, "quiet", START, [0; 3]).await?;
    until("all to arrive", async || tap.told(timeout::HEADER).len() == START).await?;
    Ok((tap, held))
}

/// The seconds that each call had, to the nearest fifty, which came to the worker after the first ones.
fn arrived(tap: &Tap) -> Vec<u64> {
    let told = tap.told(timeout::HEADER);
    let left = told.iter().skip(START).filter_map(|told| timeout::parse(told.as_bytes()).ok());
    left.map(|left| (left.as_secs() + 25) / 50 * 50).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_urgent_goes_first_and_who_leaves_is_forgotten() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let (tap, mut held) = full(&mesh, &caller, 1).await?;
    let mut waiting = vec![call(&caller, "quiet", (9, "a", 200))?];
    stands_at(&caller, "quiet", START, [0, 0, 1]).await?;
    waiting.push(call(&caller, "quiet", (0, "a", 350))?);
    stands_at(&caller, "quiet", START, [0, 1, 1]).await?;
    waiting.push(call(&caller, "quiet", (0, "a", 300))?);
    let leaves = call(&caller, "quiet", (1, "a", 100))?;
    stands_at(&caller, "quiet", START, [1, 2, 1]).await?;
    drop(leaves);
    stands_at(&caller, "quiet", START, [0, 2, 1]).await?;
    waiting.push(call(&caller, "quiet", (1, "a", 400))?);
    stands_at(&caller, "quiet", START, [1, 2, 1]).await?;
    for count in 1..=4 {
        held.pop();
        until("the next", async || arrived(&tap).len() == count).await?;
    }
    assert_eq!(arrived(&tap), [400, 300, 350, 200]);
    drop((held, waiting));
    stands_at(&caller, "quiet", 0, [0; 3]).await?;
    mesh.stop().await
}

/// The worker orders by band, and stops what is less urgent: it can only do so with calls that it has.
#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_call_does_not_wait_for_places_that_less_urgent_ones_have() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let (tap, mut held) = full(&mesh, &caller, 9).await?;
    let mut others = vec![call(&caller, "quiet", (9, "a", 200))?];
    stands_at(&caller, "quiet", START, [0, 0, 1]).await?;
    for (count, (priority, seconds)) in (1..).zip([(1, 400), (0, 350)]) {
        others.push(call(&caller, "quiet", (priority, "a", seconds))?);
        stands_at(&caller, "quiet", START + count, [0, 0, 1]).await?;
        until("it to arrive", async || arrived(&tap).len() == count).await?;
    }
    held.truncate(START - 2);
    stands_at(&caller, "quiet", START, [0, 0, 1]).await?;
    held.pop();
    until("the last", async || arrived(&tap) == [400, 350, 200]).await?;
    drop((held, others));
    stands_at(&caller, "quiet", 0, [0; 3]).await?;
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_not_behind_the_queue_of_another() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let (tap, mut held) = full(&mesh, &caller, 1).await?;
    let mut waiting = (0..20).map(|_| call(&caller, "quiet", (0, "many", 200))).collect::<Result<Vec<Call>>>()?;
    stands_at(&caller, "quiet", START, [0, 20, 0]).await?;
    waiting.push(call(&caller, "quiet", (0, "one", 400))?);
    stands_at(&caller, "quiet", START, [0, 21, 0]).await?;
    for count in 1..=2 {
        held.pop();
        until("the next", async || arrived(&tap).len() == count).await?;
    }
    assert!(arrived(&tap).contains(&400), "{:?}", arrived(&tap));
    drop((held, waiting));
    stands_at(&caller, "quiet", 0, [0; 3]).await?;
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_are_told_to_come_again_and_the_urgent_still_wait() -> Result<()> {
    let mesh = Mesh::start(&["--router-queue-limit", "2"]).await?;
    let caller = mesh.caller()?;
    let (tap, mut held) = full(&mesh, &caller, 1).await?;
    let first = [call(&caller, "quiet", (0, "a", 200))?, call(&caller, "quiet", (0, "a", 200))?];
    stands_at(&caller, "quiet", START, [0, 2, 0]).await?;
    let refused = call(&caller, "quiet", (0, "a", 200))?.outcome().await?.expect_err("there is no room");
    assert_eq!((refused.code(), error_of(&refused).reason()), (Code::ResourceExhausted, Reason::QueueFull));
    assert!(error_of(&refused).pushback().is_some(), "{refused:?}");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"), "{refused:?}");
    let urgent = call(&caller, "quiet", (1, "a", 400))?;
    stands_at(&caller, "quiet", START, [1, 1, 0]).await?;
    held.pop();
    until("the urgent one", async || arrived(&tap) == [400]).await?;
    until("the refusals to be counted", async || {
        mesh.sample("weft_router_shed_total").await.is_ok_and(|count| count == 2.0)
    })
    .await?;
    drop((held, first, urgent));
    stands_at(&caller, "quiet", 0, [0; 3]).await?;
    mesh.stop().await
}

/// A model is known to take two seconds at best: a call that has less and would have to wait is refused, and not sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_time_does_not_wait() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    caller.infer(sleep(2_000), LONG).await?;
    let long = || {
        let caller = caller.clone();
        beside(async move { caller.infer(sleep(600_000), LONG).await })
    };
    let held: Vec<_> = (0..START).map(|_| long()).collect();
    stands_at(&caller, "sleep", START, [0; 3]).await?;
    let status = caller.infer(sleep(1), Duration::from_millis(500)).await.expect_err("it has too little time");
    assert_eq!(error_of(&status).reason(), Reason::DeadlineInfeasible, "{status:?}");
    drop(held);
    stands_at(&caller, "sleep", 0, [0; 3]).await?;
    mesh.stop().await
}

/// One of all the ways in which a call can go.
async fn any(caller: Caller, way: u32, milliseconds: u32) {
    let limit = Duration::from_secs(60);
    match way {
        // Answered.
        0 | 1 => drop(caller.infer(sleep(milliseconds), limit).await),
        // Refused by the worker.
        2 => {
            let wrong = ModelInferRequest { raw_input_contents: Vec::new(), ..sleep(1) };
            drop(caller.infer(wrong, limit).await);
        }
        // Past its deadline.
        3 => drop(caller.infer(sleep(600_000), Duration::from_millis(milliseconds.into())).await),
        // Given up by its caller.
        4 => {
            let call = caller.infer(sleep(600_000), limit);
            let _ = tokio::time::timeout(Duration::from_millis(milliseconds.into()), call).await;
        }
        // On a stream that is read to its end, or given up.
        _ => {
            let requests = stream::iter([sleep(milliseconds), sleep(1)]);
            let answers = caller.inference().model_stream_infer(with_timeout(requests, limit)).await;
            let Ok(mut answers) = answers.map(Response::into_inner) else { return };
            while let Ok(Some(_)) = answers.message().await {
                if way == 6 {
                    return;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_is_given_back_however_calls_end() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    caller.wait_ready("sleep").await?;
    let mut random = StdRng::seed_from_u64(17);
    let calls: Vec<_> =
        (0..400).map(|_| beside(any(caller.clone(), random.random_range(0..7), random.random_range(1..200)))).collect();
    for call in calls {
        call.outcome().await?;
    }
    stands_at(&caller, "sleep", 0, [0; 3]).await?;
    // Those that waited are gone from the figures, too.
    until("nothing to wait", async || mesh.sample("weft_router_queued").await.is_ok_and(|waiting| waiting == 0.0))
        .await?;
    caller.infer(sleep(1), LONG).await?;
    mesh.stop().await
}

/// Workers share their queues between tenants as well: they are told who a call is for, under the one name that the mesh uses.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_the_tenant() -> Result<()> {
    let mesh = Mesh::start(&[]).await?;
    let caller = mesh.caller()?;
    let tap = Tap::register(&mesh, "tapped").await?;
    caller.wait_ready("tapped").await?;
    let named = |key: Option<&'static str>| -> Result<_> {
        let request = ModelInferRequest { model_name: "tapped".to_owned(), ..Default::default() };
        let mut request = with_timeout(request, LONG);
        if let Some(key) = key {
            request.metadata_mut().insert(key, "a".parse()?);
        }
        Ok(request)
    };
    for key in [Some("weft-tenant"), Some("x-gateway-inference-fairness-id"), None] {
        // It tells what it heard, and answers nothing that can be read.
        drop(caller.inference().model_infer(named(key)?).await);
    }
    let request = named(Some("weft-tenant"))?.map(|request| stream::iter([request]));
    if let Ok(mut answers) = caller.inference().model_stream_infer(request).await.map(Response::into_inner) {
        while let Ok(Some(_)) = answers.message().await {}
    }
    let told = tap.told("weft-tenant");
    assert_eq!(told[..3], ["a", "a", "none"]);
    // A stream that is not answered is opened again.
    assert!(told.len() > 3 && told[3..].iter().all(|told| told == "a"), "{told:?}");
    mesh.stop().await
}
