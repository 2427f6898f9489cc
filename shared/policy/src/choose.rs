//! Power of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): of two replicas
//! drawn at random, the one on which a call may be expected to end first. Calls that belong together go by [`Affinity`] instead.

mod affinity;
mod bounded;
mod latency;
mod odds;
mod report;
#[cfg(test)]
mod simulated;
mod slow_start;
mod zone;

pub use affinity::{Affinity, identity};
pub use bounded::{Bound, Led};
pub use latency::{Latency, Quickest};
pub use odds::odds;
pub use report::Reported;

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// What the balancer knows of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// What tells it from the others, the same in every process: [`identity`] of its name. Only affinity looks at it.
    pub identity: u64,
    /// Calls that this process has sent it and that have not ended.
    pub in_flight: u64,
    /// Requests of other processes that are there as well, as the replica itself tells.
    pub others: f32,
    /// How long the replica says that one more request waits, in seconds.
    pub wait: f32,
    /// What a call has lately taken there, in seconds; `None` when that is not known.
    pub latency: Option<f32>,
    /// How long it has been ready, as this process saw it, or back from its ejection.
    pub there_for: Duration,
    /// It is ejected ([`crate::eject`]): others are taken while there are any. Where all are, all are taken as if none was, since
    /// to refuse every call would help nobody (Envoy's panic mode).
    pub ejected: bool,
    /// What the quickest calls have lately taken there, in seconds; `None` when that is not known.
    pub quickest: Option<f32>,
    /// Its worker is shutting down: it still serves, but should not be given more.
    pub draining: bool,
    /// An earlier attempt of this call went to it.
    pub tried: bool,
    /// It stands in the zone of whoever chooses.
    pub local: bool,
}

/// A replica as the choice meets it: all are looked at in passing, and only those that are drawn in full.
pub trait Look: Copy {
    /// Whether it is to be taken only for want of others.
    fn standing(&self) -> Standing;
    /// As in [`Candidate::identity`].
    fn identity(&self) -> u64;
    /// As in [`Candidate::load`].
    fn load(&self) -> u64;
    /// As in [`Candidate::local`].
    fn is_local(&self) -> bool;
    /// All that is known of it.
    fn known(&self) -> Candidate;
}

impl Look for Candidate {
    fn standing(&self) -> Standing {
        Standing { tried: self.tried, ejected: self.ejected, draining: self.draining }
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn load(&self) -> u64 {
        load(self.in_flight, self.others)
    }

    fn is_local(&self) -> bool {
        self.local
    }

    fn known(&self) -> Candidate {
        *self
    }
}

/// Requests of this process and of others together, in whole ones.
pub fn load(in_flight: u64, others: f32) -> u64 {
    // What is no number or negative counts for nothing.
    in_flight.saturating_add(others.round() as u64)
}

/// What a call asks of its replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// It has to go where the calls that it belongs to go.
    pub affinity: Option<Affinity>,
    /// How busy that replica may be before the call is led on to the next; `None` is without end, as sequences need it.
    pub bound: Option<Bound>,
    /// What is left until its deadline.
    pub remaining: Option<Duration>,
}

impl From<Option<Affinity>> for Terms {
    fn from(affinity: Option<Affinity>) -> Self {
        Self { affinity, ..Self::default() }
    }
}

/// Which candidates are looked at, the least first: the derived order is the policy.
///
/// An untried one that drains or is ejected is better than a tried one: the tried one has just failed this very call. One that drains
/// still answers, which an ejected one hardly does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// An earlier attempt of this call went to it.
    pub tried: bool,
    /// As in [`Candidate::ejected`].
    pub ejected: bool,
    /// Its worker is shutting down.
    pub draining: bool,
}

/// Which of two is better, the lesser first: the derived order is the policy. An answer that comes too late is no answer, however
/// little it costs.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Prospect {
    is_late: bool,
    cost: f32,
}

