//! Admission in front of a replica, in virtual time: calls arrive by Poisson's law, and every run of a seed is the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_types::{Deadline, SystemClock};

use super::{Asked, Band, Limit, Line, Refusal, Room, Sample};
use crate::choose::Quickest;

const SECOND: u64 = 1_000_000;
/// What is counted comes after this.
const WARM: u64 = 5 * SECOND;
const SPAN: u64 = 25 * SECOND;
/// Calls that may wait at once.
const MOST: usize = 4_096;

/// How the replica serves, in microseconds and within a fifth of that more or less. It takes calls in order and drops what it cannot be
/// sure to end in time.
#[derive(Clone, Copy)]
enum Server {
    Slots { slots: usize, takes: u64 },
    Batches { fixed: u64, each: f64, most: usize },
}

const SLOTS: Server = Server::Slots { slots: 24, takes: 10_000 };
/// Who waits for a place waits for the next call to end: with many slots that is soon.
const MANY: Server = Server::Slots { slots: 128, takes: 10_000 };
const BATCHES: Server = Server::Batches { fixed: 10_000, each: 250.0, most: 64 };

impl Server {
    fn executors(self) -> usize {
        match self {
            Self::Slots { slots, .. } => slots,
            Self::Batches { .. } => 1,
        }
    }

    fn takes(self, calls: usize) -> u64 {
        match self {
            Self::Slots { takes, .. } => takes,
            Self::Batches { fixed, each, .. } => fixed + (each * calls as f64) as u64,
        }
    }

    fn most(self) -> usize {
        match self {
            Self::Slots { .. } => 1,
            Self::Batches { most, .. } => most,
        }
    }

    /// Calls per second.
    fn capacity(self) -> f64 {
        (self.executors() * self.most()) as f64 * SECOND as f64 / self.takes(self.most()) as f64
    }
}

/// Callers that are alike.
#[derive(Clone, Copy)]
struct Source {
    per_second: f64,
    band: Band,
    tenant: u64,
    /// What their calls have, in microseconds.
    has: u64,
}

#[derive(Default, Debug)]
struct Outcome {
    sent: usize,
    /// What calls took that were answered in time, in microseconds, in order.
    good: Vec<u64>,
    late: usize,
    refused: usize,
}

impl Outcome {
    fn p99(&self) -> f64 {
        self.good[(self.good.len() - 1) * 99 / 100] as f64
    }

    fn per_second(&self) -> f64 {
        self.good.len() as f64 / ((SPAN - WARM) as f64 / SECOND as f64)
    }
}

#[derive(Clone, Copy, Debug)]
struct Call {
    source: usize,
    arrived: u64,
    began: u64,
    deadline: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    End(usize),
}

struct World {
    server: Server,
    sources: Vec<Source>,
    /// The replica takes so many times as long, at a moment.
    slowness: fn(u64) -> u64,
    start: Instant,
    now: u64,
    limit: Limit,
    line: Line<Call>,
    in_flight: u32,
    quickest: Quickest,
    at_server: VecDeque<Call>,
    idle: usize,
    running: Vec<Vec<Call>>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    outcomes: Vec<Outcome>,
    /// The limit, each 100 ms.
    limits: Vec<u32>,
    rng: StdRng,
}

impl World {
    fn new(server: Server, sources: Vec<Source>) -> Self {
        let start = SystemClock::now();
        Self {
            server,
            slowness: |_| 1,
            start,
            now: 0,
            limit: Limit::new(1, start),
            line: Line::new(Duration::from_millis(25), 64, start),
            in_flight: 0,
            quickest: Quickest::default(),
            at_server: VecDeque::new(),
            idle: server.executors(),
            running: Vec::new(),
            events: BinaryHeap::new(),
            outcomes: sources.iter().map(|_| Outcome::default()).collect(),
            limits: Vec::new(),
            rng: StdRng::seed_from_u64(5),
            sources,
        }
    }

