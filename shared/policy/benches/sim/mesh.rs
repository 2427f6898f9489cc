//! A mesh in virtual time: calls, routers, workers and a scheduler, as events in one queue. Every run of a seed is the same.

mod fleet;
mod routing;
mod serving;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_types::SystemClock;

use super::lately::Lately;
use super::method::Method;
use super::placing::Placement;
use super::router::Gate;
use super::scenario::{MS, SECOND, Scenario};
use super::tally::{Calls, Tally};
use super::worker::{Call, Rules, Worker};

const NOWHERE: u32 = u32::MAX;
/// A step of the course of utilization.
const STEP: u64 = 100 * MS;

/// The derived order decides between events of one moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    End(u32, u32),
    Wake(u32, u32),
    Ready(u32, u32, u32),
    Notice(u32, u32),
    Return(u32),
    Tick(u32),
    Fail,
    Arrive(u32),
}

/// How a call came back from a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Answered,
    Refused,
}

pub(crate) struct Mesh<'a> {
    scenario: &'a Scenario,
    method: Method,
    start: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    /// Arrivals and failures have their own randomness, so that they are the same whatever is decided upon them.
    arrivals: StdRng,
    faults: StdRng,
    rng: StdRng,
    next: u64,
    workers: Vec<Worker>,
    /// How often each worker has failed.
    lives: Vec<u32>,
    gates: Vec<Gate>,
    /// By model: its replicas; and by model and worker of its pool: the place in that list.
    replicas: Vec<Vec<u32>>,
    places: Vec<u32>,
    placement: Placement,
    demand: Vec<f64>,
    arrived: Vec<u32>,
    used: Vec<u64>,
    measured: Vec<Lately>,
    /// Calls that are to be sent to a replica now.
    granted: VecDeque<Call>,
    late: Vec<Call>,
    tally: Tally,
}

impl<'a> Mesh<'a> {
    pub(crate) fn run(scenario: &'a Scenario, method: Method, seed: u64) -> Option<Tally> {
        let models = scenario.models.len() * scenario.pools;
        let workers = scenario.workers * scenario.pools;
        let start = SystemClock::now();
        let mut mesh = Self {
            scenario,
            method,
            start,
            now: 0,
            events: BinaryHeap::new(),
            arrivals: StdRng::seed_from_u64(seed),
            faults: StdRng::seed_from_u64(seed ^ 0xfa17),
            rng: StdRng::seed_from_u64(seed ^ 0x00c4_01ce),
            next: 0,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            lives: vec![0; workers],
            gates: (0..models * scenario.routers).map(|_| Gate::new(start)).collect(),
            replicas: vec![Vec::new(); models],
            places: vec![NOWHERE; models * scenario.workers],
            placement: Placement::new(scenario, method.placing)?,
            demand: (0..models).map(|model| Self::mean_demand(scenario, model)).collect(),
            arrived: vec![0; models],
            used: vec![0; models],
            measured: vec![Lately::default(); models],
            granted: VecDeque::new(),
            late: Vec::new(),
            tally: Tally { course: vec![0.0; (scenario.span / STEP) as usize], ..Tally::default() },
        };
        mesh.place(0);
        (0..models as u32).for_each(|model| mesh.arrive_next(model));
        mesh.events.push(Reverse((SECOND, Event::Tick(1))));
        mesh.fail_next();
        while let Some(Reverse((at, event))) = mesh.events.pop() {
            mesh.now = at;
            mesh.handle(event);
            mesh.flush();
        }
        mesh.tally.there = ((scenario.span - scenario.warm) * workers as u64).saturating_sub(mesh.tally.absent);
        let step = (STEP * workers as u64) as f64;
        mesh.tally.course.iter_mut().for_each(|busy| *busy *= 100.0 / step);
        Some(mesh.tally)
    }

    fn mean_demand(scenario: &Scenario, model: usize) -> f64 {
        let of = &scenario.models[model % scenario.models.len()];
        of.rate * of.mean() / SECOND as f64
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(model) => self.arrive(model),
            Event::End(worker, epoch) if self.workers[worker as usize].epoch == epoch => self.end(worker),
            Event::Wake(worker, epoch) if self.workers[worker as usize].epoch == epoch => {
                self.workers[worker as usize].wake = u64::MAX;
                self.serve(worker);
            }
            Event::Ready(worker, model, life) if self.lives[worker as usize] == life => self.ready(worker, model),
            Event::Notice(worker, life) if self.lives[worker as usize] == life => self.notice(worker),
            Event::Return(worker) => self.come_back(worker),
            Event::Fail => {
                self.fail_next();
                let worker = self.faults.random_range(0..self.workers.len()) as u32;
                self.fail(worker);
            }
            Event::Tick(count) => self.tick(count),
            Event::End(..) | Event::Wake(..) | Event::Ready(..) | Event::Notice(..) => {}
        }
    }

    fn rules(&self) -> Rules<'a> {
        Rules { models: &self.scenario.models, orders: self.method.orders, start: self.start, now: self.now }
    }

    fn millis(&self) -> u32 {
        (self.now / MS) as u32
    }

    fn gate(&mut self, call: &Call) -> &mut Gate {
        &mut self.gates[call.router as usize * self.replicas.len() + call.model as usize]
    }

    fn place_of(&mut self, model: u32, worker: u32) -> &mut u32 {
        &mut self.places[model as usize * self.scenario.workers + worker as usize % self.scenario.workers]
    }

    fn calls(&mut self, model: u32) -> &mut Calls {
        let band = self.scenario.models[model as usize % self.scenario.models.len()].band;
        if band == 1 { &mut self.tally.realtime } else { &mut self.tally.batch }
    }

    /// Poisson's law at the rate of the moment.
    fn arrive_next(&mut self, model: u32) {
        let of = &self.scenario.models[model as usize % self.scenario.models.len()];
        let rate = of.rate_at(self.now, self.scenario.span).max(1e-3);
        let pause = -(1.0 - self.arrivals.random::<f64>()).ln() / rate * SECOND as f64;
        let at = self.now + pause as u64;
        if at < self.scenario.span {
            self.events.push(Reverse((at, Event::Arrive(model))));
        }
    }

    fn arrive(&mut self, model: u32) {
        self.arrive_next(model);
        let of = self.scenario.models[model as usize % self.scenario.models.len()];
        let call = Call {
            id: self.next,
            model,
            router: self.arrivals.random_range(0..self.scenario.routers) as u16,
            is_long: self.arrivals.random::<f64>() < of.longs,
            retried: false,
            stops: 0,
            arrived: self.now,
            sent: self.now,
            deadline: self.now + of.has,
        };
        self.next += 1;
        self.tally.calls += 1;
        self.arrived[model as usize] += 1;
        if call.arrived >= self.scenario.warm {
            self.calls(model).sent += 1;
        }
        self.enter(call);
    }
}
