//! Goodput under overload: calls that arrive at random at one, two and three times of what the workers can do, from one tenant or from
//! two of which one sends far more than its share.
//!
//! Each call's time, and its deadline, count from when it should have been sent.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::Code;
use weft_client::{Channel, ChannelOptions, within};
use weft_proto::inference::ModelStatisticsRequest;
use weft_runtime::Tasks;
use weft_tests::calls::{Caller, sleep, with_timeout};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case, Expected};
use weft_types::{Deadline, SystemClock};

use super::backend::Mesh;

/// What calls take at the worker, in milliseconds: as models' calls do not all take the same, they do not end in waves.
const TAKES: Range<u32> = 500..1_500;
/// What calls have: five times the mean.
const DEADLINE: Duration = Duration::from_secs(5);
/// Calls under way while the capacity is measured: more than the workers do at once.
const CLOSED: usize = 2_048;
/// The tenant that keeps to its share sends this part of the capacity; the other one three times all of it.
const SMALL: f64 = 0.03;
/// At most so many calls are under way; what comes then is not sent and not answered.
const OUTSTANDING: usize = 8_192;

/// After so long as many calls end as can.
const FIRST: Duration = Duration::from_secs(4);

/// Calls that arrive.
#[derive(Clone, Copy)]
struct Source {
    per_second: f64,
    tenant: &'static str,
}

/// What became of the calls of one tenant.
#[derive(Default)]
struct Outcome {
    calls: usize,
    /// Times of those answered in time, in order.
    met: Vec<Duration>,
    /// Those of them that were answered while calls came, without the first seconds.
    steady: usize,
    late: usize,
    /// Times of those refused for want of room or of time, in order.
    refused: Vec<Duration>,
    expired: usize,
    other: usize,
}

#[derive(Clone, Copy)]
enum Ending {
    Met(Duration, Instant),
    Late,
    Refused(Duration),
    Expired,
    Other,
}

impl Outcome {
    fn add(&mut self, ending: Ending, steady: &Range<Instant>) {
        match ending {
            Ending::Met(took, ended) => {
                self.met.push(took);
                self.steady += usize::from(steady.contains(&ended));
            }
            Ending::Late => self.late += 1,
            Ending::Refused(took) => self.refused.push(took),
            Ending::Expired => self.expired += 1,
            Ending::Other => self.other += 1,
        }
    }
}