/// Candidates looked at besides the two, one by one, while none of those seen is expected to answer in time.
const LOOKS: usize = 4;
/// Differences of latency below this are of no account: they are noise, and chasing them would send all calls one way.
const NOISE: f32 = 0.000_5;
/// How many times slower than another a replica can look. Calls of one model differ, by what they carry and generate: after a single
/// long one its replica must not stand idle while calls queue up at the others.
const SPREAD: f32 = 64.0;

impl Candidate {
    /// What sending a call there costs: latency times the square of the requests that it would be one of.
    ///
    /// Latency is an echo: it tells how long calls took that are over, their wait included, and where calls differ mostly what they
    /// were. Requests are there now. So they count twice, and latency decides between replicas only as far as its root.
    fn cost(&self, latency: f32) -> f32 {
        // Rounding is of no account beside what is not known of the calls.
        let requests = self.in_flight as f32 + self.others + 1.0;
        requests * requests * latency
    }

    /// What is expected of it, for a call that has so long.
    fn prospect(&self, latency: f32, remaining: Option<Duration>) -> Prospect {
        let least = self.wait + self.quickest.unwrap_or(0.0);
        let is_late = remaining.is_some_and(|remaining| least > remaining.as_secs_f32());
        Prospect { is_late, cost: self.cost(latency) }
    }
}

/// The index of the candidate that takes the call; `None` only when there is none at all.
///
/// With an affinity, it is the one of the best standing that the affinity leads to. Without one, a call stays among those of the zone while
/// they have no more to do than others. Reads the candidates a few times, without allocating, so an iterator over live counters will do.
pub fn choose<R: Rng + ?Sized>(
    candidates: impl Iterator<Item = impl Look> + Clone,
    terms: impl Into<Terms>,
    rng: &mut R,
) -> Option<usize> {
    let Terms { affinity, bound, remaining } = terms.into();
    let best = Best::of(candidates.clone())?;
    let equals = candidates.enumerate().filter(|(_, candidate)| candidate.standing() == best.standing);
    if let Some(affinity) = affinity {
        return bounded::lead(equals, affinity, bound).map(|led| led.taken);
    }
    let drawn = draw(&equals, best.count, remaining, rng)?;
    if !zone::matters(best.local, best.count) {
        return Some(drawn.0);
    }
    let near = draw(&equals.filter(|(_, candidate)| candidate.is_local()), best.local, remaining, rng)?;
    let (of_near, of_drawn) = prospects(&near.1, &drawn.1, remaining);
    if near.0 == drawn.0 || !zone::stays(of_near, of_drawn) {
        return Some(drawn.0);
    }
    let passed_on = passed_on(&near.1, &drawn.1);
    Some(if passed_on > 0.0 && rng.random::<f32>() < passed_on { drawn.0 } else { near.0 })
}

/// Where an affinity leads among all candidates, and why, for answers to operators.
pub fn led(candidates: &[Candidate], affinity: Affinity, bound: Option<Bound>) -> Option<Led> {
    let best = Best::of(candidates.iter().copied())?;
    let equals = candidates.iter().copied().enumerate().filter(|(_, candidate)| candidate.standing() == best.standing);
    bounded::lead(equals, affinity, bound)
}

/// The better of two that are drawn from `count`, or of a few more while those seen are expected to be late.
fn draw<R: Rng + ?Sized>(
    pool: &(impl Iterator<Item = (usize, impl Look)> + Clone),
    count: usize,
    remaining: Option<Duration>,
    rng: &mut R,
) -> Option<(usize, Candidate)> {
    let nth = |place| pool.clone().nth(place).map(|(index, candidate)| (index, candidate.known()));
    let first = rng.random_range(0..count);
    if count == 1 {
        return nth(first);
    }
    // Drawn from the others, so that the two always differ.
    let other = rng.random_range(0..count - 1);
    let second = if other >= first { other + 1 } else { other };
    let pair = compare(nth(first)?, nth(second)?, remaining);
    if !pair.is_late {
        let passed_on = pair.passed_on();
        return Some(if passed_on > 0.0 && rng.random::<f32>() < passed_on { pair.other } else { pair.better });
    }
    let mut best = pair.better;
    for _ in 0..LOOKS {
        let pair = compare(best, nth(rng.random_range(0..count))?, remaining);
        best = pair.better;
        if !pair.is_late {
            break;
        }
    }
    Some(best)
}

