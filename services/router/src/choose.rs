//! Which replica takes the call.

use std::sync::Arc;
use std::time::Instant;

use weft_policy::{Affinity, Candidate};
use weft_types::SystemClock;

use crate::endpoint::{Endpoint, Permit};
use crate::table::Replica;

/// Draws two and takes the one where the call may be expected to end first, or the one that an affinity prefers; the permit counts
/// the call from now on.
pub(crate) fn choose(replicas: &[Replica], tried: &[Arc<Endpoint>], affinity: Option<Affinity>) -> Option<Permit> {
    let now = SystemClock::now();
    // What a sequence left behind is where it began, which may have been ejected since: it is looked for there after all.
    let searches = affinity.is_some() && !tried.is_empty();
    let candidates = replicas.iter().map(|replica| {
        let candidate = candidate(replica, tried, now);
        Candidate { ejected: candidate.ejected && !searches, ..candidate }
    });
    let index = weft_policy::choose(candidates, affinity, &mut rand::rng())?;
    replicas.get(index).map(Replica::enter)
}

/// A replica as the choice sees it.
pub(crate) fn candidate(replica: &Replica, tried: &[Arc<Endpoint>], now: Instant) -> Candidate {
    Candidate {
        identity: replica.endpoint.identity,
        in_flight: replica.endpoint.in_flight(),
        latency: replica.pace.seconds(now),
        there_for: replica.pace.there_for(now),
        ejected: replica.is_ejected(),
        draining: replica.draining,
        tried: tried.iter().any(|endpoint| Arc::ptr_eq(endpoint, &replica.endpoint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Ending, Pace};
    use crate::outlier::Outliers;
    use proptest::prelude::*;
    use weft_client::{Channel, ChannelOptions};
    use weft_policy::eject::{Evidence, Settings};
    use weft_runtime::Tasks;
    use weft_types::Deadline;

    fn replica(endpoint: Arc<Endpoint>) -> Replica {
        Replica { endpoint, pace: Arc::new(Pace::new(SystemClock::now())), draining: false }
    }

    fn replicas(count: usize) -> Vec<Replica> {
        let endpoint = |index: usize| {
            let channel = || Channel::new("127.0.0.1:1", ChannelOptions::default(), &Tasks::new()).expect("an address");
            Endpoint::new(format!("w{index}").parse().expect("a name"), 1, channel(), channel())
        };
        (0..count).map(|index| replica(endpoint(index))).collect()
    }

    proptest! {
        /// Whatever the order in which calls begin and end, nothing is in flight when all have ended.
        #[test]
        fn load_is_zero_at_rest(steps in proptest::collection::vec(any::<bool>(), 0..200)) {
            let replicas = replicas(3);
            let mut permits = Vec::new();
            for begin in steps {
                if begin { permits.extend(choose(&replicas, &[], None)); } else { drop(permits.pop()); }
                let total: u64 = replicas.iter().map(|replica| replica.endpoint.in_flight()).sum();
                prop_assert_eq!(total, permits.len() as u64);
            }
            drop(permits);
            prop_assert!(replicas.iter().all(|replica| replica.endpoint.in_flight() == 0));
        }
    }

    #[test]
    fn a_tried_replica_is_not_taken_while_another_is_there() {
        let replicas = replicas(2);
        let tried = [Arc::clone(&replicas[0].endpoint)];
        for _ in 0..100 {
            let permit = choose(&replicas, &tried, None).expect("one is there");
            assert_eq!(permit.endpoint().worker.as_str(), "w1");
        }
    }

    /// A replica that failed, and one whose call was given up after long, are passed over for one that answered.
    #[test]
    fn what_calls_took_decides() {
        let (replicas, outliers) = (replicas(2), Outliers::new(Settings::default(), Settings::default()));
        let deadline = Deadline::after(SystemClock::now(), std::time::Duration::from_secs(3600));
        let first = replicas[0].enter();
        let _ = first.time(&outliers, deadline).end(Ending::Failed, Evidence::Failure);
        let _ = replicas[1].enter().time(&outliers, deadline).end(Ending::Answered, Evidence::Success);
        drop(first);
        for _ in 0..50 {
            assert_eq!(choose(&replicas, &[], None).expect("one is there").endpoint().worker.as_str(), "w1");
        }
        let slow = replicas[1].enter();
        let mut timed = slow.time(&outliers, deadline);
        timed.began -= std::time::Duration::from_secs(60);
        drop(timed);
        drop(slow);
        assert_eq!(choose(&replicas, &[], None).expect("one is there").endpoint().worker.as_str(), "w0");
    }

    #[test]
    fn a_sequence_keeps_its_replica_whatever_the_load() {
        let replicas = replicas(5);
        let affinity = Some(Affinity::of("m", "one"));
        let first = choose(&replicas, &[], affinity).expect("one is there");
        let name = first.endpoint().worker.clone();
        let held: Vec<Permit> = (0..50).filter_map(|_| choose(&replicas, &[], affinity)).collect();
        assert!(held.iter().all(|permit| permit.endpoint().worker == name));
        let left: Vec<Replica> = replicas.iter().filter(|replica| replica.endpoint.worker != name).cloned().collect();
        let other = choose(&left, &[], affinity).expect("one is there").endpoint().worker.clone();
        assert_ne!(other, name);
        // A draining one hands its sequences to the next in line, and gets them back if it stays after all.
        let mut draining = replicas;
        draining.iter_mut().filter(|replica| replica.endpoint.worker == name).for_each(|one| one.draining = true);
        assert_eq!(choose(&draining, &[], affinity).expect("one is there").endpoint().worker.clone(), other);
    }
}
