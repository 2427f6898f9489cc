//! Part D: calls that arrive at random, each with a deadline; how many are answered in time by Weft and by Triton's batcher.
//!
//! Every server gets loads in relation to its own capacity and deadlines in relation to its own time for a call alone, so
//! that what is compared is how each forms batches, not how fast it is otherwise.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use weft_tests::calls::{Caller, until};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case};
use weft_tests::load::poisson;

use super::bare::Bare;
use super::onnx::LENGTH;
use super::peers::{Kind, Peer};
use super::plan::{Plan, Told};
use super::served::{self, DELAY_US, DELAYED, MINILM};
use super::subject::Subject;

/// Percent of capacity.
const LOADS: [u32; 4] = [50, 80, 95, 120];
/// Deadlines, in times that a call takes alone.
const FACTORS: [u32; 2] = [2, 5];

/// A server under test, with what it can do.
struct Subjected {
    name: &'static str,
    caller: Caller,
    cases: Arc<[Case]>,
    capacity: f64,
    alone: Duration,
}

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("deadlines");
    served::weft(&repository, &[MINILM])?;
    let cases = Bare::start(MINILM, plan.threads, &plan.folder)?.cases(1, LENGTH)?;
    let subject = Subject::start(Some(&repository), plan.threads, &[MINILM.name]).await?;
    let triton = match Peer::start(Kind::Triton, &[MINILM], plan.threads, &plan.folder).await {
        Ok(triton) => triton,
        Err(reason) => return missing(&reason),
    };
    let delayed = renamed(&cases, &format!("{}{DELAYED}", MINILM.name));
    let mut servers = Vec::new();
    for (name, caller, cases) in [
        ("weft", &subject.worker, &cases),
        ("triton", &triton.caller, &cases),
        ("triton, 5 ms delay", &triton.caller, &delayed),
    ] {
        servers.push(Subjected::learn(name, caller, cases, plan).await?);
    }
    // A delay that the batcher adds is no part of the time that the work takes.
    servers[2].alone = servers[1].alone;
    measure(plan, &servers).await
}

fn missing(reason: &anyhow::Error) -> Result<Told> {
    let goals = vec![Goal::missing("deadlines_met_to_triton_least"), Goal::missing("deadlines_met_to_triton_95_2x")];
    Ok(Told { text: format!("triton is missing: {reason:#}\n"), goals })
}

/// The same calls to a model of another name.
fn renamed(cases: &Arc<[Case]>, model: &str) -> Arc<[Case]> {
    let renamed = cases.iter().cloned().map(|mut case| {
        model.clone_into(&mut case.request.model_name);
        case
    });
    renamed.collect()
}

impl Subjected {
    async fn learn(name: &'static str, caller: &Caller, cases: &Arc<[Case]>, plan: &Plan) -> Result<Self> {
        let lasting = if plan.full { 3 } else { 1 };
        let lasting = Duration::from_secs(lasting);
        closed::run(caller, cases, 64, plan.warm_up()).await?;
        let alone = closed::run(caller, cases, 1, lasting).await?.percentile_us(50);
        let capacity = closed::run(caller, cases, 64, 2 * lasting).await?.calls_per_second();
        let (caller, cases) = (caller.clone(), Arc::clone(cases));
        Ok(Self { name, caller, cases, capacity, alone: Duration::from_secs_f64(alone / 1e6) })
    }

    async fn met(&self, load: u32, factor: u32, plan: &Plan) -> Result<poisson::Outcome> {
        let lasting = Duration::from_secs(if plan.full { 15 } else { 3 });
        let (per_second, deadline) = (self.capacity * f64::from(load) / 100.0, self.alone * factor);
        // What a load before has left in a queue is no part of this one: Triton computes what nobody waits for any more.
        until("an empty queue", async || {
            let alone = closed::run(&self.caller, &self.cases, 1, Duration::from_millis(50)).await;
            alone.is_ok_and(|slice| slice.percentile_us(50) < 2e6 * self.alone.as_secs_f64() + DELAY_US as f64)
        })
        .await?;
        // Every server sees the same arrivals, in its own time.
        let arrivals = poisson::Plan { per_second, deadline, lasting, seed: u64::from(load * 10 + factor) };
        poisson::run(&self.caller, &self.cases, &arrivals).await
    }
}

async fn measure(plan: &Plan, servers: &[Subjected]) -> Result<Told> {
    let mut told = Told::default();
    for server in servers {
        let (alone, capacity) = (server.alone.as_secs_f64() * 1e3, server.capacity);
        writeln!(told.text, "{}: {alone:.2} ms for a call alone, {capacity:.0} calls/s at most", server.name)?;
    }
    writeln!(
        told.text,
        "minilm, percent of deadlines met, and of calls refused at once\nload  deadline  {}",
        names(servers)
    )?;
    let mut least = f64::INFINITY;
    for (load, factor) in LOADS.into_iter().flat_map(|load| FACTORS.map(|factor| (load, factor))) {
        let (mut shares, mut columns) = (Vec::new(), String::new());
        for server in servers {
            let outcome = server.met(load, factor, plan).await?;
            write!(
                columns,
                "{:>14.1} {:>5.1}",
                outcome.share() * 100.0,
                outcome.refused as f64 / outcome.calls as f64 * 100.0
            )?;
            shares.push(outcome.share());
        }
        writeln!(told.text, "{load:>3}%  {factor:>7}x  {columns}")?;
        // Against the better of its settings; a server that meets next to none is counted as meeting one in a hundred.
        let ratio = shares[0] / shares[1..].iter().copied().fold(0.01, f64::max);
        least = least.min(ratio);
        if load == 95 {
            told.goals.push(Goal::at_least(format!("deadlines_met_to_triton_{load}_{factor}x"), 1.2, ratio));
        }
    }
    told.goals.push(Goal::at_least("deadlines_met_to_triton_least", 1.0, least));
    Ok(told)
}

fn names(servers: &[Subjected]) -> String {
    servers.iter().map(|server| format!("{:>20}", server.name)).collect()
}
