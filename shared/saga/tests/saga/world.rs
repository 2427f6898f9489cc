//! A world around one job: a runner that forgets everything when it crashes, a network that loses, delays and repeats, and participants with a
//! barrier. Only the committed job survives.

use std::collections::{BTreeMap, BTreeSet};

use weft_saga::{
    Changed, Definition, Direction, Effect, Event, Fault, Hold, Job, Kind, Outcome, Phase, Refused, Ruling, StepState,
    Verb, Wanted,
};

pub(crate) const START: u64 = 1_700_000_000_000;
/// Until the job's deadline.
pub(crate) const TIME: u64 = 120_000;

/// A committed transition.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) event: Event,
    pub(crate) now: u64,
    pub(crate) before: Job,
    pub(crate) after: Job,
}

/// What the participants and the network know, in order. `commits` is how many there were before it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) commits: usize,
    pub(crate) step: usize,
    pub(crate) item: usize,
    pub(crate) direction: Direction,
    pub(crate) attempt: u32,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Sent,
    /// It had an effect.
    Effective,
    /// It arrived, and had none.
    Idle,
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Succeeds,
    /// The participant refuses, and has done nothing: worth another attempt or not.
    Refused {
        retryable: bool,
    },
    /// It never left.
    NotSent,
    /// It has its effect, and the answer is lost.
    AnswerLost,
    /// The connection breaks, and it may arrive later.
    Delayed,
    /// The runner hears nothing until the time is over; it has had its effect.
    Hangs,
    /// It has its effect, and the scheduler crashes before it has committed the answer.
    CrashAfter,
    /// The scheduler crashes first; it may arrive later.
    CrashBefore,
}

pub(crate) const FATES: [Fate; 9] = [
    Fate::Succeeds,
    Fate::Refused { retryable: true },
    Fate::Refused { retryable: false },
    Fate::NotSent,
    Fate::AnswerLost,
    Fate::Delayed,
    Fate::Hangs,
    Fate::CrashAfter,
    Fate::CrashBefore,
];

/// What a participant's barrier keeps of an effect.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    is_there: bool,
    is_undone: bool,
    /// Attempts up to this one are refused: one of them was, or a probe was told that there is nothing.
    disowned: u32,
}

pub(crate) struct World {
    pub(crate) definition: Definition,
    pub(crate) job: Job,
    /// What the next scheduler knows of it.
    committed: Job,
    pub(crate) now: u64,
    pub(crate) log: Vec<Commit>,
    pub(crate) ledger: Vec<Entry>,
    /// A crash follows this commit.
    pub(crate) crash_after: Option<usize>,
    in_flight: Vec<Wanted>,
    /// What was sent, and nobody waits for any more.
    stray: Vec<Wanted>,
    rows: BTreeMap<(usize, usize), Row>,
    slots: u32,
    /// What was refused, by name.
    pub(crate) seen: BTreeSet<String>,
}

