//! Changes of how many replicas demand asks for. Pure.

use std::time::{Duration, SystemTime};

use weft_client::Snapshot;
use weft_proto::from_timestamp;
use weft_proto::weft::state::v1::Severity;

use super::findings::{Finding, nanos};

/// A change is news for so long: what stands is shown with the model.
const NEWS: Duration = Duration::from_secs(600);

/// What has changed of late.
pub(super) fn of_scales(snapshot: &Snapshot, now: SystemTime) -> impl Iterator<Item = Finding> {
    snapshot.scales.iter().filter_map(move |(name, record)| {
        let scale = &record.value;
        let since = scale.since.as_ref().filter(|since| {
            let told = from_timestamp(since).unwrap_or(SystemTime::UNIX_EPOCH);
            // Clocks of machines differ: what is said to come was just now.
            now.duration_since(told).unwrap_or_default() < NEWS
        })?;
        Some(Finding {
            severity: Severity::Info,
            reason: "Autoscaled",
            subject: format!("models/{name}"),
            revision: nanos(since),
            message: format!("{} replicas are wanted: {}", scale.target, scale.why),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{record, snapshot};
    use weft_proto::timestamp;
    use weft_proto::weft::state::v1::Scale;

    #[test]
    fn a_change_is_told_while_it_is_news() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut mesh = snapshot(&[]);
        let mut show = |since: Option<SystemTime>| {
            let scale = Scale { target: 3, why: "w".to_owned(), since: since.map(timestamp), last_called: None };
            mesh.scales.insert("m".parse().expect("a name"), record(scale, 1));
            let told = of_scales(&mesh, now).map(|finding| (finding.subject, finding.revision, finding.message));
            told.collect::<Vec<_>>()
        };
        let told = |seconds: i64| {
            let message = "3 replicas are wanted: w".to_owned();
            vec![("models/m".to_owned(), seconds * 1_000_000_000, message)]
        };
        assert_eq!(show(Some(now - Duration::from_secs(599))), told(999_401));
        assert_eq!(show(Some(now + NEWS)), told(1_000_600), "another machine's clock is ahead");
        let a_little_later = show(Some(now - Duration::from_nanos(1)));
        assert_ne!(a_little_later, show(Some(now - Duration::from_nanos(2))), "two changes within a second");
        assert_eq!(show(Some(now - NEWS)), []);
        assert_eq!(show(None), []);
    }
}
