//! Part D: calls that arrive at random, each with a deadline; how many are answered in time by Weft and by Triton's batcher.
//!
//! Every server gets the same arrivals and the same deadlines. What is full load and what is a call's own time are Triton's, so
//! that a server that is quicker only has it easier, as its users have.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_tests::calls::{Caller, until};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case};
use weft_tests::load::poisson;
use weft_tests::load::rounds::median;

use super::bare::Bare;
use super::onnx::LENGTH;
use super::peers::{Kind, Peer};
use super::plan::{Plan, Told};
use super::served::{self, DELAY_US, DELAYED, MINILM, TIMED};
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
    told: poisson::Told,
}

/// A cell of the table in one round: of each server, the share of deadlines met and of calls refused.
type Shares = Vec<(f64, f64)>;

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("deadlines");
    served::weft(&repository, &[MINILM])?;
    let cases = Bare::start(MINILM, plan.threads, &plan.folder)?.cases(1, LENGTH)?;
    let subject = Subject::start(Some(&repository), plan.threads, &[MINILM.name]).await?;
    let triton = match Peer::start(Kind::Triton, &[MINILM], plan.threads, &plan.folder).await {
        Ok(triton) => triton,
        Err(reason) => return missing(&reason),
    };
    let delayed = served::renamed(&cases, DELAYED);
    let timed = served::renamed(&cases, TIMED);
    let mut servers = Vec::new();
    for (name, caller, cases) in [
        ("weft", &subject.worker, &cases),
        ("triton", &triton.caller, &cases),
        ("triton, 5 ms delay", &triton.caller, &delayed),
        ("triton, timeouts", &triton.caller, &timed),
    ] {
        servers.push(Subjected::learn(name, caller, cases, plan).await?);
    }
    // Of Triton without settings: a delay that its batcher adds is no part of the time that the work takes.
    let norm = (servers[1].alone, servers[1].capacity);
    // Triton 2.51 dies of calls that are given up (its issue 7368), so it gets none: what it answers late is waited for. What
    // may be dropped it learns, in one of its settings, from the parameter that its batcher looks at.
    servers[1..].iter_mut().for_each(|server| server.told = poisson::Told::Nothing);
    servers[3].told = poisson::Told::Parameter;
    measure(plan, &servers, norm).await
}

fn missing(reason: &anyhow::Error) -> Result<Told> {
    let goals = vec![Goal::missing("deadlines_met_to_triton_least"), Goal::missing("deadlines_met_to_triton_95_2x")];
    Ok(Told { text: format!("triton is missing: {reason:#}\n"), goals })
}

impl Subjected {
    async fn learn(name: &'static str, caller: &Caller, cases: &Arc<[Case]>, plan: &Plan) -> Result<Self> {
        let lasting = if plan.full { 3 } else { 1 };
        let lasting = Duration::from_secs(lasting);
        closed::run(caller, cases, 64, plan.warm_up()).await?;
        let alone = closed::run(caller, cases, 1, lasting).await?.percentile_us(50);
        let capacity = closed::run(caller, cases, 64, 2 * lasting).await?.calls_per_second();
        let (caller, cases) = (caller.clone(), Arc::clone(cases));
        Ok(Self {
            name,
            caller,
            cases,
            capacity,
            alone: Duration::from_secs_f64(alone / 1e6),
            told: poisson::Told::Grpc,
        })
    }

    async fn met(
        &self,
        (load, factor): (u32, u32),
        (alone, capacity): (Duration, f64),
        (round, plan): (usize, &Plan),
    ) -> Result<(f64, f64)> {
        let lasting = Duration::from_secs(if plan.full { 5 } else { 2 });
        let (per_second, deadline) = (capacity * f64::from(load) / 100.0, alone * factor);
        // What a load before has left in a queue is no part of this one: Triton computes what nobody waits for any more.
        let (patient, mut seen) = (2 * self.alone + Duration::from_micros(DELAY_US), String::new());
        let empty = until("an empty queue", async || {
            let alone = closed::run(&self.caller, &self.cases, 1, Duration::from_millis(50)).await;
            let alone = alone.map(|slice| slice.percentile_us(50) / 1e6);
            seen = format!("a call alone: {alone:?} s, wanted: less than {patient:?}");
            alone.is_ok_and(|alone| alone < patient.as_secs_f64())
        })
        .await;
        empty.with_context(|| format!("{} at {load} %, {factor}x: {seen}", self.name))?;
        // Every server sees the same arrivals.
        let seed = round as u64 * 10_000 + u64::from(load * 10 + factor);
        let arrivals = poisson::Plan { per_second, deadline, told: self.told, lasting, seed };
        let outcome = poisson::run(&self.caller, &self.cases, &arrivals).await?;
        Ok((outcome.share(), outcome.refused as f64 / outcome.calls as f64))
    }
}

async fn measure(plan: &Plan, servers: &[Subjected], norm: (Duration, f64)) -> Result<Told> {
    let mut told = Told::default();
    for server in servers {
        let (alone, capacity) = (server.alone.as_secs_f64() * 1e3, server.capacity);
        writeln!(told.text, "{}: {alone:.2} ms for a call alone, {capacity:.0} calls/s at most", server.name)?;
    }
    let cells: Vec<(u32, u32)> = LOADS.into_iter().flat_map(|load| FACTORS.map(|factor| (load, factor))).collect();
    let mut rounds: Vec<Vec<Shares>> = vec![Vec::new(); cells.len()];
    for round in 0..plan.rounds() {
        for (cell, of_cell) in cells.iter().zip(&mut rounds) {
            let mut shares = Shares::new();
            for server in servers {
                shares.push(server.met(*cell, norm, (round, plan)).await?);
            }
            of_cell.push(shares);
        }
    }
    tell(&mut told, servers, cells.into_iter().zip(rounds))?;
    Ok(told)
}

fn tell(told: &mut Told, servers: &[Subjected], cells: impl Iterator<Item = ((u32, u32), Vec<Shares>)>) -> Result<()> {
    writeln!(
        told.text,
        "minilm, percent of deadlines met, and of calls refused at once; medians over the rounds\nload  deadline  {}",
        names(servers)
    )?;
    let mut least = f64::INFINITY;
    for ((load, factor), rounds) in cells {
        let mut columns = String::new();
        for at in 0..servers.len() {
            let middle = |figure: fn(&(f64, f64)) -> f64| {
                100.0 * median(rounds.iter().filter_map(|shares| shares.get(at)).map(figure).collect())
            };
            write!(columns, "{:>14.1} {:>5.1}", middle(|shares| shares.0), middle(|shares| shares.1))?;
        }
        writeln!(told.text, "{load:>3}%  {factor:>7}x  {columns}")?;
        // Against the best of its settings; a server that meets next to none is counted as meeting one in a hundred.
        let ratio = |shares: &Shares| {
            let best = shares.iter().skip(1).map(|shares| shares.0).fold(0.01, f64::max);
            shares.first().map_or(f64::NAN, |own| own.0 / best)
        };
        let ratio = median(rounds.iter().map(ratio).collect());
        least = least.min(ratio);
        if load == 95 {
            told.goals.push(Goal::at_least(format!("deadlines_met_to_triton_{load}_{factor}x"), 1.2, ratio));
        }
    }
    told.goals.push(Goal::at_least("deadlines_met_to_triton_least", 1.0, least));
    Ok(())
}

fn names(servers: &[Subjected]) -> String {
    servers.iter().map(|server| format!("{:>20}", server.name)).collect()
}
