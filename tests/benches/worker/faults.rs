//! Part G: an engine's process dies, stands still or outgrows its limit under load. The other models' calls must not notice.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_proto::inference::model_infer_request::InferInputTensor;
use weft_proto::inference::{ModelInferRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use weft_tests::calls::{Caller, PATIENCE, raw, until};
use weft_tests::goal::Goal;
use weft_tests::load::closed::Case;
use weft_types::SystemClock;

use super::bare::Bare;
use super::onnx::LENGTH;
use super::plan::{Plan, Told};
use super::served::{self, MAGIKA, MINILM, MOST_ROWS};
use super::subject::Subject;

/// What every call gets. A process that stands still is found by a deadline that passes.
const LIMIT: Duration = Duration::from_secs(2);

/// What an engine's process may take beyond its model, so that a batch of long texts is too much for it.
const LITTLE: &str = "64MiB";
/// Tokens of such a text, the most that the model takes.
const LONGEST: usize = 512;

/// What befalls the process.
enum Fault {
    Signal(Signal),
    /// A call that takes more memory than there may be.
    Growth(Box<ModelInferRequest>),
}

/// The calls to one model under load, by when they ended.
struct Calls {
    model: &'static str,
    ended: Vec<(Instant, bool)>,
}

/// Calls without pause until it is stopped, by model.
struct Load {
    stop: CancellationToken,
    callers: JoinSet<Calls>,
}

pub(crate) async fn run(plan: &Plan) -> Result<Told> {
    let repository = plan.folder.join("faults");
    served::weft(&repository, &[MAGIKA, MINILM])?;
    let mut cases = vec![("identity", Arc::from([small()]))];
    for model in [MAGIKA, MINILM] {
        cases.push((model.name, Bare::start(model, plan.threads, &plan.folder)?.cases(1, LENGTH)?));
    }
    let models: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let subject = Subject::start(Some(&repository), plan.threads, &models).await?;
    let mut told = Told::default();
    if subject.children().is_empty() {
        writeln!(
            told.text,
            "the models run on {}, in the worker's own process: there is no process to lose",
            subject.engine(MINILM.name).await?
        )?;
        told.goals.extend(
            ["kill", "stop", "growth"].map(|fault| Goal::missing(format!("engine_{fault}_failed_calls_of_others"))),
        );
        return Ok(told);
    }
    writeln!(told.text, "failed calls while one model's process is lost, and the time until it answers again")?;
    for (name, fault) in [("kill", Fault::Signal(Signal::KILL)), ("stop", Fault::Signal(Signal::STOP))] {
        let lost = lose(&subject, &cases, (MAGIKA.name, &fault)).await.with_context(|| subject.mesh.log())?;
        tell(&mut told, name, &lost)?;
    }
    drop(subject);
    let limits = ["--worker-engine-memory", LITTLE];
    let subject = Subject::start_with(&limits, Some(&repository), plan.threads, &models).await?;
    let growth = Fault::Growth(Box::new(giant()));
    let lost = lose(&subject, &cases, (MINILM.name, &growth)).await.with_context(|| subject.mesh.log())?;
    tell(&mut told, "growth", &lost)?;
    Ok(told)
}

/// Failed calls of the model that has lost its process and of the others, and how long it was away.
struct Lost {
    own: usize,
    others: usize,
    back: Duration,
}

fn tell(told: &mut Told, name: &str, lost: &Lost) -> Result<()> {
    let Lost { own, others, back } = lost;
    writeln!(
        told.text,
        "{name:<7} its own {own:>5}, other models' {others:>3}, back after {:.2} s",
        back.as_secs_f64()
    )?;
    told.goals.push(Goal::at_most(format!("engine_{name}_failed_calls_of_others"), 0.0, *others as f64));
    Ok(())
}

/// A batch of long texts; what would be answered does not matter, as nothing is.
fn giant() -> ModelInferRequest {
    let ones: Bytes = 1_i64.to_le_bytes().repeat(MOST_ROWS * LONGEST).into();
    let shape = [MOST_ROWS, LONGEST].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    let mut request = ModelInferRequest { model_name: MINILM.name.to_owned(), ..Default::default() };
    for input in MINILM.inputs {
        let (name, datatype) = (input.name.to_owned(), input.datatype.to_owned());
        let shape = shape.to_vec();
        request.inputs.push(InferInputTensor { name, datatype, shape, ..Default::default() });
        request.raw_input_contents.push(ones.clone());
    }
    request
}

fn small() -> Case {
    let expected = weft_tests::load::closed::Expected::Exactly(vec![7; 64].into());
    let request = raw("identity", ("INPUT", "FP32"), &[1, 16], vec![7; 64]);
    Case { request, output: "OUTPUT".to_owned(), expected }
}

impl Load {
    fn start(caller: &Caller, cases: &[(&'static str, Arc<[Case]>)]) -> Self {
        let (stop, mut callers) = (CancellationToken::new(), JoinSet::new());
        for (model, cases) in cases {
            for lane in 0..2 {
                let (model, cases, caller, stop) = (*model, Arc::clone(cases), caller.clone(), stop.clone());
                callers.spawn(async move {
                    let mut ended = Vec::new();
                    for case in cases.iter().cycle().skip(lane) {
                        if stop.is_cancelled() {
                            break;
                        }
                        let answer = caller.infer(case.request.clone(), LIMIT).await;
                        let is_right = answer.is_ok_and(|answer| case.check(answer.get_ref()).is_ok());
                        ended.push((SystemClock::now(), is_right));
                    }
                    Calls { model, ended }
                });
            }
        }
        Self { stop, callers }
    }

    async fn stop(mut self) -> Result<Vec<Calls>> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(calls) = self.callers.join_next().await {
            all.push(calls?);
        }
        Ok(all)
    }
}

/// The process of a model, which is the one that goes when the model does; it is loaded again, in another one.
async fn process_of(subject: &Subject, model: &str) -> Result<u32> {
    let mut inference = subject.router.inference();
    let children = || subject.children().into_iter().collect::<BTreeSet<u32>>();
    let all = children();
    let unload = RepositoryModelUnloadRequest { model_name: model.to_owned(), ..Default::default() };
    inference.repository_model_unload(unload).await.context("unload")?;
    until("the model's process to end", async || children().len() < all.len()).await?;
    let others = children();
    let load = RepositoryModelLoadRequest { model_name: model.to_owned(), ..Default::default() };
    inference.repository_model_load(load).await.context("load")?;
    subject.worker.wait_ready(model).await?;
    let own: Vec<u32> = children().difference(&others).copied().collect();
    let [own] = own[..] else { bail!("{model} has {} processes", own.len()) };
    Ok(own)
}

/// Lets a fault happen to a model under load.
async fn lose(subject: &Subject, cases: &[(&'static str, Arc<[Case]>)], (lost, fault): (&str, &Fault)) -> Result<Lost> {
    let victim = process_of(subject, lost).await?;
    let before: BTreeSet<u32> = subject.children().into_iter().collect();
    let load = Load::start(&subject.worker, cases);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let struck = SystemClock::now();
    match fault {
        Fault::Signal(signal) => {
            let id = i32::try_from(victim).ok().and_then(Pid::from_raw).context("a process id")?;
            kill_process(id, *signal)?;
        }
        Fault::Growth(giant) => {
            let answer = subject.worker.infer((**giant).clone(), PATIENCE).await;
            ensure!(answer.is_err(), "a batch of {LONGEST} tokens a text has fitted into {LITTLE}");
        }
    }
    until("the lost process to be replaced", async || {
        let now: BTreeSet<u32> = subject.children().into_iter().collect();
        now.len() >= before.len() && !now.contains(&victim)
    })
    .await?;
    for (model, _) in cases {
        subject.worker.wait_ready(model).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = load.stop().await?;
    let failed = |model: &str| {
        let of_model = calls.iter().filter(|calls| calls.model == model).flat_map(|calls| &calls.ended);
        of_model.filter(|(_, is_right)| !is_right).map(|(at, _)| *at).collect::<Vec<Instant>>()
    };
    let own = failed(lost);
    let others = cases.iter().filter(|(model, _)| *model != lost).map(|(model, _)| failed(model).len()).sum();
    let last = own.iter().max().copied().unwrap_or(struck);
    Ok(Lost { own: own.len(), others, back: last.saturating_duration_since(struck) })
}
