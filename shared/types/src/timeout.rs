//! The `grpc-timeout` header (gRPC over HTTP/2, PROTOCOL-HTTP2.md): at most eight ASCII digits and one unit.

use std::time::Duration;

/// The header's name.
pub const HEADER: &str = "grpc-timeout";

/// What Envoy writes for those behind it: how many milliseconds it gives a call.
pub const ENVOY_HEADER: &str = "x-envoy-expected-rq-timeout-ms";

/// Why a `grpc-timeout` value was refused. A malformed value is an error: taken as "none" it would be an infinite deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The number is missing, too long, or not digits.
    #[error("expected 1 to 8 digits and a unit")]
    Digits,
    /// The unit is not one of `H M S m u n`.
    #[error("expected a unit of H, M, S, m, u or n")]
    Unit,
    /// Not a number of milliseconds.
    #[error("expected 1 to 10 digits")]
    Milliseconds,
}

/// Reads a header value strictly.
pub fn parse(value: &[u8]) -> Result<Duration, ParseError> {
    let Some((unit, digits)) = value.split_last() else { return Err(ParseError::Digits) };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::Digits);
    }
    let number = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Ok(Duration::from_secs(number * 3600)),
        b'M' => Ok(Duration::from_secs(number * 60)),
        b'S' => Ok(Duration::from_secs(number)),
        b'm' => Ok(Duration::from_millis(number)),
        b'u' => Ok(Duration::from_micros(number)),
        b'n' => Ok(Duration::from_nanos(number)),
        _ => Err(ParseError::Unit),
    }
}

/// Reads Envoy's header strictly. `None` is no limit, which Envoy writes as 0.
///
/// # Errors
///
/// When the value is not 1 to 10 digits.
pub fn parse_millis(value: &[u8]) -> Result<Option<Duration>, ParseError> {
    if value.is_empty() || value.len() > 10 || !value.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::Milliseconds);
    }
    let millis = value.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// Writes a timeout in the finest unit that fits eight digits, rounded down so that a hop never grants more than it has.
pub fn format(timeout: Duration) -> String {
    const LIMIT: u128 = 100_000_000;
    let units = [(timeout.as_nanos(), 'n'), (timeout.as_micros(), 'u'), (timeout.as_millis(), 'm')];
    for (number, unit) in units {
        if number < LIMIT {
            return format!("{number}{unit}");
        }
    }
    let seconds = u128::from(timeout.as_secs());
    match seconds {
        0..LIMIT => format!("{seconds}S"),
        _ => format!("{}H", (seconds / 3600).min(LIMIT - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_milliseconds() {
        let cases: [(&[u8], _); 8] = [
            (b"250", Ok(Some(Duration::from_millis(250)))),
            (b"9999999999", Ok(Some(Duration::from_millis(9_999_999_999)))),
            (b"0", Ok(None)),
            (b"", Err(ParseError::Milliseconds)),
            (b"10000000000", Err(ParseError::Milliseconds)),
            (b"-1", Err(ParseError::Milliseconds)),
            (b"1.5", Err(ParseError::Milliseconds)),
            (b"15s", Err(ParseError::Milliseconds)),
        ];
        for (value, expected) in cases {
            assert_eq!(parse_millis(value), expected, "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn reads_every_unit() {
        assert_eq!(parse(b"2H"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse(b"3M"), Ok(Duration::from_secs(180)));
        assert_eq!(parse(b"99999999S"), Ok(Duration::from_secs(99_999_999)));
        assert_eq!(parse(b"200m"), Ok(Duration::from_millis(200)));
        assert_eq!(parse(b"0u"), Ok(Duration::ZERO));
        assert_eq!(parse(b"7n"), Ok(Duration::from_nanos(7)));
    }

    #[test]
    fn refuses_what_is_malformed() {
        for bad in
            ["", "m", "abc", "123456789m", "-1S", "+1S", "1", "1s", "1h", " 1S", "1S ", "1.5S", "0x1S", "1\u{b5}"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        /// What is written reads back as the same or a slightly shorter timeout: never longer.
        #[test]
        fn formatting_never_grants_more(nanos in 0u64..u64::MAX) {
            let timeout = Duration::from_nanos(nanos);
            let read = parse(format(timeout).as_bytes()).expect("own output parses");
            prop_assert!(read <= timeout);
            prop_assert!(timeout - read <= timeout / 10_000);
        }

        #[test]
        fn any_bytes_are_an_answer_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = parse(&bytes);
        }
    }
}
