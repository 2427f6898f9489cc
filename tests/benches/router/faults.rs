//! What callers see under steady load while workers die, stand still and restart, and routers restart.
//!
//! Callers know both routers and send as clients of gRPC do: a call that has never left, or that a router refused to look at, goes to the
//! other one (gRFC A6's transparent retry), and one that was lost with its router's connection is sent there once more, as a retry policy
//! for UNAVAILABLE would. What a router answers is the outcome. tonic's own channel has neither and loses calls with every GOAWAY.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use weft_tests::calls::{Caller, PATIENCE};
use weft_tests::goal::Goal;
use weft_tests::outage::load::{Call, Load};
use weft_tests::outage::percentile;
use weft_types::SystemClock;

use super::fleet::{Fleet, Service, endpoints};

const WORKERS: usize = 3;
const ROUTERS: usize = 2;
const PER_SECOND: u32 = 400;
/// What callers give a call.
const DEADLINE: Duration = Duration::from_millis(500);
const BEFORE: Duration = Duration::from_secs(2);
/// How often it is asked whether the routers still send calls to a worker.
const POLL: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    WorkerKilled,
    WorkerStopped,
    WorkersRestarted,
    RoutersRestarted,
}

impl Fault {
    const ALL: [Self; 4] = [Self::WorkerKilled, Self::WorkerStopped, Self::WorkersRestarted, Self::RoutersRestarted];

    const fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker_killed",
            Self::WorkerStopped => "worker_stopped",
            Self::WorkersRestarted => "workers_restarted",
            Self::RoutersRestarted => "routers_restarted",
        }
    }

    /// Whether it comes without a word.
    const fn is_sudden(self) -> bool {
        matches!(self, Self::WorkerKilled | Self::WorkerStopped)
    }

    /// Makes it happen to a fleet that is whole, and leaves it whole. Returns how long the routers took to leave the worker out.
    async fn happen(self, fleet: &mut Fleet, load: &Load, after: Duration) -> Result<Option<Duration>> {
        let began = SystemClock::now();
        let mut left_out = None;
        match self {
            Self::WorkerKilled => {
                fleet.workers[0].kill()?;
                left_out = Some(is_left_out(fleet, began).await?);
                load.pass(after).await?;
                fleet.launch_worker(0)?;
            }
            Self::WorkerStopped => {
                fleet.workers[0].signal("STOP")?;
                left_out = Some(is_left_out(fleet, began).await?);
                load.pass(after).await?;
                fleet.workers[0].signal("CONT")?;
            }
            Self::WorkersRestarted => {
                for index in 0..WORKERS {
                    fleet.workers[index].terminate().await?;
                    fleet.launch_worker(index)?;
                    fleet.settle().await?;
                }
            }
            Self::RoutersRestarted => {
                for index in 0..ROUTERS {
                    fleet.routers[index].terminate().await?;
                    fleet.launch_router(index)?;
                    fleet.settle().await?;
                }
            }
        }
        fleet.settle().await?;
        load.pass(Duration::from_secs(1)).await?;
        Ok(left_out)
    }
}

