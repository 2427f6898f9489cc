//! What was placed and removed, summed up by model. Pure.

use std::collections::BTreeMap;

use weft_policy::place::{Key, Move, Why};
use weft_proto::weft::state::v1::Severity;
use weft_store::Revision;
use weft_types::{ModelName, Version};

use super::findings::Finding;

/// Models that have an event of their own for one pass of the leader; the others share one.
const MODELS: usize = 256;
/// Workers that are named for one reason.
const NAMED: usize = 5;

/// Workers by what was done there and why.
type Parts<'a> = BTreeMap<(Version, Why), Vec<&'a Key>>;

/// One event for each model and direction, whatever the number of its replicas. `revision` is that of the last write.
pub(super) fn of_moves(moves: &[Move], revision: Revision) -> Vec<Finding> {
    let mut placed: BTreeMap<&ModelName, Parts<'_>> = BTreeMap::new();
    let mut removed = placed.clone();
    for change in moves {
        let (models, key, why) = match change {
            Move::Place(key, why) => (&mut placed, key, *why),
            Move::Remove(key, why) => (&mut removed, key, *why),
        };
        models.entry(&key.model).or_default().entry((key.version, why)).or_default().push(key);
    }
    let mut found = of_models("ReplicasPlaced", &placed, revision);
    found.extend(of_models("ReplicasRemoved", &removed, revision));
    found
}

fn of_models(reason: &'static str, models: &BTreeMap<&ModelName, Parts<'_>>, revision: Revision) -> Vec<Finding> {
    let finding = |subject, message| Finding { severity: Severity::Info, reason, subject, revision, message };
    let one = |(model, parts): (&&ModelName, &Parts<'_>)| {
        let parts: Vec<String> = parts.iter().map(|(about, keys)| part(*about, keys)).collect();
        finding(format!("models/{model}"), parts.join("; "))
    };
    let mut found: Vec<Finding> = models.iter().take(MODELS).map(one).collect();
    let others = || models.values().skip(MODELS);
    if others().next().is_some() {
        let replicas: usize = others().flat_map(BTreeMap::values).map(Vec::len).sum();
        found.push(finding("models".to_owned(), format!("{replicas} replicas of {} other models", others().count())));
    }
    found
}

fn part((version, why): (Version, Why), keys: &[&Key]) -> String {
    let named: Vec<&str> = keys.iter().take(NAMED).map(|key| key.worker.as_str()).collect();
    let more = match keys.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("version {version} on {}{more}: {}", named.join(", "), because(why))
}

const fn because(why: Why) -> &'static str {
    match why {
        Why::Missing => "fewer were there than wanted",
        Why::WorkerGone => "the worker is no longer registered",
        Why::Unwanted => "nobody wants the model any more",
        Why::Excess => "more were there than wanted",
        Why::Replaced => "the worker drains or no longer suits, and others serve",
        Why::Superseded => "another version serves",
        Why::Failed => "it could not be loaded there",
        Why::Preempted => "one of a higher priority, or the first of another model, needs its room",
        Why::Stale => "a leader of the past wrote it after its time",
        Why::Renewed => "it had failed for good, and is to be tried anew",
        Why::Evicted => "nobody calls the model, and another one needs the memory",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;
    use crate::observe::place_key;

    fn place(worker: &str, model: &str) -> Move {
        Move::Place(place_key(&key(worker, model, 1)), Why::Missing)
    }

    #[test]
    fn a_model_has_one_event_for_what_came_and_one_for_what_went() {
        let mut moves: Vec<Move> = (1..=7).map(|number| place(&format!("w{number}"), "m")).collect();
        moves.push(place("w1", "n"));
        moves.push(Move::Remove(place_key(&key("w9", "m", 1)), Why::Replaced));
        let told: Vec<(&str, String, String)> =
            of_moves(&moves, 9).into_iter().map(|found| (found.reason, found.subject, found.message)).collect();
        let expected = [
            ("ReplicasPlaced", "models/m", "version 1 on w1, w2, w3, w4, w5 and 2 more: fewer were there than wanted"),
            ("ReplicasPlaced", "models/n", "version 1 on w1: fewer were there than wanted"),
            ("ReplicasRemoved", "models/m", "version 1 on w9: the worker drains or no longer suits, and others serve"),
        ];
        assert_eq!(told, expected.map(|(reason, subject, message)| (reason, subject.to_owned(), message.to_owned())));
    }

    #[test]
    fn a_mass_move_is_summed_up() {
        let moves: Vec<Move> =
            (0..10_000).map(|number| place(&format!("w{}", number % 10), &format!("m{}", number / 10))).collect();
        let found = of_moves(&moves, 9);
        assert_eq!(found.len(), MODELS + 1);
        let last = found.last().expect("not empty");
        assert_eq!((last.subject.as_str(), last.message.as_str()), ("models", "7440 replicas of 744 other models"));
    }
}
