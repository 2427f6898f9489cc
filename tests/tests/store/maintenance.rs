//! The members of etcd, as an operator sees them.

use etcd_client::{AlarmAction, AlarmOptions, AlarmType};
use weft_store::{Maintain, Member};

use super::*;

fn maintenance(endpoints: Vec<String>) -> Maintenance {
    Maintenance::try_new(&Options::new(endpoints)).expect("good endpoints")
}

fn is_well(member: &Member) -> bool {
    member.error.is_none() && member.version.starts_with("3.") && member.database_bytes > 0
}

/// What the members say once all but `down` are well: on a busy machine one may be late. The one that is down never is well.
async fn all_well_but(maintenance: &Maintenance, down: Option<usize>) -> Vec<Member> {
    loop {
        let members = maintenance.members().await;
        assert!(members.len() == 3 && down.is_none_or(|index| !is_well(&members[index])), "{members:?}");
        if members.iter().enumerate().all(|(index, member)| Some(index) == down || is_well(member)) {
            return members;
        }
    }
}

#[tokio::test]
async fn every_member_is_asked_and_none_holds_up_the_others() {
    let mut cluster = Cluster::start(3).await.expect("etcd starts");
    let maintenance = maintenance(cluster.endpoints());
    let store = EtcdStore::connect(Options::new(cluster.endpoints())).await.expect("etcd answers");
    within(async {
        let revision = done(&store, ops([put("a", "1", None)])).await;
        let leader = cluster.leader().await.expect("a leader");
        let members = all_well_but(&maintenance, None).await;
        let leaders: Vec<bool> = (0..3).map(|index| index == leader).collect();
        assert_eq!(members.iter().map(|member| member.leader).collect::<Vec<_>>(), leaders);

        let (killed, paused) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.kill(killed).expect("killed");
        // One connection is in use, the other is at hand: neither serves a member that does not answer.
        for _ in 0..3 {
            all_well_but(&maintenance, Some(killed)).await;
        }
        patient(async || maintenance.compact(revision).await).await;
        cluster.restart(killed).await.expect("etcd starts again");
        cluster.pause(paused).expect("paused");
        all_well_but(&maintenance, Some(paused)).await;
        cluster.resume(paused).expect("resumed");
        all_well_but(&maintenance, None).await;
    })
    .await;
}

#[tokio::test]
async fn an_alarm_is_shown_at_the_member_that_raised_it() {
    let cluster = Cluster::start(3).await.expect("etcd starts");
    let maintenance = maintenance(cluster.endpoints());
    let mut client = cluster.client(1).await.expect("a client");
    let id = client.status().await.expect("status").header().expect("a header").member_id();
    let mut alarm = AlarmOptions::new();
    alarm.with_member(id);
    client.alarm(AlarmAction::Activate, AlarmType::Nospace, Some(alarm)).await.expect("raised");
    let shows = |members: &[Member]| members.iter().map(|member| member.alarms.clone()).collect::<Vec<_>>();
    within(async {
        // A member hears of it with the log, a moment later.
        let raised = [vec![], vec!["NOSPACE".to_owned()], vec![]];
        while shows(&maintenance.members().await) != raised {}
    })
    .await;
}

#[tokio::test]
async fn a_member_that_is_not_there_is_shown_as_such() {
    let mut cluster = Cluster::start(1).await.expect("etcd starts");
    let maintenance = maintenance(cluster.endpoints());
    cluster.kill(0).expect("killed");
    let members = within(maintenance.members()).await;
    assert!(members.len() == 1 && members[0].error.is_some(), "{members:?}");
    assert!(matches!(within(maintenance.compact(1)).await, Err(Error::Unavailable(_))));
    cluster.restart(0).await.expect("etcd starts again");
    within(async { while !maintenance.members().await.iter().all(|member| is_well(member) && member.leader) {} }).await;
}

#[tokio::test]
async fn the_embedded_store_is_its_own_member() {
    let store = MemoryStore::new(Arc::new(SystemClock));
    done(&store, ops([put("a", "1", None)])).await;
    let members = store.members().await;
    assert!(members.len() == 1 && members[0].leader && members[0].database_bytes > 0, "{members:?}");
}
