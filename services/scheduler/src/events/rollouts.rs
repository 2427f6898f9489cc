//! How rollouts go: what stands in their records. Pure.

use std::sync::Arc;

use weft_client::{Record, Snapshot};
use weft_proto::weft::control::v1::{Rollout, RolloutIntent, RolloutPhase, RolloutStatus};
use weft_proto::weft::state::v1::Severity;
use weft_types::ModelName;

use super::findings::Finding;
use super::ledger::mark;

/// That a rollout has begun, its stage, what operators have said of it, and how it has ended.
pub(super) fn of_rollouts(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    snapshot.rollouts.iter().flat_map(of_rollout)
}

fn of_rollout((model, record): (&ModelName, &Arc<Record<Rollout>>)) -> Vec<Finding> {
    let rollout = &record.value;
    let Rollout { stable, canary, begin_revision, intent_revision, .. } = *rollout;
    let none = RolloutStatus::default();
    let status = rollout.status.as_ref().unwrap_or(&none);
    let finding = |reason, revision, message| Finding {
        severity: Severity::Info,
        reason,
        subject: format!("rollouts/{model}"),
        revision,
        message,
    };
    let ended = |reason, message| vec![finding(reason, record.mod_revision, message)];
    let stage = match status.phase() {
        RolloutPhase::Promoted => {
            let message = format!("version {canary} took the place of version {stable}: {}", status.message);
            return ended("RolloutPromoted", message);
        }
        RolloutPhase::RolledBack => {
            let message = format!("version {canary} did not take the place of version {stable}: {}", status.message);
            return ended("RolloutRolledBack", message)
                .into_iter()
                .map(|found| Finding { severity: Severity::Warning, ..found })
                .collect();
        }
        RolloutPhase::Unspecified => None,
        RolloutPhase::Shadowing => Some(format!("copies of {} of 100 calls", status.shadow_percent)),
        RolloutPhase::Canary if status.canary_percent == 0 => Some("marked calls".to_owned()),
        RolloutPhase::Canary => Some(format!("{} of 100 calls", status.canary_percent)),
    };
    // One that stands for hours is in the same stage, whatever else is written of it meanwhile.
    let which = mark(&format!("{begin_revision}/{}/{}", status.phase, status.step));
    let begun = format!("version {canary} is to take the place of version {stable}");
    let mut found = vec![finding("RolloutStarted", begin_revision, begun)];
    found.extend(stage.map(|what| finding("RolloutStage", which, format!("version {canary} gets {what}"))));
    match rollout.intent() {
        RolloutIntent::Pause => {
            found.push(finding("RolloutPaused", intent_revision, "it stays in its stage".to_owned()));
        }
        RolloutIntent::Unspecified if intent_revision > 0 => {
            found.push(finding("RolloutResumed", intent_revision, "it goes on".to_owned()));
        }
        // The end tells of these.
        RolloutIntent::Unspecified | RolloutIntent::Promote | RolloutIntent::Abort => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::snapshot;

    fn found(rollout: Rollout, mod_revision: i64) -> Vec<Finding> {
        let mut mesh = snapshot(&[]);
        let record = Record { value: rollout, create_revision: 3, mod_revision };
        mesh.rollouts.insert("m".parse().expect("a name"), Arc::new(record));
        of_rollouts(&mesh).collect()
    }

    fn rollout(phase: RolloutPhase, step: u32) -> Rollout {
        let canary_percent = if phase == RolloutPhase::Canary { 5 * (step + 1) } else { 0 };
        let status = RolloutStatus {
            phase: phase.into(),
            step,
            canary_percent,
            shadow_percent: 30,
            message: "why".to_owned(),
            ..RolloutStatus::default()
        };
        Rollout { stable: 1, canary: 2, begin_revision: 7, status: Some(status), ..Rollout::default() }
    }

    fn told(rollout: Rollout) -> Vec<(&'static str, String)> {
        found(rollout, 9).into_iter().map(|found| (found.reason, found.message)).collect()
    }

    fn last(rollout: Rollout) -> (&'static str, String) {
        told(rollout).pop().expect("something is told")
    }

    #[test]
    fn a_rollout_is_told_from_its_beginning_to_its_end() {
        let begun = ("RolloutStarted", "version 2 is to take the place of version 1".to_owned());
        assert_eq!(told(rollout(RolloutPhase::Unspecified, 0)), std::slice::from_ref(&begun));
        let stage = |what: &str| ("RolloutStage", format!("version 2 gets {what}"));
        let shadowing = told(rollout(RolloutPhase::Shadowing, 0));
        assert_eq!(shadowing, [begun.clone(), stage("copies of 30 of 100 calls")]);
        assert_eq!(told(rollout(RolloutPhase::Canary, 1)), [begun.clone(), stage("10 of 100 calls")]);
        let mut marked = rollout(RolloutPhase::Canary, 0);
        marked.status.as_mut().expect("it has one").canary_percent = 0;
        assert_eq!(told(marked), [begun, stage("marked calls")]);
        let promoted = "version 2 took the place of version 1: why".to_owned();
        assert_eq!(told(rollout(RolloutPhase::Promoted, 0)), [("RolloutPromoted", promoted)]);
        let rolled_back = "version 2 did not take the place of version 1: why".to_owned();
        assert_eq!(told(rollout(RolloutPhase::RolledBack, 0)), [("RolloutRolledBack", rolled_back)]);
    }

    #[test]
    fn what_operators_say_is_told() {
        let said = |intent: RolloutIntent, intent_revision| Rollout {
            intent: intent.into(),
            intent_revision,
            ..rollout(RolloutPhase::Unspecified, 0)
        };
        assert_eq!(last(said(RolloutIntent::Unspecified, 0)).0, "RolloutStarted");
        assert_eq!(last(said(RolloutIntent::Pause, 8)), ("RolloutPaused", "it stays in its stage".to_owned()));
        assert_eq!(last(said(RolloutIntent::Unspecified, 9)), ("RolloutResumed", "it goes on".to_owned()));
    }

    /// The same stage is the same event, whatever is written beside it; another stage, pause or rollout is another.
    #[test]
    fn each_stage_and_each_pause_has_an_event_of_its_own() {
        let ids = |rollout: &Rollout, revision| {
            let found = found(rollout.clone(), revision).into_iter();
            found.map(|found| (found.reason, found.revision)).collect::<Vec<_>>()
        };
        let stage = Rollout { intent: RolloutIntent::Pause.into(), ..rollout(RolloutPhase::Canary, 1) };
        assert_eq!(ids(&stage, 9), ids(&stage, 10));
        let [_, of_stage, of_pause] = ids(&stage, 9)[..] else { panic!("three") };
        assert_ne!(ids(&rollout(RolloutPhase::Canary, 2), 9)[1], of_stage);
        assert_ne!(ids(&Rollout { begin_revision: 8, ..stage.clone() }, 9)[1], of_stage);
        assert_ne!(ids(&Rollout { intent_revision: 8, ..stage }, 9)[2], of_pause);
    }
}
