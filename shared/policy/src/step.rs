//! Continuous batching for one language model: who steps next, with how many tokens, and who gives memory back for it.
//!
//! Asked before each step. Everything that has a slot and a reader decodes in every step; prompts are computed in chunks
//! beside it, sized so that nobody's next token waits long for another's prompt.

use std::time::Instant;

use weft_types::Deadline;

use crate::preempt::STOPS;

mod pace;

pub use pace::Pace;

/// Tokens of growth that a sequence must have room for when it gets a slot, so that it does not lose it at once.
const HEADROOM: u32 = 16;

/// What there is to share out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences that step together.
    pub slots: u32,
    /// Tokens that all sequences and kept prefixes together can hold.
    pub kv_tokens: u32,
    /// Tokens of one step; at least `slots`.
    pub batch_tokens: u32,
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// It has a slot.
    Running,
    /// It has no slot, but still holds tokens.
    Parked,
    /// It holds nothing.
    Outside,
}

/// A sequence that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Tells it from the others.
    pub id: u64,
    /// 1 is the most urgent band.
    pub band: u64,
    /// Counts up with each arrival.
    pub arrived: u64,
    /// By when it must have ended.
    pub deadline: Deadline,
    /// Where it stands.
    pub place: Place,
    /// Whether its reader is behind, so that it must not step.
    pub paused: bool,
    /// Tokens that are still to be computed: 1 when it decodes, more while its prompt is not done.
    pub left: u32,
    /// How many of them another sequence or a kept prefix has: they are shared when it gets a slot.
    pub shared: u32,
    /// Who has them.
    pub source: Option<u64>,
    /// Tokens that come back into memory with it, over those that are still to be computed.
    pub saved: u32,
    /// Tokens that it holds alone: at least so many are free when it gives up its memory.
    pub exclusive: u32,
    /// The most tokens that it may add after those.
    pub growth: u32,
}

/// The tokens of a sequence that has ended, kept for others that begin alike. Its ids are told from those of sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Tells it from the others and from sequences.
    pub id: u64,
    /// When it was last of use; counts up.
    pub used: u64,
    /// Tokens that it holds alone.
    pub exclusive: u32,
}

/// What a step is decided upon.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// What there is.
    pub capacity: Capacity,
    /// Tokens held by nobody.
    pub free: u32,
    /// All sequences, in any order.
    pub sequences: &'a [Sequence],
    /// All kept prefixes, in any order.
    pub prefixes: &'a [Prefix],
}

/// A sequence's part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The sequence.
    pub id: u64,
    /// Tokens that it computes; 0 for a prompt that must wait for the next step.
    pub tokens: u32,
}

/// What to do in a step, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nobody waits for these any more: end them, and ask again.
    pub expired: Vec<u64>,
    /// These have a slot. What they share is taken over before anything is given up.
    pub turns: Vec<Turn>,
    /// These lose their slot to others, but nothing else.
    pub parked: Vec<u64>,
    /// These give up the tokens that they hold; they can be restored later.
    pub saved: Vec<u64>,
    /// These prefixes are given up.
    pub evicted: Vec<u64>,
}

/// Decides the next step.
///
/// Slots go by band, in a band to those that have one, then by arrival, so nobody in a band is passed over. Who must wait
/// for memory keeps others of its band from overtaking, while sequences that are at work go on. When memory is short, prefixes
/// are given up first, the longest unused before others, then sequences without a slot, the least urgent first.
pub fn plan(snapshot: &Snapshot<'_>, pace: &Pace, now: Instant) -> Plan {
    let expired: Vec<u64> =
        snapshot.sequences.iter().filter(|one| one.deadline.expired(now)).map(|one| one.id).collect();
    if !expired.is_empty() {
        return Plan { expired, ..Plan::default() };
    }
    let order = order(snapshot.sequences);
    let chosen = choose(snapshot, &order);
    let mut plan = reclaim(snapshot, &order, &chosen);
    plan.turns = turns(&snapshot.capacity, &chosen, pace);
    plan
}

/// Below which band a step yields to who comes while it runs; `None` where it is computed to its end in any case. It is given up for a request
/// that is more urgent than everybody in it, but nobody's step is so again and again: `parts` are the bands of those in it, and how many
/// steps of each were given up one after the other.
pub fn yields(parts: impl Iterator<Item = (u64, u32)>) -> Option<u64> {
    parts.map(|(band, stops)| if stops < STOPS { band } else { 0 }).min().filter(|band| *band > 0)
}

/// All sequences, the first to be served first; those that must not step last.
fn order(sequences: &[Sequence]) -> Vec<&Sequence> {
    let mut order: Vec<&Sequence> = sequences.iter().collect();
    order.sort_by_key(|one| (one.paused, one.band, one.place != Place::Running, one.arrived, one.id));
    order
}

