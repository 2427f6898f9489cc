//! What a full queue does.

use super::*;

#[tokio::test]
async fn a_full_queue_answers_at_once() {
    let (replica, mut handle) = driven(0, 1, 2);
    let _running = (send(&replica, 0, 0, LONG).expect("taken"), handle.next().await);
    let waiting = [1, 2].map(|mark| send(&replica, mark, 0, LONG).expect("taken"));
    let error = send(&replica, 3, 0, LONG).err().expect("refused");
    assert_eq!(error.reason(), Reason::QueueFull);
    assert!(error.pushback().is_some());
    drop(waiting);
    assert!(send(&replica, 4, 0, LONG).is_ok());
}

/// Room is made from the end, for what is more urgent only, and only if it is enough.
#[tokio::test]
async fn a_more_urgent_call_takes_a_place_in_a_full_queue() {
    let (replica, mut handle) = driven(0, 1, 3);
    let running = (send(&replica, 0, 0, LONG).expect("taken"), handle.next().await);
    let [early, late] = [1, 2].map(|minutes| send(&replica, 3, 9, minutes * LONG).expect("taken"));
    let middle = send(&replica, 2, 5, LONG).expect("taken");
    assert_eq!(send(&replica, 4, 9, LONG / 2).err().expect("refused").reason(), Reason::QueueFull);
    let urgent = send(&replica, 1, 1, LONG).expect("takes the last place");
    assert_eq!(reason(&late.answer().await), Reason::QueueFull);
    assert_eq!(replica.queue.len(), 3);
    running.1.echo();
    for mark in [1, 2, 3] {
        let execution = handle.next().await;
        assert_eq!(execution.marks(), [mark]);
        execution.echo();
    }
    for ticket in [running.0, urgent, middle, early] {
        assert!(ticket.answer().await.outcome.is_ok());
    }
}

#[tokio::test]
async fn a_more_urgent_call_takes_as_many_bytes_as_it_needs_or_none() {
    let (replica, mut handle) = driven(0, 1, 100);
    let _running = (send(&replica, 0, 0, LONG).expect("taken"), handle.next().await);
    let part = |priority, kib: usize| send_shaped(&replica, input(1, &[kib << 10]), priority, LONG);
    let _middle = part(5, 600).expect("taken");
    let low = [part(9, 200).expect("taken"), part(9, 200).expect("taken")];
    assert!(part(5, 700).is_err(), "not even without the lower band");
    assert_eq!(replica.queue.len(), 3, "so nobody was displaced");
    let _more = part(5, 400).expect("takes two places");
    for ticket in low {
        assert_eq!(reason(&ticket.answer().await), Reason::QueueFull);
    }
    assert_eq!(replica.queue.len(), 2);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let (replica, mut handle) = driven(0, 1, 100);
    let _running = (send(&replica, 0, 0, LONG).expect("taken"), handle.next().await);
    let half = || input(1, &[600 << 10]);
    let _waiting = send_shaped(&replica, half(), 0, LONG).expect("taken");
    let error = send_shaped(&replica, half(), 0, LONG).err().expect("refused");
    assert_eq!(error.reason(), Reason::QueueFull);
}
