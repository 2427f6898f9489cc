//! What is odd right now. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_client::{Record, ReplicaKey, Snapshot};
use weft_proto::weft::state::v1::{Replica, ReplicaState, Severity};
use weft_store::Member;

/// Looks in a row that a member may leave unanswered before that is an event: one may fall into an election.
const SILENT_LOOKS: u32 = 3;

/// One thing that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// How much it matters.
    pub(super) severity: Severity,
    /// What happened, from a fixed set.
    pub(super) reason: &'static str,
    /// What it happened to.
    pub(super) subject: String,
    /// The record's revision; zero for what has none. The same reason, subject and revision are the same event.
    pub(super) revision: i64,
    /// The details.
    pub(super) message: String,
}

/// Tells one moment from the next, where there is no revision for that.
pub(super) fn nanos(at: &prost_types::Timestamp) -> i64 {
    at.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(at.nanos))
}

/// What the snapshot shows: records that cannot be read, workers that are kept although their registrations vanished, and
/// replicas whose processes do not last.
pub(super) fn of_snapshot(snapshot: &Snapshot, root: &str) -> Vec<Finding> {
    let undecodable = snapshot.undecodable.iter().map(|(key, revision)| Finding {
        severity: Severity::Warning,
        reason: "UndecodableRecord",
        subject: key.strip_prefix(root).unwrap_or(key).to_owned(),
        revision: *revision,
        message: format!(
            "the record of revision {revision} cannot be read: the last good one stands, if there was one"
        ),
    });
    let retained = snapshot.retained.iter().map(|id| Finding {
        severity: Severity::Warning,
        reason: "WorkerRetained",
        subject: format!("workers/{id}"),
        revision: snapshot.workers.get(id).map_or(0, |record| record.mod_revision),
        message: "its registration vanished with many others at once, but it still answers: it is kept".to_owned(),
    });
    undecodable.chain(retained).chain(snapshot.replicas.iter().flat_map(of_replica)).collect()
}

/// What a replica tells of itself: that its process was lost of late, that it could not be loaded, and that it refuses inputs.
fn of_replica((key, record): (&ReplicaKey, &Arc<Record<Replica>>)) -> impl Iterator<Item = Finding> + use<> {
    let ReplicaKey { worker, model, version } = key;
    let subject = format!("replicas/{worker}/{model}@{version}");
    let Replica { losses, loss, quarantined_inputs, lost_at, .. } = &record.value;
    let lost = (*losses > 0).then(|| Finding {
        severity: Severity::Warning,
        reason: "ReplicaLost",
        subject: subject.clone(),
        // The count begins anew after a while; workers of before tell nothing else.
        revision: lost_at.as_ref().map_or(i64::from(*losses), nanos),
        message: format!(
            "the model's process was lost for the {} time in a row, and is started again: {loss}",
            Nth(*losses)
        ),
    });
    let failed = (record.value.state() == ReplicaState::Failed).then(|| Finding {
        severity: Severity::Warning,
        reason: "ReplicaFailed",
        subject: subject.clone(),
        revision: record.mod_revision,
        message: format!("it could not be loaded: {}", record.value.reason),
    });
    let quarantined = (*quarantined_inputs > 0).then(|| Finding {
        severity: Severity::Warning,
        reason: "InputQuarantined",
        subject,
        revision: i64::from(*quarantined_inputs),
        message: format!(
            "{quarantined_inputs} inputs have ended the model's process several times each: they are refused"
        ),
    });
    lost.into_iter().chain(failed).chain(quarantined)
}

/// A number as one of a row.
struct Nth(u32);

impl std::fmt::Display for Nth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ending = match (self.0 % 10, self.0 % 100) {
            (_, 11..=13) => "th",
            (1, _) => "st",
            (2, _) => "nd",
            (3, _) => "rd",
            _ => "th",
        };
        write!(formatter, "{}{ending}", self.0)
    }
}

/// What the store's members tell of themselves, and which of them tell nothing.
pub(super) fn of_store(members: &[Member], silent: &BTreeSet<usize>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, member) in members.iter().enumerate() {
        found.extend(member.alarms.iter().map(|alarm| {
            Finding {
                severity: Severity::Warning,
                reason: "StoreAlarm",
                subject: format!("store/{index}/{alarm}"),
                revision: 0,
                message: match alarm.as_str() {
                    "NOSPACE" => {
                        "its database is full: nothing is written before it is made smaller and the alarm disarmed"
                    }
                    "CORRUPT" => "its data differ from the other members': it must be replaced",
                    _ => "it has raised an alarm",
                }
                .to_owned(),
            }
        }));
        if silent.contains(&index) {
            found.push(Finding {
                severity: Severity::Warning,
                reason: "StoreMemberSilent",
                subject: format!("store/{index}"),
                revision: 0,
                message: "the member has not answered for a while: the store may be one loss away from its end"
                    .to_owned(),
            });
        }
    }
    found
}

