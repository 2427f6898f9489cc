//! Watches of whole schedulers, and what they are asked for.

use std::time::Duration;

use futures_util::StreamExt as _;
use tonic::Code;
use weft_store::Op;
use weft_types::SystemClock;

use super::super::feed::WAITING;
use super::*;
use crate::tests::{Cluster, PATIENCE};
use crate::{Options, Scheduler};

#[test]
fn tokens_read_back_and_nothing_else_does() {
    let token = Token { store: u64::MAX, place: Place::after(12) };
    assert_eq!(token.to_string(), "ffffffffffffffff-12");
    for good in ["ffffffffffffffff-12", "1-0", "1-12.3"] {
        assert_eq!(Token::parse(good).map(|token| token.to_string()), Ok(good.to_owned()));
    }
    let bad = ["-", "1", "1-", "-1", "x-1", "1--1", "01-1", "1-01", "1-99999999999999999999", "1-1 ", "+1-1"];
    for bad in bad.into_iter().chain(["1-1.", "1-.1", "1-1.01", "1-1.-1", "1-1.4294967295", "1-1.1.1"]) {
        assert_eq!(Token::parse(bad).expect_err(bad).field(), Some("resume_token"), "{bad}");
    }
}

#[test]
fn filters_are_all_to_be_met() {
    let asked = |subject_prefix: &str, reasons: &[&str], severity| WatchEventsRequest {
        subject_prefix: subject_prefix.to_owned(),
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        severity,
        ..WatchEventsRequest::default()
    };
    let event =
        |severity| Event { subject: "workers/w1".to_owned(), reason: "A".to_owned(), severity, ..Event::default() };
    for (filter, takes) in [
        (asked("", &[], 0), [true, true]),
        (asked("workers/", &["B", "A"], 2), [false, true]),
        (asked("models/", &[], 0), [false, false]),
        (asked("workers/w1", &[], 1), [true, true]),
        (asked("", &["B"], 0), [false, false]),
    ] {
        let words = format!("{filter:?}");
        let filter = Filter::try_new(filter).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!([1, 2].map(|severity| filter.takes(&event(severity))), takes, "{words}");
    }
}

#[test]
fn bad_filters_name_their_field() {
    let ask = WatchEventsRequest::default;
    let (long, longer) = ("x".repeat(MAX_PREFIX_BYTES + 1), "x".repeat(MAX_REASON_BYTES + 1));
    for (bad, field) in [
        (WatchEventsRequest { subject_prefix: long, ..ask() }, "subject_prefix"),
        (WatchEventsRequest { severity: 7, ..ask() }, "severity"),
        (WatchEventsRequest { severity: -1, ..ask() }, "severity"),
        (WatchEventsRequest { reasons: vec![String::new(); MAX_REASONS + 1], ..ask() }, "reasons"),
        (WatchEventsRequest { reasons: vec![longer], ..ask() }, "reasons"),
    ] {
        let error = Filter::try_new(bad).err().unwrap_or_else(|| panic!("{field} was taken"));
        assert_eq!(error.field(), Some(field));
    }
}

async fn watch(scheduler: &Scheduler, asked: WatchEventsRequest) -> EventStream {
    let deadline = Deadline::after(SystemClock::now(), PATIENCE);
    scheduler.inner.watch_events(asked, deadline).await.unwrap_or_else(|error| panic!("{error}"))
}

fn only(reason: &str, resume_token: &str) -> WatchEventsRequest {
    let (reasons, resume_token) = (vec![reason.to_owned()], resume_token.to_owned());
    WatchEventsRequest { reasons, resume_token, ..WatchEventsRequest::default() }
}

async fn next(watch: &mut EventStream) -> Result<WatchEventsResponse, Status> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("nothing came").expect("the stream goes on")
}

/// The subject of the next event, and its token.
async fn subject(watch: &mut EventStream) -> (String, String) {
    let answer = next(watch).await.expect("an event");
    (answer.event.expect("an event").subject, answer.resume_token)
}

async fn garbage(cluster: &Cluster, name: &str) {
    let key = cluster.keys.model(&name.parse().expect("a name"));
    cluster.write(Op::Put { key, value: "\u{7f}".into(), lease: None }).await;
}

/// A scheduler that has seen its mesh.
async fn scheduler(cluster: &Cluster, id: &str) -> (Scheduler, weft_runtime::Tasks) {
    let (scheduler, tasks) = cluster.scheduler(id, Options::default());
    scheduler.inner.mesh.synced().await;
    (scheduler, tasks)
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_cut_off_and_elsewhere() {
    let cluster = Cluster::new();
    let (first, first_tasks) = scheduler(&cluster, "s1").await;
    let mut watched = watch(&first, only("UndecodableRecord", "")).await;
    let begun = next(&mut watched).await.expect("the beginning");
    assert_eq!(begun.event, None);
    garbage(&cluster, "a").await;
    let (told, token) = subject(&mut watched).await;
    assert_eq!(told, "models/a");
    drop(watched);

    // What comes while nobody watches is told to whoever resumes, once and in order, also by another scheduler.
    let (second, _second_tasks) = scheduler(&cluster, "s2").await;
    let mut witness = watch(&second, only("UndecodableRecord", &token)).await;
    next(&mut witness).await.expect("the beginning");
    for name in ["b", "c"] {
        garbage(&cluster, name).await;
        assert_eq!(subject(&mut witness).await.0, format!("models/{name}"));
    }
    first_tasks.finish(PATIENCE).await;
    let mut resumed = watch(&second, only("UndecodableRecord", &token)).await;
    assert_eq!(next(&mut resumed).await.expect("the beginning").resume_token, token);
    garbage(&cluster, "d").await;
    for name in ["b", "c", "d"] {
        assert_eq!(subject(&mut resumed).await.0, format!("models/{name}"));
    }
    // From its own beginning everything is there.
    let mut all = watch(&second, only("UndecodableRecord", &begun.resume_token)).await;
    next(&mut all).await.expect("the beginning");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(subject(&mut all).await.0, format!("models/{name}"));
    }
}

