use super::*;
use crate::arena::Arena;
use crate::protocol::Executed;
use crate::protocol::language::{Generate, prompt};

fn connection() -> (Arc<Connection>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Arc::new(Connection::new(ours)), theirs)
}

fn generate(ticket: &Ticket, length: usize) -> command::Body {
    let prompt = Some(prompt::Body::Text("x".repeat(length)));
    command::Body::Generate(Generate { id: ticket.id(), prompt, ..Generate::default() })
}

#[tokio::test]
async fn what_was_refused_has_not_begun() {
    let (connection, _theirs) = connection();
    let [mut first, mut second] = [(); 2].map(|()| connection.begin(1, Vec::new()).unwrap());
    first.start(generate(&first, MAX_BACKLOG_BYTES + (4 << 20))).unwrap();
    let refused = second.start(generate(&second, 1));
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    drop(second);
    let known: Vec<u64> = connection.pending().entries.keys().copied().collect();
    assert_eq!(known, [first.id()], "it waits for the end of what has never begun");
}

#[tokio::test]
async fn a_model_whose_executions_take_long_is_given_longer_to_stop() {
    let (connection, _theirs) = connection();
    let arena = Arena::try_new(1 << 20).unwrap();
    let (now, least) = (SystemClock::now(), Duration::from_secs(2));
    let begin = |held| connection.begin(1, held).unwrap();
    let late = begin(Vec::new());
    let cancelled = |since: Duration| {
        let since = now.checked_sub(since);
        connection.pending().entries.get_mut(&late.id()).unwrap().cancelled = since;
    };
    cancelled(Duration::from_secs(3));
    assert_eq!(connection.ignores_cancel(least, now), Some(least));
    let execution = begin(arena.take([1]).await.unwrap().into());
    let begun = now.checked_sub(Duration::from_secs(5)).unwrap();
    connection.pending().entries.get_mut(&execution.id()).unwrap().begun = begun;
    connection
        .deliver(Event { body: Some(event::Body::Executed(Executed { id: execution.id(), ..Executed::default() })) });
    cancelled(Duration::from_secs(15));
    assert_eq!(connection.ignores_cancel(least, now), None, "it was not given the time that it is known to take");
    cancelled(Duration::from_secs(3600));
    assert!(connection.ignores_cancel(least, now).is_some_and(|grace| grace >= Duration::from_secs(20)));
    connection.pending().longest = Duration::from_secs(3600);
    assert_eq!(connection.ignores_cancel(least, now), Some(MAX_GRACE));
}

#[tokio::test]
async fn a_cancel_may_take_as_long_as_some_steps() {
    let (connection, _theirs) = connection();
    drop(connection.begin(1, Vec::new()).unwrap());
    let ignored_after = |seconds| {
        let now = SystemClock::now() + Duration::from_secs(seconds);
        connection.ignores_cancel(Duration::from_secs(2), now).is_some()
    };
    assert!(!ignored_after(1) && ignored_after(3));
    let slow = language::Occupancy { longest_step_us: 1_000_000, ..language::Occupancy::default() };
    connection.deliver(Event { body: Some(event::Body::Occupancy(slow)) });
    assert!(!ignored_after(3) && ignored_after(5));
}
