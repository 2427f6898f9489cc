//! Durations and instants as the well-known types.

use std::time::{Duration, SystemTime};

/// A duration for the wire; what does not fit saturates.
pub fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: value.subsec_nanos().cast_signed(),
    }
}

/// A duration from the wire, unless it is negative or malformed.
pub fn from_duration(value: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(value.seconds).ok()?, nanos))
}

/// A wall-clock time for the wire.
pub fn timestamp(value: SystemTime) -> prost_types::Timestamp {
    let since = value.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = duration(since);
    prost_types::Timestamp { seconds: since.seconds, nanos: since.nanos }
}

/// A wall-clock time from the wire, unless it is before 1970 or malformed.
pub fn from_timestamp(value: &prost_types::Timestamp) -> Option<SystemTime> {
    let since = from_duration(&prost_types::Duration { seconds: value.seconds, nanos: value.nanos })?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_cross_and_malformed_ones_do_not() {
        let value = Duration::new(3, 7);
        assert_eq!(from_duration(&duration(value)), Some(value));
        assert_eq!(from_duration(&prost_types::Duration { seconds: -1, nanos: 0 }), None);
        assert_eq!(from_duration(&prost_types::Duration { seconds: 0, nanos: 1_000_000_000 }), None);
    }
}
