//! What operators have asked for, what has no place, and who leads: as events. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_client::{Record, Snapshot};
use weft_policy::place::{Obstacle, Unplaced};
use weft_proto::weft::state::v1::{Cordon, Severity};
use weft_types::WorkerId;

use super::findings::{Finding, nanos};
use super::ledger::mark;

/// Workers that are cordoned, that drain, and that have drained.
pub(super) fn of_cordons(snapshot: &Snapshot) -> Vec<Finding> {
    if snapshot.cordons.is_empty() {
        return Vec::new();
    }
    let held: BTreeSet<&WorkerId> =
        snapshot.placements.keys().chain(snapshot.replicas.keys()).map(|key| &key.worker).collect();
    let finding = |(id, record): (&WorkerId, &Arc<Record<Cordon>>)| {
        let cordon = &record.value;
        let (reason, what) = match (cordon.drain, held.contains(id)) {
            (false, _) => ("WorkerCordoned", "it takes no new replicas"),
            (true, true) => ("WorkerDraining", "what it holds is moved to others"),
            (true, false) if snapshot.workers.contains_key(id) => {
                ("WorkerDrained", "it holds nothing any more and may go")
            }
            // Nobody knows what it holds: it may serve, and only have lost its lease.
            (true, false) => return None,
        };
        Some(Finding {
            severity: Severity::Info,
            reason,
            subject: format!("workers/{id}"),
            revision: asked(cordon),
            message: format!("{what}{}", because(cordon)),
        })
    };
    snapshot.cordons.iter().filter_map(finding).collect()
}

/// Tells one wish from the next. The record's own revision grows with each note of the leader's, too.
fn asked(cordon: &Cordon) -> i64 {
    cordon.at.as_ref().map_or(0, nanos)
}

fn because(cordon: &Cordon) -> String {
    match (cordon.by.as_str(), cordon.reason.as_str()) {
        ("", "") => String::new(),
        ("", reason) => format!("; asked for: {reason}"),
        (by, "") => format!("; asked for by {by}"),
        (by, reason) => format!("; asked for by {by}: {reason}"),
    }
}

/// The cordons that were there at the last look.
#[derive(Debug, Default)]
pub(super) struct Cordoned(BTreeMap<WorkerId, i64>);

impl Cordoned {
    /// What has ended since the last look.
    pub(super) fn observe(&mut self, snapshot: &Snapshot) -> Vec<Finding> {
        let now = snapshot.cordons.iter().map(|(id, record)| (id.clone(), record.create_revision)).collect();
        let before = std::mem::replace(&mut self.0, now);
        let ended = before.into_iter().filter(|(id, _)| !self.0.contains_key(id));
        let finding = |(id, revision)| Finding {
            severity: Severity::Info,
            reason: "WorkerUncordoned",
            subject: format!("workers/{id}"),
            revision,
            message: "it may take replicas again".to_owned(),
        };
        ended.map(finding).collect()
    }
}

/// What is wanted and has no place. The same lack for another reason is another event.
pub(super) fn of_unplaced(unplaced: &[Unplaced]) -> Vec<Finding> {
    let finding = |unplaced: &Unplaced| {
        let Unplaced { model, version, missing, obstacle } = unplaced;
        let reason = match obstacle {
            Obstacle::FailedEverywhere => "VersionFailedEverywhere",
            _ => "ReplicasUnplaced",
        };
        let version = version.map(|version| format!("@{version}")).unwrap_or_default();
        let told = obstacle.to_string();
        Finding {
            severity: Severity::Warning,
            reason,
            subject: format!("models/{model}{version}"),
            revision: mark(&told),
            message: format!("{missing} missing: {told}"),
        }
    };
    unplaced.iter().map(finding).collect()
}

/// A scheduler has begun to lead.
pub(super) fn elected(id: &str, term: i64) -> Finding {
    Finding {
        severity: Severity::Info,
        reason: "LeaderElected",
        subject: format!("services/scheduler/{id}"),
        revision: term,
        message: format!("it leads, with epoch {term}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{key, placement, record, snapshot, worker};

    fn told(found: &[Finding]) -> Vec<(&str, &str)> {
        found.iter().map(|found| (found.reason, found.message.as_str())).collect()
    }

    #[test]
    fn a_drain_is_told_from_its_beginning_to_its_end() {
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        placement(&mut mesh, &key("w1", "m", 1), 4);
        let id: WorkerId = "w1".parse().expect("an id");
        let cordon = |drain| Cordon { drain, by: "ann".to_owned(), reason: "new disk".to_owned(), ..Cordon::default() };
        let expect = |mesh: &Snapshot, reason: &str, what: &str| {
            let message = format!("{what}; asked for by ann: new disk");
            assert_eq!(told(&of_cordons(mesh)), [(reason, message.as_str())]);
        };
        mesh.cordons.insert(id.clone(), record(cordon(false), 5));
        expect(&mesh, "WorkerCordoned", "it takes no new replicas");
        mesh.cordons.insert(id, record(cordon(true), 6));
        expect(&mesh, "WorkerDraining", "what it holds is moved to others");
        mesh.placements = Default::default();
        expect(&mesh, "WorkerDrained", "it holds nothing any more and may go");
        mesh.workers = Default::default();
        assert_eq!(of_cordons(&mesh), [], "it may serve all the same, without its lease");
    }

    #[test]
    fn the_leaders_note_is_no_new_wish() {
        let at = |nanos| Some(prost_types::Timestamp { seconds: 7, nanos });
        let cordon = Cordon { at: at(1), ..Cordon::default() };
        assert_eq!(asked(&cordon), asked(&Cordon { absent_since: at(5), ..cordon.clone() }));
        assert_ne!(asked(&cordon), asked(&Cordon { at: at(2), ..Cordon::default() }));
    }

    #[test]
    fn the_end_of_a_cordon_is_told_once() {
        let (mut cordoned, mut mesh) = (Cordoned::default(), snapshot(&[]));
        mesh.cordons.insert("w1".parse().expect("an id"), record(Cordon::default(), 5));
        assert_eq!(cordoned.observe(&mesh), []);
        assert_eq!(cordoned.observe(&mesh), [], "it stands");
        mesh.cordons = Default::default();
        assert_eq!(told(&cordoned.observe(&mesh)), [("WorkerUncordoned", "it may take replicas again")]);
        assert_eq!(cordoned.observe(&mesh), []);
    }

    #[test]
    fn another_obstacle_is_another_event() {
        let lack = |obstacle| Unplaced { model: "m".parse().expect("a name"), version: None, missing: 2, obstacle };
        let found = of_unplaced(&[lack(Obstacle::Memory), lack(Obstacle::Cordoned), lack(Obstacle::FailedEverywhere)]);
        assert_ne!(found[0].revision, found[1].revision);
        let reasons = found.iter().map(|found| found.reason).collect::<Vec<_>>();
        assert_eq!(reasons, ["ReplicasUnplaced", "ReplicasUnplaced", "VersionFailedEverywhere"]);
        assert_eq!((found[0].subject.as_str(), found[0].severity), ("models/m", Severity::Warning));
    }
}
