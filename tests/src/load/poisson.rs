//! Calls in an open loop that arrive as a Poisson process does: at random, whatever becomes of those before them.
//!
//! A call's time counts from when it should have been sent, and so does its deadline: what a busy generator sends late is late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use weft_proto::inference::InferParameter;
use weft_proto::inference::infer_parameter::ParameterChoice;
use weft_types::SystemClock;

use super::closed::{Case, LIMIT};
use crate::calls::Caller;

/// The most calls under way; one more is not sent, and its deadline is not met.
const OUTSTANDING: usize = 4096;

/// One open loop.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many calls arrive in a second, in the mean.
    pub per_second: f64,
    /// What each call gets from when it should have been sent.
    pub deadline: Duration,
    /// What the server is told of it.
    pub told: Told,
    /// How long calls arrive.
    pub lasting: Duration,
    /// The same seed gives the same arrivals.
    pub seed: u64,
}

/// What a server is told of a call's deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// All of it, as gRPC does: `grpc-timeout`, and the call is given up when its time is over.
    Grpc,
    /// What is left when it is sent, as the parameter `timeout`, which is where Triton's batcher looks. It is never given up.
    Parameter,
    /// Nothing: a late answer is waited for, and counts as late.
    Nothing,
}

/// What became of the calls.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Calls that arrived.
    pub calls: usize,
    /// Those answered, rightly, within their deadline.
    pub met: usize,
    /// Those that ended with an error in the first half of their time: what ends later may be the deadline itself.
    pub refused: usize,
    /// Answers that were wrong, which is never a matter of time.
    pub wrong: usize,
}

impl Outcome {
    /// The share of calls that were answered in time.
    pub fn share(&self) -> f64 {
        self.met as f64 / self.calls as f64
    }
}

/// How one call ended.
enum Ending {
    Met,
    Refused,
    Late,
    Wrong,
}

/// The times between arrivals, without end.
fn gaps(plan: &Plan) -> impl Iterator<Item = Duration> {
    let (mut random, per_second) = (StdRng::seed_from_u64(plan.seed), plan.per_second);
    // The inverse of the exponential distribution; 1 - u is never zero.
    std::iter::repeat_with(move || Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / per_second))
}

/// Sends calls until the plan's time is over, and waits for the last of them.
pub async fn run(caller: &Caller, cases: &Arc<[Case]>, plan: &Plan) -> Result<Outcome> {
    let (mut under_way, mut outcome) = (JoinSet::new(), Outcome::default());
    let (mut due, mut gaps) = (SystemClock::now(), gaps(plan));
    let end = due + plan.lasting;
    for index in 0.. {
        due += gaps.next().unwrap_or_default();
        if due >= end {
            break;
        }
        if due > SystemClock::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        while let Some(ended) = under_way.try_join_next() {
            outcome.add(&ended?);
        }
        outcome.calls += 1;
        if under_way.len() < OUTSTANDING {
            let request = call(caller.clone(), Arc::clone(cases), index, (due + plan.deadline, plan.told));
            under_way.spawn(request);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        outcome.add(&ended?);
    }
    match outcome.wrong {
        0 => Ok(outcome),
        wrong => Err(anyhow!("{wrong} answers were wrong")),
    }
}

impl Outcome {
    fn add(&mut self, ending: &Ending) {
        match ending {
            Ending::Met => self.met += 1,
            Ending::Refused => self.refused += 1,
            Ending::Late => {}
            Ending::Wrong => self.wrong += 1,
        }
    }
}

async fn call(caller: Caller, cases: Arc<[Case]>, index: usize, (deadline, told): (Instant, Told)) -> Ending {
    let case = &cases[index % cases.len()];
    let left = deadline.saturating_duration_since(SystemClock::now());
    let mut request = case.request.clone();
    if told == Told::Parameter {
        // None at all means without end.
        let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
        let timeout = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(micros)) };
        request.parameters.insert("timeout".to_owned(), timeout);
    }
    // A server is told the deadline in whole microseconds or milliseconds, and may answer a little after it.
    let answer = caller.infer(request, if told == Told::Grpc { left } else { LIMIT }).await;
    let now = SystemClock::now();
    match answer {
        Ok(answer) if case.check(answer.get_ref()).is_err() => Ending::Wrong,
        Ok(_) if now <= deadline => Ending::Met,
        Err(_) if now + left / 2 < deadline => Ending::Refused,
        _ => Ending::Late,
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, Told, gaps};
    use std::time::Duration;

    #[test]
    fn arrivals_are_repeatable_and_as_dense_as_wanted() {
        let plan =
            Plan { per_second: 500.0, deadline: Duration::ZERO, told: Told::Grpc, lasting: Duration::ZERO, seed: 7 };
        let all: Vec<Duration> = gaps(&plan).take(20_000).collect();
        assert_eq!(all, gaps(&plan).take(20_000).collect::<Vec<_>>());
        let mean = all.iter().sum::<Duration>().as_secs_f64() / 20_000.0;
        assert!((mean * 500.0 - 1.0).abs() < 0.03, "the mean gap is {mean} s");
        // Of an exponential distribution, as many gaps are longer than the mean as 1/e.
        let longer = all.iter().filter(|gap| gap.as_secs_f64() > 1.0 / 500.0).count() as f64 / 20_000.0;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.02, "{longer} of the gaps are longer than the mean");
    }
}
