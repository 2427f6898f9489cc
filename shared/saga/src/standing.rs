//! Where the steps of a job stand to each other: what is ready, what is not needed any more, and what is due.

use crate::Millis;
use crate::definition::{Definition, Effect, Kind, Phase};
use crate::graph::Graph;
use crate::job::{Item, Job, JobState, Node, StepState};

/// How many undo's of a job run at once.
const UNDOS: usize = 16;

/// A look at a job, which fits its definition.
pub(crate) struct Standing<'a> {
    definition: &'a Definition,
    graph: &'a Graph,
    job: &'a Job,
    now: Millis,
    /// Enough of the steps before it have succeeded.
    joined: Vec<bool>,
    /// It has failed, or what it waits for cannot succeed any more.
    lost: Vec<bool>,
    /// Something that still waits waits for it, or it is the last of its way.
    needed: Vec<bool>,
}

impl<'a> Standing<'a> {
    pub(crate) fn of(definition: &'a Definition, graph: &'a Graph, job: &'a Job, now: Millis) -> Self {
        let none = vec![false; definition.steps.len()];
        let (joined, lost, needed) = (none.clone(), none.clone(), none);
        let mut standing = Self { definition, graph, job, now, joined, lost, needed };
        for &step in &graph.order {
            standing.join(step);
        }
        for &step in graph.order.iter().rev() {
            let after = &graph.after[step];
            let is_waited_for = after.iter().any(|&next| standing.needed[next] && !standing.joined[next]);
            standing.needed[step] =
                !standing.lost[step] && !standing.is(step, Phase::Finally) && (after.is_empty() || is_waited_for);
        }
        standing
    }

    fn join(&mut self, index: usize) {
        let step = &self.definition.steps[index];
        let asked = step.asked();
        // What is lost was skipped, or will be: it is over, and has not succeeded.
        let has_succeeded = |&&need: &&usize| !self.lost[need] && self.job.steps[need].has_succeeded();
        let succeeded = step.needs.iter().filter(has_succeeded).count();
        let lost = step.needs.iter().filter(|&&need| self.lost[need]).count();
        self.joined[index] = succeeded >= asked;
        let cannot_join = !self.joined[index] && step.needs.len().saturating_sub(lost) < asked;
        self.lost[index] = cannot_join || self.job.steps[index].items.iter().any(Item::has_failed);
    }

    fn is(&self, step: usize, phase: Phase) -> bool {
        self.definition.steps[step].phase == phase
    }

    pub(crate) fn is_needed(&self, step: usize) -> bool {
        self.needed[step]
    }

    /// A way to the end has been lost, so the job cannot succeed.
    pub(crate) fn has_failed(&self) -> bool {
        let is_last = |step: usize| self.graph.after[step].is_empty() && !self.is(step, Phase::Finally);
        let lost = (0..self.lost.len()).any(|step| self.lost[step] && (is_last(step) || self.is(step, Phase::Pivot)));
        lost || self.job.steps.iter().flat_map(|node| &node.items).any(|item| item.state == StepState::Unknown)
    }

    /// No step of these phases can have an effect any more that nobody knows of yet.
    fn are_settled(&self, phase: impl Fn(Phase) -> bool) -> bool {
        let steps = self.definition.steps.iter().zip(&self.job.steps);
        steps.filter(|(step, _)| phase(step.phase)).all(|(_, node)| node.is_settled())
    }

    /// The pivot has succeeded; without a pivot, everything but the final steps has.
    pub(crate) fn decides(&self) -> bool {
        match self.graph.pivot {
            Some(pivot) => self.job.steps[pivot].has_succeeded(),
            None => self.are_settled(|phase| phase != Phase::Finally) && !self.has_failed(),
        }
    }

    /// The pivot may have its effect, and nobody knows.
    pub(crate) fn is_deciding(&self) -> bool {
        let Some(pivot) = self.graph.pivot.filter(|_| !self.job.decided) else { return false };
        let has_effect = self.definition.steps[pivot].effect != Effect::Pure;
        has_effect && self.job.steps[pivot].items.iter().any(Item::is_open)
    }

    /// Everything but the final steps is over.
    pub(crate) fn is_over(&self) -> bool {
        match self.job.state {
            JobState::Running => self.job.decided && self.are_settled(|phase| phase != Phase::Finally),
            JobState::Compensating => self.are_settled(|phase| phase != Phase::Finally),
            JobState::Completed | JobState::Compensated | JobState::Abandoned => true,
        }
    }

    /// Nothing new may begin.
    pub(crate) fn is_held(&self) -> bool {
        self.job.paused || self.job.is_left_alone() || self.job.state.has_ended()
    }

    /// Whether attempts of the step may begin, apart from what is under way already.
    fn is_ready(&self, step: usize) -> bool {
        if self.is_held() {
            return false;
        }
        let phase = self.definition.steps[step].phase;
        if phase == Phase::Finally {
            return self.is_over();
        }
        if self.job.state != JobState::Running || !self.joined[step] {
            return false;
        }
        let in_time = self.now < self.job.deadline;
        match phase {
            Phase::Pre => !self.job.decided && in_time,
            Phase::Pivot => {
                let settled = self.are_settled(|phase| phase == Phase::Pre);
                !self.job.decided && settled && (in_time || self.is_deciding())
            }
            Phase::Post | Phase::Finally => self.job.decided,
        }
    }

