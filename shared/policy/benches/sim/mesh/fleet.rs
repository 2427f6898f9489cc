//! The scheduler and the fleet: replicas come and go, workers fail and return.

use std::cmp::Reverse;

use rand::RngExt as _;

use super::super::lately::Lately;
use super::super::method::Placing;
use super::super::placing::{Change, HOLDS, Told};
use super::super::router::{Gate, Seen};
use super::super::scenario::SECOND;
use super::super::worker::Call;
use super::{Ending, Event, Mesh, NOWHERE};

/// Until the scheduler takes a worker for lost: the time that a lease lasts.
const LEASE: u64 = 5 * SECOND;
/// The pods of a bin packer are counted anew after so many ticks.
const AUTOSCALES: u32 = 3;

impl Mesh<'_> {
    pub(super) fn ready(&mut self, worker: u32, model: u32) {
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

    pub(super) fn tick(&mut self, count: u32) {
        if self.now + SECOND < self.scenario.span {
            self.events.push(Reverse((self.now + SECOND, Event::Tick(count + 1))));
        }
        self.measured.iter_mut().for_each(Lately::next);
        if self.now >= self.scenario.warm {
            self.tally.held += self.placement.replicas() as u64;
            self.tally.seats += (self.workers.len() * HOLDS) as u64;
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
    pub(super) fn place(&mut self, ticks: u32) {
        let seconds = f64::from(ticks.max(1)) * SECOND as f64;
        let used: Vec<f64> = self.used.iter_mut().map(|used| std::mem::take(used) as f64 / seconds).collect();
        let measured: Vec<_> = self.measured.iter().map(Lately::demand).collect();
        let told = Told { demand: &self.demand, used: &used, measured: &measured, now: self.rules().instant(self.now) };
        for change in self.placement.decide(&told) {
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

    pub(super) fn fail_next(&mut self) {
        let rate = self.scenario.fails * self.workers.len() as f64;
        if rate > 0.0 {
            let at = self.now + (-(1.0 - self.faults.random::<f64>()).ln() / rate * SECOND as f64) as u64;
            if at < self.scenario.span {
                self.events.push(Reverse((at, Event::Fail)));
            }
        }
    }

    /// A worker is gone with all that it was doing. Routers see their connections break; each call goes elsewhere once.
    pub(super) fn fail(&mut self, worker: u32) {
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
    pub(super) fn notice(&mut self, worker: u32) {
        if self.workers[worker as usize].is_down {
            self.placement.is_down[worker as usize] = true;
            self.placement.held[worker as usize].clear();
        }
    }

    /// A worker is there again and loads what is still placed there.
    pub(super) fn come_back(&mut self, worker: u32) {
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