impl World {
    pub(crate) fn new(definition: Definition) -> Self {
        let job = Job::new(&definition, START, START + TIME);
        Self {
            definition,
            committed: job.clone(),
            job,
            now: START,
            log: Vec::new(),
            ledger: Vec::new(),
            crash_after: None,
            in_flight: Vec::new(),
            stray: Vec::new(),
            rows: BTreeMap::new(),
            slots: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Applies and commits an event, and lets the runner follow. What is refused or changes nothing leaves the job as it was.
    pub(crate) fn apply(&mut self, event: Event) -> Result<Changed, Refused> {
        self.see(&event);
        let before = self.job.clone();
        let mut after = before.clone();
        let random = self.now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ before.revision;
        let changed = after.apply(&self.definition, &event, self.now, random);
        match changed {
            Ok(Changed::Yes) => {
                self.job = after.clone();
                self.committed = after.clone();
                self.log.push(Commit { event, now: self.now, before, after });
                self.follow();
                if self.crash_after == Some(self.log.len()) {
                    self.crash();
                }
            }
            Ok(Changed::Later) => {
                assert!(matches!(event, Event::NoSlots { .. }), "{event:?} is not committed");
                assert_eq!(without_pauses(&after), without_pauses(&before), "{event:?} is not committed");
                self.job = after;
            }
            _ => assert_eq!(after, before, "{event:?} gave {changed:?}, and has changed the job"),
        }
        if !self.job.state.has_ended() {
            let recovered = self.job.clone().apply(&self.definition, &Event::TakenOver, self.now, 1);
            assert!(recovered.is_ok(), "what is committed cannot be taken over: {recovered:?}");
        }
        changed
    }

    /// What the runner does after each commit.
    fn follow(&mut self) {
        let wanted = self.job.wants(&self.definition, self.now).attempts;
        let (kept, dropped) = self.in_flight.iter().partition(|message| wanted.contains(message));
        self.in_flight = kept;
        self.stray.extend::<Vec<Wanted>>(dropped);
        for wanted in wanted {
            if !self.in_flight.contains(&wanted) {
                self.in_flight.push(wanted);
                self.enter(wanted, What::Sent);
            }
        }
    }

    fn enter(&mut self, wanted: Wanted, what: What) {
        let Wanted { step, item, direction, attempt, .. } = wanted;
        self.ledger.push(Entry { commits: self.log.len(), step, item, direction, attempt, what });
    }

    pub(crate) fn in_flight(&self) -> Vec<Wanted> {
        self.in_flight.clone()
    }

    pub(crate) fn strays(&self) -> usize {
        self.stray.len()
    }

    /// Everything that the runner knows is gone.
    pub(crate) fn crash(&mut self) {
        self.stray.append(&mut self.in_flight);
        self.job = self.committed.clone();
        if !self.job.state.has_ended() {
            self.apply(Event::TakenOver).unwrap();
            self.follow();
        }
    }

    /// As [`Self::crash`]; the clock of the scheduler that is gone ran ahead of the next one's.
    pub(crate) fn crash_ahead(&mut self, by: u64) {
        self.now = self.now.saturating_sub(by);
        self.crash();
    }

    /// A message that nobody waits for arrives, once or once more.
    pub(crate) fn land(&mut self, index: usize, again: bool) {
        let message = self.stray[index];
        self.deliver(&message);
        if !again {
            self.stray.swap_remove(index);
        }
    }

    /// What an attempt under way comes to.
    pub(crate) fn meet(&mut self, index: usize, fate: Fate) {
        let message = self.in_flight.swap_remove(index);
        let fault = |code: &str| Fault::new(code, "as the world wants it");
        match fate {
            Fate::Succeeds => {
                let outcome = self.deliver(&message);
                self.report(&message, outcome);
            }
            Fate::Refused { retryable } => {
                let code = if retryable { "RESOURCE_EXHAUSTED" } else { "INVALID_ARGUMENT" };
                let outcome = self.refuse(&message, fault(code));
                self.report(&message, outcome);
            }
            Fate::NotSent => self.report(&message, Outcome::FailedClean(fault("UNAVAILABLE"))),
            Fate::AnswerLost => {
                self.deliver(&message);
                self.stray.push(message);
                self.report(&message, Outcome::Unknown(fault("UNAVAILABLE")));
            }
            Fate::Delayed => {
                self.stray.push(message);
                self.report(&message, Outcome::Unknown(fault("UNAVAILABLE")));
            }
            Fate::Hangs => {
                self.deliver(&message);
                self.in_flight.push(message);
                self.now = self.now.max(message.until + 1_000);
                self.apply(Event::Tick).unwrap();
            }
            Fate::CrashAfter => {
                self.deliver(&message);
                self.crash();
            }
            Fate::CrashBefore => {
                self.stray.push(message);
                self.crash();
            }
        }
    }

    fn report(&mut self, message: &Wanted, outcome: Outcome) {
        let Wanted { step, item, direction, attempt, .. } = *message;
        let answer = self.apply(Event::Ended { step, item, direction, attempt, outcome, place: None });
        assert!(answer.is_ok(), "the end of an attempt that was wanted: {answer:?}");
    }

    /// The participant's answer. The barrier lets an action through once, not after its undo, and not after it was disowned.
    fn deliver(&mut self, message: &Wanted) -> Outcome {
        let wanted = *message;
        let plan = &self.definition.steps[wanted.step];
        if plan.effect == Effect::Pure {
            self.enter(wanted, What::Idle);
            return Outcome::Done(None);
        }
        let row = self.rows.entry((wanted.step, wanted.item)).or_default();
        let rejected = Outcome::FailedClean(Fault::new("FAILED_PRECONDITION", "rejected by the barrier"));
        let (outcome, effective) = match wanted.direction {
            Direction::Action if row.is_undone || !row.is_there && wanted.attempt <= row.disowned => (rejected, false),
            Direction::Action => (Outcome::Done(None), !std::mem::replace(&mut row.is_there, true)),
            Direction::Undo => {
                let effective = row.is_there && !row.is_undone;
                row.is_undone = true;
                (Outcome::Done(None), effective)
            }
            Direction::Probe if row.is_undone => (rejected, false),
            Direction::Probe if row.is_there => (Outcome::Done(None), false),
            Direction::Probe => {
                row.disowned = row.disowned.max(message.attempt);
                (Outcome::Absent, false)
            }
        };
        self.enter(wanted, if effective { What::Effective } else { What::Idle });
        outcome
    }

    /// The participant has not done it, and will not do it for this attempt or those before it. What is there stays there, and is told so.
    fn refuse(&mut self, message: &Wanted, fault: Fault) -> Outcome {
        let wanted = *message;
        let row = self.rows.entry((wanted.step, wanted.item)).or_default();
        if wanted.direction == Direction::Action && row.is_there && !row.is_undone {
            return Outcome::Done(None);
        }
        if wanted.direction == Direction::Action {
            row.disowned = row.disowned.max(wanted.attempt);
        }
        Outcome::FailedClean(fault)
    }

    /// Slots are found for what looks for them, or not.
    pub(crate) fn reserve(&mut self, step: usize, item: usize, found: bool) {
        let event = if found {
            self.slots += 1;
            let (pool, worker) = ("gpu".to_owned(), "w".to_owned());
            let holds = vec![Hold { pool, worker, number: self.slots, confirmed: false }];
            Event::Reserved { step, item, holds }
        } else {
            Event::NoSlots { step, item, fault: Fault::new("RESOURCE_EXHAUSTED", "no free slots of gpu") }
        };
        self.apply(event).unwrap();
    }

    pub(crate) fn rule(&mut self, step: usize, ruling: Ruling) {
        self.apply(Event::Ruled { step, ruling }).unwrap();
    }

    /// Until the next moment at which anything is due.
    pub(crate) fn sleep(&mut self) {
        if let Some(at) = self.job.wants(&self.definition, self.now).wake_at {
            self.now = self.now.max(at);
        }
        // The runner looks at what is wanted whenever it likes: what is due and not recorded is not.
        self.follow();
        let answer = self.apply(Event::Tick);
        assert!(answer.is_ok() || self.job.state.has_ended());
    }

    /// A person does by hand what is stuck, and says so.
    pub(crate) fn by_hand(&mut self, step: usize, item: usize) {
        let reason = "by hand".to_owned();
        if self.apply(Event::Resolve(Verb::Skip { step, item, reason })).is_err() {
            return;
        }
        let plan = &self.definition.steps[step];
        if plan.effect == Effect::Pure {
            return;
        }
        let back = plan.phase == Phase::Pre;
        let row = self.rows.entry((step, item)).or_default();
        let effective = if back { row.is_there && !row.is_undone } else { !row.is_there };
        if back {
            row.is_undone = true;
        } else {
            row.is_there = true;
        }
        let ran = self.job.steps[step].items[item].state != StepState::Skipped;
        if effective && ran {
            let direction = if back { Direction::Undo } else { Direction::Action };
            self.enter(Wanted { step, item, direction, attempt: 0, until: 0 }, What::Effective);
        }
    }

    /// All goes well from now on: the job comes to its end, and then whatever was late arrives.
    pub(crate) fn heal(&mut self) {
        self.crash_after = None;
        for _ in 0..2_000 {
            if self.job.state.has_ended() {
                break;
            }
            self.go_well();
        }
        while !self.stray.is_empty() {
            self.land(0, false);
        }
    }

    fn go_well(&mut self) {
        let wants = self.job.wants(&self.definition, self.now);
        if self.job.paused {
            self.apply(Event::Resolve(Verb::Resume)).unwrap();
        } else if self.job.takeovers > 5 {
            self.apply(Event::Resolve(Verb::Retry(None))).unwrap();
        } else if !self.in_flight.is_empty() {
            self.meet(0, Fate::Succeeds);
        } else if let Some(&(step, item)) = wants.reservations.first() {
            self.reserve(step, item, true);
        } else if let Some(&step) = wants.rulings.first() {
            self.rule(step, Ruling::Run(1));
        } else if let Some(name) = self.awaited() {
            self.signal(&name);
        } else {
            self.sleep();
        }
    }

    /// A signal that a step waits for at this moment.
    fn awaited(&self) -> Option<String> {
        let waiting = self.job.steps.iter().zip(&self.definition.steps).find(|(node, step)| {
            let started = node.items.iter().any(|item| item.state == StepState::Started);
            step.kind == Kind::Wait && started
        });
        waiting.and_then(|(_, step)| step.signal.clone())
    }

    pub(crate) fn signal(&mut self, name: &str) {
        let value = weft_saga::Payload::Inline(b"1".to_vec());
        let answer = self.apply(Event::Signal { name: name.to_owned(), value });
        assert!(answer.is_ok() || self.job.state.has_ended());
    }

    /// Which pairs of state and event have been met.
    fn see(&mut self, event: &Event) {
        let name = match event {
            Event::Ended { direction, outcome, .. } => {
                let outcome = format!("{outcome:?}");
                let outcome = outcome.split('(').next().unwrap_or_default();
                format!("{direction:?} {outcome}")
            }
            Event::Resolve(verb) => format!("{verb:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
            other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
        };
        if let Event::Ended { step, item, .. } = event {
            let item = &self.job.steps[*step].items[*item];
            self.seen.insert(format!("step {:?} x {name}", item.state));
        }
        if *event == Event::TakenOver || *event == Event::Tick || matches!(event, Event::Cancel { .. }) {
            for item in self.job.steps.iter().flat_map(|node| &node.items) {
                self.seen.insert(format!("step {:?} x {name}", item.state));
            }
        }
        let decided = if self.job.decided { " decided" } else { "" };
        self.seen.insert(format!("job {:?}{decided} x {name}", self.job.state));
    }
}

/// A job without the moments at which something is tried again.
pub(crate) fn without_pauses(job: &Job) -> Job {
    let mut job = job.clone();
    for item in job.steps.iter_mut().flat_map(|node| &mut node.items) {
        item.not_before = 0;
    }
    job
}