    /// Steps whose condition and list shall be looked at.
    pub(crate) fn rulings(&self) -> Vec<usize> {
        let unruled = |step: &usize| !self.job.steps[*step].ruled && self.job.steps[*step].items.is_empty();
        let wanted = |step: &usize| self.needed[*step] || self.is(*step, Phase::Finally);
        (0..self.needed.len()).filter(|step| unruled(step) && wanted(step) && self.is_ready(*step)).collect()
    }

    /// Items that shall begin an attempt of their way forward now: as many of a list as may run at once.
    pub(crate) fn due(&self) -> Vec<(usize, usize)> {
        let mut due = Vec::new();
        for &step in &self.graph.order {
            let node = &self.job.steps[step];
            if !node.items.iter().any(|item| item.is_due(self.now)) || !self.is_ready(step) {
                continue;
            }
            let wanted = self.needed[step] || self.is(step, Phase::Finally);
            let running = node.items.iter().filter(|item| item.is_under_way()).count();
            let free = (self.definition.steps[step].parallelism.max(1) as usize).saturating_sub(running);
            let items = node.items.iter().enumerate();
            let begin = items.filter(|(_, item)| item.is_due(self.now) && (wanted || item.is_open()));
            due.extend(begin.take(free).map(|(item, _)| (step, item)));
        }
        due
    }

    /// Items that shall look for slots now.
    pub(crate) fn reservations(&self) -> Vec<(usize, usize)> {
        let reserves = |(step, _): &(usize, usize)| self.definition.steps[*step].kind == Kind::Reserve;
        self.due().into_iter().filter(reserves).collect()
    }

    /// Items that shall begin an attempt of their undo now: everything after them that has to be undone is, pure steps being transparent.
    pub(crate) fn undos(&self) -> Vec<(usize, usize)> {
        if self.is_held() || self.job.state != JobState::Compensating {
            return Vec::new();
        }
        let mut blocked = vec![false; self.needed.len()];
        let mut running = 0;
        for &step in self.graph.order.iter().rev() {
            let busy = |&next: &usize| blocked[next] || !self.job.steps[next].is_settled();
            blocked[step] = self.graph.after[step].iter().any(busy);
            if !self.is(step, Phase::Finally) {
                running += self.job.steps[step].items.iter().filter(|item| item.is_under_way()).count();
            }
        }
        let steps = self.graph.order.iter().rev().filter(|&&step| !blocked[step] && !self.is(step, Phase::Finally));
        let items = steps
            .flat_map(|&step| self.job.steps[step].items.iter().enumerate().map(move |(at, item)| (step, at, item)));
        let due = items.filter(|(_, _, item)| item.is_going_back() && item.is_due(self.now));
        due.map(|(step, at, _)| (step, at)).take(UNDOS.saturating_sub(running)).collect()
    }
}

impl Node {
    /// Every item that it has is done or skipped: by its condition, or because nothing needed it. A lost step may be skipped, too.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.ruled && self.items.iter().all(|item| matches!(item.state, StepState::Done | StepState::Skipped))
    }

    /// Nothing of it is under way, waits, or has to be undone.
    pub(crate) fn is_settled(&self) -> bool {
        let is_settled = |item: &Item| match item.state {
            StepState::Done | StepState::FailedClean | StepState::Skipped | StepState::Undone => true,
            StepState::Idle | StepState::Started | StepState::Probing => false,
            StepState::Unknown | StepState::Undoing | StepState::Stuck => false,
        };
        self.ruled && self.items.iter().all(is_settled)
    }
}

impl Item {
    fn has_failed(&self) -> bool {
        matches!(self.state, StepState::FailedClean | StepState::Unknown)
    }

    /// An attempt of it may have its effect, and nobody knows yet.
    pub(crate) fn is_open(&self) -> bool {
        match self.state {
            StepState::Started | StepState::Probing => true,
            StepState::Idle | StepState::Stuck => self.unknown,
            _ => false,
        }
    }

    /// An attempt is recorded whose end is not.
    pub(crate) fn is_under_way(&self) -> bool {
        match self.state {
            StepState::Started => true,
            StepState::Probing | StepState::Undoing => self.until > 0,
            _ => false,
        }
    }

    fn is_going_back(&self) -> bool {
        matches!(self.state, StepState::Undoing | StepState::Stuck)
    }

    /// It waits for its next attempt, in whichever direction.
    pub(crate) fn is_waiting(&self) -> bool {
        match self.state {
            StepState::Idle | StepState::Stuck => true,
            StepState::Probing | StepState::Undoing => self.until == 0,
            _ => false,
        }
    }

    fn is_due(&self, now: Millis) -> bool {
        self.is_waiting() && self.not_before <= now
    }
}