/// How often in a row each member has not answered.
#[derive(Debug, Default)]
pub(super) struct Silence {
    looks: BTreeMap<usize, u32>,
}

impl Silence {
    /// Takes note of a look, and tells who has been silent for long.
    pub(super) fn observe(&mut self, members: &[Member]) -> BTreeSet<usize> {
        let silent = members.iter().enumerate().filter(|(_, member)| member.error.is_some());
        let looks = silent.map(|(index, _)| (index, self.looks.get(&index).copied().unwrap_or(0).saturating_add(1)));
        self.looks = looks.collect();
        self.looks.iter().filter(|(_, looks)| **looks >= SILENT_LOOKS).map(|(index, _)| *index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{key, record, snapshot, worker};

    fn told(found: &[Finding]) -> Vec<(&str, &str, i64)> {
        found.iter().map(|found| (found.reason, found.subject.as_str(), found.revision)).collect()
    }

    #[test]
    fn a_snapshot_without_oddities_tells_nothing() {
        assert_eq!(of_snapshot(&snapshot(&[worker("w1", 1, &[])]), "/weft/v1/t/"), []);
    }

    #[test]
    fn unreadable_records_and_kept_workers_are_told_with_their_revisions() {
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        mesh.undecodable = Arc::new([("/weft/v1/t/models/m".to_owned(), 7)].into());
        mesh.retained = Arc::new(["w1".parse().expect("an id")].into());
        let found = of_snapshot(&mesh, "/weft/v1/t/");
        assert_eq!(told(&found), [("UndecodableRecord", "models/m", 7), ("WorkerRetained", "workers/w1", 1)]);
    }

    #[test]
    fn each_loss_and_each_quarantined_input_is_told() {
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        let mut show = |losses, quarantined_inputs| {
            let replica = Replica { losses, loss: "signal 11".to_owned(), quarantined_inputs, ..Replica::default() };
            mesh.replicas.insert(key("w1", "m", 2), record(replica, 9));
            of_snapshot(&mesh, "/weft/v1/t/")
        };
        assert_eq!(show(0, 0), []);
        let found = show(2, 0);
        assert_eq!(told(&found), [("ReplicaLost", "replicas/w1/m@2", 2)]);
        assert!(found[0].message.contains("2nd time") && found[0].message.contains("signal 11"), "{found:?}");
        let found = show(3, 1);
        assert_eq!(told(&found), [("ReplicaLost", "replicas/w1/m@2", 3), ("InputQuarantined", "replicas/w1/m@2", 1)],);
    }

    #[test]
    fn the_first_loss_after_a_quiet_while_is_another_one() {
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        let mut first = |seconds, nanos| {
            let lost_at = Some(prost_types::Timestamp { seconds, nanos });
            mesh.replicas.insert(key("w1", "m", 2), record(Replica { losses: 1, lost_at, ..Replica::default() }, 9));
            of_snapshot(&mesh, "/weft/v1/t/")[0].revision
        };
        let at = [first(100, 0), first(100, 0), first(100, 1), first(161, 0)];
        assert!(at[0] == at[1] && at[1] < at[2] && at[2] < at[3], "{at:?}");
    }

    #[test]
    fn each_failed_load_is_told() {
        let mut mesh = snapshot(&[worker("w1", 1, &[])]);
        crate::fixture::replica(&mut mesh, &key("w1", "m", 2), ReplicaState::Failed, 12);
        let found = of_snapshot(&mesh, "/weft/v1/t/");
        assert_eq!(told(&found), [("ReplicaFailed", "replicas/w1/m@2", 12)]);
        assert!(found[0].message.ends_with("told by the worker"), "{found:?}");
    }

    #[test]
    fn numbers_in_a_row_are_spelled() {
        let spelled = [1, 2, 3, 4, 11, 12, 13, 21, 112].map(|number| Nth(number).to_string());
        assert_eq!(spelled, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"]);
    }

    #[test]
    fn alarms_are_told_at_once_and_silence_when_it_lasts() {
        let silent = Member { error: Some("refused".to_owned()), ..Member::default() };
        let full = Member { alarms: vec!["NOSPACE".to_owned()], ..Member::default() };
        let (mut silence, members) = (Silence::default(), [full, silent]);
        for look in 1..=4 {
            let found = of_store(&members, &silence.observe(&members));
            let mut expected = vec![("StoreAlarm", "store/0/NOSPACE", 0)];
            if look >= 3 {
                expected.push(("StoreMemberSilent", "store/1", 0));
            }
            assert_eq!(told(&found), expected, "look {look}");
        }
        let answered = [Member::default(), Member::default()];
        assert!(silence.observe(&answered).is_empty());
        assert!(silence.observe(&members).is_empty(), "an answer begins the count anew");
    }
}
