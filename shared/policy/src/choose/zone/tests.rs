use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::super::{Candidate, Reported, Terms, choose, odds};

/// Zones with their replicas, and the callers of one router in each; every replica computes eight calls at a time, 40 ms each.
struct World<'a> {
    replicas: &'a [usize],
    /// The part of all calls that begin in each zone.
    traffic: &'a [f64],
    /// How busy all replicas are together.
    utilization: f64,
    prefers: bool,
}

#[derive(Debug)]
struct Outcome {
    /// What the busiest replica had in flight on average, in terms of what all had.
    most: f64,
    /// The share of each zone's calls that stayed there.
    stayed: Vec<f64>,
    p99_ms: f64,
}

/// What one router knows of a replica.
#[derive(Clone, Copy, Default)]
struct Seen {
    own: u64,
    others: Reported,
}

const SLOTS: usize = 8;
const SERVICE: u64 = 40_000;

impl World<'_> {
    fn run(&self) -> Outcome {
        const CALLS: usize = 30_000;
        let mut rng = StdRng::seed_from_u64(11);
        let zone_of: Vec<usize> =
            self.replicas.iter().enumerate().flat_map(|(zone, count)| vec![zone; *count]).collect();
        let per_us = self.utilization * (zone_of.len() * SLOTS) as f64 / SERVICE as f64;
        let mut seen = vec![vec![Seen::default(); zone_of.len()]; self.replicas.len()];
        let (mut all, mut sums) = (vec![0u64; zone_of.len()], vec![0u64; zone_of.len()]);
        let mut free = vec![[0u64; SLOTS]; zone_of.len()];
        let (mut sent, mut stayed) = (vec![0u32; self.replicas.len()], vec![0u32; self.replicas.len()]);
        let mut running = BinaryHeap::new();
        let (mut times, mut now) = (Vec::new(), 0.0);
        for _ in 0..CALLS {
            now -= (1.0 - rng.random::<f64>()).ln() / per_us;
            let (us, clock) = (now as u64, (now / 1e3) as u32);
            while running.peek().is_some_and(|Reverse((end, _, _)): &Reverse<(u64, usize, usize)>| *end <= us) {
                let Some(Reverse((end, router, replica))) = running.pop() else { break };
                let known = &mut seen[router][replica];
                (all[replica], known.own) = (all[replica] - 1, known.own - 1);
                known.others = Reported::others(all[replica] as f64, known.own, (end / 1_000) as u32);
            }
            sums.iter_mut().zip(&all).for_each(|(sum, there)| *sum += there);
            let router = self.origin(rng.random());
            let candidates = seen[router].iter().zip(&zone_of).map(|(seen, zone)| Candidate {
                in_flight: seen.own,
                others: seen.others.faded(clock),
                local: self.prefers && *zone == router,
                latency: Some(0.04),
                there_for: Duration::from_secs(3_600),
                ..Candidate::default()
            });
            let replica = choose(candidates, Terms::default(), &mut rng).expect("candidates");
            let slot = (0..SLOTS).min_by_key(|slot| free[replica][*slot]).unwrap_or(0);
            let end = free[replica][slot].max(us) + SERVICE;
            free[replica][slot] = end;
            (all[replica], seen[router][replica].own) = (all[replica] + 1, seen[router][replica].own + 1);
            (sent[router], stayed[router]) = (sent[router] + 1, stayed[router] + u32::from(zone_of[replica] == router));
            times.push((end - us) as f64 / 1e3);
            running.push(Reverse((end, router, replica)));
        }
        times.sort_by(f64::total_cmp);
        let average = sums.iter().sum::<u64>() as f64 / sums.len() as f64;
        Outcome {
            most: sums.iter().map(|sum| *sum as f64 / average).fold(0.0, f64::max),
            stayed: sent
                .iter()
                .zip(stayed)
                .map(|(sent, stayed)| f64::from(stayed) / f64::from(*sent).max(1.0))
                .collect(),
            p99_ms: times[CALLS * 99 / 100],
        }
    }

    fn origin(&self, mut unit: f64) -> usize {
        let crossed = self.traffic.iter().position(|part| {
            unit -= part;
            unit < 0.0
        });
        crossed.unwrap_or(0)
    }
}

#[test]
fn calls_stay_where_zones_are_balanced() {
    for utilization in [0.3, 0.7] {
        let world = World { replicas: &[4, 4, 4], traffic: &[0.34, 0.33, 0.33], utilization, prefers: true };
        let (with, without) = (world.run(), World { prefers: false, ..world }.run());
        assert!(with.stayed.iter().all(|stayed| *stayed > 0.8), "{with:?}");
        assert!(without.stayed.iter().all(|stayed| *stayed < 0.4), "{without:?}");
        assert!(with.most < 1.5 && with.p99_ms < 1.2 * without.p99_ms, "{with:?} {without:?}");
    }
}

/// One replica here and nine there, and all calls begin here: it takes its part, and little more.
#[test]
fn a_small_zone_does_not_become_hot() {
    for (replicas, traffic) in [
        (&[1, 9][..], &[1.0, 0.0][..]),
        (&[1, 9], &[0.5, 0.5]),
        (&[2, 6, 4], &[0.34, 0.33, 0.33]),
        (&[6, 2], &[0.1, 0.9]),
    ] {
        for utilization in [0.3, 0.6, 0.85] {
            let world = World { replicas, traffic, utilization, prefers: true };
            let (with, without) = (world.run(), World { prefers: false, ..world }.run());
            assert!(with.most < 1.5, "{replicas:?} {traffic:?} {utilization}: {with:?}");
            assert!(with.p99_ms < 1.5 * without.p99_ms, "{replicas:?} {traffic:?} {utilization}: {with:?} {without:?}");
        }
    }
}

/// Where a crossing costs time, more of the calls stay.
#[test]
fn what_a_crossing_takes_counts() {
    let near = Candidate { in_flight: 3, latency: Some(0.002), local: true, ..Candidate::default() };
    let far = Candidate { in_flight: 2, local: false, ..near };
    let stays = |far: Candidate| odds(&[near, far, far], None)[0] > 0.999;
    assert_eq!((stays(far), stays(Candidate { latency: Some(0.004), ..far })), (false, true));
}

proptest! {
    /// With no replica of the zone, or none elsewhere, everything is as if there were no zones; draws included.
    #[test]
    fn without_a_choice_of_zones_nothing_changes(loads in proptest::collection::vec(0u64..9, 1..9), local: bool, seed: u64) {
        let of = |local| loads.iter().map(move |in_flight| Candidate { in_flight: *in_flight, local, ..Candidate::default() });
        let taken = |local| choose(of(local), None, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(taken(local), taken(false));
    }

    /// A call never leaves its zone for a replica that has as much to do, and an idle local replica keeps it.
    #[test]
    fn leaving_is_for_less_to_do(near in 0u64..20, loads in proptest::collection::vec(0u64..20, 1..9), seed: u64) {
        let local = Candidate { in_flight: near, local: true, ..Candidate::default() };
        let far = loads.iter().map(|in_flight| Candidate { in_flight: *in_flight, ..Candidate::default() });
        let all: Vec<Candidate> = std::iter::once(local).chain(far).collect();
        let taken = choose(all.iter().copied(), None, &mut StdRng::seed_from_u64(seed)).expect("candidates");
        prop_assert!(taken == 0 || all[taken].in_flight < near, "{taken} of {near} and {loads:?}");
    }
}
