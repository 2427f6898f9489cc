//! Part B: the same calls from the same generator to Weft, Triton's Python backend, MLServer and Ray Serve.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use weft_engine::digits;
use weft_tests::calls::{Caller, raw};
use weft_tests::goal::Goal;
use weft_tests::load::closed::{self, Case, Expected, Slice};
use weft_tests::load::rounds::Rounds;
use weft_tests::tree;

use super::bare::Bare;
use super::onnx::LENGTH;
use super::peers::{Kind, Peer};
use super::plan::{Plan, Told};
use super::served::{self, BATCHED, DIGITS, IDENTITY, MINILM, Served};
use super::subject::Subject;

const MODELS: [Served; 3] = [IDENTITY, DIGITS, MINILM];
const IN_FLIGHT: [usize; 3] = [1, 8, 64];

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Worker,
    Router,
    Peer(Kind),
    /// MLServer with its batching, which it can only do with a fixed delay.
    MlServerBatched,
    /// Weft's worker once more, beside the peer that keeps the machine busy even when nobody calls.
    WorkerBesideRay,
}

type Cell = (usize, usize, Target);

/// The calls of each model.
type Calls = Vec<Arc<[Case]>>;

/// A server as it is called, and the process at its root.
#[derive(Clone)]
struct Way {
    target: Target,
    caller: Caller,
    root: u32,
    calls: Calls,
}

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("servers");
    served::weft(&repository, &MODELS)?;
    let calls: Calls = vec![
        Arc::new([identity()]),
        digits::heldout().map(|image| classify(&image)).collect(),
        Bare::start(MINILM, plan.threads, &plan.folder)?.cases(1, LENGTH)?,
    ];
    let subject = Subject::start(Some(&repository), plan.threads, &MODELS.map(|model| model.name)).await?;
    let (mut rounds, mut told) = (Rounds::default(), Told::default());
    let root = subject.mesh.id();
    let way = |target, caller: &Caller, root| Way { target, caller: caller.clone(), root, calls: calls.clone() };
    let of_peer = |peer: &Peer| way(Target::Peer(peer.kind), &peer.caller, peer.server.id());
    let mut targets = vec![way(Target::Worker, &subject.worker, root), way(Target::Router, &subject.router, root)];
    let peers = [start(Kind::Triton, plan, &mut told).await?, start(Kind::MlServer, plan, &mut told).await?];
    targets.extend(peers.iter().flatten().map(of_peer));
    if let Some(mlserver) = &peers[1] {
        for model in MODELS {
            mlserver.caller.wait_ready(&format!("{}{BATCHED}", model.name)).await?;
        }
        let calls = calls.iter().map(|cases| served::renamed(cases, BATCHED)).collect();
        targets.push(Way { target: Target::MlServerBatched, calls, ..of_peer(mlserver) });
    }
    measure(plan, &targets, &mut rounds).await?;
    drop(peers);
    if let Some(ray) = start(Kind::Ray, plan, &mut told).await? {
        let targets = [way(Target::WorkerBesideRay, &subject.worker, root), of_peer(&ray)];
        measure(plan, &targets, &mut rounds).await?;
    }
    tell(told, &rounds)
}

/// A peer that cannot be had is told of, and its cells stay empty.
async fn start(kind: Kind, plan: &Plan, told: &mut Told) -> Result<Option<Peer>> {
    match Peer::start(kind, &MODELS, plan.threads, &plan.folder).await {
        Ok(peer) => Ok(Some(peer)),
        Err(reason) => {
            writeln!(told.text, "{} is missing: {reason:#}", kind.name())?;
            Ok(None)
        }
    }
}

async fn measure(plan: &Plan, targets: &[Way], rounds: &mut Rounds<Cell>) -> Result<()> {
    for round in 0..=plan.rounds() {
        for model in 0..MODELS.len() {
            for in_flight in IN_FLIGHT {
                for Way { target, caller, root, calls } in targets {
                    // The round before the first is not counted.
                    let lasting = if round == 0 { Duration::from_millis(100) } else { plan.slice() };
                    let before = tree::processor_time(*root);
                    let slice = closed::run(caller, &calls[model], in_flight, lasting).await;
                    let slice = slice.with_context(|| format!("{target:?}, {in_flight} in flight"))?;
                    let slice = Slice { cpu: Some(tree::processor_time(*root).saturating_sub(before)), ..slice };
                    if round > 0 {
                        rounds.add((model, in_flight, *target), slice);
                    }
                }
            }
        }
    }
    Ok(())
}

