//! The members of the state store, as operators may see them.

use std::time::Duration;

use weft_proto::weft::scheduler::v1::StoreMember;
use weft_store::Member;

use crate::Inner;

/// How long asking all of them may take. The adapter has a limit of its own for each; this one is for whoever waits here.
const LIMIT: Duration = Duration::from_secs(5);

impl Inner {
    /// Every member as it answered just now; none when that takes too long.
    pub(crate) async fn store_members(&self) -> Vec<Member> {
        tokio::time::timeout(LIMIT, self.maintenance.members()).await.unwrap_or_else(|_| {
            tracing::warn!("the state store's members do not answer in time");
            Vec::new()
        })
    }
}

/// The members for the caller. A failure's cause goes to the log, because it may hold addresses.
pub(super) fn told(members: Vec<Member>) -> Vec<StoreMember> {
    let told = |(index, member): (usize, Member)| {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        if let Some(error) = &member.error {
            tracing::warn!(index, error, "a member of the state store does not answer");
        }
        StoreMember {
            index,
            version: member.version,
            database_bytes: member.database_bytes,
            leader: member.leader,
            alarms: member.alarms,
            error: member.error.map_or_else(String::new, |_| "it does not answer".to_owned()),
        }
    };
    members.into_iter().enumerate().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_not_told() {
        let full = Member { alarms: vec!["NOSPACE".to_owned()], leader: true, ..Member::default() };
        let away = Member { error: Some("10.0.0.1:2379 refused".to_owned()), ..Member::default() };
        let told = told(vec![full, away]);
        assert_eq!((told[0].index, told[0].leader, told[0].error.as_str()), (0, true, ""));
        assert_eq!(told[0].alarms, ["NOSPACE"]);
        assert_eq!((told[1].index, told[1].error.as_str()), (1, "it does not answer"));
    }
}
