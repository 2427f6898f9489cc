//! Rollouts: how one version of a model takes the place of another, and when it must not.
//!
//! A state machine: [`decide`] takes the [`Plan`], what operators want ([`Intent`]), the [`Status`] so far, what was [`Seen`] and what the
//! decider remembers of the stage ([`Memory`]), and returns the next status, whose [`Traffic`] is all that routers look at. The stages are
//! loading, a shadow where the plan has one, the plan's steps, and the end: promoted or rolled back.
//!
//! Rules. The canary takes no call before as many of its replicas are ready as of the stable version (scale parity, as in Argo Rollouts
//! and Flagger). A stage ends when its pause is over, enough calls were seen and none of the [`judge`]'s tests speaks against the canary.
//! A canary that is worse, does not load or makes no progress is rolled back; without figures nothing is promoted or rolled back, and while
//! no replica is wanted, as of a model that sleeps, none is missing. The share never falls but to nothing.

pub mod distribution;
mod exact;
mod gathered;
pub mod judge;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use gathered::Gathered;
use judge::{Evidence, Limits, Looks, Terms, Verdict};

/// How a version is to take over.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Shares of the calls, rising; with none, and where [`Self::header_only`] is not set, all calls change over at once when there is
    /// parity.
    pub steps: Vec<Step>,
    /// Only marked calls go to the canary, until it is promoted or aborted by hand.
    pub header_only: bool,
    /// Copies of calls before the first call.
    pub shadow: Option<Step>,
    /// What is held against the canary.
    pub limits: Limits,
    /// How long replicas may be missing before the rollout is given up.
    pub progress_deadline: Duration,
}

/// A share of the calls, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of a hundred calls, so many: 1 to 100.
    pub percent: u32,
    /// The least time that it lasts.
    pub pause: Duration,
}

/// What operators want of a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// That it takes its course.
    #[default]
    Run,
    /// That it stays in its stage; it is still rolled back if it must be.
    Pause,
    /// That the canary takes over as soon as there is parity, whatever its figures.
    Promote,
    /// That it is rolled back.
    Abort,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The canary's replicas are loaded and warmed.
    #[default]
    Loading,
    /// The canary gets copies of calls.
    Shadowing,
    /// The canary takes calls.
    Canary,
    /// The canary has taken over.
    Promoted,
    /// The stable version stays.
    RolledBack,
}

impl Phase {
    /// Whether nothing more will happen.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack)
    }
}

/// What routers do with calls that name no version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of a hundred calls, so many go to the canary.
    pub canary_percent: u32,
    /// Whether marked calls go to the canary.
    pub header: bool,
    /// Of a hundred unary calls, so many are copied to the canary.
    pub shadow_percent: u32,
}

/// A rollout's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub phase: Phase,
    /// The step, from 0; only [`Phase::Canary`] has one.
    pub step: usize,
    /// What routers do.
    pub traffic: Traffic,
    /// What it waits for, or why it ended.
    pub message: String,
}

/// What the mesh shows.
#[derive(Clone, Debug, Default)]
pub struct Seen<'a> {
    /// Replicas that each version shall have; none while the model sleeps.
    pub wanted: usize,
    /// Replicas of the stable version that are ready.
    pub stable_ready: usize,
    /// Replicas of the canary that are ready.
    pub canary_ready: usize,
    /// Why the canary cannot be loaded, where that is certain.
    pub failed: Option<&'a str>,
    /// Why replicas of the canary have no place, as far as that is known.
    pub lacking: Option<&'a str>,
    /// What both did since the stage began; `None` while nobody tells.
    pub figures: Option<Evidence>,
    /// What both did in its last minutes, where it has lasted for longer.
    pub lately: Option<Evidence>,
}

/// What the decider remembers of a stage; each begins with a new one. A new leader begins it anew: the stage then lasts longer, and never
/// less long.
#[derive(Clone, Debug)]
pub struct Memory {
    /// When the stage began, for this decider, or when it lost replicas of the canary that are missing: a version that takes its worker down leaves
    /// nothing behind that it could be judged on.
    pub began: Instant,
    /// Since when replicas have been missing.
    missing_since: Option<Instant>,
    /// The most replicas of the stable version that were ready.
    most: usize,
    /// Replicas of the canary that were ready at the last look.
    ready: usize,
    looks: Looks,
}

impl Memory {
    /// Of a stage that begins now.
    pub fn new(now: Instant) -> Self {
        Self { began: now, missing_since: None, most: 0, ready: 0, looks: Looks::default() }
    }
}

impl Plan {
    /// Stages in which the canary is judged.
    fn stages(&self) -> usize {
        usize::from(self.shadow.is_some()) + self.steps.len().max(1)
    }
}

