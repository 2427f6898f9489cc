//! What callers are told: of keys, bounds, deadlines, and of what a job is doing.

use weft_proto::weft::state::v1 as state;
use weft_runtime::Call;
use weft_telemetry::TraceContext;
use weft_types::Deadline;

use super::*;

#[tokio::test]
async fn a_key_stands_for_the_whole_request() {
    let store = Gate::new();
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let first = asked(&waiting(), "one");
    let job = submit(&jobs, &first).await;
    assert_eq!(submit(&jobs, &first).await.id, job.id);
    let input = prost_types::Struct { fields: [("x".to_owned(), prost_types::Value::default())].into() };
    let timeout = prost_types::Duration { seconds: 60, nanos: 0 };
    for other in [
        SubmitJobRequest { input: Some(input), ..first.clone() },
        SubmitJobRequest { timeout: Some(timeout), ..first.clone() },
        asked(&json!([{ "name": "wait", "action": { "wait": { "name": "stop" } } }]), "one"),
    ] {
        let refused = jobs.submit_job(request(other)).await.expect_err("another request");
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::AlreadyExists, Some("key")), "{refused}");
    }
    let text = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("x".repeat(300_000))) };
    let input = prost_types::Struct { fields: [("x".to_owned(), text)].into() };
    let long = SubmitJobRequest { input: Some(input), ..asked(&waiting(), "") };
    let refused = jobs.submit_job(request(long)).await.expect_err("it is too long");
    assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some("input")), "{refused}");
    // Two at once, neither of which finds the key taken when it looks.
    store.open.send_replace(false);
    let other = json!([{ "name": "wait", "action": { "wait": { "name": "stop" } } }]);
    let both = async {
        let (one, two) = (asked(&waiting(), "two"), asked(&other, "two"));
        tokio::join!(jobs.submit_job(request(one)), jobs.submit_job(request(two)))
    };
    let open = async {
        store.arrived.notified().await;
        settle().await;
        store.open.send_replace(true);
    };
    let ((one, two), ()) = tokio::join!(both, open);
    let refused = one.err().into_iter().chain(two.err()).collect::<Vec<_>>();
    assert_eq!(refused.iter().map(Status::code).collect::<Vec<_>>(), [Code::AlreadyExists], "{refused:?}");
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn one_job_more_than_there_may_be_is_refused() {
    let cluster = Cluster::new();
    let few = Options { jobs: JobOptions { max_open: 2, ..options().jobs }, ..options() };
    let (scheduler, running) = cluster.scheduler("s1", few);
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "")).await;
    submit(&jobs, &asked(&waiting(), "")).await;
    let refused = jobs.submit_job(request(asked(&waiting(), ""))).await.expect_err("one more");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(error_of(&refused).pushback().is_some(), "{refused}");
    signal(&jobs, &job.id).await.expect("it goes on");
    end(&jobs, &job.id).await;
    eventually("room for another one", async || jobs.submit_job(request(asked(&waiting(), ""))).await.is_ok()).await;
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// However few jobs there are. Jobs of one definition share it, and what has ended makes room.
#[tokio::test]
async fn definitions_of_open_jobs_have_so_much_room() {
    let cluster = Cluster::new();
    let named = |name: &str| asked(&json!([{ "name": name, "action": { "wait": { "name": "go" } } }]), "");
    let (first, second, third) = (named("a"), named("b"), named("c"));
    let bytes = super::super::definition::definition_of(&first, &Targets::loopback()).expect("it is one").encoded.len();
    let few = Options { jobs: JobOptions { max_definition_bytes: 2 * bytes, ..options().jobs }, ..options() };
    let (scheduler, running) = cluster.scheduler("s1", few);
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &first).await;
    for asked in [&first, &second, &second] {
        submit(&jobs, asked).await;
    }
    let refused = jobs.submit_job(request(third.clone())).await.expect_err("one more");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(error_of(&refused).pushback().is_some(), "{refused}");
    signal(&jobs, &job.id).await.expect("it goes on");
    end(&jobs, &job.id).await;
    assert!(jobs.submit_job(request(third.clone())).await.is_err(), "another job has the same definition");
    for job in jobs.list_jobs(request(ListJobsRequest::default())).await.expect("a listing").into_inner().jobs {
        if job.state() == JobState::Running {
            cancel(&jobs, &job.id).await.expect("it is undone");
        }
    }
    eventually("room for it", async || jobs.submit_job(request(third.clone())).await.is_ok()).await;
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// Whoever cannot wait for the log is told so, and the verb may be in the log all the same.
#[tokio::test]
async fn a_verb_waits_no_longer_than_its_deadline() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let steps = json!([
        { "name": "wait", "action": { "wait": { "name": "go" } } },
        { "name": "call", "needs": ["wait"], "effect": "EFFECT_PURE", "action": call(&address, "m") },
    ]);
    let job = submit(&jobs, &asked(&steps, "")).await;
    store.open.send_replace(false);
    let mut brief = Request::new(SignalJobRequest { id: job.id.clone(), name: "go".into(), value: None });
    let (now, trace) = (SystemClock::now(), TraceContext::new([1; 16], [1; 8], false).expect("not zero"));
    let deadline = Deadline::after(now, Duration::from_millis(50));
    brief.extensions_mut().insert(Call { deadline, received: now, trace });
    let late = tokio::time::timeout(PATIENCE, jobs.signal_job(brief)).await.expect("it is answered in time");
    assert_eq!(late.expect_err("nothing is in the log").code(), Code::DeadlineExceeded);
    assert_eq!(get(&jobs, &job.id).await.expect("it is there").state(), JobState::Running, "shown before the commit");
    assert_eq!(witness.calls.load(Ordering::SeqCst), 0, "begun before the commit");
    store.open.send_replace(true);
    assert_eq!(end(&jobs, &job.id).await.state(), JobState::Completed);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_job_is_shown_with_what_it_holds_and_why_it_failed() {
    let cluster = Cluster::new();
    let offer = state::Worker { slots: [("gpu".to_owned(), 1)].into(), ..state::Worker::default() };
    cluster.put(format!("{}workers/w1", cluster.keys.root()), &offer).await;
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let steps = json!([
        { "name": "slot", "action": { "reserve": { "pools": [{ "pool": "gpu" }] } } },
        { "name": "wait", "needs": ["slot"], "timeout": "90s", "action": { "wait": { "name": "go" } } },
    ]);
    let job = submit(&jobs, &asked(&steps, "")).await;
    eventually("the slot", async || {
        get(&jobs, &job.id).await.expect("it is there").steps[0].state() == StepState::Done
    })
    .await;
    let shown = get(&jobs, &job.id).await.expect("it is there");
    assert_eq!((shown.scheduler.as_str(), &shown.steps[0].slots[..]), ("s1", &["gpu/w1/0".to_owned()][..]));
    let budget = shown.steps[1].attempts[0].budget.expect("it has one");
    assert_eq!((budget.seconds, shown.steps[1].state()), (90, StepState::Running));
    cancel(&jobs, &job.id).await.expect("it is undone");
    let ended = end(&jobs, &job.id).await;
    assert_eq!((ended.state(), ended.scheduler.as_str()), (JobState::Compensated, ""));
    assert_eq!((ended.failure.as_str(), ended.steps[0].slots.len()), ("CANCELLED: enough", 0));
    assert_eq!(cancel(&jobs, &job.id).await.expect_err("it has ended").code(), Code::FailedPrecondition);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn verbs_name_their_step_and_their_reason() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let job = submit(&jobs, &asked(&waiting(), "")).await;
    let ask = |verb: Verb, step: &str, reason: &str| ResolveJobRequest {
        id: job.id.clone(),
        verb: verb.into(),
        step: step.to_owned(),
        reason: reason.to_owned(),
        ..ResolveJobRequest::default()
    };
    for (bad, field) in [
        (ask(Verb::Unspecified, "", "why"), "verb"),
        (ask(Verb::Skip, "wait", " "), "reason"),
        (ask(Verb::Skip, "gone", "why"), "step"),
        (ask(Verb::Retry, "gone", ""), "step"),
        (ask(Verb::Abandon, "", ""), "reason"),
    ] {
        let refused = jobs.resolve_job(request(bad)).await.expect_err(field);
        assert_eq!((refused.code(), error_of(&refused).field()), (Code::InvalidArgument, Some(field)), "{refused}");
    }
    for sound in [ask(Verb::Retry, "wait", ""), ask(Verb::Skip, "wait", "why"), ask(Verb::Abandon, "", "why")] {
        let refused = jobs.resolve_job(request(sound)).await.expect_err("nothing is stuck");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    for (verb, is_paused) in [(Verb::Pause, true), (Verb::Resume, false)] {
        let told = jobs.resolve_job(request(ask(verb, "", ""))).await.expect("it is taken").into_inner();
        assert_eq!(told.job.expect("a job").paused, is_paused);
    }
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

#[tokio::test]
async fn a_page_goes_on_where_the_last_one_ended() {
    let cluster = Cluster::new();
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let mut ids = Vec::new();
    for number in 0..5 {
        let asked = SubmitJobRequest { tenant: ["a", "b"][number % 2].to_owned(), ..asked(&waiting(), "") };
        ids.push(submit(&jobs, &asked).await.id);
    }
    for id in &ids[..2] {
        signal(&jobs, id).await.expect("it goes on");
        end(&jobs, id).await;
    }
    whole(&jobs).await;
    let list = async |asked: ListJobsRequest| jobs.list_jobs(request(asked)).await.expect("a listing").into_inner();
    let named = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>();
    let all = named(list(ListJobsRequest::default()).await.jobs);
    assert_eq!(all.len(), 5);
    let (mut paged, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = list(ListJobsRequest { page_size: 2, page_token, ..ListJobsRequest::default() }).await;
        assert!(page.jobs.len() <= 2, "{page:?}");
        paged.extend(named(page.jobs));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all);
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let of_a = list(ListJobsRequest { tenant: "a".to_owned(), ..ListJobsRequest::default() }).await;
    assert_eq!(sorted(named(of_a.jobs)), sorted(vec![ids[0].clone(), ids[2].clone(), ids[4].clone()]));
    let ended = ListJobsRequest { states: vec![JobState::Completed.into()], ..ListJobsRequest::default() };
    assert_eq!(sorted(named(list(ended).await.jobs)), sorted(ids[..2].to_vec()));
    let other = ListJobsRequest { definition: "other".to_owned(), ..ListJobsRequest::default() };
    assert_eq!(list(other).await.jobs, []);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}

/// What a call may take is the step's timeout, and what is not wanted any more ends while its job goes on.
#[tokio::test]
async fn a_call_is_told_its_time_and_ends_when_nobody_wants_it() {
    let (store, tasks) = (Gate::new(), Tasks::new());
    let (witness, address) = Witness::serve(&store, &tasks).await;
    let cluster = Cluster::over(Arc::clone(&store) as _);
    let (scheduler, running) = cluster.scheduler("s1", options());
    let jobs = scheduler.jobs.clone();
    let steps = json!([
        { "name": "slow", "effect": "EFFECT_PURE", "timeout": "60s", "action": call(&address, "slow") },
        { "name": "quick", "action": { "wait": { "name": "go" } } },
        { "name": "wait", "needs": ["slow", "quick"], "join": "JOIN_ANY", "action": { "wait": { "name": "never" } } },
    ]);
    let job = submit(&jobs, &asked(&steps, "")).await;
    witness.called(1).await;
    let told = weft_types::timeout::parse(witness.heard("grpc-timeout")[0].as_bytes()).expect("a duration");
    assert!(told <= Duration::from_secs(60), "{told:?}");
    signal(&jobs, &job.id).await.expect("it goes on");
    let ended = async { witness.left.subscribe().wait_for(|left| *left == 1).await.is_ok() };
    assert!(tokio::time::timeout(PATIENCE, ended).await.expect("the call ends"));
    assert_eq!(get(&jobs, &job.id).await.expect("it is there").state(), JobState::Running);
    running.finish(PATIENCE).await;
    assert!(!running.failed());
}