/// How long after `began` neither router would send a call to the first worker.
async fn is_left_out(fleet: &Fleet, began: Instant) -> Result<Duration> {
    for router in &fleet.routers {
        let caller = Caller::new(&router.address())?;
        loop {
            let known = endpoints(&caller).await;
            let is_out = !known.iter().any(|one| one.worker == fleet.workers[0].id && fleet.is_taken(one));
            if is_out || SystemClock::now().saturating_duration_since(began) > PATIENCE {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(SystemClock::now().saturating_duration_since(began))
}

/// What one fault cost.
struct Figures {
    fault: Fault,
    sent: usize,
    failures: Vec<String>,
    repeated: usize,
    p99_before: Duration,
    p99_during: Duration,
    /// From the fault to when the last call was due that it cost something: that failed, or took far longer than usual.
    met: Duration,
    left_out: Option<Duration>,
}

impl Figures {
    fn new(fault: Fault, began: Instant, calls: &[Call], left_out: Option<Duration>) -> Self {
        let (before, during): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(|call| call.due < began);
        let p99_before = percentile(&before, 99);
        let unusual = (p99_before * 5).max(Duration::from_millis(50));
        let met = during.iter().filter(|call| call.failure.is_some() || call.took > unusual);
        let failed = |call: &Call| {
            let at = call.due.saturating_duration_since(began).as_secs_f64();
            call.failure.as_ref().map(|why| format!("at {at:.2} s, after {:.2} s: {why}", call.took.as_secs_f64()))
        };
        Self {
            fault,
            sent: calls.len(),
            failures: calls.iter().filter_map(failed).collect(),
            repeated: calls.iter().filter(|call| call.repeated).count(),
            p99_before,
            p99_during: percentile(&during, 99),
            met: met.map(|call| call.due.saturating_duration_since(began)).max().unwrap_or_default(),
            left_out,
        }
    }

    fn text(&self) -> Result<String> {
        let mut text = String::new();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        writeln!(
            text,
            "{:<18} {:>6} {:>6} {:>8} {:>13.1} {:>13.1} {:>14.2} {:>14.2}",
            self.fault.name(),
            self.sent,
            self.failures.len(),
            self.repeated,
            ms(self.p99_before),
            ms(self.p99_during),
            self.met.as_secs_f64(),
            self.left_out.map_or(f64::NAN, |time| time.as_secs_f64()),
        )?;
        for failure in self.failures.iter().take(10) {
            writeln!(text, "    failed {failure}")?;
        }
        Ok(text)
    }

    fn goals(&self) -> Vec<Goal> {
        let name = self.fault.name();
        if !self.fault.is_sudden() {
            return vec![Goal::at_most(format!("faults_{name}_failed_calls"), 0.0, self.failures.len() as f64)];
        }
        let answered = 100.0 * (1.0 - self.failures.len() as f64 / self.sent as f64);
        vec![
            Goal::at_least(format!("faults_{name}_answered_percent"), 99.9, answered),
            Goal::at_most(format!("faults_{name}_last_met_s"), 1.0, self.met.as_secs_f64()),
        ]
    }
}

/// Brings each fault about in turn.
pub(crate) async fn run(full: bool) -> Result<String> {
    let after = Duration::from_secs(if full { 20 } else { 8 });
    // Whoever drains need not wait long for its replicas to be elsewhere: they are on all workers already.
    let worker = |index| Service::reserve("worker", index, &["--move-grace", "1s"]);
    let workers = (0..WORKERS).map(worker).collect::<Result<Vec<_>>>()?;
    let routers = (0..ROUTERS).map(|index| Service::reserve("router", index, &[])).collect::<Result<Vec<_>>>()?;
    let mut fleet = Fleet::start("identity", routers, workers).await?;
    let addresses: Vec<String> = fleet.routers.iter().map(Service::address).collect();
    let mut text =
        format!("{PER_SECOND} calls/s with {DEADLINE:?} each through {ROUTERS} routers to {WORKERS} workers\n");
    writeln!(
        text,
        "{:<18} {:>6} {:>6} {:>8} {:>13} {:>13} {:>14} {:>14}",
        "fault", "sent", "failed", "repeated", "p99 before ms", "p99 during ms", "last met s", "left out s"
    )?;
    let mut goals = Vec::new();
    for fault in Fault::ALL {
        let load = Load::start(addresses.clone(), PER_SECOND, DEADLINE);
        load.pass(BEFORE).await?;
        let began = SystemClock::now();
        let happened = fault.happen(&mut fleet, &load, after).await;
        let calls = load.stop().await?;
        let figures = Figures::new(fault, began, &calls, happened?);
        text.push_str(&figures.text()?);
        goals.extend(figures.goals());
    }
    goals.iter().try_for_each(|goal| writeln!(text, "{}", goal.line()))?;
    Ok(text)
}