    fn run(mut self) -> (Vec<Outcome>, Vec<u32>) {
        (0..self.sources.len()).for_each(|source| self.arrive_next(source));
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at >= SPAN {
                break;
            }
            self.now = at;
            while (self.limits.len() as u64) * SECOND / 10 <= at {
                self.limits.push(self.limit.calls());
            }
            match event {
                Event::Arrive(source) => {
                    self.arrive_next(source);
                    self.arrive(source);
                }
                Event::End(batch) => self.end(batch),
            }
            self.serve();
        }
        self.outcomes.iter_mut().for_each(|outcome| outcome.good.sort_unstable());
        (self.outcomes, self.limits)
    }

    fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_micros(at)
    }

    fn arrive_next(&mut self, source: usize) {
        let pause = -(1.0 - self.rng.random::<f64>()).ln() / self.sources[source].per_second * SECOND as f64;
        self.events.push(Reverse((self.now + pause as u64, Event::Arrive(source))));
    }

    fn count(&mut self, call: Call, note: impl FnOnce(&mut Outcome)) {
        if call.arrived >= WARM {
            note(&mut self.outcomes[call.source]);
        }
    }

    fn arrive(&mut self, source: usize) {
        let Source { band, tenant, has, .. } = self.sources[source];
        let call = Call { source, arrived: self.now, began: self.now, deadline: self.now + has };
        self.count(call, |outcome| outcome.sent += 1);
        if self.line.is_empty() && self.in_flight < self.limit.calls() {
            return self.begin(call);
        }
        let needs = self.quickest.seconds((self.now / 1_000) as u32).unwrap_or(0.0);
        let deadline = Deadline::after(self.instant(call.deadline), Duration::ZERO);
        let asked = Asked { band, tenant, deadline, needs: Duration::from_secs_f32(needs) };
        let missing = Room { calls: (self.line.len() + 1).saturating_sub(MOST), bytes: 0 };
        let place = self.line.push(asked, (call, 0), missing, self.instant(self.now));
        let refused = place.outcome.err().map(|(_, call): (Refusal, Call)| call);
        for call in place.displaced.into_iter().chain(refused) {
            self.count(call, |outcome| outcome.refused += 1);
        }
    }

    fn begin(&mut self, call: Call) {
        self.in_flight += 1;
        self.at_server.push_back(Call { began: self.now, ..call });
    }

    /// The call's place is free again.
    fn leave(&mut self, call: Call, is_good: bool) {
        let now = self.instant(self.now);
        if !self.line.is_empty() {
            let (began, in_flight) = (self.instant(call.began), self.in_flight);
            let before = self.limit.calls();
            self.limit.observe(&Sample { began, in_flight, is_good, wait: None, load: None }, now);
            if self.limit.calls() > before {
                self.line.forget_pace(self.limit.calls());
            }
        }
        self.in_flight -= 1;
        let mut late = Vec::new();
        while self.in_flight < self.limit.calls() {
            let Some(next) = self.line.pop(Band::Sheddable, &mut late, now) else { break };
            self.begin(next);
        }
        late.into_iter().for_each(|call| self.count(call, |outcome| outcome.refused += 1));
    }

    /// The replica begins what it can, and refuses what it cannot end in time.
    fn serve(&mut self) {
        while self.idle > 0 && !self.at_server.is_empty() {
            let takes = |calls: usize| (self.server.takes(calls) * (self.slowness)(self.now)) as f64;
            let soonest = self.now + (takes(self.at_server.len().min(self.server.most())) * 1.2) as u64;
            let (able, hopeless): (VecDeque<Call>, VecDeque<Call>) =
                std::mem::take(&mut self.at_server).into_iter().partition(|call| call.deadline >= soonest);
            self.at_server = able;
            let batch: Vec<Call> = self.at_server.drain(..self.at_server.len().min(self.server.most())).collect();
            if !batch.is_empty() {
                let end = self.now + (takes(batch.len()) * self.rng.random_range(0.8..1.2)) as u64;
                self.idle -= 1;
                self.running.push(batch);
                self.events.push(Reverse((end, Event::End(self.running.len() - 1))));
            }
            for call in hopeless {
                self.count(call, |outcome| outcome.refused += 1);
                self.leave(call, false);
            }
        }
    }

    fn end(&mut self, batch: usize) {
        self.idle += 1;
        for call in std::mem::take(&mut self.running[batch]) {
            let is_good = self.now <= call.deadline;
            let took = Duration::from_micros(self.now - call.began);
            self.quickest = self.quickest.observe(took, (self.now / 1_000) as u32);
            let whole = self.now - call.arrived;
            self.count(call, |outcome| if is_good { outcome.good.push(whole) } else { outcome.late += 1 });
            self.leave(call, is_good);
        }
    }
}