/// The next status. The same state and the same facts give the same status; one that is over never changes.
pub fn decide(
    plan: &Plan,
    (intent, status): (Intent, &Status),
    memory: &mut Memory,
    seen: &Seen<'_>,
    now: Instant,
) -> Status {
    if status.phase.is_over() {
        return status.clone();
    }
    if intent == Intent::Abort {
        return rolled_back("aborted by hand".to_owned());
    }
    if let Some(reason) = seen.failed {
        return rolled_back(format!("it cannot be loaded: {reason}"));
    }
    memory.most = memory.most.max(seen.stable_ready);
    let needed = seen.stable_ready.max(memory.most.min(seen.wanted)).max(1);
    let parity = seen.canary_ready >= needed;
    if std::mem::replace(&mut memory.ready, seen.canary_ready) > seen.canary_ready && !parity {
        memory.began = now;
    }
    if parity && intent == Intent::Promote {
        return promoted("promoted by hand".to_owned());
    }
    let stays = plan.header_only && status.phase == Phase::Canary;
    let ending = parity && !stays && intent == Intent::Run && is_over(plan, status, memory, now);
    let verdict = match (&seen.figures, status.phase) {
        (_, Phase::Loading) => Verdict::Fine,
        // Whatever they are.
        _ if intent == Intent::Promote => Verdict::Fine,
        (None, _) => Verdict::Unknown,
        (Some(evidence), _) => {
            let terms = Terms { limits: &plan.limits, stages: plan.stages(), ending, now };
            memory.looks.judge(&terms, evidence, seen.lately.as_ref())
        }
    };
    if let Verdict::Worse(why) = verdict {
        return rolled_back(why);
    }
    if !parity {
        return short_of(plan, status, memory, (seen, needed), now);
    }
    memory.missing_since = None;
    let wait = |message: String| Status { message, ..status.clone() };
    match verdict {
        _ if intent == Intent::Pause => wait("paused by hand".to_owned()),
        Verdict::Unknown => wait("waiting for figures: no metrics service tells any".to_owned()),
        _ if stays => wait("waiting to be promoted by hand".to_owned()),
        Verdict::TooFew { calls, wanted } => wait(format!("waiting for calls: {calls} of {wanted}")),
        _ if !ending => wait(String::new()),
        _ => next(plan, status),
    }
}

/// Whether the stage's time is over.
fn is_over(plan: &Plan, status: &Status, memory: &Memory, now: Instant) -> bool {
    let pause = match status.phase {
        Phase::Shadowing => plan.shadow.map_or(Duration::ZERO, |shadow| shadow.pause),
        Phase::Canary => plan.steps.get(status.step).map_or(Duration::ZERO, |step| step.pause),
        Phase::Loading | Phase::Promoted | Phase::RolledBack => Duration::ZERO,
    };
    now.saturating_duration_since(memory.began) >= pause
}

/// Too few replicas of the canary are ready: it is waited for them, and not for ever, unless nobody wants them.
fn short_of(
    plan: &Plan,
    status: &Status,
    memory: &mut Memory,
    (seen, needed): (&Seen<'_>, usize),
    now: Instant,
) -> Status {
    if seen.wanted == 0 {
        memory.missing_since = None;
        return Status { message: "waiting until replicas are wanted".to_owned(), ..status.clone() };
    }
    let since = *memory.missing_since.get_or_insert(now);
    let why = seen.lacking.map_or_else(String::new, |lacking| format!(": {lacking}"));
    let told = format!("{} of {} replicas are ready{why}", seen.canary_ready, needed);
    if now.saturating_duration_since(since) >= plan.progress_deadline {
        return rolled_back(format!("no progress within {} s: {told}", plan.progress_deadline.as_secs()));
    }
    Status { message: format!("waiting for replicas: {told}"), ..status.clone() }
}

/// Enters the stage after this one.
fn next(plan: &Plan, status: &Status) -> Status {
    let step = match (status.phase, plan.shadow) {
        (Phase::Loading, Some(shadow)) => {
            let traffic = Traffic { shadow_percent: shadow.percent.min(100), ..Traffic::default() };
            return Status { phase: Phase::Shadowing, traffic, ..Status::default() };
        }
        (Phase::Canary, _) => status.step + 1,
        _ => 0,
    };
    let percent = match plan.steps.get(step) {
        Some(step) => step.percent.min(100),
        None if plan.header_only => 0,
        None => return promoted("its steps are done".to_owned()),
    };
    let traffic = Traffic { canary_percent: percent, header: true, shadow_percent: 0 };
    Status { phase: Phase::Canary, step, traffic, message: String::new() }
}

fn promoted(message: String) -> Status {
    Status { phase: Phase::Promoted, message, ..Status::default() }
}

fn rolled_back(message: String) -> Status {
    Status { phase: Phase::RolledBack, message, ..Status::default() }
}
