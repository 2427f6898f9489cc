//! The invariants of jobs, as a fold over what was committed and what the participants saw.

use std::collections::{BTreeMap, BTreeSet};

use weft_saga::{
    Definition, Direction, Effect, Event, Item, Job, JobState, Join, Kind, Outcome, Phase, Ruling, StepState, Verb,
};

use crate::world::{Commit, Entry, What, World, without_pauses};

/// Every breach, in words. Empty is right.
pub(crate) fn judge(world: &World) -> Vec<String> {
    let mut judge = Judge {
        definition: &world.definition,
        below: below(&world.definition),
        left_out: BTreeSet::new(),
        takeovers: 0,
        found: Vec::new(),
    };
    for (index, commit) in world.log.iter().enumerate() {
        let from = judge.found.len();
        judge.commit(commit);
        for breach in &mut judge.found[from..] {
            *breach = format!("commit {index} ({:?}): {breach}", commit.event);
        }
    }
    judge.intents(&world.log, &world.ledger);
    judge.effects(&world.job, &world.ledger);
    judge.found
}

/// Which steps come after each, through any number of others, without the final ones.
fn below(definition: &Definition) -> Vec<Vec<usize>> {
    let count = definition.steps.len();
    let mut below = vec![vec![false; count]; count];
    for _ in 0..count {
        for (step, plan) in definition.steps.iter().enumerate().filter(|(_, plan)| plan.phase != Phase::Finally) {
            for &need in &plan.needs {
                let further = below[step].clone();
                below[need][step] = true;
                for (all, further) in below[need].iter_mut().zip(further) {
                    *all |= further;
                }
            }
        }
    }
    below.iter().map(|row| (0..count).filter(|&step| row[step]).collect()).collect()
}

struct Judge<'a> {
    definition: &'a Definition,
    below: Vec<Vec<usize>>,
    /// Steps of which somebody has said that they need not run: their condition, or an operator.
    left_out: BTreeSet<usize>,
    takeovers: u32,
    found: Vec<String>,
}

