//! A mesh in virtual time: calls, routers, workers and a scheduler, as events in one queue. Every run of a seed is the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use weft_policy::admit::{Asked, Band, Room, Sample};
use weft_types::{Deadline, SystemClock};

use super::method::{Balance, Method, Placing};
use super::placing::{Change, Placement};
use super::router::{Gate, Seen, Told};
use super::scenario::{MS, SECOND, Scenario};
use super::tally::{Calls, Tally};
use super::worker::{Call, Next, Rules, Worker};

/// Until the scheduler takes a worker for lost: the time that a lease lasts.
const LEASE: u64 = 5 * SECOND;
/// Calls that may wait at one router for one model.
const WAITING: usize = 4_096;
/// The pods of a bin packer are counted anew after so many ticks.
const AUTOSCALES: u32 = 3;
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

    /// As the router's admission has it.
    fn enter(&mut self, call: Call) {
        if !self.method.orders {
            return self.granted.push_back(call);
        }
        let (now, millis) = (self.rules().instant(self.now), self.millis());
        let band = self.scenario.models[call.model as usize % self.scenario.models.len()].band;
        let gate = self.gate(&call);
        if gate.line.is_empty() && gate.in_flight < gate.limit.calls() {
            gate.in_flight += 1;
            return self.granted.push_back(call);
        }
        let asked = Asked {
            band: Band::of(band.into()),
            tenant: 0,
            deadline: Deadline::after(now, Duration::from_micros(call.deadline - call.arrived)),
            needs: gate.quickest(millis),
        };
        let missing = Room { calls: (gate.line.len() + 1).saturating_sub(WAITING), bytes: 0 };
        // Whoever is refused or displaced has missed his deadline: only answers in time are counted.
        let _ = gate.line.push(asked, (call, 0), missing, now);
        self.grant(&call);
    }

    /// Gives free places to those that wait.
    fn grant(&mut self, of: &Call) {
        let now = self.rules().instant(self.now);
        let mut granted = std::mem::take(&mut self.granted);
        let mut late = std::mem::take(&mut self.late);
        let gate = self.gate(of);
        while !gate.line.is_empty() && gate.in_flight < gate.limit.calls() {
            let Some(call) = gate.line.pop(&mut late, now) else { break };
            gate.in_flight += 1;
            granted.push_back(call);
        }
        late.clear();
        (self.granted, self.late) = (granted, late);
    }

    fn flush(&mut self) {
        while let Some(call) = self.granted.pop_front() {
            self.send(call);
        }
    }

    fn send(&mut self, mut call: Call) {
        call.sent = self.now;
        let (millis, balance) = (self.millis(), self.method.balance);
        let remaining = Duration::from_micros(call.deadline.saturating_sub(self.now));
        let models = self.replicas.len();
        let gate = &mut self.gates[call.router as usize * models + call.model as usize];
        let Some(pick) = gate.choose(balance, remaining, &mut self.rng, millis).filter(|_| !remaining.is_zero()) else {
            return self.leave(&call, Ending::Refused, None);
        };
        gate.seen[pick].in_flight += 1;
        let worker = self.replicas[call.model as usize][pick];
        let rules = self.rules();
        let at = &mut self.workers[worker as usize];
        if rules.orders && !at.admits(&rules, &call, self.method.preempts) {
            return self.answer(&call, worker, Ending::Refused);
        }
        at.push(&rules, call);
        self.serve(worker);
    }

    /// Has a worker do what is next.
    fn serve(&mut self, worker: u32) {
        let rules = self.rules();
        let at = &mut self.workers[worker as usize];
        if at.is_down {
            return;
        }
        if at.running.is_some() {
            return self.make_way(worker);
        }
        let mut late = std::mem::take(&mut self.late);
        match at.next(&rules, &mut late) {
            Next::Run => self.begin(worker),
            Next::Wake(when) => self.wake(worker, when),
            Next::Nothing => {}
        }
        for call in late.drain(..) {
            self.answer(&call, worker, Ending::Refused);
        }
        self.late = late;
    }

    fn begin(&mut self, worker: u32) {
        let rules = self.rules();
        let at = &mut self.workers[worker as usize];
        let Some(first) = at.batch.first() else { return };
        let model = &self.scenario.models[first.model as usize % self.scenario.models.len()];
        let usual = model.fixed + model.each * at.batch.len() as u64;
        let takes = if at.batch.iter().any(|call| call.is_long) { model.long } else { usual };
        let takes = (takes as f64 * self.rng.random_range(0.9..1.1)) as u64;
        at.begin(&rules, takes);
        self.events.push(Reverse((self.now + takes, Event::End(worker, at.epoch))));
        // Who is left in the queue may be more urgent already.
        self.make_way(worker);
    }

    fn wake(&mut self, worker: u32, when: u64) {
        let at = &mut self.workers[worker as usize];
        if when < at.wake {
            at.wake = when;
            self.events.push(Reverse((when, Event::Wake(worker, at.epoch))));
        }
    }

    fn make_way(&mut self, worker: u32) {
        if !self.method.preempts {
            return;
        }
        let rules = self.rules();
        let at = &mut self.workers[worker as usize];
        let (stops, wake) = at.makes_way(&rules);
        if let Some(when) = wake {
            self.wake(worker, when);
        } else if stops && let Some(running) = &mut at.running {
            running.told = Some(self.now);
            let model = &self.scenario.models[running.model as usize % self.scenario.models.len()];
            let stopped = self.now + self.rng.random_range(0..=model.yields);
            // What ends by itself before that has not been stopped.
            if stopped < running.ends {
                running.stops = true;
                at.epoch += 1;
                self.events.push(Reverse((stopped, Event::End(worker, at.epoch))));
            }
        }
    }

    /// The part of a time that is counted, and what it adds to the course of utilization.
    fn counted(&mut self, began: u64) -> u64 {
        for step in began / STEP..=self.now / STEP {
            let within = self.now.min((step + 1) * STEP) - began.max(step * STEP);
            if let Some(busy) = self.tally.course.get_mut(step as usize) {
                *busy += within as f64;
            }
        }
        self.now.min(self.scenario.span).saturating_sub(began.max(self.scenario.warm))
    }

    fn end(&mut self, worker: u32) {
        let rules = self.rules();
        let Some(running) = self.workers[worker as usize].running.take() else { return };
        let counted = self.counted(running.began);
        let at = &mut self.workers[worker as usize];
        let mut batch = std::mem::take(&mut at.batch);
        if running.stops {
            let after = self.now - running.told.unwrap_or(self.now);
            at.stopped(after);
            batch.drain(..).for_each(|call| at.push(&rules, Call { stops: call.stops + 1, ..call }));
            self.tally.wasted += counted;
            self.tally.preemptions += 1;
            self.tally.switches.add(after);
        } else {
            at.learn(&rules, &running);
            self.tally.useful += counted;
            self.used[running.model as usize] += self.now - running.began;
            for call in batch.drain(..) {
                self.answer(&call, worker, Ending::Answered);
            }
        }
        self.workers[worker as usize].batch = batch;
        self.serve(worker);
    }

    /// A call comes back to its router.
    fn answer(&mut self, call: &Call, worker: u32, ending: Ending) {
        let place = *self.place_of(call.model, worker);
        let told = (self.method.balance == Balance::TwoChoices && ending == Ending::Answered).then(|| {
            let (rules, at) = (self.rules(), &self.workers[worker as usize]);
            Told {
                took: Duration::from_micros(self.now - call.sent),
                requests: at.queue.iter().filter(|other| other.model == call.model).count(),
                wait: at.wait(&rules, call.model),
            }
        });
        let millis = self.millis();
        if let Some(seen) = self.gate(call).seen.get_mut(place as usize) {
            seen.in_flight = seen.in_flight.saturating_sub(1);
            told.iter().for_each(|told| seen.hear(told, millis));
        }
        if ending == Ending::Answered && self.now <= call.deadline && call.arrived >= self.scenario.warm {
            let took = self.now - call.arrived;
            let calls = self.calls(call.model);
            calls.met += 1;
            calls.times.add(took);
        }
        self.leave(call, ending, told.as_ref());
    }

    /// A call gives its place back.
    fn leave(&mut self, call: &Call, ending: Ending, told: Option<&Told>) {
        if !self.method.orders {
            return;
        }
        let (rules, millis) = (self.rules(), self.millis());
        let rows = self.scenario.models[call.model as usize % self.scenario.models.len()].max_rows;
        let gate = self.gate(call);
        let in_flight = gate.in_flight;
        gate.in_flight = in_flight.saturating_sub(1);
        if let Some(told) = told {
            gate.note_quickest(told.took, millis);
        }
        if gate.line.is_empty() {
            return;
        }
        let sample = Sample {
            began: rules.instant(call.sent),
            in_flight,
            is_good: ending == Ending::Answered && rules.now <= call.deadline,
            wait: told.map(|told| told.wait.as_secs_f32()),
            load: told.map(|told| (told.requests + rows) as f32 / (2 * rows) as f32),
        };
        let before = gate.limit.calls();
        gate.limit.observe(&sample, rules.instant(rules.now));
        if gate.limit.calls() > before {
            gate.line.forget_pace(gate.limit.calls());
        }
        self.grant(call);
    }

    fn ready(&mut self, worker: u32, model: u32) {
        let Some(held) = self.placement.held[worker as usize].iter_mut().find(|held| held.0 == model) else { return };
        if std::mem::replace(&mut held.1, true) {
            return;
        }
        let count = self.replicas[model as usize].len() as u32;
        *self.place_of(model, worker) = count;
        self.replicas[model as usize].push(worker);
        self.each_gate(model, |gate, millis| gate.seen.push(Seen::new(millis)));
    }

    fn remove(&mut self, worker: u32, model: u32) {
        let place = std::mem::replace(self.place_of(model, worker), NOWHERE);
        if place == NOWHERE {
            return;
        }
        self.replicas[model as usize].swap_remove(place as usize);
        if let Some(moved) = self.replicas[model as usize].get(place as usize).copied() {
            *self.place_of(model, moved) = place;
        }
        self.each_gate(model, |gate, _| {
            gate.seen.swap_remove(place as usize);
        });
    }

    fn each_gate(&mut self, model: u32, act: impl Fn(&mut Gate, u32)) {
        let (models, millis, now) = (self.replicas.len(), self.millis(), self.rules().instant(self.now));
        let replicas = self.replicas[model as usize].len() as u32;
        for gate in self.gates.iter_mut().skip(model as usize).step_by(models) {
            act(gate, millis);
            gate.limit.resize(replicas, now);
        }
    }

    fn tick(&mut self, count: u32) {
        if self.now + SECOND < self.scenario.span {
            self.events.push(Reverse((self.now + SECOND, Event::Tick(count + 1))));
        }
        if self.method.placing == Placing::Requests && !count.is_multiple_of(AUTOSCALES) {
            return;
        }
        let ticks = if self.method.placing == Placing::Requests { AUTOSCALES } else { 1 };
        let seconds = f64::from(ticks);
        for model in 0..self.arrived.len() {
            let of = &self.scenario.models[model % self.scenario.models.len()];
            let seen = f64::from(std::mem::take(&mut self.arrived[model])) * of.mean() / SECOND as f64 / seconds;
            self.demand[model] = (self.demand[model] + seen) / 2.0;
        }
        self.place(ticks);
    }

    /// Asks the placement; `ticks` are the seconds since it was asked last, none at the beginning.
    fn place(&mut self, ticks: u32) {
        let seconds = f64::from(ticks.max(1)) * SECOND as f64;
        let used: Vec<f64> = self.used.iter_mut().map(|used| std::mem::take(used) as f64 / seconds).collect();
        for change in self.placement.decide(&self.demand, &used) {
            match change {
                Change::Load(worker, model) if ticks == 0 => self.ready(worker, model),
                Change::Load(worker, model) => {
                    self.tally.moves += 1;
                    self.load(worker, model);
                }
                Change::Unload(worker, model) => {
                    self.tally.moves += 1;
                    self.remove(worker, model);
                }
            }
        }
    }

    fn load(&mut self, worker: u32, model: u32) {
        let loads = self.scenario.models[model as usize % self.scenario.models.len()].loads;
        let life = self.lives[worker as usize];
        self.events.push(Reverse((self.now + loads, Event::Ready(worker, model, life))));
    }

    fn fail_next(&mut self) {
        let rate = self.scenario.fails * self.workers.len() as f64;
        if rate > 0.0 {
            let at = self.now + (-(1.0 - self.faults.random::<f64>()).ln() / rate * SECOND as f64) as u64;
            if at < self.scenario.span {
                self.events.push(Reverse((at, Event::Fail)));
            }
        }
    }

    /// A worker is gone with all that it was doing. Routers see their connections break; each call goes elsewhere once.
    fn fail(&mut self, worker: u32) {
        let at = &mut self.workers[worker as usize];
        if std::mem::replace(&mut at.is_down, true) {
            return;
        }
        at.epoch += 1;
        let running = at.running.take();
        let lost: Vec<Call> = at.queue.drain(..).chain(at.batch.drain(..)).collect();
        if let Some(running) = running {
            self.tally.wasted += self.counted(running.began);
        }
        let until = (self.now + self.scenario.down).min(self.scenario.span);
        self.tally.absent += until.saturating_sub(self.now.max(self.scenario.warm));
        self.lives[worker as usize] += 1;
        let life = self.lives[worker as usize];
        for model in self.placement.held[worker as usize].clone() {
            self.remove(worker, model.0);
        }
        self.events.push(Reverse((self.now + LEASE, Event::Notice(worker, life))));
        self.events.push(Reverse((self.now + self.scenario.down, Event::Return(worker))));
        for mut call in lost {
            if call.retried {
                self.leave(&call, Ending::Refused, None);
            } else {
                call.retried = true;
                self.granted.push_back(call);
            }
        }
    }

    /// The worker's lease has ended.
    fn notice(&mut self, worker: u32) {
        if self.workers[worker as usize].is_down {
            self.placement.is_down[worker as usize] = true;
            self.placement.held[worker as usize].clear();
        }
    }

    /// A worker is there again and loads what is still placed there.
    fn come_back(&mut self, worker: u32) {
        self.workers[worker as usize].is_down = false;
        self.placement.is_down[worker as usize] = false;
        for held in &mut self.placement.held[worker as usize] {
            held.1 = false;
        }
        for (model, _) in self.placement.held[worker as usize].clone() {
            self.load(worker, model);
        }
    }
}
