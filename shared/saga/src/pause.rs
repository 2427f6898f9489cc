//! How long to wait before the next attempt, and whether there is one.

use crate::Millis;
use crate::definition::Retry;
use crate::event::Fault;
use crate::job::StepState;

/// After how many failures in a row what has to succeed counts as stuck.
pub(crate) const PATIENCE: u32 = 20;
/// How often a job may be taken over while something of it is under way, without its moving on. After that it is left alone until an operator asks for it:
/// it may be what ends its schedulers.
pub(crate) const TAKEOVERS: u32 = 5;
/// The pause before what is stuck is tried again: what an outage has stopped goes on by itself when that is over.
const STUCK: Millis = 300_000;
/// An attempt tells its end itself; where its runner does not, the job goes on this long after it was due.
pub(crate) const GRACE: Millis = 1_000;
const UNDO_FIRST: Millis = 100;
const UNDO_LONGEST: Millis = 60_000;
/// However short a definition's pauses are, slots are looked for at pauses of this length at first, and of [`LOOK_LONGEST`] in time.
const LOOK_FIRST: Millis = 100;
const LOOK_LONGEST: Millis = 1_000;

/// What is worth another attempt where a definition does not say it.
const USUAL: [&str; 4] = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED"];

/// Whether a clean failure, or one that left a pure step's outcome unknown, is worth another attempt.
pub(crate) fn is_retryable(retry: &Retry, fault: &Fault, unknown: bool) -> bool {
    if retry.codes.is_empty() {
        unknown || USUAL.contains(&fault.code.as_str())
    } else {
        retry.codes.contains(&fault.code)
    }
}

/// Exponential with full jitter: Brooker, "Exponential Backoff And Jitter", 2015.
pub(crate) fn retry(retry: &Retry, failures: u32, random: u64) -> Millis {
    up_to(random, doubled(retry.initial_backoff, retry.max_backoff, failures))
}

/// What has no end needs a pause that is never nothing: half of it is fixed.
pub(crate) fn endless(retry: &Retry, failures: u32, random: u64) -> Millis {
    half_fixed(random, doubled(retry.initial_backoff, retry.max_backoff, failures))
}

pub(crate) fn undo(failures: u32, random: u64) -> Millis {
    half_fixed(random, doubled(UNDO_FIRST, UNDO_LONGEST, failures))
}

pub(crate) fn stuck(random: u64) -> Millis {
    half_fixed(random, STUCK)
}

/// Slots are looked for at pauses that grow with the time it has taken so far.
pub(crate) fn look_again(retry: &Retry, waited: Millis, random: u64) -> Millis {
    let longest = retry.max_backoff.max(LOOK_LONGEST);
    half_fixed(random, waited.clamp(retry.initial_backoff.clamp(LOOK_FIRST, longest), longest))
}

/// No pause of what is in this state is longer. One that is was written by a clock that ran ahead.
pub(crate) fn longest(retry: &Retry, state: StepState) -> Millis {
    match state {
        StepState::Stuck => STUCK,
        StepState::Undoing => UNDO_LONGEST,
        _ => retry.max_backoff.max(LOOK_LONGEST),
    }
}

/// Another number for each item, of the one that a transition is given (splitmix64; Steele, Lea and Flood, 2014).
pub(crate) fn mix(random: u64, step: usize, item: usize) -> u64 {
    let position = (step as u64).wrapping_mul(1_024).wrapping_add(item as u64).wrapping_add(1);
    let mut mixed = random.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn doubled(first: Millis, longest: Millis, failures: u32) -> Millis {
    let doublings = failures.saturating_sub(1).min(40);
    first.max(1).saturating_mul(1 << doublings).min(longest.max(1))
}

fn up_to(random: u64, pause: Millis) -> Millis {
    random % pause.saturating_add(1).max(1)
}

fn half_fixed(random: u64, pause: Millis) -> Millis {
    let fixed = pause.div_ceil(2);
    fixed.saturating_add(up_to(random, pause - fixed))
}