/// Two candidates in the order of their prospects.
struct Pair {
    better: (usize, Candidate),
    other: (usize, Candidate),
    /// Whether the better one is expected to be late; if so, the other is, too.
    is_late: bool,
    other_is_late: bool,
}

impl Pair {
    fn passed_on(&self) -> f32 {
        if self.other_is_late { 0.0 } else { passed_on(&self.better.1, &self.other.1) }
    }
}

/// The share of such calls that the better one passes on, having come later than the other: as much as its own share is smaller.
/// Dividing its cost by the share instead would leave it without any calls where nobody has much to do.
fn passed_on(better: &Candidate, other: &Candidate) -> f32 {
    let share = |candidate: &Candidate| slow_start::share(candidate.there_for);
    (1.0 - share(better) / share(other)).max(0.0)
}

/// Better is the one that is expected to answer in time, or else the one that costs less. Of equals the first drawn: a tie must not go
/// by name, or an idle mesh would send every call to the first replica.
fn compare(one: (usize, Candidate), other: (usize, Candidate), remaining: Option<Duration>) -> Pair {
    let prospects = prospects(&one.1, &other.1, remaining);
    if prospects.0 <= prospects.1 {
        Pair { better: one, other, is_late: prospects.0.is_late, other_is_late: prospects.1.is_late }
    } else {
        Pair { better: other, other: one, is_late: prospects.1.is_late, other_is_late: prospects.0.is_late }
    }
}

/// What is expected of each of two, side by side.
fn prospects(one: &Candidate, other: &Candidate, remaining: Option<Duration>) -> (Prospect, Prospect) {
    // A replica of which nothing is known is taken to be like the other: it is neither flooded nor shunned.
    let latency = |of: &Candidate, beside: &Candidate| of.latency.or(beside.latency).unwrap_or(NOISE).max(NOISE);
    let (of_one, of_other) = (latency(one, other), latency(other, one));
    let most = of_one.min(of_other) * SPREAD;
    (one.prospect(of_one.min(most), remaining), other.prospect(of_other.min(most), remaining))
}

/// The best standing that any candidate has.
struct Best {
    standing: Standing,
    /// How many have it, and how many of them are in the zone.
    count: usize,
    local: usize,
}

