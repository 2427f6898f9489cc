//! One of four workers answers 50 times later than the others: what that costs callers of this router, of an Envoy that gives each worker
//! its turn, and of tonic's own balancer in the caller.
//!
//! The calls sleep for [`FAST_MS`] on the worker; the way to the slow one is longer by what it lacks.

mod load;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::transport::{Channel, Endpoint};
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use weft_tests::calls::Caller;
use weft_tests::envoy::Envoy;
use weft_tests::goal::Goal;
use weft_tests::load::closed::Slice;
use weft_tests::load::rounds::Rounds;
use weft_tests::proxy::{Fault, Proxy};

use self::load::{Client, closed, open};
use super::fleet::{Fleet, Service};

const WORKERS: usize = 4;
pub(super) const FAST_MS: u32 = 2;
const SLOWER: u32 = 50;
/// Calls under way at any time, in the closed loop.
const IN_FLIGHT: usize = 16;
/// Calls that arrive in a second, in the open one.
const PER_SECOND: f64 = 300.0;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    Weft,
    Envoy,
    Tonic,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    Closed,
    Open,
}

type Cell = (Load, Via);

impl Via {
    const ALL: [Self; 3] = [Self::Weft, Self::Envoy, Self::Tonic];

    const fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Envoy => "envoy_round_robin",
            Self::Tonic => "tonic_balance_list",
        }
    }
}

impl Load {
    const ALL: [Self; 2] = [Self::Closed, Self::Open];

    const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// Measures all in turn; figures are medians over the rounds.
pub(crate) async fn run(full: bool) -> Result<String> {
    let mut workers = (0..WORKERS).map(|index| Service::reserve("worker", index, &[])).collect::<Result<Vec<_>>>()?;
    let last = workers.last_mut().context("there are workers")?;
    let distant = Proxy::start(&last.address()).await?;
    // Half of it on the way there, half on the way back.
    distant.set(Fault::Delay(Duration::from_millis((FAST_MS * (SLOWER - 1) / 2).into())));
    let far = distant.address().to_string();
    last.flag("--advertise", &far);
    let near = workers.iter().take(WORKERS - 1).map(Service::address);
    let addresses: Vec<String> = near.chain([far]).collect();
    let fleet = Fleet::start("sleep", vec![Service::reserve("router", 0, &[])?], workers).await?;
    let (envoy, mut told) = match Envoy::start(&addresses) {
        Ok(envoy) => (Some(envoy), Vec::new()),
        Err(reason) => (None, vec![format!("envoy is missing: {reason:#}")]),
    };
    let mut clients = vec![(Via::Weft, Client::Own(Caller::new(&fleet.routers[0].address())?))];
    if let Some(envoy) = &envoy {
        let caller = Caller::new(&envoy.address)?;
        caller.wait_ready("sleep").await.with_context(|| envoy.log())?;
        clients.push((Via::Envoy, Client::Own(caller)));
    }
    clients.push((Via::Tonic, Client::Tonic(balanced(&addresses)?)));
    let (rounds, lasting) = if full { (9, Duration::from_secs(4)) } else { (3, Duration::from_secs(2)) };
    let mut results = Rounds::default();
    for round in 0..=rounds {
        for load in Load::ALL {
            for (via, client) in &clients {
                let slice = match load {
                    Load::Closed => closed(client, IN_FLIGHT, lasting).await,
                    Load::Open => open(client, PER_SECOND, lasting, round).await,
                };
                let slice = slice.with_context(|| format!("{}, {} loop", via.name(), load.name()))?;
                // The round before the first opens connections and is not counted.
                if round > 0 {
                    results.add((load, *via), slice);
                }
            }
        }
    }
    told.push(format!("{} calls, all answered; {rounds} rounds of {lasting:?} each", results.calls()));
    text(&results, &told)
}

/// A channel as tonic makes one of several addresses.
fn balanced(addresses: &[String]) -> Result<GrpcInferenceServiceClient<Channel>> {
    let endpoint = |address: &String| Endpoint::from_shared(format!("http://{address}"));
    let endpoints = addresses.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
    Ok(GrpcInferenceServiceClient::new(Channel::balance_list(endpoints.into_iter())))
}

/// The share of calls that met the slow worker: no other answers as late, unless the machine stood still.
fn slow(slice: &Slice) -> f64 {
    let limit = Duration::from_millis((FAST_MS * SLOWER).into());
    let slow = slice.times.len() - slice.times.partition_point(|time| *time < limit);
    100.0 * slow as f64 / slice.times.len() as f64
}

fn text(results: &Rounds<Cell>, told: &[String]) -> Result<String> {
    let mut text = told.join("\n");
    writeln!(
        text,
        "\n{WORKERS} workers, {FAST_MS} ms a call, one of them {SLOWER} times as much; {IN_FLIGHT} in flight or {PER_SECOND} a second; times in ms"
    )?;
    writeln!(
        text,
        "{:<8} {:<20} {:>9} {:>8} {:>8} {:>8} {:>15}",
        "loop", "through", "calls/s", "p50", "p99", "max", "% to slow one"
    )?;
    for (load, via) in Load::ALL.into_iter().flat_map(|load| Via::ALL.map(|via| (load, via))) {
        let ms = |percent| results.median((load, via), |slice| slice.percentile_us(percent) / 1e3);
        writeln!(
            text,
            "{:<8} {:<20} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>15.2}",
            load.name(),
            via.name(),
            results.median((load, via), Slice::calls_per_second),
            ms(50),
            ms(99),
            ms(100),
            results.median((load, via), slow),
        )?;
    }
    for (load, via) in Load::ALL.into_iter().flat_map(|load| [(load, Via::Envoy), (load, Via::Tonic)]) {
        let p99 = |one: &Slice, other: &Slice| one.percentile_us(99) / other.percentile_us(99);
        let ratio = results.compare((load, Via::Weft), (load, via), p99);
        writeln!(text, "{}", Goal::at_most(format!("skew_{}_p99_to_{}", load.name(), via.name()), 0.5, ratio).line())?;
    }
    Ok(text)
}
