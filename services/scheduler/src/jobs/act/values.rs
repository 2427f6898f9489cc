//! The values that templates refer to: read once for an attempt, and only those that it refers to.

use serde_json::Value;
use weft_saga::{Direction, Fault, Item, Payload, StepState};

use super::{Act, Actor, Attempt, Facts};
use crate::jobs::definition::{Plan, Planned};
use crate::jobs::template::{MAX_BYTES, Root, Roots, Values};

/// Text from which values count as large: with it, what is made of it takes some hundred KiB at the most.
const LARGE: u64 = 16 << 10;

/// Whether what a step reads and makes of it for an act, its list included, may be large: by the lengths of what is referred to, and how often.
pub(crate) fn may_be_large(planned: &Planned, act: Option<&Act>, facts: Facts<'_>, step: usize) -> bool {
    let mut roots = Roots::new();
    match act {
        Some(act) => act.roots(&mut roots),
        None => planned.when.iter().for_each(|when| when.roots(&mut roots)),
    }
    if act.is_none() || roots.contains_key(&Root::Item) {
        let of_items = roots.remove(&Root::Item).unwrap_or(1);
        let mut list = Roots::new();
        planned.list.iter().for_each(|template| template.roots(&mut list));
        for (root, times) in list {
            *roots.entry(root).or_default() += times.saturating_mul(of_items);
        }
    }
    let made = |step: usize| -> u64 {
        let items = facts.job.steps.get(step).map_or(&[][..], |node| &node.items);
        items.iter().filter_map(|item| item.output.as_ref()).map(length).sum()
    };
    let length = |root: &Root| match root {
        Root::Input => length(facts.input),
        Root::Step(step) => made(*step),
        Root::Output => made(step),
        Root::Item | Root::Index | Root::Job => 0,
    };
    roots.iter().fold(0u64, |sum, (root, times)| sum.saturating_add(times.saturating_mul(length(root)))) > LARGE
}

fn length(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(text) => text.len() as u64,
        Payload::Stored { len, .. } => *len,
    }
}

/// What is left of the bytes that an attempt reads.
struct Room(u64);

impl Actor {
    /// Everything that an attempt's action refers to.
    pub(super) async fn values_for(&self, attempt: &Attempt<'_>, act: &Act) -> Result<Values, Fault> {
        let mut roots = Roots::new();
        act.roots(&mut roots);
        let mut values = self.values(attempt.plan, attempt.facts, &roots).await?;
        if roots.contains_key(&Root::Item) {
            let list = self.list(attempt.plan, attempt.facts, attempt.step).await?;
            let item = list.into_iter().nth(attempt.item);
            let gone = || Fault::new("INTERNAL", "the list of for_each has become shorter");
            values.item = Some((attempt.item, item.ok_or_else(gone)?));
        } else if roots.contains_key(&Root::Index) {
            values.item = Some((attempt.item, Value::Null));
        }
        if roots.contains_key(&Root::Output) && attempt.direction == Direction::Undo {
            let item = attempt.facts.job.steps.get(attempt.step).and_then(|node| node.items.get(attempt.item));
            if let Some(payload) = item.and_then(|item| item.output.as_ref()) {
                values.output = Some(self.read(payload, &mut Room(MAX_BYTES as u64)).await?);
            }
        }
        Ok(values)
    }

    /// The job's id, its input and what its steps made, as far as these refer to them.
    pub(super) async fn values(&self, plan: &Plan, facts: Facts<'_>, roots: &Roots) -> Result<Values, Fault> {
        let mut room = Room(MAX_BYTES as u64);
        let mut values = Values { job: facts.id.to_owned(), ..Values::default() };
        for root in roots.keys() {
            match root {
                Root::Input => values.input = Some(self.read(facts.input, &mut room).await?),
                Root::Step(step) => {
                    if let Some(value) = self.made(plan, facts, *step, &mut room).await? {
                        values.steps.insert(*step, value);
                    }
                }
                Root::Item | Root::Index | Root::Job | Root::Output => {}
            }
        }
        Ok(values)
    }

    /// What a step made: of one with a list, the list of what each made, once all are done.
    async fn made(&self, plan: &Plan, facts: Facts<'_>, step: usize, room: &mut Room) -> Result<Option<Value>, Fault> {
        let Some(node) = facts.job.steps.get(step) else { return Ok(None) };
        if plan.steps.get(step).is_none_or(|planned| planned.list.is_none()) {
            return match node.items.first().and_then(|item| item.output.as_ref()) {
                Some(payload) => self.read(payload, room).await.map(Some),
                None => Ok(None),
            };
        }
        let is_done = |item: &Item| item.output.is_some() || item.state == StepState::Done;
        if !node.ruled || !node.items.iter().all(is_done) {
            return Ok(None);
        }
        let mut list = Vec::new();
        for item in &node.items {
            list.push(match &item.output {
                Some(payload) => self.read(payload, room).await?,
                None => Value::Null,
            });
        }
        Ok(Some(Value::Array(list)))
    }

    async fn read(&self, payload: &Payload, room: &mut Room) -> Result<Value, Fault> {
        let too_large = || Fault::new("OUT_OF_RANGE", format!("what it refers to is larger than {MAX_BYTES} bytes"));
        room.0 = room.0.checked_sub(length(payload)).ok_or_else(too_large)?;
        let stored;
        let text = match payload {
            Payload::Inline(text) => text.as_slice(),
            Payload::Stored { .. } => {
                stored = self.0.payloads.load(payload).await?;
                &stored
            }
        };
        serde_json::from_slice(text)
            .map_err(|error| Fault::new("DATA_LOSS", format!("a stored value is no JSON: {error}")))
    }
}
