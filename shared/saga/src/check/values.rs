//! Names and numbers.

use super::Found;
use crate::definition::{Definition, Retry};

const DAY: u64 = 24 * HOUR;
const HOUR: u64 = 3_600_000;

/// What gRPC's codes are called.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) fn check(definition: &Definition, found: &mut Found) {
    if !(1_000..=7 * DAY).contains(&definition.undo_budget) {
        found.add("definition.undo_budget", format!("{} ms: 1 s to 7 days", definition.undo_budget));
    }
    for (index, step) in definition.steps.iter().enumerate() {
        let mut wrong = |field: &str, problem: String| found.add_at(index, field, problem);
        if !is_name(&step.name) {
            wrong("name", format!("`{}`: 1 to 63 letters, digits, `_` or `-`", step.name.escape_debug()));
        }
        if let Some(signal) = step.signal.as_ref().filter(|signal| !is_name(signal)) {
            wrong("action.wait.name", format!("`{}`: 1 to 63 letters, digits, `_` or `-`", signal.escape_debug()));
        }
        if !(1..=DAY).contains(&step.timeout) {
            wrong("timeout", format!("{} ms: 1 ms to 24 h", step.timeout));
        }
        if !(1..=64).contains(&step.parallelism) {
            wrong("parallelism", format!("{}: 1 to 64", step.parallelism));
        }
        check_retry(&step.retry, &mut wrong);
    }
}

fn check_retry(retry: &Retry, wrong: &mut impl FnMut(&str, String)) {
    if !(1..=100).contains(&retry.max_attempts) {
        wrong("retry.max_attempts", format!("{}: 1 to 100", retry.max_attempts));
    }
    if !(1..=HOUR).contains(&retry.initial_backoff) {
        wrong("retry.initial_backoff", format!("{} ms: 1 ms to 1 h", retry.initial_backoff));
    }
    if !(retry.initial_backoff..=HOUR).contains(&retry.max_backoff) {
        wrong("retry.max_backoff", format!("{} ms: the initial one to 1 h", retry.max_backoff));
    }
    for (at, code) in retry.codes.iter().enumerate() {
        if !CODES.contains(&code.as_str()) {
            let problem = format!("`{}` is not a gRPC code, such as `UNAVAILABLE`", code.escape_debug());
            wrong(&format!("retry.codes[{at}]"), problem);
        }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(fits)
}
