//! What is placed and removed, summed up by model. Pure.

use std::collections::BTreeMap;

use weft_policy::place::{Key, Move, Why};
use weft_proto::weft::state::v1::Severity;
use weft_store::{MAX_OPS, Revision};
use weft_types::{ModelName, Version};

use super::findings::Finding;
use super::ledger::mark;

/// Models that have events of their own for one pass of the leader; the others share one for each transaction.
pub(super) const MODELS: usize = 256;
/// Workers that are named for one reason.
const NAMED: usize = 5;
/// Moves in one transaction, each with its own comparison: the store takes 128, and two are the fence's and the barrier's.
const MOVES: usize = 100;

/// What was done with a model's replicas.
type Group<'a> = (&'static str, &'a ModelName);
/// Workers by what was done there and why.
type Parts<'a> = BTreeMap<(Version, Why), Vec<&'a Key>>;

/// Moves that are written at once, with what tells of them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) moves: Vec<Move>,
    pub(super) found: Vec<Finding>,
}

/// Cuts moves that were decided on the snapshot of this revision into what one transaction takes together with its events. A model's
/// moves are beside each other, so that few models have events of more than one transaction.
pub(crate) fn batches(moves: &[Move], decided: Revision) -> Vec<Batch> {
    let mut moves = moves.to_vec();
    moves.sort_by(|one, other| about(one).0.cmp(&about(other).0));
    let (mut batches, mut rest, mut named) = (Vec::new(), &moves[..], MODELS);
    while !rest.is_empty() {
        let (count, groups) = fitting(rest, named);
        let (some, others) = rest.split_at(count);
        // A leader decides once on a snapshot, unless nothing of what it has decided was written.
        let which = mark(&format!("{decided}/{}", batches.len()));
        batches.push(Batch { moves: some.to_vec(), found: of_moves(some, named, which) });
        (rest, named) = (others, named.saturating_sub(groups));
    }
    batches
}

/// How many of the first moves fit one transaction, and of how many groups these are.
fn fitting(moves: &[Move], named: usize) -> (usize, usize) {
    let (mut count, mut groups) = (0, 0);
    for group in moves.chunk_by(|one, other| about(one).0 == about(other).0) {
        // Those that are not named share one event for each direction.
        let events = named.min(groups + 1) + 2;
        let room = MOVES.min(MAX_OPS.saturating_sub(events)).saturating_sub(count);
        if room == 0 {
            break;
        }
        (count, groups) = (count + group.len().min(room), groups + 1);
    }
    (count, groups)
}

/// One event for each model and direction, whatever the number of its replicas, and one for those beyond the first `named`. `revision`
/// tells them from those of other moves.
pub(super) fn of_moves(moves: &[Move], named: usize, revision: i64) -> Vec<Finding> {
    let mut groups: BTreeMap<Group<'_>, Parts<'_>> = BTreeMap::new();
    // That something makes way was told when it was asked to.
    for change in moves.iter().filter(|change| !matches!(change, Move::Remove(_, Why::Yielded))) {
        let (group, key, why) = about(change);
        groups.entry(group).or_default().entry((key.version, why)).or_default().push(key);
    }
    let finding = |reason, subject, message| Finding { severity: Severity::Info, reason, subject, revision, message };
    let one = |((reason, model), parts): (&Group<'_>, &Parts<'_>)| {
        let parts: Vec<String> = parts.iter().map(|(about, keys)| part(*about, keys)).collect();
        finding(*reason, format!("models/{model}"), parts.join("; "))
    };
    let mut found: Vec<Finding> = groups.iter().take(named).map(one).collect();
    let mut others: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    for ((reason, _), parts) in groups.iter().skip(named) {
        let (replicas, models) = others.entry(*reason).or_default();
        (*replicas, *models) = (*replicas + parts.values().map(Vec::len).sum::<usize>(), *models + 1);
    }
    let other = |(reason, (replicas, models))| {
        finding(reason, "models".to_owned(), format!("{replicas} replicas of {models} other models"))
    };
    found.extend(others.into_iter().map(other));
    found
}