impl Best {
    fn of(candidates: impl Iterator<Item = impl Look>) -> Option<Self> {
        candidates.fold(None, |best: Option<Self>, candidate| {
            let (standing, local) = (candidate.standing(), usize::from(candidate.is_local()));
            match best {
                Some(best) if best.standing < standing => Some(best),
                Some(best) if best.standing == standing => {
                    Some(Self { count: best.count + 1, local: best.local + local, ..best })
                }
                _ => Some(Self { standing, count: 1, local }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let latency = proptest::option::of(0.0f32..10.0);
        (0u64..100, latency, any::<[bool; 3]>(), any::<u64>(), any::<Duration>()).prop_map(
            |(in_flight, latency, [ejected, draining, tried], identity, there_for)| Candidate {
                identity,
                in_flight,
                latency,
                there_for,
                ejected,
                draining,
                tried,
                ..Candidate::default()
            },
        )
    }

    proptest! {
        #[test]
        fn keeps_off_tried_ejected_and_draining_replicas(
            all in proptest::collection::vec(candidate(), 0..12),
            key: Option<u64>,
            seed: u64,
        ) {
            let affinity = key.map(|key| Affinity::of("m", key));
            let chosen = choose(all.iter().copied(), affinity, &mut StdRng::seed_from_u64(seed));
            let Some(index) = chosen else { return Err(TestCaseError::fail("no choice")).or_else(|failed| if all.is_empty() { Ok(()) } else { Err(failed) }) };
            let chosen = all[index];
            prop_assert!(!chosen.tried || all.iter().all(|other| other.tried));
            let alike = |other: &Candidate| other.tried == chosen.tried;
            prop_assert!(!chosen.ejected || all.iter().all(|other| other.ejected || !alike(other)));
            let alike = |other: &Candidate| alike(other) && other.ejected == chosen.ejected;
            prop_assert!(!chosen.draining || all.iter().all(|other| other.draining || !alike(other)));
        }

        /// The one with the most in flight wins only when it is alone or ties.
        #[test]
        fn never_takes_the_single_worst(loads in proptest::collection::vec(0u64..50, 2..12), seed: u64) {
            let all = loads.iter().map(|in_flight| Candidate { in_flight: *in_flight, ..Candidate::default() });
            let index = choose(all, None, &mut StdRng::seed_from_u64(seed)).expect("there are candidates");
            prop_assert!(loads.iter().enumerate().any(|(other, load)| other != index && *load >= loads[index]));
        }
    }

    /// Idle replicas share calls evenly: each within five standard deviations of its share.
    #[test]
    fn idle_replicas_share_evenly() {
        const CALLS: usize = 50_000;
        for count in [2usize, 3, 7] {
            let mut rng = StdRng::seed_from_u64(7);
            let mut taken = vec![0usize; count];
            for _ in 0..CALLS {
                taken[choose(std::iter::repeat_n(Candidate::default(), count), None, &mut rng).expect("candidates")] +=
                    1;
            }
            let share = CALLS as f64 / count as f64;
            let tolerance = 5.0 * (share * (1.0 - 1.0 / count as f64)).sqrt();
            for calls in &taken {
                assert!((*calls as f64 - share).abs() < tolerance, "{taken:?}");
            }
        }
    }

    /// In a closed loop of 16 callers over 4 replicas, one ten times slower gets far less than a quarter of the calls.
    #[test]
    fn a_slow_replica_gets_less() {
        let service = [10u64, 10, 10, 100];
        let mut rng = StdRng::seed_from_u64(11);
        let (mut ends, mut in_flight, mut taken) = (Vec::new(), [0u64; 4], [0u64; 4]);
        let mut now = 0;
        for call in 0..20_000u64 {
            if call >= 16 {
                let next = (0..ends.len()).min_by_key(|slot| ends[*slot]).expect("calls run");
                let (end, replica): (u64, usize) = ends.swap_remove(next);
                now = end;
                in_flight[replica] -= 1;
            }
            let all = in_flight.iter().map(|in_flight| Candidate { in_flight: *in_flight, ..Candidate::default() });
            let replica = choose(all, None, &mut rng).expect("candidates");
            in_flight[replica] += 1;
            taken[replica] += 1;
            // Each replica serves at its own pace whatever its queue, so only the choice can protect the callers.
            ends.push((now + service[replica], replica));
        }
        assert!(taken[3] * 5 < taken[0], "{taken:?}");
        assert!(taken[..3].iter().all(|calls| *calls > 5_000), "{taken:?}");
    }

    /// What replicas do in a simulated second and a half: calls arrive at times drawn by Poisson's law, every replica computes one
    /// at a time.
    struct Simulated {
        /// What a call takes on each, in milliseconds, and whether it then fails.
        replicas: Vec<(f64, bool)>,
        per_second: f64,
        knows_latency: bool,
    }

    impl Simulated {
        /// How many calls each replica got, and what calls took in milliseconds, in order.
        fn run(&self) -> (Vec<u64>, Vec<f64>) {
            let mut rng = StdRng::seed_from_u64(3);
            let count = self.replicas.len();
            let (mut taken, mut free) = (vec![0; count], vec![0.0f64; count]);
            let (mut known, mut running, mut times) = (vec![Latency::default(); count], Vec::new(), Vec::new());
            let mut now = 0.0f64;
            while now < 30_000.0 {
                now -= (1.0 - rng.random::<f64>()).ln() / self.per_second * 1000.0;
                running.retain(|&(end, began, replica): &(f64, f64, usize)| {
                    let took = std::time::Duration::from_secs_f64((end - began) / 1000.0);
                    let learned: Latency = known[replica];
                    if end <= now {
                        let is_failure = self.replicas[replica].1;
                        let learned =
                            if is_failure { learned.fail(took, end as u32) } else { learned.observe(took, end as u32) };
                        known[replica] = learned;
                    }
                    end > now
                });
                let candidates: Vec<Candidate> = (0..count)
                    .map(|replica| Candidate {
                        in_flight: running.iter().filter(|(_, _, on)| *on == replica).count() as u64,
                        latency: known[replica].seconds(now as u32).filter(|_| self.knows_latency),
                        ..Candidate::default()
                    })
                    .collect();
                let chosen = choose(candidates.iter().copied(), None, &mut rng).expect("candidates");
                taken[chosen] += 1;
                let end = free[chosen].max(now) + self.replicas[chosen].0;
                free[chosen] = end;
                running.push((end, now, chosen));
                times.push(end - now);
            }
            times.sort_by(f64::total_cmp);
            (taken, times)
        }
    }

    /// One of four is fifty times slower: few calls meet it, and far fewer than when only calls in flight are counted.
    #[test]
    fn a_replica_that_is_slow_meets_few_calls() {
        let replicas = vec![(2.0, false), (2.0, false), (2.0, false), (100.0, false)];
        let run = |knows_latency| Simulated { replicas: replicas.clone(), per_second: 600.0, knows_latency }.run();
        let ((taken, times), (blind, _)) = (run(true), run(false));
        let p99 = times[times.len() * 99 / 100];
        assert!(taken[3] * 4 < blind[3], "{taken:?} {blind:?}");
        assert!(p99 < 30.0, "p99 {p99} ms");
    }

    /// One of four refuses everything at once: counted by calls in flight alone it would look the least busy of all.
    #[test]
    fn a_replica_that_fails_fast_draws_no_calls() {
        let replicas = vec![(5.0, false), (5.0, false), (5.0, false), (0.1, true)];
        let run = |knows_latency| Simulated { replicas: replicas.clone(), per_second: 300.0, knows_latency }.run().0;
        let (taken, blind) = (run(true), run(false));
        let share = |taken: &[u64]| taken[3] as f64 / taken.iter().sum::<u64>() as f64;
        assert!(share(&taken) < 0.02 && share(&blind) > 0.3, "{taken:?} {blind:?}");
    }

    /// A single call of a minute does not leave its replica idle while calls queue up at the other.
    #[test]
    fn one_long_call_does_not_take_its_replica_out() {
        let quick = |in_flight| Candidate { in_flight, latency: Some(0.002), ..Candidate::default() };
        let long = Candidate { latency: Some(60.0), ..Candidate::default() };
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(choose([quick(6), long].into_iter(), None, &mut rng), Some(0));
        assert_eq!(choose([quick(8), long].into_iter(), None, &mut rng), Some(1));
    }

    #[test]
    fn a_replica_that_has_just_come_is_neither_flooded_nor_shunned() {
        let known = Candidate { in_flight: 3, latency: Some(0.05), ..Candidate::default() };
        let new = |in_flight| Candidate { in_flight, ..Candidate::default() };
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(choose([known, new(2)].into_iter(), None, &mut rng), Some(1));
        assert_eq!(choose([known, new(4)].into_iter(), None, &mut rng), Some(0));
    }
}