fn source(per_second: f64, band: Band, tenant: u64, has: u64) -> Source {
    Source { per_second, band, tenant, has }
}

/// At one, two and three times what the replica can do, with deadlines of two and five times what a call takes there.
#[test]
fn goodput_stays_near_its_peak() {
    for (name, server) in [("slots", SLOTS), ("batches", BATCHES)] {
        for times in [2, 5] {
            let has = times * server.takes(server.most());
            let goodput = |load: f64| {
                let (outcomes, limits) =
                    World::new(server, vec![source(load * server.capacity(), Band::Default, 0, has)]).run();
                assert_eq!(outcomes[0].late, 0);
                (outcomes[0].per_second() / server.capacity(), limits.last().copied())
            };
            let all = [1.0, 2.0, 3.0].map(goodput);
            let peak = all.iter().map(|(goodput, _)| *goodput).fold(0.0, f64::max);
            assert!(peak > 0.9 && all.iter().all(|(goodput, _)| *goodput >= 0.9 * peak), "{name} {times}: {all:?}");
        }
    }
}

/// It comes down to the replica's capacity within a second, and a replica that becomes five times as slow for a while costs it nothing.
#[test]
fn the_limit_finds_capacity_and_does_not_collapse() {
    let world = World::new(SLOTS, vec![source(2.0 * SLOTS.capacity(), Band::Default, 0, SECOND)]);
    let (_, limits) = World { slowness: |now| if (8..16).contains(&(now / SECOND)) { 5 } else { 1 }, ..world }.run();
    let after = |seconds: usize| &limits[seconds * 10..];
    assert!((20..=40).contains(&limits[10]), "{limits:?}");
    assert!(after(1).iter().all(|limit| (14..=96).contains(limit)), "{limits:?}");
    let mean = |limits: &[u32]| limits.iter().sum::<u32>() as f64 / limits.len() as f64;
    for span in [1..8, 10..16, 18..25] {
        let mean = mean(&limits[span.start * 10..span.end * 10]);
        assert!((22.0..30.0).contains(&mean), "{span:?}: {mean} {limits:?}");
    }
}

/// Beside a tenant that sends a hundred times its share, another one's calls take what they take alone.
#[test]
fn a_flood_does_not_reach_another_tenant() {
    let small = source(0.03 * MANY.capacity(), Band::Default, 1, SECOND);
    let flood = source(3.0 * MANY.capacity(), Band::Default, 2, SECOND);
    let (alone, _) = World::new(MANY, vec![small]).run();
    let (beside, limits) = World::new(MANY, vec![small, flood]).run();
    assert!(beside[0].refused * 1_000 <= beside[0].sent, "{} of {}", beside[0].refused, beside[0].sent);
    assert!(beside[1].refused > beside[1].sent / 2);
    let (alone, beside) = (alone[0].p99(), beside[0].p99());
    assert!(beside <= alone * 1.1, "{beside} {alone} {limits:?}");
}

/// What remains to them is a call's time and the wait for the next call to end.
#[test]
fn critical_calls_suffer_nothing_while_others_are_shed() {
    let of = |share: f64, band| source(share * SLOTS.capacity(), band, 0, 50_000);
    let all = vec![of(0.3, Band::Critical), of(0.5, Band::Default), of(2.0, Band::Sheddable)];
    let (outcomes, _) = World::new(SLOTS, all).run();
    let good = |band: usize| outcomes[band].good.len() as f64 / outcomes[band].sent as f64;
    assert!(good(0) > 0.999 && good(1) > 0.98 && good(2) < 0.2, "{} {} {}", good(0), good(1), good(2));
    assert!(outcomes[0].p99() <= 15_000.0, "{}", outcomes[0].p99());
}