fn milliseconds(times: &[Duration], share: f64) -> f64 {
    let at = (times.len().saturating_sub(1) as f64 * share) as usize;
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// Runs the part and tells of it.
pub(crate) async fn run(full: bool) -> Result<String> {
    let mesh = Mesh::start().await?;
    // As many connections as the calls under way need: no call waits for a stream of its own here.
    let options = ChannelOptions { connections: OUTSTANDING / 512, ..ChannelOptions::default() };
    let caller = Caller { channel: Channel::new(&mesh.router.address, options, &Tasks::new())? };
    caller.wait_ready("sleep").await?;
    let lasting = Duration::from_secs(if full { 30 } else { 10 });
    let case = |takes: u32| Case {
        request: sleep(takes),
        output: "SLEPT_MS".to_owned(),
        expected: Expected::Exactly(takes.to_le_bytes().to_vec().into()),
    };
    let cases: Arc<[Case]> = TAKES.step_by(7).map(case).collect();
    // The first seconds are for the limit to be found.
    closed::run(&caller, &cases, CLOSED, lasting / 2).await?;
    let slice = closed::run(&caller, &cases, CLOSED, lasting).await?;
    let capacity = slice.times.len() as f64 / slice.elapsed.as_secs_f64();
    let mut text = format!("goodput: sleep of {TAKES:?} ms, deadline {} ms\n", DEADLINE.as_millis());
    writeln!(text, "capacity {capacity:.0}/s with {CLOSED} in flight")?;
    let mut goods = Vec::new();
    let (mut refusals, mut late) = (Vec::new(), 0);
    for times in [1.0, 2.0, 3.0] {
        let source = Source { per_second: times * capacity, tenant: "one" };
        let executed = executed(&caller).await?;
        let [mut outcome] = offer(&caller, [source], lasting).await?;
        let executed = self::executed(&caller).await?.saturating_sub(executed);
        let good = outcome.steady as f64 / (lasting - FIRST).as_secs_f64();
        line(&mut text, &format!("{times:.0}x"), &outcome, lasting)?;
        let unseen = executed.saturating_sub((outcome.met.len() + outcome.late) as u64);
        writeln!(text, "  executed {executed}, of which {unseen} ended after their deadline")?;
        ensure!(outcome.other == 0, "{} calls failed for other reasons", outcome.other);
        late += unseen as usize + outcome.late;
        refusals.append(&mut outcome.refused);
        goods.push(good);
    }
    refusals.sort_unstable();
    let small = Source { per_second: SMALL * capacity, tenant: "small" };
    let flood = Source { per_second: 3.0 * capacity, tenant: "flood" };
    let [alone] = offer(&caller, [small], lasting).await?;
    let [beside, flooded] = offer(&caller, [small, flood], lasting).await?;
    for (name, outcome) in [("small alone", &alone), ("small beside", &beside), ("flood", &flooded)] {
        line(&mut text, name, outcome, lasting)?;
    }
    let peak = goods.iter().copied().fold(0.0, f64::max);
    let least = goods.iter().copied().fold(f64::INFINITY, f64::min);
    let ratio = milliseconds(&beside.met, 0.99) / milliseconds(&alone.met, 0.99);
    let goals = [
        Goal::at_least("goodput-least-share-of-peak-percent", 90.0, 100.0 * least / peak),
        Goal::at_most("refusal-p99-ms", 5.0, milliseconds(&refusals, 0.99)),
        Goal::at_most("executed-past-deadline", 0.0, late as f64),
        Goal::at_most("tenant-p99-beside-flood-ratio", 1.1, ratio),
    ];
    goals.iter().try_for_each(|goal| writeln!(text, "{}", goal.line()))?;
    Ok(text)
}

fn line(text: &mut String, name: &str, outcome: &Outcome, lasting: Duration) -> Result<()> {
    let good = outcome.steady as f64 / (lasting - FIRST).as_secs_f64();
    let (p50, p99) = (milliseconds(&outcome.met, 0.5), milliseconds(&outcome.met, 0.99));
    let refusal = milliseconds(&outcome.refused, 0.99);
    Ok(writeln!(
        text,
        "{name:>12}: {} calls, {good:.0}/s in time (p50 {p50:.1} ms, p99 {p99:.1}), {} late, {} refused (p99 {refusal:.2} ms), {} expired",
        outcome.calls,
        outcome.late,
        outcome.refused.len(),
        outcome.expired,
    )?)
}

/// Requests that the workers have executed to the end.
async fn executed(caller: &Caller) -> Result<u64> {
    let request = ModelStatisticsRequest { name: "sleep".to_owned(), version: String::new() };
    let told = caller.inference().model_statistics(request).await?.into_inner();
    let first = told.model_stats.into_iter().next().context("the model is known")?;
    Ok(first.inference_stats.and_then(|stats| stats.success).map_or(0, |success| success.count))
}

/// Sends the calls of all sources, and waits for the last answer.
async fn offer<const N: usize>(caller: &Caller, sources: [Source; N], lasting: Duration) -> Result<[Outcome; N]> {
    let start = SystemClock::now();
    let steady = start + FIRST..start + lasting;
    let mut due: Vec<(Instant, usize, u32)> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut random = StdRng::seed_from_u64(index as u64 + 1);
        let mut at = start;
        while at < start + lasting {
            at += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / source.per_second);
            due.push((at, index, random.random_range(TAKES)));
        }
    }
    due.sort_unstable();
    let mut outcomes: [Outcome; N] = std::array::from_fn(|_| Outcome::default());
    let mut under_way = JoinSet::new();
    for (at, index, takes) in due {
        if at > SystemClock::now() {
            tokio::time::sleep_until(at.into()).await;
        }
        while let Some(ended) = under_way.try_join_next() {
            let (index, ending): (usize, Ending) = ended?;
            outcomes[index].add(ending, &steady);
        }
        outcomes[index].calls += 1;
        if under_way.len() < OUTSTANDING {
            let (caller, tenant) = (caller.clone(), sources[index].tenant);
            under_way.spawn(async move { (index, call(&caller, tenant, (at, takes)).await) });
        }
    }
    while let Some(ended) = under_way.join_next().await {
        let (index, ending) = ended?;
        outcomes[index].add(ending, &steady);
    }
    for outcome in &mut outcomes {
        outcome.met.sort_unstable();
        outcome.refused.sort_unstable();
    }
    Ok(outcomes)
}

async fn call(caller: &Caller, tenant: &'static str, (at, takes): (Instant, u32)) -> Ending {
    let began = SystemClock::now();
    let left = (at + DEADLINE).saturating_duration_since(began);
    let mut request = with_timeout(sleep(takes), left);
    request.metadata_mut().insert("weft-tenant", tonic::metadata::MetadataValue::from_static(tenant));
    let answer = within(Deadline::after(began, left), caller.inference().model_infer(request)).await;
    let now = SystemClock::now();
    match answer.map_err(|status| (status.code(), weft_proto::error_of(&status).reason())) {
        Ok(_) if now <= at + DEADLINE => Ending::Met(now - at, now),
        Ok(_) => Ending::Late,
        Err((Code::ResourceExhausted, _) | (_, weft_types::Reason::DeadlineInfeasible)) => Ending::Refused(now - began),
        Err((Code::DeadlineExceeded | Code::Cancelled, _)) => Ending::Expired,
        Err(_) => Ending::Other,
    }
}
