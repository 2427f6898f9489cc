//! Deadlines met by the batching policy and by the best fixed delay, simulated, and what a decision costs.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::time::Duration;

use weft_policy::Latency;
use weft_policy::batch::{self, Beside, Settings, Waiting};
use weft_types::{Deadline, SystemClock};

#[expect(dead_code, reason = "the troubles are for the tests")]
#[path = "batching/simulate.rs"]
mod simulate;

use simulate::{Batcher, Curve, MAX_ROWS, Scenario, Trouble};

const SEEDS: u64 = 5;
const REQUESTS: usize = 20_000;
const LOADS: [f64; 4] = [0.5, 0.8, 0.95, 1.2];
/// In service times of a full batch.
const DEADLINES: [&[f64]; 3] = [&[2.0], &[5.0], &[2.0, 5.0]];
const DEPTH: usize = 1024;

fn main() -> io::Result<()> {
    let mut goals = String::new();
    let mut out = io::stdout().lock();
    writeln!(out, "deadlines met in % ({SEEDS} seeds of {REQUESTS} requests, batches of up to {MAX_ROWS} rows)")?;
    writeln!(
        out,
        "policy: one setting for all; admits: behind the worker's admission; then Triton's batcher with fixed delays"
    )?;
    writeln!(
        out,
        "(half a service time, with a preferred size too), and with a queue timeout set by hand for this very deadline"
    )?;
    writeln!(
        out,
        "load %  deadline  curve     policy   admits  fixed 0  1 ms  half  preferred  by hand  kept/best  missed/best"
    )?;
    for (load, deadlines) in LOADS.iter().flat_map(|load| DEADLINES.map(|deadlines| (*load, deadlines))) {
        let mut cell = Cell { name: format!("{:.0}_{}", load * 100.0, name(deadlines)), ..Cell::default() };
        for curve in Curve::ALL {
            let scenario = Scenario { curve, load, deadlines, requests: REQUESTS, seed: 0, trouble: Trouble::None };
            let row = Row::of(&scenario);
            writeln!(out, "{}", row.line(&scenario))?;
            cell.rows.push(row);
        }
        goals += &cell.goals();
    }
    goals += &goal(&format!("batching_decision_us_at_{DEPTH}_waiting"), decision_time(), Target::AtMost(20.0));
    write!(out, "{goals}")
}

/// A row of the table, as shares.
struct Row {
    policy: f64,
    admitted: f64,
    fixed: [f64; 4],
    by_hand: f64,
}

impl Row {
    fn of(scenario: &Scenario) -> Self {
        let mean = |batcher| simulate::mean(scenario, batcher, SEEDS);
        let curve = scenario.curve;
        Self {
            policy: mean(Batcher::learned(curve, false)),
            admitted: mean(Batcher::learned(curve, true)),
            fixed: Batcher::fixed(curve).map(mean),
            by_hand: mean(by_hand(scenario)),
        }
    }

    fn best(&self) -> f64 {
        self.fixed.into_iter().fold(0.0, f64::max)
    }

    fn line(&self, scenario: &Scenario) -> String {
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let [none, small, half, preferred] = self.fixed.map(percent);
        let (policy, admitted, by_hand) = (percent(self.policy), percent(self.admitted), percent(self.by_hand));
        let (kept, missed) = (self.policy / self.best(), (1.0 - self.policy) / (1.0 - self.best()).max(1e-9));
        let (load, deadline) = (scenario.load * 100.0, name(scenario.deadlines));
        let curve = format!("{:?}", scenario.curve);
        format!(
            "{load:>6.0}  {deadline:>8}  {curve:<8} {policy:>7} {admitted:>8} {none:>8} {small:>5} {half:>5} \
             {preferred:>10} {by_hand:>8} {kept:>10.3} {missed:>12.2}"
        )
    }
}

/// No delay, and what a full batch cannot meet is rejected: needs the same deadline for all and a service time known beforehand.
fn by_hand(scenario: &Scenario) -> Batcher {
    let timeout = Some(scenario.curve.full().mul_f64(scenario.deadlines[0] - 1.0));
    Batcher::Fixed { delay: Duration::ZERO, preferred: MAX_ROWS, timeout }
}

fn name(deadlines: &[f64]) -> String {
    let each: Vec<String> = deadlines.iter().map(|factor| format!("{factor:.0}x")).collect();
    each.join("_")
}

#[derive(Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

fn goal(name: &str, measured: f64, target: Target) -> String {
    let (sign, target, met) = match target {
        Target::AtLeast(target) => (">=", target, measured >= target),
        Target::AtMost(target) => ("<=", target, measured <= target),
    };
    format!("GOAL {name} {measured:.3} {sign} {target} {}\n", if met { "met" } else { "missed" })
}

/// A load and a deadline, on all curves.
#[derive(Default)]
struct Cell {
    name: String,
    rows: Vec<Row>,
}

impl Cell {
    /// Never below the best fixed delay on any curve, less half a percent for noise. Near the capacity a fifth more in all, which is
    /// only possible where that leaves a fifth to gain: so the share of its misses that is left is told too.
    fn goals(&self) -> String {
        let (rows, count) = (|| self.rows.iter(), self.rows.len() as f64);
        let (policy, best) = (rows().map(|row| row.policy).sum::<f64>(), rows().map(Row::best).sum::<f64>());
        let worst = rows().map(|row| row.policy.min(row.admitted) / row.best()).fold(f64::INFINITY, f64::min);
        let name = |what: &str| format!("batching_deadlines_{what}_to_fixed_delay");
        let at_edge = self.name.starts_with("95_");
        let target = Target::AtLeast(if at_edge { 1.2 } else { 0.995 });
        let mut goals = goal(&name(&format!("met_{}_worst_curve", self.name)), worst, Target::AtLeast(0.995));
        goals += &goal(&name(&format!("met_{}", self.name)), policy / best, target);
        if at_edge {
            let _ = writeln!(goals, "with every deadline met {} would be at {:.3}", self.name, count / best);
            if count - best > 0.01 * count {
                let left = (count - policy) / (count - best);
                goals += &goal(&name(&format!("missed_{}", self.name)), left, Target::AtMost(0.5));
            }
        }
        goals
    }
}

/// The time of a decision over a long queue, in microseconds.
fn decision_time() -> f64 {
    const ROUNDS: u32 = 50;
    const CALLS: u32 = 50;
    let now = SystemClock::now() + Duration::from_secs(3600);
    let mut latency = Latency::default();
    for rows in [1usize, 2, 4, 8, 16, 32] {
        latency.observe(rows, Duration::from_secs_f64(Curve::Linear.seconds(rows)), now);
    }
    // The first can only be met by a small batch and the others at any time, so that every size is followed to the end.
    let waiting = |number: usize| Waiting {
        rows: 1,
        band: 1,
        deadline: Deadline::after(now, Duration::from_millis(if number < 8 { 20 } else { 60_000 })),
        queued_at: now,
    };
    let queue: Vec<Waiting> = (0..DEPTH).map(waiting).collect();
    let settings = Settings { max_batch_rows: MAX_ROWS, ..Settings::default() };
    let round = || {
        let begin = SystemClock::now();
        for _ in 0..CALLS {
            black_box(batch::decide(
                &settings,
                black_box(&queue).iter().copied(),
                &latency,
                Beside { executors: 1, others: 0 },
                now,
            ));
        }
        SystemClock::now().saturating_duration_since(begin).as_secs_f64() * 1e6 / f64::from(CALLS)
    };
    // The least, since what else runs on the machine only adds.
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
