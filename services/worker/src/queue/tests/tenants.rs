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

/// A share is what all have, evenly: one more than that is too many, as many is not.
#[test]
fn a_share_is_an_even_part_of_what_waits_and_comes() {
    let of = |tenants: &[u64]| {
        let mut band = Band::default();
        tenants.iter().for_each(|tenant| band.add(*tenant));
        band
    };
    assert!(!of(&[]).is_over(1) && !of(&[1, 1, 1]).is_over(1), "alone");
    let two = of(&[1, 1, 2]);
    assert_eq!([1, 2].map(|tenant| two.is_over(tenant)), [true, false], "two of four are half");
    assert!(of(&[1, 2]).is_over(1), "two of three are more than half");
    assert!(!of(&[1, 1]).is_over(2), "one of three places is no more than a half");
    let three = of(&[1, 1, 1, 2, 2]);
    assert_eq!(
        [1, 2, 3].map(|tenant| three.is_over(tenant)),
        [true, false, false],
        "half of six is as many as two have"
    );
}

/// Who has gone is none of those who share.
#[test]
fn who_waits_no_longer_has_no_share() {
    let mut band = Band::default();
    [1, 1, 2].into_iter().for_each(|tenant| band.add(tenant));
    band.remove(2);
    assert!(!band.is_over(1));
    assert_eq!((band.requests, band.tenants.len()), (2, 1));
}