impl Judge<'_> {
    fn hold(&mut self, right: bool, breach: impl FnOnce() -> String) {
        if !right {
            self.found.push(breach());
        }
    }

    /// A step has succeeded when all that it was to do is done, or when somebody has said that it need not run. That it was skipped is no success:
    /// nothing needed it any more, or it could not run.
    fn succeeded(&self, job: &Job, step: usize) -> bool {
        let node = &job.steps[step];
        let right = |item: &Item| match item.state {
            StepState::Done => true,
            StepState::Skipped => self.left_out.contains(&step),
            _ => false,
        };
        node.ruled && node.items.iter().all(right)
    }

    fn commit(&mut self, commit: &Commit) {
        let Commit { event, before, after, .. } = commit;
        if let Event::Ruled { step, ruling: Ruling::Skip } | Event::Resolve(Verb::Skip { step, .. }) = event {
            self.left_out.insert(*step);
        }
        self.takeovers += u32::from(*event == Event::TakenOver);
        self.hold(!before.state.has_ended(), || "S1: an ended job has changed".to_owned());
        self.hold(after.revision == before.revision + 1, || "S11: revisions grow by one".to_owned());
        self.hold(!before.decided || after.decided, || "S9: a decision was taken back".to_owned());
        self.hold(!after.decided || after.state != JobState::Compensating, || "S9: undone though decided".to_owned());

        let none = Item::default();
        for (step, node) in after.steps.iter().enumerate() {
            for (at, item) in node.items.iter().enumerate() {
                let was = before.steps[step].items.get(at).unwrap_or(&none);
                self.item(commit, (step, at), was, item);
            }
            self.bounds(step, after);
        }
        self.holds(commit);
        self.turn(commit);
        self.waits(commit);
        self.time_and_trouble(commit);
        if matches!(event, Event::Cancel { .. }) {
            self.hold(!before.decided && !deciding(self.definition, before), || "S9: cancelled too late".to_owned());
        }
    }

    fn item(&mut self, commit: &Commit, (step, at): (usize, usize), was: &Item, item: &Item) {
        let name = format!("{}[{at}]", self.definition.steps[step].name);
        let plan = &self.definition.steps[step];
        if item.attempts > was.attempts {
            self.forward(commit, step, was);
            self.hold(item.attempts == was.attempts + 1, || format!("{name}: attempts count one by one"));
            let most = plan.retry.max_attempts + self.takeovers;
            let bounded = plan.phase != Phase::Pre || item.attempts <= most;
            self.hold(bounded, || format!("L5: {name}: {} attempts", item.attempts));
        }
        if item.undo_attempts > was.undo_attempts || item.state == StepState::Undone && was.state != StepState::Undone {
            self.back(commit, step);
        }
        self.pause(commit, (step, at), was, item);
        let absent = matches!(&commit.event, Event::Ended { outcome: Outcome::Absent, .. });
        let was_open = was.unknown && was.state != StepState::FailedClean;
        let clean = item.state != StepState::FailedClean || !was_open || absent;
        self.hold(clean, || format!("S8: {name} failed cleanly after an unknown attempt"));
    }

    /// L5: what is repeated without end has a pause before it.
    fn pause(&mut self, commit: &Commit, (step, at): (usize, usize), was: &Item, item: &Item) {
        let plan = &self.definition.steps[step];
        let Event::Ended { step: of, item: which, direction, outcome, .. } = &commit.event else { return };
        let failed = matches!(outcome, Outcome::FailedClean(_) | Outcome::Unknown(_)) && (*of, *which) == (step, at);
        let endless = *direction == Direction::Undo || matches!(plan.phase, Phase::Post | Phase::Finally);
        if failed && endless && item.failures > was.failures {
            self.hold(item.not_before > commit.now, || format!("L5: {} is repeated at once", plan.name));
        }
    }

    /// S6, S9, S21: an attempt of the way forward was recorded.
    fn forward(&mut self, commit: &Commit, step: usize, was: &Item) {
        let after = &commit.after;
        let plan = &self.definition.steps[step];
        let name = &plan.name;
        let paused = commit.before.paused && after.paused;
        self.hold(!paused, || format!("{name} began in a paused job"));
        if plan.phase == Phase::Finally {
            let over = after.decided || matches!(after.state, JobState::Compensating | JobState::Compensated);
            let settled = (0..after.steps.len())
                .all(|other| self.definition.steps[other].phase == Phase::Finally || settled(after, other));
            self.hold(over && settled, || format!("S2: the final step {name} began before the end"));
            return;
        }
        let asked = match plan.join {
            Join::All => plan.needs.len(),
            Join::Any => 1,
            Join::Quorum(count) => count as usize,
        };
        let done = plan.needs.iter().filter(|&&need| self.succeeded(after, need)).count();
        self.hold(done >= asked, || format!("S6: {name} began with {done} of {asked}"));
        self.hold(commit.before.state == JobState::Running, || format!("S6: {name} began on the way back"));
        let late = commit.now >= after.deadline;
        match plan.phase {
            Phase::Post => self.hold(after.decided, || format!("S9: {name} began before the pivot")),
            Phase::Pivot => {
                let pre = (0..after.steps.len()).filter(|&other| self.definition.steps[other].phase == Phase::Pre);
                let open: Vec<usize> = pre.filter(|&other| !settled(after, other)).collect();
                self.hold(open.is_empty(), || format!("S9: {name} began while {open:?} are open"));
                self.hold(!late || was.unknown || was.state == StepState::Started, || {
                    format!("S21: {name} began late")
                });
            }
            _ => {
                self.hold(!commit.before.decided, || format!("S9: {name} began after the pivot"));
                self.hold(!late, || format!("S21: {name} began after the deadline"));
            }
        }
    }

    /// S7: an undo was recorded, or has ended.
    fn back(&mut self, commit: &Commit, step: usize) {
        let name = &self.definition.steps[step].name;
        let pure = self.definition.steps[step].effect == Effect::Pure;
        self.hold(!pure, || format!("S8: {name} is pure, and was undone"));
        self.hold(!commit.after.decided, || format!("S9: {name} was undone after the pivot"));
        let live: Vec<usize> = self.below[step]
            .iter()
            .copied()
            .filter(|&other| {
                let pure = self.definition.steps[other].effect == Effect::Pure;
                commit.after.steps[other].items.iter().any(|item| match item.state {
                    StepState::Done => !pure,
                    StepState::FailedClean | StepState::Skipped | StepState::Undone => false,
                    _ => true,
                })
            })
            .collect();
        self.hold(live.is_empty(), || format!("S7: {name} was undone before {live:?}"));
    }

    fn bounds(&mut self, step: usize, job: &Job) {
        let plan = &self.definition.steps[step];
        let running = job.steps[step].items.iter().filter(|item| item.state == StepState::Started).count();
        self.hold(running <= plan.parallelism as usize, || format!("{running} items of {} at once", plan.name));
        for item in &job.steps[step].items {
            for direction in [Direction::Action, Direction::Undo, Direction::Probe] {
                let kept = item.history.iter().filter(|attempt| attempt.direction == direction).count();
                self.hold(kept <= 8, || format!("{kept} attempts of {} are remembered", plan.name));
            }
        }
    }

    /// S13: slots come with their reservation, are tried until the decision and confirmed after it, and go once.
    fn holds(&mut self, commit: &Commit) {
        let (before, after) = (&commit.before, &commit.after);
        for (step, node) in after.steps.iter().enumerate() {
            let released = self.definition.steps.iter().zip(&after.steps).any(|(plan, node)| {
                plan.kind == Kind::Release(step) && node.items.iter().any(|item| item.state == StepState::Done)
            });
            for (at, item) in node.items.iter().enumerate() {
                let was = before.steps[step].items.get(at).map_or(&[][..], |item| &item.holds);
                let reserved =
                    matches!(&commit.event, Event::Reserved { step: of, item, .. } if (*of, *item) == (step, at));
                self.hold(item.holds.is_empty() || !was.is_empty() || reserved, || {
                    "S13: slots from nowhere".to_owned()
                });
                let may_go = released || after.state.has_ended() || item.state == StepState::Undone;
                self.hold(!item.holds.is_empty() || was.is_empty() || may_go, || "S13: slots were lost".to_owned());
                let may_stay = !after.state.has_ended() && item.state != StepState::Undone;
                self.hold(item.holds.is_empty() || may_stay, || "S13: slots were kept".to_owned());
                let confirmed = item.holds.iter().all(|hold| hold.confirmed == after.decided);
                self.hold(confirmed, || "S13: slots are confirmed with the decision".to_owned());
            }
        }
    }

    /// S8: what is undone is what may have had an effect.
    fn turn(&mut self, commit: &Commit) {
        let (before, after) = (&commit.before, &commit.after);
        let back = matches!(after.state, JobState::Compensating | JobState::Compensated);
        if !back || before.state != JobState::Running {
            return;
        }
        self.hold(after.failure.is_some(), || "undone without a reason".to_owned());
        for (step, plan) in self.definition.steps.iter().enumerate() {
            let undoable = plan.has_undo || plan.kind == Kind::Reserve;
            if plan.phase == Phase::Finally || !undoable {
                continue;
            }
            for (at, was) in before.steps[step].items.iter().enumerate() {
                let Some(item) = after.steps[step].items.get(at) else { continue };
                let may_have = was.unknown
                    || matches!(
                        was.state,
                        StepState::Done | StepState::Started | StepState::Probing | StepState::Unknown
                    );
                let undone = matches!(item.state, StepState::Undoing | StepState::Undone);
                self.hold(may_have || !undone, || format!("S8: {} is undone, and never was", plan.name));
                let proven = match &commit.event {
                    Event::Ended { step: of, item, outcome, .. } if (*of, *item) == (step, at) => match outcome {
                        Outcome::Absent => true,
                        Outcome::FailedClean(_) => !was.unknown,
                        _ => false,
                    },
                    _ => false,
                };
                self.hold(!may_have || undone || proven, || {
                    format!("S8: {} may be there, and is not undone", plan.name)
                });
            }
        }
    }

    /// Nobody waits for longer than the longest pause, whatever the clocks of others said; and nothing is written that only says for how long.
    fn waits(&mut self, commit: &Commit) {
        let (before, after) = (&commit.before, &commit.after);
        for (plan, node) in self.definition.steps.iter().zip(&after.steps) {
            let longest = plan.retry.max_backoff.max(300_000);
            for item in &node.items {
                let waits = match item.state {
                    StepState::Idle | StepState::Stuck => true,
                    StepState::Probing | StepState::Undoing => item.until == 0,
                    _ => false,
                };
                let soon = !waits || item.not_before <= commit.now + longest;
                self.hold(soon, || format!("L1: {} waits for a day", plan.name));
                let ends = plan.kind == Kind::Act || item.until <= commit.now + plan.timeout;
                self.hold(ends, || format!("L1: an attempt of {} lasts for a day", plan.name));
            }
        }
        let late = after.undo_since.is_some_and(|since| since > commit.now);
        self.hold(!late, || "L1: its undo's budget has not begun".to_owned());
        if matches!(commit.event, Event::NoSlots { .. }) {
            let mut same = without_pauses(after);
            same.revision = before.revision;
            self.hold(same != without_pauses(before), || "L7: a look for slots was written".to_owned());
        }
    }

    fn time_and_trouble(&mut self, commit: &Commit) {
        let (before, after) = (&commit.before, &commit.after);
        let late = after.state == JobState::Running && !after.decided && commit.now >= after.deadline;
        self.hold(!late || deciding(self.definition, after), || "S21: it goes on after its deadline".to_owned());
        if after.stuck.is_some() && before.stuck.is_none() {
            let over = after.undo_since.is_some_and(|since| commit.now >= since + self.definition.undo_budget);
            let trouble = after.steps.iter().flat_map(|node| &node.items).any(|item| {
                item.failures >= 20 || item.state == StepState::Stuck && item.attempts + item.undo_attempts == 0
            });
            self.hold(trouble || over || after.takeovers > 5, || "L2: stuck without having tried".to_owned());
        }
        let abandoned = matches!(&commit.event, Event::Resolve(Verb::Abandon { .. }));
        let ended = match after.state {
            JobState::Abandoned => abandoned,
            JobState::Completed => after.decided && self.finals(after) && self.ways(after),
            JobState::Compensated => !after.decided && self.finals(after),
            _ => true,
        };
        self.hold(ended, || format!("S1, S2: {:?} too early", after.state));
    }

    fn finals(&self, job: &Job) -> bool {
        let mut finals = (0..job.steps.len()).filter(|&step| self.definition.steps[step].phase == Phase::Finally);
        finals.all(|step| self.succeeded(job, step))
    }

    /// Every way has come to its end.
    fn ways(&self, job: &Job) -> bool {
        let ends = |&step: &usize| self.below[step].is_empty() && self.definition.steps[step].phase != Phase::Finally;
        (0..job.steps.len()).filter(ends).all(|step| self.succeeded(job, step))
    }

    /// S10: whatever was sent was in the log before.
    fn intents(&mut self, log: &[Commit], ledger: &[Entry]) {
        for entry in ledger.iter().filter(|entry| entry.what == What::Sent) {
            let item =
                entry.commits.checked_sub(1).and_then(|at| log[at].after.steps[entry.step].items.get(entry.item));
            let recorded = item.is_some_and(|item| match entry.direction {
                Direction::Action => item.state == StepState::Started && item.attempts == entry.attempt,
                Direction::Undo => item.state == StepState::Undoing && item.undo_attempts == entry.attempt,
                Direction::Probe => item.state == StepState::Probing && item.attempts == entry.attempt,
            });
            self.hold(recorded, || format!("S10: {entry:?} is not in the log"));
        }
    }

    /// S2 to S5, S9: what is there in the end.
    fn effects(&mut self, job: &Job, ledger: &[Entry]) {
        let mut counts: BTreeMap<(usize, usize), (i32, i32)> = BTreeMap::new();
        for entry in ledger.iter().filter(|entry| entry.what == What::Effective) {
            let (done, undone) = counts.entry((entry.step, entry.item)).or_default();
            match entry.direction {
                Direction::Action => *done += 1,
                _ => *undone += 1,
            }
            let right = *done == 1 && *undone <= 1;
            self.hold(right, || format!("S4, S5: {entry:?} is one effect too many"));
        }
        let undos = ledger.iter().filter(|entry| entry.direction == Direction::Undo).count();
        self.hold(job.state != JobState::Completed || undos == 0, || {
            "S2: completed, and something was undone".to_owned()
        });
        if job.state == JobState::Abandoned {
            return;
        }
        self.hold(job.state.has_ended(), || format!("L1: it has not ended: {job:?}"));
        for (step, node) in job.steps.iter().enumerate() {
            let plan = &self.definition.steps[step];
            if plan.effect != Effect::External {
                continue;
            }
            for (at, item) in node.items.iter().enumerate() {
                let (done, undone) = counts.get(&(step, at)).copied().unwrap_or_default();
                let stands = plan.phase == Phase::Finally || job.state == JobState::Completed;
                let expected = i32::from(stands && item.state == StepState::Done);
                let net = done - undone;
                self.hold(net == expected, || {
                    format!("S2, S3: {}[{at}] is there {net} times: {:?}", plan.name, item.state)
                });
            }
        }
    }
}

/// Nothing of it is open.
fn settled(job: &Job, step: usize) -> bool {
    use StepState::{Done, FailedClean, Skipped, Undone};
    let open = |item: &Item| !matches!(item.state, Done | FailedClean | Skipped | Undone);
    job.steps[step].ruled && !job.steps[step].items.iter().any(open)
}

/// The pivot may have its effect.
fn deciding(definition: &Definition, job: &Job) -> bool {
    let mut pivots = definition.steps.iter().zip(&job.steps).filter(|(step, _)| step.phase == Phase::Pivot);
    pivots.any(|(step, node)| {
        step.effect != Effect::Pure
            && node.items.iter().any(|item| {
                item.unknown && item.state != StepState::Done
                    || matches!(item.state, StepState::Started | StepState::Probing)
            })
    })
}
