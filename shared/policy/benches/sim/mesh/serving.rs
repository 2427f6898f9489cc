//! Workers: batches begin, make way and end.

use std::cmp::Reverse;

use rand::RngExt as _;

use super::super::worker::{Call, Next};
use super::{Ending, Event, Mesh, STEP};

impl Mesh<'_> {
    /// Has a worker do what is next.
    pub(super) fn serve(&mut self, worker: u32) {
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
    pub(super) fn counted(&mut self, began: u64) -> u64 {
        for step in began / STEP..=self.now / STEP {
            let within = self.now.min((step + 1) * STEP) - began.max(step * STEP);
            if let Some(busy) = self.tally.course.get_mut(step as usize) {
                *busy += within as f64;
            }
        }
        self.now.min(self.scenario.span).saturating_sub(began.max(self.scenario.warm))
    }

    pub(super) fn end(&mut self, worker: u32) {
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
            let took = self.now - running.began;
            self.used[running.model as usize] += took;
            self.measured[running.model as usize].now.busy += took;
            for call in batch.drain(..) {
                self.measured[call.model as usize].now.executed(took, running.began - call.sent);
                self.answer(&call, worker, Ending::Answered);
            }
        }
        self.workers[worker as usize].batch = batch;
        self.serve(worker);
    }
}
