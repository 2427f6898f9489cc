//! The same calls through clients of different kinds, in a closed and in an open loop.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use weft_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use weft_tests::calls::{Caller, sleep, with_timeout};
use weft_tests::load::closed::Slice;
use weft_types::SystemClock;

use super::FAST_MS;

/// Far beyond any call's time.
const LIMIT: Duration = Duration::from_secs(20);

/// A client, which may balance by itself.
#[derive(Clone)]
pub(super) enum Client {
    Own(Caller),
    Tonic(GrpcInferenceServiceClient<Channel>),
}

impl Client {
    /// One call; returns how long after `due` its answer came.
    async fn call(self, due: Instant) -> Result<Duration> {
        let answer = match self {
            Self::Own(caller) => caller.infer(sleep(FAST_MS), LIMIT).await,
            Self::Tonic(mut client) => client.model_infer(with_timeout(sleep(FAST_MS), LIMIT)).await,
        };
        answer.map_err(|status| anyhow!("a call failed: {:?}: {}", status.code(), status.message()))?;
        Ok(SystemClock::now().saturating_duration_since(due))
    }
}

/// Keeps so many calls under way for so long.
pub(super) async fn closed(client: &Client, in_flight: usize, lasting: Duration) -> Result<Slice> {
    let started = SystemClock::now();
    let mut lanes = JoinSet::new();
    for _ in 0..in_flight {
        let client = client.clone();
        lanes.spawn(async move {
            let mut times = Vec::new();
            loop {
                let now = SystemClock::now();
                if now >= started + lasting {
                    return anyhow::Ok(times);
                }
                times.push(client.clone().call(now).await?);
            }
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = lanes.join_next().await {
        times.extend(ended??);
    }
    Ok(Slice::new(started, times))
}

/// Calls that arrive as a Poisson process does; a call's time counts from when it should have been sent.
pub(super) async fn open(client: &Client, per_second: f64, lasting: Duration, seed: u64) -> Result<Slice> {
    let started = SystemClock::now();
    let (mut random, mut due, mut calls) = (StdRng::seed_from_u64(seed), started, JoinSet::new());
    while due < started + lasting {
        tokio::time::sleep_until(due.into()).await;
        calls.spawn(client.clone().call(due));
        // The inverse of the exponential distribution; 1 - u is never zero.
        due += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / per_second);
    }
    let mut times = Vec::new();
    while let Some(ended) = calls.join_next().await {
        times.push(ended??);
    }
    Ok(Slice::new(started, times))
}
