//! Whose turn it is, and who goes, where tenants share a queue.

use super::*;

/// One of another tenant, with all the time in the world, waits for those of a flood that were there when it came, not for those after it.
#[tokio::test]
async fn a_tenant_with_more_than_its_share_goes_after_the_others() {
    let (replica, mut handle) = driven(0, 1, 16);
    let first = send(&replica, 0, 0, LONG).expect("taken");
    let running = handle.next().await;
    let of = |tenant: u64, mark: u8, minutes: u32| {
        send_for(&replica, input(mark, &[1, 1]), (tenant, 0), LONG * minutes).expect("taken")
    };
    let tickets = [of(1, 1, 3), of(1, 2, 2), of(2, 3, 9), of(1, 4, 1), of(1, 5, 1)];
    running.echo();
    let mut order = Vec::new();
    for _ in 0..tickets.len() {
        let execution = handle.next().await;
        order.extend(execution.marks());
        execution.echo();
    }
    assert_eq!(order, [2, 1, 3, 4, 5], "by tenant, then by deadline");
    assert!(first.answer().await.outcome.is_ok());
    for ticket in tickets {
        assert!(ticket.answer().await.outcome.is_ok());
    }
}

/// A queue that a flood has filled has room for another tenant, and never for one more of the flood.
#[tokio::test]
async fn a_full_queue_makes_room_for_a_tenant_with_less() {
    let (replica, mut handle) = driven(0, 1, 4);
    let _first = send(&replica, 0, 0, LONG).expect("taken");
    let _running = handle.next().await;
    let of = |tenant: u64, mark: u8| send_for(&replica, input(mark, &[1, 1]), (tenant, 0), LONG);
    let [_one, _two, _small, last] = [of(1, 1), of(1, 2), of(2, 3), of(1, 4)].map(|ticket| ticket.expect("taken"));
    assert_eq!(of(1, 5).err().map(|error| error.reason()), Some(Reason::QueueFull));
    let _other = of(3, 6).expect("room is made");
    assert_eq!(reason(&last.answer().await), Reason::QueueFull);
    assert_eq!(replica.queue.len(), 4);
}