fn about(change: &Move) -> (Group<'_>, &Key, Why) {
    match change {
        Move::Place(key, why) => (("ReplicasPlaced", &key.model), key, *why),
        Move::Remove(key, why) => (("ReplicasRemoved", &key.model), key, *why),
    }
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
        Why::Yielded => "it has begun to make way",
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
            of_moves(&moves, MODELS, 9).into_iter().map(|found| (found.reason, found.subject, found.message)).collect();
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
        let found = of_moves(&moves, MODELS, 9);
        assert_eq!(found.len(), MODELS + 1);
        let last = found.last().expect("not empty");
        assert_eq!((last.subject.as_str(), last.message.as_str()), ("models", "7440 replicas of 744 other models"));
    }

    /// Every move is in one transaction, which the store takes, and is told there.
    fn check(moves: &[Move]) -> Vec<Batch> {
        let batches = batches(moves, 9);
        for Batch { moves, found } in &batches {
            assert!(moves.len() + 2 <= MAX_OPS && moves.len() + found.len() <= MAX_OPS, "{}", moves.len());
            let told: usize = found.iter().map(|found| replicas(&found.message)).sum();
            assert_eq!(told, moves.len(), "{found:?}");
        }
        let mut written: Vec<Move> = batches.iter().flat_map(|batch| batch.moves.clone()).collect();
        written.sort_unstable();
        assert!(written.iter().eq(moves), "each once");
        let mut ids: Vec<_> = batches.iter().flat_map(|batch| &batch.found).collect();
        ids.sort_by_key(|found| (found.reason, &found.subject, found.revision));
        let same = |pair: &[&Finding]| {
            (pair[0].reason, &pair[0].subject, pair[0].revision) == (pair[1].reason, &pair[1].subject, pair[1].revision)
        };
        assert!(!ids.windows(2).any(same), "two events of one name");
        batches
    }

    /// How many replicas a message is about.
    fn replicas(message: &str) -> usize {
        if let Some((number, _)) = message.split_once(" replicas of ") {
            return number.parse().expect("a number");
        }
        let of_part = |part: &str| {
            let (named, _) = part.split_once(": ").expect("a reason");
            let (named, more) = named.split_once(" and ").unwrap_or((named, "0 more"));
            named.split(", ").count() + more.trim_end_matches(" more").parse::<usize>().expect("a number")
        };
        message.split("; ").map(of_part).sum()
    }

    #[test]
    fn moves_are_cut_to_what_the_store_takes_with_their_events() {
        let all = |models: usize, replicas: usize| -> Vec<Move> {
            let on = |worker: usize| (0..models).map(move |model| (worker, model));
            let mut moves: Vec<Move> = (0..replicas)
                .flat_map(on)
                .map(|(worker, model)| place(&format!("w{worker:04}"), &format!("m{model:05}")))
                .collect();
            moves.sort_unstable();
            moves
        };
        let sizes = |batches: &[Batch]| batches.iter().map(|batch| batch.moves.len()).collect::<Vec<_>>();
        assert_eq!(check(&[]).len(), 0);
        assert_eq!(sizes(&check(&all(1, 250))), [100, 100, 50]);
        // As few transactions as without events where models have several replicas, and a model's are in one.
        let many = check(&all(1000, 10));
        assert_eq!(many.len(), 100);
        let named = many.iter().flat_map(|batch| &batch.found).filter(|found| found.subject != "models").count();
        assert_eq!(named, MODELS);
        assert_eq!(many.iter().map(|batch| batch.found.len()).sum::<usize>(), MODELS + 75);
        assert_eq!(sizes(&check(&all(1000, 1))), [63, 63, 63, 63, 100, 100, 100, 100, 100, 100, 100, 48]);
        check(&all(7, 33));
        let mut both = all(300, 1);
        both.extend(
            (0..300).map(|number| Move::Remove(place_key(&key("w2", &format!("m{number:05}"), 1)), Why::Replaced)),
        );
        check(&both);
    }
}
