//! Which replica takes the call.

use std::sync::Arc;
use std::time::Instant;

use weft_policy::choose::{self, Look, Standing};
use weft_policy::{Candidate, Terms};
use weft_types::{Result, SystemClock};

use crate::endpoint::{Endpoint, Permit};
use crate::identify::Wanted;
use crate::route::Target;
use crate::rules::Marks;
use crate::table::Replica;

/// A replica as a call meets it.
#[derive(Clone, Copy)]
struct Met<'a> {
    replica: &'a Replica,
    tried: &'a [Arc<Endpoint>],
    /// What a sequence left behind is where it began, which may have been ejected since: it is looked for there after all.
    searches: bool,
    /// It belongs to a sequence, which is lost elsewhere: a replica that is merely silent for a moment is waited for.
    of_sequence: bool,
    now: Instant,
}

impl Look for Met<'_> {
    fn standing(&self) -> Standing {
        let tried = self.tried.iter().any(|endpoint| Arc::ptr_eq(endpoint, &self.replica.endpoint));
        let shunned = self.replica.is_ejected() || !self.of_sequence && self.replica.is_silent();
        Standing { tried, ejected: shunned && !self.searches, draining: self.replica.draining }
    }

    fn identity(&self) -> u64 {
        self.replica.endpoint.identity
    }

    fn load(&self) -> u64 {
        choose::load(self.replica.endpoint.in_flight(), self.replica.pace.others(self.now))
    }

    fn is_local(&self) -> bool {
        self.replica.local
    }

    fn known(&self) -> Candidate {
        let (Replica { endpoint, pace, .. }, now) = (self.replica, self.now);
        let Standing { tried, ejected, draining } = self.standing();
        Candidate {
            identity: endpoint.identity,
            in_flight: endpoint.in_flight(),
            others: pace.others(now),
            wait: pace.wait(now),
            latency: pace.seconds(now),
            quickest: pace.quickest(now),
            there_for: pace.there_for(now),
            ejected,
            draining,
            tried,
            local: self.replica.local,
        }
    }
}

/// Draws two and takes the one where the call may be expected to end first, or the one that an affinity leads to; the permit counts
/// the call from now on.
pub(crate) fn choose(replicas: &[Replica], tried: &[Arc<Endpoint>], terms: impl Into<Terms>) -> Option<Permit> {
    let now = SystemClock::now();
    let terms = terms.into();
    let of_sequence = terms.affinity.is_some() && terms.bound.is_none();
    let searches = of_sequence && !tried.is_empty();
    let met = replicas.iter().map(|replica| Met { replica, tried, searches, of_sequence, now });
    let index = weft_policy::choose(met, terms, &mut rand::rng())?;
    replicas.get(index).map(Replica::enter)
}

/// What a call that is routed to this target asks of its replica: to be where its sequence is, or else what its route's affinity says.
pub(crate) fn terms(wanted: &Wanted<'_>, target: &Target<'_>, marks: &Marks<'_>, now: Instant) -> Result<Terms> {
    let terms = Terms { remaining: Some(wanted.deadline.remaining(now)), ..Terms::default() };
    let sequence = wanted.affinity(target.model);
    match target.leading {
        Some(leading) if sequence.is_none() => {
            let affinity = leading.affinity(target.model, marks, wanted.request)?;
            Ok(Terms { affinity, bound: Some(leading.bound), ..terms })
        }
        _ => Ok(Terms { affinity: sequence, ..terms }),
    }
}

/// A replica as the choice sees it.
pub(crate) fn candidate(replica: &Replica, tried: &[Arc<Endpoint>], now: Instant) -> Candidate {
    Met { replica, tried, searches: false, of_sequence: false, now }.known()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Ending, Pace};
    use crate::outlier::Outliers;
    use proptest::prelude::*;
    use weft_client::{Channel, ChannelOptions};
    use weft_policy::Affinity;
    use weft_policy::eject::{Evidence, Settings};
    use weft_proto::orca::Load;
    use weft_runtime::Tasks;
    use weft_types::Deadline;

    fn replica(endpoint: Arc<Endpoint>) -> Replica {
        Replica { endpoint, pace: Arc::new(Pace::new(SystemClock::now())), draining: false, local: false }
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
            prop_assert!(replicas.iter().all(|replica| replica.endpoint.in_flight() == 0 && replica.pace.in_flight() == 0));
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

    /// What another router has sent to a replica shows in what the replica tells, this router's own calls do not; a wait that is
    /// longer than a call has left is kept off.
    #[test]
    fn what_replicas_tell_decides() {
        let (replicas, outliers) = (replicas(2), Outliers::new(Settings::default(), Settings::default()));
        let deadline = Deadline::after(SystemClock::now(), std::time::Duration::from_secs(3600));
        let now = SystemClock::now();
        let (one, other) = (replicas[0].enter(), replicas[0].enter());
        let told = |requests, wait_ms| Load { requests: Some(requests), wait_ms: Some(wait_ms), ..Load::default() };
        one.hear(&told(9.0, 5_000.0), now);
        assert!((replicas[0].pace.others(now) - 8.0).abs() < 1e-3);
        one.hear(&told(1.0, 5_000.0), now);
        assert_eq!(replicas[0].pace.others(now), 0.0);
        one.hear(&Load::default(), now);
        drop((one, other));
        let _busy = replicas[1].enter();
        let chosen = |remaining| {
            let terms = Terms { remaining: Some(std::time::Duration::from_secs(remaining)), ..Terms::default() };
            choose(&replicas, &[], terms).expect("one is there").endpoint().worker.to_string()
        };
        assert_eq!((chosen(3_600), chosen(1)), ("w0".to_owned(), "w1".to_owned()));
        // A refusal teaches nothing of how soon an answer can be there.
        let _ = replicas[0].enter().time(&outliers, deadline).end(Ending::Refused, Evidence::Neutral);
        assert_eq!(replicas[0].pace.quickest(now), None);
        let _ = replicas[0].enter().time(&outliers, deadline).end(Ending::Answered, Evidence::Success);
        assert!(replicas[0].pace.quickest(now).is_some());
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

    /// An attempt that is given up at the deadline, after its worker was silent all the time, is held against the worker; one that was beaten is not.
    #[test]
    fn who_was_beaten_is_not_silent() {
        let outliers = Outliers::new(Settings::default(), Settings::default());
        let failures_after = |is_over: bool| {
            let replica = replicas(1).remove(0);
            let mut permit = replica.enter();
            let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
            permit.race(&over);
            let mut timed = permit.time(&outliers, Deadline::after(SystemClock::now(), std::time::Duration::ZERO));
            timed.began -= std::time::Duration::from_secs(1);
            over.store(is_over, std::sync::atomic::Ordering::Relaxed);
            drop(timed);
            // What it took at least is known in any case.
            assert!(replica.pace.seconds(SystemClock::now()).is_some_and(|seconds| seconds > 0.9));
            (replica.endpoint.record.host(false).counts.failures, replica.pace.record.host(false).counts.doubtful)
        };
        assert_eq!(failures_after(false), (1, 0));
        assert_eq!(failures_after(true), (0, 0));
    }
}
