//! Operators cordon, drain and watch, by grpcurl.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::calls::{Caller, identity, until};
use weft_tests::load::Load;
use weft_tests::tools::tool;

use super::cluster::{Cluster, LIMIT, ready_on};

/// How long a watch may stay open: longer than any test.
const WATCH: &str = "120";

/// One call; what grpcurl says is the error.
fn grpcurl(address: &str, method: &str, data: &Value) -> Result<Value> {
    let method = format!("weft.control.v1.{method}");
    let (program, data) = (tool("bin/grpcurl")?, data.to_string());
    let call = || Command::new(program).args(["-plaintext", "-d", &data, address, &method]).output();
    let ended = tokio::task::block_in_place(call)?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// A watch of events as grpcurl shows it. Dropping it ends it.
struct Watch {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watch {
    fn start(address: &str, data: &Value) -> Result<Self> {
        let mut child = Command::new(tool("bin/grpcurl")?)
            .args(["-plaintext", "-max-time", WATCH, "-d", &data.to_string(), address])
            .arg("weft.control.v1.Events/WatchEvents")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        Ok(Self { child, lines })
    }

    /// Reads on to a line that holds this text.
    fn until(&mut self, text: &str) -> Result<()> {
        tokio::task::block_in_place(|| {
            for line in self.lines.by_ref() {
                if line?.contains(text) {
                    return Ok(());
                }
            }
            bail!("the watch ended before it told of {text}")
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker as it is listed.
fn listed(address: &str, id: &str) -> Result<Value> {
    let workers = grpcurl(address, "Workers/ListWorkers", &json!({}))?;
    let views = workers["workers"].as_array().cloned().unwrap_or_default();
    views.into_iter().find(|view| view["worker"]["id"] == id).context("the worker is listed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_drained_under_load_and_then_goes_at_once() -> Result<()> {
    let cluster = Cluster::start().await?;
    let scheduler = cluster.weft("scheduler", "1")?;
    let mut worker = cluster.weft("worker", "1")?;
    let router = cluster.weft("router", "1")?;
    let (address, caller) = (&router.address, Caller::new(&router.address)?);
    caller.wait_ready("identity").await?;
    let load = Load::start(std::slice::from_ref(&caller), &identity(16), 4, LIMIT);
    load.pass(100).await?;

    // The only worker: what it holds stays, and says why.
    let view = &grpcurl(address, "Workers/DrainWorker", &json!({"id": "worker-1", "by": "ann", "reason": "new disk"}))?
        ["worker"];
    assert_eq!(
        (&view["cordoned"], &view["draining"], &view["drained"]),
        (&json!(true), &json!(true), &Value::Null),
        "{view}"
    );
    let mut stays = Value::Null;
    until("the reason why it stays", async || {
        let view = listed(address, "worker-1").unwrap_or_default();
        stays = view["replicas"][0]["stays"].clone();
        stays.is_string()
    })
    .await?;
    assert_eq!(stays, "the workers that could take it are cordoned");
    load.pass(100).await?;

    let begun = grpcurl(address, "Events/ListEvents", &json!({"limit": 1}))?["resumeToken"].clone();
    let asked = json!({"resume_token": begun, "subject_prefix": "workers/", "reasons": ["WorkerDrained"]});
    let mut watch = Watch::start(address, &asked)?;
    let successor = cluster.weft("worker", "2")?;
    watch.until("WorkerDrained")?;
    let view = listed(address, "worker-1")?;
    assert_eq!(
        (&view["drained"], &view["replicas"], &view["replicasLeft"]),
        (&json!(true), &Value::Null, &Value::Null),
        "{view}"
    );
    assert_eq!((&view["cordon"]["by"], &view["cordon"]["reason"]), (&json!("ann"), &json!("new disk")));
    assert_eq!(ready_on(&caller, "identity").await, ["worker-2"]);

    // It holds nothing, so its own drain has nothing to wait for.
    worker.signal("TERM")?;
    assert_eq!(worker.wait().await?.code(), Some(0), "{}", worker.log());
    assert!(!worker.log().contains("grace is over"), "{}", worker.log());
    load.pass(100).await?;
    let outcome = load.stop().await?;
    assert_eq!(outcome.failures, Vec::<String>::new(), "of {} calls", outcome.answered);

    // A restart does not undo it; an operator does.
    drop(worker);
    let restarted = cluster.weft("worker", "1")?;
    until("the worker to be back", async || listed(address, "worker-1").is_ok()).await?;
    assert_eq!(listed(address, "worker-1")?["drained"], json!(true));
    let view = &grpcurl(address, "Workers/UncordonWorker", &json!({"id": "worker-1"}))?["worker"];
    assert_eq!((&view["cordoned"], &view["draining"]), (&Value::Null, &Value::Null), "{view}");
    let unknown = grpcurl(address, "Workers/DrainWorker", &json!({"id": "worker-9"})).expect_err("unknown").to_string();
    assert!(unknown.contains("NotFound") && unknown.contains("worker-9"), "{unknown}");
    drop((scheduler, successor, restarted));
    Ok(())
}

/// What happened is told to whoever resumes, by whichever scheduler is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_events_goes_on_at_the_next_scheduler() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut first = cluster.weft("scheduler", "1")?;
    let router = cluster.weft("router", "1")?;
    let (address, caller) = (&router.address, Caller::new(&router.address)?);
    let mut begun = Value::Null;
    until("the leader to be told", async || {
        let listed = grpcurl(address, "Events/ListEvents", &json!({})).unwrap_or_default();
        begun = listed["resumeToken"].clone();
        listed["events"].to_string().contains("LeaderElected")
    })
    .await?;
    let mut watch =
        Watch::start(address, &json!({"resume_token": begun, "reasons": ["ReplicasPlaced", "LeaderElected"]}))?;
    let worker = cluster.weft("worker", "1")?;
    watch.until("models/identity")?;
    let second = cluster.weft("scheduler", "2")?;
    caller.wait_ready("identity").await?;
    first.kill()?;
    until("the second to lead", async || {
        let listed = grpcurl(address, "Events/ListEvents", &json!({})).unwrap_or_default();
        listed["events"].to_string().contains("services/scheduler/scheduler-2")
    })
    .await?;
    let mut resumed = Watch::start(address, &json!({"resume_token": begun}))?;
    resumed.until("models/identity")?;
    resumed.until("services/scheduler/scheduler-2")?;
    drop((second, worker));
    Ok(())
}
