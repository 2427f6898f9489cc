//! Transitions that cannot be written at once, and values that are out of reach for a while.

use std::path::PathBuf;

use weft_journal::Payloads;
use weft_runtime::Call;
use weft_types::Deadline;

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Two signals, one after the other: the first one's coming is a transition of a job that goes on.
fn two_signals(timeout: Option<prost_types::Duration>) -> SubmitJobRequest {
    let wait =
        |name: &str, needs: &[&str]| json!({ "name": name, "needs": needs, "action": { "wait": { "name": name } } });
    SubmitJobRequest { timeout, ..asked(&json!([wait("go", &[]), wait("more", &["go"])]), "") }
}

fn go(job: &Job) -> Request<SignalJobRequest> {
    request(SignalJobRequest { id: job.id.clone(), name: "go".into(), value: None })
}

/// The state in which a job ended, why, and its output.
async fn end(jobs: &Jobs, id: &str) -> (JobState, String, Option<prost_types::Value>) {
    let last = told(jobs, id, 0).await.pop().expect("something").expect("its end");
    (last.state(), last.failure, last.output)
}

/// What a store that is nearly full does not take waits, and the job can be undone all the same.
#[tokio::test]
async fn jobs_turn_back_while_there_is_room_only_for_that() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let cancelled = submit(&jobs, &two_signals(None)).await;
    let goes_on = submit(&jobs, &two_signals(None)).await;
    let late = submit(&jobs, &two_signals(seconds(2))).await;
    store.is_full.store(true, Ordering::SeqCst);
    let undone = async {
        store.arrived.notified().await;
        let cancel = CancelJobRequest { id: cancelled.id.clone(), ..CancelJobRequest::default() };
        jobs.cancel_job(request(cancel)).await.expect("taken");
        end(&jobs, &cancelled.id).await
    };
    let both = async { tokio::join!(jobs.signal_job(go(&cancelled)), undone) };
    let (signalled, (state, why, _)) = tokio::time::timeout(PATIENCE, both).await.expect("it turns back");
    assert_eq!((signalled.is_ok(), state), (true, JobState::Compensated), "{why}");
    let others = async {
        // It is taken with the transition that waits, or finds a job that has ended.
        let _ = jobs.signal_job(go(&late)).await;
        let (state, why, _) = end(&jobs, &late.id).await;
        assert_eq!((state, why.starts_with("DEADLINE_EXCEEDED")), (JobState::Compensated, true), "{why}");
        let waits = get(&jobs, &goes_on.id).await.expect("known");
        assert_eq!((waits.state(), waits.revision), (JobState::Running, goes_on.revision), "it is not in the log");
        store.is_full.store(false, Ordering::SeqCst);
    };
    let both = async { tokio::join!(jobs.signal_job(go(&goes_on)), others) };
    let (signalled, ()) = tokio::time::timeout(PATIENCE, both).await.expect("the deadline is looked at");
    let told = signalled.expect("taken when there was room").into_inner().job.expect("a job");
    assert_eq!(told.steps[0].state(), StepState::Done, "{told:?}");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// A folder that can be taken away and put back.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self) -> Options {
        let place = self.path("values").display().to_string();
        let jobs = JobOptions { payloads: Payloads::named(&place, "test").expect("a folder"), ..options().jobs };
        Options { jobs, ..Options::default() }
    }

    fn take_away(&self) {
        std::fs::rename(self.path("values"), self.path("away")).expect("it is there");
        // What is no folder can neither be read nor made.
        std::fs::write(self.path("values"), "").expect("room");
    }

    fn put_back(&self) {
        std::fs::remove_file(self.path("values")).expect("it is there");
        std::fs::rename(self.path("away"), self.path("values")).expect("it is there");
    }
}

/// A job with a value for which the record has no room, once it waits for its signal; and the value.
async fn begun(jobs: &Jobs, rest: &[Value], timeout: Option<prost_types::Duration>) -> (Job, String) {
    let text = "x".repeat(5_000);
    let mut steps = vec![
        json!({ "name": "long", "action": { "compute": { "value": text } } }),
        json!({ "name": "go", "needs": ["long"], "action": { "wait": { "name": "go" } } }),
    ];
    steps.extend_from_slice(rest);
    let definition = Some(message(json!({ "name": "j", "steps": steps, "output": "$steps.long" })));
    let job = submit(jobs, &SubmitJobRequest { definition, timeout, ..SubmitJobRequest::default() }).await;
    let waits = async {
        while get(jobs, &job.id).await.expect("known").steps[1].state() != StepState::Running {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("the value is kept");
    (job, text)
}

fn text(text: String) -> Option<prost_types::Value> {
    Some(prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) })
}

