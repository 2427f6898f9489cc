//! The operations chapter can be typed as it stands.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use weft_proto::weft::control::v1::models_client::ModelsClient;
use weft_proto::weft::control::v1::rollouts_client::RolloutsClient;
use weft_proto::weft::control::v1::{
    ListModelsRequest, ListRolloutsRequest, ModelView, Replica, Rollout, RolloutIntent, RolloutPhase, RolloutStatus,
};
use weft_proto::weft::state::v1::ReplicaState;
use weft_tests::calls::{Caller, until};
use weft_tests::process::Weft;
use weft_tests::tools::tool;
use weft_tests::versions::{FIRST, MODEL, NEXT, repository_of};

use super::cluster::Cluster;

/// A command of the chapter, and what it shows.
struct Step {
    command: String,
    shown: String,
}

/// The commands of every `console` block: lines after `$ `, with those that they are continued on.
fn steps(chapter: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for line in chapter.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => {
                let command = line.strip_prefix("$ ").or(Some(line).filter(|_| continued));
                match (command, steps.last_mut()) {
                    (Some(command), Some(step)) if continued => step.command += &format!("\n{command}"),
                    (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: String::new() }),
                    (None, Some(step)) => step.shown += &format!("{line}\n"),
                    (None, None) => {}
                }
                continued = command.is_some_and(|command| command.ends_with('\\'));
            }
        }
    }
    steps
}

/// The names of a JSON text's fields.
fn names(text: &str) -> BTreeSet<&str> {
    let fields = text.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\":"));
    fields.map(|(name, _)| name).collect()
}

/// Whether everything that was asked for has been done as far as it can be: what the next command shows must not depend on how fast it is
/// typed.
async fn is_settled(caller: &Caller) -> bool {
    let models = ModelsClient::new(caller.channel.clone()).list_models(ListModelsRequest {}).await;
    let rollouts = RolloutsClient::new(caller.channel.clone()).list_rollouts(ListRolloutsRequest {}).await;
    let (Ok(models), Ok(rollouts)) = (models, rollouts) else { return false };
    let rollouts = rollouts.into_inner().rollouts;
    rollouts.iter().all(has_obeyed) && models.into_inner().models.iter().all(|view| is_there(view, &rollouts))
}

fn phase(rollout: &Rollout) -> RolloutPhase {
    rollout.status.as_ref().map_or(RolloutPhase::Unspecified, RolloutStatus::phase)
}

/// Whether a rollout has left its loading, and has ended where it shall.
fn has_obeyed(rollout: &Rollout) -> bool {
    match phase(rollout) {
        RolloutPhase::Promoted | RolloutPhase::RolledBack => true,
        RolloutPhase::Unspecified => false,
        RolloutPhase::Shadowing | RolloutPhase::Canary => {
            !matches!(rollout.intent(), RolloutIntent::Promote | RolloutIntent::Abort)
        }
    }
}

/// Whether every replica of a model that can be had is there, and nothing else.
fn is_there(view: &ModelView, rollouts: &[Rollout]) -> bool {
    let Some(model) = &view.model else { return false };
    let wanted = match (&model.autoscaling, &view.scale) {
        (None, _) => model.replicas as usize,
        (Some(_), Some(scale)) => scale.target as usize,
        (Some(_), None) => return false,
    };
    let of_rollout = |rollout: &Rollout| match phase(rollout) {
        RolloutPhase::Promoted => vec![rollout.canary],
        RolloutPhase::RolledBack => vec![rollout.stable],
        _ => vec![rollout.stable, rollout.canary],
    };
    let led = rollouts.iter().find(|rollout| rollout.model == model.name).map(of_rollout);
    let versions = led.unwrap_or_else(|| model.versions.clone());
    let meant = |version: u64| versions.is_empty() || versions.contains(&version);
    let ready = |one: &&Replica| one.state() == ReplicaState::Ready && meant(one.version);
    let count = view.replicas.iter().filter(ready).count();
    count == view.replicas.len() && (count == wanted * versions.len().max(1) || !view.unplaced_reason.is_empty())
}

/// grpcurl's exit status for the end of a watch: 64 and DEADLINE_EXCEEDED.
const WATCHED: i32 = 68;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_operations_chapter_does_what_it_shows() -> Result<()> {
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("operations.md");
    let steps = steps(&std::fs::read_to_string(chapter)?);
    ensure!(steps.len() >= 20, "only {} commands were found", steps.len());
    let cluster = Cluster::start().await?;
    let _scheduler = cluster.weft("scheduler", "1")?;
    let _metrics = cluster.weft("metrics", "1")?;
    let models = repository_of(&[FIRST, NEXT])?;
    let folder = models.path().to_str().context("a path in UTF-8")?;
    let worker = |id| {
        let etcd = ["--etcd", &cluster.etcd.client_url, "--lease-ttl", "2s"];
        Weft::start("worker", &[&etcd[..], &["--id", id, "--models", folder]].concat())
    };
    let _workers = [worker("worker-1")?, worker("worker-2")?];
    let router = cluster.weft("router", "1")?;
    let caller = Caller::new(&router.address)?;
    for model in ["digits", "identity", MODEL] {
        caller.wait_ready(model).await?;
    }
    let grpcurl = tool("bin/grpcurl")?;
    let folder = grpcurl.parent().context("it is in a folder")?.to_string_lossy().into_owned();
    for Step { command, shown } in steps {
        until("the mesh to settle", async || is_settled(&caller).await).await?;
        let run = || {
            let path = format!("{folder}:/usr/bin:/bin");
            Command::new("sh").args(["-c", &command]).env("PATH", path).env("A", &router.address).output()
        };
        let ended = tokio::task::block_in_place(run)?;
        let told = String::from_utf8_lossy(&ended.stdout);
        let is_watch = command.contains("/Watch") && ended.status.code() == Some(WATCHED);
        ensure!(ended.status.success() || is_watch, "{command}\n{}", String::from_utf8_lossy(&ended.stderr));
        let (shown, found) = (names(&shown), names(&told));
        let missing: Vec<_> = shown.difference(&found).collect();
        ensure!(missing.is_empty(), "{command}\ndoes not tell {missing:?}:\n{told}");
    }
    Ok(())
}
