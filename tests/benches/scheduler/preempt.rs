//! How long a realtime model waits for the place of a batch model that is in use: from the request that applies it to its first answer, over a
//! real etcd. The batch model is stopped at its next yield point, unloaded, and comes back when the realtime model has gone; its calls are
//! held by the router meanwhile. Beside it the same where the model in its way is of the standard priority, and so finishes what it runs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use weft_proto::inference::ModelInferRequest;
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::{ApplyModelRequest, DeleteModelRequest, Model, Priority};
use weft_tests::calls::{Caller, identity, sleep, until};
use weft_tests::etcd::Etcd;
use weft_tests::goal::Goal;
use weft_tests::load::Load;
use weft_tests::load::closed::Slice;
use weft_tests::process::Weft;
use weft_tests::tools;
use weft_types::SystemClock;

use super::generate::{self, GEMMA, prompt};
use super::switch;

/// The realtime model.
const URGENT: &str = "identity";
/// What calls of the model in its way take, and what they have.
const TAKES_MS: u32 = 2_000;
const LIMIT: Duration = Duration::from_secs(120);
/// Tokens of a batch generation, and how many run.
const TOKENS: usize = 100;
const SLOTS: usize = 4;
const CALLERS: usize = 64;
/// What a switch of models is asked to take.
const GOAL_MS: f64 = 18.0;

/// Processes on one etcd; ended when dropped.
struct Fleet {
    caller: Caller,
    _processes: [Weft; 3],
    _etcd: Etcd,
}

impl Fleet {
    async fn start(models: &Path) -> Result<Self> {
        let etcd = Etcd::start().await?;
        let start = |command, flags: &[&str]| Weft::start(command, &[&["--etcd", &etcd.client_url], flags].concat());
        let scheduler = start("scheduler", &["--id", "scheduler-1", "--auto", "false"])?;
        let worker = start("worker", &["--id", "worker-1", "--models", &models.display().to_string()])?;
        let router = start("router", &["--id", "router-1"])?;
        let caller = Caller::new(&router.address)?;
        caller.first_worker().await?;
        Ok(Self { caller, _processes: [scheduler, worker, router], _etcd: etcd })
    }

    async fn apply(&self, name: &str, priority: Priority, anti_affinity: Vec<String>) -> Result<()> {
        let (name, priority) = (name.to_owned(), priority.into());
        let model = Model { name, replicas: 1, priority, anti_affinity, ..Model::default() };
        ModelsClient::new(self.caller.channel.clone()).apply_model(ApplyModelRequest { model: Some(model) }).await?;
        Ok(())
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let unwanted = DeleteModelRequest { name: name.to_owned() };
        ModelsClient::new(self.caller.channel.clone()).delete_model(unwanted).await?;
        Ok(())
    }

    /// So many switches from a model that is in use, each after some of its calls have been answered, and back.
    async fn switches(&self, of: (&str, Priority), load: &Load, rounds: usize) -> Result<Slice> {
        self.apply(of.0, of.1, Vec::new()).await?;
        let mut took = Vec::new();
        for _ in 0..rounds {
            self.caller.wait_ready(of.0).await?;
            load.pass(1).await?;
            let began = SystemClock::now();
            self.apply(URGENT, Priority::Realtime, vec![of.0.to_owned()]).await?;
            self.caller.infer(identity(4), LIMIT).await?;
            took.push(SystemClock::now().saturating_duration_since(began));
            self.delete(URGENT).await?;
        }
        self.caller.wait_ready(of.0).await?;
        Ok(Slice::lasting(Duration::ZERO, took))
    }

    /// Switches under load, in milliseconds, p50 and the most, and what of its calls was answered.
    async fn measure(
        &self,
        of: (&str, Priority),
        (message, callers): (&ModelInferRequest, usize),
        rounds: usize,
    ) -> Result<(f64, f64, u64)> {
        let load = Load::start(std::slice::from_ref(&self.caller), message, callers, LIMIT);
        let took = self.switches(of, &load, rounds).await?;
        let outcome = load.stop().await?;
        ensure!(outcome.failures.is_empty(), "calls of {} have failed: {:?}", of.0, outcome.failures.first());
        self.delete(of.0).await?;
        until("the model to go", async || self.caller.wait_readiness(of.0, false).await.is_ok()).await?;
        Ok((took.percentile_us(50) / 1e3, took.percentile_us(100) / 1e3, outcome.answered))
    }
}

/// Runs it: `full` with twenty switches each.
pub(crate) async fn run(full: bool, tell: fn(&str) -> Result<()>) -> Result<Vec<Goal>> {
    let repository = tempfile::tempdir()?;
    let has_language = tools::models().join(GEMMA).is_dir();
    if has_language {
        switch::lay_out(repository.path())?;
    }
    let fleet = Fleet::start(repository.path()).await?;
    let rounds = if full { 20 } else { 3 };
    let (mut text, mut goals) = (String::new(), Vec::new());
    let calls = (&sleep(TAKES_MS), CALLERS);
    let (stopped, most, answered) = fleet.measure(("sleep", Priority::Batch), calls, rounds).await?;
    let (drained, ..) = fleet.measure(("sleep", Priority::Unspecified), calls, rounds.min(5)).await?;
    writeln!(
        text,
        "preempt: {rounds} times a realtime model takes the place of `sleep`, whose {CALLERS} callers have {TAKES_MS} ms each: its first answer \
         after {stopped:.1} ms (p50; {most:.1} at most), {drained:.0} ms where it waits for them; {answered} calls of the batch model answered, \
         none failed"
    )?;
    goals.push(Goal::at_most("preempt_sleep_p50_ms", GOAL_MS, stopped));
    if has_language {
        let generation = generate::request(&prompt(1, 8), TOKENS);
        let of = (GEMMA, Priority::Batch);
        let (stopped, most, answered) = fleet.measure(of, (&generation, SLOTS), rounds.min(10)).await?;
        writeln!(
            text,
            "preempt: the same with {GEMMA}, whose {SLOTS} callers generate {TOKENS} tokens each: {stopped:.1} ms (p50; {most:.1} at most); \
             {answered} generations answered, none failed"
        )?;
        goals.push(Goal::at_most("preempt_llama_p50_ms", GOAL_MS, stopped));
    } else {
        goals.push(Goal::missing("preempt_llama_p50_ms"));
    }
    tell(&text)?;
    Ok(goals)
}