/// Events of one transaction have one revision: a watch that is cut off between them goes on with the next of them.
#[tokio::test]
async fn a_watch_resumes_between_events_of_one_transaction() {
    let cluster = Cluster::new();
    let (first, _first_tasks) = scheduler(&cluster, "s1").await;
    let mut watched = watch(&first, only("Made", "")).await;
    let begun = next(&mut watched).await.expect("the beginning").resume_token;
    let put = |subject: &str| {
        let (reason, subject) = ("Made".to_owned(), subject.to_owned());
        let key = cluster.keys.event(1, &format!("Made-{subject}"));
        Op::Put { key, value: Event { reason, subject, ..Event::default() }.encode_to_vec().into(), lease: None }
    };
    let subjects = ["a", "b", "c"];
    for ops in [subjects.map(put).to_vec(), vec![put("d")]] {
        let commit = cluster.store.commit(weft_store::Txn { compares: Vec::new(), ops }).await;
        assert!(matches!(commit, Ok(weft_store::Commit::Done(_))), "{commit:?}");
    }
    let mut tokens = vec![begun];
    for expected in ["a", "b", "c", "d"] {
        let (told, token) = subject(&mut watched).await;
        assert_eq!(told, expected);
        tokens.push(token);
    }
    let (second, _second_tasks) = scheduler(&cluster, "s2").await;
    for (resumed, token) in tokens.iter().enumerate() {
        let mut watched = watch(&second, only("Made", token)).await;
        assert_eq!(next(&mut watched).await.expect("the beginning").resume_token, *token);
        for (expected, after) in ["a", "b", "c", "d"].into_iter().zip(&tokens[1..]).skip(resumed) {
            assert_eq!(subject(&mut watched).await, (expected.to_owned(), after.clone()), "after {token}");
        }
    }
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_how_to_resume() {
    let cluster = Cluster::new();
    let (scheduler, tasks) = scheduler(&cluster, "s1").await;
    let mut watched = watch(&scheduler, only("Made", "")).await;
    let begun = next(&mut watched).await.expect("the beginning").resume_token;
    let at = Token::parse(&begun).expect("a token").place.revision;
    let event = Arc::new(Event { reason: "Made".to_owned(), ..Event::default() });
    let tell = |number: usize| {
        let revision = at + i64::try_from(number).expect("a small number");
        drop(scheduler.inner.feed.sender.send(Told::Event(Place::after(revision), Arc::clone(&event))));
    };
    (1..=WAITING).for_each(tell);
    let first = next(&mut watched).await.expect("as many as wait are told").resume_token;
    (1..=WAITING).for_each(|number| tell(WAITING + number));
    let cut = next(&mut watched).await.expect_err("too slow");
    assert_eq!(cut.code(), Code::ResourceExhausted);
    assert!(cut.message().contains(&format!("'{first}'")), "{cut}");
    assert!(watched.next().await.is_none(), "a status ends the stream");

    let mut waiting = watch(&scheduler, only("Made", "")).await;
    next(&mut waiting).await.expect("the beginning");
    tasks.stop();
    assert_eq!(next(&mut waiting).await.expect_err("the end").code(), Code::Unavailable);
}

#[tokio::test]
async fn watches_are_bounded_and_tokens_of_other_stores_refused() {
    let cluster = Cluster::new();
    let (scheduler, _tasks) = scheduler(&cluster, "s1").await;
    let mut watches = Vec::new();
    let begin = async || {
        let deadline = Deadline::after(SystemClock::now(), Duration::from_secs(10));
        scheduler.inner.watch_events(WatchEventsRequest::default(), deadline).await
    };
    let refused = loop {
        match begin().await {
            Ok(watch) => watches.push(watch),
            Err(error) => break error,
        }
        assert!(watches.len() <= super::super::feed::WATCHERS);
    };
    assert_eq!(refused.reason(), Reason::Overloaded);
    let last = next(watches.last_mut().expect("some")).await.expect("the beginning").resume_token;
    watches.clear();
    assert!(begin().await.is_ok(), "an end makes room");
    let Token { store, place } = Token::parse(&last).expect("a token");
    let later = Place::after(place.revision + 1000);
    for foreign in [Token { store: store ^ 1, place }, Token { store, place: later }] {
        let asked = only("Made", &foreign.to_string());
        let deadline = Deadline::after(SystemClock::now(), PATIENCE);
        let error = scheduler.inner.watch_events(asked, deadline).await.err().expect("refused");
        assert_eq!(error.field(), Some("resume_token"));
    }
}