fn identity() -> Case {
    let data: Bytes = (0..16).flat_map(|element| (element as f32).to_le_bytes()).collect();
    let request = raw("identity", ("INPUT", "FP32"), &[1, 16], data.clone());
    Case { request, output: "OUTPUT".to_owned(), expected: Expected::Exactly(data) }
}

fn classify(image: &digits::Heldout) -> Case {
    let pixels: Bytes = image.input().into_iter().flat_map(f32::to_le_bytes).collect();
    let expected = Bytes::from(i64::from(image.reference).to_le_bytes().to_vec());
    let request = raw("digits", ("PIXELS", "FP32"), &[1, 64], pixels);
    Case { request, output: "LABEL".to_owned(), expected: Expected::Exactly(expected) }
}

fn tell(mut told: Told, rounds: &Rounds<Cell>) -> Result<Told> {
    let text = &mut told.text;
    writeln!(
        text,
        "{} calls, all answered and right; `times` is how many times as many calls Weft's worker answers; \
         processor time is that of all of a server's processes",
        rounds.calls()
    )?;
    writeln!(text, "model     in flight  server             calls/s     p50 us     p99 us   times  cpu us/call")?;
    let targets = [Target::Worker, Target::Router]
        .into_iter()
        .chain([Target::Peer(Kind::Triton), Target::Peer(Kind::MlServer), Target::MlServerBatched])
        .chain([Target::WorkerBesideRay, Target::Peer(Kind::Ray)]);
    for (model, in_flight) in (0..MODELS.len()).flat_map(|model| IN_FLIGHT.map(|in_flight| (model, in_flight))) {
        for target in targets.clone() {
            let cell = (model, in_flight, target);
            let rate = rounds.median(cell, Slice::calls_per_second);
            if rate.is_finite() {
                writeln!(
                    text,
                    "{:<9} {in_flight:>9}  {:<17} {rate:>8.0} {:>10.0} {:>10.0} {:>7.2} {:>12.0}",
                    MODELS[model].name,
                    name(target),
                    rounds.median(cell, |slice| slice.percentile_us(50)),
                    rounds.median(cell, |slice| slice.percentile_us(99)),
                    rounds.rate_ratio((model, in_flight, beside(target)), cell),
                    rounds.cpu_us(cell).unwrap_or(f64::NAN),
                )?;
            }
        }
    }
    let (triton, mlserver) = (Target::Peer(Kind::Triton), Target::Peer(Kind::MlServer));
    for (kind, settings, least) in
        [(Kind::Triton, vec![triton], 3.0), (Kind::MlServer, vec![mlserver, Target::MlServerBatched], 5.0)]
    {
        for (model, in_flight) in (0..2).flat_map(|model| [8, 64].map(|in_flight| (model, in_flight))) {
            // Against the better of its settings.
            let ratio = |target| rounds.rate_ratio((model, in_flight, Target::Worker), (model, in_flight, target));
            let ratio = settings.iter().map(|target| ratio(*target)).fold(f64::NAN, f64::min);
            let name = format!("{}_{in_flight}_in_flight_to_{}", MODELS[model].name, kind.name());
            told.goals.push(Goal::at_least(name, least, ratio));
        }
    }
    Ok(told)
}

/// Weft's worker as it was measured beside a target.
fn beside(target: Target) -> Target {
    match target {
        Target::Peer(Kind::Ray) | Target::WorkerBesideRay => Target::WorkerBesideRay,
        _ => Target::Worker,
    }
}

fn name(target: Target) -> &'static str {
    match target {
        Target::Worker => "weft worker",
        Target::Router => "weft router",
        Target::Peer(kind) => kind.name(),
        Target::MlServerBatched => "mlserver, batches",
        Target::WorkerBesideRay => "weft beside ray",
    }
}
