//! What is odd right now. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weft_client::Snapshot;
use weft_store::Member;

/// Looks in a row that a member may leave unanswered before that is an event: one may fall into an election.
const SILENT_LOOKS: u32 = 3;

/// One thing that operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// What happened, from a fixed set.
    pub(super) reason: &'static str,
    /// What it happened to.
    pub(super) subject: String,
    /// The record's revision; zero for what has none. The same reason, subject and revision are the same event.
    pub(super) revision: i64,
    /// The details.
    pub(super) message: String,
}

/// What the snapshot shows: records that cannot be read, and workers that are kept although their registrations vanished.
pub(super) fn of_snapshot(snapshot: &Snapshot, root: &str) -> Vec<Finding> {
    let undecodable = snapshot.undecodable.iter().map(|(key, revision)| Finding {
        reason: "UndecodableRecord",
        subject: key.strip_prefix(root).unwrap_or(key).to_owned(),
        revision: *revision,
        message: format!(
            "the record of revision {revision} cannot be read: the last good one stands, if there was one"
        ),
    });
    let retained = snapshot.retained.iter().map(|id| Finding {
        reason: "WorkerRetained",
        subject: format!("workers/{id}"),
        revision: snapshot.workers.get(id).map_or(0, |record| record.mod_revision),
        message: "its registration vanished with many others at once, but it still answers: it is kept".to_owned(),
    });
    undecodable.chain(retained).collect()
}

/// What the store's members tell of themselves, and which of them tell nothing.
pub(super) fn of_store(members: &[Member], silent: &BTreeSet<usize>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, member) in members.iter().enumerate() {
        found.extend(member.alarms.iter().map(|alarm| {
            Finding {
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
    use std::sync::Arc;

    use super::*;
    use crate::fixture::{snapshot, worker};

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
