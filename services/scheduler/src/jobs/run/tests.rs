use super::*;

/// A job that waits for a moment which a clock that ran ahead has named looks at the time before.
#[test]
fn time_is_looked_at_every_minute() {
    assert_eq!(until(0), MIN_PAUSE);
    assert_eq!(until(Millis::MAX), MAX_PAUSE);
}