#[tokio::test]
async fn a_condition_is_looked_at_when_its_values_are_back_or_until_the_deadline() {
    let folder = Folder::new();
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", folder.options());
    let jobs = scheduler.jobs.clone();
    let look = json!({
        "name": "look", "needs": ["go"], "when": { "left": "$steps.long" }, "action": { "compute": { "value": 1 } },
    });
    let (late, _) = begun(&jobs, std::slice::from_ref(&look), seconds(2)).await;
    let (patient, long) = begun(&jobs, &[look], None).await;
    folder.take_away();
    for job in [&late, &patient] {
        jobs.signal_job(go(job)).await.expect("taken");
    }
    let (state, why, _) = end(&jobs, &late.id).await;
    assert_eq!((state, why.as_str()), (JobState::Compensated, "DEADLINE_EXCEEDED: the job's deadline has passed"));
    assert_eq!(get(&jobs, &patient.id).await.expect("known").state(), JobState::Running);
    folder.put_back();
    assert_eq!(end(&jobs, &patient.id).await, (JobState::Completed, String::new(), text(long)));
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_job_ends_when_its_output_can_be_made() {
    let folder = Folder::new();
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", folder.options());
    let jobs = scheduler.jobs.clone();
    let (job, long) = begun(&jobs, &[], None).await;
    folder.take_away();
    let mut signal = go(&job);
    let call = signal.extensions_mut().get_mut::<Call>().expect("a call");
    call.deadline = Deadline::after(SystemClock::now(), Duration::from_millis(500));
    let unwritten = jobs.signal_job(signal).await.expect_err("nothing is answered that is not in the log");
    assert_eq!(unwritten.code(), Code::DeadlineExceeded, "{unwritten}");
    // What is asked of it meanwhile is answered with its end.
    let cancel = CancelJobRequest { id: job.id.clone(), ..CancelJobRequest::default() };
    let (cancelled, ended) = tokio::join!(jobs.cancel_job(request(cancel)), async {
        settle().await;
        folder.put_back();
        end(&jobs, &job.id).await
    });
    assert_eq!(cancelled.expect_err("it has ended").code(), Code::FailedPrecondition);
    assert_eq!(ended, (JobState::Completed, String::new(), text(long)));
    assert!(!jobs.0.waits.allows(SystemClock::now()), "every job that waits would say so each time");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// Both what a step reads and what it makes: neither costs it its attempts.
#[tokio::test]
async fn a_step_waits_for_its_values_for_as_long_as_it_has_time() {
    let folder = Folder::new();
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", folder.options());
    let jobs = scheduler.jobs.clone();
    let step = |name: &str, value: &str, timeout: &str| {
        let retry = json!({ "maxAttempts": 2, "initialBackoff": "0.001s" });
        json!({ "name": name, "needs": ["go"], "timeout": timeout, "retry": retry, "action": { "compute": { "value": value } } })
    };
    let made = "y".repeat(5_000);
    let late = [step("reads", "$steps.long", "0.5s"), step("makes", &made, "0.5s")];
    let late = [begun(&jobs, &late[..1], None).await.0, begun(&jobs, &late[1..], None).await.0];
    let both = [step("reads", "$steps.long", "20s"), step("makes", &made, "20s")];
    let (patient, long) = begun(&jobs, &both, None).await;
    folder.take_away();
    for job in [&patient, &late[0], &late[1]] {
        jobs.signal_job(go(job)).await.expect("taken");
    }
    // By then the patient one has tried more often than it may.
    for (job, name) in late.iter().zip(["reads", "makes"]) {
        let (state, why, _) = end(&jobs, &job.id).await;
        assert_eq!((state, why.contains(name)), (JobState::Compensated, true), "{why}");
        assert_eq!(get(&jobs, &job.id).await.expect("known").steps[2].attempts.len(), 2);
    }
    let waits = get(&jobs, &patient.id).await.expect("known");
    assert!(waits.steps[2..].iter().all(|step| step.attempts.len() == 1), "{waits:?}");
    folder.put_back();
    assert_eq!(end(&jobs, &patient.id).await, (JobState::Completed, String::new(), text(long)));
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