/// Those that have a slot in the next step.
fn choose<'a>(snapshot: &Snapshot<'_>, order: &[&'a Sequence]) -> Vec<&'a Sequence> {
    let slots = snapshot.capacity.slots.min(snapshot.capacity.batch_tokens) as usize;
    let mut chosen: Vec<&Sequence> = Vec::new();
    let mut blocked = false;
    for one in order.iter().filter(|one| !one.paused) {
        if chosen.len() == slots {
            break;
        }
        if blocked && one.place != Place::Running {
            continue;
        }
        chosen.push(one);
        if demand(&chosen) > room(snapshot, order, &chosen) {
            chosen.pop();
            blocked = true;
        }
    }
    // What several hold together counts as free for none of them, so nobody may seem to fit. With everything else given up
    // the first one does.
    if chosen.is_empty() {
        chosen.extend(order.iter().find(|one| !one.paused));
    }
    chosen
}

/// Tokens that the chosen will add: all that is left of a prompt, so that it is never begun in vain.
fn demand(chosen: &[&Sequence]) -> u64 {
    chosen.iter().map(|one| u64::from(need(one))).sum()
}

fn need(one: &Sequence) -> u32 {
    let spare = if one.place == Place::Running { 0 } else { one.growth.min(HEADROOM) };
    one.left.saturating_sub(one.shared).saturating_add(one.saved).saturating_add(spare)
}

/// Tokens that are free or can be made so.
fn room(snapshot: &Snapshot<'_>, order: &[&Sequence], chosen: &[&Sequence]) -> u64 {
    let returned = victims(snapshot, order, chosen).iter().map(|victim| u64::from(victim.tokens)).sum::<u64>();
    u64::from(snapshot.free) + returned
}

/// Who can give memory back.
struct Victim {
    id: u64,
    prefix: bool,
    tokens: u32,
}

/// Who gives memory back, the first first. What a chosen one shares with a victim stays, so it does not count.
fn victims(snapshot: &Snapshot<'_>, order: &[&Sequence], chosen: &[&Sequence]) -> Vec<Victim> {
    let kept = |id: u64| chosen.iter().filter(|one| one.source == Some(id)).map(|one| one.shared).max();
    let mut prefixes: Vec<_> = snapshot.prefixes.iter().map(|prefix| (kept(prefix.id), prefix)).collect();
    prefixes.sort_by_key(|(kept, prefix)| (kept.is_some(), prefix.used, prefix.id));
    let left = |exclusive: u32, kept: Option<u32>| exclusive.saturating_sub(kept.unwrap_or(0));
    let first = prefixes.into_iter().map(|(kept, prefix)| Victim {
        id: prefix.id,
        prefix: true,
        tokens: left(prefix.exclusive, kept),
    });
    let holds = |one: &&&Sequence| one.place != Place::Outside && !chosen.iter().any(|other| other.id == one.id);
    let then = order.iter().rev().filter(holds).map(|one| Victim {
        id: one.id,
        prefix: false,
        tokens: left(one.exclusive, kept(one.id)),
    });
    first.chain(then).collect()
}

/// Takes slots and memory from those that are not chosen, as much as the chosen need.
fn reclaim(snapshot: &Snapshot<'_>, order: &[&Sequence], chosen: &[&Sequence]) -> Plan {
    let mut plan = Plan::default();
    let mut short = demand(chosen).saturating_sub(u64::from(snapshot.free));
    for victim in victims(snapshot, order, chosen) {
        if short == 0 {
            break;
        }
        let list = if victim.prefix { &mut plan.evicted } else { &mut plan.saved };
        list.push(victim.id);
        short = short.saturating_sub(u64::from(victim.tokens));
    }
    let stays = |id: u64| chosen.iter().any(|one| one.id == id) || plan.saved.contains(&id);
    let running = order.iter().filter(|one| one.place == Place::Running);
    plan.parked = running.map(|one| one.id).filter(|id| !stays(*id)).collect();
    plan
}

/// How many tokens each computes: one for those that decode, the rest of the step for prompts, the first first.
fn turns(capacity: &Capacity, chosen: &[&Sequence], pace: &Pace) -> Vec<Turn> {
    let decoding = chosen.iter().filter(|one| one.left <= 1).count();
    let decoding = u32::try_from(decoding).unwrap_or(u32::MAX);
    let most = capacity.batch_tokens.saturating_sub(decoding);
    let mut budget = pace.chunk(decoding).min(most);
    // A step of its own for the last few tokens of a prompt costs more than they do in this one, and nobody waits for it.
    let mut spare = if decoding == 0 { (budget / 4).min(most - budget) } else { 0 };
    let turn = |one: &&Sequence| {
        let tokens = if one.left <= 1 {
            one.left
        } else {
            let left = one.left.saturating_sub(one.shared);
            let beyond = left.saturating_sub(budget);
            let tokens = if beyond <= spare { left } else { budget };
            spare -= tokens.saturating_sub(budget);
            budget -= tokens.min(budget);
            tokens
        };
        Turn { id: one.id, tokens }
    };
    chosen.iter().map(turn).collect()
}

#[cfg(test)]
mod tests;
