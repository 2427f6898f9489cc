//! The recorded history of an owned register, checked linearizable while its owners are stopped, resumed and killed.

use anyhow::Result;
use weft_tests::etcd::Etcd;
use weft_tests::linearizable::check;

use super::owners::Owners;

/// Late writes that a run must have seen refused.
const LATE: usize = 3;
/// Owners that are stopped at most: a stop can come just after the write.
const STOPS: usize = 12;
/// Writes of each successor before its predecessor goes on.
const WRITES: usize = 50;

/// Stops an owner for so long that somebody else owns and writes; then lets it go on. A slow one is stopped between a
/// decision and its write, any other one anywhere.
async fn stop_one(owners: &mut Owners, slow: bool, writes: usize) -> Result<()> {
    let write = owners.next_write(slow).await?;
    owners.signal(write.0, "STOP")?;
    owners.succeeded(write.0, writes).await?;
    owners.signal(write.0, "CONT")?;
    owners.settled(write).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_owners_do_is_linearizable_whoever_is_stopped_or_killed() -> Result<()> {
    let etcd = Etcd::start().await?;
    let mut owners = Owners::start(&etcd.client_url, 3, &[])?;
    let mut stops = 0;
    while owners.history.refused < LATE && stops < STOPS {
        // Mostly where it makes a write late; now and then where it could make a read stale.
        stop_one(&mut owners, stops % 3 != 1, WRITES).await?;
        stops += 1;
    }
    let (killed, _) = owners.next_write(true).await?;
    owners.signal(killed, "KILL")?;
    owners.succeeded(killed, WRITES).await?;
    let history = owners.end().await?;

    let calls = history.calls();
    assert_eq!(check(0, &calls), Ok(()), "of {} calls", calls.len());
    let (done, refused, unknown) = (history.done, history.refused, history.unknown());
    assert!(refused >= LATE, "{refused} late writes were refused after {stops} stops: too few to show anything");
    assert!(done > 10 * (refused + unknown), "{done} writes happened, {refused} were refused, {unknown} are unknown");
    assert!(history.terms > LATE, "{} terms", history.terms);
    Ok(())
}

/// The same with the bug planted: without the fence, a late write lands on its successor's.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_fence_a_late_write_is_found_out() -> Result<()> {
    let etcd = Etcd::start().await?;
    let mut owners = Owners::start(&etcd.client_url, 2, &["unfenced"])?;
    let mut verdict = Ok(());
    for _ in 0..STOPS {
        stop_one(&mut owners, true, 1).await?;
        verdict = check(0, &owners.history.calls());
        if verdict.is_err() {
            break;
        }
    }
    assert!(verdict.is_err(), "nobody noticed {} writes", owners.history.done);
    Ok(())
}
