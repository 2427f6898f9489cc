//! What a job's record can grow to once it cannot turn back: nothing that it has to do then may be too long for the log.
//!
//! Before the decision a job whose record passes 256 KiB is undone. What it has by then is less than half a MiB when it is decided, and less than 800 KiB when all of
//! it is undone; the log takes 1 MiB. What is left is for the steps that are yet to run.

use weft_saga::Phase;

use super::{Act, MAX_ITEMS, Mistakes, Plan, Planned};

/// Bytes of the items of all steps after the pivot and of the final ones.
const MAX_AFTER: usize = 512 << 10;
/// Of the final ones alone, which run in a job that is undone, too.
const MAX_FINAL: usize = 192 << 10;
/// Of one item without its place and its slots, however often it is attempted; its output stands elsewhere.
const ITEM: usize = 96;
/// Of a place and a slot without their names.
const PLACE: usize = 24;
const SLOT: usize = 24;
/// The longest name of a worker or a router.
const NAME: usize = 160;

/// Notes when the steps that cannot be undone any more could take too much of the record.
pub(super) fn check(plan: &Plan, mistakes: &mut Mistakes) {
    let bytes_of = |phases: &[Phase]| {
        let steps = plan.definition.steps.iter().zip(&plan.steps).filter(|(step, _)| phases.contains(&step.phase));
        steps.map(|(_, planned)| bytes(planned)).sum::<usize>()
    };
    let (after, last) = (bytes_of(&[Phase::Post, Phase::Finally]), bytes_of(&[Phase::Finally]));
    if after > MAX_AFTER || last > MAX_FINAL {
        let problem = format_args!(
            "those after the pivot and the final ones could take {after} bytes of the job's record with lists of {MAX_ITEMS}, the final ones {last}: \
             must be at most {MAX_AFTER} and {MAX_FINAL}"
        );
        mistakes.add("definition.steps", problem);
    }
}

/// What a step can take, at the longest list that it can run for.
pub(super) fn bytes(planned: &Planned) -> usize {
    let place = |act: &Act| match act {
        Act::Call(call) => PLACE + call.target.len(),
        Act::Infer(_) => PLACE + NAME,
        _ => 0,
    };
    let place = [Some(&planned.action), planned.probe.as_ref()].into_iter().flatten().map(place).max().unwrap_or(0);
    let slots = match &planned.action {
        Act::Reserve(pools) => pools.iter().map(|(pool, slots)| *slots as usize * (SLOT + pool.len() + NAME)).sum(),
        _ => 0,
    };
    let items = if planned.list.is_some() { MAX_ITEMS } else { 1 };
    items * (ITEM + place + slots)
}
