//! Routers: calls wait for their turn, go to a replica and come back.

use std::time::Duration;

use weft_policy::admit::{Asked, Band, Room, Sample};
use weft_types::Deadline;

use super::super::method::Balance;
use super::super::router::Told;
use super::super::worker::Call;
use super::{Ending, Mesh};

/// Calls that may wait at one router for one model.
const WAITING: usize = 4_096;

impl Mesh<'_> {
    /// As the router's admission has it.
    pub(super) fn enter(&mut self, call: Call) {
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
            let Some(call) = gate.line.pop(Band::Sheddable, &mut late, now) else { break };
            gate.in_flight += 1;
            granted.push_back(call);
        }
        late.clear();
        (self.granted, self.late) = (granted, late);
    }

    pub(super) fn flush(&mut self) {
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

    /// A call comes back to its router.
    pub(super) fn answer(&mut self, call: &Call, worker: u32, ending: Ending) {
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
        let in_time = ending == Ending::Answered && self.now <= call.deadline;
        self.measured[call.model as usize].now.ended(in_time);
        if in_time && call.arrived >= self.scenario.warm {
            let took = self.now - call.arrived;
            let calls = self.calls(call.model);
            calls.met += 1;
            calls.times.add(took);
        }
        self.leave(call, ending, told.as_ref());
    }

    /// A call gives its place back.
    pub(super) fn leave(&mut self, call: &Call, ending: Ending, told: Option<&Told>) {
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
}
